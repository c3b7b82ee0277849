//! Reads what lies between known offsets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Polled, TopicLog};
use crate::data::{DeadLetter, Offsets, Record, RecordId};
use crate::error::{Error, Result};

/// Gives `each` the records between these offsets and the ends, those of a partition in order. `what` is read, for the error.
///
/// # Errors
/// That of `each`; Kafka's, or 69 if no record comes within `limit`.
pub fn read_between(
    log: &mut impl TopicLog,
    from: &Offsets,
    ends: &Offsets,
    limit: Duration,
    what: &str,
    mut each: impl FnMut(Record<'_>) -> Result<()>,
) -> Result<()> {
    let is_beyond = |partition, offset| ends.get(&partition).is_none_or(|&end| offset >= end);
    let mut open: BTreeSet<i32> = from.keys().copied().collect();
    if open.is_empty() {
        return Ok(());
    }
    log.read_from(from, ends)?;
    while !open.is_empty() {
        let (mut reached, mut outcome) = (None, Ok(()));
        let polled = log.poll(limit, &mut |record| {
            let Record { partition, offset, .. } = record;
            reached = is_beyond(partition, offset + 1).then_some(partition);
            if !is_beyond(partition, offset) {
                outcome = each(record);
            }
        })?;
        outcome?;
        match polled {
            Polled::Record => {}
            Polled::End(partition) => reached = Some(partition),
            Polled::Nothing => {
                return Err(Error::unavailable(
                    format!("cannot read {what} in partitions {open:?}"),
                    format!("no record came for {limit:?}"),
                    "check the brokers, and try again",
                ));
            }
        }
        if let Some(partition) = reached {
            open.remove(&partition);
        }
    }
    Ok(())
}

/// The records of these identities, as the dead letters that they are to become for these reasons, by partition and offset.
///
/// # Errors
/// Kafka's, or 69 if a record does not come within `limit`, or is gone.
pub fn read_again(
    log: &mut impl TopicLog,
    refused: Vec<(RecordId, String)>,
    limit: Duration,
) -> Result<Vec<DeadLetter>> {
    let mut wanted: BTreeMap<RecordId, String> = refused.into_iter().collect();
    let (mut from, mut until) = (Offsets::new(), Offsets::new());
    for &RecordId { partition, offset, .. } in wanted.keys() {
        from.entry(partition).or_insert(offset);
        until.insert(partition, offset + 1);
    }
    log.partitions()?;
    log.read_from(&from, &until)?;
    let place = |partition, offset| RecordId { partition, offset, timestamp_ms: i64::MAX };
    let mut letters = Vec::with_capacity(wanted.len());
    while !wanted.is_empty() {
        // Up to where the partition of what has come is read.
        let mut read_to = None;
        let polled = log.poll(limit, &mut |record| {
            let id = RecordId::of(&record);
            if let Some(reason) = wanted.remove(&id) {
                letters.push(DeadLetter::of(&record, reason));
            }
            read_to = Some((id.partition, id.offset));
        })?;
        if let Polled::End(partition) = polled {
            read_to = Some((partition, i64::MAX));
        }
        let missing = match read_to {
            Some((partition, offset)) => wanted.range(place(partition, i64::MIN)..=place(partition, offset)).next(),
            None => wanted.first_key_value(),
        };
        if let Some((RecordId { partition, offset, .. }, reason)) = missing {
            return Err(Error::unavailable(
                format!(
                    "cannot read the record at partition {partition} offset {offset} again, which the target refuses: {reason}"
                ),
                match polled {
                    Polled::Nothing => format!("no record came for {limit:?}"),
                    Polled::Record | Polled::End(_) => "the topic no longer holds it".into(),
                },
                "check the brokers and the topic's retention; the next run resumes here",
            ));
        }
    }
    letters.sort_by_key(|letter| (letter.partition, letter.offset));
    Ok(letters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ExitCode;
    use crate::ports::topic::{Committed, End};

    /// What each poll brings, in order.
    struct Script(Vec<(Polled, Option<(i32, i64)>)>);

    impl TopicLog for Script {
        fn partitions(&mut self) -> Result<Vec<i32>> {
            Ok(vec![0, 1])
        }

        fn ends(&mut self, _end: End) -> Result<Offsets> {
            Ok(Offsets::new())
        }

        fn starts(&mut self) -> Result<Offsets> {
            Ok(Offsets::new())
        }

        fn committed(&mut self) -> Result<BTreeMap<i32, Committed>> {
            Ok(BTreeMap::new())
        }

        fn is_distant(&self) -> bool {
            false
        }

        fn read_from(&mut self, from: &Offsets, until: &Offsets) -> Result<()> {
            assert_eq!((from, until), (&[(0, 3), (1, 5)].into(), &[(0, 8), (1, 6)].into()));
            Ok(())
        }

        fn poll(&mut self, _wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Polled> {
            let (polled, record) = self.0.remove(0);
            if let Some((partition, offset)) = record {
                let (value, timestamp_ms) = (Some(&b"v"[..]), offset * 10);
                sink(Record { partition, offset, timestamp_ms, key: None, value, headers: &|| b"h".to_vec() });
            }
            Ok(polled)
        }
    }

    /// Reads the refused records 3 and 7 of partition 0 and 5 of partition 1 again.
    fn read(script: &[(Polled, Option<(i32, i64)>)]) -> Result<Vec<DeadLetter>> {
        let refused = [(1, 5), (0, 7), (0, 3)].map(|(partition, offset)| {
            (RecordId { partition, offset, timestamp_ms: offset * 10 }, format!("{partition}.{offset}"))
        });
        read_again(&mut Script(script.to_vec()), refused.into(), Duration::from_secs(1))
    }

    #[test]
    fn refused_records_are_read_again_in_one_pass_with_what_makes_them_letters() {
        let record = |partition, offset| (Polled::Record, Some((partition, offset)));
        let letters =
            read(&[record(0, 3), record(0, 4), record(1, 5), record(1, 6), (Polled::End(1), None), record(0, 7)]);
        let found: Vec<_> = letters
            .unwrap()
            .into_iter()
            .map(|letter| (letter.partition, letter.offset, letter.reason, letter.headers))
            .collect();
        assert_eq!(
            found,
            [(0, 3, "0.3"), (0, 7, "0.7"), (1, 5, "1.5")].map(|(p, o, why)| (p, o, why.into(), b"h".to_vec()))
        );
    }

    #[test]
    fn a_refused_record_that_does_not_come_again_ends_the_run_with_its_place() {
        let record = |partition, offset| (Polled::Record, Some((partition, offset)));
        for (script, place, why) in [
            // Retention, or a deletion of records, has moved the start.
            (vec![record(1, 5), record(0, 4)], "partition 0 offset 3", "no longer holds it"),
            (vec![record(0, 3), (Polled::End(0), None)], "partition 0 offset 7", "no longer holds it"),
            (vec![record(0, 3), record(0, 7), (Polled::Nothing, None)], "partition 1 offset 5", "no record came"),
        ] {
            let error = read(&script).unwrap_err();
            assert_eq!(error.exit_code(), ExitCode::Unavailable);
            assert!(error.what().contains(place) && error.why().contains(why), "{error}");
        }
    }
}

//! Reads one record again. A record's own bytes are not kept once its row is encoded, and are wanted only where the server
//! refuses the row: then they go to the dead letters.
//!
//! It changes nothing: a crash here loses nothing. What retention has deleted meanwhile, the next attempt reports as lost.

use std::time::Duration;

use crate::clickhouse::RecordId;
use crate::error::{Error, Result};
use crate::kafka::{DeadLetter, Polled, TopicLog};

/// The record `id`, as the dead letter that it is to become for this reason.
///
/// # Errors
/// Kafka's, or 69 if the record does not come within `limit`, or is gone.
pub fn read_again(log: &mut impl TopicLog, id: RecordId, reason: &str, limit: Duration) -> Result<DeadLetter> {
    log.partitions()?;
    log.read_from(&[(id.partition, id.offset)].into(), &[(id.partition, id.offset + 1)].into())?;
    let mut found = None;
    let polled = log.poll(limit, &mut |record| {
        if RecordId::of(&record) == id {
            found = Some(DeadLetter::of(&record, reason.to_owned()));
        }
    })?;
    found.ok_or_else(|| {
        let RecordId { partition, offset, .. } = id;
        Error::unavailable(
            format!("cannot read the record at partition {partition} offset {offset} again, which the target refuses: {reason}"),
            match polled {
                Polled::Nothing => format!("no record came for {limit:?}"),
                Polled::Record | Polled::End(_) => "the topic no longer holds it".into(),
            },
            "check the brokers and the topic's retention; the next run goes on from here",
        )
    })
}

//! Decides where to begin, and what of an earlier run is to be finished first.
//!
//! An offset is trusted only with pg2ch's own signature, for just this target, and as long as the log is still the one it
//! was committed for. Anything else begins at the log's start, and has the target asked for all that it may hold.

use std::collections::BTreeMap;
use std::time::Duration;

use super::commit::Known;
use super::position::{Context, LastRecord, Position};
use crate::batch::Offsets;
use crate::clickhouse::Ranges;
use crate::error::{Error, Result};
use crate::kafka::{Committed, Polled, Record, TopicLog};
use crate::report::{ConsumeReport, Lost};

/// Where the leg begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Each partition's offset, and what is known there.
    pub known: BTreeMap<i32, Known>,
    /// INSERTs that were recorded and not confirmed: token → ranges that the log still has.
    pub intents: BTreeMap<String, Ranges>,
}

impl Start {
    /// Sorts the group's offsets into trusted ones and others.
    #[must_use]
    pub fn of(committed: &BTreeMap<i32, Committed>, starts: &Offsets, ends: &Offsets, context: Context<'_>) -> Self {
        let mut start = Self::default();
        for (&partition, &end) in ends {
            let first = starts.get(&partition).copied().unwrap_or(0);
            let trusted = committed.get(&partition).filter(|committed| committed.next <= end).and_then(|committed| {
                let position = Position::verify(&committed.metadata, context, partition, committed.next)?;
                // An end never comes back: an INSERT recorded beyond it was of a topic that has been made again.
                if position.intent.as_ref().is_some_and(|intent| intent.end > end) {
                    return None;
                }
                Some(Known { next: committed.next, position })
            });
            if trusted.is_none() && end > first {
                let why = if committed.contains_key(&partition) { "not pg2ch's for this target" } else { "missing" };
                log::info!(
                    "partition {partition}: the committed offset is {why}; beginning at {first} and asking the target"
                );
            }
            start.known.insert(partition, trusted.unwrap_or_else(|| untrusted(first, end)));
        }
        start.collect_intents(starts);
        start
    }

    fn collect_intents(&mut self, starts: &Offsets) {
        self.intents.clear();
        for (&partition, known) in &self.known {
            if let Some(intent) = &known.position.intent {
                let first = intent.start.max(starts.get(&partition).copied().unwrap_or(0));
                let ranges = self.intents.entry(intent.token.clone()).or_default();
                if first < intent.end {
                    ranges.insert(partition, (first, intent.end));
                }
            }
        }
    }

    /// Checks the last record below each offset: a topic that was deleted and made again
    /// has another one there, or none. What cannot be checked, because retention has deleted it, is trusted.
    ///
    /// # Errors
    /// Kafka's, or 69 if nothing comes in time.
    pub fn check_log(
        &mut self,
        log: &mut impl TopicLog,
        starts: &Offsets,
        ends: &Offsets,
        limit: Duration,
        report: &mut ConsumeReport,
    ) -> Result<()> {
        let mut wanted = Offsets::new();
        for (&partition, known) in &self.known {
            let first = starts.get(&partition).copied().unwrap_or(0);
            if let Some(last) = known.position.last
                && last.offset >= first
                && ends.contains_key(&partition)
            {
                wanted.insert(partition, last.offset);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        log.read_from(&wanted)?;
        while !wanted.is_empty() {
            let mut found = None;
            let polled = log.poll(limit, &mut |record| found = Some((record.partition, last_record(&record))))?;
            match polled {
                Polled::Record => {}
                Polled::End(partition) => {
                    if wanted.remove(&partition).is_some() {
                        self.compare(partition, None, starts, ends, report);
                    }
                }
                Polled::Nothing => {
                    return Err(Error::unavailable(
                        format!("cannot check the records before the offsets of partitions {:?}", wanted.keys()),
                        format!("no record came for {limit:?}"),
                        "check the brokers; the next run goes on from here",
                    ));
                }
            }
            if let Some((partition, record)) = found
                && wanted.remove(&partition).is_some()
            {
                self.compare(partition, Some(record), starts, ends, report);
            }
        }
        self.collect_intents(starts);
        Ok(())
    }

    /// `found` is the first record at or behind the place of the last one that was read.
    fn compare(
        &mut self,
        partition: i32,
        found: Option<LastRecord>,
        starts: &Offsets,
        ends: &Offsets,
        report: &mut ConsumeReport,
    ) {
        let Some(known) = self.known.get_mut(&partition) else { return };
        let Some(last) = known.position.last else { return };
        if found == Some(last) {
            return;
        }
        let first = starts.get(&partition).copied().unwrap_or(0);
        // A compacted topic loses records for later ones of their keys; it neither gains any nor loses its very last one.
        if found.is_some_and(|found| found.offset >= known.next) {
            log::info!(
                "partition {partition}: the record at offset {}, the last that was read, is gone: compacted, or the topic was \
                 made again; beginning at {first} and asking the target",
                last.offset
            );
        } else {
            log::error!(
                "partition {partition}: the record at offset {} is not the one that was read before: the topic was deleted and \
                 made again; beginning at {first}. Records that were not copied before are lost",
                last.offset
            );
            report.topic_recreated = true;
        }
        *known = untrusted(first, ends.get(&partition).copied().unwrap_or(first));
    }

    /// Reports what retention has deleted between the offsets and the log's first ones, and goes on behind it.
    pub fn skip_lost(&mut self, starts: &Offsets, report: &mut ConsumeReport) {
        for (&partition, known) in &mut self.known {
            let first = starts.get(&partition).copied().unwrap_or(0);
            if known.next < first {
                log::error!(
                    "partition {partition}: retention has deleted offsets {} to {first} ({} offsets) before they were copied",
                    known.next,
                    first - known.next
                );
                report.lost.push(Lost { partition, from: known.next, to: first });
                known.next = first;
            }
        }
    }

    /// Whether there is nothing to copy and nothing to finish.
    #[must_use]
    pub fn is_done(&self, ends: &Offsets) -> bool {
        self.intents.is_empty()
            && self.known.iter().all(|(partition, known)| ends.get(partition).is_none_or(|&end| known.next >= end))
    }

    /// Whether the target has to be asked for anything.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.known.values().any(|known| known.next < known.position.ask_below)
    }

    /// When the offsets were committed last, in seconds since 1970; 0 if some never were.
    #[must_use]
    pub fn oldest_commit(&self) -> u64 {
        self.known.values().map(|known| known.position.at).min().unwrap_or(0)
    }
}

fn last_record(record: &Record<'_>) -> LastRecord {
    LastRecord { offset: record.offset, timestamp_ms: record.timestamp_ms }
}

fn untrusted(first: i64, end: i64) -> Known {
    Known { next: first, position: Position { ask_below: end, ..Position::default() } }
}

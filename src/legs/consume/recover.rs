//! Decides where to begin, and what of an earlier run is to be finished first.
//!
//! An offset is trusted only with pg2ch's own signature, for just this target, and as long as the log is still the one it
//! was committed for. Anything else begins at the log's start, and has the target asked for all that it may hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::commit::Known;
use super::position::{Context, LastRecord, Position};
use crate::data::{NextOffset, Offsets, Ranges};
use crate::error::{Error, Result};
use crate::mutant;
use crate::ports::topic::{Committed, Polled, TopicLog};
use crate::report::{ConsumeReport, Lost};

/// Where the leg begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Each partition's offset, and what is known there.
    pub known: BTreeMap<i32, Known>,
    /// INSERTs that were recorded and not confirmed, in the order in which they were: token, and ranges that the log still has.
    pub intents: Vec<(String, Ranges)>,
    /// Partitions whose log is not the one that was read before; `true` where it cannot be a compacted one either.
    foreign: BTreeMap<i32, bool>,
    /// Offsets of ours that lie beyond a partition's end.
    beyond: Offsets,
    /// Whether a log was another one: what was committed for the one before goes with the first commit, for every partition at
    /// once. Beside a place that is not ours, the next run would trust no recorded INSERT either.
    pub begins_again: bool,
}

impl Start {
    /// Sorts the group's offsets into trusted ones and others.
    #[must_use]
    pub fn of(committed: &BTreeMap<i32, Committed>, starts: &Offsets, ends: &Offsets, context: Context<'_>) -> Self {
        let mut start = Self::default();
        for (&partition, &end) in ends {
            let first = starts.get(&partition).copied().unwrap_or(0);
            let ours = committed.get(&partition).and_then(|committed| {
                let position = Position::verify(&committed.metadata, context, partition, committed.next)?;
                Some(Known { next: committed.next, position })
            });
            let known = match ours {
                Some(known) if known.reaches() <= end => known,
                // An end never goes back.
                Some(known) => {
                    start.beyond.insert(partition, known.reaches());
                    start.foreign.insert(partition, true);
                    untrusted(first, end)
                }
                None => untrusted(first, end),
            };
            start.known.insert(partition, known);
        }
        start.collect_intents(starts);
        start
    }

    /// The offset of ours that lies beyond a partition's end, if there is one.
    #[must_use]
    pub fn beyond(&self, partition: i32) -> Option<NextOffset> {
        self.beyond.get(&partition).copied()
    }

    /// How many offsets lie between the partitions' positions and their ends: as many records, but for the markers of
    /// transactions.
    #[must_use]
    pub fn behind(&self, ends: &Offsets) -> u64 {
        let behind =
            |(partition, known): (&i32, &Known)| ends.get(partition).map_or(0, |end| (end - known.next).max(0));
        self.known.iter().map(behind).sum::<i64>().unsigned_abs()
    }

    fn collect_intents(&mut self, starts: &Offsets) {
        let mut found: BTreeMap<&str, (usize, Ranges)> = BTreeMap::new();
        for (&partition, known) in &self.known {
            for (place, intent) in known.position.intents.iter().enumerate() {
                let first = intent.start.max(starts.get(&partition).copied().unwrap_or(0));
                // The second in one partition may be the first in another.
                let (order, ranges) = found.entry(&intent.token).or_default();
                *order = place.max(*order);
                if first < intent.end {
                    ranges.insert(partition, (first, intent.end));
                }
            }
        }
        let mut intents: Vec<_> = found.into_iter().collect();
        intents.sort_by_key(|(_, (order, _))| *order);
        if mutant::is("recorded inserts are finished in any order") {
            intents.reverse();
        }
        self.intents = intents.into_iter().map(|(token, (_, ranges))| (token.to_owned(), ranges)).collect();
    }

    /// Checks the last record below each offset: a topic that was recreated, or restored, has another one there, or none; or
    /// it has some where there was none. What cannot be checked, because retention has deleted it, is trusted, unless
    /// another partition shows that the topic is another one.
    ///
    /// # Errors
    /// Kafka's, or 69 if nothing comes in time.
    pub fn check_log(&mut self, log: &mut impl TopicLog, starts: &Offsets, limit: Duration) -> Result<()> {
        let mut wanted: BTreeMap<i32, (i64, Option<LastRecord>)> = BTreeMap::new();
        for (&partition, known) in &self.known {
            let first = starts.get(&partition).copied().unwrap_or(0);
            match known.position.last {
                Some(last) if last.offset >= first => wanted.insert(partition, (last.offset, Some(last))),
                None if known.position.begun.max(first) < known.next => {
                    wanted.insert(partition, (known.position.begun.max(first), None))
                }
                _ => None,
            };
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let checked: BTreeSet<i32> = wanted.keys().copied().collect();
        let from = wanted.iter().map(|(&partition, (at, _))| (partition, *at)).collect();
        log.read_from(&from, &self.known.iter().map(|(&partition, known)| (partition, known.next)).collect())?;
        while !wanted.is_empty() {
            let mut found = None;
            let polled = log.poll(limit, &mut |record| {
                let last = LastRecord { offset: record.offset, timestamp_ms: record.timestamp_ms };
                found = Some((record.partition, last));
            })?;
            let (partition, record) = match (polled, found) {
                (Polled::End(partition), _) => (partition, None),
                (_, Some((partition, record))) => (partition, Some(record)),
                _ => {
                    return Err(Error::unavailable(
                        format!("cannot check the records before the offsets of partitions {:?}", wanted.keys()),
                        format!("no record came for {limit:?}"),
                        "check the brokers; the next run resumes here",
                    ));
                }
            };
            let Some((_, last)) = wanted.remove(&partition) else { continue };
            let next = self.known.get(&partition).map_or(0, |known| known.next);
            let gained = record.is_some_and(|record| record.offset < next);
            if record != last && (gained || last.is_some()) {
                // A compacted topic loses records for later ones of their keys; it gains none, and keeps its very last one.
                self.foreign.insert(partition, gained || record.is_none());
            }
        }
        if self.foreign.values().any(|is_certain| *is_certain) {
            for &partition in self.known.keys().filter(|partition| !checked.contains(partition)) {
                self.foreign.entry(partition).or_insert(true);
            }
        }
        Ok(())
    }

    /// Whether a log was found to be another one than that which was read before.
    #[must_use]
    pub fn has_foreign_offsets(&self) -> bool {
        !self.foreign.is_empty()
    }

    /// Begins again in the logs that are others, and says so.
    pub fn begin_again(&mut self, starts: &Offsets, ends: &Offsets, report: &mut ConsumeReport) {
        self.begins_again = self.has_foreign_offsets();
        for (partition, is_certain) in std::mem::take(&mut self.foreign) {
            let first = starts.get(&partition).copied().unwrap_or(0);
            if is_certain {
                log::error!(
                    "partition {partition} no longer holds the records read before: the topic was recreated, or Kafka was restored from \
                     an older copy. Restarting at offset {first} and checking what ClickHouse already has. Records that were \
                     not copied before are lost"
                );
                report.topic_recreated = true;
            } else {
                log::info!(
                    "partition {partition}: the last record read no longer exists: it was compacted, or the topic \
                     was recreated, or Kafka was restored from an older copy. Restarting at offset {first} and checking what ClickHouse already has"
                );
            }
            self.known.insert(partition, untrusted(first, ends.get(&partition).copied().unwrap_or(first)));
        }
        self.collect_intents(starts);
    }

    /// Reports what retention has deleted between the offsets and the log's first ones, and resumes after it.
    pub fn skip_lost(&mut self, starts: &Offsets, report: &mut ConsumeReport) {
        for (&partition, known) in &mut self.known {
            let first = starts.get(&partition).copied().unwrap_or(0);
            if known.next < first {
                log::error!(
                    "partition {partition}: retention has deleted offsets {} to {first} ({} offsets) before they were copied",
                    known.next,
                    first - known.next
                );
                let lost = Lost { partition, from: known.next, to: first };
                // A second attempt of the same run finds it again.
                if !report.lost.contains(&lost) {
                    report.lost.push(lost);
                }
                known.next = first;
            }
            known.position.intents.retain(|intent| intent.end > first);
        }
    }

    /// From where on nothing of each partition was ever sent to the target, by the offsets that are trusted.
    #[must_use]
    pub fn unsent(&self, ends: &Offsets) -> Offsets {
        let unsent = self.known.iter().map(|(&partition, known)| (partition, known.unsent()));
        unsent.filter(|(partition, unsent)| ends.get(partition).is_some_and(|end| unsent < end)).collect()
    }

    /// Has the target queried for all that is to be read of partitions of which it holds more than the offsets say: Kafka has lost the
    /// group's last commits, with a broker's disk or by a backup that was restored.
    pub fn distrust(&mut self, partitions: &BTreeSet<i32>, ends: &Offsets) {
        if mutant::is("lost commits of offsets are not noticed") {
            return;
        }
        for (partition, known) in self.known.iter_mut().filter(|(partition, _)| partitions.contains(partition)) {
            log::warn!(
                "partition {partition}: the target holds records beyond the group's offset {}: Kafka has lost later ones, or was \
                 restored. Checking what the target already has",
                known.unsent()
            );
            known.position.ask_below = ends.get(partition).copied().unwrap_or(known.next);
        }
    }

    /// Whether, for some partition, no offset of ours shows what was copied.
    #[must_use]
    pub fn is_untrusted(&self) -> bool {
        self.known.values().any(|known| known.position.at == 0 && known.position.ask_below > known.next)
    }

    /// The partitions whose offset is not trusted and whose log does not begin at 0, with where it does.
    #[must_use]
    pub fn trimmed(&self) -> Offsets {
        let is_trimmed =
            |(_, known): &(&i32, &Known)| known.position.at == 0 && known.next > 0 && known.position.ask_below > 0;
        self.known.iter().filter(is_trimmed).map(|(&partition, known)| (partition, known.next)).collect()
    }

    /// Reports what retention has deleted between the last record that the target holds of such a partition and its log's start:
    /// without an offset nothing else shows it.
    pub fn report_trimmed(&self, trimmed: &Offsets, highest: &BTreeMap<i32, i64>, report: &mut ConsumeReport) {
        for (&partition, &first) in trimmed {
            let from = highest.get(&partition).map_or(0, |offset| offset + 1);
            if from >= first {
                continue;
            }
            log::error!(
                "partition {partition}: the topic begins at offset {first}, and the target holds no record from offset {from} on: \
                 retention has deleted offsets {from} to {first} ({} offsets), and no trusted offset says that they were copied\n\
                 hint: compare with `pg2ch verify`, whose --repair sends again what is missing",
                first - from
            );
            let lost = Lost { partition, from, to: first };
            if !report.lost.contains(&lost) {
                report.lost.push(lost);
            }
        }
    }

    /// Whether anything shows that others have been at work, or that what they did is to be asked for.
    #[must_use]
    pub fn is_unclear(&self) -> bool {
        !self.intents.is_empty() || self.has_foreign_offsets() || self.must_query()
    }

    /// Whether there is nothing to copy and nothing to finish.
    #[must_use]
    pub fn is_done(&self, ends: &Offsets) -> bool {
        self.intents.is_empty()
            && self.known.iter().all(|(partition, known)| ends.get(partition).is_none_or(|&end| known.next >= end))
    }

    /// Logs where the leg begins for want of an offset that can be trusted.
    pub fn log_untrusted(&self) {
        for (partition, known) in
            self.known.iter().filter(|(_, known)| known.position.at == 0 && known.position.ask_below > known.next)
        {
            log::info!(
                "partition {partition}: pg2ch has committed no offset for this target; starting at {} and checking what it \
                 already has",
                known.next
            );
        }
    }

    /// Whether the target has to be asked for anything.
    #[must_use]
    pub fn must_query(&self) -> bool {
        self.known.values().any(|known| known.next < known.position.ask_below)
    }

    /// When the offsets were committed last, in seconds since 1970; 0 if some never were.
    #[must_use]
    pub fn oldest_commit(&self) -> u64 {
        self.known.values().map(|known| known.position.at).min().unwrap_or(0)
    }
}

fn untrusted(first: i64, end: i64) -> Known {
    Known { next: first, position: Position { ask_below: end, ..Position::default() } }
}

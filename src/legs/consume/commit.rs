//! Commits offsets, with what makes them trustworthy, and records INSERTs before they are sent.
//!
//! One transaction serves two purposes where it can: it commits a batch and records the next one's intent. If the process
//! dies before it, the last recorded INSERT is repeated under its token and drops out as known; if it dies after, the
//! new one is sent, or repeated.

use std::collections::{BTreeMap, BTreeSet};

use super::position::{Context, Intent, LastRecord, Position};
use crate::crash;
use crate::data::{DeadLetter, NextOffset, Offsets, Ranges};
use crate::error::Result;
use crate::mutant;
use crate::ports::topic::{Fence, OffsetCommit};

/// Where a partition stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Everything below is in the target, or a dead letter.
    pub next: NextOffset,
    /// What is kept beside it.
    pub position: Position,
}

impl Known {
    /// The offset up to which the log must have been read for this to be known.
    #[must_use]
    pub fn reaches(&self) -> NextOffset {
        self.position.intents.iter().fold(self.next, |reaches, intent| reaches.max(intent.end))
    }

    /// The offset from which on nothing was sent to the target, as far as this shows.
    #[must_use]
    pub fn unsent(&self) -> NextOffset {
        self.reaches().max(self.position.ask_below)
    }
}

/// The group's offsets, as this run moves them.
pub struct Committer<F> {
    fence: F,
    group: String,
    topic: String,
    target: String,
    known: BTreeMap<i32, Known>,
    changed: BTreeSet<i32>,
    dead: Vec<DeadLetter>,
    has_committed: bool,
    now: fn() -> u64,
}

impl<F: Fence> Committer<F> {
    /// Makes it on a producer that has fenced its predecessors, from what is `known` at the start; `now` is the clock in
    /// seconds since 1970.
    pub fn new(fence: F, context: Context<'_>, known: BTreeMap<i32, Known>, now: fn() -> u64) -> Self {
        Self {
            fence,
            group: context.group.to_owned(),
            topic: context.topic.to_owned(),
            target: context.target.to_owned(),
            known,
            changed: BTreeSet::new(),
            dead: Vec::new(),
            has_committed: false,
            now,
        }
    }

    /// Whether anything was committed.
    #[must_use]
    pub const fn has_committed(&self) -> bool {
        self.has_committed
    }

    /// The producer.
    pub fn into_fence(self) -> F {
        self.fence
    }

    /// Where each partition is to be read from.
    #[must_use]
    pub fn next(&self) -> Offsets {
        self.known.iter().map(|(&partition, known)| (partition, known.next)).collect()
    }

    /// The part of `ranges` for which the target has to be asked.
    #[must_use]
    pub fn to_query(&self, ranges: &Ranges) -> Ranges {
        ranges
            .iter()
            .filter(|(partition, (start, _))| {
                self.known.get(partition).is_some_and(|known| *start < known.position.ask_below)
            })
            .map(|(&partition, &range)| (partition, range))
            .collect()
    }

    /// Records, durably, that the rows of `ranges` are about to be inserted under `token`; commits what was dealt with
    /// before.
    ///
    /// # Errors
    /// Kafka's.
    pub fn intend(&mut self, ranges: &Ranges, token: &str) -> Result<()> {
        if mutant::is("inserts are not recorded") {
            return Ok(());
        }
        for (&partition, &(start, end)) in ranges {
            let intent = Intent { start, end, token: token.to_owned(), refused: false };
            self.known.entry(partition).or_default().position.intend(intent);
            self.changed.insert(partition);
        }
        crash::point("intend.before");
        self.flush()?;
        crash::point("intend.after");
        Ok(())
    }

    /// Notes that a recorded INSERT was refused though the target holds its rows: a run that finds it open must know.
    pub fn note_refused(&mut self, ranges: &Ranges) {
        for (partition, &(start, end)) in ranges {
            let intents = self.known.get_mut(partition).into_iter().flat_map(|known| &mut known.position.intents);
            for intent in intents.filter(|intent| intent.overlaps(start, end)) {
                intent.refused = true;
                self.changed.insert(*partition);
            }
        }
    }

    /// Whether that was noted of one of the recorded INSERTs of these ranges.
    #[must_use]
    pub fn was_refused(&self, ranges: &Ranges) -> bool {
        ranges.iter().any(|(partition, &(start, end))| {
            let is_refused = |intent: &Intent| intent.refused && intent.overlaps(start, end);
            self.known.get(partition).is_some_and(|known| known.position.intents.iter().any(is_refused))
        })
    }

    /// Forgets recorded INSERTs that were refused as a whole.
    pub fn forget_intents(&mut self, ranges: &Ranges) {
        for (partition, &(start, end)) in ranges {
            if let Some(known) = self.known.get_mut(partition)
                && known.position.forget_intents(start, end)
            {
                self.changed.insert(*partition);
            }
        }
    }

    /// Has the target asked for `ranges` from now on: an INSERT of some of it may have been stored.
    pub fn distrust(&mut self, ranges: &Ranges) {
        for (partition, &(_, end)) in ranges {
            if let Some(known) = self.known.get_mut(partition) {
                known.position.ask_below = known.position.ask_below.max(end);
                self.changed.insert(*partition);
            }
        }
    }

    /// Notes that everything in `ranges` is in the target, or in `dead`. It is committed with the next intent, or by
    /// [`flush`](Self::flush).
    pub fn advance(&mut self, ranges: &Ranges, last: &BTreeMap<i32, LastRecord>, dead: Vec<DeadLetter>) {
        for (&partition, &(_, end)) in ranges {
            let known = self.known.entry(partition).or_default();
            known.next = end;
            known.position.forget_intents(0, end);
            known.position.last = last.get(&partition).copied().or(known.position.last);
            if known.position.ask_below <= end {
                known.position.ask_below = 0;
            }
            self.changed.insert(partition);
        }
        self.dead.extend(dead);
    }

    /// Commits all offsets again, moved or not: the broker forgets those that are not, a week after their last commit.
    pub fn refresh(&mut self) {
        self.changed.extend(self.known.keys());
    }

    /// Commits the offsets of recorded INSERTs as they are. That succeeds only if no run has fenced this one since they were read; one
    /// that has may have recorded them, and takes their tokens for unused.
    ///
    /// # Errors
    /// 75 if a later run has begun; Kafka's.
    pub fn require_last(&mut self) -> Result<()> {
        if mutant::is("a run that is shut out finishes inserts of a later one") {
            return Ok(());
        }
        let recorded = self.known.iter().filter(|(_, known)| !known.position.intents.is_empty());
        self.changed.extend(recorded.map(|(partition, _)| *partition));
        self.flush()
    }

    /// Commits what has changed.
    ///
    /// # Errors
    /// Kafka's.
    pub fn flush(&mut self) -> Result<()> {
        if self.changed.is_empty() && self.dead.is_empty() {
            return Ok(());
        }
        let at = (self.now)();
        let context = Context { group: &self.group, topic: &self.topic, target: &self.target };
        let mut commits = Vec::with_capacity(self.changed.len());
        for &partition in &self.changed {
            if let Some(known) = self.known.get_mut(&partition) {
                known.position.at = at;
                let metadata = known.position.sign(context, partition, known.next);
                commits.push(OffsetCommit { partition, next: known.next, metadata });
            }
        }
        self.fence.commit(&commits, &self.dead)?;
        self.has_committed = true;
        self.changed.clear();
        self.dead.clear();
        Ok(())
    }
}

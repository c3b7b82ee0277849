//! Flags the rows whose records are committed, and moves the checkpoint with them.
//!
//! Flags and checkpoint move in one transaction. If the process dies before it commits, recovery finds the records behind
//! the checkpoint and flags the rows; if it dies after, there is nothing to repair. A row that cannot be flagged though
//! unchanged is held in the same transaction, so the checkpoint passes its record all the same.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::held::{require_few, settle};
use super::recover::Recovery;
use crate::data::{NextOffset, Offsets, RecordPosition, SentBatch, raise};
use crate::error::Result;
use crate::legs::pace::Pace;
use crate::mutant;
use crate::ports::source::{Checkpoint, Ledger, ReplicationLag};
use crate::report::{Lost, ProduceReport};
use crate::shutdown::Shutdown;

/// How often rows that are locked at the end of the leg are tried again.
const RETRY: Duration = Duration::from_millis(50);

/// The last stage of the produce leg.
pub struct Flagger<'a, L> {
    ledger: &'a mut L,
    pace: Pace,
    /// The next offset after everything that was sent, by partition.
    ends: Offsets,
    /// Where each partition ended before this leg sent anything.
    begun_at: Offsets,
    /// What was sent to a topic that is no more, if it was deleted meanwhile.
    gone: Option<Vec<Lost>>,
    timestamp_floor: i64,
    flagged: u64,
    changed: u64,
    locked: usize,
    taken_back: Vec<String>,
    /// How long PostgreSQL has taken for it since that was asked last.
    time: Duration,
    /// Whether a row of this leg is among those that are locked.
    has_new_locked: bool,
    /// The keys of rows that this leg has sent and not flagged, where it may meet them again.
    met: Option<HashSet<Vec<u8>>>,
}

impl<'a, L: Ledger> Flagger<'a, L> {
    /// Makes the stage, on what recovery has found. Whether rows come in passes, which may meet a row again.
    pub fn new(ledger: &'a mut L, recovery: &Recovery, pace: Pace, in_passes: bool) -> Self {
        let Recovery { checkpoint, held } = recovery;
        Self {
            ledger,
            pace,
            ends: Offsets::new(),
            begun_at: checkpoint.offsets.clone(),
            gone: None,
            timestamp_floor: checkpoint.timestamp_floor,
            flagged: 0,
            changed: 0,
            locked: held.locked(),
            taken_back: held.taken_back.clone(),
            time: Duration::ZERO,
            has_new_locked: false,
            met: in_passes.then(HashSet::new),
        }
    }

    /// Flags a batch, in as many transactions as it takes for none to be long.
    ///
    /// # Errors
    /// PostgreSQL's; 69 if too many rows cannot be flagged; 75 if another run has taken over.
    pub fn step(&mut self, batch: &SentBatch) -> Result<()> {
        if self.is_another_log(batch) {
            // Whatever is known of its records is of those that are gone.
            self.ledger.begin_records(None)?;
        }
        self.timestamp_floor = self.timestamp_floor.max(batch.rows.timestamp_ms);
        let mut sent = batch.sent.clone();
        if sent.len() > self.pace.size() {
            // What is flagged so far must be, in each partition, all that lies below its end.
            sent.sort_unstable_by_key(|(_, at)| (at.offset, at.partition));
        }
        let mut rest = sent.as_slice();
        let begun = Instant::now();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.pace.size().min(rest.len()));
            rest = later;
            for (_, at) in now {
                raise(&mut self.ends, at.partition, at.offset + 1);
            }
            let indices: Vec<usize> = now.iter().map(|(index, _)| *index).collect();
            let to = Checkpoint { offsets: self.ends.clone(), timestamp_floor: self.timestamp_floor };
            let Self { ledger, pace, .. } = self;
            let flagged = pace.time(indices.len(), || ledger.flag(&batch.rows, &indices, &to))?;
            self.flagged += flagged.flagged as u64;
            self.changed += flagged.changed.len() as u64;
            if let Some(met) = &mut self.met {
                let unflagged = flagged.unflagged().chain(flagged.changed.iter().copied());
                met.extend(unflagged.map(|index| batch.rows.row(index).key.to_vec()));
            }
            self.locked += flagged.locked.len();
            self.has_new_locked |= !flagged.locked.is_empty();
            let keys = flagged.taken_back.iter().map(|&index| batch.rows.row(index).key);
            self.taken_back.extend(keys.map(|key| String::from_utf8_lossy(key).into_owned()));
            require_few(self.locked + self.taken_back.len())?;
        }
        self.time += begun.elapsed();
        Ok(())
    }

    /// How long PostgreSQL has taken for flags since this was asked last.
    pub fn take_time(&mut self) -> Duration {
        std::mem::take(&mut self.time)
    }

    /// How far the replica is that is furthest behind.
    ///
    /// # Errors
    /// As those of [`Ledger::replication_lag`].
    pub fn replication_lag(&mut self) -> Result<Option<ReplicationLag>> {
        self.ledger.replication_lag()
    }

    /// Offsets that go back are those of another log: the topic was recreated, or Kafka restored, while this leg sent into it.
    fn is_another_log(&mut self, batch: &SentBatch) -> bool {
        if mutant::is("offsets that go back are not noticed") {
            return false;
        }
        let end_of = |partition: i32| self.ends.get(&partition).or_else(|| self.begun_at.get(&partition)).copied();
        let goes_back = |at: &RecordPosition| end_of(at.partition).is_some_and(|end| at.offset < end);
        if !batch.sent.iter().any(|(_, at)| goes_back(at)) {
            return false;
        }
        let begun_at = std::mem::take(&mut self.begun_at);
        let start = |partition| -> NextOffset { begun_at.get(&partition).copied().unwrap_or(0) };
        let lost = std::mem::take(&mut self.ends).into_iter();
        let lost: Vec<Lost> = lost.map(|(partition, to)| Lost { partition, from: start(partition), to }).collect();
        log::error!(
            "acknowledged offsets went back: the topic was recreated, or Kafka restored from an older copy, while this run sent into it; what was in it \
             and is not copied is lost, with what this run had sent: {lost:?}\n\
             hint: end what deletes the topic, then run `pg2ch verify --repair --confirm`, which lets the next run send again \
             what the target lacks"
        );
        self.gone.get_or_insert_default().extend(lost);
        true
    }

    /// Tries again to flag what this leg has found locked, for a short time.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn finish(&mut self, row_lock: Duration, shutdown: &Shutdown) -> Result<()> {
        let until = Instant::now() + row_lock;
        while self.has_new_locked {
            let held = settle(self.pace, shutdown, |after, rows| self.ledger.settle_held(after, rows))?;
            self.flagged += held.flagged;
            self.locked = held.locked();
            self.taken_back = held.taken_back;
            if self.locked == 0 || Instant::now() + RETRY >= until || shutdown.wait(RETRY) {
                break;
            }
        }
        Ok(())
    }

    /// The checkpoint behind everything that was sent; `None` if nothing was.
    #[must_use]
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let (offsets, timestamp_floor) = (self.ends.clone(), self.timestamp_floor);
        (!offsets.is_empty()).then_some(Checkpoint { offsets, timestamp_floor })
    }

    /// The keys of rows that were sent and not flagged since this was asked last.
    pub fn take_met(&mut self) -> HashSet<Vec<u8>> {
        self.met.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// How many rows it has flagged.
    #[must_use]
    pub const fn flagged(&self) -> u64 {
        self.flagged
    }

    /// Adds what was done to the report.
    pub fn add_to(&mut self, report: &mut ProduceReport) {
        report.rows_flagged += self.flagged;
        report.rows_changed += self.changed;
        report.rows_locked = self.locked as u64;
        report.taken_back = std::mem::take(&mut self.taken_back);
        if let Some(lost) = self.gone.take() {
            report.topic_recreated = true;
            report.sent_lost.extend(lost);
            report.delivered.clear();
        }
        for (&partition, &next) in &self.ends {
            raise(&mut report.delivered, partition, next);
        }
    }
}

//! Flags the rows whose records are committed, and moves the checkpoint with them.
//!
//! Flags and checkpoint move in one transaction. If the process dies before it commits, recovery finds the records behind
//! the checkpoint and flags the rows; if it dies after, there is nothing to repair. A row that cannot be flagged though
//! unchanged is held in the same transaction, so the checkpoint passes its record all the same.

use std::time::{Duration, Instant};

use super::held::{HeldRows, require_few, settle};
use super::pace::Pace;
use crate::data::{Offsets, SentBatch, raise};
use crate::error::Result;
use crate::ports::source::{Checkpoint, Ledger};
use crate::report::ProduceReport;
use crate::shutdown::Shutdown;

/// How often rows that are locked at the end of the leg are tried again.
const RETRY: Duration = Duration::from_millis(50);

/// The last stage of the produce leg.
pub struct Flagger<'a, L> {
    ledger: &'a mut L,
    pace: Pace,
    /// The next offset after everything that was sent, by partition.
    ends: Offsets,
    timestamp_floor: i64,
    flagged: u64,
    changed: u64,
    locked: usize,
    taken_back: Vec<String>,
    /// Whether a row of this leg is among those that are locked.
    has_new_locked: bool,
}

impl<'a, L: Ledger> Flagger<'a, L> {
    /// Makes the stage; `held` is what recovery could not flag.
    pub fn new(ledger: &'a mut L, held: &HeldRows, timestamp_floor: i64, pace: Pace) -> Self {
        Self {
            ledger,
            pace,
            ends: Offsets::new(),
            timestamp_floor,
            flagged: 0,
            changed: 0,
            locked: held.locked(),
            taken_back: held.taken_back.clone(),
            has_new_locked: false,
        }
    }

    /// Flags a batch, in as many transactions as it takes for none to be long.
    ///
    /// # Errors
    /// PostgreSQL's; 69 if too many rows cannot be flagged; 75 if another run has taken over.
    pub fn step(&mut self, batch: &SentBatch) -> Result<()> {
        self.timestamp_floor = self.timestamp_floor.max(batch.rows.timestamp_ms);
        let mut sent = batch.sent.clone();
        if sent.len() > self.pace.rows() {
            // What is flagged so far must be, in each partition, all that lies below its end.
            sent.sort_unstable_by_key(|(_, at)| (at.offset, at.partition));
        }
        let mut rest = sent.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.pace.rows().min(rest.len()));
            rest = later;
            for (_, at) in now {
                raise(&mut self.ends, at.partition, at.offset + 1);
            }
            let indices: Vec<usize> = now.iter().map(|(index, _)| *index).collect();
            let to = Checkpoint { offsets: self.ends.clone(), timestamp_floor: self.timestamp_floor };
            let Self { ledger, pace, .. } = self;
            let flagged = pace.time(indices.len(), || ledger.flag(&batch.rows, &indices, &to))?;
            self.flagged += flagged.flagged as u64;
            self.changed += flagged.changed as u64;
            self.locked += flagged.locked.len();
            self.has_new_locked |= !flagged.locked.is_empty();
            let keys = flagged.taken_back.iter().map(|&index| batch.rows.row(index).key);
            self.taken_back.extend(keys.map(|key| String::from_utf8_lossy(key).into_owned()));
            require_few(self.locked + self.taken_back.len())?;
        }
        Ok(())
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
    pub fn checkpoint(&self) -> Option<Checkpoint> {
        let (offsets, timestamp_floor) = (self.ends.clone(), self.timestamp_floor);
        (!offsets.is_empty()).then_some(Checkpoint { offsets, timestamp_floor })
    }

    /// How many rows it has flagged.
    pub const fn flagged(&self) -> u64 {
        self.flagged
    }

    /// Adds what was done to the report.
    pub fn tell(&mut self, report: &mut ProduceReport) {
        report.rows_flagged += self.flagged;
        report.rows_changed += self.changed;
        report.rows_locked = self.locked as u64;
        report.taken_back = std::mem::take(&mut self.taken_back);
        for (&partition, &next) in &self.ends {
            raise(&mut report.delivered, partition, next);
        }
    }
}

//! Flags the rows whose records are committed, and moves the checkpoint with them.
//!
//! Flags and checkpoint move in one transaction. If the process dies before it commits, recovery finds the records behind
//! the checkpoint and flags the rows; if it dies after, there is nothing to repair. The checkpoint never passes a record
//! whose row is unflagged though unchanged: such a row (locked by an application) would be taken for unsent.

use crate::data::{Offsets, RecordPosition, RowBatch, SentBatch, raise};
use crate::error::Result;
use crate::ports::source::{Checkpoint, Flagged, Ledger};
use crate::report::ProduceReport;

/// How many locked rows are kept for another try at the end of the leg. The next run's recovery takes care of more.
const MAX_PENDING: usize = 1_000;

/// The last stage of the produce leg.
pub struct Flagger<'a, L> {
    ledger: &'a mut L,
    /// The next offset after everything that was sent, by partition.
    ends: Offsets,
    /// Where the checkpoint has to stop, by partition: the first record of a row that this run cannot flag any more. The
    /// rows that are tried again at the end are not among them.
    caps: Offsets,
    timestamp_floor: i64,
    pending: RowBatch,
    pending_at: Vec<RecordPosition>,
    flagged: u64,
    changed: u64,
    locked: u64,
    taken_back: Vec<String>,
}

impl<'a, L: Ledger> Flagger<'a, L> {
    /// Makes the stage; `caps` are what recovery left unflagged.
    pub fn new(ledger: &'a mut L, caps: Offsets, timestamp_floor: i64) -> Self {
        Self {
            ledger,
            ends: Offsets::new(),
            caps,
            timestamp_floor,
            pending: RowBatch::default(),
            pending_at: Vec::new(),
            flagged: 0,
            changed: 0,
            locked: 0,
            taken_back: Vec::new(),
        }
    }

    /// Flags a batch.
    ///
    /// # Errors
    /// PostgreSQL's; 75 if another run has taken over.
    pub fn step(&mut self, batch: &SentBatch) -> Result<()> {
        self.timestamp_floor = self.timestamp_floor.max(batch.rows.timestamp_ms);
        for (&partition, &next) in &batch.ends() {
            raise(&mut self.ends, partition, next);
        }
        let indices: Vec<usize> = batch.sent.iter().map(|(index, _)| *index).collect();
        let place = |index: usize| {
            batch.sent.binary_search_by_key(&index, |(index, _)| *index).ok().map(|found| batch.sent[found].1)
        };
        let (ends, timestamp_floor) = (batch.ends(), self.timestamp_floor);
        let mut now = self.caps.clone();
        self.pending_at.iter().for_each(|&at| lower(&mut now, at));
        let flagged = self.ledger.flag(&batch.rows, &indices, &|flagged| {
            let mut caps = now.clone();
            flagged.unflagged().filter_map(place).for_each(|at| lower(&mut caps, at));
            Some(Checkpoint { offsets: below(&ends, &caps), timestamp_floor })
        })?;
        self.count(&flagged, &batch.rows);
        flagged.taken_back.iter().filter_map(|&index| place(index)).for_each(|at| lower(&mut self.caps, at));
        for (index, at) in flagged.locked.iter().filter_map(|&index| Some((index, place(index)?))) {
            if self.pending_at.len() < MAX_PENDING {
                let row = batch.rows.row(index);
                self.pending.push(row.version, row.key, row.value);
                self.pending_at.push(at);
            } else {
                lower(&mut self.caps, at);
            }
        }
        Ok(())
    }

    /// Tries once more to flag what was locked.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn finish(&mut self) -> Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (rows, at) = (std::mem::take(&mut self.pending), std::mem::take(&mut self.pending_at));
        let indices: Vec<usize> = (0..rows.len()).collect();
        let (ends, caps, timestamp_floor) = (&self.ends, &self.caps, self.timestamp_floor);
        let flagged = self.ledger.flag(&rows, &indices, &|flagged| {
            let mut caps = caps.clone();
            flagged.unflagged().for_each(|index| lower(&mut caps, at[index]));
            Some(Checkpoint { offsets: below(ends, &caps), timestamp_floor })
        })?;
        flagged.unflagged().for_each(|index| lower(&mut self.caps, at[index]));
        self.locked -= rows.len() as u64;
        self.count(&flagged, &rows);
        Ok(())
    }

    fn count(&mut self, flagged: &Flagged, batch: &RowBatch) {
        self.flagged += flagged.flagged as u64;
        self.changed += flagged.changed as u64;
        self.locked += flagged.locked.len() as u64;
        let keys = flagged.taken_back.iter().map(|&index| String::from_utf8_lossy(batch.row(index).key).into_owned());
        self.taken_back.extend(keys);
    }

    /// The checkpoint behind everything, if everything was sent and flagged.
    pub fn settled(&self) -> Option<Checkpoint> {
        let settled = self.caps.is_empty() && self.pending.is_empty() && !self.ends.is_empty();
        settled.then(|| Checkpoint { offsets: self.ends.clone(), timestamp_floor: self.timestamp_floor })
    }

    /// How many rows it has flagged.
    pub const fn flagged(&self) -> u64 {
        self.flagged
    }

    /// Adds what was done to the report.
    pub fn tell(&mut self, report: &mut ProduceReport) {
        report.rows_flagged += self.flagged;
        report.rows_changed += self.changed;
        report.rows_locked += self.locked;
        report.taken_back.append(&mut self.taken_back);
        for (&partition, &next) in &self.ends {
            raise(&mut report.delivered, partition, next);
        }
    }
}

/// Lowers a partition's cap to the record at `at`.
fn lower(caps: &mut Offsets, at: RecordPosition) {
    if crate::mutant::is("the checkpoint passes a locked row") {
        return;
    }
    caps.entry(at.partition).and_modify(|cap| *cap = (*cap).min(at.offset)).or_insert(at.offset);
}

/// Offsets, none above its cap.
fn below(offsets: &Offsets, caps: &Offsets) -> Offsets {
    offsets
        .iter()
        .map(|(&partition, &next)| (partition, caps.get(&partition).map_or(next, |&cap| next.min(cap))))
        .collect()
}

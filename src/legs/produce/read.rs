//! Reads unsent rows, batch by batch, until none are left or the run is to finish.
//!
//! Before: the window is recovered, so every unsent row is to be sent but those held. It changes nothing; a crash here
//! loses nothing.

use std::collections::HashSet;

use crate::crash;
use crate::data::RowBatch;
use crate::error::Result;
use crate::mutant;
use crate::ports::limits::Budget;
use crate::ports::source::UnsentRows;

/// The first stage of the produce leg.
pub struct Reader<U> {
    rows: U,
    budget: Budget,
    batch_rows: usize,
    /// Keys of rows that were delivered and could not be flagged: they must not go out twice.
    held: HashSet<Vec<u8>>,
    rows_read: u64,
    at_end: bool,
}

impl<U: UnsentRows> Reader<U> {
    /// Makes the stage; `held` are the keys to leave out.
    pub fn new(rows: U, budget: Budget, batch_rows: usize, held: HashSet<Vec<u8>>) -> Self {
        Self { rows, budget, batch_rows, held, rows_read: 0, at_end: false }
    }

    /// The next batch that has rows to send; `None` at the end.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn step(&mut self) -> Result<Option<RowBatch>> {
        loop {
            let rows = self.budget.allows(self.batch_rows);
            if rows == 0 {
                return Ok(None);
            }
            let batch = self.rows.next_batch(rows)?;
            if batch.is_empty() {
                self.at_end = true;
                return Ok(None);
            }
            let batch = self.without_held(batch);
            self.budget.spend(batch.len());
            self.rows_read += batch.len() as u64;
            if !batch.is_empty() {
                crash::point("read.after");
                return Ok(Some(batch));
            }
        }
    }

    fn without_held(&self, batch: RowBatch) -> RowBatch {
        if self.held.is_empty()
            || mutant::is("held rows are read")
            || batch.iter().all(|row| !self.held.contains(row.key))
        {
            return batch;
        }
        let mut rest = RowBatch::default();
        rest.timestamp_ms = batch.timestamp_ms;
        for row in batch.iter().filter(|row| !self.held.contains(row.key)) {
            rest.push(&row);
        }
        rest
    }

    /// Gives rows back that were read and are not sent; whether there is more to read now, because of them.
    pub fn may_read_more(&mut self, not_sent: usize) -> bool {
        if not_sent == 0 || self.at_end || self.budget.allows(1) > 0 {
            return false;
        }
        self.budget.give_back(not_sent);
        self.budget.allows(1) > 0
    }

    /// How many rows it has passed on.
    pub const fn rows_read(&self) -> u64 {
        self.rows_read
    }

    /// Whether it has come to the end, and not to a limit.
    pub const fn is_complete(&self) -> bool {
        self.at_end
    }
}

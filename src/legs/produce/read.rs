//! Reads unsent rows, batch by batch, until none are left or the run is to finish.
//!
//! Before: the window is recovered, so every unsent row is to be sent but those held. It changes nothing; a crash here
//! loses nothing.
//!
//! Rows that have an order come in passes. A pass keeps a snapshot, which holds back vacuum and every ALTER of the table, so it
//! ends after a while, or when nobody takes its rows. The next begins at the lowest row again, once all stages have dealt with
//! this one: it would meet unflagged what is still in hand. Where a pause is due, the pass ends before it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::batch_size::BatchSize;
use super::pauses::Pauses;
use crate::crash;
use crate::data::RowBatch;
use crate::error::{Error, Result};
use crate::mutant;
use crate::ports::limits::Budget;
use crate::ports::progress::Progress;
use crate::ports::source::{LeftOut, ReplicationLag, UnsentRows};
use crate::report::UnreadableRow;
use crate::threads::Maker;

/// How many batches a pass has, and how long it takes from its first row on.
const PASS_BATCHES: usize = 100;
const PASS_TIME: Duration = Duration::from_secs(10);

/// How many rows a leg leaves out, at most.
const MOST_LEFT_OUT: usize = 100_000;

/// The first stage of the produce leg.
pub struct Reader<U> {
    rows: U,
    budget: Budget,
    size: BatchSize,
    pauses: Pauses,
    /// What was read is to be dealt with, because a pause is due.
    is_cut: bool,
    /// Rows that were delivered and could not be flagged, or were met in this leg: they must not go out, or not again.
    left_out: LeftOut,
    rows_read: u64,
    at_end: bool,
    /// Nothing more comes until all stages have dealt with what was read.
    is_read: Arc<AtomicBool>,
    /// What was read before the first step, and whether something was.
    ahead: Option<RowBatch>,
    has_ahead: bool,
    passes: Option<Passes>,
}

/// Where the reader of an order stands.
#[derive(Debug, Default)]
struct Passes {
    /// How many rows were unsent when the first pass had ended before its end, less those that were read since: so that a busy
    /// table cannot keep a run alive.
    left: Option<u64>,
    /// All of those are read: if the pass does not come to its end, rows come faster than they are sent.
    is_last: bool,
    is_open: bool,
    is_over: bool,
    batches: usize,
    begun: Option<Instant>,
    failed: Option<Error>,
}

impl Passes {
    /// Whether the last pass is read, and its rows are not flagged yet.
    fn waits_for_flags(&mut self) -> bool {
        if mutant::is("a pass begins before the one before is flagged") {
            self.is_over = false;
        }
        self.is_over
    }

    fn is_long_enough(&self) -> bool {
        self.batches >= PASS_BATCHES || self.begun.is_some_and(|begun| begun.elapsed() >= PASS_TIME)
    }
}

impl<U: UnsentRows> Reader<U> {
    /// Makes the stage; `held` are the keys to leave out. Rows that have an order come in passes.
    pub fn new(
        rows: U,
        budget: Budget,
        size: BatchSize,
        held: HashSet<Vec<u8>>,
        in_passes: bool,
        pauses: Pauses,
    ) -> Self {
        let left_out = LeftOut { keys: held, ..LeftOut::default() };
        let passes = in_passes.then(Passes::default);
        Self {
            rows,
            budget,
            size,
            pauses,
            is_cut: false,
            left_out,
            rows_read: 0,
            at_end: false,
            is_read: Arc::default(),
            ahead: None,
            has_ahead: false,
            passes,
        }
    }

    /// Pauses as long as is due, when nothing is in hand: `flagging` is the time that flags took, `lag` asks for the replicas'.
    ///
    /// # Errors
    /// Those of `lag`.
    pub fn pause(
        &mut self,
        progress: &Progress,
        flagging: Duration,
        lag: impl FnMut() -> Result<Option<ReplicationLag>>,
    ) -> Result<()> {
        self.is_cut = false;
        if self.has_ahead {
            return Ok(());
        }
        self.pauses.pause(&self.budget, progress, flagging, lag)
    }

    /// Makes the first step, before the other stages begin; whether it has brought rows, and these are all.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn read_ahead(&mut self) -> Result<bool> {
        if !self.has_ahead {
            self.ahead = self.step()?;
            self.has_ahead = true;
        }
        Ok(self.ahead.is_some() && self.rows.is_at_end())
    }

    /// The same beside what comes before a leg reads, unless a pause has to come first.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn read_early(&mut self) -> Result<()> {
        if self.pauses.come_first() { Ok(()) } else { self.read_ahead().map(drop) }
    }

    /// The next batch that has rows to send; `None` at the end, and at the end of a pass.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn step(&mut self) -> Result<Option<RowBatch>> {
        if !self.is_in_pass()? {
            return Ok(None);
        }
        loop {
            let rows = self.pauses.allows(self.budget.allows(self.size.rows()));
            if rows == 0 {
                self.end_pass()?;
                return Ok(None);
            }
            self.rows.limit_bytes(self.size.bytes());
            let begun = Instant::now();
            let batch = self.rows.next_batch(rows)?;
            if batch.is_empty() {
                self.at_end = !self.rows.is_cut();
                self.end_pass()?;
                return Ok(None);
            }
            self.size.took_reading(&batch, begun.elapsed());
            let batch = self.without_held(batch);
            self.pauses.took(batch.len(), begun.elapsed());
            self.budget.spend(batch.len());
            self.rows_read += batch.len() as u64;
            if let Some(passes) = &mut self.passes {
                passes.left = passes.left.map(|left| left.saturating_sub(batch.len() as u64));
                passes.batches += 1;
                passes.begun.get_or_insert_with(Instant::now);
            }
            if !batch.is_empty() {
                crash::point("read.after");
                return Ok(Some(batch));
            }
        }
    }

    /// Begins a pass, where there are some and none is under way; whether there is something to read from.
    fn is_in_pass(&mut self) -> Result<bool> {
        let is_due = self.pauses.is_due();
        let Some(passes) = &mut self.passes else {
            self.is_cut = is_due;
            return Ok(!is_due);
        };
        if let Some(error) = passes.failed.take() {
            return Err(error);
        }
        if passes.is_open && (passes.is_long_enough() || is_due) {
            self.at_end = self.rows.is_at_end();
            self.end_pass()?;
            return Ok(false);
        }
        if passes.waits_for_flags() {
            return Ok(false);
        }
        if !passes.is_open {
            passes.is_open = true;
            self.rows.begin_pass(&self.left_out)?;
        }
        Ok(true)
    }

    fn end_pass(&mut self) -> Result<()> {
        match &mut self.passes {
            Some(passes) if passes.is_open => {
                (passes.is_open, passes.is_over) = (false, true);
                self.rows.end_pass()?;
                crash::point("pass.end.after");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn without_held(&self, batch: RowBatch) -> RowBatch {
        let held = &self.left_out.keys;
        // A pass leaves them out itself.
        if self.passes.is_some() || held.is_empty() || batch.iter().all(|row| !held.contains(row.key)) {
            return batch;
        }
        let mut rest = RowBatch::default();
        rest.timestamp_ms = batch.timestamp_ms;
        for row in batch.iter().filter(|row| !held.contains(row.key)) {
            rest.push(&row);
        }
        rest
    }

    /// Goes on when all that was read is dealt with, without the rows that were met and are not flagged; whether there is more
    /// to read now. Rows that were not sent use up no limit: otherwise no run would ever get past them.
    ///
    /// # Errors
    /// Any PostgreSQL error.
    pub fn goes_on(&mut self, not_sent: usize, met: LeftOut) -> Result<bool> {
        let had_room = self.budget.allows(1) > 0;
        self.budget.give_back(not_sent);
        let Some(passes) = &mut self.passes else {
            let has_room_again = not_sent > 0 && !had_room;
            return Ok((self.is_cut || has_room_again) && !self.at_end && self.budget.allows(1) > 0);
        };
        self.left_out.keys.extend(met.keys);
        self.left_out.message_keys.extend(met.message_keys);
        if self.at_end || passes.is_last || self.left_out.keys.len() > MOST_LEFT_OUT || self.budget.allows(1) == 0 {
            return Ok(false);
        }
        let left = if passes.left.is_some() { passes.left } else { self.rows.count()? };
        self.passes = Some(Passes { left, is_last: left == Some(0), ..Passes::default() });
        Ok(true)
    }

    /// The rows that cannot be read, since this was asked last.
    pub fn take_unreadable(&mut self) -> Vec<UnreadableRow> {
        let rows = self.rows.take_unreadable();
        for UnreadableRow { key, reason, stops } in &rows {
            let behind =
                stops.as_ref().map_or_else(String::new, |stops| format!(", and rows behind it of key {stops} wait"));
            log::error!(
                "row {key} cannot be read: {reason}; it stays unsent{behind}\n\
                 hint: correct or shorten it, leave the column out with `exclude`, or set its flag to TRUE"
            );
        }
        rows
    }

    /// Whether nothing more comes for now: the other stages may look, too.
    pub fn is_read(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_read)
    }

    /// How large its batches are from now on, where a `trip` to Kafka takes this long, and they go to this many `partitions`.
    pub fn size_at(&mut self, trip: Duration, partitions: usize) -> BatchSize {
        self.size.reach(trip, partitions);
        self.size.clone()
    }

    /// The rows' source, for the next run.
    pub fn into_rows(self) -> U {
        self.rows
    }

    /// How many rows it has passed on.
    pub const fn rows_read(&self) -> u64 {
        self.rows_read
    }

    /// Its pauses.
    pub const fn pauses(&self) -> &Pauses {
        &self.pauses
    }

    /// Whether it has come to the end, and not to a limit.
    pub const fn is_complete(&self) -> bool {
        self.at_end
    }
}

impl<U: UnsentRows + Send> Maker<RowBatch> for &mut Reader<U> {
    fn make(&mut self) -> Result<Option<RowBatch>> {
        let made = if std::mem::take(&mut self.has_ahead) { Ok(self.ahead.take()) } else { self.step() };
        self.is_read.store(!matches!(made, Ok(Some(_))), Ordering::Relaxed);
        made
    }

    /// Whoever waits for the table waits for its snapshot, and the flagger may wait for them.
    fn is_kept_waiting(&mut self) {
        let ended = self.end_pass();
        if let (Err(error), Some(passes)) = (ended, &mut self.passes) {
            passes.failed = Some(error);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, load};
    use crate::data::{Headers, Row, Version};
    use crate::ports::limits::Limits;
    use crate::shutdown::Shutdown;

    /// A table that is written faster than it is read, or one of `left` rows, of which a pass gives some.
    struct Rows {
        left: usize,
        grows: bool,
    }

    impl UnsentRows for Rows {
        fn next_batch(&mut self, max_rows: usize) -> Result<RowBatch> {
            let mut batch = RowBatch::default();
            for _ in 0..self.left.min(max_rows) {
                let (version, headers) = (Version::default(), Headers::of(&[]));
                batch.push(&Row { version, key: b"k", record_key: None, value: b"v", headers });
            }
            self.left -= if self.grows { 0 } else { batch.len() };
            Ok(batch)
        }

        fn count(&mut self) -> Result<Option<u64>> {
            Ok(Some(self.left as u64))
        }
    }

    /// How many rows a leg reads, and whether it says that these are all.
    fn read(rows: Rows) -> (u64, bool) {
        let budget = Budget::new(&Limits::default(), Instant::now(), &Shutdown::default());
        let mut config = load(&Flags { config: Some("/dev/null".into()), ..Flags::default() }).unwrap();
        config.batch.rows = 1;
        let pauses = Pauses::new(&config.postgres, &config.tables[0]);
        let size = BatchSize::new(&config.batch, &config.timeouts);
        let mut reader = Reader::new(rows, budget, size, HashSet::new(), true, pauses);
        loop {
            while reader.step().unwrap().is_some() {}
            if !reader.goes_on(0, LeftOut::default()).unwrap() {
                return (reader.rows_read(), reader.is_complete());
            }
        }
    }

    #[test]
    fn a_leg_reads_in_passes_what_was_unsent_and_says_whether_these_are_all() {
        assert_eq!(read(Rows { left: 350, grows: false }), (350, true));
        // The last pass ends at its limit behind the last row.
        assert_eq!(read(Rows { left: 200, grows: false }), (200, true));
        // 100 before the count, the 50 that it says with as many as come beside them, and another pass that finds no end.
        assert_eq!(read(Rows { left: 50, grows: true }), (300, false));
    }
}

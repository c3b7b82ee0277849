//! The source: a table's unsent rows, and the ledger in which they are flagged.

use std::collections::HashSet;
use std::time::Duration;

use super::record_types::RecordTypes;
pub use super::source_column::{AsKey, SourceColumn};
use crate::data::{Offsets, RowBatch};
use crate::error::Result;
use crate::report::UnreadableRow;

/// How many bytes the first batch of a leg holds at most: what slow links take in time, too.
pub const FIRST_BYTES: usize = 256 << 10;

/// The unsent rows of one run, in key order: the reader's side of PostgreSQL.
pub trait UnsentRows {
    /// The next batch, at most `max_rows` rows; empty at the end.
    ///
    /// The end is the highest key that was unsent when this was made, so that a busy table cannot keep a run alive.
    ///
    /// # Errors
    /// PostgreSQL's, sorted by exit code.
    fn next_batch(&mut self, max_rows: usize) -> Result<RowBatch>;

    /// From now on no batch holds more bytes, unless it is one row.
    fn limit_bytes(&mut self, bytes: usize) {
        let _ = bytes;
    }

    /// The rows that cannot be read, since this was asked last: they are passed over. Where rows have an order, the pass ends at one.
    fn take_unreadable(&mut self) -> Vec<UnreadableRow> {
        Vec::new()
    }

    /// Begins a pass, where rows have an order: what is committed now and not left out, from the lowest on. The rows that come
    /// until the batch that is empty, or the [`end`](Self::end_pass), are those of this moment.
    ///
    /// # Errors
    /// Any PostgreSQL error.
    fn begin_pass(&mut self, left_out: &LeftOut) -> Result<()> {
        let _ = left_out;
        Ok(())
    }

    /// Whether the pass ends before its end: the batch that is empty is not the last of its rows.
    fn is_cut(&self) -> bool {
        false
    }

    /// How many rows are unsent, asked between two passes; `None` if they are too many to be counted.
    ///
    /// # Errors
    /// Any PostgreSQL error.
    fn count(&mut self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Whether it, or the pass, is known to have no more rows, although no batch was empty yet.
    fn is_at_end(&self) -> bool {
        false
    }

    /// Ends the pass, with what was not taken of it.
    ///
    /// # Errors
    /// Any PostgreSQL error.
    fn end_pass(&mut self) -> Result<()> {
        Ok(())
    }
}

impl<U: UnsentRows + ?Sized> UnsentRows for Box<U> {
    fn next_batch(&mut self, max_rows: usize) -> Result<RowBatch> {
        (**self).next_batch(max_rows)
    }

    fn limit_bytes(&mut self, bytes: usize) {
        (**self).limit_bytes(bytes);
    }

    fn take_unreadable(&mut self) -> Vec<UnreadableRow> {
        (**self).take_unreadable()
    }

    fn begin_pass(&mut self, left_out: &LeftOut) -> Result<()> {
        (**self).begin_pass(left_out)
    }

    fn is_cut(&self) -> bool {
        (**self).is_cut()
    }

    fn is_at_end(&self) -> bool {
        (**self).is_at_end()
    }

    fn count(&mut self) -> Result<Option<u64>> {
        (**self).count()
    }

    fn end_pass(&mut self) -> Result<()> {
        (**self).end_pass()
    }
}

/// What a leg reads no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Keys of rows that are held, or that were met in this leg and are not flagged.
    pub keys: HashSet<Vec<u8>>,
    /// Keys of records of which one was refused: those behind it wait.
    pub message_keys: HashSet<Vec<u8>>,
}

/// Up to which offsets the records of a source are flagged, or their rows held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything below is flagged or held. A partition that is missing stands at 0.
    pub offsets: Offsets,
    /// No record of an earlier run has a timestamp above this, in milliseconds.
    pub timestamp_floor: i64,
}

/// What became of the rows of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flagged {
    /// Rows that are flagged now.
    pub flagged: usize,
    /// Indices (into the batch) of rows that an application changed or deleted meanwhile: they keep their flag and go out again.
    pub changed: Vec<usize>,
    /// Indices (into the batch) of rows that were locked: they are held now.
    pub locked: Vec<usize>,
    /// Indices of rows whose flag a trigger took back, or a trigger or constraint refused: they are held now.
    pub taken_back: Vec<usize>,
}

impl Flagged {
    /// The indices of the rows that were sent and are not flagged, though unchanged.
    pub fn unflagged(&self) -> impl Iterator<Item = usize> {
        self.locked.iter().chain(&self.taken_back).copied()
    }
}

/// A record found in the recovery window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowRecord {
    /// Partition.
    pub partition: i32,
    /// The record's own offset.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
    /// Its key; `None` for another producer's record without one.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` for a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers: the bytes of [`Headers`](crate::data::Headers).
    pub headers: Vec<u8>,
}

/// A replica that is behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationLag {
    /// Its name, as it connects.
    pub replica: String,
    /// How many bytes of WAL it has not replayed.
    pub bytes: u64,
}

/// A page of rows that were delivered, after an attempt to flag them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Rows flagged.
    pub flagged: u64,
    /// Rows that stay held.
    pub held: Vec<Held>,
    /// Behind which entry the next page begins; `None` after the last page.
    pub next: Option<i64>,
}

/// A row that was delivered and cannot be flagged now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The row's key.
    pub key: Vec<u8>,
    /// Whether a trigger took the flag back, or it was refused; otherwise the row was locked.
    pub taken_back: bool,
}

/// The one session that holds a source's lock, flags its rows and moves its checkpoint.
///
/// Everything that writes checks the epoch that [`take_epoch`](Ledger::take_epoch) took, so that a run whose lock was
/// lost and taken by another one cannot flag.
pub trait Ledger {
    /// Takes the source's lock, waiting up to `wait` for another run to end; `false` if this run was asked to finish
    /// while it waited.
    ///
    /// # Errors
    /// 75, naming the holder.
    fn lock(&mut self, wait: Duration) -> Result<bool>;

    /// The columns that records hold; none if that is not known.
    fn source_columns(&self) -> &[SourceColumn] {
        &[]
    }

    /// The types of the columns in records, as far as the last look at the [`checkpoint`](Self::checkpoint) has shown.
    fn record_types(&self) -> RecordTypes {
        RecordTypes::default()
    }

    /// Keeps that records are made of the present columns from these offsets on, or all of them, where the topic's log is another
    /// one: durably, before the first is sent. Writes nothing where that is known.
    ///
    /// # Errors
    /// PostgreSQL's; 75 if another run has taken an epoch since.
    fn begin_records(&mut self, from: Option<&Offsets>) -> Result<()> {
        let _ = from;
        Ok(())
    }

    /// Reads the checkpoint. Once an epoch is taken and the writer fenced, this is also the proof that no later run has begun
    /// before: one that begins now shuts this run out.
    ///
    /// # Errors
    /// 78 if another source feeds the same topic; 75 if another run has taken an epoch since this one did.
    fn checkpoint(&mut self) -> Result<Checkpoint>;

    /// The highest unsent key, its columns as text; `None` if every row is sent. Where rows have an order,
    /// any unsent one.
    ///
    /// # Errors
    /// PostgreSQL's.
    fn highest_unsent_key(&mut self) -> Result<Option<Vec<String>>>;

    /// Takes the next epoch. When this returns, the checkpoint's row is durable, and no transaction of an earlier epoch
    /// can commit any more.
    ///
    /// # Errors
    /// PostgreSQL's.
    fn take_epoch(&mut self) -> Result<()>;

    /// Whether no other run has begun since an earlier one of this process took its epoch through this very session: the
    /// [`checkpoint`](Self::checkpoint), as it was read last, still bears it.
    fn still_has_epoch(&self) -> bool {
        false
    }

    /// Goes on under that epoch, in place of taking the next one.
    ///
    /// # Errors
    /// PostgreSQL's.
    fn resume(&mut self) -> Result<()> {
        self.take_epoch()
    }

    /// The run has ended well: the next one of this process may go on under its epoch. Nothing of ours lies above the checkpoint.
    fn keep_epoch(&mut self) {}

    /// It may not.
    fn forget_epoch(&mut self) {}

    /// Moves the checkpoint past the markers of this run's transactions. This run does not need it. If it fails, the next one finds
    /// them above the checkpoint, and does not go on under this epoch.
    fn move_checkpoint_for_next(&mut self, to: &Checkpoint) {
        if let Err(error) = self.move_checkpoint(to) {
            log::debug!("{error}");
            self.forget_epoch();
        }
    }

    /// Whether rows are held, as far as the last look at the [`checkpoint`](Self::checkpoint) has shown.
    fn has_held(&self) -> bool;

    /// Flags the rows at `indices` of `batch` that are still the version that was read, holds those that are locked or whose
    /// flag a trigger takes back, and moves the checkpoint, in one transaction.
    ///
    /// # Errors
    /// PostgreSQL's; 75 if another run has taken an epoch since.
    fn flag(&mut self, batch: &RowBatch, indices: &[usize], checkpoint: &Checkpoint) -> Result<Flagged>;

    /// Adds records of the recovery window, in log order. Only the last record of each key counts.
    ///
    /// # Errors
    /// PostgreSQL's.
    fn add_to_window(&mut self, records: &[WindowRecord]) -> Result<()>;

    /// Flags the unflagged rows whose last record in the window is the one that they make now, in the order of these records:
    /// at most `max_rows` of those after entry `after`. In the same transaction it holds those that are locked, or whose
    /// flag a trigger takes back, drops older entries of all these keys, and moves the checkpoint past the records.
    ///
    /// A key's place is that of its last record. So no record above the checkpoint speaks for a row that was flagged here,
    /// should its flag be set back before the next run.
    ///
    /// # Errors
    /// PostgreSQL's; 75 if another run has taken an epoch since.
    fn flag_window(&mut self, after: i64, max_rows: usize, timestamp_floor: i64) -> Result<Settled>;

    /// Flags held rows, at most `max_rows` of those behind entry `after`, and deletes their entries in the same transaction,
    /// together with entries whose row has changed, is flagged or is gone.
    ///
    /// # Errors
    /// PostgreSQL's; 75 if another run has taken an epoch since.
    fn settle_held(&mut self, after: i64, max_rows: usize) -> Result<Settled>;

    /// How far the replica is that is furthest behind; `None` if no replica is connected.
    ///
    /// # Errors
    /// 77 if the role may not see it; any PostgreSQL error.
    fn replication_lag(&mut self) -> Result<Option<ReplicationLag>> {
        Ok(None)
    }

    /// Moves the checkpoint alone, as a re-created topic or a finished run asks for. It may go back.
    ///
    /// # Errors
    /// PostgreSQL's; 75 if another run has taken an epoch since.
    fn move_checkpoint(&mut self, to: &Checkpoint) -> Result<()>;
}

/// How much there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Estimate {
    /// Rows, or records.
    pub number: u64,
    /// Whether they were counted.
    pub exact: bool,
}

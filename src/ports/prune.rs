//! What `pg2ch prune` asks of the three servers, and what it changes.

use crate::error::Result;

/// Whether a record of a row's key may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// None does.
    No,
    /// One is not copied yet.
    InTopic,
    /// One is a pending dead letter, and newer than what the target shows.
    AsLetter,
}

/// The newest version that the target holds of a row's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Whether it equals the row in every column that is sent. Of several versions with its timestamp, all have to.
    pub equals: bool,
    /// Its record's timestamp, in milliseconds since 1970, and offset.
    pub place: (i64, i64),
    /// How long before the row was read the version was, in milliseconds.
    pub for_ms: i64,
}

/// The rows of one table that are flagged and old, and what is known of them elsewhere.
pub trait OldRows {
    /// A row as it was read: with its version.
    type Row;

    /// The next rows, at most `most`, in the order of their age; none at the end. What is old does not change meanwhile.
    ///
    /// # Errors
    /// Any PostgreSQL error.
    fn page(&mut self, most: usize) -> Result<Vec<Self::Row>>;

    /// Reads the topic up to an end that is taken now, and the dead letters.
    ///
    /// # Errors
    /// 69 if a foreign transaction keeps the end undecided; any Kafka or ClickHouse error.
    fn read_topic(&mut self) -> Result<()>;

    /// What [`read_topic`](Self::read_topic) has found of a row's key, of which the target shows this.
    fn waits(&self, row: &Self::Row, shown: Option<Shown>) -> Waits;

    /// What the target shows of each of some rows; `None` where it does not have the key.
    ///
    /// # Errors
    /// Any ClickHouse error.
    fn shown(&mut self, rows: &[Self::Row]) -> Result<Vec<Option<Shown>>>;

    /// Records, durably, up to where rows may be deleted. The limit is never lowered.
    ///
    /// # Errors
    /// Any PostgreSQL error.
    fn record_limit(&mut self) -> Result<()>;

    /// Deletes those of some rows that are still flagged, old, and the version that was read; returns how many. One that an
    /// application has locked is left alone.
    ///
    /// # Errors
    /// 78 if one is still there afterwards: nothing is deleted then. Any PostgreSQL error.
    fn delete(&mut self, rows: &[&Self::Row]) -> Result<u64>;

    /// Counts what a dry run does not delete.
    fn pass_over(&mut self, rows: &[&Self::Row]);
}

//! What pg2ch asks of Kafka, and the one place that knows which client answers.
//!
//! The legs see two traits: [`TopicLog`] reads a topic and the group's offsets; [`Fence`] is a transactional producer,
//! through which everything goes that must not happen twice. [`client`] implements both with librdkafka.

pub mod acl;
pub mod admin;
pub mod client;
pub mod explain;
mod letter;
mod log;
mod writer;

pub use self::letter::{Letter, PolledLetter};
pub use self::log::KafkaLog;
pub use self::writer::{KafkaWriter, OffsetsOf};

use std::collections::BTreeMap;
use std::time::Duration;

use crate::batch::{NextOffset, Offsets, RecordPosition, RowBatch};
use crate::error::Result;

/// Which end of a partition is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The last stable offset: below it every transaction is decided. What committed readers can reach.
    Stable,
    /// The high watermark: everything that was written, decided or not.
    Written,
}

/// A record as it lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Partition.
    pub partition: i32,
    /// Its own offset.
    pub offset: i64,
    /// Milliseconds since 1970; -1 if it has none.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

/// What a poll brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// A record, which was given to the sink.
    Record,
    /// The stable end of this partition, for now: not below the offset up to which it is read.
    End(i32),
    /// Nothing within the time.
    Nothing,
}

/// An offset as a consumer group keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub next: NextOffset,
    /// The text that was committed with it.
    pub metadata: String,
}

/// Reads one topic, committed records only, and what a group knows about it.
pub trait TopicLog {
    /// The topic's partitions, ascending. Never empty.
    ///
    /// # Errors
    /// 78 if there is no such topic; Kafka's.
    fn partitions(&mut self) -> Result<Vec<i32>>;

    /// The end of each partition.
    ///
    /// # Errors
    /// Kafka's.
    fn ends(&mut self, end: End) -> Result<Offsets>;

    /// The first offset that each partition still has.
    ///
    /// # Errors
    /// Kafka's.
    fn starts(&mut self) -> Result<Offsets>;

    /// The group's offsets; partitions without one are missing.
    ///
    /// # Errors
    /// Kafka's.
    fn committed(&mut self) -> Result<BTreeMap<i32, Committed>>;

    /// The same at once, as they were before any transaction that is still open: what a dead run has left open stays so until
    /// a fence aborts it, or for a minute.
    ///
    /// # Errors
    /// Kafka's.
    fn committed_before(&mut self) -> Result<BTreeMap<i32, Committed>> {
        self.committed()
    }

    /// Reads these partitions, from these offsets on, until it is called again. `until` are ends that each of them is known to
    /// have: a broker that does not know of them yet is waited for.
    ///
    /// # Errors
    /// Kafka's.
    fn read_from(&mut self, from: &Offsets, until: &Offsets) -> Result<()>;

    /// Waits for the next record, or the end of a partition. Records of a partition come in order.
    ///
    /// # Errors
    /// Kafka's.
    fn poll(&mut self, wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Polled>;
}

/// What became of a transaction of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It was committed; the records' places, in the order of the indices.
    Committed(Vec<RecordPosition>),
    /// It was aborted because of the size of some of these records (indices of the batch). The broker blames a whole
    /// batch of its own, not the record.
    TooLarge(Vec<usize>),
    /// Without transactions: these were delivered, and those were not, because of the size of some of them.
    Partly {
        /// Indices of the batch, with the records' places, ascending.
        committed: Vec<(usize, RecordPosition)>,
        /// Indices of the batch, ascending.
        too_large: Vec<usize>,
    },
}

/// An offset to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetCommit {
    /// Partition.
    pub partition: i32,
    /// The next offset to read.
    pub next: NextOffset,
    /// The text to keep with it.
    pub metadata: String,
}

/// A record that the target refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Partition.
    pub partition: i32,
    /// Its own offset.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Why it was refused.
    pub reason: String,
}

impl DeadLetter {
    /// What becomes of `record`, refused for this reason.
    #[must_use]
    pub fn of(record: &Record<'_>, reason: String) -> Self {
        Self {
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            reason,
        }
    }
}

/// A transactional producer: it shuts out its predecessors, and whatever it does happens wholly or not at all.
pub trait Fence {
    /// Shuts out every earlier producer of this name, and aborts what it left open. Nothing of a dead run can land
    /// after this returns.
    ///
    /// # Errors
    /// Kafka's.
    fn fence(&mut self) -> Result<()>;

    /// Sends the rows at `indices` of `batch` as one transaction, in order.
    ///
    /// # Errors
    /// Kafka's; 75 if a later run has fenced this one. What became of the transaction is then unknown, and found out by
    /// the next recovery.
    fn send(&mut self, batch: &RowBatch, indices: &[usize]) -> Result<Sent>;

    /// Commits offsets and dead letters, in one transaction.
    ///
    /// # Errors
    /// As [`send`](Fence::send).
    fn commit(&mut self, offsets: &[OffsetCommit], dead: &[DeadLetter]) -> Result<()>;
}

//! The topic: its log, a group's offsets in it, and the transactional producer through which everything goes that must not
//! happen twice.

mod read;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub use self::read::{read_again, read_between};
use crate::data::{DeadLetter, NextOffset, Offsets, Record, RecordPosition, RowBatch};
use crate::error::{Error, Result};
use crate::shutdown::Shutdown;

/// Bytes that a record is sent with at most, whatever the topic takes: brokers end the connection of a request of more than 100 MiB
/// (`socket.request.max.bytes`: <https://kafka.apache.org/documentation/#brokerconfigs_socket.request.max.bytes>).
pub const LARGEST_RECORD: usize = 100_000_000;

/// Which end of a partition is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The last stable offset: below it every transaction is decided. What committed readers can reach.
    Stable,
    /// The high watermark: everything that was written, decided or not.
    Written,
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

/// What a topic holds, and where a group stands in it: one round of questions, answered in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The first offset that each partition still has.
    pub starts: Offsets,
    /// The stable ends. They may have been taken before the written ones: what was written is not yet what can be read.
    pub stable: Offsets,
    /// The written ends.
    pub written: Offsets,
    /// The group's offsets.
    pub committed: BTreeMap<i32, Committed>,
}

/// Which of a group's offsets a survey asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// None.
    Nobody,
    /// Those [before](TopicLog::committed_before) any open transaction.
    Before,
    /// Those that are [decided](TopicLog::committed).
    Now,
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

    /// Asks for all of it in one round.
    ///
    /// # Errors
    /// Kafka's.
    fn survey(&mut self, of: Of) -> Result<Survey> {
        Ok(Survey {
            starts: self.starts()?,
            stable: self.ends(End::Stable)?,
            written: self.ends(End::Written)?,
            committed: match of {
                Of::Nobody => BTreeMap::new(),
                Of::Before => self.committed_before()?,
                Of::Now => self.committed()?,
            },
        })
    }

    /// The same beside `work`, and what that has returned.
    ///
    /// # Errors
    /// That of `work`, or Kafka's.
    fn survey_beside<T>(&mut self, of: Of, work: impl FnOnce() -> Result<T>) -> Result<(Survey, T)> {
        let done = work()?;
        Ok((self.survey(of)?, done))
    }

    /// Asks for the written ends beside `work`, and what that has returned.
    ///
    /// # Errors
    /// That of `work`, or Kafka's.
    fn written_beside<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<(Offsets, T)> {
        let ends = self.ends(End::Written)?;
        Ok((ends, work(self)?))
    }

    /// Keeps a survey for the leg that follows.
    fn keep_survey(&mut self, _survey: Survey) {}

    /// The survey that the leg before has kept, not older than the last of its transactions but one.
    fn kept_survey(&mut self) -> Option<Survey> {
        None
    }

    /// This many records will be read: what that takes may be opened beside the steps that come before.
    fn expect(&mut self, _records: u64) {}

    /// How long a question and its answer take, if it was asked already.
    fn trip(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether a transaction takes long enough that what may be done meanwhile is worth the memory of another batch.
    fn is_distant(&self) -> bool;

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

/// A transactional producer: it shuts out its predecessors, and whatever it does happens wholly or not at all.
pub trait Fence {
    /// Shuts out every earlier producer of this name, and aborts what it left open. Nothing of a dead run can land
    /// after this returns.
    ///
    /// # Errors
    /// Kafka's.
    fn fence(&mut self) -> Result<()>;

    /// Whether it has fenced its predecessors in an earlier run of this process: others may have shut it out since, which shows
    /// with its first transaction.
    fn is_kept(&self) -> bool {
        false
    }

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

/// Waits until everything below `wanted` is decided; returns the stable ends.
///
/// # Errors
/// 69 after `limit`; Kafka's.
pub fn wait_until_stable(
    log: &mut impl TopicLog,
    wanted: &Offsets,
    limit: Duration,
    shutdown: &Shutdown,
) -> Result<Offsets> {
    let stable = log.ends(End::Stable)?;
    wait_from(log, stable, wanted, limit, shutdown)
}

/// The same, where the stable ends were asked for already.
///
/// # Errors
/// As [`wait_until_stable`].
pub fn wait_from(
    log: &mut impl TopicLog,
    mut stable: Offsets,
    wanted: &Offsets,
    limit: Duration,
    shutdown: &Shutdown,
) -> Result<Offsets> {
    let until = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        let behind = wanted.iter().find(|(partition, next)| stable.get(partition).is_none_or(|end| end < next));
        let Some((partition, next)) = behind else { return Ok(stable) };
        if Instant::now() >= until {
            let at = stable.get(partition).copied().unwrap_or_default();
            return Err(Error::unavailable(
                format!("cannot read partition {partition} up to offset {next}"),
                format!("a transaction of another producer has been open at offset {at} for {limit:?}"),
                "find it with `kafka-transactions.sh find-hanging` or `describe-producers`, and end or abort it: it hides \
                 every later record from committed readers; [timeouts] stable sets how long to wait",
            )
            .waited_out());
        }
        if !stable.contains_key(partition) {
            // Added since the topic was looked at.
            log.partitions()?;
        }
        if shutdown.wait(pause) {
            return Ok(stable);
        }
        pause = (pause * 2).min(Duration::from_millis(50));
        stable = log.ends(End::Stable)?;
    }
}

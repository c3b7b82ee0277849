//! The transactional producer: rows, offsets and dead letters, each wholly or not at all.
//!
//! If the process dies before a commit is asked for, the next producer of the same name aborts the transaction; if it dies
//! after, the broker completes it. Either way the outcome is decided before [`Fence::fence`] of the next run returns.
//!
//! For clusters that forbid transactions there is a plain way (`[kafka] transactional = false`): records are delivered one by
//! one, offsets committed by themselves, and no earlier run is fenced off. What a dead run had in flight may then land late.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{CommitMode, Consumer as _, ConsumerGroupMetadata};
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use super::acl::Uses;
use super::consumer::{Consumer, NEAR, consumer};
use super::headers::add;
use super::letter::headers;
use super::producer::Producer;
use crate::config::Config;
use crate::crash;
use crate::data::{DeadLetter, RowBatch};
use crate::error::{Error, Result};
use crate::ports::topic::{Fence, OffsetCommit, Sent};
use crate::threads::watchdog::Watchdog;

/// Whose offsets a writer commits.
pub struct OffsetsOf {
    /// The consumer group's name.
    pub name: String,
    /// The consumer group.
    pub group: ConsumerGroupMetadata,
    /// The topic they belong to.
    pub topic: String,
}

/// A producer of a real cluster.
pub struct KafkaWriter {
    /// Writes rows to the topic, or dead letters to theirs beside offsets.
    producer: Producer,
    offsets: Option<OffsetsOf>,
    max_bytes: Option<usize>,
    is_fenced: bool,
    /// Whether that was in an earlier run.
    is_kept: bool,
    /// Commits offsets where there are no transactions.
    plain_committer: Option<Arc<Consumer>>,
}

impl KafkaWriter {
    /// Makes a producer named `transactional_id` that writes to `topic`, in record batches of at most `max_bytes` (the
    /// topic's `max.message.bytes`), and commits `offsets` if it is given what it needs for it.
    ///
    /// # Errors
    /// 78 if librdkafka refuses a property.
    pub fn new(
        config: &Config,
        transactional_id: &str,
        topic: &str,
        max_bytes: Option<usize>,
        offsets: Option<OffsetsOf>,
        watchdog: &Watchdog,
    ) -> Result<Self> {
        let uses = match &offsets {
            // To commit an offset is to have read up to it.
            Some(of) => Uses::topics(config, &[topic, &of.topic]).and_group(&of.name),
            None => Uses::topics(config, &[topic]),
        };
        let plain_committer = match &offsets {
            Some(of) if !config.kafka.transactional => Some(consumer(config, &of.name, "read_committed", NEAR)?),
            _ => None,
        };
        let producer = Producer::new(config, transactional_id, topic, max_bytes, uses, watchdog)?;
        Ok(Self { producer, offsets, max_bytes, is_fenced: false, is_kept: false, plain_committer })
    }

    /// Waits until the client is connected.
    ///
    /// # Errors
    /// Any Kafka error.
    pub fn connected(mut self) -> Result<Self> {
        self.producer.connect()?;
        Ok(self)
    }

    /// The producer for another run, whose watchdog it gets.
    #[must_use]
    pub fn for_another_run(mut self, watchdog: &Watchdog) -> Self {
        self.producer.watched_by(watchdog);
        self.is_kept = self.is_fenced;
        self
    }

    /// The size of record batches for which it was made.
    #[must_use]
    pub const fn max_bytes(&self) -> Option<usize> {
        self.max_bytes
    }

    /// Sends rows in one transaction, and `may_repeat` it if an earlier one is why it fails.
    fn send_rows(&self, batch: &RowBatch, indices: &[usize], may_repeat: bool) -> Result<Sent> {
        const VERB: &str = "send rows to";
        self.producer.begin(VERB)?;
        let mut too_large = Vec::new();
        for &index in indices {
            let row = batch.row(index);
            let mut record = BaseRecord::with_opaque_to(&self.producer.topic, index).timestamp(batch.timestamp_ms);
            record = record.payload(row.value);
            record.key = row.record_key;
            if !row.headers.is_empty() {
                record = record.headers(add(OwnedHeaders::new(), row.headers));
            }
            if !self.producer.hand_over(VERB, record)? {
                too_large.push(index);
            }
            // Outcomes are taken while records leave, so that their queue stays short.
            if index % 1024 == 1023 {
                self.producer.client.poll(Duration::ZERO);
            }
        }
        crash::point("kafka.send.after");
        self.producer.settle(VERB)?;
        let delivered = self.producer.client.context().take();
        let mut purged = None;
        for (index, error) in delivered.failed {
            match error.rdkafka_error_code() {
                Some(Code::MessageSizeTooLarge) => too_large.push(index),
                // After the first refusal librdkafka purges the rest of the transaction.
                Some(Code::PurgeQueue | Code::PurgeInflight) => purged = Some(error),
                _ => return Err(self.producer.explain(VERB, &error)),
            }
        }
        if !too_large.is_empty() {
            too_large.sort_unstable();
            if !self.producer.transactional {
                let committed = delivered.at.into_iter().enumerate();
                let committed = committed.filter_map(|(index, at)| Some((index, at?))).collect();
                return Ok(Sent::Partly { committed, too_large });
            }
            self.producer.abort(VERB)?;
            return Ok(Sent::TooLarge(too_large));
        }
        if let Some(purged) = purged {
            let failed = self.producer.behind_purge(purged);
            // Behind a batch that the broker has refused as too large, librdkafka counts on and the broker does not. The abort takes a
            // new epoch, in which both begin anew.
            if may_repeat && failed.rdkafka_error_code() == Some(Code::OutOfOrderSequenceNumber) {
                self.producer.abort(VERB)?;
                return self.send_rows(batch, indices, false);
            }
            return Err(self.producer.explain(VERB, &failed));
        }
        let positions: Vec<_> =
            indices.iter().filter_map(|&index| delivered.at.get(index).copied().flatten()).collect();
        if positions.len() != indices.len() {
            return Err(Error::bug(
                self.producer.what(VERB),
                format!("{} records were sent and {} acknowledged", indices.len(), positions.len()),
            ));
        }
        self.producer.commit_transaction(VERB)?;
        Ok(Sent::Committed(positions))
    }

    fn send_dead_letter(&self, index: usize, letter: &DeadLetter, source: &str) -> Result<()> {
        const VERB: &str = "send a dead letter to";
        let mut record = BaseRecord::with_opaque_to(&self.producer.topic, index).headers(headers(letter, source));
        if let Some(key) = &letter.key {
            record = record.key(key.as_slice());
        }
        if let Some(value) = &letter.value {
            record = record.payload(value.as_slice());
        }
        if self.producer.hand_over(VERB, record)? {
            return Ok(());
        }
        Err(too_large_for_dead_letters(&self.producer.what(VERB), letter))
    }

    fn list(&self, topic: &str, commits: &[OffsetCommit]) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for commit in commits {
            let mut element = list.add_partition(topic, commit.partition);
            element
                .set_offset(Offset::Offset(commit.next))
                .map_err(|error| self.producer.explain("name the offsets of", &error))?;
            element.set_metadata(&commit.metadata);
        }
        Ok(list)
    }
}

fn too_large_for_dead_letters(what: &str, letter: &DeadLetter) -> Error {
    Error::config(
        what,
        format!("the record at partition {} offset {} is too large for it", letter.partition, letter.offset),
        "give the dead-letter topic a larger max.message.bytes than the topic has; the run stops before this record",
    )
}

impl Fence for KafkaWriter {
    fn fence(&mut self) -> Result<()> {
        if self.is_fenced {
            return Ok(());
        }
        crash::point("fence.before");
        self.producer.connect()?;
        let begun = Instant::now();
        if self.producer.transactional {
            self.producer.retried("fence", |limit| self.producer.client.init_transactions(limit))?;
        }
        log::debug!("{} has fenced its predecessors in {:?}", self.producer.transactional_id, begun.elapsed());
        crash::point("fence.after");
        self.is_fenced = true;
        Ok(())
    }

    fn is_kept(&self) -> bool {
        self.is_kept
    }

    fn send(&mut self, batch: &RowBatch, indices: &[usize]) -> Result<Sent> {
        self.send_rows(batch, indices, true)
    }

    fn commit(&mut self, commits: &[OffsetCommit], dead: &[DeadLetter]) -> Result<()> {
        const VERB: &str = "commit offsets beside";
        let Some(offsets) = &self.offsets else {
            return Err(Error::bug(self.producer.what(VERB), "this producer has no consumer group"));
        };
        self.producer.begin(VERB)?;
        for (index, letter) in dead.iter().enumerate() {
            self.send_dead_letter(index, letter, &offsets.topic)?;
        }
        let begun = Instant::now();
        self.producer.settle(VERB)?;
        if let Some((index, error)) = self.producer.client.context().take().failed.into_iter().next() {
            return Err(match (error.rdkafka_error_code(), dead.get(index)) {
                (Some(Code::MessageSizeTooLarge), Some(letter)) => {
                    too_large_for_dead_letters(&self.producer.what(VERB), letter)
                }
                (Some(Code::PurgeQueue | Code::PurgeInflight), _) => {
                    self.producer.explain("send dead letters to", &self.producer.behind_purge(error))
                }
                _ => self.producer.explain("send dead letters to", &error),
            });
        }
        if !dead.is_empty() {
            crash::point("dead-letter.sent.after");
        }
        let list = self.list(&offsets.topic, commits)?;
        match &self.plain_committer {
            // A note on a letter moves no offset.
            _ if commits.is_empty() => {}
            Some(consumer) => {
                let committed = self.producer.call(VERB, || consumer.commit(&list, CommitMode::Sync));
                committed.map_err(|error| self.producer.explain(VERB, &error))?;
            }
            None => {
                let send = |limit| self.producer.client.send_offsets_to_transaction(&list, &offsets.group, limit);
                self.producer.retried(VERB, send)?;
            }
        }
        crash::point("offsets.sent.after");
        let sent = begun.elapsed();
        self.producer.commit_transaction(VERB)?;
        log::debug!(
            "{}: {} offsets sent in {sent:?}, committed in {:?}",
            self.producer.transactional_id,
            commits.len(),
            begun.elapsed()
        );
        Ok(())
    }
}

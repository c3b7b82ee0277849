//! The transactional producer: rows, offsets and dead letters, each wholly or not at all.
//!
//! If the process dies before a commit is asked for, the next producer of the same name aborts the transaction; if it dies
//! after, the broker completes it. Either way the outcome is decided before [`Fence::fence`] of the next run returns.
//!
//! For clusters that forbid transactions there is a plain way (`[kafka] transactional = false`): records are delivered one by
//! one, offsets committed by themselves, and no earlier run is fenced off. What a dead run had in flight may then land late.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};

use super::acl::Uses;
use super::client::{Context, Detached, GRACE, HEARING, base, make};
use super::consumer::{NEAR, consumer};
use super::headers::add;
use super::letter::headers;
use crate::config::Config;
use crate::crash;
use crate::data::{DeadLetter, RecordPosition, RowBatch};
use crate::error::{Error, Result};
use crate::ports::topic::{Fence, OffsetCommit, Sent};
use crate::run_id::RunId;
use crate::threads::watchdog::Watchdog;

/// How long the sender sleeps before it looks again. It never lets the library's poll wait: that takes all the time that it is
/// given, and the last millisecond of it, which is no whole one, in a loop that keeps a processor busy.
const TICK: Duration = Duration::from_micros(500);

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
    producer: Detached<BaseProducer<Deliveries>>,
    /// Where records go: the topic for rows, the dead-letter topic beside offsets.
    topic: String,
    offsets: Option<OffsetsOf>,
    /// Commits offsets where there are no transactions.
    plain_committer: Option<Detached<BaseConsumer<Context>>>,
    transactional: bool,
    transactional_id: String,
    /// Whether it has been connected once.
    is_connected: bool,
    uses: Uses,
    limit: Duration,
    watchdog: Watchdog,
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
        let limit = config.timeouts.kafka;
        let mut client = base(config);
        if let Some(max_bytes) = max_bytes {
            // Below librdkafka's own smallest value it could not be set; such a topic refuses, and the batch is split.
            client.set("message.max.bytes", max_bytes.clamp(1000, 1_000_000_000).to_string());
        }
        let transactional = config.kafka.transactional;
        if transactional {
            client
                .set("transactional.id", transactional_id)
                .set("transaction.timeout.ms", (limit * 2).as_millis().clamp(1000, 900_000).to_string());
        }
        let rows = config.batch.rows.max(1000);
        client
            .set("client.id", format!("pg2ch-{}", RunId::current()))
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", limit.as_millis().clamp(1000, 300_000).to_string())
            .set("request.timeout.ms", limit.as_millis().clamp(1, 900_000).to_string())
            // As Java's clients: the same key goes to the same partition, whichever client writes it.
            .set("partitioner", "murmur2_random")
            // Records leave when a broker's thread is free; a batch in hand is never waited for.
            .set("linger.ms", "1")
            .set("queue.buffering.max.messages", (rows * 2).to_string());
        let producer = Detached::new(make(&mut client, config, Deliveries::default())?);
        let plain_committer = match &offsets {
            Some(of) if !transactional => Some(consumer(config, &of.name, "read_committed", NEAR)?),
            _ => None,
        };
        let uses = match &offsets {
            // To commit an offset is to have read up to it.
            Some(of) => Uses::topics(config, &[topic, &of.topic]).and_group(&of.name),
            None => Uses::topics(config, &[topic]),
        };
        let (topic, transactional_id) = (topic.to_owned(), transactional_id.to_owned());
        let watchdog = watchdog.clone();
        Ok(Self {
            producer,
            topic,
            offsets,
            plain_committer,
            transactional,
            transactional_id,
            is_connected: false,
            uses,
            limit,
            watchdog,
        })
    }

    /// Waits until the client is connected.
    ///
    /// # Errors
    /// Any Kafka error.
    pub fn connected(mut self) -> Result<Self> {
        self.connect()?;
        Ok(self)
    }

    fn connect(&mut self) -> Result<()> {
        if self.is_connected {
            return Ok(());
        }
        // A client that is not connected looks for its coordinator again only after half a second. The first question
        // connects it; the second waits until the answer to the first, which renames the connection, is worked in.
        let (context, client) = (&self.producer.context().base, self.producer.client());
        for _ in 0..2 {
            let ask = |turn| client.fetch_metadata(Some(&self.topic), turn);
            let hear = || self.producer.poll(HEARING);
            let connected = self.call("fence", || context.in_turns(self.limit, ask, hear));
            connected.map_err(|error| self.explain("fence", &error))?;
        }
        self.is_connected = true;
        Ok(())
    }

    fn what(&self, verb: &str) -> String {
        format!("cannot {verb} topic {} as {}", self.topic, self.transactional_id)
    }

    fn explain(&self, verb: &str, error: &KafkaError) -> Error {
        self.producer.context().base.explain(&self.what(verb), error, &self.uses)
    }

    /// Waits for `call` under the watchdog: a commit of offsets exceeds its limit for ever while the coordinator of both group
    /// and transactions leaves and comes back (<https://github.com/confluentinc/librdkafka/issues/5456>,
    /// <https://github.com/confluentinc/librdkafka/issues/5511>).
    fn call<T>(&self, verb: &str, call: impl FnOnce() -> T) -> T {
        self.watchdog.watch(&self.what(verb), self.limit + GRACE, call)
    }

    /// Repeats a transactional call that says it may be repeated, until the limit.
    fn retried(&self, verb: &str, call: impl Fn(Duration) -> KafkaResult<()>) -> Result<()> {
        let until = Instant::now() + self.limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.call(verb, || call(left.max(Duration::from_millis(1)))) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(error)) if error.is_retriable() && !left.is_zero() => {
                    log::debug!("{} {}: {}", verb, self.topic, error.string());
                    std::thread::sleep(TICK);
                }
                Err(error) => return Err(self.explain(verb, &error)),
            }
        }
    }

    fn begin(&self, verb: &str) -> Result<()> {
        self.producer.context().reset();
        if self.transactional {
            self.call(verb, || self.producer.begin_transaction()).map_err(|error| self.explain(verb, &error))?;
        }
        crash::point("kafka.begin.after");
        Ok(())
    }

    /// Gives up the open transaction. If that fails too, the next fence does it.
    fn abort(&self, verb: &str) -> Result<()> {
        crash::point("kafka.abort.before");
        self.retried(verb, |limit| self.producer.abort_transaction(limit))?;
        crash::point("kafka.abort.after");
        Ok(())
    }

    /// Hands a record over, waiting while librdkafka's queue is full. `false`: it is too large for this client's limit.
    fn hand_over<'a>(&self, verb: &str, mut record: BaseRecord<'a, [u8], [u8], usize>) -> Result<bool> {
        let mut until = None;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(true),
                Err((KafkaError::MessageProduction(Code::MessageSizeTooLarge), _)) => return Ok(false),
                Err((KafkaError::MessageProduction(Code::QueueFull), back))
                    if Instant::now() <= *until.get_or_insert_with(|| Instant::now() + self.limit) =>
                {
                    record = back;
                    self.take_reports();
                }
                Err((error, _)) => return Err(self.explain(verb, &error)),
            }
        }
    }

    /// Polls until every record's outcome is known. Neither `flush` nor a commit is left to wait for them: both tick in
    /// steps of 100 ms.
    fn settle(&self, verb: &str) -> Result<()> {
        let until = Instant::now() + self.limit + TICK;
        while self.producer.in_flight_count() > 0 {
            if Instant::now() > until {
                return Err(self.explain(verb, &KafkaError::MessageProduction(Code::MessageTimedOut)));
            }
            self.take_reports();
        }
        Ok(())
    }

    /// Takes the reports that are there; sleeps if there is none.
    fn take_reports(&self) {
        let before = self.producer.in_flight_count();
        self.producer.poll(Duration::ZERO);
        if self.producer.in_flight_count() == before {
            std::thread::sleep(TICK);
        }
    }

    /// Why librdkafka has purged what it was given: another producer has shut this one out, or the transaction has failed as a
    /// whole (the topic may not be written to).
    fn behind_purge(&self, purged: KafkaError) -> KafkaError {
        if let Some((code, _)) = self.producer.client().fatal_error() {
            return KafkaError::MessageProduction(code);
        }
        // Within a transaction none can begin: the answer says what has become of the present one.
        let failed = if self.transactional { self.producer.begin_transaction().err() } else { None };
        failed.filter(|error| error.rdkafka_error_code() != Some(Code::State)).unwrap_or(purged)
    }

    fn commit_transaction(&self, verb: &str) -> Result<()> {
        crash::point("kafka.commit.before");
        if self.transactional {
            self.retried(verb, |limit| self.producer.commit_transaction(limit))?;
        }
        self.producer.context().base.forget();
        crash::point("kafka.commit.after");
        Ok(())
    }

    fn send_dead_letter(&self, index: usize, letter: &DeadLetter, source: &str) -> Result<()> {
        const VERB: &str = "send a dead letter to";
        let mut record = BaseRecord::with_opaque_to(&self.topic, index).headers(headers(letter, source));
        if let Some(key) = &letter.key {
            record = record.key(key.as_slice());
        }
        if let Some(value) = &letter.value {
            record = record.payload(value.as_slice());
        }
        if self.hand_over(VERB, record)? {
            return Ok(());
        }
        Err(too_large_for_dead_letters(&self.what(VERB), letter))
    }

    fn list(&self, topic: &str, commits: &[OffsetCommit]) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for commit in commits {
            let mut element = list.add_partition(topic, commit.partition);
            element
                .set_offset(Offset::Offset(commit.next))
                .map_err(|error| self.explain("name the offsets of", &error))?;
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
        crash::point("fence.before");
        self.connect()?;
        let begun = Instant::now();
        if self.transactional {
            self.retried("fence", |limit| self.producer.init_transactions(limit))?;
        }
        log::debug!("{} has fenced its predecessors in {:?}", self.transactional_id, begun.elapsed());
        crash::point("fence.after");
        Ok(())
    }

    fn send(&mut self, batch: &RowBatch, indices: &[usize]) -> Result<Sent> {
        const VERB: &str = "send rows to";
        self.begin(VERB)?;
        let mut too_large = Vec::new();
        for &index in indices {
            let row = batch.row(index);
            let mut record = BaseRecord::with_opaque_to(&self.topic, index).timestamp(batch.timestamp_ms);
            record = record.payload(row.value);
            record.key = row.record_key;
            if !row.headers.is_empty() {
                record = record.headers(add(OwnedHeaders::new(), row.headers));
            }
            if !self.hand_over(VERB, record)? {
                too_large.push(index);
            }
            // Outcomes are taken while records leave, so that their queue stays short.
            if index % 1024 == 1023 {
                self.producer.poll(Duration::ZERO);
            }
        }
        crash::point("kafka.send.after");
        self.settle(VERB)?;
        let delivered = self.producer.context().take();
        let mut purged = None;
        for (index, error) in delivered.failed {
            match error.rdkafka_error_code() {
                Some(Code::MessageSizeTooLarge) => too_large.push(index),
                // After the first refusal librdkafka purges the rest of the transaction.
                Some(Code::PurgeQueue | Code::PurgeInflight) => purged = Some(error),
                _ => return Err(self.explain(VERB, &error)),
            }
        }
        if !too_large.is_empty() {
            too_large.sort_unstable();
            if !self.transactional {
                let committed = delivered.at.into_iter().enumerate();
                let committed = committed.filter_map(|(index, at)| Some((index, at?))).collect();
                return Ok(Sent::Partly { committed, too_large });
            }
            self.abort(VERB)?;
            return Ok(Sent::TooLarge(too_large));
        }
        if let Some(error) = purged {
            return Err(self.explain(VERB, &self.behind_purge(error)));
        }
        let positions: Vec<_> =
            indices.iter().filter_map(|&index| delivered.at.get(index).copied().flatten()).collect();
        if positions.len() != indices.len() {
            return Err(Error::bug(
                self.what(VERB),
                format!("{} records were sent and {} acknowledged", indices.len(), positions.len()),
            ));
        }
        self.commit_transaction(VERB)?;
        Ok(Sent::Committed(positions))
    }

    fn commit(&mut self, commits: &[OffsetCommit], dead: &[DeadLetter]) -> Result<()> {
        const VERB: &str = "commit offsets beside";
        let Some(offsets) = &self.offsets else {
            return Err(Error::bug(self.what(VERB), "this producer has no consumer group"));
        };
        self.begin(VERB)?;
        for (index, letter) in dead.iter().enumerate() {
            self.send_dead_letter(index, letter, &offsets.topic)?;
        }
        let begun = Instant::now();
        self.settle(VERB)?;
        if let Some((index, error)) = self.producer.context().take().failed.into_iter().next() {
            return Err(match (error.rdkafka_error_code(), dead.get(index)) {
                (Some(Code::MessageSizeTooLarge), Some(letter)) => too_large_for_dead_letters(&self.what(VERB), letter),
                (Some(Code::PurgeQueue | Code::PurgeInflight), _) => {
                    self.explain("send dead letters to", &self.behind_purge(error))
                }
                _ => self.explain("send dead letters to", &error),
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
                let committed = self.call(VERB, || consumer.commit(&list, CommitMode::Sync));
                committed.map_err(|error| self.explain(VERB, &error))?;
            }
            None => {
                let send = |limit| self.producer.send_offsets_to_transaction(&list, &offsets.group, limit);
                self.retried(VERB, send)?;
            }
        }
        crash::point("offsets.sent.after");
        let sent = begun.elapsed();
        self.commit_transaction(VERB)?;
        log::debug!(
            "{}: {} offsets sent in {sent:?}, committed in {:?}",
            self.transactional_id,
            commits.len(),
            begun.elapsed()
        );
        Ok(())
    }
}

/// Takes the outcome of every record, by its index.
#[derive(Default)]
struct Deliveries {
    base: Context,
    outcomes: Mutex<Outcomes>,
}

#[derive(Default)]
struct Outcomes {
    /// By the records' indices.
    at: Vec<Option<RecordPosition>>,
    failed: Vec<(usize, KafkaError)>,
}

impl Deliveries {
    fn reset(&self) {
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner) = Outcomes::default();
    }

    fn take(&self) -> Outcomes {
        std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.base.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.base.error(error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(message) => {
                let at = RecordPosition { partition: message.partition(), offset: message.offset() };
                if outcomes.at.len() <= index {
                    outcomes.at.resize(index + 1, None);
                }
                outcomes.at[index] = Some(at);
            }
            Err((error, _)) => outcomes.failed.push((index, error.clone())),
        }
    }
}

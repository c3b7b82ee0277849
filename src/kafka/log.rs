//! Reads a topic with librdkafka: an assigned consumer, committed records only, no group membership.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::acl::Uses;
use super::client::{Context, Detached, GRACE, HEARING, base, make};
use super::explain::explain;
use super::headers;
use crate::config::Config;
use crate::data::{Headers, Offsets, Record};
use crate::error::Result;
use crate::ports::topic::{Committed, End, Polled, TopicLog};
use crate::threads::watchdog::Watchdog;

/// How many bytes of records librdkafka may hold ready, in KiB. Its own default, 64 MiB, is pg2ch's whole budget.
const READ_AHEAD_KIB: &str = "3072";

/// How many reports are heard after a failure.
const REPORTS: usize = 100;

/// One topic of a real cluster.
pub struct KafkaLog {
    topic: String,
    brokers: String,
    group: String,
    uses: Uses,
    committed_reader: Detached<BaseConsumer<Context>>,
    /// Made when it is first asked: the isolation level belongs to the client.
    written_reader: Option<Detached<BaseConsumer<Context>>>,
    partitions: Vec<i32>,
    /// From where, and up to where, each partition is read.
    from: Offsets,
    until: Offsets,
    /// Partitions whose broker was found to know the end up to which they are read.
    caught_up: BTreeSet<i32>,
    config: Config,
    limit: Duration,
    watchdog: Watchdog,
}

impl KafkaLog {
    /// Makes a reader of `topic` that knows `group`'s offsets. No connection is waited for.
    ///
    /// # Errors
    /// 78 if librdkafka refuses a property.
    pub fn new(config: &Config, topic: &str, group: &str, watchdog: &Watchdog) -> Result<Self> {
        Ok(Self {
            topic: topic.to_owned(),
            brokers: config.kafka.brokers.clone(),
            group: group.to_owned(),
            uses: Uses::topics(config, &[topic]).and_group(group),
            committed_reader: consumer(config, group, "read_committed")?,
            written_reader: None,
            partitions: Vec::new(),
            from: Offsets::new(),
            until: Offsets::new(),
            caught_up: BTreeSet::new(),
            config: config.clone(),
            limit: config.timeouts.kafka,
            watchdog: watchdog.clone(),
        })
    }

    /// Makes it and waits until its clients are connected.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`partitions`](TopicLog::partitions).
    pub fn connected(config: &Config, topic: &str, group: &str, watchdog: &Watchdog) -> Result<Self> {
        let mut log = Self::new(config, topic, group, watchdog)?;
        let written_reader = consumer(config, group, "read_uncommitted")?;
        log.partitions()?;
        log.told("find", log.call("find", || written_reader.fetch_metadata(Some(topic), log.limit)))?;
        log.written_reader = Some(written_reader);
        Ok(log)
    }

    /// What a transactional producer needs to commit offsets for the group.
    #[must_use]
    pub fn group_metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.committed_reader.group_metadata()
    }

    fn what(&self, verb: &str) -> String {
        format!("cannot {verb} topic {} at {}", self.topic, self.brokers)
    }

    fn told<T>(&self, verb: &str, result: Result<T, KafkaError>) -> Result<T> {
        let context = self.committed_reader.context();
        match result {
            Ok(value) => {
                context.forget();
                Ok(value)
            }
            Err(error) => {
                self.hear();
                Err(context.explain(&self.what(verb), &error, &self.uses))
            }
        }
    }

    /// What the client's threads report (a refused password) is only heard by who polls.
    fn hear(&self) {
        // Where no broker listens, a new report comes every few milliseconds.
        let until = Instant::now() + HEARING * 5;
        for _ in 0..REPORTS {
            if self.committed_reader.poll(HEARING).is_none() || Instant::now() > until {
                break;
            }
        }
    }

    /// Waits for `call` under the watchdog, which ends the run around it if librdkafka exceeds its limit.
    fn call<T>(&self, verb: &str, call: impl FnOnce() -> T) -> T {
        self.watchdog.watch(&self.what(verb), self.limit + GRACE, call)
    }

    /// Asks until the limit, or until it is known that no broker will reply.
    fn in_turns<T>(&self, verb: &str, ask: impl Fn(Duration) -> Result<T, KafkaError>) -> Result<T> {
        let context = self.committed_reader.context();
        self.told(verb, self.call(verb, || context.in_turns(self.limit, ask, || self.hear())))
    }

    /// Asks `consumer` for one offset of every partition at once: [`Offset::Beginning`] or [`Offset::End`], which go where
    /// librdkafka takes a timestamp (ListOffsets knows them as -2 and -1).
    fn offsets_at(&self, consumer: &BaseConsumer<Context>, at: Offset) -> Result<Offsets> {
        const VERB: &str = "ask for the offsets of";
        let wanted = self.list(|_| Some(at))?;
        let found = self.told(VERB, self.call(VERB, || consumer.offsets_for_times(wanted, self.limit)))?;
        let mut offsets = Offsets::new();
        for element in found.elements() {
            self.told(VERB, element.error())?;
            if let Offset::Offset(offset) = element.offset() {
                offsets.insert(element.partition(), offset);
            }
        }
        Ok(offsets)
    }

    /// The known partitions for which `at` has an offset, as librdkafka wants them.
    fn list(&self, at: impl Fn(i32) -> Option<Offset>) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for &partition in &self.partitions {
            if let Some(offset) = at(partition) {
                self.told("name the partitions of", list.add_partition_offset(&self.topic, partition, offset))?;
            }
        }
        Ok(list)
    }

    /// Where reading stands in each partition that is read.
    fn stands(&self) -> Result<Offsets> {
        let mut stands = self.from.clone();
        let positions = self.told("read", self.call("read", || self.committed_reader.position()))?;
        for element in positions.elements() {
            if let (Some(at), Offset::Offset(next)) = (stands.get_mut(&element.partition()), element.offset()) {
                *at = next.max(*at);
            }
        }
        Ok(stands)
    }

    fn assign(&self, from: &Offsets) -> Result<()> {
        let list = self.list(|partition| from.get(&partition).copied().map(Offset::Offset))?;
        self.told("read", self.call("read", || self.committed_reader.assign(&list)))
    }

    /// Whether nothing lies below the end up to which a partition is read, though its last record or marker lies lower.
    ///
    /// A broker that has just become the leader, or a replica, may not know yet that records are committed, and reports an end
    /// that is none: what lies behind would be taken for read. So a read at the true end is tried, which comes back once the
    /// broker knows it; then the partition is read once more from where it stood.
    fn ends_here(&mut self, partition: i32, until: Instant) -> Result<bool> {
        let stands = self.stands()?;
        let (at, end) = (stands.get(&partition).copied(), self.until.get(&partition).copied());
        if at >= end || self.caught_up.contains(&partition) {
            return Ok(true);
        }
        log::debug!("topic {}: partition {partition} seems to end at {at:?}, below {end:?}", self.topic);
        self.assign(&end.map(|end| (partition, end)).into_iter().collect())?;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.call("read", || self.committed_reader.poll(left)) {
                None => break,
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => {
                    self.caught_up.insert(partition);
                    break;
                }
                Some(Err(error)) if passes(&error) && !left.is_zero() => {}
                Some(Err(error)) => return self.told("read", Err(error)),
            }
        }
        self.from = stands;
        self.assign(&self.from)?;
        Ok(false)
    }

    /// Waits for the next message, or the end of a partition.
    pub(super) fn poll_message(&mut self, wait: Duration, sink: impl FnOnce(&BorrowedMessage<'_>)) -> Result<Polled> {
        let until = LazyCell::new(|| Instant::now() + wait);
        let mut left = Duration::ZERO;
        loop {
            // Mostly one is there already; looking at the clock would cost more than taking it.
            let polled = if left.is_zero() {
                self.committed_reader.poll(left)
            } else {
                self.watchdog.watch(&self.what("read"), left + GRACE, || self.committed_reader.poll(left))
            };
            let ended = match polled {
                Some(Ok(message)) => {
                    sink(&message);
                    return Ok(Polled::Record);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => Some(partition),
                // librdkafka connects again by itself; the caller has a limit for the whole.
                Some(Err(error)) if passes(&error) => {
                    log::debug!("reading topic {}: {error}", self.topic);
                    None
                }
                Some(Err(error)) => return self.told("read", Err(error)),
                None => None,
            };
            if let Some(partition) = ended
                && self.ends_here(partition, *until)?
            {
                return Ok(Polled::End(partition));
            }
            left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Polled::Nothing);
            }
        }
    }

    /// Calls with a client that takes no notice of transactions: the isolation level belongs to the client.
    fn with_written_reader<T>(&mut self, call: impl FnOnce(&Self, &BaseConsumer<Context>) -> Result<T>) -> Result<T> {
        let reader = match self.written_reader.take() {
            Some(reader) => reader,
            None => consumer(&self.config, &self.group, "read_uncommitted")?,
        };
        let answer = call(self, &reader);
        self.written_reader = Some(reader);
        answer
    }

    fn offsets_of_group(&self, reader: &BaseConsumer<Context>) -> Result<BTreeMap<i32, Committed>> {
        let list = self.list(|_| Some(Offset::Invalid))?;
        let verb = format!("read the offsets of group {} in", self.group);
        let found = self.in_turns(&verb, |turn| reader.committed_offsets(list.clone(), turn))?;
        let mut committed = BTreeMap::new();
        for element in found.elements() {
            self.told(&verb, element.error())?;
            if let Offset::Offset(next) = element.offset() {
                committed.insert(element.partition(), Committed { next, metadata: metadata_of(&element) });
            }
        }
        Ok(committed)
    }

    fn know_partitions(&mut self) -> Result<()> {
        if self.partitions.is_empty() {
            self.partitions()?;
        }
        Ok(())
    }
}

/// Makes a consumer of `group` that reads as far as `isolation` says.
///
/// # Errors
/// 78 if librdkafka refuses a property.
pub(super) fn consumer(config: &Config, group: &str, isolation: &str) -> Result<Detached<BaseConsumer<Context>>> {
    let mut client = base(config);
    client
        .set("group.id", group)
        .set("isolation.level", isolation)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error")
        // The end of a partition is reported when a fetch comes back empty: that must not take half a second.
        .set("fetch.wait.max.ms", "10")
        // When the queue is full fetching pauses this long; the default of a second costs more than all the rest.
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.max.messages.kbytes", READ_AHEAD_KIB)
        // A fetch is unpacked whole, to many times its size: a compressed topic must not cost more memory than a plain one.
        // A larger record comes all the same (KIP-74,
        // https://cwiki.apache.org/confluence/display/KAFKA/KIP-74%3A+Add+Fetch+Response+Size+Limit+in+Bytes).
        .set("fetch.message.max.bytes", "65536")
        .set("fetch.max.bytes", "1048576")
        .set("check.crcs", "true");
    make(&mut client, config, Context::default()).map(Detached::new)
}

impl TopicLog for KafkaLog {
    fn partitions(&mut self) -> Result<Vec<i32>> {
        let metadata = self.in_turns("find", |turn| self.committed_reader.fetch_metadata(Some(&self.topic), turn))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let error = topic.and_then(rdkafka::metadata::MetadataTopic::error).map(Code::from);
        let mut partitions: Vec<i32> = topic
            .map(|topic| topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect())
            .unwrap_or_default();
        partitions.sort_unstable();
        let missing = partitions.is_empty().then_some(Code::UnknownTopicOrPartition);
        if let Some(code) = error.or(missing) {
            return Err(explain(&self.what("find"), &KafkaError::MetadataFetch(code), None, &self.uses));
        }
        self.partitions.clone_from(&partitions);
        Ok(partitions)
    }

    fn ends(&mut self, end: End) -> Result<Offsets> {
        self.know_partitions()?;
        match end {
            End::Stable => self.offsets_at(&self.committed_reader, Offset::End),
            End::Written => self.with_written_reader(|log, reader| log.offsets_at(reader, Offset::End)),
        }
    }

    fn starts(&mut self) -> Result<Offsets> {
        self.know_partitions()?;
        self.offsets_at(&self.committed_reader, Offset::Beginning)
    }

    fn committed(&mut self) -> Result<BTreeMap<i32, Committed>> {
        self.know_partitions()?;
        self.offsets_of_group(&self.committed_reader)
    }

    fn committed_before(&mut self) -> Result<BTreeMap<i32, Committed>> {
        self.know_partitions()?;
        self.with_written_reader(Self::offsets_of_group)
    }

    fn read_from(&mut self, from: &Offsets, until: &Offsets) -> Result<()> {
        self.from.clone_from(from);
        self.until.clone_from(until);
        self.caught_up.clear();
        self.assign(from)
    }

    fn poll(&mut self, wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Polled> {
        self.poll_message(wait, |message| {
            let headers = headers::read(message, 0);
            sink(Record {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                key: message.key(),
                value: message.payload(),
                headers: Headers::of(&headers),
            });
        })
    }
}

/// The text beside an offset. Another client may have committed bytes that are no UTF-8, on which the library panics.
fn metadata_of(element: &TopicPartitionListElem<'_>) -> String {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| element.metadata().to_owned())).unwrap_or_default()
}

fn passes(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::BrokerTransportFailure
                | Code::AllBrokersDown
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::Resolve
                | Code::NotLeaderForPartition
                | Code::LeaderNotAvailable
        )
    )
}

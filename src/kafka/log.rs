//! Reads a topic with librdkafka: an assigned consumer, committed records only, no group membership.

mod survey;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::acl::Uses;
use super::client::{Context, GRACE, REPORT_WAIT};
use super::consumer::{Consumer as Reader, DISTANT, FAR, FetchSize, NEAR, connected_far, consumer};
use super::headers;
use crate::config::Config;
use crate::data::{Offsets, Record};
use crate::error::Result;
use crate::mutant;
use crate::ports::topic::{Committed, End, Of, Polled, Survey, TopicLog};
use crate::sync;
use crate::threads::both;
use crate::threads::watchdog::Watchdog;

/// What a question about offsets is, for an error.
const ASK: &str = "ask for the offsets of";

/// From which trip on fetches are large.
const FAR_TRIP: Duration = Duration::from_millis(4);

/// From which trip on they are larger still, and the next INSERT is recorded while one is sent.
const DISTANT_TRIP: Duration = Duration::from_millis(20);

/// For how many records that is worth a client of its own, which takes some six trips to connect.
const FAR_RECORDS: u64 = 20_000;

/// How many reports are polled after a failure.
const REPORTS: usize = 100;

/// One topic of a real cluster.
pub struct KafkaLog {
    topic: String,
    brokers: String,
    group: String,
    uses: Uses,
    committed_reader: Arc<Reader>,
    /// Reads many records from far away; made when it is first needed, as the sizes belong to the client.
    far_reader: Option<Arc<Reader>>,
    /// The same, while it connects.
    far_ahead: Option<JoinHandle<Option<Arc<Reader>>>>,
    /// Whether it is the one that reads now.
    is_far: bool,
    /// How long the shortest round of questions took.
    trip: Option<Duration>,
    /// What the first survey is to say, asked for beside what comes before it.
    ahead: Option<Survey>,
    /// What the leg before has found, for the one that follows.
    kept_survey: Option<Survey>,
    /// Made when it is first asked: the isolation level belongs to the client.
    written_reader: Option<Arc<Reader>>,
    partitions: Vec<i32>,
    /// From where, and up to where, each partition is read.
    from: Offsets,
    until: Offsets,
    /// Whether these came by themselves, behind what was read before: that may come beside them.
    is_continued: bool,
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
            committed_reader: consumer(config, group, "read_committed", NEAR)?,
            far_reader: None,
            far_ahead: None,
            is_far: false,
            trip: None,
            ahead: None,
            kept_survey: None,
            written_reader: None,
            partitions: Vec::new(),
            from: Offsets::new(),
            until: Offsets::new(),
            is_continued: false,
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
        let written_reader = consumer(config, group, "read_uncommitted", NEAR)?;
        // Each connects when it is asked.
        let (written_reader, partitions) =
            both("written ends", || log.load_topic(written_reader), || log.query_partitions())?;
        (log.written_reader, log.partitions) = (Some(written_reader), partitions);
        Ok(log)
    }

    /// The topic for another run, whose watchdog it gets.
    #[must_use]
    pub fn watched_by(self, watchdog: &Watchdog) -> Self {
        self.committed_reader.context().forget();
        Self { watchdog: watchdog.clone(), ..self }
    }

    /// The topic at the end of a run: nothing is read any more, and what was read is let go.
    ///
    /// # Errors
    /// Kafka's.
    pub fn rested(mut self) -> Result<Self> {
        self.assign(&Offsets::new())?;
        (self.far_ahead, self.is_far, self.ahead, self.kept_survey) = (None, false, None, None);
        self.from.clear();
        Ok(self)
    }

    /// Makes the survey with which a second leg begins. If another one is asked for first, it is not used.
    ///
    /// # Errors
    /// As [`survey`](TopicLog::survey).
    pub fn surveyed(mut self) -> Result<Self> {
        self.ahead = Some(self.query_all(Of::Before)?);
        Ok(self)
    }

    /// A client that does not have the topic's metadata lets its first question for offsets wait for half a second.
    fn load_topic(&self, client: Arc<Reader>) -> Result<Arc<Reader>> {
        let ask = |turn| client.fetch_metadata(Some(&self.topic), turn);
        let known = self.call("find", || client.context().in_turns(self.limit, ask, || poll_reports(&client)));
        known.map_err(|error| client.context().explain(&self.what("find"), &error, &self.uses))?;
        Ok(client)
    }

    /// What a transactional producer needs to commit offsets for the group.
    #[must_use]
    pub fn group_metadata(&self) -> Option<ConsumerGroupMetadata> {
        self.committed_reader.group_metadata()
    }

    fn what(&self, verb: &str) -> String {
        format!("cannot {verb} topic {} at {}", self.topic, self.brokers)
    }

    fn explained<T>(&self, verb: &str, result: Result<T, KafkaError>) -> Result<T> {
        let context = self.committed_reader.context();
        match result {
            Ok(value) => {
                context.forget();
                Ok(value)
            }
            Err(error) => {
                poll_reports(&self.committed_reader);
                Err(context.explain(&self.what(verb), &error, &self.uses))
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
        self.explained(
            verb,
            self.call(verb, || context.in_turns(self.limit, ask, || poll_reports(&self.committed_reader))),
        )
    }

    /// The known partitions for which `at` has an offset, as librdkafka wants them.
    fn list(&self, at: impl Fn(i32) -> Option<Offset>) -> Result<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for &partition in &self.partitions {
            if let Some(offset) = at(partition) {
                self.explained("name the partitions of", list.add_partition_offset(&self.topic, partition, offset))?;
            }
        }
        Ok(list)
    }

    /// The client that reads.
    fn reader(&self) -> &Reader {
        self.far_reader.as_ref().filter(|_| self.is_far).unwrap_or(&self.committed_reader)
    }

    /// Where reading stands in each partition that is read.
    fn stands(&self) -> Result<Offsets> {
        let mut stands = self.from.clone();
        let positions = self.explained("read", self.call("read", || self.reader().position()))?;
        for element in positions.elements() {
            if let (Some(at), Offset::Offset(next)) = (stands.get_mut(&element.partition()), element.offset()) {
                *at = next.max(*at);
            }
        }
        Ok(stands)
    }

    /// Whether it is not asked for: it comes behind what was read before.
    fn is_passed_over(&self, partition: i32, offset: i64) -> bool {
        self.is_continued && self.from.get(&partition).is_none_or(|from| offset < *from)
    }

    /// Whether what is read at present comes to these offsets next: only a marker lies before them. To assign them anew would cost the
    /// fetch under way, and another one.
    fn comes_to(&self, from: &Offsets) -> Result<bool> {
        if from.keys().any(|partition| !self.from.contains_key(partition)) {
            return Ok(false);
        }
        let stands = self.stands()?;
        let is_near =
            |(partition, next): (&i32, &i64)| stands.get(partition).is_some_and(|at| (next - 1..=*next).contains(at));
        Ok(from.iter().all(is_near))
    }

    fn assign(&self, from: &Offsets) -> Result<()> {
        let list = self.list(|partition| from.get(&partition).copied().map(Offset::Offset))?;
        self.explained("read", self.call("read", || self.reader().assign(&list)))
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
            match self.call("read", || self.reader().poll(left)) {
                None => break,
                Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => {
                    self.caught_up.insert(partition);
                    break;
                }
                Some(Err(error)) if self.passes(&error) && !left.is_zero() => {}
                Some(Err(error)) => return self.explained("read", Err(error)),
            }
        }
        (self.from, self.is_continued) = (stands, false);
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
                self.reader().poll(left)
            } else {
                self.watchdog.watch(&self.what("read"), left + GRACE, || self.reader().poll(left))
            };
            let ended = match polled {
                Some(Ok(message)) if self.is_passed_over(message.partition(), message.offset()) => continue,
                Some(Ok(message)) => {
                    sink(&message);
                    return Ok(Polled::Record);
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    Some(partition).filter(|partition| !self.is_passed_over(*partition, i64::MAX))
                }
                // librdkafka connects again by itself; the caller has a limit for the whole.
                Some(Err(error)) if self.passes(&error) => {
                    log::debug!("reading topic {}: {error}", self.topic);
                    None
                }
                Some(Err(error)) => return self.explained("read", Err(error)),
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

    /// Whether reading goes on after an error: librdkafka connects, or logs in, again by itself.
    fn passes(&self, error: &KafkaError) -> bool {
        passes(error) || self.reader().context().is_past(error)
    }

    /// Whether this many records are worth a client of their own.
    fn is_worth_far(&self, records: u64) -> bool {
        self.trip.is_some_and(|trip| trip >= FAR_TRIP) && records >= FAR_RECORDS
    }

    /// How much the client fetches that reads from far away.
    fn far_size(&self) -> FetchSize {
        if self.is_distant() { DISTANT } else { FAR }
    }

    /// A client that takes no notice of transactions: the isolation level belongs to the client.
    fn written_reader(&mut self) -> Result<Arc<Reader>> {
        let reader = match self.written_reader.take() {
            Some(reader) => reader,
            None => self.load_topic(consumer(&self.config, &self.group, "read_uncommitted", NEAR)?)?,
        };
        self.written_reader = Some(reader.clone());
        Ok(reader)
    }

    fn load_partitions(&mut self) -> Result<()> {
        if self.partitions.is_empty() {
            self.partitions()?;
        }
        Ok(())
    }
}

impl TopicLog for KafkaLog {
    fn partitions(&mut self) -> Result<Vec<i32>> {
        self.partitions = self.query_partitions()?;
        Ok(self.partitions.clone())
    }

    fn ends(&mut self, end: End) -> Result<Offsets> {
        self.load_partitions()?;
        match end {
            End::Stable => self.offsets_at(&self.committed_reader, Offset::End),
            End::Written => {
                let reader = self.written_reader()?;
                self.offsets_at(&reader, Offset::End)
            }
        }
    }

    fn starts(&mut self) -> Result<Offsets> {
        self.load_partitions()?;
        self.offsets_at(&self.committed_reader, Offset::Beginning)
    }

    fn committed(&mut self) -> Result<BTreeMap<i32, Committed>> {
        self.load_partitions()?;
        self.offsets_of_group(&self.committed_reader)
    }

    fn committed_before(&mut self) -> Result<BTreeMap<i32, Committed>> {
        self.load_partitions()?;
        let reader = self.written_reader()?;
        self.offsets_of_group(&reader)
    }

    fn survey(&mut self, of: Of) -> Result<Survey> {
        match (self.ahead.take(), of) {
            (Some(survey), Of::Before) => Ok(survey),
            _ => self.query_all(of),
        }
    }

    fn survey_beside<T>(&mut self, of: Of, work: impl FnOnce() -> Result<T>) -> Result<(Survey, T)> {
        let (survey, done) = both("survey", || Ok(self.query_all(of)), || Ok(work()))?;
        let done = done?;
        Ok((survey?, done))
    }

    fn written_beside<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<(Offsets, T)> {
        let (wanted, limit) = (self.list(|_| Some(Offset::End))?, self.limit);
        let (reader, watchdog, what) = (self.written_reader()?, self.watchdog.clone(), self.what(ASK));
        let ask = || Ok(watchdog.watch(&what, limit + GRACE, || reader.offsets_for_times(wanted, limit)));
        let (found, done) = both("written ends", ask, || work(self))?;
        Ok((self.offsets_in(found)?, done))
    }

    fn keep_survey(&mut self, survey: Survey) {
        self.kept_survey = Some(survey);
    }

    fn kept_survey(&mut self) -> Option<Survey> {
        self.kept_survey.take()
    }

    fn expect(&mut self, records: u64) {
        if self.is_worth_far(records) && self.far_reader.is_none() && self.far_ahead.is_none() {
            let (config, group, topic) = (self.config.clone(), self.group.clone(), self.topic.clone());
            let (limit, ends, size) = (self.limit, self.list(|_| Some(Offset::End)), self.far_size());
            let open = move || connected_far(&config, &group, &topic, size, ends.ok()?, limit);
            self.far_ahead = sync::spawn("far reader", open).ok();
        }
    }

    fn trip(&self) -> Duration {
        self.trip.unwrap_or_default()
    }

    fn is_distant(&self) -> bool {
        if mutant::is("every server is far away") {
            return true;
        }
        self.trip() >= DISTANT_TRIP
    }

    fn read_from(&mut self, from: &Offsets, until: &Offsets) -> Result<()> {
        self.is_continued = self.comes_to(from)?;
        self.from.clone_from(from);
        self.until.clone_from(until);
        self.caught_up.clear();
        let records: i64 = until.iter().map(|(partition, end)| from.get(partition).map_or(0, |next| end - next)).sum();
        let is_far = self.is_worth_far(u64::try_from(records).unwrap_or_default());
        if is_far && self.far_reader.is_none() {
            let ahead = self.far_ahead.take();
            let opened = self.call("read", || ahead.and_then(|opening| opening.join().ok().flatten()));
            self.far_reader = match opened {
                Some(reader) => Some(reader),
                None => Some(consumer(&self.config, &self.group, "read_committed", self.far_size())?),
            };
        }
        if is_far != self.is_far {
            // The other one stops reading.
            self.assign(&Offsets::new())?;
            self.is_far = is_far;
        } else if self.is_continued {
            return Ok(());
        }
        self.is_continued = false;
        self.assign(from)
    }

    fn poll(&mut self, wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Polled> {
        self.poll_message(wait, |message| {
            sink(Record {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                key: message.key(),
                value: message.payload(),
                headers: &|| headers::read(message, 0),
            });
        })
    }
}

/// What a client's threads report (a refused password) arrives only when the client is polled.
fn poll_reports(client: &BaseConsumer<Context>) {
    // Where no broker listens, a new report comes every few milliseconds.
    let until = Instant::now() + REPORT_WAIT * 5;
    for _ in 0..REPORTS {
        if client.poll(REPORT_WAIT).is_none() || Instant::now() > until {
            break;
        }
    }
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

//! One client of librdkafka that writes, its transactions, and what becomes of each record that it is handed.

use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::acl::Uses;
use super::client::{Context, Detached, GRACE, REPORT_WAIT, base, has_token, make};
use super::idle::{self, Idle};
use crate::config::Config;
use crate::crash;
use crate::data::RecordPosition;
use crate::error::{Error, Result};
use crate::run_id::RunId;
use crate::threads::watchdog::Watchdog;

/// How long the sender sleeps before it looks again. It never lets the library's poll wait: that takes all the time that it is
/// given, and the last millisecond of it, which is no whole one, in a loop that keeps a processor busy.
const TICK: Duration = Duration::from_micros(500);

/// The library's client, which may be polled at any time.
pub(super) struct Client {
    client: Detached<BaseProducer<Deliveries>>,
    /// Held while it is polled from aside: a report that is out of the queue may not be noted yet.
    aside: Mutex<()>,
}

impl Deref for Client {
    type Target = BaseProducer<Deliveries>;

    fn deref(&self) -> &Self::Target {
        &self.client
    }
}

impl Client {
    /// Waits until nobody else has a report in hand.
    fn wait_for_aside(&self) {
        drop(self.aside.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Idle for Client {
    fn poll_idle(&self) {
        let _aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        self.client.poll(Duration::ZERO);
    }
}

/// A producer that writes to one topic.
pub(super) struct Producer {
    pub(super) client: Arc<Client>,
    pub(super) topic: String,
    pub(super) transactional: bool,
    pub(super) transactional_id: String,
    /// Whether it has been connected once.
    is_connected: bool,
    uses: Uses,
    limit: Duration,
    watchdog: Watchdog,
}

impl Producer {
    /// As [`KafkaWriter::new`](super::KafkaWriter::new); `uses` is what it needs permission for.
    pub(super) fn new(
        config: &Config,
        transactional_id: &str,
        topic: &str,
        max_bytes: Option<usize>,
        uses: Uses,
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
        let deliveries = Deliveries { base: Context::of(config), ..Deliveries::default() };
        let client: Detached<BaseProducer<Deliveries>> = Detached::new(make(&mut client, config, deliveries)?);
        has_token(&client.context().base, |wait| client.poll(wait));
        let client = Arc::new(Client { client, aside: Mutex::default() });
        if let Some(tokens) = client.context().base.login.tokens() {
            idle::keep(&client, tokens);
        }
        Ok(Self {
            client,
            topic: topic.to_owned(),
            transactional,
            transactional_id: transactional_id.to_owned(),
            is_connected: false,
            uses,
            limit,
            watchdog: watchdog.clone(),
        })
    }

    pub(super) fn watched_by(&mut self, watchdog: &Watchdog) {
        self.watchdog = watchdog.clone();
    }

    pub(super) fn connect(&mut self) -> Result<()> {
        if self.is_connected {
            return Ok(());
        }
        // A client that is not connected looks for its coordinator again only after half a second. The first question
        // connects it; a second one waits until the answer to the first, which renames the connection, is worked in. If a broker has
        // answered that is known by its number, there is nothing to rename.
        let (context, client) = (&self.client.context().base, self.client.client());
        for _ in 0..2 {
            let ask = |turn| client.fetch_metadata(Some(&self.topic), turn);
            let poll_reports = || self.client.poll(REPORT_WAIT);
            let connected = self.call("fence", || context.in_turns(self.limit, ask, poll_reports));
            let answer = connected.map_err(|error| self.explain("fence", &error))?;
            if answer.orig_broker_id() >= 0 {
                break;
            }
        }
        self.is_connected = true;
        Ok(())
    }

    pub(super) fn what(&self, verb: &str) -> String {
        format!("cannot {verb} topic {} as {}", self.topic, self.transactional_id)
    }

    pub(super) fn explain(&self, verb: &str, error: &KafkaError) -> Error {
        self.client.context().base.explain(&self.what(verb), error, &self.uses)
    }

    /// Waits for `call` under the watchdog: a commit of offsets ignores its limit while the coordinator of both group
    /// and transactions leaves and comes back (<https://github.com/confluentinc/librdkafka/issues/5456>,
    /// <https://github.com/confluentinc/librdkafka/issues/5511>).
    pub(super) fn call<T>(&self, verb: &str, call: impl FnOnce() -> T) -> T {
        self.watchdog.watch(&self.what(verb), self.limit + GRACE, call)
    }

    /// Repeats a transactional call that says it may be repeated, until the limit.
    pub(super) fn retried(&self, verb: &str, call: impl Fn(Duration) -> KafkaResult<()>) -> Result<()> {
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

    pub(super) fn begin(&self, verb: &str) -> Result<()> {
        self.client.context().reset();
        if self.transactional {
            self.call(verb, || self.client.begin_transaction()).map_err(|error| self.explain(verb, &error))?;
        }
        crash::point("kafka.begin.after");
        Ok(())
    }

    /// Gives up the open transaction. If that fails too, the next fence does it.
    pub(super) fn abort(&self, verb: &str) -> Result<()> {
        crash::point("kafka.abort.before");
        self.retried(verb, |limit| self.client.abort_transaction(limit))?;
        crash::point("kafka.abort.after");
        Ok(())
    }

    /// Hands a record over, waiting while librdkafka's queue is full. `false`: it is too large for this client's limit.
    pub(super) fn hand_over(&self, verb: &str, mut record: BaseRecord<'_, [u8], [u8], usize>) -> Result<bool> {
        let mut until = None;
        loop {
            match self.client.send(record) {
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
    pub(super) fn settle(&self, verb: &str) -> Result<()> {
        let until = Instant::now() + self.limit + TICK;
        while self.client.in_flight_count() > 0 {
            if Instant::now() > until {
                return Err(self.explain(verb, &KafkaError::MessageProduction(Code::MessageTimedOut)));
            }
            self.take_reports();
        }
        self.client.wait_for_aside();
        Ok(())
    }

    /// Takes the reports that are there; sleeps if there is none.
    fn take_reports(&self) {
        let before = self.client.in_flight_count();
        self.client.poll(Duration::ZERO);
        if self.client.in_flight_count() == before {
            std::thread::sleep(TICK);
        }
    }

    /// Why librdkafka has purged what it was given: another producer has shut this one out, or the transaction has failed as a
    /// whole (the topic may not be written to).
    pub(super) fn behind_purge(&self, purged: KafkaError) -> KafkaError {
        if let Some((code, _)) = self.client.client().fatal_error() {
            return KafkaError::MessageProduction(code);
        }
        // Within a transaction none can begin: the answer says what has become of the present one.
        let failed = if self.transactional { self.client.begin_transaction().err() } else { None };
        failed.filter(|error| error.rdkafka_error_code() != Some(Code::State)).unwrap_or(purged)
    }

    pub(super) fn commit_transaction(&self, verb: &str) -> Result<()> {
        crash::point("kafka.commit.before");
        if self.transactional {
            self.retried(verb, |limit| self.client.commit_transaction(limit))?;
        }
        self.client.context().base.forget();
        crash::point("kafka.commit.after");
        Ok(())
    }
}

/// Takes the outcome of every record, by its index.
#[derive(Default)]
pub(super) struct Deliveries {
    pub(super) base: Context,
    outcomes: Mutex<Outcomes>,
}

#[derive(Default)]
pub(super) struct Outcomes {
    /// By the records' indices.
    pub(super) at: Vec<Option<RecordPosition>>,
    pub(super) failed: Vec<(usize, KafkaError)>,
}

impl Deliveries {
    fn reset(&self) {
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner) = Outcomes::default();
    }

    pub(super) fn take(&self) -> Outcomes {
        std::mem::take(&mut *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ClientContext for Deliveries {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, config: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.base.generate_oauth_token(config)
    }

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

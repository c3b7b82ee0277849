//! Topics: their limits, and their making.
//!
//! The library offers these calls as futures only; each is waited for here, at once, and nothing else of pg2ch is async.

use std::collections::BTreeMap;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::acl::Uses;
use super::client::{Context, Detached, GRACE, base, make};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::threads::watchdog::Watchdog;

/// What is done with a topic, and the operation that must be allowed for it.
type Call = (&'static str, &'static [&'static str]);

/// What a topic of dead letters is created with. They wait for a person, whatever time the brokers keep records for.
pub const KEPT: &[(&str, &str)] = &[("retention.ms", "-1"), ("retention.bytes", "-1")];

/// The command that creates a topic with these settings, as far as one can type it.
#[must_use]
pub fn create_command(brokers: &str, options: &str, topic: &str, settings: &[(&str, &str)]) -> String {
    let settings: String = settings.iter().map(|(name, value)| format!(" --config {name}={value}")).collect();
    format!("kafka-topics.sh --bootstrap-server {brokers} --create{options} --topic {topic}{settings}")
}

/// The cluster's administration.
pub struct Admin {
    client: Detached<AdminClient<Context>>,
    options: AdminOptions,
    config: Config,
    watchdog: Watchdog,
}

impl Admin {
    /// Makes a client; no connection is waited for. `None` with OAUTHBEARER: the library never polls such a client for its events, of
    /// which the wish for a token is one, and so it never connects.
    ///
    /// # Errors
    /// 78 if librdkafka refuses a property.
    pub fn new(config: &Config, watchdog: &Watchdog) -> Result<Option<Self>> {
        if config.kafka.token_source.is_some() {
            return Ok(None);
        }
        let client = Detached::new(make(&mut base(config), config, Context::default())?);
        let limit = Some(config.timeouts.kafka);
        let options = AdminOptions::new().request_timeout(limit).operation_timeout(limit);
        Ok(Some(Self { client, options, config: config.clone(), watchdog: watchdog.clone() }))
    }

    /// The client for another run, whose watchdog it gets.
    #[must_use]
    pub fn watched_by(self, watchdog: &Watchdog) -> Self {
        Self { watchdog: watchdog.clone(), ..self }
    }

    fn what(&self, (verb, _): Call, topic: &str) -> String {
        format!("cannot {verb} topic {topic} at {}", self.config.kafka.brokers)
    }

    /// Waits for `call` under the watchdog.
    fn call<T>(&self, to: Call, topic: &str, call: impl FnOnce() -> T) -> T {
        self.watchdog.watch(&self.what(to, topic), self.config.timeouts.kafka + GRACE, call)
    }

    fn explain(&self, call: Call, topic: &str, error: &KafkaError) -> Error {
        let uses = Uses::topics(&self.config, &[topic]).only(call.1);
        self.client.inner().context().explain(&self.what(call, topic), error, &uses)
    }

    /// Every setting of a topic that has a value, defaults included.
    ///
    /// # Errors
    /// Kafka's.
    pub fn topic_settings(&self, topic: &str) -> Result<BTreeMap<String, String>> {
        const CALL: Call = ("read the settings of", &["DescribeConfigs"]);
        let wanted = [ResourceSpecifier::Topic(topic)];
        let describe = || pollster::block_on(self.client.describe_configs(&wanted, &self.options));
        let answer = self.call(CALL, topic, describe);
        let resources = answer.map_err(|error| self.explain(CALL, topic, &error))?;
        let found: Result<Vec<ConfigResource>, Code> = resources.into_iter().collect();
        let found = found.map_err(|code| self.explain(CALL, topic, &KafkaError::AdminOp(code)))?;
        let entries = found.into_iter().flat_map(|resource| resource.entries);
        let settings: BTreeMap<_, _> = entries.filter_map(|entry| Some((entry.name, entry.value?))).collect();
        if settings.is_empty() {
            // The library loses the code of a topic that may not be asked for. One that may has settings.
            return Err(self.explain(CALL, topic, &KafkaError::AdminOp(Code::TopicAuthorizationFailed)));
        }
        Ok(settings)
    }

    /// How many copies the partition with the fewest has.
    ///
    /// # Errors
    /// Kafka's.
    pub fn replication(&self, topic: &str) -> Result<i64> {
        const CALL: Call = ("look up", &["Describe"]);
        let ask = || self.client.inner().fetch_metadata(Some(topic), self.config.timeouts.kafka);
        let answer = self.call(CALL, topic, ask);
        let metadata = answer.map_err(|error| self.explain(CALL, topic, &error))?;
        let partitions = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
        let fewest = partitions.map(|partition| partition.replicas().len()).min().unwrap_or(0);
        Ok(i64::try_from(fewest).unwrap_or(i64::MAX))
    }

    /// Creates a topic, partitions and replication as the cluster has them by default. `false` if it exists already.
    ///
    /// # Errors
    /// Kafka's.
    pub fn create_topic(&self, topic: &str, settings: &[(&str, &str)]) -> Result<bool> {
        const CALL: Call = ("create", &["Create"]);
        let mut new = NewTopic::new(topic, -1, TopicReplication::Fixed(-1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let create = || pollster::block_on(self.client.create_topics([&new], &self.options));
        let answer = self.call(CALL, topic, create);
        let results = answer.map_err(|error| self.explain(CALL, topic, &error))?;
        match results.into_iter().next() {
            Some(Err((_, Code::TopicAlreadyExists))) => Ok(false),
            Some(Err((_, code))) => Err(self.explain(CALL, topic, &KafkaError::AdminOp(code))),
            _ => Ok(true),
        }
    }
}

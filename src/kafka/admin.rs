//! Topics: their limits, and their making.
//!
//! The library offers these calls as futures only; each is waited for here, at once, and nothing else of pg2ch is async.

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::client::{Context, base};
use super::log::refused;
use crate::config::Config;
use crate::error::Result;

/// The cluster's administration.
pub struct Admin {
    client: AdminClient<Context>,
    options: AdminOptions,
    brokers: String,
}

impl Admin {
    /// Makes a client; no connection is waited for.
    ///
    /// # Errors
    /// 78 if librdkafka refuses a property.
    pub fn new(config: &Config) -> Result<Self> {
        let client = base(config).create_with_context(Context::default()).map_err(|error| refused(config, &error))?;
        let limit = Some(config.timeouts.kafka);
        let options = AdminOptions::new().request_timeout(limit).operation_timeout(limit);
        Ok(Self { client, options, brokers: config.kafka.brokers.clone() })
    }

    fn explain(&self, verb: &str, topic: &str, error: &KafkaError) -> crate::error::Error {
        self.client.inner().context().explain(&format!("cannot {verb} topic {topic} at {}", self.brokers), error)
    }

    /// A setting of a topic, as the cluster has it; `None` if it has no such setting.
    ///
    /// # Errors
    /// Kafka's.
    pub fn topic_setting(&self, topic: &str, name: &str) -> Result<Option<String>> {
        const VERB: &str = "read the settings of";
        let wanted = [ResourceSpecifier::Topic(topic)];
        let answer = pollster::block_on(self.client.describe_configs(&wanted, &self.options));
        let resources = answer.map_err(|error| self.explain(VERB, topic, &error))?;
        let found: Result<Vec<ConfigResource>, Code> = resources.into_iter().collect();
        let found = found.map_err(|code| self.explain(VERB, topic, &KafkaError::AdminOp(code)))?;
        let entry = found.first().and_then(|resource| resource.get(name));
        Ok(entry.and_then(|entry| entry.value.clone()))
    }

    /// Creates a topic, partitions and replication as the cluster has them by default. `false` if it exists already.
    ///
    /// # Errors
    /// Kafka's.
    pub fn create_topic(&self, topic: &str, settings: &[(&str, &str)]) -> Result<bool> {
        const VERB: &str = "create";
        let mut new = NewTopic::new(topic, -1, TopicReplication::Fixed(-1));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let answer = pollster::block_on(self.client.create_topics([&new], &self.options));
        let results = answer.map_err(|error| self.explain(VERB, topic, &error))?;
        match results.into_iter().next() {
            Some(Err((_, Code::TopicAlreadyExists))) => Ok(false),
            Some(Err((_, code))) => Err(self.explain(VERB, topic, &KafkaError::AdminOp(code))),
            _ => Ok(true),
        }
    }
}

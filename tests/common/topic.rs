//! A world's topic: made, changed, deleted, and what committed readers see of it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::metadata::Metadata;
use rdkafka::{Offset, TopicPartitionList};

use super::World;

/// A record as a consumer of committed records sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub partition: i32,
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: String,
    pub value: String,
    pub headers: HashMap<String, String>,
    /// The names of its headers, in their order.
    pub header_names: Vec<String>,
}

impl World {
    /// The shared brokers' client is made once: to end one takes a tenth of a second.
    pub fn admin(&self) -> Arc<AdminClient<DefaultClientContext>> {
        static SHARED: OnceLock<Arc<AdminClient<DefaultClientContext>>> = OnceLock::new();
        let make = || Arc::new(self.client().create().unwrap());
        if self.servers.has_shared_brokers() { SHARED.get_or_init(make).clone() } else { make() }
    }

    /// A client's configuration for the brokers of this world.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.servers.brokers).set("group.id", format!("{}-reader", self.name));
        config
    }

    pub fn create_topic(&self, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
        for (key, value) in settings {
            new = new.set(key, value);
        }
        let results = pollster::block_on(self.admin().create_topics([&new], &admin_options())).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
        self.wait_for_partitions(topic, partitions);
    }

    /// Gives the topic this many partitions, more than it has.
    pub fn add_partitions(&self, partitions: i32) {
        let new = NewPartitions::new(&self.name, usize::try_from(partitions).unwrap());
        let results = pollster::block_on(self.admin().create_partitions([&new], &admin_options())).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
        self.wait_for_partitions(&self.name, partitions);
    }

    fn wait_for_partitions(&self, topic: &str, partitions: i32) {
        self.wait_for("the topic's partitions to appear", || {
            self.metadata(topic).is_ok_and(|m| m.topics()[0].partitions().len() == usize::try_from(partitions).unwrap())
        });
    }

    /// Changes a setting of the topic.
    pub fn alter_topic(&self, key: &str, value: &str) {
        self.alter_topic_named(&self.name, key, value);
    }

    pub fn alter_topic_named(&self, topic: &str, key: &str, value: &str) {
        self.alter_topic_settings(topic, &[(key, value)]);
    }

    /// Gives a topic these settings, and no others.
    pub fn alter_topic_settings(&self, topic: &str, settings: &[(&str, &str)]) {
        let mut config = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (key, value) in settings {
            config = config.set(key, value);
        }
        let results = pollster::block_on(self.admin().alter_configs([&config], &admin_options())).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    pub fn delete_topic(&self, topic: &str) {
        let results = pollster::block_on(self.admin().delete_topics(&[topic], &admin_options())).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
        self.wait_for("the topic to vanish", || self.metadata(topic).is_ok_and(|m| m.topics()[0].error().is_some()));
    }

    /// Asks the broker to delete the world's topics. Whether it does, and when, nobody looks.
    pub(super) fn try_to_delete_topics(&self) {
        let topics = [&self.name, &format!("{}.dead", self.name)];
        let _ = pollster::block_on(self.admin().delete_topics(&topics.map(String::as_str), &admin_options()));
    }

    fn metadata(&self, topic: &str) -> Result<Metadata, KafkaError> {
        self.client().create::<BaseConsumer>().unwrap().fetch_metadata(Some(topic), Duration::from_secs(5))
    }

    /// Deletes the records below `offset` of a partition, as retention does.
    pub fn delete_records(&self, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(offset)).unwrap();
        pollster::block_on(self.admin().delete_records(&list, &admin_options())).unwrap();
    }

    /// How many records the topic holds for consumers of committed records.
    pub fn records(&self) -> usize {
        self.topic().len()
    }

    /// What the topic holds for consumers of committed records, by partition and offset.
    pub fn topic(&self) -> Vec<Seen> {
        self.topic_named(&self.name)
    }

    pub fn topic_named(&self, topic: &str) -> Vec<Seen> {
        let mut seen = Vec::new();
        self.each_record(topic, |record| seen.push(record));
        seen.sort_by_key(|record| (record.partition, record.offset));
        seen
    }

    /// The same one by one: those of a partition by their offset.
    pub fn each_record(&self, topic: &str, mut look: impl FnMut(Seen)) {
        let consumer: BaseConsumer = self
            .client()
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "10")
            .create()
            .unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
        }
        let mut open = list.count();
        consumer.assign(&list).unwrap();
        while open > 0 {
            match consumer.poll(Duration::from_secs(20)).expect("a record or an end within 20 s") {
                Ok(message) => look(Seen::of(&message)),
                Err(KafkaError::PartitionEOF(_)) => open -= 1,
                // One of several may be down: the others have everything.
                Err(error) if error.rdkafka_error_code().is_some_and(is_broker_away) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

const fn is_broker_away(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown)
}

impl Seen {
    fn of(message: &impl Message) -> Self {
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let headers = message
            .headers()
            .map(|headers| headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect());
        let names = message.headers().map(|headers| headers.iter().map(|header| header.key.to_owned()).collect());
        Self {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            key: text(message.key()),
            value: text(message.payload()),
            headers: headers.unwrap_or_default(),
            header_names: names.unwrap_or_default(),
        }
    }
}

pub fn admin_options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(Duration::from_secs(20))).operation_timeout(Some(Duration::from_secs(20)))
}

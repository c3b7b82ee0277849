//! What other producers and consumers do to a world's topic and its group.

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::World;

impl World {
    /// Writes records (partition, key, value; `None` is a tombstone) as another producer would.
    pub fn send(&self, records: &[(i32, &str, Option<&str>)]) {
        self.send_to(&self.name, records);
    }

    pub fn send_to(&self, topic: &str, records: &[(i32, &str, Option<&str>)]) {
        let producer: BaseProducer = self.client().set("linger.ms", "0").create().unwrap();
        for (partition, key, value) in records {
            let mut record = BaseRecord::to(topic).key(*key).partition(*partition).headers(OwnedHeaders::new());
            if let Some(value) = value {
                record = record.payload(*value);
            }
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(Duration::from_secs(10)).unwrap();
    }

    /// A row of `user_logins` as JSON.
    pub fn login(id: i64, event_type: &str) -> String {
        format!(
            r#"{{"id":{id},"user_id":{id},"event_type":"{event_type}","event_time":"2026-01-02T03:04:05.123456+00:00","details":null}}"#
        )
    }

    /// Writes `count` rows of `user_logins`, over three partitions, each with an id of its own.
    pub fn send_logins(&self, count: i64) {
        static NEXT: AtomicI64 = AtomicI64::new(1);
        let first = NEXT.fetch_add(count, Ordering::Relaxed);
        let rows: Vec<_> = (first..first + count).map(|id| (id.to_string(), Self::login(id, "sent"))).collect();
        let place = |at: usize| i32::try_from(at % 3).unwrap();
        let records: Vec<_> =
            rows.iter().enumerate().map(|(at, (key, value))| (place(at), key.as_str(), Some(value.as_str()))).collect();
        self.send(&records);
    }

    /// Every committed record is once in the target, or it is once a dead letter.
    pub fn assert_every_record_once(&self) {
        let dead: Vec<(i32, i64)> = self
            .topic_named(&format!("{}.dead", self.name))
            .iter()
            .map(|letter| {
                let number = |name: &str| letter.headers[name].parse::<i64>().unwrap();
                (i32::try_from(number("pg2ch-partition")).unwrap(), number("pg2ch-offset"))
            })
            .collect();
        let distinct: HashSet<_> = dead.iter().copied().collect();
        assert_eq!(distinct.len(), dead.len(), "letters that are there twice: {dead:?}");
        let mut records = self.topic();
        let all = records.len();
        records.retain(|record| !distinct.contains(&(record.partition, record.offset)));
        assert_eq!(all - records.len(), dead.len(), "letters of records that are not in the topic");
        self.assert_target_equals_topic(&records);
    }

    /// Commits offsets for the group as an ordinary consumer does: a plain commit, no metadata of ours.
    pub fn set_offsets(&self, offsets: &[(i32, i64)]) {
        let consumer: BaseConsumer = self.client().set("group.id", &self.name).create().unwrap();
        let mut list = TopicPartitionList::new();
        for &(partition, offset) in offsets {
            list.add_partition_offset(&self.name, partition, Offset::Offset(offset)).unwrap();
        }
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// The group's offsets, with their metadata.
    pub fn offsets(&self) -> Vec<(i32, i64, String)> {
        let consumer: BaseConsumer = self.client().set("group.id", &self.name).create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&self.name), Duration::from_secs(10)).unwrap();
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition(&self.name, partition.id());
        }
        let committed = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
        let mut offsets: Vec<_> = committed
            .elements()
            .iter()
            .filter_map(|e| match e.offset() {
                Offset::Offset(offset) => Some((e.partition(), offset, e.metadata().to_owned())),
                _ => None,
            })
            .collect();
        offsets.sort();
        offsets
    }

    /// Commits offsets with the metadata that they had.
    pub fn restore_offsets(&self, offsets: &[(i32, i64, String)]) {
        let consumer: BaseConsumer = self.client().set("group.id", &self.name).create().unwrap();
        let mut list = TopicPartitionList::new();
        for (partition, offset, metadata) in offsets {
            let mut element = list.add_partition(&self.name, *partition);
            element.set_offset(Offset::Offset(*offset)).unwrap();
            element.set_metadata(metadata);
        }
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// Deletes the group's offsets, as an operator does with `kafka-consumer-groups.sh`.
    pub fn delete_group(&self) {
        let options = super::admin_options();
        let results = pollster::block_on(self.admin().delete_groups(&[&self.name], &options)).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }

    /// Opens a transaction with one record in it, and leaves it open for as long as the producer lives.
    pub fn open_transaction(&self, partition: i32, key: &str, value: &str) -> BaseProducer {
        let producer: BaseProducer =
            self.client().set("transactional.id", format!("{}-foreign", self.name)).create().unwrap();
        producer.init_transactions(Duration::from_secs(10)).unwrap();
        producer.begin_transaction().unwrap();
        producer
            .send(BaseRecord::to(&self.name).key(key).payload(value).partition(partition))
            .map_err(|(e, _)| e)
            .unwrap();
        producer.flush(Duration::from_secs(10)).unwrap();
        producer
    }
}

//! What other producers write to a world's topic.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rdkafka::message::OwnedHeaders;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::World;

const LIMIT: Duration = Duration::from_secs(20);

/// Key and value.
pub type Pair<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Another producer, which writes to the topic what it likes.
pub struct Foreign {
    producer: BaseProducer,
    topic: String,
}

impl Foreign {
    pub fn new(world: &World) -> Self {
        Self { producer: world.client().create().unwrap(), topic: world.name.clone() }
    }

    /// Begins a transaction, sends a record in it to partition 0, and leaves it open.
    pub fn with_open_transaction(world: &World) -> Self {
        Self { producer: world.open_transaction(0, "undecided", "{}"), topic: world.name.clone() }
    }

    /// Sends records, key and value, and waits until they are there. What has the key of a row goes where the row's record goes.
    pub fn send(&self, records: &[Pair<'_>]) {
        for (key, value) in records {
            let mut record = BaseRecord::to(&self.topic);
            if let Some(key) = key {
                record = record.key(*key);
            }
            if let Some(value) = value {
                record = record.payload(*value);
            }
            self.producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        self.producer.flush(LIMIT).unwrap();
    }

    pub fn abort(self) {
        self.producer.abort_transaction(LIMIT).unwrap();
    }
}

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
        producer.flush(LIMIT).unwrap();
    }

    /// A row of `user_logins` as JSON.
    pub fn login(id: i64, event_type: &str) -> String {
        format!(
            r#"{{"id":{id},"user_id":{id},"event_type":"{event_type}","event_time":"2026-01-02T03:04:05.123456+00:00","payload":null}}"#
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

    /// Opens a transaction with one record in it, and leaves it open for as long as the producer lives.
    pub fn open_transaction(&self, partition: i32, key: &str, value: &str) -> BaseProducer {
        let producer: BaseProducer =
            self.client().set("transactional.id", format!("{}-foreign", self.name)).create().unwrap();
        producer.init_transactions(LIMIT).unwrap();
        producer.begin_transaction().unwrap();
        producer
            .send(BaseRecord::to(&self.name).key(key).payload(value).partition(partition))
            .map_err(|(e, _)| e)
            .unwrap();
        producer.flush(LIMIT).unwrap();
        producer
    }
}

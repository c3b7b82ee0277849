//! Another producer, which writes to the same topic what it likes.

use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::World;

const LIMIT: Duration = Duration::from_secs(20);

/// Key and value.
pub type Pair<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

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
        let id = format!("{}-foreign", world.name);
        let producer: BaseProducer = world.client().set("transactional.id", &id).create().unwrap();
        producer.init_transactions(LIMIT).unwrap();
        producer.begin_transaction().unwrap();
        let foreign = Self { producer, topic: world.name.clone() };
        foreign.send(&[(Some(b"undecided"), Some(b"{}"))]);
        foreign
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

//! What pg2ch asks of Kafka, and the one place that knows which client answers: librdkafka.
//!
//! [`KafkaLog`] reads a topic and the group's offsets; [`KafkaWriter`] is the transactional producer.

pub mod acl;
pub mod admin;
pub mod client;
pub mod explain;
mod letter;
mod log;
mod writer;

pub use self::letter::{Letter, PolledLetter};
pub use self::log::KafkaLog;
pub use self::writer::{KafkaWriter, OffsetsOf};

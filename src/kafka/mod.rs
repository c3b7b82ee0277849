//! What pg2ch asks of Kafka, and the one place that knows which client answers: librdkafka.
//!
//! [`KafkaLog`] reads a topic and the group's offsets; [`KafkaWriter`] is the transactional producer. Fences,
//! transactions and the last stable offset are those of KIP-98:
//! <https://cwiki.apache.org/confluence/display/KAFKA/KIP-98+-+Exactly+Once+Delivery+and+Transactional+Messaging>.

pub mod acl;
pub mod admin;
pub mod client;
mod consumer;
pub mod explain;
mod headers;
mod idle;
mod letter;
mod letters;
mod log;
mod login;
mod producer;
mod tokens;
mod writer;

pub use self::letter::Letter;
pub use self::letters::Letters;
pub use self::log::KafkaLog;
pub use self::writer::{KafkaWriter, OffsetsOf};

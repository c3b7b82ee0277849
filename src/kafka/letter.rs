//! How a refused record lies in the dead-letter topic: its own key and value, and headers that say where it was and why
//! the target did not take it. A note on what became of it has headers of the same names, and no value.

use std::time::Duration;

use rdkafka::message::{BorrowedMessage, Header, Message, OwnedHeaders};

use super::headers::{add, get, read as read_headers};
use super::log::KafkaLog;
use crate::data::{DeadLetter, Fate, Headers, RecordId, RecordPosition};
use crate::error::Result;
use crate::ports::topic::Polled;

const TOPIC: &str = "pg2ch-topic";
const PARTITION: &str = "pg2ch-partition";
const OFFSET: &str = "pg2ch-offset";
const TIMESTAMP: &str = "pg2ch-timestamp";
const REASON: &str = "pg2ch-reason";
/// Stands in the place of a reason where somebody has dealt with a letter that came before.
const FATE: &str = "pg2ch-fate";
const FATES: [(&str, Fate); 2] = [("replayed", Fate::Replayed), ("dropped", Fate::Dropped)];

/// How many headers of its own a letter has, in front of those of the record.
const OWN: usize = 5;

/// What lies at one position of a dead-letter topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its own position, in the dead-letter topic.
    pub at: RecordPosition,
    /// The topic that the record was refused from.
    pub topic: String,
    /// The record as it was.
    pub record: DeadLetter,
}

impl Letter {
    /// The record that was refused.
    #[must_use]
    pub const fn id(&self) -> RecordId {
        let DeadLetter { partition, offset, timestamp_ms, .. } = self.record;
        RecordId { partition, offset, timestamp_ms }
    }
}

/// What a look at a dead-letter topic brought.
pub(super) enum PolledLetter {
    /// A letter.
    Letter(Box<Letter>),
    /// A record without the headers of a letter: not one of ours.
    Foreign(RecordPosition),
    /// The stable end of this partition.
    End(i32),
    /// Nothing within the time.
    Nothing,
}

/// The headers of a letter from topic `source`, and behind them the record's own.
pub(super) fn headers(letter: &DeadLetter, source: &str) -> OwnedHeaders {
    let numbers = [
        (PARTITION, letter.partition.to_string()),
        (OFFSET, letter.offset.to_string()),
        (TIMESTAMP, letter.timestamp_ms.to_string()),
    ];
    let mut headers = OwnedHeaders::new_with_capacity(OWN).insert(Header { key: TOPIC, value: Some(source) });
    for (key, value) in &numbers {
        headers = headers.insert(Header { key, value: Some(value) });
    }
    let headers = match FATES.iter().find(|(_, fate)| *fate == letter.fate) {
        Some((name, _)) => headers.insert(Header { key: FATE, value: Some(*name) }),
        None => headers.insert(Header { key: REASON, value: Some(&letter.reason) }),
    };
    add(headers, Headers::of(&letter.headers))
}

fn read(message: &BorrowedMessage<'_>) -> Option<Letter> {
    let headers = message.headers()?;
    let text = |name: &str| {
        let header = (0..OWN).filter_map(|index| get(headers, index)).find(|header| header.key == name)?;
        std::str::from_utf8(header.value?).ok()
    };
    let fate = match text(FATE) {
        Some(name) => FATES.iter().find(|(known, _)| *known == name).map(|(_, fate)| *fate)?,
        None => Fate::Refused,
    };
    let reason = if fate == Fate::Refused { text(REASON)?.to_owned() } else { String::new() };
    let record = DeadLetter {
        partition: text(PARTITION)?.parse().ok()?,
        offset: text(OFFSET)?.parse().ok()?,
        timestamp_ms: text(TIMESTAMP)?.parse().ok()?,
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: read_headers(message, OWN),
        reason,
        fate,
    };
    let at = RecordPosition { partition: message.partition(), offset: message.offset() };
    Some(Letter { at, topic: text(TOPIC)?.to_owned(), record })
}

impl KafkaLog {
    /// Waits for the next letter, if this is the log of a dead-letter topic.
    ///
    /// # Errors
    /// Kafka's.
    pub(super) fn poll_letter(&mut self, wait: Duration) -> Result<PolledLetter> {
        let mut found = PolledLetter::Nothing;
        let polled = self.poll_message(wait, |message| {
            let at = RecordPosition { partition: message.partition(), offset: message.offset() };
            found = read(message).map_or(PolledLetter::Foreign(at), |letter| PolledLetter::Letter(Box::new(letter)));
        })?;
        Ok(match polled {
            Polled::Record => found,
            Polled::End(partition) => PolledLetter::End(partition),
            Polled::Nothing => PolledLetter::Nothing,
        })
    }
}

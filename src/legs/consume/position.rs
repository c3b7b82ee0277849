//! What pg2ch keeps beside a committed offset: enough to trust it, and to finish what a dead run had begun.
//!
//! The text is signed with all that it depends on, so that an offset which anything else has committed, moved or copied is
//! recognised. It stays far below the 4,096 bytes that a broker keeps by default (`offset.metadata.max.bytes`).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::data::NextOffset;
use crate::mutant;

/// A record that is known to have been read: it shows whether the log is still the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRecord {
    /// Its own offset.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
}

/// An INSERT that was about to be sent: this partition's share of its rows, and its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// First offset.
    pub start: i64,
    /// Next offset after the last.
    pub end: NextOffset,
    /// The deduplication token, which also shows which partitions' shares belong together.
    pub token: String,
    /// It was refused after the target had stored its rows: views behind it may lack them.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub refused: bool,
}

impl Intent {
    /// Whether it has records from `start` to `end`.
    #[must_use]
    pub const fn overlaps(&self, start: i64, end: NextOffset) -> bool {
        self.start < end && start < self.end
    }
}

/// What is known of a partition below, at and above its committed offset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The last record below the offset, if there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last: Option<LastRecord>,
    /// Where copying began, if what lies below was left out on purpose.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub begun: NextOffset,
    /// Below this offset the target may hold records already: it has to be asked.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub ask_below: NextOffset,
    /// When this was committed, in seconds since 1970.
    pub at: u64,
    /// The INSERT in progress, as versions up to 0.2 recorded it: there was one at a time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub intent: Option<Intent>,
    /// The INSERTs in progress, in the order of their offsets: one that is sent, and the next one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub intents: Vec<Intent>,
}

/// What a signature covers besides the position itself.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Consumer group.
    pub group: &'a str,
    /// Topic.
    pub topic: &'a str,
    /// The target's identity.
    pub target: &'a str,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    pg2ch: u32,
    #[serde(flatten)]
    position: Position,
    sig: String,
}

impl Signed {
    /// Whether pg2ch wrote this, for just this offset and target.
    fn is_ours(&self, context: Context<'_>, partition: i32, next: NextOffset) -> bool {
        if mutant::is("offsets are trusted without a signature") {
            return true;
        }
        self.pg2ch == VERSION && self.sig == self.position.signature(context, partition, next)
    }
}

/// The format's version.
const VERSION: u32 = 1;

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(offset: &i64) -> bool {
    *offset == 0
}

impl Position {
    /// The text to commit with the offset `next` of `partition`.
    #[must_use]
    pub fn sign(&self, context: Context<'_>, partition: i32, next: NextOffset) -> String {
        let signed = Signed { pg2ch: VERSION, position: self.clone(), sig: self.signature(context, partition, next) };
        // Plain strings and numbers always have a JSON form; without a text the offset is asked for, not trusted.
        serde_json::to_string(&signed).unwrap_or_default()
    }

    /// Reads the text that was found with an offset; `None` if it is not pg2ch's own for just this offset and target.
    #[must_use]
    pub fn verify(text: &str, context: Context<'_>, partition: i32, next: NextOffset) -> Option<Self> {
        let signed: Signed = serde_json::from_str(text).ok()?;
        if !signed.is_ours(context, partition, next) {
            return None;
        }
        let mut position = signed.position;
        position.intents.extend(position.intent.take());
        Some(position)
    }

    /// Records an INSERT, in the place of those of some of the same records.
    pub fn intend(&mut self, intent: Intent) {
        self.forget_intents(intent.start, intent.end);
        let at = self.intents.partition_point(|other| other.start < intent.start);
        self.intents.insert(at, intent);
    }

    /// Forgets the recorded INSERTs of records from `start` to `end`; whether there were any.
    pub fn forget_intents(&mut self, start: i64, end: NextOffset) -> bool {
        let before = self.intents.len();
        self.intents.retain(|intent| !intent.overlaps(start, end));
        self.intents.len() < before
    }

    fn signature(&self, context: Context<'_>, partition: i32, next: NextOffset) -> String {
        let content = serde_json::to_string(self).unwrap_or_default();
        let covered =
            [context.group, context.topic, context.target, &partition.to_string(), &next.to_string(), &content];
        let digest = Sha256::digest(covered.join("\0"));
        digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Context<'static> = Context { group: "g", topic: "t", target: "uuid" };

    fn position() -> Position {
        Position {
            last: Some(LastRecord { offset: 41, timestamp_ms: 1_700_000_000_123 }),
            begun: 3,
            ask_below: 7,
            at: 1_700_000_001,
            intent: None,
            intents: vec![intent(43, 99), intent(99, 120)],
        }
    }

    fn intent(start: i64, end: i64) -> Intent {
        Intent { start, end, token: "token".into(), refused: false }
    }

    #[test]
    fn a_position_is_trusted_only_where_it_was_committed() {
        let text = position().sign(HERE, 3, 43);
        assert_eq!(Position::verify(&text, HERE, 3, 43), Some(position()));
        assert_eq!(Position::verify(&text, HERE, 3, 42), None, "set back");
        assert_eq!(Position::verify(&text, HERE, 4, 43), None, "another partition");
        assert_eq!(Position::verify(&text, Context { target: "other", ..HERE }, 3, 43), None, "another target");
        assert_eq!(Position::verify("", HERE, 3, 43), None, "another client");
        assert!(text.len() < 400, "{text}");
    }

    #[test]
    fn what_a_version_recorded_that_knew_one_insert_is_trusted() {
        let one = Position { intent: Some(intent(43, 99)), intents: Vec::new(), ..position() };
        let text = one.sign(HERE, 3, 43);
        assert!(text.contains(r#""intent":{"start":43,"#), "{text}");
        let read = Position::verify(&text, HERE, 3, 43);
        assert_eq!(read, Some(Position { intents: vec![intent(43, 99)], ..position() }));
    }

    #[test]
    fn an_insert_takes_the_place_of_those_of_the_same_records_and_no_others() {
        let mut position = position();
        position.intend(intent(43, 60));
        assert_eq!(position.intents, [intent(43, 60), intent(99, 120)], "half of one before the next one");
        position.intend(intent(60, 99));
        assert_eq!(position.intents, [intent(43, 60), intent(60, 99), intent(99, 120)]);
        assert!(position.forget_intents(50, 99));
        assert_eq!(position.intents, [intent(99, 120)]);
        assert!(!position.forget_intents(0, 99));
    }
}

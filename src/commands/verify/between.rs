//! What uncopied records and dead letters say about a row: only of the version that they hold, and only if none is newer.
//!
//! [`NewestLetters::between`] is the one decision. verify, its repair, `dead-letters replay` and prune go by it:
//!
//! | | verify | repair | replay of the key's pending letters | prune |
//! |---|---|---|---|---|
//! | [`InTopic`](Between::InTopic) | in the topic | leaves the row | inserts them | keeps the row |
//! | [`Refused`](Between::Refused) | dead letter | leaves the row | inserts them | keeps the row |
//! | [`Dropped`](Between::Dropped) | dropped | leaves the row | inserts them, not the dropped one | asks the target alone |
//! | [`Stale`](Between::Stale) | missing or different, otherwise dead letter | has the row sent | only those older than the target's version | keeps the row |
//! | [`Nothing`](Between::Nothing) | missing or different | has the row sent | only those older than the target's version | asks the target alone |
//!
//! So a settled letter says nothing, and neither does a dropped or pending one of an earlier version that was sent since and lost.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::value::RawValue;

use crate::data::Fate;
use crate::kafka::Letter;

/// When a version was sent: its record's timestamp in milliseconds, and its offset among those of one timestamp.
pub type Place = (i64, i64);

/// What is known of the version of a flagged row that PostgreSQL has, next to the newest one of its key in the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// No record or letter has it: all are as old as the target's version, or hold another one and will not come.
    Nothing,
    /// A newer record than all that the target and the letters hold is not copied yet.
    InTopic,
    /// The key's newest letter holds it, and is pending.
    Refused,
    /// The key's newest letter is pending, and holds another version: the row's was lost, or never sent.
    Stale,
    /// The key's newest letter holds it, and was dismissed.
    Dropped,
}

/// The newest letter of each key, by the key's hash.
#[derive(Debug, Default)]
pub struct NewestLetters(HashMap<u64, NewestLetter>);

#[derive(Debug)]
struct NewestLetter {
    place: Place,
    fate: Fate,
    /// Whether its value has the key's columns: it is a row's.
    is_row: bool,
    /// The hash of each field's name, and that of its value, sorted.
    fields: Box<[(u64, u64)]>,
}

impl NewestLetters {
    /// Adds a letter. Of several of one record a pending one counts, then one that was dismissed.
    pub fn add(&mut self, key: u64, letter: &Letter, fate: Fate, key_columns: &[String]) {
        let rank = |fate| match fate {
            Fate::Replayed => 0,
            Fate::Dropped => 1,
            Fate::Refused => 2,
        };
        let record = &letter.record;
        let place = (record.timestamp_ms, record.offset);
        let known = self.0.get(&key);
        if known.is_none_or(|known| (place, rank(fate)) > (known.place, rank(known.fate))) {
            self.0.insert(key, NewestLetter::of(place, fate, record.value.as_deref(), key_columns));
        }
    }

    pub fn has(&self, record_key: &str) -> bool {
        self.0.contains_key(&hash(record_key.as_bytes()))
    }

    /// What is known of a flagged row, its columns as JSON, next to the target's newest version of its key, `held`; `uncopied` is the
    /// timestamp of the key's newest uncopied record.
    pub fn between(&self, record_key: &str, json: &str, uncopied: Option<i64>, held: Option<Place>) -> Between {
        let letter = self.0.get(&hash(record_key.as_bytes()));
        // A run copies no letter's record again, unless it was replayed.
        let barred = letter.filter(|letter| letter.fate != Fate::Replayed).map(|letter| letter.place.0);
        if uncopied > held.map(|held| held.0).max(barred) {
            return Between::InTopic;
        }
        match letter.filter(|letter| Some(letter.place) > held) {
            Some(letter) => match (letter.fate, letter.holds(json)) {
                (Fate::Refused, true) => Between::Refused,
                (Fate::Refused, false) => Between::Stale,
                (Fate::Dropped, true) => Between::Dropped,
                (Fate::Dropped, false) | (Fate::Replayed, _) => Between::Nothing,
            },
            None => Between::Nothing,
        }
    }
}

impl NewestLetter {
    fn of(place: Place, fate: Fate, value: Option<&[u8]>, key_columns: &[String]) -> Self {
        let fields = fields_of(value.unwrap_or_default());
        let is_row = key_columns.iter().all(|column| fields.contains_key(&hash(column.as_bytes())));
        let mut fields: Box<[(u64, u64)]> = fields.into_iter().collect();
        fields.sort_unstable();
        Self { place, fate, is_row, fields }
    }

    /// Whether it holds a row as it is. What cannot be compared says no: a column of another type now whose values print otherwise,
    /// one that was added and is not NULL, and one that may be another's under a new name.
    fn holds(&self, json: &str) -> bool {
        let row = fields_of(json.as_bytes());
        let of_letter = |name: u64| {
            let found = self.fields.binary_search_by_key(&name, |(name, _)| *name);
            found.ok().map(|place| self.fields[place].1)
        };
        let is_equal = row.iter().all(|(name, value)| of_letter(*name).unwrap_or(NULL) == *value);
        let is_added = row.keys().any(|name| of_letter(*name).is_none());
        let is_dropped = self.fields.iter().any(|(name, value)| *value != NULL && !row.contains_key(name));
        self.is_row && is_equal && !(is_added && is_dropped)
    }
}

/// What stands for the value NULL.
const NULL: u64 = 0;

/// The hashes of the names and values of a record's fields; none if its value is no object.
fn fields_of(value: &[u8]) -> HashMap<u64, u64> {
    let fields: HashMap<String, &RawValue> = serde_json::from_slice(value).unwrap_or_default();
    fields.iter().map(|(name, value)| (hash(name.as_bytes()), hash_of_value(value.get()))).collect()
}

/// By what a value prints: the text `7` is the number 7 in a column that was retyped since.
fn hash_of_value(json: &str) -> u64 {
    if json == "null" {
        return NULL;
    }
    let text = if json.starts_with('"') { serde_json::from_str(json).ok() } else { None };
    hash(text.unwrap_or(Cow::Borrowed(json)).as_bytes())
}

/// 64 bits of a key, a name or a value.
pub fn hash(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is between a row and what the target has, where the key's newest letter was sent at 5.
    fn between(fate: Fate, value: &str, row: &str, uncopied: Option<i64>, held: Option<i64>) -> Between {
        let letter = NewestLetter::of((5, 0), fate, Some(value.as_bytes()), &["id".into()]);
        let letters = NewestLetters([(hash(b"1"), letter)].into());
        letters.between("1", row, uncopied, held.map(|at| (at, 0)))
    }

    #[test]
    fn a_letter_speaks_for_the_version_that_it_holds() {
        let row = r#"{"id":1,"a":"new","b":null}"#;
        let (new, old) = (r#"{"id":1,"a":"new"}"#, r#"{"id":1,"a":"old"}"#);
        for (fate, value, expected) in [
            (Fate::Refused, new, Between::Refused),
            (Fate::Refused, old, Between::Stale),
            (Fate::Refused, "{}", Between::Stale),
            (Fate::Dropped, new, Between::Dropped),
            (Fate::Dropped, old, Between::Nothing),
            (Fate::Replayed, new, Between::Nothing),
        ] {
            assert_eq!(between(fate, value, row, None, None), expected, "{fate:?} {value}");
            assert_eq!(
                between(fate, value, row, None, Some(4)),
                expected,
                "{fate:?} {value}: the target has an older one"
            );
            assert_eq!(between(fate, value, row, None, Some(6)), Between::Nothing, "{fate:?} {value} is settled");
            assert_eq!(between(fate, value, row, Some(6), Some(4)), Between::InTopic, "{fate:?} {value}");
        }
        // Without the group's offsets the letter's own record is one of those that are not copied.
        assert_eq!(between(Fate::Refused, new, row, Some(5), None), Between::Refused);
        assert_eq!(between(Fate::Replayed, new, row, Some(5), None), Between::InTopic);
        assert_eq!(between(Fate::Replayed, new, row, Some(5), Some(5)), Between::Nothing);
    }

    #[test]
    fn what_cannot_be_compared_excuses_no_row() {
        let letter = r#"{"id":1,"a":7,"t":"x\u0041"}"#;
        for (row, is_held) in [
            (r#"{"id":1,"a":"7","t":"xA"}"#, true),
            (r#"{"id":1,"a":7}"#, true),
            (r#"{"id":1,"a":7,"t":"xA","added":null}"#, true),
            (r#"{"id":1,"a":7,"t":"xA","added":0}"#, false),
            (r#"{"id":1,"a":7.0,"t":"xA"}"#, false),
            (r#"{"id":1,"a":null,"t":"xA"}"#, false),
            (r#"{"id":1,"renamed":7,"t":"xA"}"#, false),
            (r#"{"id":1,"renamed":null,"t":"xA"}"#, false),
        ] {
            let expected = if is_held { Between::Dropped } else { Between::Nothing };
            assert_eq!(between(Fate::Dropped, letter, row, None, None), expected, "{row}");
        }
        let of_null = r#"{"id":1,"a":null}"#;
        assert_eq!(between(Fate::Dropped, of_null, r#"{"id":1,"a":"null"}"#, None, None), Between::Nothing);
        assert_eq!(between(Fate::Dropped, of_null, r#"{"id":1,"b":null}"#, None, None), Between::Dropped);
    }
}

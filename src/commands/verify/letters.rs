//! What keeps rows from the target, and the rows whose newest version the target has refused.

use std::collections::{HashMap, HashSet};

use super::Verification;
use super::between::{Between, Place};
use super::source::{Source, SourceKey};
use super::waiting::{Waiting, letter_key};
use crate::data::Fate;
use crate::error::Result;

/// What is known of the rows of some keys next to the target's versions, at these places, by the keys' numbers. The topic was read
/// before the target. A row with letters that is no longer flagged is left out.
pub(super) fn judged<'k>(
    source: &mut Source,
    waiting: &Waiting<'_>,
    keys: impl Iterator<Item = &'k SourceKey> + Clone,
    held: &HashMap<u64, Place>,
) -> Result<HashMap<u64, Between>> {
    let (lettered, plain): (Vec<&SourceKey>, Vec<&SourceKey>) =
        keys.partition(|key| waiting.has_letter(&key.record_key));
    let record_keys: Vec<&str> = lettered.iter().map(|key| key.record_key.as_str()).collect();
    let rows = source.sent_rows(&record_keys)?;
    let judge = |key: &SourceKey, json: &str| {
        (key.number, waiting.between(&key.record_key, json, held.get(&key.number).copied()))
    };
    let lettered = rows.iter().map(|row| judge(&row.key, &row.json));
    Ok(plain.into_iter().map(|key| judge(key, "")).chain(lettered).collect())
}

impl Verification<'_> {
    /// Counts the flagged rows whose key has a pending letter, newer than what the target and the topic have. Those that were
    /// reported in spite of it are not counted twice.
    pub(super) fn count_letters(&mut self) -> Result<()> {
        let Some(mut letters) = self.waiting.letters()? else { return Ok(()) };
        while let Some(chunk) = letters.next_chunk()? {
            let pending = chunk.iter().filter(|letter| letters.fate(letter) == Fate::Refused);
            let keys: HashSet<String> = pending.map(|letter| letter_key(self.leg.table, letter)).collect();
            let rows = self.source.sent_rows(&keys.iter().map(String::as_str).collect::<Vec<_>>())?;
            if rows.is_empty() {
                continue;
            }
            // A row is flagged after its record was committed.
            self.waiting.refresh()?;
            let held = self.target.newest_places(rows.iter().map(|row| &row.key))?;
            for row in &rows {
                let between = self.waiting.between(&row.key.record_key, &row.json, held.get(&row.key.number).copied());
                if matches!(between, Between::Refused | Between::Stale) && self.counted.insert(row.key.number) {
                    self.report.dead_letters.count(|| self.key.shown(&row.key.text));
                }
            }
        }
        Ok(())
    }
}

//! What became of letters: asked of the target, and read from the notes among them.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use super::report::State;
use crate::clickhouse::{ClickHouseTarget, quote, text};
use crate::config::TableConfig;
use crate::data::{Fate, RecordId};
use crate::error::Result;
use crate::kafka::{Letter, Letters};
use crate::ports::LegContext;

/// Finds out what became of letters.
pub struct Looker<'a> {
    target: ClickHouseTarget,
    table: &'a TableConfig,
}

/// A key's columns as ClickHouse prints them.
type Key = Vec<String>;

/// The newest version of a key in the target.
#[derive(Deserialize)]
struct Row {
    #[serde(rename = "pg2ch_key")]
    key: Key,
    /// Timestamp in milliseconds, and offset: the records of a key lie in one partition.
    #[serde(rename = "pg2ch_newest")]
    newest: (i64, i64),
}

impl<'a> Looker<'a> {
    pub fn new(leg: &LegContext<'a>) -> Result<Self> {
        Ok(Self { target: ClickHouseTarget::new(leg.config, leg.table)?, table: leg.table })
    }

    /// The states of these letters, in their order.
    pub fn states(&mut self, letters: &Letters, chunk: &[Letter]) -> Result<Vec<State>> {
        let held = self.target.held_of(&chunk.iter().map(Letter::id).collect::<Vec<_>>())?;
        let is_open = |letter: &&Letter| !held.contains(&letter.id()) && letters.fate(letter) == Fate::Refused;
        let open = chunk.iter().filter(is_open);
        let keyed: Vec<_> = open.filter_map(|letter| Some((key_of(self.table, letter)?, letter.id()))).collect();
        let mut settled = HashSet::new();
        self.find_settled(&keyed, &mut settled);
        let state = |letter: &Letter| match (held.contains(&letter.id()), letters.fate(letter)) {
            // A merge may have removed it since, because of a newer version.
            (true, _) | (_, Fate::Replayed) => State::Replayed,
            (_, Fate::Dropped) => State::Dropped,
            _ if settled.contains(&letter.id()) => State::Settled,
            _ => State::Pending,
        };
        Ok(chunk.iter().map(state).collect())
    }

    /// Adds those records whose row the target has in a newer version, so that they would never be the newest. A key that cannot be
    /// compared leaves its letter pending: it fails the question for all, so then they are asked for apart.
    fn find_settled(&mut self, keyed: &[(Key, RecordId)], settled: &mut HashSet<RecordId>) {
        if keyed.is_empty() {
            return;
        }
        let Some(newest) = self.newest(keyed) else {
            if keyed.len() > 1 {
                let (one, other) = keyed.split_at(keyed.len() / 2);
                self.find_settled(one, settled);
                self.find_settled(other, settled);
            }
            return;
        };
        let is_older =
            |(key, id): &&(Key, RecordId)| newest.get(key).is_some_and(|&newest| newest > (id.timestamp_ms, id.offset));
        settled.extend(keyed.iter().filter(is_older).map(|(_, id)| *id));
    }

    fn newest(&mut self, keyed: &[(Key, RecordId)]) -> Option<HashMap<Key, (i64, i64)>> {
        let name_of = |name: &String| quote(self.table.column_rules.column_of(name).unwrap_or(name));
        let columns: Vec<String> = self.table.key.iter().map(name_of).collect();
        let texts: Vec<String> = columns.iter().map(|column| format!("ifNull(toString({column}), '')")).collect();
        let keys = keyed.iter().map(|(key, _)| {
            let parts: Vec<String> = key.iter().map(|part| text(part)).collect();
            format!("({})", parts.join(", "))
        });
        let sql = format!(
            "SELECT [{}] AS pg2ch_key, max((toUnixTimestamp64Milli(_timestamp), toInt64(_offset))) AS pg2ch_newest FROM {} WHERE ({}) IN ({}) \
             GROUP BY pg2ch_key SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONEachRow",
            texts.join(", "),
            self.target.sql_name(),
            columns.join(", "),
            keys.collect::<Vec<_>>().join(", "),
        );
        let answer = self.target.query("cannot query newer versions", &sql).ok()?;
        let rows = serde_json::Deserializer::from_slice(&answer).into_iter::<Row>();
        rows.map(|row| row.map(|row| (row.key, row.newest))).collect::<Result<_, _>>().ok()
    }
}

/// The key of a record; `None` if it has no such fields.
fn key_of(table: &TableConfig, letter: &Letter) -> Option<Key> {
    let record: HashMap<String, Value> = serde_json::from_slice(letter.record.value.as_ref()?).ok()?;
    let part = |name: &String| match record.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    table.key.iter().map(part).collect()
}

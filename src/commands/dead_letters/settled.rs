//! Which letters are settled: the target has a newer version of their row, so that the record would never be the newest.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::Value;

use crate::clickhouse::{ClickHouseTarget, quote, text};
use crate::config::TableConfig;
use crate::data::RecordId;
use crate::kafka::Letter;

/// The newest version of a key in the target.
#[derive(Deserialize)]
struct Row {
    #[serde(rename = "pg2ch_key")]
    key: Vec<String>,
    /// Timestamp in milliseconds, and offset: the records of a key lie in one partition.
    #[serde(rename = "pg2ch_newest")]
    newest: (i64, i64),
}

/// Those of these letters that are settled. A key that cannot be compared leaves its letter pending.
pub(super) fn settled(target: &mut ClickHouseTarget, table: &TableConfig, letters: &[&Letter]) -> HashSet<RecordId> {
    let keyed: Vec<(Vec<String>, RecordId)> =
        letters.iter().filter_map(|letter| Some((key_of(table, letter)?, letter.id()))).collect();
    let mut found = HashSet::new();
    compare(target, table, &keyed, &mut found);
    found
}

/// A text that is no value of its column fails the question for all: then they are asked for apart.
fn compare(
    target: &mut ClickHouseTarget,
    table: &TableConfig,
    keyed: &[(Vec<String>, RecordId)],
    found: &mut HashSet<RecordId>,
) {
    if keyed.is_empty() {
        return;
    }
    let Some(newest) = newest(target, table, keyed) else {
        if keyed.len() > 1 {
            let (one, other) = keyed.split_at(keyed.len() / 2);
            compare(target, table, one, found);
            compare(target, table, other, found);
        }
        return;
    };
    let is_older = |(key, id): &&(Vec<String>, RecordId)| {
        newest.get(key).is_some_and(|&newest| newest > (id.timestamp_ms, id.offset))
    };
    found.extend(keyed.iter().filter(is_older).map(|(_, id)| *id));
}

fn newest(
    target: &mut ClickHouseTarget,
    table: &TableConfig,
    keyed: &[(Vec<String>, RecordId)],
) -> Option<HashMap<Vec<String>, (i64, i64)>> {
    let columns: Vec<String> =
        table.key.iter().map(|name| quote(table.column_rules.column_of(name).unwrap_or(name))).collect();
    let texts: Vec<String> = columns.iter().map(|column| format!("ifNull(toString({column}), '')")).collect();
    let keys = keyed.iter().map(|(key, _)| {
        let parts: Vec<String> = key.iter().map(|part| text(part)).collect();
        format!("({})", parts.join(", "))
    });
    let sql = format!(
        "SELECT [{}] AS pg2ch_key, max((toUnixTimestamp64Milli(_timestamp), toInt64(_offset))) AS pg2ch_newest FROM {} WHERE ({}) IN ({}) \
         GROUP BY pg2ch_key SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT JSONEachRow",
        texts.join(", "),
        target.sql_name(),
        columns.join(", "),
        keys.collect::<Vec<_>>().join(", "),
    );
    let answer = target.query("cannot query newer versions", &sql).ok()?;
    let rows = serde_json::Deserializer::from_slice(&answer).into_iter::<Row>();
    rows.map(|row| row.map(|row| (row.key, row.newest))).collect::<Result<_, _>>().ok()
}

/// The key's columns as ClickHouse prints them; `None` if the record has no such fields.
fn key_of(table: &TableConfig, letter: &Letter) -> Option<Vec<String>> {
    let record: HashMap<String, Value> = serde_json::from_slice(letter.record.value.as_ref()?).ok()?;
    let part = |name: &String| match record.get(name)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    table.key.iter().map(part).collect()
}

//! Rows as JSONEachRow: the record's own bytes, with its position put in front.
//!
//! The server's parser fills a missing field with its type's default, even with the strictest settings; so at least the
//! fields' names are checked here.

use std::collections::HashSet;
use std::io::Write;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::clickhouse::column_type::{Column, DefaultKind};
use crate::clickhouse::encode::Position;

/// The columns that hold a record's position, and the one that the server fills.
const OURS: [&str; 4] = ["_partition", "_offset", "_timestamp", "_ingested_at"];

/// Makes the rows of one table.
pub struct JsonRows {
    columns: Vec<String>,
    fields: HashSet<String>,
    required: Vec<String>,
}

impl JsonRows {
    /// Looks at the columns that an INSERT may name.
    #[must_use]
    pub fn new(columns: &[Column]) -> Self {
        let named = |column: &&Column| {
            matches!(column.default_kind, DefaultKind::None | DefaultKind::Default) && column.name != "_ingested_at"
        };
        let data = |column: &&Column| !OURS.contains(&column.name.as_str());
        let name = |column: &Column| column.name.clone();
        Self {
            columns: columns.iter().filter(named).map(name).collect(),
            fields: columns.iter().filter(named).filter(data).map(name).collect(),
            required: columns
                .iter()
                .filter(named)
                .filter(data)
                .filter(|column| column.default_kind == DefaultKind::None)
                .map(name)
                .collect(),
        }
    }

    /// The columns of the INSERT.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Appends a row.
    ///
    /// # Errors
    /// The reason why the columns do not take it; `out` is then as it was.
    pub fn encode(&self, at: Position, value: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let found = field_names(value)?;
        let mut seen = HashSet::with_capacity(found.len());
        for name in &found {
            if !self.fields.contains(name) {
                return Err(format!("unknown field {name}: the target has no such column"));
            }
            if !seen.insert(name.as_str()) {
                return Err(format!("duplicate field {name}"));
            }
        }
        if let Some(missing) = self.required.iter().find(|name| !seen.contains(name.as_str())) {
            return Err(format!("field {missing} is missing"));
        }
        let sign = if at.timestamp_ms < 0 { "-" } else { "" };
        let millis = at.timestamp_ms.unsigned_abs();
        let (seconds, millis) = (millis / 1000, millis % 1000);
        let text = value.trim_ascii();
        let rest = text.strip_prefix(b"{").unwrap_or(text);
        let comma = if found.is_empty() { "" } else { "," };
        write!(
            out,
            r#"{{"_partition":{},"_offset":{},"_timestamp":{sign}{seconds}.{millis:03}{comma}"#,
            at.partition, at.offset
        )
        .map_err(|error| error.to_string())?;
        out.extend_from_slice(rest);
        out.push(b'\n');
        Ok(())
    }
}

/// The names of an object's fields, in order; the whole text must be one object.
fn field_names(value: &[u8]) -> Result<Vec<String>, String> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut names = Vec::new();
            while let Some((name, IgnoredAny)) = map.next_entry()? {
                names.push(name);
            }
            Ok(names)
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(value);
    let names = reader.deserialize_map(Names).map_err(|error| format!("not a JSON object: {error}"))?;
    reader.end().map_err(|error| format!("not one JSON object: {error}"))?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> JsonRows {
        let column = |name: &str, default_kind| Column { name: name.into(), type_name: "String".into(), default_kind };
        JsonRows::new(&[
            column("id", DefaultKind::None),
            column("note", DefaultKind::Default),
            column("_partition", DefaultKind::None),
            column("_ingested_at", DefaultKind::Default),
        ])
    }

    fn encode(value: &str) -> Result<String, String> {
        encode_at(3004, value)
    }

    fn encode_at(timestamp_ms: i64, value: &str) -> Result<String, String> {
        let mut out = Vec::new();
        let at = Position { partition: 1, offset: 2, timestamp_ms };
        rows().encode(at, value.as_bytes(), &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn the_position_is_put_in_front_of_the_records_own_text() {
        let expected = "{\"_partition\":1,\"_offset\":2,\"_timestamp\":3.004,\"id\": \"x\"}\n";
        assert_eq!(encode("{\"id\": \"x\"}").unwrap(), expected);
    }

    #[test]
    fn a_timestamp_before_1970_keeps_its_value() {
        let row = encode_at(-1, "{\"id\": \"x\"}").unwrap();
        assert!(row.contains("\"_timestamp\":-0.001,"), "a record without a timestamp has -1: {row}");
    }

    #[test]
    fn fields_are_checked_because_the_server_would_not() {
        for (value, reason) in [
            ("{}", "missing"),
            (r#"{"id":1,"id":2}"#, "duplicate"),
            (r#"{"id":1,"_offset":2}"#, "unknown"),
            ("[1]", "not a JSON object"),
            ("{\"id\":1} x", "not one JSON object"),
        ] {
            let refused = encode(value).unwrap_err();
            assert!(refused.contains(reason), "{value}: {refused}");
        }
    }
}

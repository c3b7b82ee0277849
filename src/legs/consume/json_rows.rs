//! Rows as JSONEachRow: the record's own bytes, with its position put in front.
//!
//! The server's parser fills a missing field with its type's default, even with the strictest settings; so at least the
//! fields' names are checked here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::clickhouse::column_type::{Column, DefaultKind, takes_null};
use crate::config::ColumnRules;
use crate::data::{INGESTED_AT, RecordId, is_own};

/// Makes the rows of one table.
pub struct JsonRows {
    columns: Vec<String>,
    /// Field → column; whether a record must have it.
    fields: HashMap<String, (String, bool)>,
    /// Required columns that no field can fill.
    unfillable: Vec<String>,
    ignored: HashSet<String>,
    /// Whether every field has its column's name.
    plain: bool,
    lacking: BTreeMap<String, u64>,
}

impl JsonRows {
    /// Looks at the columns that an INSERT may name.
    #[must_use]
    pub fn new(columns: &[Column], rules: &ColumnRules) -> Self {
        let mut rows = Self {
            columns: Vec::new(),
            fields: HashMap::new(),
            unfillable: Vec::new(),
            ignored: rules.ignored().map(str::to_owned).collect(),
            plain: rules.is_empty(),
            lacking: BTreeMap::new(),
        };
        for column in columns {
            if !matches!(column.default_kind, DefaultKind::None | DefaultKind::Default) || column.name == INGESTED_AT {
                continue;
            }
            let is_required = column.default_kind == DefaultKind::None && !takes_null(&column.type_name);
            match rules.field_of(&column.name) {
                _ if is_own(&column.name) => {}
                Some(field) => drop(rows.fields.insert(field.to_owned(), (column.name.clone(), is_required))),
                None if is_required => rows.unfillable.push(column.name.clone()),
                // The server fills it in with its DEFAULT, or with NULL.
                None => continue,
            }
            rows.columns.push(column.name.clone());
        }
        rows
    }

    /// The columns of the INSERT.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The fields that records lacked and that were taken as NULL, or left to their column's DEFAULT, with how many did.
    pub fn lacking(&self) -> impl Iterator<Item = (&str, u64)> {
        self.lacking.iter().map(|(name, count)| (name.as_str(), *count))
    }

    /// Appends a row.
    ///
    /// # Errors
    /// The reason why the columns do not take it; `out` is then as it was.
    pub fn encode(&mut self, at: RecordId, value: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let found = fields_of(value)?;
        let mut seen = HashSet::with_capacity(found.len());
        for (name, _) in &found {
            if !self.fields.contains_key(name) && !self.ignored.contains(name) {
                return Err(format!("unknown field {name}: the target has no such column"));
            }
            if !seen.insert(name.as_str()) {
                return Err(format!("duplicate field {name}"));
            }
        }
        let absent = || self.fields.iter().filter(|(name, _)| !seen.contains(name.as_str()));
        let required = absent().filter(|(_, (_, is_required))| *is_required).map(|(name, _)| name).min();
        if let Some(missing) = required.or(self.unfillable.first()) {
            return Err(format!("field {missing} is missing"));
        }
        absent().for_each(|(name, _)| *self.lacking.entry(name.clone()).or_default() += 1);
        self.append(at, value, &found, out).map_err(|error| error.to_string())
    }

    fn append(&self, at: RecordId, value: &[u8], found: &Found<'_>, out: &mut Vec<u8>) -> std::io::Result<()> {
        let sign = if at.timestamp_ms < 0 { "-" } else { "" };
        let millis = at.timestamp_ms.unsigned_abs();
        let (seconds, millis) = (millis / 1000, millis % 1000);
        let (partition, offset) = (at.partition, at.offset);
        write!(out, r#"{{"_partition":{partition},"_offset":{offset},"_timestamp":{sign}{seconds}.{millis:03}"#)?;
        if self.plain {
            let text = value.trim_ascii();
            out.extend_from_slice(if found.is_empty() { b"" } else { b"," });
            out.extend_from_slice(text.strip_prefix(b"{").unwrap_or(text));
        } else {
            for (name, value) in found {
                if let Some((column, _)) = self.fields.get(name) {
                    write!(out, ",{}:{value}", serde_json::to_string(column)?)?;
                }
            }
            out.push(b'}');
        }
        out.push(b'\n');
        Ok(())
    }
}

/// The fields of a record, in order, each with its value's text.
type Found<'v> = Vec<(String, &'v RawValue)>;

/// The whole text must be one object.
fn fields_of(value: &[u8]) -> Result<Found<'_>, String> {
    struct Fields;
    impl<'de> Visitor<'de> for Fields {
        type Value = Found<'de>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a JSON object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut fields = Vec::new();
            while let Some(field) = map.next_entry()? {
                fields.push(field);
            }
            Ok(fields)
        }
    }
    let mut reader = serde_json::Deserializer::from_slice(value);
    let fields = reader.deserialize_map(Fields).map_err(|error| format!("not a JSON object: {error}"))?;
    reader.end().map_err(|error| format!("not one JSON object: {error}"))?;
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(with_rules: bool) -> JsonRows {
        let column = |name: &str, default_kind| Column { name: name.into(), type_name: "String".into(), default_kind };
        let columns = [
            column("id", DefaultKind::None),
            column("note", DefaultKind::Default),
            Column { type_name: "Nullable(String)".into(), ..column("more", DefaultKind::None) },
            column("_partition", DefaultKind::None),
            column("_ingested_at", DefaultKind::Default),
        ];
        let rename = [("name".into(), "note".into()), ("note".into(), "more".into())].into();
        let rules = ColumnRules { rename, ignore: ["secret".into()].into(), ..ColumnRules::default() };
        JsonRows::new(&columns, &if with_rules { rules } else { ColumnRules::default() })
    }

    fn encode(value: &str) -> Result<String, String> {
        encode_at(3004, value)
    }

    fn encode_at(timestamp_ms: i64, value: &str) -> Result<String, String> {
        let mut out = Vec::new();
        let at = RecordId { partition: 1, offset: 2, timestamp_ms };
        rows(false).encode(at, value.as_bytes(), &mut out)?;
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

    #[test]
    fn fields_go_where_the_rules_say_and_a_nullable_one_may_be_missing() {
        let mut rows = rows(true);
        let at = RecordId { partition: 1, offset: 2, timestamp_ms: 3004 };
        let mut out = Vec::new();
        rows.encode(at, br#"{"id":1, "name" : {"a": 1.50}, "secret":"x"}"#, &mut out).unwrap();
        let expected = "{\"_partition\":1,\"_offset\":2,\"_timestamp\":3.004,\"id\":1,\"note\":{\"a\": 1.50}}\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        assert_eq!(rows.lacking().collect::<Vec<_>>(), [("note", 1)]);
        assert!(rows.encode(at, br#"{"id":1,"more":2}"#, &mut Vec::new()).unwrap_err().contains("unknown"));
    }
}

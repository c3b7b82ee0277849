//! One record, a row as PostgreSQL's `row_to_json` prints it, becomes one row of ClickHouse's RowBinary.
//!
//! Every value is checked against its column before anything is sent: range, scale, precision, length,
//! nullability, enum member; and the record against the table: unknown, missing and duplicate fields. Nothing
//! is defaulted, clamped, rounded or cut; what does not fit is refused with column, value and rule.
//!
//! The way of a value: `fields` finds its column, `writer` picks by type, `number`, `time`, `text` and
//! `json_column` read it from the cursor of `json` and append its bytes.

use std::collections::HashMap;

use super::column_type::{Column, ColumnType, DefaultKind, UnsupportedType};
use crate::config::ColumnRules;

#[cfg(test)]
#[path = "../../../tests/it/values/encoded/cases/mod.rs"]
mod cases;
mod context;
mod exact;
mod fields;
mod float;
mod json;
mod json_column;
mod kinds;
mod number;
mod position;
mod quoted;
mod refusal;
#[cfg(test)]
mod tests;
mod text;
mod time;
mod writer;

pub use crate::data::CalendarRange;
use crate::data::{POSITION_COLUMNS, RecordId, is_own};
use context::Context;
use fields::{Absent, Field, Fields};
use json::Cursor;
use position::PositionColumn;
pub use position::holds_position;
use refusal::{Checked, Fault, character_start, excerpt};
pub use refusal::{MAX_EXCERPT, Refusal};
use writer::Writer;

/// Makes rows of one table out of records. Each thread takes a clone of its own.
#[derive(Clone, Debug)]
pub struct RowEncoder {
    fields: Fields,
    position_columns: Vec<PositionColumn>,
    insert_columns: Vec<String>,
    /// Columns that take no values, and why.
    excluded: HashMap<String, &'static str>,
    has_defaults: bool,
    holds_json: bool,
    context: Context,
}

impl RowEncoder {
    /// Prepares for a table whose columns are named like the records' fields, given in any order.
    ///
    /// # Errors
    /// Names the first column whose type the encoder does not know; JSONEachRow is left for such a table.
    pub fn new(columns: &[Column]) -> Result<RowEncoder, UnsupportedType> {
        Self::with_rules(columns, &ColumnRules::default())
    }

    /// The same for fields that have other names than their columns, or none.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_rules(columns: &[Column], rules: &ColumnRules) -> Result<RowEncoder, UnsupportedType> {
        let (mut fields, mut insert_columns) = (Vec::new(), Vec::new());
        let mut excluded: HashMap<String, &'static str> = rules.misled(columns.iter().map(|column| &*column.name));
        let mut has_defaults = false;
        for column in columns {
            let source = rules.field_of(&column.name);
            if let Some(reason) = takes_no_field(column) {
                excluded.extend(source.map(|field| (field.to_owned(), reason)));
                continue;
            }
            let column_type = ColumnType::parse(&column.type_name).map_err(|error| named(error, column))?;
            let absent = match column.default_kind {
                DefaultKind::Default => Absent::Default,
                // An EPHEMERAL column that is left to its expression gets its type's zero instead.
                _ => Absent::Refused,
            };
            let writer = Writer::new(column_type);
            let field = match source {
                Some(field) => Field::new(field.to_owned(), writer, absent),
                // The server fills it in with its DEFAULT, or with NULL.
                None if absent == Absent::Default || writer.is_nullable() => continue,
                None => Field::without_source(column.name.clone(), writer),
            };
            has_defaults |= absent == Absent::Default;
            insert_columns.push(column.name.clone());
            fields.push(field);
        }
        let mut position_columns = Vec::new();
        for name in POSITION_COLUMNS {
            let Some(column) = columns.iter().find(|column| column.name == name && is_insertable(column)) else {
                continue;
            };
            position_columns.push(PositionColumn::new(name, &column.type_name).map_err(|error| named(error, column))?);
            insert_columns.push(name.to_owned());
        }
        let holds_json = fields.iter().any(|field: &Field| field.writer.holds_json());
        let fields = Fields::new(fields).ignoring(rules.ignored().map(str::to_owned));
        let fields = if has_defaults { fields.with_default_flags() } else { fields };
        let context = Context::default();
        Ok(RowEncoder { fields, position_columns, insert_columns, excluded, has_defaults, holds_json, context })
    }

    /// Whether a record that lacks a nullable column without DEFAULT has null there instead of being refused:
    /// for records of a time before the column was added. The same goes for the elements of tuples.
    #[must_use]
    pub fn with_missing_as_null(mut self, yes: bool) -> Self {
        self.fields.set_missing_as_null(yes);
        self
    }

    /// The fields that records lacked and that were taken as NULL, or left to their column's DEFAULT, with how many did.
    pub fn lacking(&self) -> impl Iterator<Item = (&str, u64)> {
        self.fields.lacking()
    }

    /// The years that the server can show; narrow if this is not called.
    #[must_use]
    pub fn with_calendar_range(mut self, range: CalendarRange) -> Self {
        self.context.range = range;
        self
    }

    /// The FORMAT of the INSERT: with defaults only where a column has one that a record may leave to it.
    pub fn format(&self) -> &'static str {
        if self.has_defaults { "RowBinaryWithDefaults" } else { "RowBinary" }
    }

    /// The columns of the INSERT, in the order of the encoded bytes: the data, then `_partition`, `_offset` and
    /// `_timestamp` as far as the target has them.
    pub fn insert_columns(&self) -> &[String] {
        &self.insert_columns
    }

    /// Settings without which the server would read the INSERT otherwise than it is meant.
    pub fn settings(&self) -> &'static [(&'static str, &'static str)] {
        const SETTINGS: &[(&str, &str)] = &[
            // Or a column left to its DEFAULT gets its type's zero.
            ("input_format_defaults_for_omitted_fields", "1"),
            ("input_format_binary_read_json_as_string", "1"),
            // Or a JSON column gives "2024-01-02T03:04:05" back as "2024-01-02 03:04:05".
            ("input_format_try_infer_dates", "0"),
            ("input_format_try_infer_datetimes", "0"),
        ];
        // Servers before 24.8 know neither JSON nor its settings.
        if self.holds_json { SETTINGS } else { &SETTINGS[..1] }
    }

    /// Appends the row that a record's value makes.
    ///
    /// # Errors
    /// The first thing that does not fit. `out` is then as it was before.
    pub fn encode(&mut self, id: RecordId, value: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let start = out.len();
        let written = self.append(id, value, out);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    fn append(&mut self, id: RecordId, value: &[u8], out: &mut Vec<u8>) -> Result<(), Refusal> {
        let record = text_of(value)?;
        self.append_record(record, out).map_err(|fault| self.refusal(record, *fault))?;
        for column in &self.position_columns {
            if self.has_defaults {
                out.push(0);
            }
            column.write(id, self.context.range, out)?;
        }
        Ok(())
    }

    fn append_record(&mut self, record: &str, out: &mut Vec<u8>) -> Checked<()> {
        let mut cursor = Cursor::new(record);
        cursor.spaces();
        if cursor.peek() != Some(b'{') {
            let kind = cursor.kind().ok_or_else(|| cursor.broken("an object"))?;
            return Err(Fault::new(cursor.at(), format!("{kind}, but a record is an object")));
        }
        self.fields.write(&mut cursor, &mut self.context, out)?;
        cursor.spaces();
        if cursor.is_at_end() { Ok(()) } else { Err(cursor.broken("the record's end")) }
    }

    #[cold]
    fn refusal(&self, record: &str, fault: Fault) -> Refusal {
        let Fault { column, at, rule } = fault;
        let reason = column.as_ref().and_then(|name| self.excluded.get(name));
        let rule = reason.map_or(rule, |reason| (*reason).to_owned());
        Refusal { column, value: excerpt_at(record, at), rule }
    }
}

/// Why no field of a record may fill a column, if that is so.
fn takes_no_field(column: &Column) -> Option<&'static str> {
    if is_own(&column.name) {
        return Some("the column is pg2ch's own");
    }
    match column.default_kind {
        DefaultKind::Materialized => Some("the column is MATERIALIZED and takes no values"),
        DefaultKind::Alias => Some("the column is an ALIAS and takes no values"),
        DefaultKind::None | DefaultKind::Default | DefaultKind::Ephemeral => None,
    }
}

fn is_insertable(column: &Column) -> bool {
    !matches!(column.default_kind, DefaultKind::Materialized | DefaultKind::Alias)
}

fn named(error: UnsupportedType, column: &Column) -> UnsupportedType {
    UnsupportedType { column: Some(column.name.clone()), ..error }
}

fn text_of(value: &[u8]) -> Result<&str, Refusal> {
    if value.is_empty() {
        return Err(Refusal { column: None, value: String::new(), rule: "a record without a value".to_owned() });
    }
    str::from_utf8(value).map_err(|error| {
        let at = error.valid_up_to();
        let nearby = value.get(at.saturating_sub(LEAD)..(at + LEAD).min(value.len())).unwrap_or_default();
        Refusal {
            column: None,
            value: excerpt(&String::from_utf8_lossy(nearby)),
            rule: format!("not valid UTF-8 at byte {at}"),
        }
    })
}

/// How much of a record is shown in front of a place where it breaks, in bytes.
const LEAD: usize = 40;

/// The value that begins somewhere in a record or, where none does, what is near.
fn excerpt_at(record: &str, at: usize) -> String {
    let value = record.get(at..).and_then(|rest| Cursor::new(rest).value().ok());
    match value {
        Some(value) => excerpt(value),
        None => excerpt(&record[character_start(record, at.saturating_sub(LEAD))..]),
    }
}

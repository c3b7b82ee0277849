//! One record, a row as PostgreSQL's `row_to_json` prints it, becomes one row of ClickHouse's RowBinaryWithNamesAndTypes.
//!
//! Every value is checked against its column before anything is sent: range, scale, precision, length,
//! nullability, enum member; and the record against the table: unknown, missing and duplicate fields. Nothing
//! is defaulted, clamped, rounded or cut; what does not fit is refused with column, value and rule.
//!
//! The way of a value: `writer` finds its column and picks by type, `number`, `time`, `text` and
//! `json_column` read it from the cursor of `json` and append its bytes.

use std::collections::{HashMap, HashSet};

use super::column_type::{Column, ColumnType, DefaultKind, ScalarType, UnsupportedType, takes_null};
use crate::config::ColumnRules;

#[cfg(test)]
#[path = "../../../tests/it/values/encoded/cases/mod.rs"]
mod cases;
mod context;
mod exact;
mod float;
mod json;
mod json_column;
mod kinds;
mod number;
mod origin;
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
use crate::ports::source::SourceColumn;
use context::Context;
use json::Cursor;
use origin::Origin;
pub use origin::{is_zoned, shown_shifted};
use position::PositionColumn;
pub use position::holds_position;
pub use refusal::Refusal;
use refusal::{Checked, Fault, character_start, excerpt};
use writer::{Field, Fields, Writer};

/// The FORMAT of an INSERT.
pub const FORMAT: &str = "RowBinaryWithNamesAndTypes";

/// Makes rows of one table out of records. Each thread takes a clone of its own.
#[derive(Clone, Debug)]
pub struct RowEncoder {
    fields: Fields,
    position_columns: Vec<PositionColumn>,
    /// Name and type of each column of an INSERT, the type as the server spells it.
    insert_columns: Vec<(String, String)>,
    /// Columns that take no values, and why.
    excluded: HashMap<String, String>,
    /// Fields whose columns have a type that is not known, or one that would show other values.
    unknown: HashSet<String>,
    /// Which fields rows leave to their column's DEFAULT; the first shape leaves out none.
    shapes: Vec<Vec<usize>>,
    context: Context,
}

/// Which columns a row has: the number of its header among [`RowEncoder::headers`].
pub type Shape = u16;

impl RowEncoder {
    /// Prepares for a table whose columns are named like the records' fields, given in any order.
    ///
    /// # Errors
    /// Names a column of the position whose type does not hold every value.
    pub fn new(columns: &[Column]) -> Result<RowEncoder, UnsupportedType> {
        Self::with_rules(columns, &ColumnRules::default(), &[])
    }

    /// The same for fields that have other names than their columns, or none, and of a source whose columns are known.
    pub(crate) fn with_rules(
        columns: &[Column],
        rules: &ColumnRules,
        source_columns: &[SourceColumn],
    ) -> Result<RowEncoder, UnsupportedType> {
        let (mut fields, mut insert_columns) = (Vec::new(), Vec::new());
        let misled = rules.misled(columns.iter().map(|column| &*column.name));
        let mut excluded: HashMap<String, String> =
            misled.into_iter().map(|(field, reason)| (field, reason.to_owned())).collect();
        let mut unknown = HashSet::new();
        for column in columns {
            let source = rules.field_of(&column.name);
            if let Some(reason) = takes_no_field(column) {
                excluded.extend(source.map(|field| (field.to_owned(), reason.to_owned())));
                continue;
            }
            let has_default = matches!(column.default_kind, DefaultKind::Default | DefaultKind::Ephemeral);
            let may_be_left_out = has_default || takes_null(&column.type_name);
            let parsed = ColumnType::parse(&column.type_name);
            if let (Some(field), Err(error)) = (source, &parsed) {
                excluded.insert(field.to_owned(), format!("pg2ch does not know the type {}", error.type_name));
                unknown.insert(field.to_owned());
            }
            let field = match (source, parsed) {
                (Some(field), Ok(known)) => {
                    let found = source_columns.iter().find(|column| column.name == field);
                    if let Some(why) = found.and_then(|found| changed_silently(found, column, rules)) {
                        excluded.insert(field.to_owned(), why);
                        unknown.insert(field.to_owned());
                        continue;
                    }
                    let origin = found.map(Origin::of).unwrap_or_default();
                    Field::new(field.to_owned(), Writer::new(known, origin), has_default)
                }
                // The server fills it in with its DEFAULT, or with NULL.
                _ if may_be_left_out => continue,
                // No record has it: every one is refused, and the type never matters.
                _ => Field::without_source(column.name.clone(), Writer::Scalar(ScalarType::String)),
            };
            insert_columns.push((column.name.clone(), column.type_name.clone()));
            fields.push(field);
        }
        let mut position_columns = Vec::new();
        for name in POSITION_COLUMNS {
            let Some(column) = columns.iter().find(|column| column.name == name && is_insertable(column)) else {
                continue;
            };
            position_columns.push(
                PositionColumn::new(name, &column.type_name)
                    .map_err(|error| UnsupportedType { column: Some(column.name.clone()), ..error })?,
            );
            insert_columns.push((name.to_owned(), column.type_name.clone()));
        }
        let fields = Fields::new(fields).ignoring(rules.ignored().map(str::to_owned));
        let (shapes, context) = (vec![Vec::new()], Context::default());
        Ok(RowEncoder { fields, position_columns, insert_columns, excluded, unknown, shapes, context })
    }

    /// The fields that records lacked and that were taken as NULL, or left to their column's DEFAULT, with how many did; members
    /// of a tuple by their path, with how many objects did.
    #[must_use]
    pub fn lacking(&self) -> Vec<(String, u64)> {
        let mut found = Vec::new();
        self.fields.lacking("", &mut found);
        found
    }

    /// The years that the server can show; narrow if this is not called.
    #[must_use]
    pub fn with_calendar_range(mut self, range: CalendarRange) -> Self {
        self.context.range = range;
        self
    }

    /// The columns of the INSERT, in the order of the encoded bytes: the data, then `_partition`, `_offset` and
    /// `_timestamp` as far as the target has them.
    pub fn insert_columns(&self) -> impl Iterator<Item = &str> {
        self.insert_columns.iter().map(|(name, _)| name.as_str())
    }

    /// What an INSERT of rows of each shape begins with: the number of the columns, their names and their types, as
    /// [`FORMAT`] has them. The server refuses an INSERT whose types are not the table's.
    #[must_use]
    pub fn headers(&self) -> Vec<Vec<u8>> {
        self.shapes.iter().map(|left_out| self.header(left_out)).collect()
    }

    fn header(&self, left_out: &[usize]) -> Vec<u8> {
        let columns = self.insert_columns.iter().enumerate().filter(|(at, _)| !left_out.contains(at));
        let (names, types): (Vec<&String>, Vec<&String>) = columns.map(|(_, (name, of))| (name, of)).unzip();
        let mut header = Vec::new();
        text::length(names.len(), &mut header);
        names.into_iter().chain(types).for_each(|each| text::plain_string(each, &mut header));
        header
    }

    /// Appends the row that a record's value makes; returns which columns it has.
    ///
    /// # Errors
    /// The first thing that does not fit. `out` is then as it was before.
    pub fn encode(&mut self, id: RecordId, value: &[u8], out: &mut Vec<u8>) -> Result<Shape, Refusal> {
        let start = out.len();
        let written = self.append(id, value, out);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    /// Whether a record was refused because a field's column has a type that is not known: that is no fault of the record's.
    pub(crate) fn lacks_type_for(&self, refusal: &Refusal) -> bool {
        refusal.column.as_ref().is_some_and(|column| self.unknown.contains(column))
    }

    fn append(&mut self, id: RecordId, value: &[u8], out: &mut Vec<u8>) -> Result<Shape, Refusal> {
        let record = text_of(value)?;
        self.append_record(record, out).map_err(|fault| self.refusal(record, *fault))?;
        for column in &self.position_columns {
            column.write(id, self.context.range, out)?;
        }
        Ok(self.shape())
    }

    /// The number of the shape of the row that was written last.
    fn shape(&mut self) -> Shape {
        // Nearly all rows are of one shape, and few columns are ever left out.
        if self.fields.is_complete() {
            return 0;
        }
        let left_out = || self.fields.left_out();
        let at = self.shapes.iter().position(|shape| left_out().eq(shape.iter().copied()));
        let at = at.unwrap_or_else(|| {
            let left_out = left_out().collect();
            self.shapes.push(left_out);
            self.shapes.len() - 1
        });
        Shape::try_from(at).unwrap_or(Shape::MAX)
    }

    fn append_record(&mut self, record: &str, out: &mut Vec<u8>) -> Checked<()> {
        let mut cursor = Cursor::new(record);
        cursor.spaces();
        if cursor.peek() != Some(b'{') {
            let (at, kind) = (cursor.at(), cursor.kind());
            // Its first byte alone says little: `not json` is no null.
            cursor.value()?;
            cursor.spaces();
            return Err(match kind.filter(|_| cursor.is_at_end()) {
                Some(kind) => Fault::new(at, format!("{kind}, but a record is an object")),
                None => cursor.broken("the record's end"),
            });
        }
        self.fields.write(&mut cursor, &mut self.context, out)?;
        cursor.spaces();
        if cursor.is_at_end() { Ok(()) } else { Err(cursor.broken("the record's end")) }
    }

    #[cold]
    fn refusal(&self, record: &str, fault: Fault) -> Refusal {
        let Fault { column, at, rule } = fault;
        let reason = column.as_ref().and_then(|name| self.excluded.get(name));
        let rule = reason.map_or(rule, Clone::clone);
        Refusal { column, value: excerpt_at(record, at), rule }
    }
}

/// Why a column may not be filled from a source column, if that is so: it would swallow its values, or show others, and the rules do
/// not allow it.
pub fn changed_silently(source: &SourceColumn, column: &Column, rules: &ColumnRules) -> Option<String> {
    match column.default_kind {
        _ if rules.allow_lossy.contains(&source.name) => None,
        DefaultKind::Ephemeral => Some("the column is EPHEMERAL and stores no value".to_owned()),
        _ => shown_shifted(source, column),
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

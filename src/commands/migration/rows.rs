//! What a new target takes over of the old one's rows: never a value that was made up, or changed on the way.

use super::shape::Shape;
use crate::clickhouse::column_type::{Column, ColumnType, DefaultKind, ScalarType, in_dictionary, takes_null};
use crate::clickhouse::{quote, text};
use crate::config::TableConfig;
use crate::data::{INGESTED_AT, is_own};
use crate::fit::map::{nullable_target_type, target_type};
use crate::fit::types::{Fit, fit};
use crate::fit::{POSITION, are_integers, deletes, is_exact};
use crate::ports::source::SourceColumn;
use crate::ports::target::TargetDescription;
use crate::postgres::SourceTable;

/// The milliseconds from September 2001 to the end of 2099. As seconds or microseconds these numbers are no time at which Kafka
/// existed.
const MILLISECONDS: &str = "BETWEEN 1000000000000 AND 4102444799999";

/// A column of the new table.
pub struct Field<'a> {
    pub source: Option<&'a SourceColumn>,
    pub name: &'a str,
    pub type_name: String,
    /// What it gets of the old table's row; without that it is NULL.
    pub value: Option<String>,
    /// The condition on the rows that are taken over, and which ones it leaves out.
    pub left_out: Option<(String, String)>,
}

impl<'a> Field<'a> {
    fn new(name: &'a str, type_name: impl Into<String>, value: Option<String>) -> Self {
        Self { source: None, name, type_name: type_name.into(), value, left_out: None }
    }

    /// A value that ClickHouse converts, or finds no place for.
    fn converted(name: &'a str, old: &Column, type_name: String) -> Self {
        let parsed = |type_name: &str| ColumnType::parse(type_name).map(ColumnType::without_null);
        let to = bare(&type_name);
        let value = match (quote(name), text(&to)) {
            (name, _) if parsed(&old.type_name) == parsed(&to) => name,
            // An array is never NULL.
            (name, to) if to.starts_with("'Array(") => format!("CAST({name}, {to})"),
            (name, to) => format!("accurateCastOrNull({name}, {to})"),
        };
        Self::new(name, type_name, Some(value))
    }

    /// The same, without the rows that have no value which the new type takes.
    fn complete(self, old: &Column) -> Self {
        let (name, value) = (quote(self.name), self.value.as_deref().unwrap_or_default());
        let is_narrower = value != name && are_integers(&old.type_name, &self.type_name);
        let (had_null, has_null) = (takes_null(&old.type_name), takes_null(&self.type_name));
        let number = format!("a number in {name} that {} does not hold", self.type_name);
        let which = match (had_null && !has_null, is_narrower) {
            (false, false) => return self,
            (true, false) => format!("NULL in {name}"),
            (false, true) => number,
            (true, true) => format!("NULL in {name}, or {number}"),
        };
        let is_held = format!("isNotNull({value})");
        let condition = if had_null && has_null { format!("(isNull({name}) OR {is_held})") } else { is_held };
        let left_out = Some((condition, which));
        Self { left_out, ..self }
    }
}

/// What the new table takes over.
pub struct Rows<'a> {
    pub columns: Vec<Field<'a>>,
    /// The columns that keep a record's position; `None` where the old table's do not.
    pub positions: Option<Vec<Field<'a>>>,
    pub ingested_at: Field<'a>,
    /// Why no row can be taken over: nothing shows which of PostgreSQL's rows it is.
    pub unknown: Vec<String>,
}

impl<'a> Rows<'a> {
    pub fn of(table: &'a TableConfig, source: &'a SourceTable, old_table: &TargetDescription) -> Self {
        let positions = POSITION.iter().map(|(name, wanted)| position(name, wanted, old_table)).collect();
        let decision = Decision { table, source, old_table };
        Self {
            columns: source.columns.iter().filter_map(|column| decision.field(column)).collect(),
            positions,
            ingested_at: ingested_at(old_table),
            unknown: source.key.iter().filter_map(|column| decision.unknown(column)).collect(),
        }
    }

    /// The new table's columns and their types.
    pub fn shape(&self) -> Shape<'_> {
        let columns =
            self.columns.iter().filter_map(|field| Some((field.source?, field.name, field.type_name.clone())));
        let timestamp = self.positions.iter().flatten().find(|field| field.name == POSITION[2].0);
        Shape {
            columns: columns.collect(),
            timestamp: timestamp.map_or(POSITION[2].1, |field| &field.type_name),
            ingested_at: &self.ingested_at.type_name,
        }
    }

    /// The column of this name, if it gets values of the old table.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.columns.iter().find(|field| field.name == name)?.value.as_deref()
    }
}

struct Decision<'a, 'b> {
    table: &'a TableConfig,
    source: &'a SourceTable,
    old_table: &'b TargetDescription,
}

impl<'a> Decision<'a, '_> {
    fn is_key(&self, column: &SourceColumn) -> bool {
        self.source.key.iter().any(|key| key.name == column.name)
    }

    fn field(&self, column: &'a SourceColumn) -> Option<Field<'a>> {
        let name = self.table.column_rules.column_of(&column.name)?;
        let is_key = self.is_key(column);
        let taken = stored(self.old_table, name).and_then(|old| self.taken(column, name, old));
        let field = taken.unwrap_or_else(|| {
            let type_name = if is_key { target_type(column) } else { nullable_target_type(column) };
            Field::new(name, type_name, None)
        });
        Some(Field { source: Some(column), ..field })
    }

    /// The column with the old one's values, if they stay what they are.
    fn taken(&self, column: &SourceColumn, name: &'a str, old: &Column) -> Option<Field<'a>> {
        let is_key = self.is_key(column);
        let has_null = takes_null(&old.type_name) && !is_key;
        let wanted = if has_null { nullable_target_type(column) } else { target_type(column) };
        if is_exact(column, old, &wanted) {
            let field =
                if is_key { Field::converted(name, old, wanted) } else { Field::new(name, wanted, Some(quote(name))) };
            return Some(field.complete(old));
        }
        // What is deleted is computed from this column, which takes the type that it ought to have.
        let is_free = deletes::column(self.table) != Some(name);
        if is_free && fit(column, old) == Fit::Lossless {
            let kept = if is_key { not_null(&old.type_name) } else { old.type_name.clone() };
            return Some(Field::converted(name, old, kept).complete(old));
        }
        are_integers(&old.type_name, &wanted).then(|| Field::converted(name, old, wanted).complete(old))
    }

    /// Why a column of the key does not name a row.
    fn unknown(&self, column: &SourceColumn) -> Option<String> {
        let name = self.table.column_rules.column_of(&column.name)?;
        let quoted = quote(name);
        let Some(old) = stored(self.old_table, name) else {
            return Some(format!("it has no column {quoted}, which belongs to the key"));
        };
        if self.is_added(old) {
            return Some(format!("{quoted} belongs to the key, and is Nullable there"));
        }
        let is_taken = self.taken(column, name, old).is_some();
        let (of_source, of_target) = (&column.type_name, &old.type_name);
        (!is_taken).then(|| {
            format!("ClickHouse does not convert {quoted} from {of_target} to PostgreSQL's {of_source} unchanged")
        })
    }

    /// Whether it looks as if `init` has added the column, so that the rows of before have NULL there.
    fn is_added(&self, old: &Column) -> bool {
        let sorted = &self.old_table.sorting_key;
        let has_positions = POSITION.iter().all(|(name, _)| stored(self.old_table, name).is_some());
        takes_null(&old.type_name) && has_positions && !sorted.is_empty() && !sorted.contains(&old.name)
    }
}

/// The name that a column of the key evidently had before: the old table's rows are sorted by it, and nothing fills it now.
pub fn former_name<'a>(
    table: &'a TableConfig,
    source: &'a SourceTable,
    old_table: &'a TargetDescription,
) -> Option<(&'a SourceColumn, &'a str)> {
    let decision = Decision { table, source, old_table };
    let rules = &table.column_rules;
    let is_new = |key: &&SourceColumn| {
        rules.column_of(&key.name).is_some_and(|name| stored(old_table, name).is_none_or(|old| decision.is_added(old)))
    };
    let is_left = |column: &&Column| {
        let field = rules.field_of(&column.name);
        let is_filled = source.columns.iter().any(|other| Some(other.name.as_str()) == field);
        !is_filled && !is_own(&column.name) && old_table.sorting_key.contains(&column.name)
    };
    let mut new = source.key.iter().filter(is_new);
    let mut left = old_table.columns.iter().filter(is_left);
    let (Some(key), None, Some(old), None) = (new.next(), new.next(), left.next(), left.next()) else { return None };
    (fit(key, old) == Fit::Lossless).then_some((key, &old.name))
}

/// The old table's column, if it keeps what is inserted.
fn stored<'a>(old_table: &'a TargetDescription, name: &str) -> Option<&'a Column> {
    old_table.column(name).filter(|old| matches!(old.default_kind, DefaultKind::None | DefaultKind::Default))
}

/// A column of the position; `None` if nothing shows what its values mean.
fn position<'a>(name: &'a str, wanted: &str, old_table: &TargetDescription) -> Option<Field<'a>> {
    let old = stored(old_table, name)?;
    let is_time = name == POSITION[2].0;
    let field = match ColumnType::parse(&old.type_name).ok()?.without_null() {
        ColumnType::Scalar(ScalarType::DateTime) if is_time => Field::converted(name, old, wanted.to_owned()),
        ColumnType::Scalar(ScalarType::DateTime64(digits)) if is_time => Field::converted(name, old, time(digits)),
        ColumnType::Scalar(ScalarType::Integer(_)) if is_time => return Some(milliseconds(name, wanted)),
        ColumnType::Scalar(ScalarType::Integer(_)) => Field::converted(name, old, wanted.to_owned()),
        _ => return None,
    };
    Some(field.complete(old))
}

/// A time that is kept as a number.
fn milliseconds<'a>(name: &'a str, wanted: &str) -> Field<'a> {
    let quoted = quote(name);
    let value = format!("fromUnixTimestamp64Milli(accurateCastOrNull({quoted}, 'Int64'), 'UTC')");
    let which = format!("a number in {quoted} that is no milliseconds of the years 2001 to 2099");
    let left_out = Some((format!("{quoted} {MILLISECONDS}"), which));
    Field { left_out, ..Field::new(name, wanted, Some(value)) }
}

fn time(digits: u8) -> String {
    format!("DateTime64({}, 'UTC')", digits.max(3))
}

/// When ClickHouse got the row.
fn ingested_at<'a>(old_table: &TargetDescription) -> Field<'a> {
    let taken =
        old_table.column(INGESTED_AT).filter(|old| old.default_kind != DefaultKind::Ephemeral).and_then(|old| {
            let type_name = match ColumnType::parse(&old.type_name).ok()?.without_null() {
                ColumnType::Scalar(ScalarType::DateTime) => time(3),
                ColumnType::Scalar(ScalarType::DateTime64(digits)) => time(digits),
                _ => return None,
            };
            let type_name = if takes_null(&old.type_name) { format!("Nullable({type_name})") } else { type_name };
            Some(Field::new(INGESTED_AT, type_name, Some(quote(INGESTED_AT))))
        });
    taken.unwrap_or_else(|| Field::new(INGESTED_AT, time(3), None))
}

/// The type of the values that are not NULL.
fn not_null(type_name: &str) -> String {
    type_name
        .strip_prefix("LowCardinality(Nullable(")
        .map(|rest| format!("LowCardinality({}", rest.strip_suffix(')').unwrap_or(rest)))
        .or_else(|| Some(type_name.strip_prefix("Nullable(")?.strip_suffix(')')?.to_owned()))
        .unwrap_or_else(|| type_name.to_owned())
}

/// The same without its dictionary.
fn bare(type_name: &str) -> String {
    let type_name = not_null(type_name);
    in_dictionary(&type_name).map_or_else(|| type_name.clone(), ToOwned::to_owned)
}

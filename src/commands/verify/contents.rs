//! What is compared of a row: the columns that both tables have, in the bytes that pg2ch would insert.

use crate::clickhouse::column_type::{Column, ColumnType, DefaultKind};
use crate::clickhouse::encode::{CalendarRange, RowEncoder, changed_silently};
use crate::clickhouse::row_binary;
use crate::config::ColumnRules;
use crate::data::RecordId;
use crate::error::{Error, Result};
use crate::ports::source::SourceColumn;
use crate::postgres::SourceTable;

/// No record's position is compared.
const NOWHERE: RecordId = RecordId { partition: 0, offset: 0, timestamp_ms: 0 };

/// The column of the target that stores a source's column as it is, if one does.
pub(super) fn column_of<'t>(source: &SourceColumn, target: &'t [Column], rules: &ColumnRules) -> Option<&'t Column> {
    let name = rules.column_of(&source.name)?;
    target.iter().find(|column| column.name == name && stores_values(column))
}

/// Whether a column stores the values that an INSERT gives it.
pub(super) fn stores_values(column: &Column) -> bool {
    matches!(column.default_kind, DefaultKind::None | DefaultKind::Default)
}

/// Encodes rows of the source, and splits those of the target.
#[derive(Debug)]
pub struct Contents {
    encoder: RowEncoder,
    /// The columns' names in the source.
    pub fields: Vec<String>,
    /// Those in the target, in the order of the bytes.
    pub names: Vec<String>,
    types: Vec<ColumnType>,
}

impl Contents {
    /// Finds the columns that can be compared, 78 if there are none; also returns those of the source that cannot.
    pub fn of(
        source: &SourceTable,
        target: &[Column],
        rules: &ColumnRules,
        calendar: CalendarRange,
    ) -> Result<(Self, Vec<String>)> {
        let (mut fields, mut columns, mut types, mut left_out) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for of_source in &source.columns {
            let name = &of_source.name;
            let found = column_of(of_source, target, rules);
            let parsed = found.and_then(|column| ColumnType::parse(&column.type_name).ok());
            match (found, parsed) {
                (Some(column), Some(parsed))
                    if row_binary::is_comparable(&parsed) && changed_silently(of_source, column, rules).is_none() =>
                {
                    fields.push(name.clone());
                    columns.push(Column { default_kind: DefaultKind::None, ..column.clone() });
                    types.push(parsed);
                }
                _ => left_out.push(name.clone()),
            }
        }
        let what = format!("cannot compare the contents of {}", source.name);
        if columns.is_empty() {
            return Err(Error::config(what, "the target has none of its columns", "run `pg2ch check`"));
        }
        let encoder = RowEncoder::with_rules(&columns, rules, &source.columns)
            .map_err(|error| Error::config(what, error, "run `pg2ch check`"))?;
        let names = encoder.insert_columns().map(str::to_owned).collect();
        let encoder = encoder.with_calendar_range(calendar);
        Ok((Self { encoder, fields, names, types }, left_out))
    }

    /// The name in the source of a column of the target.
    pub fn field_of(&self, column: &str) -> Option<&str> {
        let place = self.names.iter().position(|name| name == column)?;
        self.fields.get(place).map(String::as_str)
    }

    /// The bytes that a row of the source becomes, or why the target does not take it.
    pub fn encode(&mut self, json: &str) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(json.len());
        self.encoder.encode(NOWHERE, json.as_bytes(), &mut bytes).map_err(|refusal| refusal.to_string())?;
        Ok(bytes)
    }

    /// Rows that each have `N` numbers in front; `None` if the bytes are not such rows.
    pub fn split<const N: usize>(&self, answer: &[u8]) -> Option<Vec<([u64; N], Vec<u8>)>> {
        let (mut rows, mut rest) = (Vec::new(), answer);
        while !rest.is_empty() {
            let mut numbers = [0; N];
            for number in &mut numbers {
                let (bytes, behind) = rest.split_first_chunk()?;
                *number = u64::from_le_bytes(*bytes);
                rest = behind;
            }
            let behind = self.types.iter().try_fold(rest, |rest, column| row_binary::value(column, rest))?;
            rows.push((numbers, rest[..rest.len() - behind.len()].to_vec()));
            rest = behind;
        }
        Some(rows)
    }

    /// The first column in which two rows differ.
    pub fn first_difference(&self, mut one: &[u8], mut other: &[u8]) -> Option<&str> {
        for (name, column) in self.names.iter().zip(&self.types) {
            let (behind_one, behind_other) = (row_binary::value(column, one)?, row_binary::value(column, other)?);
            if one[..one.len() - behind_one.len()] != other[..other.len() - behind_other.len()] {
                return Some(name);
            }
            (one, other) = (behind_one, behind_other);
        }
        None
    }
}

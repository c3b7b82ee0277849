//! What both servers print of a value: compared without pg2ch's own encoding, whose faults would hide behind themselves.
//!
//! A pair of columns is left out if no expressions are known that print the same on both servers.

use serde_json::Value;

use super::contents::column_of;
use super::key::{Texts, printed_in_json};
use super::source::{Printed, SourceRow};
use crate::clickhouse::column_type::{Column, ColumnType, ScalarType};
use crate::clickhouse::quote as quote_target;
use crate::config::ColumnRules;
use crate::ports::source::SourceColumn;
use crate::postgres::{SourceTable, quote};

/// The columns whose values can be compared so.
#[derive(Debug, Default)]
pub struct Shown {
    pub columns: Vec<ShownColumn>,
    /// PostgreSQL's expressions, and ClickHouse's.
    pub sources: String,
    pub targets: String,
}

#[derive(Debug)]
pub struct ShownColumn {
    name: String,
    /// Whether both print JSON, each in its own spelling.
    is_json: bool,
}

impl Shown {
    /// Finds the columns and their expressions.
    pub fn of(source: &SourceTable, target: &[Column], rules: &ColumnRules) -> Self {
        let (mut columns, mut sources, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for column in &source.columns {
            let Some(found) = column_of(column, target, rules) else { continue };
            let Some((in_source, in_target, is_json)) = expressions(column, found) else { continue };
            columns.push(ShownColumn { name: found.name.clone(), is_json });
            sources.push(in_source);
            targets.push(format!("ifNull(concat('v', {in_target}), 'n')"));
        }
        Self { columns, sources: sources.join(", "), targets: targets.join(", ") }
    }

    /// The first column in which a row that both servers have looks another way, and what they print there.
    pub(super) fn difference<'p>(
        &self,
        row: &SourceRow,
        sources: &'p Printed,
        targets: &'p Printed,
    ) -> Option<(&str, Option<&'p str>, Option<&'p str>)> {
        let (source, target) = (sources.get(&row.key.number)?, targets.get(&row.key.number)?);
        let at = self.first_difference(source, target)?;
        Some((&self.columns.get(at)?.name, source.get(at)?.as_deref(), target.get(at)?.as_deref()))
    }

    fn first_difference(&self, source: &[Option<String>], target: &[Option<String>]) -> Option<usize> {
        self.columns.iter().zip(source.iter().zip(target)).position(|(column, (one, other))| {
            one != other && !(column.is_json && is_same_json(one.as_deref(), other.as_deref()))
        })
    }
}

fn is_same_json(one: Option<&str>, other: Option<&str>) -> bool {
    let parsed = |text: Option<&str>| text.and_then(|text| serde_json::from_str::<Value>(text).ok());
    parsed(one).is_some_and(|one| parsed(other) == Some(one))
}

/// PostgreSQL's expression and ClickHouse's, and whether they print JSON.
fn expressions(source: &SourceColumn, target: &Column) -> Option<(String, String, bool)> {
    let (in_source, in_target) = (format!("t.{}", quote(&source.name)), quote_target(&target.name));
    let parsed = ColumnType::parse(&target.type_name).ok()?.without_null();
    let bits = |width: u32, integer: &str| {
        let bytes = format!("pg_catalog.float{}send({in_source})", width / 8);
        format!("('x' || encode({bytes}, 'hex'))::bit({width})::{integer}::text")
    };
    let document = |value: &str| format!("nullif(btrim({value}::text, E' \\t\\n\\r'), 'null')");
    Some(match (source.base_type.as_str(), parsed) {
        ("json" | "jsonb", ColumnType::Scalar(ScalarType::String)) => {
            (document(&in_source), format!("toString({in_target})"), false)
        }
        ("double precision", ColumnType::Scalar(ScalarType::Float64 | ScalarType::Float32)) => {
            (bits(64, "bigint"), format!("toString(reinterpretAsInt64(toFloat64({in_target})))"), false)
        }
        ("real", ColumnType::Scalar(ScalarType::Float32)) => {
            (bits(32, "integer"), format!("toString(reinterpretAsInt32({in_target}))"), false)
        }
        (array, ColumnType::Array(element)) => {
            let of = array.strip_suffix("[]")?;
            let as_text = match (of, element.without_null()) {
                ("json" | "jsonb", ColumnType::Scalar(ScalarType::String)) => document("e"),
                (_, ColumnType::Scalar(ScalarType::String)) => printed_in_json("e", source.is_composite),
                ("smallint" | "integer" | "bigint", ColumnType::Scalar(ScalarType::Integer(_))) => "e".to_owned(),
                ("boolean", ColumnType::Scalar(ScalarType::Bool)) | ("uuid", ColumnType::Scalar(ScalarType::Uuid)) => {
                    "e".to_owned()
                }
                _ => return None,
            };
            let elements = format!(
                "(SELECT json_agg({as_text} ORDER BY n)::text
                  FROM json_array_elements(to_json({in_source})) WITH ORDINALITY AS u (e, n))"
            );
            let in_source = format!("CASE WHEN {in_source} IS NOT NULL THEN coalesce({elements}, '[]') END");
            (in_source, format!("toJSONString({in_target})"), true)
        }
        _ => {
            let Texts { source, target, .. } = Texts::of(source, target)?;
            (source, target, false)
        }
    })
}

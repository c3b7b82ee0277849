//! Rows that the target's TTL has deleted: they are expired, not missing, and sent again they would expire again.
//!
//! The TTL's own text is evaluated by ClickHouse, over the values that PostgreSQL has.

use std::collections::HashSet;

use super::contents::stores_values;
use super::key::Texts;
use super::source::{Printed, PrintedRow};
use super::target::TargetKeys;
use crate::clickhouse::column_type::{Column, ColumnType, ScalarType, in_dictionary};
use crate::clickhouse::{quote, text};
use crate::config::ColumnRules;
use crate::error::Result;
use crate::ports::target::TargetDescription;
use crate::postgres::SourceTable;

/// How many rows a question lists.
const LISTED: usize = 1_000;

/// What the target's TTL deletes.
#[derive(Debug)]
pub enum Ttl {
    /// Nothing.
    None,
    /// The rows for which the condition holds.
    Known(Expiry),
    /// Rows that cannot be told: why.
    Unknown(String),
}

/// The condition under which a row has expired.
#[derive(Debug)]
pub struct Expiry {
    condition: String,
    /// PostgreSQL's expressions of the values that the condition needs.
    pub sources: String,
    /// ClickHouse's expressions of the columns, made from the texts in `x`.
    columns: String,
}

impl Ttl {
    /// Reads the TTL of the target.
    pub fn of(description: &TargetDescription, source: &SourceTable, rules: &ColumnRules) -> Self {
        let deletes = description.engine.ttl_deletes();
        if deletes.is_empty() {
            return Self::None;
        }
        let words: HashSet<String> = deletes.iter().flat_map(|each| names(each)).collect();
        let (mut sources, mut columns) = (Vec::new(), Vec::new());
        for column in description.columns.iter().filter(|column| words.contains(&column.name)) {
            let filled = rules.field_of(&column.name).and_then(|field| source.columns.iter().find(|c| c.name == field));
            let texts = filled.filter(|_| stores_values(column)).and_then(|filled| Texts::of(filled, column));
            let Some(texts) = texts else {
                return Self::Unknown(format!("it uses the column {}, which PostgreSQL does not tell", column.name));
            };
            sources.push(texts.source);
            columns.push(format!("{} AS {}", value(column, sources.len() + 1), quote(&column.name)));
        }
        let Some(conditions) = deletes.iter().map(|each| condition(each)).collect::<Option<Vec<_>>>() else {
            return Self::Unknown("it folds rows into one".into());
        };
        Self::Known(Expiry {
            condition: conditions.join(" OR "),
            sources: sources.join(", "),
            columns: columns.iter().map(|column| format!(", {column}")).collect(),
        })
    }
}

/// The value of a column out of the text at `place` of the tuple `x`; NULL where the column cannot hold it, as in a dead letter's row.
fn value(column: &Column, place: usize) -> String {
    let (name, parsed) = (&column.type_name, ColumnType::parse(&column.type_name).map(ColumnType::without_null));
    let shown = match parsed {
        Ok(ColumnType::Scalar(ScalarType::String | ScalarType::FixedString(_) | ScalarType::Enum(_))) => {
            return format!("x.{place}");
        }
        Ok(ColumnType::Scalar(ScalarType::DateTime | ScalarType::DateTime64(_))) => {
            format!("parseDateTime64BestEffortOrNull(x.{place}, 6, 'UTC')")
        }
        _ => format!("x.{place}"),
    };
    format!("accurateCastOrNull({shown}, {})", text(in_dictionary(name).unwrap_or(name)))
}

/// A rule of a TTL as a condition on a row; none if it does more than delete.
fn condition(rule: &str) -> Option<String> {
    if rule.contains(" GROUP BY ") {
        return None;
    }
    let (when, only) = match rule.split_once(" WHERE ") {
        Some((when, only)) => (when, format!(" AND ({only})")),
        None => (rule, String::new()),
    };
    let when = when.trim().strip_suffix(" DELETE").unwrap_or(when);
    Some(format!("(({when}) <= now(){only})"))
}

/// The identifiers in an expression, and other words.
fn names(expression: &str) -> Vec<String> {
    let quoted = expression.split('`').skip(1).step_by(2).map(str::to_owned);
    let plain = expression.split(|c: char| !c.is_alphanumeric() && c != '_').map(str::to_owned);
    quoted.chain(plain).filter(|word| !word.is_empty()).collect()
}

impl Expiry {
    /// The numbers of those rows that have expired: `rows` are what [`sources`](Self::sources) shows, by the numbers of their keys.
    pub fn of_rows(&self, target: &mut TargetKeys, rows: &Printed) -> Result<HashSet<u64>> {
        let literal = |value: &Option<String>| value.as_deref().map_or_else(|| "NULL".into(), text);
        let tuple = |(number, values): (&u64, &PrintedRow)| {
            let values: String = values.iter().map(|value| format!(", {}", literal(value))).collect();
            format!("(toUInt64({number}){values})")
        };
        let tuples: Vec<String> = rows.iter().map(tuple).collect();
        let mut expired = HashSet::new();
        for chunk in tuples.chunks(LISTED) {
            let sql = format!(
                "SELECT pg2ch_number FROM (SELECT x.1 AS pg2ch_number{columns} FROM (SELECT arrayJoin([{tuples}]) AS x)) \
                 WHERE {condition} FORMAT RowBinary",
                columns = self.columns,
                tuples = chunk.join(", "),
                condition = self.condition,
            );
            expired.extend(target.numbers(&sql, 1)?);
        }
        Ok(expired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_becomes_a_condition() {
        assert_eq!(condition("d + toIntervalDay(1)").as_deref(), Some("((d + toIntervalDay(1)) <= now())"));
        let only = condition("d + toIntervalDay(1) DELETE WHERE k = 'x'");
        assert_eq!(only.as_deref(), Some("((d + toIntervalDay(1)) <= now() AND (k = 'x'))"));
        assert_eq!(condition("d GROUP BY k SET v = max(v)"), None);
    }

    #[test]
    fn a_value_that_the_column_cannot_hold_is_null() {
        let of = |type_name| value(&Column::new("c", type_name), 2);
        assert_eq!(of("LowCardinality(Nullable(String))"), "x.2");
        assert_eq!(of("LowCardinality(Date)"), "accurateCastOrNull(x.2, 'Date')");
        assert_eq!(
            of("DateTime('UTC')"),
            "accurateCastOrNull(parseDateTime64BestEffortOrNull(x.2, 6, 'UTC'), 'DateTime(\\'UTC\\')')"
        );
    }

    #[test]
    fn the_names_in_a_rule_are_found() {
        let found = names("`an odd` + toIntervalDay(k_1) WHERE x = 1");
        assert!(["an odd", "k_1", "x"].iter().all(|name| found.iter().any(|word| word == name)), "{found:?}");
    }
}

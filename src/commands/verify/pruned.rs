//! What `pg2ch prune` has deleted: the limit below which keys of the target need not be in the source.

use crate::clickhouse::column_type::{Column, ColumnType, ScalarType};
use crate::clickhouse::{quote, text};
use crate::config::TableConfig;
use crate::error::Result;
use crate::mutant;
use crate::postgres::{Session, SourceTable, age_kind, literal, quote as quote_source, reads_checkpoint};

/// The highest limit that prune has used.
#[derive(Debug)]
pub struct Pruned {
    /// The target's column that says how old a row is.
    pub column: String,
    /// Whether the row of a target lies below the limit, 0 or 1.
    pub condition: String,
    /// Whether the row of a source does, its alias `t`.
    pub in_source: String,
}

impl Pruned {
    /// Reads it from the checkpoint's row of the source; none where nothing was pruned.
    pub fn recorded(session: &mut Session, config: &TableConfig, table: &SourceTable) -> Result<Option<Self>> {
        const WHAT: &str = "cannot read the limit of `pg2ch prune`";
        if mutant::is("verify: what was pruned is not known") || !reads_checkpoint(session, WHAT)? {
            return Ok(None);
        }
        // A checkpoint table that no `pg2ch init` of this version has seen lacks the columns.
        let sql = "SELECT to_jsonb(c) ->> 'pruned_by', to_jsonb(c) ->> 'pruned_below' FROM pg2ch_checkpoint AS c
             WHERE source = $1 AND topic = $2 AND partition = -1";
        let row = session.query_opt(WHAT, sql, &[&table.name, &config.topic])?;
        let Some((Some(by), Some(limit))) =
            row.map(|row| (row.get::<_, Option<String>>(0), row.get::<_, Option<String>>(1)))
        else {
            return Ok(None);
        };
        let Some(column) = config.column_rules.column_of(&by) else { return Ok(None) };
        let Some(source) = table.columns.iter().find(|column| column.name == by) else { return Ok(None) };
        let in_source = format!("coalesce(t.{} < {}::{}, FALSE)", quote_source(&by), literal(&limit), age_kind(source));
        let condition = format!(
            "ifNull(toDateTime64({}, 6, 'UTC') < parseDateTime64BestEffort({}, 6, 'UTC'), 0)",
            quote(column),
            text(&limit)
        );
        Ok(Some(Self { column: column.to_owned(), condition, in_source }))
    }
}

/// Whether the target has a column as a date or time.
pub fn is_time(columns: &[Column], name: &str) -> bool {
    let column = columns.iter().find(|column| column.name == name);
    let parsed = column.and_then(|column| ColumnType::parse(&column.type_name).ok()).map(ColumnType::without_null);
    matches!(
        parsed,
        Some(ColumnType::Scalar(
            ScalarType::Date | ScalarType::Date32 | ScalarType::DateTime | ScalarType::DateTime64(_)
        ))
    )
}

//! The target table: as `init` creates it; and, where another pipeline has filled one that does not fit, the statements that make
//! it anew with its rows in it. `check` and `init` show those; a person runs them.

use crate::clickhouse::{ClickHouseTarget, quote, text};
use crate::config::{DELETED_MARK, TableConfig, TargetName};
use crate::error::Result;
use crate::fit::deletes::definition;
use crate::fit::map::target_type;
use crate::fit::{POSITION, can_be_taken_over, sql_name};
use crate::outcome::backlog;
use crate::ports::LegContext;
use crate::ports::source::SourceColumn;
use crate::ports::target::TargetDescription;
use crate::postgres::SourceTable;

/// The names that columns of the source have in the target, without the ignored ones.
fn target_names<'a>(table: &'a TableConfig, columns: &'a [SourceColumn]) -> Vec<&'a str> {
    columns.iter().filter_map(|column| table.column_rules.column_of(&column.name)).collect()
}

/// The target that takes every value of the source whole.
#[must_use]
pub fn create_target(table: &TableConfig, source: &SourceTable, comment: Option<&str>) -> String {
    let comment = comment.map_or_else(String::new, |comment| format!("\nCOMMENT {}", text(comment)));
    let column = |column: &SourceColumn| {
        let name = table.column_rules.column_of(&column.name)?;
        let comment = column.comment.as_ref().map_or_else(String::new, |c| format!(" COMMENT {}", text(c)));
        Some(format!("    {} {}{comment},\n", quote(name), target_type(column)))
    };
    let columns: String = source.columns.iter().filter_map(column).collect();
    let key: Vec<_> = target_names(table, &source.key).into_iter().map(quote).collect();
    let mark = source.deleted.as_ref().and_then(|deleted| {
        let name = table.column_rules.column_of(&deleted.name)?;
        Some((format!("    {},\n", definition(deleted, name)), format!(", {}", quote(DELETED_MARK))))
    });
    let (mark, hidden_by) = mark.unwrap_or_default();
    // The elements of an array may be NULL, though the key itself is not.
    let holds_null = source.key.iter().any(|column| target_type(column).contains("Nullable("));
    let nullable = if holds_null { ", allow_nullable_key = 1" } else { "" };
    format!(
        "CREATE TABLE IF NOT EXISTS {} (\n{columns}{mark}    `_partition` Int32,\n    `_offset` Int64,\n    \
         `_timestamp` DateTime64(3, 'UTC'),\n    `_ingested_at` DateTime64(3, 'UTC') DEFAULT now64(3),\n    \
         INDEX `_position` (`_partition`, `_offset`) TYPE minmax GRANULARITY 1\n)\n\
         ENGINE = ReplacingMergeTree(`_timestamp`{hidden_by})\nORDER BY ({})\n\
         SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, \
         min_rows_to_fsync_after_merge = 1{nullable}{comment}",
        sql_name(&table.target),
        key.join(", "),
    )
}

/// Why the target's rows cannot be distinguished from those that the topic still holds: something else than pg2ch has stored them,
/// without their records' positions. `None` if that is not so.
pub fn foreign(leg: &LegContext<'_>, target: &TargetDescription) -> Result<Option<String>> {
    let (config, table) = (leg.config, leg.table);
    if POSITION.iter().all(|(name, _)| target.column(name).is_some()) {
        return Ok(None);
    }
    let is_ours = backlog::partitions(config, table, leg.watchdog)
        .is_ok_and(|(partitions, _)| partitions.iter().any(|partition| partition.trusted));
    let mut stored = ClickHouseTarget::new(config, table)?;
    let sql = format!("SELECT count() FROM (SELECT 1 FROM {} LIMIT 1) FORMAT TabSeparated", stored.sql_name());
    let what = format!("cannot look for rows in the target {}", table.target);
    if is_ours || stored.query(&what, &sql)?.trim_ascii() == b"0" {
        return Ok(None);
    }
    Ok(Some(format!(
        "{} has the engine {}, and its rows have no position: they cannot be distinguished from those that the topic still holds",
        table.target, target.engine.name
    )))
}

/// Makes the target anew and takes the rows of the old one over: in this order, each statement as it stands.
///
/// Rows without a position are not recognised as records of the topic. So they come last, after a run has copied what the topic
/// holds, and only those whose key did not come that way: under a partition that no topic has, older than any record.
#[must_use]
pub fn statements(
    table: &TableConfig,
    source: &SourceTable,
    comment: Option<&str>,
    old_table: &TargetDescription,
) -> String {
    let old = TargetName { table: format!("{}_old", table.target.table), ..table.target.clone() };
    let (name, old) = (sql_name(&table.target), sql_name(&old));
    let create = create_target(table, source, comment);
    let kept = if old_table.is_partitioned() {
        format!("-- to keep PARTITION BY {}, write it before ORDER BY\n", old_table.partition_key)
    } else {
        String::new()
    };
    let made = format!("{kept}RENAME TABLE {name} TO {old};\n{create};");
    let has = |wanted: &str| old_table.column(wanted).is_some();
    let taken_over = |column: &SourceColumn| {
        let old = old_table.column(table.column_rules.column_of(&column.name)?)?;
        can_be_taken_over(column, old).then(|| quote(&old.name))
    };
    let mut columns = source.columns.iter().filter_map(taken_over).collect::<Vec<_>>().join(", ");
    if has("_ingested_at") {
        columns += ", `_ingested_at`";
    }
    let positions = POSITION.map(|(name, _)| quote(name)).join(", ");
    let key = target_names(table, &source.key);
    if POSITION.iter().all(|(name, _)| has(name)) {
        return format!(
            "{made}\nINSERT INTO {name} ({columns}, {positions}) SELECT {columns}, {positions} FROM {old};"
        );
    }
    if !key.iter().all(|name| has(name)) {
        return format!("{made}\n-- the rows of {old} lack the key, so they cannot be copied");
    }
    let key = key.into_iter().map(quote).collect::<Vec<_>>().join(", ");
    let (newest, taken) = if has("_ingested_at") {
        (" ORDER BY `_ingested_at` DESC", "the version that was inserted last")
    } else {
        ("", "any version, as nothing shows the newest")
    };
    format!(
        "{made}\n-- Now `pg2ch --once`: it copies what the topic still holds. Then the rows that only the old table has, of each \
         key {taken}. `pg2ch verify --deep` shows stale ones:\n\
         INSERT INTO {name} ({columns}, {positions}) SELECT {columns}, -1, toInt64(bitShiftRight(cityHash64({key}), 1)), \
         toDateTime64(0, 3, 'UTC') FROM {old} WHERE ({key}) NOT IN (SELECT {key} FROM {name}){newest} LIMIT 1 BY {key};"
    )
}

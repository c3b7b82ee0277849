//! The statement that creates a target: as `init` does it, and with the columns' types that a migration needs.

use crate::clickhouse::{quote, sql_name, text};
use crate::config::{DELETED_MARK, TableConfig};
use crate::fit::POSITION;
use crate::fit::deletes::definition;
use crate::fit::map::target_type;
use crate::ports::source::SourceColumn;
use crate::postgres::SourceTable;

/// The columns of a target and their types.
pub struct Shape<'a> {
    /// Those of the source, with their names in the target.
    pub columns: Vec<(&'a SourceColumn, &'a str, String)>,
    pub timestamp: &'a str,
    pub ingested_at: &'a str,
}

impl<'a> Shape<'a> {
    /// What takes every value of the source whole.
    fn whole(table: &'a TableConfig, source: &'a SourceTable) -> Self {
        let column =
            |column: &'a SourceColumn| Some((column, table.column_rules.column_of(&column.name)?, target_type(column)));
        let timestamp = POSITION[2].1;
        Self { columns: source.columns.iter().filter_map(column).collect(), timestamp, ingested_at: timestamp }
    }
}

/// The names that columns of the source have in the target, without the ignored ones.
pub fn target_names<'a>(table: &'a TableConfig, columns: &'a [SourceColumn]) -> Vec<&'a str> {
    columns.iter().filter_map(|column| table.column_rules.column_of(&column.name)).collect()
}

/// Creates, where there is none, the target that takes every value of the source whole.
pub fn create_target(table: &TableConfig, source: &SourceTable, comment: Option<&str>) -> String {
    format!("CREATE TABLE IF NOT EXISTS {}", target_definition(table, source, comment, &Shape::whole(table, source)))
}

/// Its name, and what follows that in CREATE TABLE.
pub fn target_definition(
    table: &TableConfig,
    source: &SourceTable,
    comment: Option<&str>,
    shape: &Shape<'_>,
) -> String {
    let comment = comment.map_or_else(String::new, |comment| format!("\nCOMMENT {}", text(comment)));
    let column = |(column, name, type_name): &(&SourceColumn, &str, String)| {
        let comment = column.comment.as_ref().map_or_else(String::new, |c| format!(" COMMENT {}", text(c)));
        format!("    {} {type_name}{comment},\n", quote(name))
    };
    let columns: String = shape.columns.iter().map(column).collect();
    let key = target_names(table, &source.key);
    let mark = source.deleted.as_ref().and_then(|deleted| {
        let name = table.column_rules.column_of(&deleted.name)?;
        Some((format!("    {},\n", definition(deleted, name)), format!(", {}", quote(DELETED_MARK))))
    });
    let (mark, hidden_by) = mark.unwrap_or_default();
    // The elements of an array may be NULL, though the key itself is not.
    let holds_null =
        |(_, name, type_name): &(&SourceColumn, &str, String)| key.contains(name) && type_name.contains("Nullable(");
    let nullable = if shape.columns.iter().any(holds_null) { ", allow_nullable_key = 1" } else { "" };
    format!(
        "{} (\n{columns}{mark}    `_partition` Int32,\n    `_offset` Int64,\n    \
         `_timestamp` {},\n    `_ingested_at` {} DEFAULT now64(3),\n    \
         INDEX `_position` (`_partition`, `_offset`) TYPE minmax GRANULARITY 1\n)\n\
         ENGINE = ReplacingMergeTree(`_timestamp`{hidden_by})\nORDER BY ({})\n\
         SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1, \
         min_rows_to_fsync_after_merge = 1{nullable}{comment}",
        sql_name(&table.target),
        shape.timestamp,
        shape.ingested_at,
        key.into_iter().map(quote).collect::<Vec<_>>().join(", "),
    )
}

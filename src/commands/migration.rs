//! The target table: as `init` creates it; and, where another pipeline has filled one that does not fit, the statements that make
//! it anew with its rows in it. `check` and `init` show those; a person runs them.

use crate::clickhouse::column_type::{Column, takes_null};
use crate::clickhouse::{ClickHouseTarget, quote, sql_name, text};
use crate::config::{DELETED_MARK, TableConfig, TargetName};
use crate::error::Result;
use crate::fit::deletes::{self, definition};
use crate::fit::map::target_type;
use crate::fit::{POSITION, can_be_taken_over, rewritten};
use crate::outcome::backlog;
use crate::ports::LegContext;
use crate::ports::source::SourceColumn;
use crate::ports::target::TargetDescription;
use crate::postgres::SourceTable;

/// The names that columns of the source have in the target, without the ignored ones.
fn target_names<'a>(table: &'a TableConfig, columns: &'a [SourceColumn]) -> Vec<&'a str> {
    columns.iter().filter_map(|column| table.column_rules.column_of(&column.name)).collect()
}

/// Creates, where there is none, the target that takes every value of the source whole.
pub fn create_target(table: &TableConfig, source: &SourceTable, comment: Option<&str>) -> String {
    format!("CREATE TABLE IF NOT EXISTS {}", target_definition(table, source, comment))
}

/// Its name, and what follows that in CREATE TABLE.
fn target_definition(table: &TableConfig, source: &SourceTable, comment: Option<&str>) -> String {
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
        "{} (\n{columns}{mark}    `_partition` Int32,\n    `_offset` Int64,\n    \
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
///
/// A RENAME cuts the views off: no INSERT reaches them, neither of the old table nor of the new one, until they are attached again.
/// That is the last statement, so that they do not get again what they have counted.
pub fn statements(
    table: &TableConfig,
    source: &SourceTable,
    comment: Option<&str>,
    old_table: &TargetDescription,
) -> String {
    let old = TargetName { table: format!("{}_old", table.target.table), ..table.target.clone() };
    let (name, old) = (sql_name(&table.target), sql_name(&old));
    let definition = target_definition(table, source, comment);
    let kept = if old_table.is_partitioned() {
        format!("-- to keep PARTITION BY {}, write it before ORDER BY\n", old_table.partition_key)
    } else {
        String::new()
    };
    let left = left_behind(old_table, &old);
    let alone = "-- Let no other run start before the last of these statements: stop its timer first\n";
    // Where the old table's name is taken, both statements fail: nothing goes on as if it were this one.
    let made = format!("{alone}{kept}{left}RENAME TABLE {name} TO {old};\nCREATE TABLE {definition};");
    let has = |wanted: &str| old_table.column(wanted).is_some();
    let has_positions = POSITION.iter().all(|(name, _)| has(name));
    let key = target_names(table, &source.key);
    // Rows without a position must not meet views that have counted them: what is new comes with the run after them.
    let run = if old_table.views.is_empty() {
        "-- Now `pg2ch --once`: it copies what the topic still holds.".to_owned()
    } else {
        format!(
            "-- Now `pg2ch consume`: it copies what the topic still holds. The views do not see that: they have it from {old}. \
             What {old} lacks, insert into their tables with their own SELECT."
        )
    };
    let last = attached_again(old_table, " Then `pg2ch --once`: they see what it copies.");
    if !has_positions && !key.iter().all(|name| has(name)) {
        let run = if last.is_empty() { String::new() } else { format!("\n{run}") };
        return format!("{made}\n-- the rows of {old} lack the key, so they cannot be copied{run}{last}");
    }
    let taken = taken_over(table, source, old_table);
    let hidden = still_deleted(table, source, old_table, &taken);
    let is_hidden = |name: &str| hidden.as_ref().is_some_and(|(column, _)| *column == name);
    let others = taken.iter().map(|(_, column)| column.name.as_str()).filter(|name| !is_hidden(name));
    let mut columns: Vec<String> = others.chain(has("_ingested_at").then_some("_ingested_at")).map(quote).collect();
    let mut values = columns.clone();
    if let Some((column, value)) = &hidden {
        columns.push(quote(column));
        values.push(value.clone());
    }
    let positions = POSITION.map(|(name, _)| quote(name));
    let with_positions = if has_positions { &positions[..] } else { &[] };
    let mut notes = not_taken(source, old_table, &[&columns, with_positions].concat(), &old);
    let others = || taken.iter().filter(|(_, old)| !is_hidden(&old.name));
    notes += &rewritten(others().map(|(column, old)| (*old, target_type(column))));
    notes += &nulls(others(), &old);
    if let Some((column, _)) = hidden {
        notes += &format!(
            "-- {} takes over which rows are deleted, and not since when: after the next run `pg2ch verify --deep --repair --confirm` has the \
             rows sent again that differ\n",
            quote(column)
        );
    }
    let (columns, values, positions) = (columns.join(", "), values.join(", "), positions.join(", "));
    // ClickHouse would silently put a default in place of a NULL, and leave out older versions of a row.
    let settings = "SETTINGS insert_null_as_default = 0, optimize_on_insert = 0";
    if has_positions {
        return format!(
            "{made}\n{notes}INSERT INTO {name} ({columns}, {positions}) SELECT {values}, {positions} FROM {old} \
             WHERE ({positions}) NOT IN (SELECT {positions} FROM {name}) {settings}, transform_null_in = 1;{}",
            attached_again(old_table, "")
        );
    }
    let key = key.into_iter().map(quote).collect::<Vec<_>>().join(", ");
    let (newest, taken) = if has("_ingested_at") {
        (" ORDER BY `_ingested_at` DESC", "the version that was inserted last")
    } else {
        ("", "any version, as nothing shows the newest")
    };
    format!(
        "{made}\n{run} Then the rows that only the old table has, of each \
         key {taken}. `pg2ch verify --deep` shows stale ones:\n\
         {notes}INSERT INTO {name} ({columns}, {positions}) SELECT {values}, -1, toInt64(bitShiftRight(cityHash64({key}), 1)), \
         toDateTime64(0, 3, 'UTC') FROM {old} WHERE ({key}) NOT IN (SELECT {key} FROM {name}){newest} LIMIT 1 BY {key} \
         {settings};{last}"
    )
}

/// The columns whose values the new table takes from the old one.
fn taken_over<'a>(
    table: &TableConfig,
    source: &'a SourceTable,
    old_table: &'a TargetDescription,
) -> Vec<(&'a SourceColumn, &'a Column)> {
    let taken = |column: &'a SourceColumn| {
        let old = old_table.column(table.column_rules.column_of(&column.name)?)?;
        can_be_taken_over(column, old).then_some((column, old))
    };
    source.columns.iter().filter_map(taken).collect()
}

/// The column that `deleted` names, and what hides the rows that the old table hides, where that does not follow from the column's
/// own values: it was renamed, or has got another type, so that all of these rows would show again.
fn still_deleted<'a>(
    table: &'a TableConfig,
    source: &SourceTable,
    old_table: &TargetDescription,
    taken: &[(&SourceColumn, &Column)],
) -> Option<(&'a str, String)> {
    let deleted = source.deleted.as_ref()?;
    let name = deletes::column(table)?;
    let (is_boolean, column) = (deleted.base_type == "boolean", quote(name));
    let is_taken = taken.iter().any(|(_, old)| old.name == name);
    // What is made of other columns of the source never said what is deleted.
    let others = target_names(table, &source.columns).into_iter().filter(|other| *other != name);
    let by = old_table.engine.argument(1).filter(|by| !others.into_iter().any(|other| old_table.is_made_of(by, other)));
    let is_hidden = match (by, old_table.column(name).map(|old| old.type_name.as_str())) {
        (Some(by), _) if is_taken && old_table.is_made_of(&by, name) => return None,
        (Some(by), _) => format!("{} = 1", quote(&by)),
        (None, Some("Bool" | "Nullable(Bool)")) if !is_taken => format!("ifNull({column}, FALSE)"),
        (None, Some(old)) if !is_taken && old.starts_with("Nullable(Date") => format!("isNotNull({column})"),
        _ => return None,
    };
    let time = if old_table.column("_timestamp").is_some() { "`_timestamp`" } else { "toDateTime64(0, 3, 'UTC')" };
    let (hides, shows) = if is_boolean { ("TRUE", "FALSE") } else { (time, "NULL") };
    let shown = match (is_taken, deleted.not_null) {
        (true, true) => format!("ifNull({column}, {shows})"),
        (true, false) => column,
        (false, _) => shows.to_owned(),
    };
    Some((name, format!("if({is_hidden}, {hides}, {shown})")))
}

/// Names the columns whose values stay in the old table.
fn not_taken(source: &SourceTable, old_table: &TargetDescription, taken: &[String], old: &str) -> String {
    let is_made = |name: &str| name == DELETED_MARK && source.deleted.is_some();
    let names = old_table.columns.iter().filter(|column| !is_made(&column.name)).map(|column| quote(&column.name));
    let left: Vec<String> = names.filter(|name| !taken.contains(name)).collect();
    if left.is_empty() {
        return String::new();
    }
    format!(
        "-- not taken over from {old}: {}. To keep them, add them to CREATE TABLE and to both lists of columns in INSERT\n",
        left.join(", ")
    )
}

/// Names the columns whose NULLs the new table does not take.
fn nulls<'a>(taken: impl Iterator<Item = &'a (&'a SourceColumn, &'a Column)>, old: &str) -> String {
    let is_narrower =
        |(column, old): &&(&SourceColumn, &Column)| takes_null(&old.type_name) && !takes_null(&target_type(column));
    let names: Vec<String> = taken.filter(is_narrower).map(|(_, old)| quote(&old.name)).collect();
    let Some(first) = names.first() else { return String::new() };
    format!(
        "-- where {old} has NULL in {}, this INSERT fails: then write e.g. coalesce({first}, a value) for {first} after SELECT\n",
        names.join(", ")
    )
}

/// Names what else of the old table's own definition the new one does not get.
fn left_behind(old_table: &TargetDescription, old: &str) -> String {
    // pg2ch's own index is in both.
    let definition = old_table.definition.replace("INDEX `_position` ", "").replace("INDEX _position ", "");
    let parts = [
        (" CODEC(", "codecs"),
        (" CONSTRAINT ", "constraints"),
        (" PROJECTION ", "projections"),
        (" INDEX ", "indexes"),
        (" TTL ", "TTL"),
        (" COMMENT ", "comments"),
    ];
    let found: Vec<&str> =
        parts.iter().filter(|(word, _)| definition.contains(word)).map(|(_, plural)| *plural).collect();
    if found.is_empty() {
        return String::new();
    }
    format!(
        "-- the new table does not get the {} of the old one: afterwards SHOW CREATE TABLE {old} shows them\n",
        found.join(", ")
    )
}

/// Binds the views to the new table: they read the table that they have found when they were attached.
fn attached_again(old_table: &TargetDescription, then: &str) -> String {
    let views = old_table.views.iter().map(|view| &view.name);
    let statements: Vec<String> = views.map(|view| format!("\nDETACH TABLE {view};\nATTACH TABLE {view};")).collect();
    if statements.is_empty() {
        return String::new();
    }
    format!("\n-- RENAME has cut the views off: this binds them to the new table.{then}{}", statements.concat())
}

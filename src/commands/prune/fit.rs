//! What prune refuses: in a dry run as well.

use std::collections::BTreeMap;

use super::report::DELETES_PUBLISHED;
use crate::clickhouse::{ClickHouseTarget, quote, text};
use crate::commands::verify::pruned::is_time;
use crate::config::TableConfig;
use crate::error::{Error, Result};
use crate::fit::{POSITION, require_fit};
use crate::ports::engine::Engine;
use crate::ports::layout::Layout;
use crate::ports::source::SourceColumn;
use crate::ports::target::TargetDescription;
use crate::postgres::{Session, SourceTable, column_names};

/// How long parts that were merged have to stay, in seconds, where the merged part is not fsynced: until the kernel has written it.
const LIFETIME: u64 = 480;

/// The column that says how old a row is.
///
/// # Errors
/// 78 if rows of this table cannot be pruned; the servers'.
pub fn require(
    session: &mut Session,
    config: &TableConfig,
    table: &SourceTable,
    by: &str,
    target: &mut ClickHouseTarget,
    description: &TargetDescription,
) -> Result<SourceColumn> {
    let what = format!("cannot prune {}", table.name);
    let column = column(config, table, by, description, &what)?;
    require_fit(config, &table.columns, description)?;
    let lacks = POSITION.iter().find(|(name, _)| description.columns.iter().all(|column| column.name != *name));
    if let Some((name, _)) = lacks {
        return Err(Error::config(what, format!("the target has no column {name}"), "run `pg2ch init`"));
    }
    references(session, table, &what)?;
    storage(config, target, &description.engine, &what)?;
    if publishes_deletes(session, table, &what)? {
        log::warn!("{}: {DELETES_PUBLISHED}", table.name);
    }
    if description.engine.deletes_by_ttl() {
        log::warn!("{}: the target has a TTL; rows that it has deleted cannot be proved, and are kept", table.name);
    }
    Ok(column)
}

fn column(
    config: &TableConfig,
    table: &SourceTable,
    by: &str,
    description: &TargetDescription,
    what: &str,
) -> Result<SourceColumn> {
    let hint = "name a date or timestamp column that is sent, e.g. `--by created_at`";
    let Some(column) = table.columns.iter().find(|column| column.name == by) else {
        return Err(Error::config(what, format!("the records have no column {by}"), hint));
    };
    if column.base_type != "date" && !column.base_type.starts_with("timestamp") {
        return Err(Error::config(what, format!("the column {by} is of type {}", column.type_name), hint));
    }
    if config.column_rules.column_of(by).is_some_and(|name| is_time(&description.columns, name)) {
        return Ok(column.clone());
    }
    let why = format!("the target does not have {by} as a date or time");
    Err(Error::config(what, why, "run `pg2ch check`: it prints the statement that adds or alters the column"))
}

/// A cascade would delete rows of other tables, which nobody has asked about.
fn references(session: &mut Session, table: &SourceTable, what: &str) -> Result<()> {
    let sql =
        "SELECT pg_catalog.format('%I of %s', conname, conrelid::pg_catalog.regclass) FROM pg_catalog.pg_constraint
         WHERE contype = 'f' AND (confrelid = $1 OR confrelid IN
               (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass))) LIMIT 1";
    match session.query_opt(what, sql, &[&table.oid])? {
        None => Ok(()),
        Some(row) => Err(Error::config(
            what,
            format!("the foreign key {} refers to it", row.get::<_, String>(0)),
            "drop the foreign key: prune does not delete what other tables refer to",
        )),
    }
}

/// That the target does not forget what it shows: it is replicated, or on disk once it is shown, after merges too.
fn storage(config: &TableConfig, target: &mut ClickHouseTarget, engine: &Engine, what: &str) -> Result<()> {
    let target_name = &config.target;
    match engine.layout() {
        Layout::Replicated => return Ok(()),
        Layout::Distributed => {
            let why = format!("{target_name} is a Distributed table, and prune cannot look behind it");
            return Err(Error::config(what, why, "delete the rows by hand"));
        }
        Layout::Here => {}
    }
    let names = ["fsync_after_insert", "fsync_part_directory", "min_rows_to_fsync_after_merge", "old_parts_lifetime"];
    let listed: Vec<String> = names.iter().map(|name| text(name)).collect();
    let sql = format!(
        "SELECT name, value FROM system.merge_tree_settings WHERE name IN ({}) FORMAT TabSeparated",
        listed.join(", ")
    );
    let answer = String::from_utf8_lossy(&target.ask(what, &sql)?).into_owned();
    let defaults: BTreeMap<&str, &str> = answer.lines().filter_map(|line| line.split_once('\t')).collect();
    let value = |name: &str| engine.setting(name).or_else(|| defaults.get(name).copied()).unwrap_or("0");
    let is_merged_safely = value("min_rows_to_fsync_after_merge") == "1"
        || value("old_parts_lifetime").parse().is_ok_and(|seconds: u64| seconds >= LIFETIME);
    if value("fsync_after_insert") == "1" && value("fsync_part_directory") == "1" && is_merged_safely {
        return Ok(());
    }
    let name = format!("{}.{}", quote(&target_name.database), quote(&target_name.table));
    Err(Error::config(
        what,
        format!("a power cut may take rows that {target_name} shows, and they would be nowhere"),
        format!(
            "ALTER TABLE {name} MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1"
        ),
    ))
}

fn publishes_deletes(session: &mut Session, table: &SourceTable, what: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM pg_catalog.pg_publication p WHERE p.pubdelete AND (p.puballtables OR EXISTS
         (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid AND (r.prrelid = $1 OR r.prrelid IN
             (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass))))) LIMIT 1";
    Ok(session.query_opt(what, sql, &[&table.oid])?.is_some())
}

/// The columns that the target does not have because they are not sent: they are gone with the rows.
///
/// # Errors
/// Any PostgreSQL error.
pub fn columns_gone(session: &mut Session, table: &SourceTable) -> Result<Vec<String>> {
    let all = column_names(session, table.oid, &table.name)?;
    let is_sent = |name: &str| name == table.flag || table.columns.iter().any(|column| column.name == name);
    Ok(all.into_iter().filter(|name| !is_sent(name)).collect())
}

//! What prune refuses: in a dry run as well, and `pg2ch check` reports the same for `keep`.

use std::collections::BTreeMap;

use crate::clickhouse::{ClickHouseTarget, quote, sql_name, text};
use crate::commands::verify::contents::Contents;
use crate::commands::verify::pruned::is_time;
use crate::config::TableConfig;
use crate::error::{Error, Result};
use crate::fit::alteration::{Alteration, Aside};
use crate::fit::{Effect, POSITION, storage};
use crate::ports::engine::Engine;
use crate::ports::layout::Layout;
use crate::ports::source::SourceColumn;
use crate::ports::target::{Target as _, TargetDescription};
use crate::postgres::{Session, SourceTable, cannot_prune, column_names, require_deletable};

/// How long parts that were merged have to stay, in seconds, where the merged part is not fsynced: until the kernel has written it.
const LIFETIME: u64 = 480;

/// What is allowed, and had better be known.
#[derive(Debug)]
pub struct Warning {
    /// The name of `check`'s finding.
    pub id: &'static str,
    pub what: String,
    /// What that means.
    pub why: &'static str,
}

/// Whether the source's rows can be pruned: the column that says how old a row is. 77 without the privilege, 78 if they cannot.
pub fn require_source(session: &mut Session, table: &SourceTable, by: &str) -> Result<(SourceColumn, Option<Warning>)> {
    let what = cannot_prune(table);
    let hint = "name a date or timestamp column that is sent, such as created_at";
    let Some(column) = table.columns.iter().find(|column| column.name == by) else {
        return Err(Error::config(what, format!("the records have no column {by}"), hint));
    };
    if column.base_type != "date" && !column.base_type.starts_with("timestamp") {
        return Err(Error::config(what, format!("the column {by} is of type {}", column.type_name), hint));
    }
    references(session, table, &what)?;
    require_deletable(session, table)?;
    let warning = publishes_deletes(session, table, &what)?.then(|| Warning {
        id: "keep-published",
        what: format!("a publication carries the deletes of {}", table.name),
        why: "its subscribers lose the rows too",
    });
    Ok((column.clone(), warning))
}

/// Whether the target proves what it holds: the columns that are compared, all that are sent. 78 if it does not.
pub fn require_target(
    config: &TableConfig,
    table: &SourceTable,
    by: &str,
    target: &mut ClickHouseTarget,
    description: &TargetDescription,
) -> Result<(Contents, Option<Warning>)> {
    let what = cannot_prune(table);
    let (columns, rules) = (&description.keeping_columns(), &config.column_rules);
    if !rules.column_of(by).is_some_and(|name| is_time(columns, name)) {
        let why = format!("the target does not have {by} as a date or time");
        return Err(Error::config(what, why, remedy(config, table, by, description)));
    }
    if let Some((name, _)) = POSITION.iter().find(|(name, _)| columns.iter().all(|column| column.name != *name)) {
        return Err(Error::config(what, format!("the target has no column {name}"), "run `pg2ch init`"));
    }
    merges(config, table, description, &what)?;
    storage(config, target, &description.engine, &what)?;
    let (contents, left_out) = Contents::of(table, columns, rules, target.calendar())?;
    if !left_out.is_empty() {
        return Err(Error::config(
            what,
            format!(
                "{} of its records cannot be compared with the target, or the target does not have it",
                left_out.join(", ")
            ),
            "leave the column out of the records with `exclude`, or give the target a column that takes it: see `pg2ch check`",
        ));
    }
    let warning = description.engine.deletes_by_ttl().then(|| Warning {
        id: "keep-ttl",
        what: format!("{} has a TTL that deletes rows", config.target),
        why: "prune cannot prove rows that it has deleted, and keeps them",
    });
    Ok((contents, warning))
}

/// What to do about a target that does not show how old its rows are.
fn remedy(config: &TableConfig, table: &SourceTable, by: &str, description: &TargetDescription) -> String {
    let other = "name another column that is sent and is a date or time there, such as created_at";
    let Some(name) = config.column_rules.column_of(by) else {
        return format!("{other}, or take {by} out of `ignore` in [[table]]");
    };
    let Some(column) = description.column(name) else {
        return format!("run `pg2ch init`, which adds the column {name}; or {other}");
    };
    let (sql_name, quoted) = (sql_name(&config.target), quote(name));
    if is_time(std::slice::from_ref(column), name) {
        return format!("{other}, or: ALTER TABLE {sql_name} MODIFY COLUMN {quoted} REMOVE TTL");
    }
    let names: Vec<&str> =
        table.columns.iter().filter_map(|column| config.column_rules.column_of(&column.name)).collect();
    let alteration = Alteration { table: &sql_name, target: description, column };
    let source = table.columns.iter().find(|column| column.name == by);
    // A text need not be a time: what cannot be converted would block the ALTER.
    match source.and_then(|source| alteration.aside(source, &names)) {
        Some(Aside { name: old, statements }) => format!(
            "{other}, or replace this one: {}; it is empty then, and `pg2ch verify --deep --repair --confirm` has the rows sent again. \
             {} keeps what rows have that are deleted from PostgreSQL",
            statements.join("; "),
            quote(&old)
        ),
        None => other.to_owned(),
    }
}

/// A cascade would delete rows of other tables, which nobody has asked about.
fn references(session: &mut Session, table: &SourceTable, what: &str) -> Result<()> {
    let sql =
        "SELECT pg_catalog.format('%I of %s', conname, conrelid::pg_catalog.regclass) FROM pg_catalog.pg_constraint
         WHERE contype = 'f' AND (confrelid = $1 OR confrelid IN
               (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass))) LIMIT 1";
    match session.value::<String>(what, sql, &[&table.oid])? {
        None => Ok(()),
        Some(key) => Err(Error::config(
            what,
            format!("the foreign key {key} refers to it"),
            "drop the foreign key: prune does not delete what other tables refer to",
        )),
    }
}

/// What `allow_engine` allows may fold rows after prune has seen them.
fn merges(config: &TableConfig, table: &SourceTable, description: &TargetDescription, what: &str) -> Result<()> {
    if config.allow_engine.is_none() {
        // A run copies nothing into such an engine.
        return Ok(());
    }
    let strict = TableConfig { allow_engine: None, ..config.clone() };
    let sent: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
    let misfits = storage::misfits(&strict, &sent, description);
    match misfits.into_iter().find(|misfit| misfit.effect == Effect::Stops) {
        None => Ok(()),
        Some(misfit) => Err(Error::config(
            what,
            format!("{}, which `allow_engine` allows: what prune has seen there may not stay", misfit.what),
            "move the rows to a table such as `pg2ch init --print` shows, or delete them by hand",
        )),
    }
}

/// That the target does not forget what it shows: it is on several servers, or on disk once it is shown, after merges too.
fn storage(config: &TableConfig, target: &mut ClickHouseTarget, engine: &Engine, what: &str) -> Result<()> {
    let target_name = &config.target;
    match engine.layout() {
        Layout::Replicated if !target.is_alone() => return Ok(()),
        Layout::Distributed => {
            let why = format!("{target_name} is a Distributed table, and prune cannot look behind it");
            let hint = "run `pg2ch verify --deep`; if it finds no difference, delete old rows by hand";
            return Err(Error::config(what, why, hint));
        }
        Layout::Replicated | Layout::Here => {}
    }
    let names = ["fsync_after_insert", "fsync_part_directory", "min_rows_to_fsync_after_merge", "old_parts_lifetime"];
    let listed: Vec<String> = names.iter().map(|name| text(name)).collect();
    let sql = format!(
        "SELECT name, value FROM system.merge_tree_settings WHERE name IN ({}) FORMAT TabSeparated",
        listed.join(", ")
    );
    let answer = String::from_utf8_lossy(&target.query(what, &sql)?).into_owned();
    let defaults: BTreeMap<&str, &str> = answer.lines().filter_map(|line| line.split_once('\t')).collect();
    let value = |name: &str| engine.setting(name).or_else(|| defaults.get(name).copied()).unwrap_or("0");
    let is_merged_safely = value("min_rows_to_fsync_after_merge") == "1"
        || value("old_parts_lifetime").parse().is_ok_and(|seconds: u64| seconds >= LIFETIME);
    if value("fsync_after_insert") == "1" && value("fsync_part_directory") == "1" && is_merged_safely {
        return Ok(());
    }
    let name = sql_name(target_name);
    Err(Error::config(
        what,
        format!(
            "{target_name} is on one server, and a power cut there may take rows that it shows: they would be nowhere"
        ),
        format!(
            "ALTER TABLE {name} MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1"
        ),
    ))
}

/// Whether a publication has deletes of the table, of a partition, or of what it is a partition of.
fn publishes_deletes(session: &mut Session, table: &SourceTable, what: &str) -> Result<bool> {
    let sql = "SELECT 1 FROM pg_catalog.pg_publication AS p
         JOIN pg_catalog.pg_publication_tables AS t ON t.pubname = p.pubname
         JOIN pg_catalog.pg_namespace AS n ON n.nspname = t.schemaname
         JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
         WHERE p.pubdelete AND (c.oid = $1
             OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass))
             OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_ancestors($1::oid::regclass))) LIMIT 1";
    Ok(session.query_opt(what, sql, &[&table.oid])?.is_some())
}

/// The columns that the target does not have because they are not sent: they are gone with the rows.
pub fn columns_gone(session: &mut Session, table: &SourceTable) -> Result<Vec<String>> {
    let all = column_names(session, table.oid, &table.name)?;
    let is_sent = |name: &str| name == table.flag || table.columns.iter().any(|column| column.name == name);
    Ok(all.into_iter().filter(|name| !is_sent(name)).collect())
}

//! ClickHouse: the target table's engine, its settings, and what hangs on it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::finding::{Finding, Findings, Server, Severity};
use super::{Source, clock, keep};
use crate::clickhouse::{Answer, ClickHouseTarget, Http, is_about, quote, sql_name, text};
use crate::commands::migration::{self, create_target};
use crate::config::{Config, TableConfig, TargetName};
use crate::error::{ExitCode, Result};
use crate::fit::{Difference, Effect, Remedy, deletes, differences, is_refused_view, nested_arrays, storage, taken};
use crate::ports::LegContext;
use crate::ports::engine::Engine;
use crate::ports::layout::Layout;
use crate::ports::target::{Target, TargetDescription};
use crate::ports::topic::Committed;

/// Where only its owner can recreate a table.
const MEANT: &str = "-- nothing, if that is intended; `pg2ch init --print` shows a table that has it, for another name";

/// The findings on a table that disappear once it is recreated.
const SETTLED: &[&str] = &[
    "position-column",
    "position-kind",
    "position-type",
    "position-index",
    "type-lossy",
    "type-impossible",
    "type-unknown",
    "column-missing",
    "column-computed",
    "column-ephemeral",
    "column-extra",
    "deduplication-window",
    "fsync",
];

/// The settings that have an INSERT on disk before it is confirmed.
const FSYNC: [&str; 2] = ["fsync_after_insert", "fsync_part_directory"];

/// The oldest version whose ReplacingMergeTree takes a second argument.
const OLDEST_DELETED: (u32, u32) = (23, 2);

/// The oldest version that knows `insert_deduplication_token`.
const OLDEST: (u32, u32) = (22, 2);

/// The target as `system.tables` has it.
#[derive(Debug, Deserialize)]
pub(super) struct TableRow {
    pub(super) engine: String,
    pub(super) engine_full: String,
}

#[derive(Deserialize)]
struct SettingRow {
    name: String,
    value: String,
}

/// Checks the target; the server's version, and what was found. `is_proven` says that the offsets are pg2ch's own.
/// `elsewhere` are the group's offsets in topics that other sources feed.
pub fn check(
    leg: &LegContext<'_>,
    source: Option<&Source>,
    is_proven: bool,
    elsewhere: &[(String, String, i32, Committed)],
) -> Result<(String, Vec<Finding>)> {
    let (config, table) = (leg.config, leg.table);
    let http = Http::new(config)?.pinning_newest();
    let what = format!("cannot look up the target {}", table.target);
    let mut findings = Findings::new(Server::ClickHouse);
    let version = server(&http, &what, &mut findings)?;
    if table.removal.deleted.is_some() && is_older(&version, OLDEST_DELETED) {
        let (what, why) =
            (format!("the server is ClickHouse {version}"), "`deleted` needs ReplacingMergeTree(_timestamp, _deleted)");
        findings.error("clickhouse-version", what, why, upgrade_to(OLDEST_DELETED));
    }
    // Too old a server does not even understand the questions.
    if !is_older(&version, OLDEST) {
        let stored = table.target.clone();
        let mut check =
            Check { http, config, table, stored, source, is_proven, elsewhere, what, findings, carrier: None };
        check.run()?;
        findings = check.findings;
    }
    Ok((version, findings.into_list()))
}

/// Its version, and its clock.
fn server(http: &Http, what: &str, findings: &mut Findings) -> Result<String> {
    let before = clock::now();
    let answer = http.query(what, "SELECT version(), toUnixTimestamp(now()) FORMAT TabSeparatedRaw", &[])?;
    let after = clock::now();
    let answer = String::from_utf8_lossy(&answer);
    let (version, seconds) = answer.trim().split_once('\t').unwrap_or((answer.trim(), ""));
    if is_older(version, OLDEST) {
        findings.error(
            "clickhouse-version",
            format!("the server is ClickHouse {version}"),
            "versions before 22.2 have no insert_deduplication_token: an INSERT whose reply is lost would be stored twice",
            upgrade_to(OLDEST),
        );
    }
    if let Ok(seconds) = seconds.parse::<f64>() {
        // It tells whole seconds.
        let why = "`_ingested_at` is ClickHouse's time: how long a row took to arrive is wrong by as much";
        clock::compare(seconds, before.floor()..=after, why, findings);
    }
    Ok(version.to_owned())
}

fn upgrade_to((major, minor): (u32, u32)) -> String {
    format!("upgrade the server to {major}.{minor} or later")
}

fn is_older(version: &str, than: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let (Some(major), Some(minor)) = (parts.next(), parts.next()) else { return false };
    (major, minor) < than
}

pub(super) struct Check<'a> {
    pub(super) http: Http,
    pub(super) config: &'a Config,
    pub(super) table: &'a TableConfig,
    /// The table that stores the rows: the target, or what a Distributed one puts them into.
    pub(super) stored: TargetName,
    pub(super) source: Option<&'a Source>,
    is_proven: bool,
    pub(super) elsewhere: &'a [(String, String, i32, Committed)],
    what: String,
    pub(super) findings: Findings,
    /// The finding that carries the statements for another table, where one is needed: its place, and how it needs one.
    carrier: Option<(Remedy, usize)>,
}

impl Check<'_> {
    pub(super) fn rows<T: DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>> {
        self.http.rows(&self.what, sql, &[("output_format_json_quote_64bit_integers", "0")])
    }

    /// The values of a question's only column.
    pub(super) fn column<T: DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>> {
        let rows: Vec<BTreeMap<String, T>> = self.rows(sql)?;
        Ok(rows.into_iter().flat_map(BTreeMap::into_values).collect())
    }

    pub(super) fn here(&self, name_column: &str) -> String {
        is_about(&self.stored, name_column)
    }

    pub(super) fn name(&self) -> String {
        sql_name(&self.stored)
    }

    pub(super) fn table_row(&self) -> Result<Option<TableRow>> {
        let sql = format!("SELECT engine, engine_full FROM system.tables WHERE {}", self.here("name"));
        Ok(self.rows(&sql)?.into_iter().next())
    }

    fn run(&mut self) -> Result<()> {
        self.grants();
        self.processes();
        let Some(row) = self.table_row()? else {
            self.missing();
            return Ok(());
        };
        self.shared()?;
        let mut target = ClickHouseTarget::new(self.config, self.table)?;
        let description = target.describe()?;
        self.fed_elsewhere(&description.identity);
        if is_refused_view(self.table, &row.engine) {
            return self.judge_storage(&mut target, &description);
        }
        let source = self.source.map(|source| source.table.columns.as_slice());
        self.add(differences(self.table, source, &description));
        self.judge_storage(&mut target, &description)?;
        if self.find_stored(row)?.is_some() {
            if self.stored != self.table.target {
                let table = TableConfig { target: self.stored.clone(), ..self.table.clone() };
                let mut stored = ClickHouseTarget::new(self.config, &table)?;
                let description = stored.describe()?;
                self.judge_storage(&mut stored, &description)?;
            }
            self.index()?;
        }
        self.migrate(&description)?;
        self.proof(&description);
        match self.source {
            Some(source) => keep::target(self.table, &source.table, &mut target, &description, &mut self.findings),
            None => Ok(()),
        }
    }

    /// What a run refuses, once the topic has records: see `require_proof` in the consume leg.
    fn proof(&mut self, target: &TargetDescription) {
        if self.is_proven || !target.engine.deletes_by_ttl() || target.views.is_empty() {
            return;
        }
        let (topic, table) = (&self.table.topic, &self.table.target);
        self.findings.error(
            "offsets-unproven",
            format!("no offset that pg2ch has committed shows which records of topic {topic} were copied into {table}"),
            "its TTL deletes rows, and views read it: they would get the expired rows twice, so a run with records to copy ends with 78",
            "pg2ch init --start-at-end        # to copy only new records\n\
             pg2ch init --start-at-beginning  # if nothing was copied yet",
        );
    }

    fn missing(&mut self) {
        let columns = self.source.map(|source| source.table.columns.as_slice()).unwrap_or_default();
        let taken: Vec<_> = columns.iter().filter_map(|column| taken(&self.table.column_rules, column)).collect();
        if !taken.is_empty() {
            // ClickHouse would refuse to create the table.
            return self.add(taken);
        }
        self.add(nested_arrays(self.table, columns, &TargetDescription::default()));
        let fix = self.source.map_or_else(
            || "pg2ch init".to_owned(),
            |source| {
                let database = quote(&self.table.target.database);
                let create = create_target(self.table, &source.table, source.comment.as_deref());
                format!("CREATE DATABASE IF NOT EXISTS {database};\n{create};")
            },
        );
        let what = format!("the table {} does not exist", self.table.target);
        self.findings.error("target-missing", what, "there is nothing to copy records to", fix);
    }

    /// Whether a table keeps the rows that it is given: the target, or what a Distributed one puts them into.
    fn judge_storage(&mut self, target: &mut ClickHouseTarget, description: &TargetDescription) -> Result<()> {
        let table = TableConfig { target: self.stored.clone(), ..self.table.clone() };
        let names: Vec<&str> =
            self.source.iter().flat_map(|source| &source.table.columns).map(|column| column.name.as_str()).collect();
        let mut found = storage::misfits(&table, &names, description);
        // Some of the engines that are refused cannot be read.
        if !found.iter().any(|each| each.id == "engine" && each.effect == Effect::Stops) {
            self.row_policy(target)?;
        }
        if self.stored != self.table.target {
            let remade = found.iter_mut().filter(|each| each.remedy == Remedy::NewEngine);
            remade.for_each(|each| MEANT.clone_into(&mut each.fix));
        }
        self.add(found);
        if description.engine.layout() == Layout::Replicated {
            self.quorum();
        }
        let defaults = self.table_defaults()?;
        self.cleanup(&description.engine, &defaults);
        self.fsync(&description.engine, &defaults);
        self.deleted(description)
    }

    fn row_policy(&mut self, target: &mut ClickHouseTarget) -> Result<()> {
        let policy = match target.row_policy() {
            // The privilege that it lacks is among the findings already.
            Err(error) if error.exit_code() == ExitCode::Permission => None,
            policy => policy?,
        };
        if let Some((why, fix)) = policy {
            self.findings.error("row-policy", format!("not all rows of {} can be seen", self.stored), why, fix);
        }
        Ok(())
    }

    /// What the server's own configuration says of tables that say nothing.
    fn table_defaults(&self) -> Result<BTreeMap<String, String>> {
        let cleanup = deletes::CLEANUP.map(|(name, _)| name);
        let names: Vec<String> = FSYNC.iter().chain(&cleanup).map(|name| text(name)).collect();
        let sql = format!("SELECT name, value FROM system.merge_tree_settings WHERE name IN ({})", names.join(", "));
        let rows: Vec<SettingRow> = self.rows(&sql)?;
        Ok(rows.into_iter().map(|row| (row.name, row.value)).collect())
    }

    fn add(&mut self, found: Vec<Difference>) {
        for found in found {
            let severity = match found.effect {
                Effect::Stops | Effect::RefusesAll => Severity::Error,
                Effect::Weaker => Severity::Warning,
                Effect::Harmless => Severity::Note,
            };
            self.note(found.remedy);
            self.findings.add(severity, found.id, found.what, found.why, found.fix);
        }
    }

    /// Notes what the next finding takes.
    pub(super) fn note(&mut self, remedy: Remedy) {
        if matches!(remedy, Remedy::NewEngine | Remedy::NewColumn) {
            let next = (remedy, self.findings.len());
            self.carrier = Some(self.carrier.map_or(next, |carrier| carrier.min(next)));
        }
    }

    /// Servers before 24.10 do not answer this. The statement takes no FORMAT.
    fn grants(&mut self) {
        for privilege in ["SELECT", "INSERT"] {
            let (name, sql) = (self.name(), format!("CHECK GRANT {privilege} ON {}", self.name()));
            if self.http.says(&sql, "0") {
                self.findings.error(
                    "grant-missing",
                    format!("the user lacks {privilege} on {}", self.table.target),
                    "a run inserts rows, and queries them after a crash",
                    format!("GRANT {privilege} ON {name} TO {};", quote(self.http.user())),
                );
            }
        }
    }

    /// After a crash the inserts of the dead run that are still under way are waited for.
    fn processes(&mut self) {
        let answer = self.http.ask("SELECT 1 FROM system.processes WHERE 0", &[]);
        if let Ok(Answer::Exception(exception)) = answer
            && exception.is_denied()
        {
            let user = quote(self.http.user());
            self.findings.error(
                "grant-missing",
                "the user lacks SELECT on system.processes",
                "after a crash, a run asks which inserts are still under way",
                format!("GRANT SELECT ON system.processes TO {user};"),
            );
        }
    }

    /// What cannot be altered in place: one migration makes the whole table anew, and with it whatever else does not fit.
    fn migrate(&mut self, target: &TargetDescription) -> Result<()> {
        if let (Some(source), Some((_, place))) = (self.source, self.carrier)
            && self.stored == self.table.target
        {
            let (source, comment) = (&source.table, source.comment.as_deref());
            let statements = migration::statements(&self.http, self.table, source, comment, target)?;
            self.findings.settle_with(place, statements, SETTLED);
        }
        Ok(())
    }

    /// Whether an INSERT is on disk when it is confirmed. A replicated table has its data elsewhere, too.
    fn fsync(&mut self, engine: &Engine, defaults: &BTreeMap<String, String>) {
        if !engine.is_merge_tree() || engine.layout() == Layout::Replicated {
            return;
        }
        let default = |name: &str| defaults.get(name).map(String::as_str);
        let unsynced: Vec<String> = FSYNC
            .into_iter()
            .filter(|name| engine.setting(name).or_else(|| default(name)) == Some("0"))
            .map(|name| format!("{name} = 1"))
            .collect();
        if !unsynced.is_empty() {
            let name = self.name();
            self.findings.warning(
                "fsync",
                format!("{} confirms inserts before they are on disk", self.table.target),
                "after a power cut rows may be missing whose offsets are committed",
                format!("ALTER TABLE {name} MODIFY SETTING {};", unsynced.join(", ")),
            );
        }
    }

    fn index(&mut self) -> Result<()> {
        let sql =
            format!("SELECT expr FROM system.data_skipping_indices WHERE type = 'minmax' AND {}", self.here("table"));
        let serves = |expression: &String| expression.contains("_partition") && expression.contains("_offset");
        if !self.column::<String>(&sql)?.iter().any(serves) {
            let name = self.name();
            self.findings.warning(
                "position-index",
                format!("{} has no index on (_partition, _offset)", self.table.target),
                "after a crash, the query for what the target holds reads the whole table",
                format!(
                    "ALTER TABLE {name} ADD INDEX _position (_partition, _offset) TYPE minmax GRANULARITY 1;\nALTER TABLE \
                     {name} MATERIALIZE INDEX _position;"
                ),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(is_older("18.16.1", OLDEST) && is_older("22.1.9.1", OLDEST));
        assert!(!is_older("22.2.1.1", OLDEST) && !is_older("26.9.2.1", OLDEST) && !is_older("unknown", OLDEST));
    }
}

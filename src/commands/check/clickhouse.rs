//! ClickHouse: the target table's engine, its settings, and what hangs on it.

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::finding::{Finding, Findings, Server, Severity};
use super::{Source, clock};
use crate::clickhouse::layout::Layout;
use crate::clickhouse::{Answer, Http, quote, text};
use crate::commands::init::{create_target, target_names};
use crate::config::{Config, TableConfig, TargetName};
use crate::error::Result;
use crate::fit::{Effect, TargetColumn, columns, differences};

/// The oldest version that knows `insert_deduplication_token`.
const OLDEST: (u32, u32) = (22, 2);

/// The target as `system.tables` has it.
#[derive(Debug, Deserialize)]
pub(super) struct TableRow {
    engine: String,
    pub(super) engine_full: String,
    sorting_key: String,
    dependencies_database: Vec<String>,
    dependencies_table: Vec<String>,
}

#[derive(Deserialize)]
struct SettingRow {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct ViewRow {
    target: String,
    engine_full: String,
}

/// Checks the target; the server's version, and what was found.
///
/// # Errors
/// ClickHouse's.
pub fn check(config: &Config, table: &TableConfig, source: Option<&Source>) -> Result<(String, Vec<Finding>)> {
    let http = Http::new(config)?;
    let what = format!("cannot look up the target {}", table.target);
    let mut findings = Findings::new(Server::ClickHouse);
    let version = server(&http, &what, &mut findings)?;
    let stored = table.target.clone();
    let mut check = Check { http, config, table, stored, source, what, findings };
    // Too old a server does not even understand the questions.
    if !is_older(&version, OLDEST) {
        check.run()?;
    }
    Ok((version, check.findings.into_list()))
}

/// Its version, and its clock.
fn server(http: &Http, what: &str, findings: &mut Findings) -> Result<String> {
    let before = clock::now();
    let answer = http.ask(what, "SELECT version(), toUnixTimestamp(now()) FORMAT TabSeparatedRaw", &[])?;
    let after = clock::now();
    let answer = String::from_utf8_lossy(&answer);
    let (version, seconds) = answer.trim().split_once('\t').unwrap_or((answer.trim(), ""));
    if is_older(version, OLDEST) {
        findings.add(
            Severity::Error,
            "clickhouse-version",
            format!("the server is ClickHouse {version}"),
            "versions before 22.2 have no insert_deduplication_token: an INSERT whose reply is lost would be stored twice",
            format!("upgrade the server to {}.{} or later", OLDEST.0, OLDEST.1),
        );
    }
    if let Ok(seconds) = seconds.parse::<f64>() {
        // It tells whole seconds.
        let why = "`_ingested_at` is ClickHouse's time: how long a row took to arrive is wrong by as much";
        clock::compare(seconds, before.floor()..=after, why, findings);
    }
    Ok(version.to_owned())
}

fn is_older(version: &str, than: (u32, u32)) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let (Some(major), Some(minor)) = (parts.next(), parts.next()) else { return false };
    (major, minor) < than
}

pub(super) struct Check<'a> {
    http: Http,
    pub(super) config: &'a Config,
    pub(super) table: &'a TableConfig,
    /// The table that stores the rows: the target, or what a Distributed one puts them into.
    pub(super) stored: TargetName,
    source: Option<&'a Source>,
    what: String,
    pub(super) findings: Findings,
}

impl Check<'_> {
    pub(super) fn rows<T: DeserializeOwned>(&self, sql: &str) -> Result<Vec<T>> {
        self.http.rows(&self.what, sql, &[("output_format_json_quote_64bit_integers", "0")])
    }

    fn here(&self, name_column: &str) -> String {
        format!("database = {} AND {name_column} = {}", text(&self.stored.database), text(&self.stored.table))
    }

    fn name(&self) -> String {
        format!("{}.{}", quote(&self.stored.database), quote(&self.stored.table))
    }

    pub(super) fn table_row(&self) -> Result<Option<TableRow>> {
        let sql = format!(
            "SELECT engine, engine_full, sorting_key, dependencies_database, dependencies_table FROM system.tables WHERE {}",
            self.here("name")
        );
        Ok(self.rows(&sql)?.into_iter().next())
    }

    fn run(&mut self) -> Result<()> {
        self.grants();
        self.processes();
        let Some(row) = self.table_row()? else {
            let fix = self.source.map_or_else(
                || "pg2ch init".to_owned(),
                |source| {
                    let database = quote(&self.table.target.database);
                    format!(
                        "CREATE DATABASE IF NOT EXISTS {database};\n{};",
                        create_target(self.table, &source.table, source.comment.as_deref())
                    )
                },
            );
            let (what, why) =
                (format!("there is no table {}", self.table.target), "there is nothing to copy records to");
            self.findings.add(Severity::Error, "target-missing", what, why, fix);
            return Ok(());
        };
        self.shared()?;
        let target = columns::read(&self.http, &self.what, &self.table.target)?;
        self.columns(&target);
        self.views(&row)?;
        let Some(row) = self.storage(row)? else { return Ok(()) };
        self.engine(&row);
        if row.engine.contains("MergeTree") {
            self.settings(&row)?;
        }
        if self.table.metadata_columns || target.iter().any(|other| other.column.name == "_offset") {
            self.index()?;
        }
        Ok(())
    }

    fn columns(&mut self, target: &[TargetColumn]) {
        let source = self.source.map(|source| source.columns.as_slice());
        for found in differences(self.table, source, target) {
            let severity = match found.effect {
                Effect::Stops | Effect::RefusesAll => Severity::Error,
                Effect::Weaker => Severity::Warning,
                Effect::Harmless => Severity::Note,
            };
            self.findings.add(severity, found.id, found.what, found.why, found.fix);
        }
    }

    /// Servers before 24.10 do not answer this. The statement takes no FORMAT.
    fn grants(&mut self) {
        for privilege in ["SELECT", "INSERT"] {
            let (name, sql) = (self.name(), format!("CHECK GRANT {privilege} ON {}", self.name()));
            if let Ok(Answer::Ok(answer)) = self.http.send(&sql, &[], &[])
                && answer.trim_ascii() == b"0"
            {
                self.findings.add(
                    Severity::Error,
                    "grant-missing",
                    format!("the user lacks {privilege} on {}", self.table.target),
                    "rows are inserted, and asked for after a crash",
                    format!("GRANT {privilege} ON {name} TO {};", quote(self.http.user())),
                );
            }
        }
    }

    /// After a crash the inserts of the dead run that are still under way are waited for.
    fn processes(&mut self) {
        let answer = self.http.send("SELECT 1 FROM system.processes WHERE 0", &[], &[]);
        if let Ok(Answer::Exception(exception)) = answer
            && exception.is_denied()
        {
            let user = quote(self.http.user());
            self.findings.add(
                Severity::Error,
                "grant-missing",
                "the user lacks SELECT on system.processes",
                "after a crash, a run asks which inserts are still under way",
                format!("GRANT SELECT ON system.processes TO {user};"),
            );
        }
    }

    fn engine(&mut self, row: &TableRow) {
        let Some(source) = self.source else { return };
        let wanted = target_names(self.table, &source.table.key);
        // Some versions print the expression with its brackets.
        let key = row.sorting_key.trim();
        let key = key.strip_prefix('(').and_then(|key| key.strip_suffix(')')).unwrap_or(key);
        let sorted: Vec<String> = key.split(',').map(|part| part.trim().trim_matches('`').to_owned()).collect();
        let is_replacing =
            row.engine.ends_with("ReplacingMergeTree") && row.engine_full.replace('`', "").contains("_timestamp)");
        if !is_replacing {
            let what = format!("{} has the engine {}", self.table.target, row.engine);
            let why = "a row that changes and is sent again stays there in every version: only ReplacingMergeTree(_timestamp) \
                       shows the newest one, with FINAL";
            self.findings.add(Severity::Warning, "engine", what, why, self.remake(source));
        } else if sorted != wanted {
            let what = format!(
                "{} is ordered by {}, not by the key ({})",
                self.table.target,
                row.sorting_key,
                wanted.join(", ")
            );
            let why = "ReplacingMergeTree takes rows that are equal in its ORDER BY for versions of one row";
            self.findings.add(Severity::Warning, "sorting-key", what, why, self.remake(source));
        }
    }

    /// Engine and order cannot be altered: a new table takes the rows over.
    fn remake(&self, source: &Source) -> String {
        if !self.table.metadata_columns || self.stored != self.table.target {
            return "-- nothing, if that is meant; `pg2ch init --print` shows a table that has it, for another name"
                .into();
        }
        let old =
            format!("{}.{}", quote(&self.table.target.database), quote(&format!("{}_old", self.table.target.table)));
        let mut columns: Vec<String> =
            target_names(self.table, &source.columns).iter().map(|name| quote(name)).collect();
        columns.extend(["_partition", "_offset", "_timestamp"].map(quote));
        let (name, columns) = (self.name(), columns.join(", "));
        format!(
            "RENAME TABLE {name} TO {old};\n{};\nINSERT INTO {name} ({columns}) SELECT {columns} FROM {old};",
            create_target(self.table, &source.table, source.comment.as_deref())
        )
    }

    /// The settings of the table that the promise rests on.
    fn settings(&mut self, row: &TableRow) -> Result<()> {
        let sql = "SELECT name, value FROM system.merge_tree_settings WHERE name IN ('non_replicated_deduplication_window', \
                   'replicated_deduplication_window', 'fsync_after_insert', 'fsync_part_directory')";
        let defaults: Vec<SettingRow> = self.rows(sql)?;
        let value = |name: &str| {
            setting(&row.engine_full, name)
                .or_else(|| defaults.iter().find(|row| row.name == name).and_then(|row| row.value.parse().ok()))
        };
        let layout = Layout::of(&row.engine);
        let (is_replicated, window) = (layout == Layout::Replicated, layout.window_setting());
        let name = self.name();
        if value(window) == Some(0) {
            self.findings.add(
                Severity::Error,
                "deduplication-window",
                format!("{} remembers no deduplication tokens", self.table.target),
                "an insert whose answer is lost would be doubled",
                format!("ALTER TABLE {name} MODIFY SETTING {window} = 10000;"),
            );
        }
        // A replicated table has its data elsewhere, too.
        let unsynced: Vec<&str> = ["fsync_after_insert", "fsync_part_directory"]
            .into_iter()
            .filter(|name| !is_replicated && value(name) == Some(0))
            .collect();
        if !unsynced.is_empty() {
            let settings: Vec<String> = unsynced.iter().map(|name| format!("{name} = 1")).collect();
            self.findings.add(
                Severity::Warning,
                "fsync",
                format!("{} confirms inserts before they are on disk", self.table.target),
                "after a power cut rows may be missing whose offsets are committed",
                format!("ALTER TABLE {name} MODIFY SETTING {};", settings.join(", ")),
            );
        }
        Ok(())
    }

    fn views(&mut self, row: &TableRow) -> Result<()> {
        for (database, view) in row.dependencies_database.iter().zip(&row.dependencies_table) {
            let sql = format!(
                "SELECT database || '.' || name AS target, engine_full FROM system.tables WHERE (database || '.' || name) = \
                 (SELECT replaceAll(extract(create_table_query, ' TO ([^ (]+)'), '`', '') FROM system.tables \
                  WHERE database = {} AND name = {})",
                text(database),
                text(view)
            );
            let behind: Option<ViewRow> = self.rows(&sql)?.into_iter().next();
            let forgetful = behind.filter(|row| {
                row.engine_full.contains("MergeTree")
                    && !row.engine_full.contains("Replicated")
                    && setting(&row.engine_full, "non_replicated_deduplication_window").unwrap_or(0) == 0
            });
            if let Some(ViewRow { target, .. }) = forgetful {
                self.findings.add(
                    Severity::Warning,
                    "view-deduplication",
                    format!("the materialized view {database}.{view} writes to {target}, which remembers no deduplication tokens"),
                    "an insert that is sent again after a lost answer is stored once in the target, but twice there",
                    format!("ALTER TABLE {target} MODIFY SETTING non_replicated_deduplication_window = 10000;"),
                );
            } else {
                self.findings.add(
                    Severity::Note,
                    "view",
                    format!("the materialized view {database}.{view} hangs on {}", self.table.target),
                    "it sees every inserted block, before versions of a row are merged; if it fails, the insert does",
                    format!(
                        "-- nothing, if that is meant; otherwise:\n-- DROP VIEW {}.{};",
                        quote(database),
                        quote(view)
                    ),
                );
            }
        }
        Ok(())
    }

    fn index(&mut self) -> Result<()> {
        #[derive(Deserialize)]
        struct IndexRow {
            expr: String,
        }
        let sql =
            format!("SELECT expr FROM system.data_skipping_indices WHERE type = 'minmax' AND {}", self.here("table"));
        let found: Vec<IndexRow> = self.rows(&sql)?;
        let serves = |row: &IndexRow| row.expr.contains("_partition") && row.expr.contains("_offset");
        if !found.iter().any(serves) {
            let name = self.name();
            self.findings.add(
                Severity::Warning,
                "position-index",
                format!("{} has no index on (_partition, _offset)", self.table.target),
                "asking what the target holds, after a crash, reads the whole table",
                format!(
                    "ALTER TABLE {name} ADD INDEX _position (_partition, _offset) TYPE minmax GRANULARITY 1;\nALTER TABLE \
                     {name} MATERIALIZE INDEX _position;"
                ),
            );
        }
        Ok(())
    }
}

/// A number among the settings of a table's definition.
fn setting(engine_full: &str, name: &str) -> Option<u64> {
    // One name may be the end of another.
    let (_, settings) = engine_full.split_once(" SETTINGS ")?;
    let value = settings.split(", ").find_map(|setting| setting.strip_prefix(name)?.strip_prefix(" = "))?;
    value.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(is_older("18.16.1", OLDEST) && is_older("22.1.9.1", OLDEST));
        assert!(!is_older("22.2.1.1", OLDEST) && !is_older("26.9.2.1", OLDEST) && !is_older("unknown", OLDEST));
    }

    #[test]
    fn a_setting_is_read_from_the_definition() {
        let engine = "MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 100, fsync_after_insert = 1";
        assert_eq!(setting(engine, "non_replicated_deduplication_window"), Some(100));
        assert_eq!(setting(engine, "fsync_after_insert"), Some(1));
        assert_eq!(setting(engine, "replicated_deduplication_window"), None);
        assert_eq!(setting("MergeTree ORDER BY id", "fsync_after_insert"), None);
    }
}

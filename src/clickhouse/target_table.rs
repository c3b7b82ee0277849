//! The target table as the server describes it.

use std::collections::HashSet;

use serde::Deserialize;

use super::column_type::{Column, DefaultKind};
use super::encode::{CalendarRange, holds_position};
use super::http::{Answer, Http, PLAIN, UNKNOWN_SETTING, quote, text};
use super::layout::{Distributed, Layout};
use super::settings::Settings;
use crate::config::{Config, TableConfig, TargetName};
use crate::data::{POSITION_COLUMNS, Ranges, RecordId};
use crate::error::{Error, Result};
use crate::ports::target::{Block, Inserted, Target, TargetDescription};

/// A target table on a real server.
pub struct ClickHouseTarget {
    http: Http,
    name: TargetName,
    /// Whether it must keep positions.
    needs_positions: bool,
    known: Option<Known>,
    /// What [`described`](Self::described) found out, until it is asked for.
    description: Option<TargetDescription>,
}

/// What is known of a table once it was looked at.
struct Known {
    settings: Settings,
    keeps_positions: bool,
    layout: Layout,
}

/// What a server answers that does not know a column of its system tables: one of before 2020.
const UNKNOWN_IDENTIFIER: i32 = 47;

#[derive(Deserialize)]
struct TableRow {
    engine: String,
    uuid: String,
    engine_full: String,
    /// Position, name, type, kind of default.
    columns: Vec<(u64, String, String, String)>,
    /// The settings that the server knows, of those that are pinned.
    settings: Vec<String>,
}

impl ClickHouseTarget {
    /// Makes the target; no connection is made.
    ///
    /// # Errors
    /// 78 if a certificate cannot be read.
    pub fn new(config: &Config, table: &TableConfig) -> Result<Self> {
        let (http, name, needs_positions) = (Http::new(config)?, table.target.clone(), table.metadata_columns);
        Ok(Self { http, name, needs_positions, known: None, description: None })
    }

    /// Makes the target and looks it up at once.
    ///
    /// # Errors
    /// As [`new`](Self::new) and [`describe`](Target::describe).
    pub fn described(config: &Config, table: &TableConfig) -> Result<Self> {
        let mut target = Self::new(config, table)?;
        target.description = Some(target.describe()?);
        Ok(target)
    }

    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    pub(super) fn name(&self) -> &TargetName {
        &self.name
    }

    /// The table's name, quoted for SQL.
    #[must_use]
    pub fn sql_name(&self) -> String {
        format!("{}.{}", quote(&self.name.database), quote(&self.name.table))
    }

    /// Asks a question whose answer must be whole, under the pinned settings; `what` says, for a message, what cannot be
    /// done.
    ///
    /// # Errors
    /// ClickHouse's, sorted by exit code.
    pub fn ask(&mut self, what: &str, sql: &str) -> Result<Vec<u8>> {
        let settings = self.settings()?.ask.clone();
        self.http.ask(what, sql, &settings)
    }

    /// What the identifiers of this table's INSERTs begin with.
    pub(super) fn query_prefix(&self) -> String {
        format!("pg2ch {} ", self.name)
    }

    pub(super) fn settings(&mut self) -> Result<&Settings> {
        self.known().map(|known| &known.settings)
    }

    /// Whether the table has the columns by which it can be asked which records it holds.
    ///
    /// # Errors
    /// 78 if there is no such table; ClickHouse's.
    pub fn keeps_positions(&mut self) -> Result<bool> {
        self.known().map(|known| known.keeps_positions)
    }

    /// Where its data lie.
    pub(super) fn layout(&mut self) -> Result<Layout> {
        self.known().map(|known| known.layout)
    }

    fn known(&mut self) -> Result<&Known> {
        if self.known.is_none() {
            self.inspect()?;
        }
        self.known
            .as_ref()
            .ok_or_else(|| Error::bug(format!("cannot use {}", self.name), "what is known of it vanished"))
    }

    fn where_sql(&self, name_column: &str) -> String {
        format!("database = {} AND {name_column} = {}", text(&self.name.database), text(&self.name.table))
    }

    fn unfit(&self, why: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::config(
            format!("cannot use {} in ClickHouse at {} as the target", self.name, self.http.address()),
            why.into(),
            hint,
        )
    }

    /// Everything in one question: an idle run should cost next to nothing.
    fn inspect(&mut self) -> Result<TableRow> {
        let what = format!("cannot look up the target {}", self.name);
        let sql = format!(
            "SELECT engine, toString(uuid) AS uuid, engine_full, \
             (SELECT groupArray((position, name, type, default_kind)) FROM system.columns WHERE {}) AS columns, \
             (SELECT groupArray(name) FROM system.settings WHERE name IN ({})) AS settings \
             FROM system.tables WHERE {} FORMAT JSONEachRow",
            self.where_sql("table"),
            Settings::names_sql(),
            self.where_sql("name"),
        );
        let settings = [PLAIN, &[("output_format_json_quote_64bit_integers", "0")]].concat();
        let answer = match self.http.send(&sql, &settings, &[]) {
            Ok(Answer::Ok(answer)) => answer,
            Ok(Answer::Exception(exception)) if matches!(exception.code, UNKNOWN_IDENTIFIER | UNKNOWN_SETTING) => {
                return Err(self.too_old());
            }
            Ok(Answer::Exception(exception)) => return Err(self.http.explain(&what, &exception)),
            Err(error) => return Err(self.http.unreachable(&what, error)),
        };
        if answer.trim_ascii().is_empty() {
            return Err(self.unfit("there is no such table", "run `pg2ch init`, or load sql/clickhouse_init.sql"));
        }
        let row: TableRow = serde_json::from_slice(&answer)
            .map_err(|error| Error::bug(what, format!("the server's answer cannot be read: {error}")))?;
        let has = |wanted: &str| row.columns.iter().any(|(_, name, ..)| name == wanted);
        let keeps_positions = POSITION_COLUMNS.into_iter().all(has);
        let layout = Layout::of(&row.engine);
        self.known = Some(Known { settings: Settings::among(&row.settings), keeps_positions, layout });
        Ok(row)
    }

    fn too_old(&self) -> Error {
        self.unfit(
            "the server does not know insert_deduplication_token",
            "use ClickHouse 22.2 or later: without tokens an insert whose answer is lost would be doubled",
        )
    }

    /// Tokens do nothing in a table that does not remember them, and are not even known to old servers.
    fn require_tokens(&mut self, table: &TableRow) -> Result<()> {
        if !self.settings()?.knows_tokens {
            return Err(self.too_old());
        }
        if Distributed::parse(&table.engine_full).is_some_and(|parts| parts.is_random()) {
            return Err(self.unfit(
                "its sharding key sends a row to another server each time: an insert whose answer is lost would be doubled",
                "make it with a sharding key that follows from the row's key, such as cityHash64(id)",
            ));
        }
        if table.engine_full.contains(" async_insert = 1") {
            return Err(self.unfit(
                "it buffers inserts (async_insert = 1), whatever an insert itself says: tokens would do nothing",
                format!("ALTER TABLE {} MODIFY SETTING async_insert = 0", self.sql_name()),
            ));
        }
        let setting = Layout::of(&table.engine).window_setting();
        if window(&table.engine_full, setting) == Some(0) {
            return Err(self.unfit(
                "it does not remember deduplication tokens: an insert whose answer is lost would be doubled",
                format!("ALTER TABLE {} MODIFY SETTING {setting} = 10000", self.sql_name()),
            ));
        }
        Ok(())
    }
}

/// The deduplication window in a MergeTree's definition; `None` if it is the server's default for replicated tables, or the
/// engine is no MergeTree of this server.
fn window(engine_full: &str, setting: &str) -> Option<u64> {
    if !engine_full.contains("MergeTree") {
        return None;
    }
    // One name is the end of the other, so the space in front counts.
    match engine_full.split_once(&format!(" {setting} = ")) {
        Some((_, rest)) => rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok(),
        None => (setting == Layout::Here.window_setting()).then_some(0),
    }
}

fn column((_, name, type_name, default_kind): (u64, String, String, String)) -> Column {
    // A kind that is not known is one that an INSERT had better not name.
    let default_kind = DefaultKind::parse(&default_kind).unwrap_or(DefaultKind::Materialized);
    Column { name, type_name, default_kind }
}

impl Target for ClickHouseTarget {
    fn describe(&mut self) -> Result<TargetDescription> {
        if let Some(description) = self.description.take() {
            return Ok(description);
        }
        let mut table = self.inspect()?;
        table.columns.sort_unstable();
        let columns: Vec<Column> = std::mem::take(&mut table.columns).into_iter().map(column).collect();
        let missing = POSITION_COLUMNS.into_iter().find(|wanted| !columns.iter().any(|column| column.name == *wanted));
        if let Some(wanted) = missing.filter(|_| self.needs_positions) {
            return Err(self.unfit(
                format!("it has no column {wanted}"),
                "run `pg2ch init`, which adds the columns that keep a record's position; `metadata_columns = false` in [[table]] \
                 does without them, for a weaker promise",
            ));
        }
        // ClickHouse's own parser would wrap an offset around that does not fit, and the row would not be recognised.
        let unfit = POSITION_COLUMNS.into_iter().find_map(|wanted| {
            columns.iter().find(|column| column.name == wanted && !holds_position(wanted, &column.type_name))
        });
        if let Some(Column { name, type_name, .. }) = unfit {
            return Err(self.unfit(
                format!("its column {name} is of type {type_name}, which does not hold every value"),
                "run `pg2ch check` for the statement that alters it",
            ));
        }
        self.require_tokens(&table)?;
        let has_uuid = table.uuid.bytes().any(|byte| byte.is_ascii_hexdigit() && byte != b'0');
        let identity = if has_uuid { table.uuid } else { self.name.to_string() };
        Ok(TargetDescription { identity, columns, keeps_positions: missing.is_none() })
    }

    fn calendar(&mut self) -> CalendarRange {
        match self.http.send(&format!("{} FORMAT TabSeparated", CalendarRange::PROBE), PLAIN, &[]) {
            Ok(Answer::Ok(answer)) if answer.trim_ascii() == b"1" => CalendarRange::Wide,
            _ => CalendarRange::Narrow,
        }
    }

    fn is_empty(&mut self) -> Result<bool> {
        let what = format!("cannot ask whether {} is empty", self.name);
        let sql = format!("SELECT count() FROM (SELECT 1 FROM {} LIMIT 1) FORMAT TabSeparated", self.sql_name());
        Ok(self.ask(&what, &sql)?.trim_ascii() == b"0")
    }

    fn held(&mut self, ranges: &Ranges) -> Result<HashSet<RecordId>> {
        self.lookup(ranges)
    }

    fn insert(&mut self, block: Block<'_>, token: &str) -> Result<Inserted> {
        self.insert_block(block, token)
    }

    fn is_inserting(&mut self) -> Result<bool> {
        let what = format!("cannot ask for inserts into {} that are under way", self.name);
        let sql = format!(
            "SELECT count() FROM system.processes WHERE startsWith(query_id, {}) FORMAT TabSeparated",
            text(&self.query_prefix())
        );
        Ok(self.http.ask(&what, &sql, &[])?.trim_ascii() != b"0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_read_from_the_definition() {
        let (here, replicated) = (Layout::Here.window_setting(), Layout::Replicated.window_setting());
        let engine = "ReplacingMergeTree(_timestamp) ORDER BY id SETTINGS non_replicated_deduplication_window = 10000, index_granularity = 8192";
        assert_eq!(window(engine, here), Some(10_000));
        assert_eq!(window(engine, replicated), None, "the server's default, which is not 0");
        assert_eq!(window("MergeTree ORDER BY id", here), Some(0));
        let off = "ReplicatedMergeTree('/t', 'r') ORDER BY id SETTINGS replicated_deduplication_window = 0";
        assert_eq!(window(off, replicated), Some(0));
        assert_eq!(window("Distributed('c', 'd', 't')", here), None);
    }
}

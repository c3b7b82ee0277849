//! The target table as the server describes it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::answer::{Answer, UNKNOWN_SETTING};
use super::column_type::{Column, DefaultKind};
use super::encode::CalendarRange;
use super::http::Http;
use super::settings::{Settings, TOKEN};
use super::sql::{is_about, is_uuid, sql_name, text};
use crate::config::{Config, TableConfig, TargetName};
use crate::data::{Offsets, Ranges, RecordId};
use crate::error::{Error, Result};
use crate::ports::engine::{Engine, key_parts};
use crate::ports::layout::Layout;
use crate::ports::target::{Inserted, Target, TargetDescription};

/// What is known of the twin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Twin {
    /// Nobody has asked for it.
    #[default]
    Unmade,
    /// It is there.
    Made,
    /// The user may not create it.
    Denied,
}

/// A target table on a real server.
pub struct ClickHouseTarget {
    pub(super) http: Http,
    name: TargetName,
    known: Option<Known>,
    /// What [`described`](Self::described) found out, until it is asked for.
    description: Option<TargetDescription>,
    /// Whether no row policy hides rows from the user.
    pub(super) sees_all_rows: bool,
    /// What was asked ahead.
    calendar: Option<CalendarRange>,
    /// The table that rows are tried on.
    pub(super) twin: Twin,
    /// How many replicas it has, once that was asked; zero if it is not known.
    pub(super) replicas: Option<u64>,
}

/// What is known of a table once it was looked at.
struct Known {
    settings: Settings,
    layout: Layout,
}

/// What a server answers that does not know a column of its system tables: one of before 2020.
const UNKNOWN_IDENTIFIER: i32 = 47;

/// Sent with the question that describes the table, and asked back in it: a proxy that drops settings shows.
const ECHO: &str = "pg2ch-echo";

#[derive(Deserialize)]
struct TableRow {
    engine: String,
    uuid: String,
    engine_full: String,
    create_table_query: String,
    sorting_key: String,
    partition_key: String,
    dependencies_database: Vec<String>,
    dependencies_table: Vec<String>,
    zone: String,
    /// Position, name, type, kind of default.
    columns: Vec<(u64, String, String, String)>,
    /// The settings that the server knows, of those that are pinned.
    settings: Vec<String>,
    /// Settings as they have reached the server.
    token: String,
    buffers: String,
}

impl ClickHouseTarget {
    /// Makes the target; no connection is made.
    ///
    /// # Errors
    /// 78 if a certificate cannot be read.
    pub fn new(config: &Config, table: &TableConfig) -> Result<Self> {
        Ok(Self::through(Http::new(config)?, table))
    }

    fn through(http: Http, table: &TableConfig) -> Self {
        Self {
            http,
            name: table.target.clone(),
            known: None,
            description: None,
            sees_all_rows: false,
            calendar: None,
            twin: Twin::Unmade,
            replicas: None,
        }
    }

    /// Makes the target, reached through `http`, and looks it up at once.
    pub(crate) fn described(http: Http, table: &TableConfig) -> Result<Self> {
        let mut target = Self::through(http, table);
        target.description = Some(target.describe()?);
        Ok(target)
    }

    /// The same, with its server's calendar.
    pub(crate) fn with_calendar(mut self) -> Self {
        self.calendar = Some(Target::calendar(&mut self));
        self
    }

    /// The client through which the server is reached.
    pub(crate) const fn http(&self) -> &Http {
        &self.http
    }

    pub(super) fn name(&self) -> &TargetName {
        &self.name
    }

    /// The table's name, quoted for SQL.
    pub(crate) fn sql_name(&self) -> String {
        sql_name(&self.name)
    }

    /// Asks a question whose answer must be whole, under the pinned settings; `what` says, for a message, what cannot be
    /// done.
    pub(crate) fn query(&mut self, what: &str, sql: &str) -> Result<Vec<u8>> {
        let settings = self.settings()?.ask.clone();
        self.http.query(what, sql, &settings)
    }

    /// What the identifiers of this table's INSERTs begin with: ASCII, as they come back in a header.
    pub(super) fn query_prefix(&self) -> String {
        let name = self.name.to_string();
        if name.is_ascii() {
            return format!("pg2ch {name} ");
        }
        let digest: String = Sha256::digest(&name).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        format!("pg2ch {digest} ")
    }

    /// The identifier of the INSERT of a token.
    pub(super) fn query_id(&self, token: &str) -> String {
        format!("{}{token}", self.query_prefix())
    }

    pub(super) fn settings(&mut self) -> Result<&Settings> {
        self.known().map(|known| &known.settings)
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

    fn unfit(&self, why: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::config(
            format!("cannot use {} in ClickHouse at {} as the target", self.name, self.http.address()),
            why.into(),
            hint,
        )
    }

    /// Everything in one question: an idle run should cost next to nothing.
    fn inspect(&mut self) -> Result<TableRow> {
        let row = match self.look_at_table()? {
            // A profile that wraps questions, or chooses their format, is overridden by settings that older servers do not know.
            Err(_) if self.http.pin_newest() => self.look_at_table()?,
            looked_up => looked_up,
        }?;
        self.http.pin_known(&row.settings);
        self.known = Some(Known { settings: Settings::among(&row.settings), layout: Layout::of(&row.engine) });
        Ok(row)
    }

    /// What the server says of the table, or why that is of no use.
    ///
    /// # Errors
    /// 69 if no answer comes.
    fn look_at_table(&self) -> Result<Result<TableRow>> {
        let what = format!("cannot look up the target {}", self.name);
        let sql = format!(
            "SELECT engine, toString(uuid) AS uuid, engine_full, create_table_query, sorting_key, partition_key, \
             dependencies_database, dependencies_table, timezone() AS zone, \
             (SELECT groupArray((position, name, type, default_kind)) FROM system.columns WHERE {}) AS columns, \
             (SELECT groupArray(name) FROM system.settings WHERE name IN ({})) AS settings, \
             getSetting('{TOKEN}') AS token, toString(getSetting('async_insert')) AS buffers \
             FROM system.tables WHERE {} FORMAT JSONEachRow",
            is_about(&self.name, "table"),
            Settings::names_sql(),
            is_about(&self.name, "name"),
        );
        let own: &[(&str, &str)] =
            &[("output_format_json_quote_64bit_integers", "0"), (TOKEN, ECHO), ("async_insert", "0")];
        let answer = match self.http.ask(&sql, own) {
            Ok(Answer::Ok(answer)) => answer,
            Ok(Answer::Exception(exception)) if matches!(exception.code, UNKNOWN_IDENTIFIER | UNKNOWN_SETTING) => {
                return Ok(Err(self.unfit(
                    format!("the server does not know insert_deduplication_token: {exception}"),
                    "upgrade the server to ClickHouse 22.2 or later: without tokens an INSERT whose reply is lost would be stored twice",
                )));
            }
            Ok(Answer::Exception(exception)) => return Ok(Err(self.http.explain(&what, &exception))),
            Err(error) => return Err(self.http.unreachable(&what, error)),
        };
        if answer.trim_ascii().is_empty() {
            // That file creates the default configuration's target, and no other.
            let hint = match (self.name.database.as_str(), self.name.table.as_str()) {
                ("analytics", "user_logins") => "run `pg2ch init`, or load sql/clickhouse_init.sql",
                _ => "run `pg2ch init`, which creates it, or correct `target` in [[table]]",
            };
            return Ok(Err(self.unfit("the table does not exist", hint)));
        }
        Ok(serde_json::from_slice(&answer).map_err(|error| self.http.unreadable(&what, error)))
    }
}

fn column((_, name, type_name, default_kind): (u64, String, String, String), zone: &str) -> Column {
    Column { name, type_name, default_kind: DefaultKind::parse(&default_kind), zone: zone.to_owned() }
}

impl Target for ClickHouseTarget {
    fn describe(&mut self) -> Result<TargetDescription> {
        if let Some(description) = self.description.take() {
            return Ok(description);
        }
        let mut table = self.inspect()?;
        table.columns.sort_unstable();
        let arrived = [(TOKEN, table.token == ECHO), ("async_insert", matches!(&*table.buffers, "0" | "false"))];
        let dropped_settings = arrived.iter().filter(|(_, arrived)| !arrived).map(|(name, _)| (*name).to_owned());
        let dependents = table.dependencies_database.into_iter().zip(table.dependencies_table).collect();
        let views = self.views(dependents)?;
        Ok(TargetDescription {
            identity: if is_uuid(&table.uuid) { table.uuid } else { self.name.to_string() },
            columns: table.columns.into_iter().map(|each| column(each, &table.zone)).collect(),
            definition: table.create_table_query,
            engine: Engine::parse(&table.engine, &table.engine_full),
            sorting_key: key_parts(&table.sorting_key),
            partition_key: table.partition_key,
            views,
            servers: self.http.servers(),
            dropped_settings: dropped_settings.collect(),
        })
    }

    fn calendar(&mut self) -> CalendarRange {
        if let Some(calendar) = self.calendar {
            return calendar;
        }
        let is_wide = self.http.says(&format!("{} FORMAT TabSeparated", CalendarRange::PROBE), "1");
        if is_wide { CalendarRange::Wide } else { CalendarRange::Narrow }
    }

    fn held(&mut self, ranges: &Ranges) -> Result<HashSet<RecordId>> {
        self.lookup(ranges)
    }

    fn holds_from(&mut self, offsets: &Offsets) -> Result<BTreeSet<i32>> {
        self.partitions_from(offsets)
    }

    fn highest(&mut self) -> Result<BTreeMap<i32, i64>> {
        self.highest_offsets()
    }

    fn insert(&mut self, body: &[u8], token: &str) -> Result<Inserted> {
        self.insert_block(body, token)
    }

    fn probe(&mut self, body: &[u8]) -> Option<std::result::Result<(), String>> {
        self.probe_rows(body)
    }

    fn end_probes(&mut self) {
        self.drop_twin();
    }

    fn has_ended_well(&mut self, token: &str) -> bool {
        let sql = format!(
            "SELECT count() FROM system.query_log WHERE query_id = {} AND type = 'QueryFinish' FORMAT TabSeparated",
            text(&self.query_id(token))
        );
        // Many servers keep no such log, or not for this user.
        let answer = self.http.query("cannot query how an INSERT ended", &sql, &[]);
        answer.is_ok_and(|answer| !matches!(answer.trim_ascii(), b"0" | b""))
    }

    fn is_inserting(&mut self) -> Result<bool> {
        let what = format!("cannot query the INSERTs into {} that are still executing", self.name);
        let sql = format!(
            "SELECT count() FROM system.processes WHERE startsWith(query_id, {}) FORMAT TabSeparated",
            text(&self.query_prefix())
        );
        Ok(self.http.query(&what, &sql, &[])?.trim_ascii() != b"0")
    }
}

//! Whether the target's storage keeps the rows that it is given: its engine, keys, settings, TTL, and the views behind it.

use super::deletes::{self, Misfit};
use super::differences::{Difference, Effect, is_refused_view};
use crate::clickhouse::quote;
use crate::config::{TableConfig, TargetName};
use crate::data::POSITION_COLUMNS;
use crate::ports::engine::{Window, columns_with_ttl};
use crate::ports::layout::{Distributed, Layout};
use crate::ports::target::{TargetDescription, View};

/// How a fix begins that makes another table, until `check` has written that table's statements.
pub const RECREATE: &str = "`pg2ch check` prints a table that fits";

/// Engines that keep every row, and versions of a row.
const KEEPING: [&str; 2] = ["MergeTree", "ReplacingMergeTree"];

/// What does not fit; `source` are the names of the source's columns, none where they are not known.
#[must_use]
pub fn misfits(table: &TableConfig, source: &[&str], target: &TargetDescription) -> Vec<Difference> {
    let mut check = Check { table, target, name: sql_name(&table.target), found: Vec::new() };
    check.dropped_settings();
    check.servers();
    check.engine();
    check.cleanup();
    check.key(source);
    check.window();
    check.buffering();
    check.ttl();
    check.columns_with_ttl();
    target.views.iter().for_each(|view| check.view(view));
    check.found
}

fn sql_name(name: &TargetName) -> String {
    format!("{}.{}", quote(&name.database), quote(&name.table))
}

struct Check<'a> {
    table: &'a TableConfig,
    target: &'a TargetDescription,
    name: String,
    found: Vec<Difference>,
}

impl Check<'_> {
    fn add(
        &mut self,
        id: &'static str,
        effect: Effect,
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let (what, why, fix) = (what.into(), why.into(), fix.into());
        self.found.push(Difference { id, effect, what, why, fix, is_additive: false, hint: None });
    }

    /// What loses or folds rows stops a run, unless the configuration names the engine.
    fn engine_misfit(&mut self, id: &'static str, what: String, why: impl Into<String>) {
        let engine = &self.target.engine.name;
        let is_allowed = self.table.allow_engine.as_ref() == Some(engine);
        let why = why.into();
        if is_allowed {
            return self.add(
                id,
                Effect::Weaker,
                what,
                format!("{why}; `allow_engine` allows it"),
                "-- nothing, if that is intended",
            );
        }
        let fix = format!(
            "-- {RECREATE}, to take the rows over; `allow_engine = \"{engine}\"` in [[table]] allows this one, even if it loses \
             rows"
        );
        self.add(id, Effect::Stops, what, format!("{why}: a run does not start"), fix);
    }

    fn dropped_settings(&mut self) {
        if self.target.dropped_settings.is_empty() {
            return;
        }
        let what = format!("the settings {} do not reach ClickHouse", self.target.dropped_settings.join(", "));
        let why = "a proxy, such as chproxy, drops settings: an INSERT whose reply is lost would be stored twice";
        let fix =
            "-- let the proxy pass all settings of pg2ch's user on, or let [clickhouse] url lead to ClickHouse itself";
        self.add("settings-dropped", Effect::Stops, what, why, fix);
    }

    /// Another run may use another server, and ask it what this one has stored.
    fn servers(&mut self) {
        let engine = &self.target.engine;
        if self.target.servers > 1 && engine.layout() == Layout::Here {
            let (what, servers) = (&self.table.target, self.target.servers);
            let what =
                format!("{what} is not replicated ({}), and [clickhouse] url names {servers} servers", engine.name);
            let why = "each of them would hold a part of the rows, and some rows would be stored on two";
            let fix =
                "-- name one server in [clickhouse] url, or create the table with a Replicated engine on all of them";
            self.add("servers", Effect::Stops, what, why, fix);
        }
    }

    fn engine(&mut self) {
        let engine = &self.target.engine;
        if is_refused_view(self.table, &engine.name) {
            return self.refused_view();
        }
        let what = format!("{} has the engine {}", self.table.target, engine.name);
        let why = match engine.family() {
            family if KEEPING.contains(&family) => return self.version(),
            "Distributed" => return self.sharding(),
            "Null" => "it stores nothing",
            "Memory" => "a restart of the server loses every row, after their offsets were committed",
            "Buffer" => "it confirms rows that are in memory only, and remembers no deduplication tokens",
            "SummingMergeTree" | "AggregatingMergeTree" | "CoalescingMergeTree" | "GraphiteMergeTree" => {
                "merges combine rows with the same ORDER BY into one: row versions are not kept"
            }
            "CollapsingMergeTree" | "VersionedCollapsingMergeTree" => {
                "merges cancel rows by their sign, and records have none"
            }
            _ => "it remembers no deduplication tokens: an INSERT whose reply is lost would be stored twice",
        };
        self.engine_misfit("engine", what, why);
    }

    fn refused_view(&mut self) {
        let target = &self.table.target;
        let (why, fix) = match self.target.engine.name.as_str() {
            "View" => ("it stores nothing", "-- name the table that it reads as `target` in [[table]]"),
            _ => ("it stores nothing itself", "-- name the table that it writes to as `target` in [[table]]"),
        };
        self.add("engine-view", Effect::Stops, format!("{target} is a view"), why, fix);
    }

    /// A ReplacingMergeTree keeps the row with the highest version.
    fn version(&mut self) {
        let engine = &self.target.engine;
        if engine.family() != "ReplacingMergeTree" {
            let what = format!("{} has the engine {}", self.table.target, engine.name);
            let why = "a row that changes and is sent again stays there in every version: only ReplacingMergeTree(_timestamp) \
                       shows the newest one, with FINAL";
            return self.add("engine", Effect::Weaker, what, why, "-- nothing, if that is intended");
        }
        let version = engine.argument(0);
        if version.as_deref() == Some("_timestamp") {
            return self.deleted();
        }
        let what = match version {
            Some(version) => {
                format!("{} keeps, of rows with the same key, the one with the highest {version}", self.table.target)
            }
            None => format!("{} keeps, of rows with the same key, the one that was inserted last", self.table.target),
        };
        self.engine_misfit("engine-version", what, "only _timestamp shows which version of a row is the newest");
    }

    /// What a ReplacingMergeTree hides.
    fn deleted(&mut self) {
        let (id, target) = ("engine-deleted", &self.table.target);
        let Some(misfit) = deletes::misfit(self.table, self.target) else { return };
        match misfit {
            Misfit::Unnamed(by) => {
                let what = format!("FINAL hides the rows of {target} whose {by} is 1, and [[table]] has no `deleted`");
                let why = "pg2ch does not know that these rows are deleted: `pg2ch verify` expects them in the target";
                let fix = format!(
                    "-- name the source's column in [[table]], e.g. `deleted = \"{by}\"`; nothing, if that is intended"
                );
                self.add(id, Effect::Weaker, what, why, fix);
            }
            Misfit::Shown => {
                let what = format!("FINAL shows the rows of {target} that are deleted");
                let why = "`deleted` in [[table]] needs the engine ReplacingMergeTree(_timestamp, _deleted)";
                self.engine_misfit(id, what, why);
            }
            Misfit::Other(by) => {
                let what = format!("FINAL hides the rows of {target} whose {by} is 1");
                let why = "that is neither the column that `deleted` names nor a MATERIALIZED column made of it";
                self.engine_misfit(id, what, why);
            }
        }
    }

    /// Merges that remove the newest version of a row let an older one show that comes late, such as a replayed dead letter.
    fn cleanup(&mut self) {
        let Some((setting, off)) = deletes::cleanup(|name| self.target.engine.setting(name)) else { return };
        self.add(
            "cleanup-merges",
            Effect::Stops,
            format!("{} has {setting}", self.table.target),
            "merges would remove deleted rows, and an older version that comes late would show again",
            format!("ALTER TABLE {} MODIFY SETTING {off};", self.name),
        );
    }

    fn sharding(&mut self) {
        let arguments = &self.target.engine.arguments;
        let key = arguments.get(3).cloned();
        let parts = Distributed { database: String::new(), table: String::new(), sharding_key: key };
        if parts.is_random() {
            let what = format!("the sharding key of {} sends a row to another server each time", self.table.target);
            let why = "an INSERT whose reply is lost would be stored twice";
            let fix = "-- create it anew with a sharding key that follows from the row's key, such as cityHash64(id)";
            self.add("sharding-random", Effect::Stops, what, why, fix);
        }
    }

    /// What a ReplacingMergeTree takes for versions of one row.
    fn key(&mut self, source: &[&str]) {
        if self.target.engine.family() != "ReplacingMergeTree" {
            return;
        }
        let sorted = &self.target.sorting_key;
        let columns = |name: &String| self.table.column_rules.column_of(name).map(str::to_owned);
        let key: Vec<String> = self.table.key.iter().filter_map(columns).collect();
        let lacking: Vec<&str> = key.iter().filter(|name| !sorted.contains(name)).map(String::as_str).collect();
        if !lacking.is_empty() {
            let what = format!(
                "the ORDER BY of {} ({}) lacks the key's {}",
                self.table.target,
                sorted.join(", "),
                lacking.join(", ")
            );
            let why = "merges take rows with the same ORDER BY for versions of one row, and keep only one";
            return self.engine_misfit("sorting-key", what, why);
        }
        let of_source = |part: &String| source.is_empty() || source.iter().any(|name| part.contains(name));
        let extra: Vec<&String> = sorted.iter().filter(|part| !key.contains(part) && of_source(part)).collect();
        if let Some(part) = extra.first() {
            let what = format!("the ORDER BY of {} has {part} besides the key ({})", self.table.target, key.join(", "));
            let why = "a row whose value changes there stays alongside its new version, even with FINAL";
            self.add("sorting-key", Effect::Weaker, what, why, "-- nothing, if the value never changes");
        }
    }

    fn window(&mut self) {
        let engine = &self.target.engine;
        if engine.window() != Window::Tokens(0) {
            return;
        }
        let setting = engine.layout().window_setting();
        let what = format!("{} remembers no deduplication tokens ({setting} = 0)", self.table.target);
        let why = "an INSERT whose reply is lost would be stored twice";
        let fix = format!("ALTER TABLE {} MODIFY SETTING {setting} = 10000;", self.name);
        self.add("deduplication-window", Effect::Stops, what, why, fix);
    }

    fn buffering(&mut self) {
        if self.target.engine.setting("async_insert") == Some("1") {
            let what =
                format!("{} buffers inserts (async_insert = 1), whatever an INSERT itself says", self.table.target);
            let why = "deduplication tokens would do nothing";
            self.add(
                "async-insert",
                Effect::Stops,
                what,
                why,
                format!("ALTER TABLE {} MODIFY SETTING async_insert = 0;", self.name),
            );
        }
    }

    fn ttl(&mut self) {
        if self.target.engine.folds_by_ttl() {
            let what = format!("{} has a TTL that folds rows (GROUP BY)", self.table.target);
            let why = "rows that have expired become one row with other values: a run does not start";
            let fix = format!("ALTER TABLE {} REMOVE TTL;", self.name);
            return self.add("ttl-folds", Effect::Stops, what, why, fix);
        }
        if self.target.engine.deletes_by_ttl() {
            let what = format!("{} has a TTL that deletes rows", self.table.target);
            let why = "rows that have expired are gone, perhaps as soon as they are inserted; `pg2ch verify` counts them as expired";
            self.add("ttl", Effect::Weaker, what, why, "-- nothing, if that is intended");
        }
    }

    fn columns_with_ttl(&mut self) {
        let key = self.table.key.iter().filter_map(|name| self.table.column_rules.column_of(name));
        // The engine's are the version and what marks a row as deleted.
        let engine = self.target.engine.arguments.iter().map(String::as_str);
        let needed: Vec<&str> = POSITION_COLUMNS.into_iter().chain(key).chain(engine).collect();
        for column in columns_with_ttl(&self.target.definition) {
            let what = format!("the column {column} of {} has a TTL", self.table.target);
            let fix = format!("ALTER TABLE {} MODIFY COLUMN {} REMOVE TTL;", self.name, quote(&column));
            let (effect, why, fix) = if needed.contains(&column.as_str()) {
                (
                    Effect::Stops,
                    "once it has expired, the row is not recognised any more, and a crash would duplicate it",
                    fix,
                )
            } else {
                let why = "once they have expired, its values are gone; `pg2ch verify` does not compare them";
                (Effect::Weaker, why, format!("-- nothing, if that is intended; otherwise:\n-- {fix}"))
            };
            self.add("column-ttl", effect, what, why, fix);
        }
    }

    fn view(&mut self, view: &View) {
        let (id, why) = (
            "view-deduplication",
            "an INSERT that is sent again after a lost reply is stored once in the target, but twice there",
        );
        let View { name, table, window, .. } = view;
        match *window {
            Window::Tokens(tokens) if tokens >= self.target.entries(view, usize::MAX) => {
                let what = format!("the materialized view {name} reads {}", self.table.target);
                let why = "it sees every inserted block, before versions of a row are merged; if it refuses rows, the run reports that";
                self.add(
                    "view",
                    Effect::Harmless,
                    what,
                    why,
                    format!("-- nothing, if that is intended; otherwise:\n-- DROP VIEW {name};"),
                );
            }
            Window::Tokens(tokens) => {
                let setting = view.layout.window_setting();
                let few = match tokens {
                    0 => "no deduplication tokens".to_owned(),
                    _ => format!(
                        "too few deduplication tokens for an INSERT into many partitions ({setting} = {tokens})"
                    ),
                };
                let what = format!("the materialized view {name} writes to {table}, which remembers {few}");
                let enough = self.target.entries(view, usize::MAX).max(10_000);
                let fix = format!("ALTER TABLE {table} MODIFY SETTING {setting} = {enough};");
                self.add(id, Effect::Weaker, what, why, fix);
                self.found.last_mut().into_iter().for_each(|difference| difference.is_additive = true);
            }
            Window::Never => {
                let what = format!(
                    "the materialized view {name} writes to {table}, whose engine remembers no deduplication tokens"
                );
                self.add(
                    id,
                    Effect::Weaker,
                    what,
                    why,
                    format!("-- let {name} write to a table of the MergeTree family"),
                );
            }
            Window::Dropped => {
                let what = format!("{table}, to which the materialized view {name} writes, does not exist");
                let why = "ClickHouse refuses every INSERT into the target";
                let fix = format!("-- create {table} again; or, if the view is no longer needed:\nDROP VIEW {name};");
                self.add("view-broken", Effect::RefusesAll, what, why, fix);
            }
            Window::Unknown => {
                let what = format!("the table that the materialized view {name} writes to cannot be seen");
                let database = name.split_once("`.`").map_or(name.as_str(), |(database, _)| database);
                let fix = format!("GRANT SHOW TABLES ON {}`.* TO the user of pg2ch;", database.trim_end_matches('`'));
                self.add(id, Effect::Weaker, what, format!("it may remember no deduplication tokens: {why}"), fix);
            }
        }
    }
}

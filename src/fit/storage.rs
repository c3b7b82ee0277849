//! Whether the target's storage keeps the rows that it is given: its engine, keys, settings, TTL, and the views behind it.

use super::alteration::Remedy;
use super::deletes::{self, Misfit};
use super::differences::{Difference, Effect, INTENDED, is_refused_view};
use crate::clickhouse::{quote, sql_name};
use crate::config::TableConfig;
use crate::data::{INGESTED_AT, POSITION_COLUMNS};
use crate::ports::engine::{Window, columns_with_ttl, names};
use crate::ports::layout::{Distributed, Layout};
use crate::ports::target::{TargetDescription, View};

/// Engines that keep every row, and versions of a row.
const KEEPING: [&str; 2] = ["MergeTree", "ReplacingMergeTree"];

/// What does not fit; `source` are the names of the source's columns, none where they are not known.
#[must_use]
pub fn misfits(table: &TableConfig, source: &[&str], target: &TargetDescription) -> Vec<Difference> {
    let check = Check { table, source, target, name: sql_name(&table.target) };
    let of_table = [
        check.dropped_settings(),
        check.servers(),
        check.engine(),
        check.cleanup(),
        check.key(),
        check.window(),
        check.buffering(),
        check.frozen(),
        check.ttl(),
    ];
    let of_columns = columns_with_ttl(&target.definition).into_iter().map(|column| check.column_with_ttl(&column));
    let of_views = target.views.iter().map(|view| check.view(view));
    of_table.into_iter().flatten().chain(of_columns).chain(of_views).collect()
}

struct Check<'a> {
    table: &'a TableConfig,
    source: &'a [&'a str],
    target: &'a TargetDescription,
    name: String,
}

impl Check<'_> {
    /// What loses or folds rows stops a run, unless the configuration names the engine.
    fn engine_misfit(&self, id: &'static str, what: String, why: &str) -> Difference {
        let engine = &self.target.engine.name;
        if self.table.allow_engine.as_ref() == Some(engine) {
            let why = format!("{why}; `allow_engine` allows it");
            return Difference::new(id, Effect::Weaker, what, why, INTENDED).by(Remedy::NewEngine);
        }
        let first = match self.source {
            // Without its columns there is no table to print.
            [] => "correct first what stands here about PostgreSQL: then ",
            _ => "",
        };
        let fix = format!(
            "-- {first}`pg2ch check` prints a table that fits, to take the rows over; `allow_engine = \"{engine}\"` in [[table]] \
             allows this one, even if it loses rows"
        );
        Difference::new(id, Effect::Stops, what, format!("{why}: a run ends with 78 before it copies"), fix)
            .by(Remedy::NewEngine)
    }

    fn dropped_settings(&self) -> Option<Difference> {
        if self.target.dropped_settings.is_empty() {
            return None;
        }
        let what = format!("the settings {} do not reach ClickHouse", self.target.dropped_settings.join(", "));
        let why = "a proxy, such as chproxy, drops settings: an INSERT whose reply is lost would be stored twice";
        let fix =
            "-- let the proxy pass all settings of pg2ch's user on, or let [clickhouse] url lead to ClickHouse itself";
        Some(Difference::new("settings-dropped", Effect::Stops, what, why, fix))
    }

    /// Another run may use another server, and ask it what this one has stored.
    fn servers(&self) -> Option<Difference> {
        let (engine, servers) = (&self.target.engine, self.target.servers);
        if servers <= 1 || engine.layout() != Layout::Here {
            return None;
        }
        let (target, engine) = (&self.table.target, &engine.name);
        let what = format!("{target} is not replicated ({engine}), and [clickhouse] url names {servers} servers");
        let why = "each of them would hold a part of the rows, and some rows would be stored on two";
        let fix = "-- name one server in [clickhouse] url, or create the table with a Replicated engine on all of them";
        Some(Difference::new("servers", Effect::Stops, what, why, fix))
    }

    fn engine(&self) -> Option<Difference> {
        let (target, engine) = (&self.table.target, &self.target.engine.name);
        if is_refused_view(self.table, engine) {
            let (why, fix) = match engine.as_str() {
                "View" => ("it stores nothing", "-- name the table that it reads as `target` in [[table]]"),
                _ => ("it stores nothing itself", "-- name the table that it writes to as `target` in [[table]]"),
            };
            return Some(Difference::new("engine-view", Effect::Stops, format!("{target} is a view"), why, fix));
        }
        let why = match self.target.engine.family() {
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
        Some(self.engine_misfit("engine", format!("{target} has the engine {engine}"), why))
    }

    /// A ReplacingMergeTree keeps the row with the highest version.
    fn version(&self) -> Option<Difference> {
        let (target, engine) = (&self.table.target, &self.target.engine);
        if engine.family() != "ReplacingMergeTree" {
            let what = format!("{target} has the engine {}", engine.name);
            let why = "a row that changes and is sent again stays there in every version: only ReplacingMergeTree(_timestamp) \
                       shows the newest one, with FINAL";
            return Some(Difference::new("engine", Effect::Weaker, what, why, INTENDED).by(Remedy::NewEngine));
        }
        let kept = match engine.argument(0) {
            Some(version) if version == "_timestamp" => return self.deleted(),
            Some(version) => format!("the one with the highest {version}"),
            None => "the one that was inserted last".to_owned(),
        };
        let what = format!("{target} keeps, of rows with the same key, {kept}");
        let why = "only _timestamp shows which version of a row is the newest";
        Some(self.engine_misfit("engine-version", what, why))
    }

    /// What a ReplacingMergeTree hides.
    fn deleted(&self) -> Option<Difference> {
        let (id, target) = ("engine-deleted", &self.table.target);
        Some(match deletes::misfit(self.table, self.target)? {
            Misfit::Unnamed(by) => {
                let what = format!("FINAL hides the rows of {target} whose {by} is 1, and [[table]] has no `deleted`");
                let why = "pg2ch does not know that these rows are deleted: `pg2ch verify` expects them in the target";
                let fix = format!(
                    "-- name the source's column in [[table]], e.g. `deleted = \"{by}\"`; nothing, if that is intended"
                );
                Difference::new(id, Effect::Weaker, what, why, fix).by(Remedy::NewEngine)
            }
            Misfit::Shown => {
                let why = "`deleted` in [[table]] needs the engine ReplacingMergeTree(_timestamp, _deleted)";
                self.engine_misfit(id, format!("FINAL shows the rows of {target} that are deleted"), why)
            }
            Misfit::Other(by) => {
                let why = "that is neither the column that `deleted` names nor a MATERIALIZED column made of it";
                self.engine_misfit(id, format!("FINAL hides the rows of {target} whose {by} is 1"), why)
            }
        })
    }

    /// Merges that remove the newest version of a row let an older one show that comes late, such as a replayed dead letter.
    fn cleanup(&self) -> Option<Difference> {
        let (setting, off) = deletes::cleanup(|name| self.target.engine.setting(name))?;
        let what = format!("{} has {setting}", self.table.target);
        let fix = format!("ALTER TABLE {} MODIFY SETTING {off};", self.name);
        Some(Difference::new("cleanup-merges", Effect::Stops, what, deletes::SHOWN_AGAIN, fix))
    }

    fn sharding(&self) -> Option<Difference> {
        let sharding_key = self.target.engine.arguments.get(3).cloned();
        if !(Distributed { database: String::new(), table: String::new(), sharding_key }).is_random() {
            return None;
        }
        let what = format!("the sharding key of {} sends a row to another server each time", self.table.target);
        let why = "an INSERT whose reply is lost would be stored twice";
        let fix = "-- create it anew with a sharding key that follows from the row's key, such as cityHash64(id)";
        Some(Difference::new("sharding-random", Effect::Stops, what, why, fix))
    }

    /// What a ReplacingMergeTree takes for versions of one row.
    fn key(&self) -> Option<Difference> {
        if self.target.engine.family() != "ReplacingMergeTree" {
            return None;
        }
        let (id, target, sorted) = ("sorting-key", &self.table.target, &self.target.sorting_key);
        let key: Vec<&str> = self.table.key.iter().filter_map(|name| self.table.column_rules.column_of(name)).collect();
        let lacking: Vec<&str> = key.iter().copied().filter(|name| sorted.iter().all(|part| part != name)).collect();
        if !lacking.is_empty() {
            let (sorted, lacking) = (sorted.join(", "), lacking.join(", "));
            let what = format!("the ORDER BY of {target} ({sorted}) lacks the key's {lacking}");
            let why = "merges take rows with the same ORDER BY for versions of one row, and keep only one";
            return Some(self.engine_misfit(id, what, why));
        }
        let rests_on = |part: &str, name: &str| names(part, name) || self.target.is_made_of(part, name);
        let others = || sorted.iter().filter(|part| !key.contains(&part.as_str()));
        let besides = |part: &str| format!("the ORDER BY of {target} has {part} besides the key ({})", key.join(", "));
        let of_own = |part: &&String| POSITION_COLUMNS.iter().chain([&INGESTED_AT]).any(|name| rests_on(part, name));
        if let Some(part) = others().find(of_own) {
            let why = "a row's versions differ there: each stays alongside the newer ones, even with FINAL";
            return Some(Difference::new(id, Effect::Weaker, besides(part), why, INTENDED).by(Remedy::NewEngine));
        }
        let of_source = |part: &&String| self.source.is_empty() || self.source.iter().any(|name| rests_on(part, name));
        let part = others().find(of_source)?;
        let why = "a row whose value changes there stays alongside its new version, even with FINAL";
        let fix = "-- nothing, if the value never changes";
        Some(Difference::new(id, Effect::Weaker, besides(part), why, fix).by(Remedy::NewEngine))
    }

    fn window(&self) -> Option<Difference> {
        let engine = &self.target.engine;
        if engine.window() != Window::Tokens(0) {
            return None;
        }
        let setting = engine.layout().window_setting();
        let what = format!("{} remembers no deduplication tokens ({setting} = 0)", self.table.target);
        let why = "an INSERT whose reply is lost would be stored twice";
        let fix = format!("ALTER TABLE {} MODIFY SETTING {setting} = 10000;", self.name);
        Some(Difference::new("deduplication-window", Effect::Stops, what, why, fix))
    }

    fn buffering(&self) -> Option<Difference> {
        if self.target.engine.setting("async_insert") != Some("1") {
            return None;
        }
        let target = &self.table.target;
        let what = format!("{target} buffers inserts (async_insert = 1), whatever an INSERT itself says");
        let fix = format!("ALTER TABLE {} MODIFY SETTING async_insert = 0;", self.name);
        Some(Difference::new("async-insert", Effect::Stops, what, "deduplication tokens would do nothing", fix))
    }

    fn frozen(&self) -> Option<Difference> {
        if !matches!(self.target.engine.setting("table_readonly")?, "1" | "true") {
            return None;
        }
        let what = format!("{} is read-only (table_readonly = 1)", self.table.target);
        let fix = format!("ALTER TABLE {} MODIFY SETTING table_readonly = 0;", self.name);
        let why = "ClickHouse refuses every INSERT: a run with records to copy ends with 78";
        Some(Difference::new("table-readonly", Effect::RefusesAll, what, why, fix))
    }

    fn ttl(&self) -> Option<Difference> {
        let target = &self.table.target;
        if self.target.engine.folds_by_ttl() {
            let what = format!("{target} has a TTL that folds rows (GROUP BY)");
            let why = "rows that have expired become one row with other values: a run ends with 78 before it copies";
            let fix = format!("ALTER TABLE {} REMOVE TTL;", self.name);
            return Some(Difference::new("ttl-folds", Effect::Stops, what, why, fix));
        }
        let what = format!("{target} has a TTL that deletes rows");
        let why = "rows that have expired are gone, perhaps as soon as they are inserted; `pg2ch verify` counts them as expired";
        self.target.engine.deletes_by_ttl().then(|| Difference::new("ttl", Effect::Weaker, what, why, INTENDED))
    }

    fn column_with_ttl(&self, column: &str) -> Difference {
        let key = self.table.key.iter().filter_map(|name| self.table.column_rules.column_of(name));
        // The engine's are the version and what marks a row as deleted.
        let engine = self.target.engine.arguments.iter().map(String::as_str);
        let is_needed = POSITION_COLUMNS.into_iter().chain(key).chain(engine).any(|needed| needed == column);
        let what = format!("the column {column} of {} has a TTL", self.table.target);
        let fix = format!("ALTER TABLE {} MODIFY COLUMN {} REMOVE TTL;", self.name, quote(column));
        if is_needed {
            let why = "once it has expired, the row is not recognised any more, and a crash would duplicate it";
            return Difference::new("column-ttl", Effect::Stops, what, why, fix);
        }
        let why = "once they have expired, its values are gone; `pg2ch verify` does not compare them";
        Difference::new("column-ttl", Effect::Weaker, what, why, format!("{INTENDED}; otherwise:\n-- {fix}"))
    }

    fn view(&self, view: &View) -> Difference {
        let (id, why) = (
            "view-deduplication",
            "an INSERT that is sent again after a lost reply is stored once in the target, but twice there",
        );
        let View { name, table, window, .. } = view;
        match *window {
            Window::Tokens(tokens) if tokens >= self.target.entries(view, usize::MAX) => {
                let what = format!("the materialized view {name} reads {}", self.table.target);
                let why = "it sees every inserted block, before versions of a row are merged; if it refuses rows, the run reports that";
                let fix = format!("{INTENDED}; otherwise:\n-- DROP VIEW {name};");
                Difference::new("view", Effect::Harmless, what, why, fix)
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
                Difference::new(id, Effect::Weaker, what, why, fix).by(Remedy::Addition)
            }
            Window::Never => {
                let what = format!(
                    "the materialized view {name} writes to {table}, whose engine remembers no deduplication tokens"
                );
                let fix = format!("-- let {name} write to a table of the MergeTree family");
                Difference::new(id, Effect::Weaker, what, why, fix)
            }
            Window::Dropped => {
                let what = format!("{table}, to which the materialized view {name} writes, does not exist");
                let why = "ClickHouse refuses every INSERT into the target";
                let fix = format!("-- create {table} again; or, if the view is no longer needed:\nDROP VIEW {name};");
                Difference::new("view-broken", Effect::RefusesAll, what, why, fix)
            }
            Window::Unknown => {
                let what = format!("the table that the materialized view {name} writes to cannot be seen");
                let database = name.split_once("`.`").map_or(name.as_str(), |(database, _)| database);
                let fix = format!("GRANT SHOW TABLES ON {}`.* TO the user of pg2ch;", database.trim_end_matches('`'));
                let why = format!("it may remember no deduplication tokens: {why}");
                Difference::new(id, Effect::Weaker, what, why, fix)
            }
        }
    }
}

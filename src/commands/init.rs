//! `pg2ch init`: creates what a run needs and is not there, or prints it.
//!
//! Every step may be repeated: what exists is left as it is.

mod script;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::script::{Place, Script};
use super::migration::{self, create_target};
use crate::clickhouse::{ClickHouseTarget, Http, is_about, quote, text};
use crate::config::Config;
use crate::data::{NextOffset, Offsets, POSITION_COLUMNS};
use crate::error::{Error, ExitCode, Result};
use crate::fit::{Difference, Effect, Remedy, differences, is_refused_view, nested_arrays, storage, taken};
use crate::kafka::KafkaLog;
use crate::kafka::admin::{self, Admin};
use crate::kafka::explain::{is_unknown_topic, refusal};
use crate::legs::consume;
use crate::legs::consume::position::{Context, Position};
use crate::legs::consume::{Committer, Known};
use crate::open::{open_fence, open_ledger, open_writer};
use crate::ports::LegContext;
use crate::ports::source::{Checkpoint, Ledger};
use crate::ports::target::{Target, TargetDescription};
use crate::ports::topic::{End, Fence, TopicLog, wait_until_stable};
use crate::postgres::{
    Session, SourceTable, UnsentIndex, add_flag, build_index, connect, drop_index, invalid_indexes, table_comment,
};

/// What `sql/postgres_init.sql` loads is what is created here: the statements stand there only.
const POSTGRES_SQL: &str = include_str!("../../sql/postgres_init.sql");

/// The table with the offsets below which every record's row is flagged.
pub const CHECKPOINT: &str = "pg2ch_checkpoint";

/// The table of rows that were delivered and are not flagged.
pub const HELD: &str = "pg2ch_held";

/// The history of runs. A run works without it.
pub const RUNS: &str = "pg2ch_runs";

/// The statements that make a table of pg2ch's own, without the last semicolon.
pub(crate) fn own_table_statements(name: &str) -> &'static str {
    let begins = POSTGRES_SQL.find(&format!("CREATE TABLE IF NOT EXISTS {name} (")).unwrap_or_default();
    let rest = &POSTGRES_SQL[begins..];
    // The next part begins with a comment of its own.
    rest.find(";\n\n-- ").map_or(rest, |ends| &rest[..ends])
}

/// Whether a table of pg2ch's own is there, as this version needs it.
pub(crate) fn is_present(session: &mut Session, name: &str) -> Result<bool> {
    let what = format!("cannot look up the table {name}");
    // An older version's checkpoint table lacks the newest column.
    let column = if name == CHECKPOINT { "record_types" } else { "source" };
    let sql =
        "SELECT 1 FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass($1) AND attname = $2::text";
    Ok(session.query_opt(&what, sql, &[&name, &column])?.is_some())
}

/// Why no table of pg2ch's own can be found or made.
pub(crate) struct NoSchema {
    pub what: String,
    /// The statements that help.
    pub fix: String,
}

/// Whether the role's search path has no schema that the role may use, or hides the one that has pg2ch's tables.
pub(crate) fn no_schema(session: &mut Session) -> Result<Option<NoSchema>> {
    // Of the schemas in the path that the role may not use, the one with pg2ch's tables counts, otherwise the first.
    let row = session.query_opt(
        "cannot look up the role's search path",
        r#"WITH path AS (
             SELECT n.oid, n.nspname, at, EXISTS (SELECT FROM pg_catalog.pg_class c
                        WHERE c.relnamespace = n.oid AND c.relname = 'pg2ch_checkpoint') AS is_ours
             FROM pg_catalog.regexp_split_to_table(pg_catalog.current_setting('search_path'), '\s*,\s*') WITH ORDINALITY AS p (name, at)
             JOIN pg_catalog.pg_namespace n ON n.nspname = CASE pg_catalog.btrim(name, '"') WHEN '$user' THEN current_user
                 ELSE pg_catalog.replace(pg_catalog.btrim(name, '"'), '""', '"') END),
         closed AS (SELECT nspname FROM path WHERE NOT pg_catalog.has_schema_privilege(oid, 'USAGE')
                        AND (is_ours OR current_schema() IS NULL) ORDER BY is_ours DESC, at LIMIT 1)
         SELECT nspname::text, pg_catalog.format('GRANT USAGE ON SCHEMA %I TO %I;', nspname, current_user) FROM closed
         WHERE pg_catalog.to_regclass('pg2ch_checkpoint') IS NULL
         UNION ALL
         SELECT NULL, pg_catalog.concat_ws(E'\n',
             CASE WHEN pg_catalog.to_regnamespace('public') IS NULL THEN 'CREATE SCHEMA public;' END,
             CASE WHEN pg_catalog.has_schema_privilege(pg_catalog.to_regnamespace('public'), 'USAGE') IS NOT TRUE
                 THEN pg_catalog.format('GRANT USAGE ON SCHEMA public TO %I;', current_user) END,
             pg_catalog.format('ALTER ROLE %I IN DATABASE %I SET search_path = public;', current_user, current_database()))
         WHERE current_schema() IS NULL AND NOT EXISTS (SELECT FROM closed)"#,
        &[],
    )?;
    Ok(row.map(|row| NoSchema {
        what: row.get::<_, Option<String>>(0).map_or_else(
            || "the role's search path names no schema that exists and that the role may use".to_owned(),
            |schema| {
                format!("the role may not use schema {schema}, where its search path has pg2ch's tables looked up")
            },
        ),
        fix: row.get(1),
    }))
}

/// How often a lock that is taken is tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Where copying is to begin, whatever was copied before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the topic's beginning. What the target holds of it is not copied again.
    Beginning,
    /// At its end: what it holds today counts as flagged and copied.
    End,
}

/// Creates what is missing for a table, or only prints it; then sets where copying is to `start`, if that is to be set.
///
/// # Errors
/// 75 if another `pg2ch init`, or a run, is in the way; 78 if something cannot be created; the servers'.
pub fn create_missing(leg: &LegContext<'_>, print: bool, start: Option<StartAt>) -> Result<Script> {
    let mut init = Init { leg, print, script: Script::default() };
    init.run(start)?;
    Ok(init.script)
}

struct Init<'a> {
    leg: &'a LegContext<'a>,
    print: bool,
    script: Script,
}

impl Init<'_> {
    fn run(&mut self, start: Option<StartAt>) -> Result<()> {
        let mut session = connect(self.leg.config, "init", self.leg.watchdog)?;
        let source = self.source(&mut session)?;
        alone(&mut session, self.leg.config, "pg2ch init", |session| {
            self.own_table(session, CHECKPOINT)?;
            self.own_table(session, HELD)?;
            self.own_table(session, RUNS)
        })?;
        alone(&mut session, self.leg.config, &format!("pg2ch init {}", source.name), |session| {
            self.index(session, &source)
        })?;
        self.topics()?;
        let comment = table_comment(&mut session, source.oid, &source.name)?;
        self.target(&source, comment.as_deref())?;
        start.map_or(Ok(()), |at| self.start_at(at))
    }

    /// Tells a step; whether it is to be carried out.
    fn step(&mut self, place: Place, lines: &str) -> bool {
        self.script.add(place, &self.leg.table.source, lines);
        !self.print
    }

    /// Tells a statement; whether it is to be carried out.
    fn statement(&mut self, place: Place, statement: &str) -> bool {
        self.step(place, &format!("{statement};"))
    }

    /// The source; with `print` one that still lacks its flag, too. Only a person knows what the flag of the rows is to be
    /// that are there already, so init itself does not add it.
    fn source(&mut self, session: &mut Session) -> Result<SourceTable> {
        if !self.print {
            return SourceTable::find(session, self.leg.table);
        }
        let (source, has_flag) = SourceTable::find_without_flag(session, self.leg.table)?;
        if !has_flag {
            self.step(Place::Postgres, &add_flag(&source.name, &source.flag));
        }
        Ok(source)
    }

    fn own_table(&mut self, session: &mut Session, name: &str) -> Result<()> {
        let what = format!("cannot create the table {name}");
        let statement = own_table_statements(name);
        if is_present(session, name)? {
            return Ok(());
        }
        if let Some(NoSchema { what: why, fix }) = no_schema(session)? {
            return Err(Error::config(what, why, format!("run this, and try again: {}", fix.replace('\n', " "))));
        }
        if self.statement(Place::Postgres, statement) {
            session.require_writable()?;
            session.execute_batch(&what, statement)?;
        }
        Ok(())
    }

    /// Without the partial index every batch reads the whole table.
    fn index(&mut self, session: &mut Session, source: &SourceTable) -> Result<()> {
        for left in invalid_indexes(session, source)? {
            if self.statement(Place::Postgres, &left) {
                drop_index(session, source, &left)?;
            }
        }
        let statement = match UnsentIndex::find(session, source)? {
            UnsentIndex::Fit => return Ok(()),
            UnsentIndex::Wide(statement) | UnsentIndex::Missing(statement) => statement,
        };
        if self.statement(Place::Postgres, &statement) {
            session.require_writable()?;
            build_index(session, source, &statement).map_err(|error| match error.exit_code() {
                ExitCode::Permission => Error::new(
                    ExitCode::Permission,
                    error.what(),
                    error.why(),
                    format!("let the table's owner execute `{statement}`, then run `pg2ch init` again"),
                ),
                _ => error,
            })?;
        }
        Ok(())
    }

    fn topics(&mut self) -> Result<()> {
        let admin = Admin::new(self.leg.config, self.leg.watchdog)?;
        let mut missing = Vec::new();
        for (topic, settings) in
            [(self.leg.table.topic.clone(), &[][..]), (self.leg.table.dead_letter_topic(), admin::KEPT)]
        {
            let mut log = KafkaLog::new(self.leg.config, &topic, &self.leg.table.group, self.leg.watchdog)?;
            match log.partitions() {
                Ok(_) => {}
                // A topic that may not be described may not be there either.
                Err(error) if is_unknown_topic(&error) || refusal(&error).is_some() => missing.push((topic, settings)),
                Err(error) => return Err(error),
            }
        }
        let brokers = &self.leg.config.kafka.brokers;
        let command =
            |(topic, settings): &(String, &[_])| admin::create_command(brokers, " --if-not-exists", topic, settings);
        let commands: Vec<String> = missing.iter().map(command).collect();
        if admin.is_none() && !self.print && !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|(topic, _)| topic.as_str()).collect();
            return Err(Error::config(
                format!("cannot create topic {}", names.join(" and ")),
                "librdkafka's client for this cannot log in with OAUTHBEARER",
                format!("run `{}`, then `pg2ch init` again: it creates the rest", commands.join(" && ")),
            ));
        }
        for ((topic, settings), command) in missing.iter().zip(&commands) {
            if self.step(Place::Kafka, command)
                && let Some(admin) = &admin
            {
                admin.create_topic(topic, settings)?;
            }
        }
        Ok(())
    }

    fn target(&mut self, source: &SourceTable, comment: Option<&str>) -> Result<()> {
        let what = format!("cannot create the target {}", self.leg.table.target);
        let http = Http::new(self.leg.config)?.pinning_newest();
        let name = &self.leg.table.target;
        let sql = format!(
            "SELECT (SELECT count() FROM system.databases WHERE name = {database}), \
             (SELECT count() FROM system.tables WHERE {}) FORMAT TabSeparated",
            is_about(name, "name"),
            database = text(&name.database),
        );
        let answer = http.query(&what, &sql, &[])?;
        let answer = String::from_utf8_lossy(&answer);
        let mut found = answer.trim().split('\t');
        let (database, table) = (found.next() == Some("1"), found.next() == Some("1"));
        let mut statements = Vec::new();
        if !database {
            statements.push(format!("CREATE DATABASE IF NOT EXISTS {}", quote(&name.database)));
        }
        if !table {
            if let Some(taken) = source.columns.iter().find_map(|column| taken(&self.leg.table.column_rules, column)) {
                return Err(Error::config(
                    what,
                    taken.what,
                    "choose another name in `rename`, give the other column one as well, or `ignore` it",
                ));
            }
            for Difference { effect, what: found, why, fix, .. } in
                nested_arrays(self.leg.table, &source.columns, &TargetDescription::default())
            {
                if effect == Effect::Stops {
                    let hint = format!("{}, and run `pg2ch init` again", fix.trim_start_matches("-- "));
                    return Err(Error::config(what, format!("{found}: {why}"), hint));
                }
                self.script.add_by_hand(Place::ClickHouse, &self.leg.table.source, &format!("{found}: {why}"), &fix);
            }
            statements.push(create_target(self.leg.table, source, comment));
        }
        for statement in statements {
            if self.statement(Place::ClickHouse, &statement) {
                http.query(&what, &statement, &[])?;
            }
        }
        if table { self.alter_target(&http, source, comment) } else { Ok(()) }
    }

    /// Adds what the target lacks; what would change, or take away, what is there is told, for a person to decide.
    fn alter_target(&mut self, http: &Http, source: &SourceTable, comment: Option<&str>) -> Result<()> {
        let cannot = format!("cannot alter the target {}", self.leg.table.target);
        let target = ClickHouseTarget::new(self.leg.config, self.leg.table)?.describe()?;
        let anew = |script: &mut Script, why: &str| {
            let statements = migration::statements(http, self.leg.table, source, comment, &target)?;
            script.add_by_hand(Place::ClickHouse, &self.leg.table.source, why, &statements);
            Ok(())
        };
        let is_view = is_refused_view(self.leg.table, &target.engine.name);
        let foreign = if is_view { None } else { migration::foreign(self.leg, &target)? };
        if let Some(why) = foreign {
            return anew(&mut self.script, &why);
        }
        let mut found = differences(self.leg.table, Some(&source.columns), &target);
        found.extend(storage::misfits(self.leg.table, &[], &target));
        for Difference { effect, what, why, fix, remedy, .. } in found {
            let why = format!("{what}: {why}");
            match remedy {
                Remedy::Addition => {
                    let statement = fix.trim_end_matches(';');
                    if self.statement(Place::ClickHouse, statement) {
                        http.query(&cannot, statement, &[])?;
                    }
                }
                _ if effect >= Effect::Weaker => {}
                Remedy::NewEngine | Remedy::NewColumn => anew(&mut self.script, &why)?,
                Remedy::ByHand => self.script.add_by_hand(Place::ClickHouse, &self.leg.table.source, &why, &fix),
            }
        }
        Ok(())
    }

    /// Moves the offsets to the beginning or the end of the topic, the checkpoint to its end, under the lock and through the
    /// fences, as a run would.
    fn start_at(&mut self, at: StartAt) -> Result<()> {
        let (config, table) = (self.leg.config, self.leg.table);
        let step = match at {
            StartAt::Beginning => {
                format!("# the offsets of {} move to the beginning of topic {}", table.source, table.topic)
            }
            StartAt::End => {
                format!("# the checkpoint and the offsets of {} move to the end of topic {}", table.source, table.topic)
            }
        };
        if !self.step(Place::Own, &step) {
            return Ok(());
        }
        let leg = self.leg;
        let Some(mut ledger) = open_ledger(leg, None)? else { return Ok(()) };
        let mut log = KafkaLog::new(config, &table.topic, &table.group, leg.watchdog)?;
        ledger.take_epoch()?;
        open_writer(leg, &ledger)?.fence()?;
        let mut fence = open_fence(leg, &log)?;
        fence.fence()?;
        let written = log.ends(End::Written)?;
        let ends = wait_until_stable(&mut log, &written, config.timeouts.stable, leg.shutdown)?;
        let mut target = ClickHouseTarget::new(config, table)?;
        let description = target.describe()?;
        let known = match at {
            // A restored target has some of the records already: only it can tell which.
            StartAt::Beginning => {
                let has = |name: &str| description.columns.iter().any(|column| column.name == name);
                let has_positions = POSITION_COLUMNS.into_iter().all(has);
                let highest = if has_positions { target.highest()? } else { BTreeMap::new() };
                known_at(&log.starts()?, &ends, &highest)
            }
            StartAt::End => {
                let floor = ledger.checkpoint()?.timestamp_floor;
                ledger.move_checkpoint(&Checkpoint { offsets: ends.clone(), timestamp_floor: floor })?;
                known_at(&ends, &ends, &BTreeMap::new())
            }
        };
        let context = Context { group: &table.group, topic: &table.topic, target: &description.identity };
        let mut committer = Committer::new(fence, context, known, consume::now);
        committer.refresh();
        committer.flush()
    }
}

/// Does `work` while no other `pg2ch init` does the same: two CREATE … IF NOT EXISTS at once fail each other, and two indexes
/// would be made. The lock is tried, not waited for: CREATE INDEX CONCURRENTLY waits for every waiting session.
fn alone(
    session: &mut Session,
    config: &Config,
    lock: &str,
    work: impl FnOnce(&mut Session) -> Result<()>,
) -> Result<()> {
    const WHAT: &str = "cannot take the lock of `pg2ch init`";
    let begun = Instant::now();
    let try_lock = "SELECT 1 WHERE pg_catalog.pg_try_advisory_lock(pg_catalog.hashtextextended($1, 0))";
    while session.query_opt(WHAT, try_lock, &[&lock])?.is_none() {
        if begun.elapsed() >= config.timeouts.postgres {
            return Err(Error::new(
                ExitCode::Locked,
                WHAT,
                "another `pg2ch init` holds it, perhaps while it builds an index",
                "wait until it finishes, then run `pg2ch init` again",
            ));
        }
        std::thread::sleep(RETRY);
    }
    work(session)?;
    // After a failure the lock ends with the session.
    session.query(WHAT, "SELECT pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended($1, 0))", &[&lock]).map(drop)
}

/// Copying begins at these offsets. The target is to be asked for what lies between them and the `ends`, if it holds some of it.
fn known_at(from: &Offsets, ends: &Offsets, highest: &BTreeMap<i32, i64>) -> BTreeMap<i32, Known> {
    let known = |(&partition, &next): (&i32, &NextOffset)| {
        let holds_some = highest.get(&partition).is_some_and(|highest| *highest >= next);
        let ask_below = if holds_some { ends.get(&partition).copied().unwrap_or_default() } else { 0 };
        (partition, Known { next, position: Position { begun: next, ask_below, ..Position::default() } })
    };
    from.iter().map(known).collect()
}

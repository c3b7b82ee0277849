//! `pg2ch init`: creates what a run needs and is not there, or prints it.
//!
//! Every step may be repeated: what exists is left as it is.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Instant;

use crate::batch::Offsets;
use crate::clickhouse::{ClickHouseTarget, Http, Target, quote, text};
use crate::config::{Config, TableConfig};
use crate::consume::position::Context;
use crate::consume::{self, Committer, Known};
use crate::error::Result;
use crate::kafka::admin::Admin;
use crate::kafka::{End, Fence, KafkaLog, TopicLog};
use crate::limits::Limits;
use crate::postgres::{Checkpoint, Ledger, Session, SourceTable, connect, quote as quote_sql};
use crate::produce::{self, Surroundings, wait_until_stable};
use crate::shutdown::Shutdown;
use crate::type_map::target_type;
use crate::watchdog::Watchdog;

/// The table that tells up to where records are flagged.
pub const CHECKPOINT_TABLE: &str = "CREATE TABLE IF NOT EXISTS pg2ch_checkpoint (
    source          text        NOT NULL,
    topic           text        NOT NULL,
    partition       integer     NOT NULL,
    next_offset     bigint      NOT NULL,
    epoch           bigint      NOT NULL,
    timestamp_floor bigint      NOT NULL DEFAULT 0,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, topic, partition)
)";

/// Creates what is missing for every table; with `print`, tells what would be done instead. With `start_at_end`, what the
/// topics hold today counts as flagged and copied.
///
/// # Errors
/// The servers', sorted by exit code.
pub fn run(config: &Config, print: bool, start_at_end: bool) -> Result<String> {
    let mut told = String::new();
    for table in &config.tables {
        Init { config, table, print, told: &mut told, watchdog: Watchdog::default() }.run(start_at_end)?;
    }
    Ok(told)
}

struct Init<'a> {
    config: &'a Config,
    table: &'a TableConfig,
    print: bool,
    told: &'a mut String,
    watchdog: Watchdog,
}

impl Init<'_> {
    fn run(&mut self, start_at_end: bool) -> Result<()> {
        let mut session = connect(self.config, "init", &self.watchdog)?;
        let source = SourceTable::find(&mut session, self.table)?;
        self.checkpoint_table(&mut session)?;
        self.index(&mut session, &source)?;
        self.topics()?;
        self.target(&source)?;
        if start_at_end {
            self.start_at_end()?;
        }
        Ok(())
    }

    /// Tells a step; whether it is to be carried out.
    fn step(&mut self, statement: &str) -> bool {
        // A string takes everything.
        let _ = writeln!(self.told, "{statement};");
        !self.print
    }

    fn checkpoint_table(&mut self, session: &mut Session) -> Result<()> {
        const WHAT: &str = "cannot create the checkpoint table";
        let found = session.query_opt(WHAT, "SELECT 1 WHERE to_regclass('pg2ch_checkpoint') IS NOT NULL", &[])?;
        if found.is_none() && self.step(CHECKPOINT_TABLE) {
            session.execute_batch(WHAT, CHECKPOINT_TABLE)?;
        }
        Ok(())
    }

    /// Without the partial index every batch reads the whole table.
    fn index(&mut self, session: &mut Session, source: &SourceTable) -> Result<()> {
        if has_index(session, source)? {
            return Ok(());
        }
        let statement = index_statement(source);
        if self.step(&statement) {
            session.execute_batch(&format!("cannot create the index of unsent rows of {}", source.name), &statement)?;
        }
        Ok(())
    }

    fn topics(&mut self) -> Result<()> {
        let admin = Admin::new(self.config)?;
        for topic in [self.table.topic.clone(), self.table.dead_letter_topic()] {
            let exists = match KafkaLog::new(self.config, &topic, &self.table.group)?.partitions() {
                Ok(_) => true,
                Err(error) if error.is_transient() => return Err(error),
                Err(_) => false,
            };
            if !exists && self.step(&format!("kafka-topics.sh --create --topic {topic}")) {
                admin.create_topic(&topic, &[])?;
            }
        }
        Ok(())
    }

    fn target(&mut self, source: &SourceTable) -> Result<()> {
        let what = format!("cannot create the target {}", self.table.target);
        let http = Http::new(self.config)?;
        let name = &self.table.target;
        let sql = format!(
            "SELECT (SELECT count() FROM system.databases WHERE name = {database}), \
             (SELECT count() FROM system.tables WHERE database = {database} AND name = {table}) FORMAT TabSeparated",
            database = text(&name.database),
            table = text(&name.table)
        );
        let answer = http.ask(&what, &sql, &[])?;
        let answer = String::from_utf8_lossy(&answer);
        let mut found = answer.trim().split('\t');
        let (database, table) = (found.next() == Some("1"), found.next() == Some("1"));
        let mut statements = Vec::new();
        if !database {
            statements.push(format!("CREATE DATABASE IF NOT EXISTS {}", quote(&name.database)));
        }
        if !table {
            statements.push(create_target(self.table, source));
        }
        for statement in statements {
            if self.step(&statement) {
                http.ask(&what, &statement, &[])?;
            }
        }
        Ok(())
    }

    /// Moves checkpoint and offsets to the end of the topic, under the lock and through the fences, as a run would.
    fn start_at_end(&mut self) -> Result<()> {
        let (config, table) = (self.config, self.table);
        if !self
            .step(&format!("-- checkpoint and offsets of {} move to the end of topic {}", table.source, table.topic))
        {
            return Ok(());
        }
        let (limits, shutdown) = (Limits::default(), Shutdown::default());
        let around = Surroundings {
            config,
            table,
            limits,
            started: Instant::now(),
            shutdown: &shutdown,
            watchdog: &self.watchdog,
        };
        let Some(mut ledger) = produce::open_ledger(&around)? else { return Ok(()) };
        let mut log = KafkaLog::new(config, &table.topic, &table.group)?;
        ledger.take_epoch()?;
        produce::open_writer(&around, &ledger)?.fence()?;
        let mut fence = consume::open_fence(&around, &log)?;
        fence.fence()?;
        let written = log.ends(End::Written)?;
        let ends = wait_until_stable(&mut log, &written, config.timeouts.stable, &shutdown)?;
        let floor = ledger.checkpoint()?.timestamp_floor;
        ledger.move_checkpoint(&Checkpoint { offsets: ends.clone(), timestamp_floor: floor })?;
        let target = ClickHouseTarget::new(config, &table.target)?.describe()?;
        let context = Context { group: &table.group, topic: &table.topic, target: &target.identity };
        let mut committer = Committer::new(fence, context, known_at(&ends), consume::now);
        committer.refresh();
        committer.flush()
    }
}

/// Whether the source has a partial index of its unsent rows.
///
/// # Errors
/// PostgreSQL's.
pub fn has_index(session: &mut Session, source: &SourceTable) -> Result<bool> {
    let found = session.query_opt(
        &format!("cannot look up the index of unsent rows of {}", source.name),
        "SELECT 1 FROM pg_catalog.pg_index WHERE indrelid = $1 AND indisvalid
         AND pg_catalog.pg_get_expr(indpred, indrelid) = format('(NOT %s)', $2::text)",
        &[&source.oid, &unquoted_if_plain(&source.flag)],
    )?;
    Ok(found.is_some())
}

/// The statement that makes it.
#[must_use]
pub fn index_statement(source: &SourceTable) -> String {
    let columns: Vec<_> = source.key.iter().map(|column| quote_sql(&column.name)).collect();
    // A partitioned table's index cannot be built beside its writers.
    let concurrently = if source.is_partitioned { "" } else { "CONCURRENTLY " };
    format!("CREATE INDEX {concurrently}ON {} ({}) WHERE NOT {}", source.name, columns.join(", "), source.flag_sql())
}

fn known_at(ends: &Offsets) -> BTreeMap<i32, Known> {
    ends.iter().map(|(&partition, &next)| (partition, Known { next, ..Known::default() })).collect()
}

/// `pg_get_expr` quotes a name only where it must.
fn unquoted_if_plain(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain { name.to_owned() } else { quote_sql(name) }
}

/// The target that takes every value of the source whole.
#[must_use]
pub fn create_target(table: &TableConfig, source: &SourceTable) -> String {
    let column = |column: &crate::postgres::SourceColumn| {
        let comment = column.comment.as_ref().map_or_else(String::new, |c| format!(" COMMENT {}", text(c)));
        format!("    {} {}{comment},\n", quote(&column.name), target_type(column))
    };
    let columns: String = source.columns.iter().map(column).collect();
    let key: Vec<_> = source.key.iter().map(|column| quote(&column.name)).collect();
    format!(
        "CREATE TABLE IF NOT EXISTS {}.{} (\n{columns}    `_partition` Int32,\n    `_offset` Int64,\n    \
         `_timestamp` DateTime64(3, 'UTC'),\n    `_ingested_at` DateTime64(3, 'UTC') DEFAULT now64(3),\n    \
         INDEX `_position` (`_partition`, `_offset`) TYPE minmax GRANULARITY 1\n)\n\
         ENGINE = ReplacingMergeTree(`_timestamp`)\nORDER BY ({})\n\
         SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1",
        quote(&table.target.database),
        quote(&table.target.table),
        key.join(", "),
    )
}

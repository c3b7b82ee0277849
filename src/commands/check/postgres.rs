//! PostgreSQL: the server, the session, the table.

use super::finding::{Finding, Findings, Server};
use super::{Source, clock, grants, keep, source, storage, vacuum};
use crate::commands::init::{CHECKPOINT, HELD, NoSchema, is_present, no_schema, own_table_statements};
use crate::config::{Config, TableConfig};
use crate::data::Offsets;
use crate::error::Result;
use crate::ports::LegContext;
use crate::postgres::{
    Misplaced, OLDEST, POOLED, Session, connect, misplaced, misplaced_sql, name_sql, settled_offsets,
};

const CHECKPOINT_WHAT: &str = "cannot look up the checkpoint table";

/// What PostgreSQL's part of the check found.
pub struct Checked {
    pub version: String,
    pub findings: Vec<Finding>,
    /// The source, if it is fit.
    pub source: Option<Source>,
    /// What other sources feed that are not in this configuration.
    pub fed: Vec<Fed>,
    /// The checkpoint.
    pub settled: Offsets,
}

/// A source, its topic, and a partition of that.
pub type Fed = (String, String, i32);

/// Checks the server and the source table.
pub fn check(leg: &LegContext<'_>) -> Result<Checked> {
    let (config, table) = (leg.config, leg.table);
    let mut findings = Findings::new(Server::PostgreSQL);
    let mut session = match connect(config, "check", leg.watchdog) {
        Err(error) if error.why() == POOLED => {
            // Nothing else is asked: what a session sets would be left behind in those of others.
            let why = "the lock between two runs, and a session's settings, end with each transaction there";
            findings.error("transaction-pooling", POOLED, why, error.hint());
            return Ok(Checked {
                version: "behind a pooler".into(),
                findings: findings.into_list(),
                source: None,
                fed: Vec::new(),
                settled: Offsets::new(),
            });
        }
        session => session?,
    };
    let version = server(&mut session, &mut findings)?;
    if config.postgres.max_replication_lag.is_some() {
        grants::replication(&mut session, &mut findings)?;
    }
    let mut fed = Vec::new();
    if let Some(NoSchema { what, fix }) = no_schema(&mut session)? {
        let why = "pg2ch's own tables are looked up there: no run starts without them";
        findings.error("search-path", what, why, fix);
    } else {
        fed = checkpoint(&mut session, config, table, &mut findings)?;
        grants::history(&mut session, &mut findings)?;
    }
    let mut source = None;
    if grants::schema(&mut session, table, &mut findings)? {
        let found = source::check(&mut session, config, table, &mut findings)?;
        if let Some(mut found) = found {
            let before = findings.len();
            grants::table(&mut session, &found, &mut findings)?;
            grants::condition(&mut session, table, &mut findings)?;
            // What is not granted, or a policy that hides rows, explains a refusal.
            if let Some(error) = found.refused.take().filter(|_| findings.len() == before) {
                return Err(error);
            }
            storage::check(&mut session, &found, &mut findings)?;
            vacuum::check(&mut session, &found, &mut findings)?;
            if let Some(source) = &found.source {
                keep::source(&mut session, table, &source.table, &mut findings)?;
            }
            source = found.source;
        }
    }
    let settled = settled_offsets(&mut session, &table.source, &table.topic)?;
    Ok(Checked { version, findings: findings.into_list(), source, fed, settled })
}

fn server(session: &mut Session, findings: &mut Findings) -> Result<String> {
    const WHAT: &str = "cannot query the server's version";
    let before = clock::now();
    let row = session.query_opt(
        WHAT,
        "SELECT pg_catalog.current_setting('server_version'), pg_catalog.current_setting('server_version_num')::int,
                pg_catalog.pg_is_in_recovery(), extract(epoch FROM pg_catalog.clock_timestamp())::float8,
                pg_catalog.current_setting('autovacuum') = 'on'",
        &[],
    )?;
    let after = clock::now();
    let Some(row) = row else { return Ok(String::new()) };
    let (version, number, is_standby, clock, vacuums): (String, i32, bool, f64, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
    if number < OLDEST {
        findings.error(
            "postgres-version",
            format!("the server is PostgreSQL {version}"),
            "pg2ch's statements need PostgreSQL 12 or later",
            "upgrade the server",
        );
    }
    if is_standby {
        findings.error(
            "standby",
            "the server is a standby",
            "rows cannot be flagged on it",
            "name the primary in [postgres] url",
        );
    } else {
        read_only(session, findings)?;
    }
    clock::compare(
        clock,
        before..=after,
        "records carry PostgreSQL's time, and brokers refuse times that are too far ahead of their own; the ages that `status` \
         and the metrics show are wrong by as much",
        findings,
    );
    if !vacuums {
        findings.warning(
            "autovacuum-off",
            "autovacuum is off",
            "every flagged row leaves a dead tuple, so the table and its indexes keep growing",
            "ALTER SYSTEM SET autovacuum = on;\nSELECT pg_reload_conf();",
        );
    }
    Ok(version)
}

/// A primary may still be set to refuse writes: for the role, the database, or the whole server.
fn read_only(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let fix = session.value::<String>(
        "cannot query whether the session may write",
        "SELECT CASE source
                WHEN 'user' THEN format('ALTER ROLE %I RESET %I;', current_user, name)
                WHEN 'database' THEN format('ALTER DATABASE %I RESET %I;', current_database(), name)
                WHEN 'database user' THEN format('ALTER ROLE %I IN DATABASE %I RESET %I;', current_user, current_database(), name)
                ELSE format(E'ALTER SYSTEM SET %I = off;\nSELECT pg_reload_conf();', name) END
         FROM pg_catalog.pg_settings WHERE name = 'default_transaction_read_only' AND setting = 'on'",
        &[],
    )?;
    if let Some(fix) = fix {
        findings.error(
            "read-only",
            "the session's transactions are read-only (default_transaction_read_only)",
            "rows cannot be flagged",
            // The statement itself must be allowed to write.
            format!("SET default_transaction_read_only = off;\n{fix}"),
        );
    }
    Ok(())
}

fn checkpoint(
    session: &mut Session,
    config: &Config,
    table: &TableConfig,
    findings: &mut Findings,
) -> Result<Vec<Fed>> {
    let create = |name| format!("{};", own_table_statements(name));
    if !is_present(session, HELD)? {
        let what = "the role's search path has no table pg2ch_held";
        let why = "it holds the rows that were sent and could not be flagged: no run starts without it";
        findings.error("held-missing", what, why, create(HELD));
    }
    let found =
        session.query_opt(CHECKPOINT_WHAT, "SELECT 1 WHERE to_regclass('pg2ch_checkpoint') IS NOT NULL", &[])?;
    if found.is_none() {
        let what = "the role's search path has no table pg2ch_checkpoint";
        let why = "after a crash, it shows which records were delivered and not flagged: no run starts without it";
        findings.error("checkpoint-missing", what, why, create(CHECKPOINT));
        return Ok(Vec::new());
    }
    if !is_present(session, CHECKPOINT)? {
        let what = "the table pg2ch_checkpoint is of an older version of pg2ch";
        let why = "no run starts until it has the columns of this version";
        findings.error("checkpoint-outdated", what, why, create(CHECKPOINT));
    }
    topic(session, config, table, findings)
}

/// Where the checkpoint table can be read, it shows whether source and topic belong together, and what else is fed.
fn topic(session: &mut Session, config: &Config, table: &TableConfig, findings: &mut Findings) -> Result<Vec<Fed>> {
    let readable = "SELECT 1 WHERE has_table_privilege('pg2ch_checkpoint', 'SELECT') AND NOT row_security_active('pg2ch_checkpoint')";
    if session.query_opt(CHECKPOINT_WHAT, readable, &[])?.is_none() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT name, source, topic FROM pg2ch_checkpoint, (SELECT {} AS name) AS named WHERE named.name IS NOT NULL \
         AND {}",
        name_sql("$2"),
        misplaced_sql("name", "$1")
    );
    let rows = session.query(CHECKPOINT_WHAT, &sql, &[&table.topic, &table.source])?;
    let source: &str = rows.first().map_or("", |row| row.get(0));
    if let Some(Misplaced { id, what, why, advice, statements }) =
        misplaced(source, &table.topic, rows.iter().map(|row| (row.get(1), row.get(2))))
    {
        findings.error(id, what, why, format!("-- {advice}:\n{statements}"));
    }
    let topics: Vec<&str> = config.tables.iter().map(|table| table.topic.as_str()).collect();
    let sql = format!(
        "SELECT source, topic, partition FROM pg2ch_checkpoint
         WHERE partition >= 0 AND next_offset > 0 AND topic <> ALL ($2) AND source <> {}",
        name_sql("$1")
    );
    let rows = session.query(CHECKPOINT_WHAT, &sql, &[&table.source, &topics])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

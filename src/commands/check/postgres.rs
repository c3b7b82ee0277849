//! PostgreSQL: the server, the session, the table.

use std::time::SystemTime;

use super::finding::{Finding, Findings, Server, Severity};
use super::{Source, grants, source, storage};
use crate::commands::init::CHECKPOINT_TABLE;
use crate::config::{Config, TableConfig};
use crate::error::Result;
use crate::postgres::{Session, connect};
use crate::watchdog::Watchdog;

/// The oldest version whose catalogue and statements are known to serve.
const OLDEST: i32 = 120_000;

/// Clocks that are further apart are worth a word.
const SKEW_SECONDS: f64 = 5.0;

/// What PostgreSQL's part of the check found.
pub struct Checked {
    /// The server's version.
    pub version: String,
    /// The findings.
    pub findings: Vec<Finding>,
    /// The source, if it is fit.
    pub source: Option<Source>,
}

/// Checks the server and the source table.
///
/// # Errors
/// PostgreSQL's.
pub fn check(config: &Config, table: &TableConfig, watchdog: &Watchdog) -> Result<Checked> {
    let mut session = connect(config, "check", watchdog)?;
    let mut findings = Findings::new(Server::PostgreSQL);
    let version = server(&mut session, &mut findings)?;
    pooling(&mut session, config, watchdog, &mut findings)?;
    checkpoint(&mut session, table, &mut findings)?;
    grants::history(&mut session, &mut findings)?;
    let mut source = None;
    if grants::schema(&mut session, table, &mut findings)? {
        let found = source::check(&mut session, table, &mut findings)?;
        if let Some(found) = found {
            grants::table(&mut session, &found, &mut findings)?;
            storage::check(&mut session, &found, &mut findings)?;
            source = found.source;
        }
    }
    Ok(Checked { version, findings: findings.into_list(), source })
}

fn server(session: &mut Session, findings: &mut Findings) -> Result<String> {
    const WHAT: &str = "cannot ask for the server's version";
    let before = seconds_now();
    let row = session.query_opt(
        WHAT,
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int, pg_catalog.pg_is_in_recovery(),
                extract(epoch FROM clock_timestamp())::float8, current_setting('autovacuum') = 'on'",
        &[],
    )?;
    let after = seconds_now();
    let Some(row) = row else { return Ok(String::new()) };
    let (version, number, is_standby, clock, vacuums): (String, i32, bool, f64, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
    if number < OLDEST {
        findings.add(
            Severity::Error,
            "postgres-version",
            format!("the server is PostgreSQL {version}"),
            "pg2ch's statements need PostgreSQL 12 or later",
            "upgrade the server",
        );
    }
    if is_standby {
        findings.add(
            Severity::Error,
            "standby",
            "the server is a standby",
            "rows cannot be flagged on it",
            "name the primary in [postgres] url",
        );
    }
    // Whatever the answer took lies between the two readings: only what lies outside is skew.
    let skew = if clock < before { clock - before } else { (clock - after).max(0.0) };
    if skew.abs() > SKEW_SECONDS {
        findings.add(
            Severity::Warning,
            "clock-skew",
            format!("the server's clock is {skew:.0} s away from this machine's"),
            "records carry PostgreSQL's time, and brokers refuse times that are too far ahead of their own; the ages that \
             `status` and the metrics show are wrong by as much",
            "timedatectl set-ntp true",
        );
    }
    if !vacuums {
        findings.add(
            Severity::Warning,
            "autovacuum-off",
            "autovacuum is off",
            "each flagged row leaves a dead version behind: the table, and the index of unsent rows, only grow",
            "ALTER SYSTEM SET autovacuum = on;\nSELECT pg_reload_conf();",
        );
    }
    Ok(version)
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Two sessions that are served by one server process at the same time share it between transactions.
fn pooling(session: &mut Session, config: &Config, watchdog: &Watchdog, findings: &mut Findings) -> Result<()> {
    let mut other = connect(config, "check", watchdog)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        ours.push(backend(session)?);
        theirs.push(backend(&mut other)?);
    }
    if is_pooled(&ours, &theirs) {
        findings.add(
            Severity::Error,
            "transaction-pooling",
            "a pooler gives one server process to several sessions in turn (transaction pooling)",
            "the lock that keeps two runs apart, and the settings of a session, do not outlive a transaction there",
            "connect to PostgreSQL itself in [postgres] url, or to a pool with pool_mode = session",
        );
    }
    Ok(())
}

fn backend(session: &mut Session) -> Result<i32> {
    let row = session.query_opt("cannot ask for the server process", "SELECT pg_catalog.pg_backend_pid()", &[])?;
    Ok(row.map_or(0, |row| row.get(0)))
}

/// A session of its own keeps one process, which no other session has.
fn is_pooled(ours: &[i32], theirs: &[i32]) -> bool {
    ours.iter().any(|pid| theirs.contains(pid)) || ours.windows(2).any(|pids| pids[0] != pids[1])
}

fn checkpoint(session: &mut Session, table: &TableConfig, findings: &mut Findings) -> Result<()> {
    const WHAT: &str = "cannot look up the checkpoint table";
    let found = session.query_opt(WHAT, "SELECT 1 WHERE to_regclass('pg2ch_checkpoint') IS NOT NULL", &[])?;
    if found.is_none() {
        findings.add(
            Severity::Error,
            "checkpoint-missing",
            "there is no table pg2ch_checkpoint in the role's search path",
            "it tells, after a crash, which records were delivered and not flagged: no run begins without it",
            format!("{CHECKPOINT_TABLE};"),
        );
        return Ok(());
    }
    let readable = session.query_opt(WHAT, "SELECT 1 WHERE has_table_privilege('pg2ch_checkpoint', 'SELECT')", &[])?;
    if readable.is_none() {
        return Ok(());
    }
    let other = session.query_opt(
        WHAT,
        "SELECT source, format('DELETE FROM pg2ch_checkpoint WHERE topic = %L AND source = %L;', topic, source)
         FROM pg2ch_checkpoint WHERE topic = $1 AND source <> $2 LIMIT 1",
        &[&table.topic, &table.source],
    )?;
    if let Some(row) = other {
        let (source, fix): (String, String) = (row.get(0), row.get(1));
        findings.add(
            Severity::Error,
            "topic-shared",
            format!("topic {} is fed by {source} already", table.topic),
            "what recovery finds in a topic must be of one source",
            format!("-- give each source a topic of its own; if {source} has moved away for good:\n{fix}"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_share_a_server_process_are_pooled() {
        assert!(is_pooled(&[7, 7, 7], &[7, 7, 7]), "one process for both");
        assert!(is_pooled(&[7, 8, 7], &[9, 9, 9]), "a process that changes");
        assert!(!is_pooled(&[7, 7, 7], &[8, 8, 8]));
    }
}

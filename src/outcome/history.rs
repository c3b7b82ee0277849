//! What the last runs did, kept in PostgreSQL for `pg2ch status`.
//!
//! It is written after a run has ended, with the lock given back, and never makes a run fail: without the table, the
//! privilege or the server there is no history.

use std::time::Duration;

use crate::config::Config;
use crate::error::{Error, ExitCode, Result};
use crate::postgres::{Session, connect, name_sql};
use crate::report::{Legs, RunReport, TableReport};
use crate::run_id::RunId;
use crate::threads::beside;
use crate::threads::watchdog::Watchdog;

/// The longest that a run waits for its history to be written.
const LIMIT: Duration = Duration::from_secs(2);

/// How many runs are kept for each source, besides the last ones.
const KEPT: i64 = 100;

/// One row of the history.
struct Entry {
    source: String,
    topic: String,
    legs: &'static str,
    seconds: f64,
    exit_code: i32,
    complete: bool,
    all_sent: bool,
    /// Records sent, rows flagged, records copied, inserts, dead letters.
    counts: [i64; 5],
    error: Option<String>,
}

impl Entry {
    fn of(legs: Legs, table: &TableReport) -> Self {
        let (produce, consume) = (table.produce.as_ref(), table.consume.as_ref());
        let produced = |count: fn(&crate::report::ProduceReport) -> u64| produce.map_or(0, count) as i64;
        let consumed = |count: fn(&crate::report::ConsumeReport) -> u64| consume.map_or(0, count) as i64;
        Self {
            source: table.source.clone(),
            topic: table.topic.clone(),
            legs: match legs {
                Legs::Both => "both",
                Legs::Produce => "produce",
                Legs::Consume => "consume",
            },
            seconds: table.seconds,
            exit_code: table.exit_code().code().into(),
            complete: table.is_complete(),
            all_sent: table.error.is_none() && produce.is_some_and(|leg| leg.complete && leg.left_nothing()),
            counts: [
                produced(|leg| leg.records_sent),
                produced(|leg| leg.rows_flagged + leg.rows_recovered),
                consumed(|leg| leg.records_copied),
                consumed(|leg| leg.inserts),
                consumed(|leg| leg.dead_letters),
            ],
            error: table.error.as_ref().map(|error| format!("{}: {}", error.what(), error.why())),
        }
    }

    /// A run that found nothing to do is seen, but not kept.
    fn is_kept(&self) -> bool {
        self.exit_code != 0 || self.counts.iter().any(|&count| count > 0)
    }
}

/// Writes down what a run did to each table, through a `session` that the run has left, if there is one.
pub fn record(config: &Config, legs: Legs, report: &RunReport, session: Option<Session>) {
    // A run that another one has locked out says nothing about the table.
    let told = report.tables.iter().filter(|table| table.exit_code() != ExitCode::Locked);
    let entries: Vec<Entry> = told.map(|table| Entry::of(legs, table)).collect();
    if entries.is_empty() {
        return;
    }
    let mut config = config.clone();
    config.timeouts.connect = config.timeouts.connect.min(LIMIT / 2);
    let late =
        || Some(Error::unavailable("cannot record the run in the history", "no answer in time", "see pg2ch check"));
    let written = beside("history", LIMIT, late, move || {
        let session = session.map_or_else(|| connect(&config, "history", &Watchdog::of_nobody()), Ok)?;
        write(session, &entries)
    });
    if let Err(error) = written {
        log::debug!("the run is not in the history: {error}");
    }
}

fn write(mut session: Session, entries: &[Entry]) -> Result<()> {
    const WHAT: &str = "cannot record the run in the history";
    if session.query_opt(WHAT, "SELECT 1 WHERE to_regclass('pg2ch_runs') IS NOT NULL", &[])?.is_none() {
        return Ok(());
    }
    session
        .execute_batch(WHAT, "SET synchronous_commit = off; SET lock_timeout = '1s'; SET statement_timeout = '2s'")?;
    for entry in entries {
        insert(&mut session, entry, true)?;
        if entry.is_kept() {
            insert(&mut session, entry, false)?;
            prune(&mut session, entry)?;
        }
    }
    Ok(())
}

fn insert(session: &mut Session, entry: &Entry, last_seen: bool) -> Result<()> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let run_by = format!("{}:{} run {}", host.trim(), std::process::id(), RunId::current());
    let [sent, flagged, copied, inserts, dead] = &entry.counts;
    session.call("cannot record the run in the history", |client| {
        client.execute(
            &format!("INSERT INTO pg2ch_runs (source, topic, legs, last_seen, started_at, seconds, exit_code, complete, all_sent,
                records_sent, rows_flagged, records_copied, inserts, dead_letters, run_by, error)
             VALUES (coalesce({}, $1), $2, $3, $4, clock_timestamp() - make_interval(secs => $5), $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
             ON CONFLICT (source, topic, legs) WHERE last_seen DO UPDATE SET
                started_at = excluded.started_at, seconds = excluded.seconds, exit_code = excluded.exit_code,
                complete = excluded.complete, all_sent = excluded.all_sent, records_sent = excluded.records_sent,
                rows_flagged = excluded.rows_flagged, records_copied = excluded.records_copied, inserts = excluded.inserts,
                dead_letters = excluded.dead_letters, run_by = excluded.run_by, error = excluded.error", name_sql("$1")),
            &[
                &entry.source, &entry.topic, &entry.legs, &last_seen, &entry.seconds, &entry.exit_code, &entry.complete,
                &entry.all_sent, sent, flagged, copied, inserts, dead, &run_by, &entry.error,
            ],
        )
    })?;
    Ok(())
}

fn prune(session: &mut Session, entry: &Entry) -> Result<()> {
    let source = format!("coalesce({}, $1)", name_sql("$1"));
    session.call("cannot prune the history", |client| {
        client.execute(
            &format!(
            "DELETE FROM pg2ch_runs WHERE source = {source} AND topic = $2 AND NOT last_seen AND id <=
                (SELECT id FROM pg2ch_runs WHERE source = {source} AND topic = $2 AND NOT last_seen ORDER BY id DESC OFFSET $3 LIMIT 1)"),
            &[&entry.source, &entry.topic, &KEPT],
        )
    })?;
    Ok(())
}

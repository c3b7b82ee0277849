//! What the last runs did, kept in PostgreSQL for `pg2ch status`.
//!
//! It is written after a run has ended, in one message that gives the lock back, and never makes a run fail: without the table,
//! the privilege or the server there is no history, and the session's end gives the lock back.

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

const WHAT: &str = "cannot record the run in the history";

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
        let bigint = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let produced = |count: fn(&crate::report::ProduceReport) -> u64| bigint(produce.map_or(0, count));
        let consumed = |count: fn(&crate::report::ConsumeReport) -> u64| bigint(consume.map_or(0, count));
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

    /// One statement: what the last run did, the same among those that are kept, and the oldest of these deleted. A commit that
    /// is lost costs a line; nobody waits for a lock.
    fn write(&self, session: &mut Session) -> Result<()> {
        const COLUMNS: &str =
            "source, topic, legs, last_seen, started_at, seconds, exit_code, complete, all_sent, records_sent,
            rows_flagged, records_copied, inserts, dead_letters, run_by, error";
        const VALUES: &str =
            "name, $2, $3, seen, clock_timestamp() - make_interval(secs => $4), $4, $5, $6, $7, $8, $9, $10, $11,
            $12, $13, $14";
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let run_by = format!("{}:{} run {}", host.trim(), std::process::id(), RunId::current());
        let [sent, flagged, copied, inserts, dead] = &self.counts;
        let sql = format!(
            "WITH s AS MATERIALIZED (
                 SELECT coalesce({name}, $1) AS name, set_config('synchronous_commit', 'off', true),
                        set_config('lock_timeout', '1s', true), pg_advisory_unlock_all()),
             seen AS (
                 INSERT INTO pg2ch_runs ({COLUMNS}) SELECT {VALUES} FROM s, (VALUES (TRUE)) AS last (seen)
                 ON CONFLICT (source, topic, legs) WHERE last_seen DO UPDATE SET
                    started_at = excluded.started_at, seconds = excluded.seconds, exit_code = excluded.exit_code,
                    complete = excluded.complete, all_sent = excluded.all_sent, records_sent = excluded.records_sent,
                    rows_flagged = excluded.rows_flagged, records_copied = excluded.records_copied,
                    inserts = excluded.inserts, dead_letters = excluded.dead_letters, run_by = excluded.run_by,
                    error = excluded.error),
             kept AS (
                 INSERT INTO pg2ch_runs ({COLUMNS}) SELECT {VALUES} FROM s, (VALUES (FALSE)) AS last (seen) WHERE $15
                 RETURNING 1)
             DELETE FROM pg2ch_runs AS r USING s
             WHERE EXISTS (SELECT FROM kept) AND r.source = s.name AND r.topic = $2 AND NOT r.last_seen AND r.id <=
                 (SELECT o.id FROM pg2ch_runs AS o
                  WHERE o.source = s.name AND o.topic = $2 AND NOT o.last_seen ORDER BY o.id DESC OFFSET {older} LIMIT 1)",
            name = name_sql("$1"),
            // The statement does not see the one that it adds.
            older = KEPT - 1,
        );
        let written = session.execute_if_there(
            WHAT,
            &sql,
            &[
                &self.source,
                &self.topic,
                &self.legs,
                &self.seconds,
                &self.exit_code,
                &self.complete,
                &self.all_sent,
                sent,
                flagged,
                copied,
                inserts,
                dead,
                &run_by,
                &self.error,
                &self.is_kept(),
            ],
        )?;
        if !written {
            log::debug!("{WHAT}: there is no table pg2ch_runs");
            session.execute_batch(WHAT, "SELECT pg_advisory_unlock_all()")?;
        }
        Ok(())
    }
}

/// Writes down what a run did to each table, through a `session` that the run has left, if there is one. It comes back without a
/// lock, unless it is broken.
pub fn record(config: &Config, legs: Legs, report: &RunReport, session: Option<Session>) -> Option<Session> {
    // A run that another one has locked out says nothing about the table.
    let told = report.tables.iter().filter(|table| table.exit_code() != ExitCode::Locked);
    let entries: Vec<Entry> = told.map(|table| Entry::of(legs, table)).collect();
    if entries.is_empty() {
        return session;
    }
    let mut config = config.clone();
    config.timeouts.connect = config.timeouts.connect.min(LIMIT / 2);
    let late = || Some(Error::unavailable(WHAT, "no answer in time", "see pg2ch check"));
    let written = beside("history", LIMIT, late, move || {
        let mut session = session.map_or_else(|| connect(&config, "history", &Watchdog::of_nobody()), Ok)?;
        entries.iter().try_for_each(|entry| entry.write(&mut session))?;
        Ok(session)
    });
    written.inspect_err(|error| log::debug!("the run is not in the history: {error}")).ok()
}

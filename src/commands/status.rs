//! `pg2ch status`: what waits to be moved, and what the last runs did. It takes no lock, so it works while a run works.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::{dead_letters, watched};
use crate::config::{Config, TableConfig};
use crate::error::{Error, ExitCode, Result};
use crate::outcome::backlog::Backlog;
use crate::ports::LegContext;
use crate::postgres::{Session, connect};
use crate::shutdown::Shutdown;
use crate::threads::watchdog::Watchdog;

/// How many of the last runs are told.
const RUNS: i64 = 10;

/// A run, as it was written down.
#[derive(Debug, Serialize)]
struct Run {
    started: String,
    seconds_ago: i64,
    seconds: f64,
    legs: String,
    exit_code: i32,
    complete: bool,
    records_sent: i64,
    rows_flagged: i64,
    records_copied: i64,
    inserts: i64,
    dead_letters: i64,
    run_by: String,
    error: Option<String>,
}

/// What is known about one table.
struct TableStatus {
    source: String,
    topic: String,
    target: String,
    backlog: Backlog,
    dead_letters: Option<u64>,
    last_seen: Vec<Run>,
    runs: Vec<Run>,
    /// No row that is unsent now has been there for longer: a run that began so long ago has sent all that there were.
    unsent_seconds_at_most: Option<i64>,
    failures: Vec<Error>,
}

/// Asks for every table; the text to print, and the exit code: 0, or that of the first server that could not be asked.
///
/// # Errors
/// 69 if a server accepts connections but does not answer.
pub fn run(config: &Config, json: bool) -> Result<(String, ExitCode)> {
    let mut tables = Vec::new();
    for table in &config.tables {
        let (config, table) = (config.clone(), table.clone());
        tables.push(watched(move |watchdog| Ok(ask(&config, &table, watchdog)))?);
    }
    let failures = tables.iter().flat_map(|table| &table.failures);
    let code = failures.map(Error::exit_code).fold(ExitCode::Done, ExitCode::graver);
    Ok((if json { as_json(&tables, code) } else { as_text(&tables) }, code))
}

fn ask(config: &Config, table: &TableConfig, watchdog: &Watchdog) -> TableStatus {
    let (backlog, mut failures) = Backlog::ask(config, table, watchdog);
    let shutdown = Shutdown::default();
    let leg = LegContext::of_command(config, table, &shutdown, watchdog);
    let pending = if failures.is_empty() { dead_letters::pending(&leg) } else { Ok(0) };
    let mut status = TableStatus {
        source: table.source.clone(),
        topic: table.topic.clone(),
        target: table.target.to_string(),
        dead_letters: None,
        last_seen: Vec::new(),
        runs: Vec::new(),
        unsent_seconds_at_most: None,
        backlog,
        failures: Vec::new(),
    };
    match pending {
        Ok(pending) => status.dead_letters = failures.is_empty().then_some(pending),
        Err(error) => failures.push(error),
    }
    // Without a history there is nothing to tell, and nothing wrong.
    if let Err(error) =
        connect(config, "status", watchdog).and_then(|mut session| history(&mut session, table, &mut status))
    {
        log::debug!("{error}");
    }
    status.failures = failures;
    status
}

fn history(session: &mut Session, table: &TableConfig, status: &mut TableStatus) -> Result<()> {
    const WHAT: &str = "cannot read what the last runs did";
    if session.query_opt(WHAT, "SELECT 1 WHERE to_regclass('pg2ch_runs') IS NOT NULL", &[])?.is_none() {
        return Ok(());
    }
    for (last_seen, runs) in [(true, &mut status.last_seen), (false, &mut status.runs)] {
        let rows = session.query(
            WHAT,
            "SELECT to_char(started_at, 'YYYY-MM-DD HH24:MI:SS\"Z\"'), extract(epoch FROM now() - started_at)::bigint, seconds,
                legs, exit_code, complete, records_sent, rows_flagged, records_copied, inserts, dead_letters, run_by, error
             FROM pg2ch_runs WHERE source = $1 AND topic = $2 AND last_seen = $3 ORDER BY started_at DESC, id DESC LIMIT $4",
            &[&table.source, &table.topic, &last_seen, &RUNS],
        )?;
        *runs = rows
            .iter()
            .map(|row| Run {
                started: row.get(0),
                seconds_ago: row.get(1),
                seconds: row.get(2),
                legs: row.get(3),
                exit_code: row.get(4),
                complete: row.get(5),
                records_sent: row.get(6),
                rows_flagged: row.get(7),
                records_copied: row.get(8),
                inserts: row.get(9),
                dead_letters: row.get(10),
                run_by: row.get(11),
                error: row.get(12),
            })
            .collect();
    }
    let row = session.query_opt(
        WHAT,
        "SELECT extract(epoch FROM now() - max(started_at))::bigint FROM pg2ch_runs WHERE source = $1 AND topic = $2 AND all_sent",
        &[&table.source, &table.topic],
    )?;
    status.unsent_seconds_at_most = row.and_then(|row| row.get(0));
    Ok(())
}

fn as_json(tables: &[TableStatus], code: ExitCode) -> String {
    let tables: Vec<_> = tables
        .iter()
        .map(|table| {
            serde_json::json!({
                "source": table.source,
                "topic": table.topic,
                "target": table.target,
                "unsent": table.backlog.unsent,
                "unsent_seconds_at_most": table.unsent_seconds_at_most,
                "partitions": table.backlog.partitions,
                "records_behind_at_most": table.backlog.behind(),
                "dead_letters_pending": table.dead_letters,
                "last_seen": table.last_seen,
                "runs": table.runs,
                "errors": table.failures,
            })
        })
        .collect();
    let document = serde_json::json!({ "exit_code": code.code(), "tables": tables });
    serde_json::to_string_pretty(&document).unwrap_or_default()
}

fn as_text(tables: &[TableStatus]) -> String {
    let mut text = String::new();
    for table in tables {
        // A string takes everything.
        let _ = tell(&mut text, table);
    }
    text
}

fn tell(text: &mut String, table: &TableStatus) -> std::fmt::Result {
    writeln!(text, "{} → {} → {}", table.source, table.topic, table.target)?;
    for failure in &table.failures {
        writeln!(text, "  not known: {}: {}\n    hint: {}", failure.what(), failure.why(), failure.hint())?;
    }
    writeln!(text, "  unsent rows       {}", unsent(table))?;
    let behind =
        table.backlog.behind().map_or_else(|| "not known".into(), |records| format!("at most {records} records"));
    writeln!(text, "  not copied yet    {behind}")?;
    for partition in table.backlog.partitions.iter().flatten().filter(|partition| partition.behind > 0) {
        let note = if partition.trusted { "" } else { " (no trusted offset: the target is asked what it holds)" };
        writeln!(
            text,
            "    partition {:<5} next {:>10}  end {:>10}  behind {:>8}{note}",
            partition.partition, partition.next, partition.end, partition.behind
        )?;
    }
    let dead = table.dead_letters.map_or_else(|| "not known".into(), |count| format!("{count} pending"));
    writeln!(text, "  dead letters      {dead}")?;
    for run in &table.last_seen {
        let end = if run.exit_code == 0 { "went well".into() } else { format!("ended with {}", run.exit_code) };
        writeln!(text, "  last run ({:<7}) {} ago, {end}, by {}", run.legs, duration(run.seconds_ago), run.run_by)?;
    }
    if table.runs.is_empty() {
        return writeln!(text, "  no run that moved something, or failed, is written down\n");
    }
    writeln!(text, "\n  started               seconds  legs     exit      sent   flagged    copied  inserts  dead")?;
    for run in &table.runs {
        writeln!(
            text,
            "  {:<20} {:>8.2}  {:<7} {:>5} {:>9} {:>9} {:>9} {:>8} {:>5}{}",
            run.started,
            run.seconds,
            run.legs,
            run.exit_code,
            run.records_sent,
            run.rows_flagged,
            run.records_copied,
            run.inserts,
            run.dead_letters,
            if run.complete { "" } else { "  more was left" }
        )?;
        if let Some(error) = &run.error {
            writeln!(text, "    {error}")?;
        }
    }
    writeln!(text)
}

/// There is no timestamp in a row: its age is told as far as it can be known.
fn unsent(table: &TableStatus) -> String {
    let Some(unsent) = &table.backlog.unsent else { return "not known".into() };
    let mut told = format!("{}{}", unsent.rows, if unsent.or_more { " or more" } else { "" });
    if let Some(key) = &unsent.lowest_key {
        told += &format!(", the lowest key is {key}");
        told += &match (unsent.seconds, table.unsent_seconds_at_most) {
            (Some(seconds), _) => format!(", committed {} ago", duration(seconds)),
            (None, Some(seconds)) => {
                format!(", waiting for {} at most (a run that began then has sent all)", duration(seconds))
            }
            (None, None) => ", for how long is not known".to_owned(),
        };
    }
    told
}

fn duration(seconds: i64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.max(0).unsigned_abs())).to_string()
}

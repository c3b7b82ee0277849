//! One run: every table, both legs, with retries for what may pass.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::config::{Config, TableConfig};
use crate::consume;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::logging;
use crate::postgres::{Ledger, SourceTable, connect, estimate_unsent};
use crate::produce::{self, Surroundings};
use crate::progress::Progress;
use crate::report::{ConsumeReport, ProduceReport, RunReport, TableReport};
use crate::retry::Backoff;
use crate::servers::{RealServers, Servers};
use crate::shutdown::Shutdown;
use crate::terminal;
use crate::threads::panic_text;
use crate::watchdog::{Overdue, Watchdog};

/// Which legs a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legs {
    /// Rows to Kafka, then records to ClickHouse.
    Both,
    /// Rows to Kafka only.
    Produce,
    /// Records to ClickHouse only.
    Consume,
}

/// How often the calls under way are looked at.
const WATCH: Duration = Duration::from_millis(250);

/// Moves every table, in order. One table's failure does not stop the others.
#[must_use]
pub fn run(config: &Config, legs: Legs, limits: &Limits, shutdown: &Shutdown) -> RunReport {
    let started = Instant::now();
    let mut report = RunReport::default();
    for table in &config.tables {
        report.tables.push(run_table(config, table, legs, limits, started, shutdown));
        if shutdown.is_asked() {
            break;
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    report
}

/// Moves one table on a thread of its own, which is left behind if a call in it exceeds its limit.
fn run_table(
    config: &Config,
    table: &TableConfig,
    legs: Legs,
    limits: &Limits,
    started: Instant,
    shutdown: &Shutdown,
) -> TableReport {
    let (watchdog, progress, begun) = (Watchdog::default(), Progress::default(), Instant::now());
    if terminal::is_watched() && legs != Legs::Consume {
        count_beside(config, table, &progress);
    }
    let (done, ended) = channel();
    let worker = {
        let (config, table, limits) = (config.clone(), table.clone(), *limits);
        let (shutdown, watchdog, progress) = (shutdown.clone(), watchdog.clone(), progress.clone());
        std::thread::Builder::new().name(table.source.clone()).spawn(move || {
            let around = Surroundings {
                config: &config,
                table: &table,
                limits,
                started,
                shutdown: &shutdown,
                watchdog: &watchdog,
                progress,
            };
            // The receiver is gone only if the main thread has given this one up.
            let _ = done.send(move_table(&around, &RealServers::new(&around), legs));
        })
    };
    let mut report = match worker {
        Ok(worker) => loop {
            match ended.recv_timeout(WATCH) {
                Ok(report) => break report,
                Err(RecvTimeoutError::Timeout) => {
                    if shutdown.takes_progress_request() {
                        logging::print_line(&progress.line(&table.source, begun.elapsed()));
                    }
                    terminal::show(&table.source, progress.bar(table, limits.max_rows));
                    if let Some(overdue) = watchdog.overdue() {
                        break failed(table, given_up(&overdue));
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let why = worker.join().err().map_or_else(|| "it vanished".into(), |panic| panic_text(&*panic));
                    break failed(table, Error::bug(format!("cannot move {}", table.source), why));
                }
            }
        },
        Err(error) => failed(table, Error::unavailable("cannot start a thread", error, "raise the limit on processes")),
    };
    terminal::show(&table.source, None);
    report.seconds = begun.elapsed().as_secs_f64();
    report
}

/// Counts the unsent rows for somebody who watches, on a connection of its own: the run does not wait for it.
fn count_beside(config: &Config, table: &TableConfig, progress: &Progress) {
    let (config, table, progress) = (config.clone(), table.clone(), progress.clone());
    let count = move || {
        let counted = connect(&config, "progress", &Watchdog::default()).and_then(|mut session| {
            let source = SourceTable::find(&mut session, &table)?;
            estimate_unsent(&mut session, &source)
        });
        match counted {
            Ok(unsent) => progress.expect_rows(unsent),
            // The run itself says what is wrong.
            Err(error) => log::debug!("{error}"),
        }
    };
    if let Err(error) = std::thread::Builder::new().name("progress".into()).spawn(count) {
        log::debug!("cannot count beside the run: {error}");
    }
}

fn given_up(overdue: &Overdue) -> Error {
    Error::unavailable(
        overdue.what.clone(),
        format!("no answer within {:?}", overdue.limit),
        "the server accepts connections but does not answer: look at its process, its disk and its locks; the next run \
         goes on from here",
    )
}

fn failed(table: &TableConfig, error: Error) -> TableReport {
    TableReport {
        source: table.source.clone(),
        topic: table.topic.clone(),
        target: table.target.to_string(),
        produce: None,
        consume: None,
        error: Some(error),
        seconds: 0.0,
    }
}

/// Moves one table, on the present thread and those of its stages.
#[must_use]
pub fn move_table(around: &Surroundings<'_>, servers: &impl Servers, legs: Legs) -> TableReport {
    let mut produce = (legs != Legs::Consume).then(ProduceReport::default);
    let mut consume = (legs != Legs::Produce).then(ConsumeReport::default);
    let error = move_legs(around, servers, produce.as_mut(), consume.as_mut()).err();
    let table = around.table;
    TableReport {
        source: table.source.clone(),
        topic: table.topic.clone(),
        target: table.target.to_string(),
        produce,
        consume,
        error,
        seconds: 0.0,
    }
}

fn move_legs(
    around: &Surroundings<'_>,
    servers: &impl Servers,
    produce: Option<&mut ProduceReport>,
    consume: Option<&mut ConsumeReport>,
) -> Result<()> {
    let mut delivered = crate::batch::Offsets::new();
    // The lock is kept until the second leg has ended: no other run may begin in between.
    let mut ledger = None;
    if let Some(report) = produce {
        let produced = with_retries(around, || {
            let mut opened = match ledger.take() {
                Some(opened) => opened,
                None => match servers.ledger()? {
                    Some(opened) => opened,
                    None => {
                        report.complete = false;
                        return Ok(());
                    }
                },
            };
            produce::run(around, servers, &mut opened, report)?;
            ledger = Some(opened);
            Ok(())
        });
        delivered.clone_from(&report.delivered);
        produced?;
    }
    let ended = match consume {
        None => Ok(()),
        Some(report) if around.shutdown.is_asked() => {
            report.complete = false;
            Ok(())
        }
        Some(report) => with_retries(around, || consume::run(around, servers, &delivered, report)),
    };
    if let Some(ledger) = &mut ledger {
        ledger.release();
    }
    ended
}

/// Tries a leg again when what was wrong may have passed. Each attempt begins with its recovery, so it goes on where the
/// last one stopped.
fn with_retries(around: &Surroundings<'_>, mut leg: impl FnMut() -> Result<()>) -> Result<()> {
    let mut backoff = Backoff::new(&around.config.retry);
    loop {
        let error = match leg() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let pause = if error.is_transient() { backoff.next() } else { None };
        let Some(pause) = pause else { return Err(error) };
        log::info!("{error}\ntrying again in {pause:?}");
        if around.shutdown.wait(pause) {
            return Err(error);
        }
    }
}

//! One run: every table, some of them at a time, both legs, with retries for what may pass.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use crate::config::{Config, TableConfig};
use crate::consume;
use crate::error::{Error, Result};
use crate::history;
use crate::left::Left;
use crate::limits::Limits;
use crate::logging;
use crate::postgres::{Ledger, Session, SourceTable, connect, estimate_unsent};
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

/// Moves every table, `config.jobs` of them at a time, begun in the configuration's order, and writes down what was done.
/// One table's failure does not stop the others.
#[must_use]
pub fn run(config: &Config, legs: Legs, limits: &Limits, shutdown: &Shutdown) -> RunReport {
    let job = Job { config, legs, limits: *limits, shutdown, started: Instant::now() };
    let (done, ended) = channel();
    let mut waiting = config.tables.iter().enumerate();
    let mut under_way: Vec<Mover<'_>> = Vec::new();
    let mut reports: Vec<Option<TableReport>> = config.tables.iter().map(|_| None).collect();
    let mut session = None;
    loop {
        while under_way.len() < config.jobs && !shutdown.is_asked() {
            let Some((place, table)) = waiting.next() else { break };
            match job.begin(place, table, &done) {
                Ok(mover) => under_way.push(mover),
                Err(error) => reports[place] = Some(failed(table, error)),
            }
        }
        if under_way.is_empty() {
            break;
        }
        match ended.recv_timeout(WATCH) {
            Ok((ended, left)) => {
                end(ended, &mut under_way, &mut reports);
                session = left.or(session);
            }
            Err(_) => {
                let is_asked = shutdown.takes_progress_request();
                under_way.iter().for_each(|mover| mover.show_progress(is_asked, limits.max_rows));
                let overdue: Vec<End> = under_way.iter().filter_map(Mover::given_up).collect();
                for ended in overdue {
                    end(ended, &mut under_way, &mut reports);
                }
            }
        }
    }
    let tables = config.tables.iter().zip(&reports);
    let not_begun = tables.filter(|(_, report)| report.is_none()).map(|(table, _)| table.source.clone()).collect();
    let report = RunReport {
        tables: reports.into_iter().flatten().collect(),
        not_begun,
        seconds: job.started.elapsed().as_secs_f64(),
    };
    history::record(config, legs, &report, session);
    report
}

/// What all tables of a run have in common.
struct Job<'a> {
    config: &'a Config,
    legs: Legs,
    limits: Limits,
    shutdown: &'a Shutdown,
    started: Instant,
}

/// A table's place in the configuration, and how it ended.
type End = (usize, TableReport);

/// What a table's thread hands over: its end, and a session that it no longer needs.
type Handed = (End, Option<Session>);

/// A table under way, on a thread of its own.
struct Mover<'a> {
    place: usize,
    table: &'a TableConfig,
    begun: Instant,
    watchdog: Watchdog,
    progress: Progress,
}

impl Job<'_> {
    fn begin<'t>(&self, place: usize, table: &'t TableConfig, done: &Sender<Handed>) -> Result<Mover<'t>> {
        let (watchdog, progress) = (Watchdog::default(), Progress::default());
        if terminal::is_watched() && self.legs != Legs::Consume {
            count_beside(self.config, table, &progress);
        }
        let thread = {
            let (config, moved, limits, legs) = (self.config.clone(), table.clone(), self.limits, self.legs);
            let (shutdown, watchdog, started) = (self.shutdown.clone(), watchdog.clone(), self.started);
            let (progress, done) = (progress.clone(), done.clone());
            std::thread::Builder::new().name(table.source.clone()).spawn(move || {
                let around = Surroundings {
                    config: &config,
                    table: &moved,
                    limits,
                    started,
                    shutdown: &shutdown,
                    watchdog: &watchdog,
                    progress,
                };
                let servers = RealServers::new(&around, legs);
                let report = catch_unwind(AssertUnwindSafe(|| move_table(&around, &servers, legs)));
                let report = report.unwrap_or_else(|panic| {
                    let error = Error::bug(format!("cannot move {}", moved.source), panic_text(&*panic));
                    failed(&moved, error)
                });
                // The receiver is gone only if the main thread has given this one up.
                let _ = done.send(((place, report), servers.into_session()));
            })
        };
        thread.map_err(|error| {
            Error::unavailable("cannot start a thread", error, "raise the limit on processes (ulimit -u)")
        })?;
        Ok(Mover { place, table, begun: Instant::now(), watchdog, progress })
    }
}

impl Mover<'_> {
    /// For whoever watches, and for whoever has asked.
    fn show_progress(&self, is_asked: bool, max_rows: Option<u64>) {
        if is_asked {
            logging::print_line(&self.progress.line(&self.table.source, self.begun.elapsed()));
        }
        terminal::show(&self.table.source, self.progress.bar(self.table, max_rows));
    }

    /// The end of a table in which a call exceeds its limit: its thread is left behind.
    fn given_up(&self) -> Option<End> {
        self.watchdog.overdue().map(|overdue| (self.place, failed(self.table, given_up(&overdue))))
    }
}

/// Takes a table's end down. One that was given up may still come to an end of its own, which no longer counts.
fn end((place, report): End, under_way: &mut Vec<Mover<'_>>, reports: &mut [Option<TableReport>]) {
    let Some(at) = under_way.iter().position(|mover| mover.place == place) else { return };
    let mover = under_way.remove(at);
    terminal::show(&mover.table.source, None);
    let seconds = mover.begun.elapsed().as_secs_f64();
    reports[place] = Some(TableReport { seconds, ..report });
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
        left: Left::default(),
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
        left: Left::default(),
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
        Some(report) => {
            let columns = ledger.as_ref().map(Ledger::source_columns).unwrap_or_default();
            let produced = consume::Produced { delivered: &delivered, columns };
            with_retries(around, || consume::run(around, servers, produced, report))
        }
    };
    if let Some(ledger) = ledger {
        servers.give_back(ledger);
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

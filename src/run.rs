//! One run: every table, some of them at a time, both legs, with retries for what may pass.

use std::iter::Enumerate;
use std::slice::Iter;
use std::time::Instant;

use crate::config::{Config, TableConfig};
use crate::error::{Error, Result};
use crate::legs::retry::Backoff;
use crate::legs::{consume, produce};
use crate::logging;
use crate::open::{RealServers, Warm};
use crate::outcome::{history, metrics};
use crate::ports::limits::Limits;
use crate::ports::progress::Progress;
use crate::ports::source::Ledger;
use crate::ports::{LegContext, Servers};
use crate::postgres::{SourceTable, blaming_condition, connect, estimate_unsent, forget_unpooled};
use crate::report::{ConsumeReport, Left, Legs, ProduceReport, RunReport, TableReport};
use crate::shutdown::Shutdown;
use crate::sync;
use crate::terminal;
use crate::threads::watchdog::{CHECK_EVERY, Watchdog, Watcher};
use crate::threads::{Job, Supervisor, at_a_time};

/// Moves every table, `config.jobs` of them at a time, begun in the configuration's order, and writes down what was done.
/// One table's failure does not stop the others. `warm` has what the last run of this process has left open of each table, and gets
/// what this one leaves; without it, a table's connections end with the table.
#[must_use]
pub fn run(
    config: &Config,
    legs: Legs,
    limits: &Limits,
    shutdown: &Shutdown,
    warm: Option<&mut Vec<Warm>>,
) -> RunReport {
    let (keeps, mut for_this_run) = (warm.is_some(), Vec::new());
    // Nobody has watched the address since the last run of this process.
    forget_unpooled();
    let warm = warm.unwrap_or(&mut for_this_run);
    warm.resize_with(config.tables.len(), Warm::default);
    let mut tables = Tables {
        config,
        legs,
        limits: *limits,
        shutdown,
        started: Instant::now(),
        waiting: config.tables.iter().enumerate(),
        reports: config.tables.iter().map(|_| None).collect(),
        keeps,
        warm,
        is_asked: false,
        marks: metrics::Marks::new(config),
    };
    at_a_time(config.jobs, CHECK_EVERY, &mut tables);
    let Tables { started, reports, warm, .. } = tables;
    let is_well = |report: &Option<TableReport>| report.as_ref().is_some_and(|report| report.error.is_none());
    let well: Vec<bool> = reports.iter().map(is_well).collect();
    let not_begun = config.tables.iter().zip(&reports).filter(|(_, report)| report.is_none());
    let not_begun = not_begun.map(|(table, _)| table.source.clone()).collect();
    let report = RunReport {
        tables: reports.into_iter().flatten().collect(),
        not_begun,
        seconds: started.elapsed().as_secs_f64(),
    };
    let lender = warm.iter().position(|one| one.session.is_some()).unwrap_or_default();
    if let Some(lender) = warm.get_mut(lender) {
        lender.session = history::record(config, legs, &report, lender.session.take());
    }
    // What a failed run leaves may be what has failed, such as a server that is no longer the primary.
    for (left, _) in warm.iter_mut().zip(well).filter(|(_, is_well)| !is_well) {
        *left = Warm::default();
    }
    report
}

/// The tables of a run: those that wait, and how the others ended.
struct Tables<'a> {
    config: &'a Config,
    legs: Legs,
    limits: Limits,
    shutdown: &'a Shutdown,
    started: Instant,
    waiting: Enumerate<Iter<'a, TableConfig>>,
    /// One for each table, in the configuration's order.
    reports: Vec<Option<TableReport>>,
    /// Whether what a table leaves open stays open for the next run.
    keeps: bool,
    /// One for each table, in the same order: empty while the table is under way.
    warm: &'a mut Vec<Warm>,
    /// Whether a signal has asked, since the last look, how far the run is.
    is_asked: bool,
    /// The figures that are written while tables are under way.
    marks: metrics::Marks,
}

/// A table under way, on a thread of its own.
struct TableJob<'a> {
    place: usize,
    table: &'a TableConfig,
    begun: Instant,
    watcher: Watcher,
    progress: Progress,
}

impl<'a> Supervisor for Tables<'a> {
    type Handle = TableJob<'a>;
    type Output = (TableReport, Warm);

    fn next(&mut self) -> Option<Job<TableJob<'a>, Self::Output>> {
        if self.shutdown.is_requested() {
            return None;
        }
        let (place, table) = self.waiting.next()?;
        let ((watchdog, watcher), progress) = (Watchdog::pair(), Progress::default());
        if terminal::is_watched() && self.legs != Legs::Consume {
            count_beside(self.config, table, &progress);
        }
        let (config, moved, limits, legs) = (self.config.clone(), table.clone(), self.limits, self.legs);
        let (shutdown, started, keeps) = (self.shutdown.clone(), self.started, self.keeps);
        let warm = std::mem::take(&mut self.warm[place]);
        let handle = TableJob { place, table, begun: Instant::now(), watcher, progress: progress.clone() };
        let work = Box::new(move || {
            let leg = LegContext {
                config: &config,
                table: &moved,
                limits,
                started,
                shutdown: &shutdown,
                watchdog: &watchdog,
                progress,
            };
            let servers = RealServers::new(&leg, legs, warm);
            let report = move_table(&leg, &servers, legs);
            let left = servers.into_warm();
            Ok((report, if keeps { left } else { left.only_session() }))
        });
        Some(Job { name: table.source.clone(), handle, work })
    }

    fn tick(&mut self) {
        self.is_asked = self.shutdown.takes_progress_request();
        self.marks.write();
    }

    fn check(&mut self, job: &TableJob<'a>) -> Option<Error> {
        job.show_progress(self.is_asked, self.limits.max_rows);
        self.marks.note(job.table, job.progress.last_step());
        job.watcher.overdue()
    }

    fn ended(&mut self, job: TableJob<'a>, end: Result<Self::Output>) {
        terminal::show(&job.table.source, None);
        let report = match end {
            Ok((report, left)) => {
                if !self.keeps {
                    // The history takes one session.
                    self.warm.fill_with(Warm::default);
                }
                self.warm[job.place] = left;
                report
            }
            Err(error) => failed(job.table, error),
        };
        let seconds = job.begun.elapsed().as_secs_f64();
        self.marks.ended(job.table, report.exit_code());
        self.reports[job.place] = Some(TableReport { seconds, ..report });
    }
}

impl TableJob<'_> {
    /// For the terminal, and in reply to a signal.
    fn show_progress(&self, is_asked: bool, max_rows: Option<u64>) {
        if is_asked {
            logging::print_line(&self.progress.line(&self.table.source, self.begun.elapsed()));
        }
        let waits = || self.watcher.waits_for().map(|what| format!("{}: {what}", self.table.source));
        terminal::show(
            &self.table.source,
            waits().or_else(|| self.progress.bar(self.table, max_rows, terminal::width())),
        );
    }
}

/// Counts the unsent rows for the terminal, on a connection of its own: the run does not wait for it.
fn count_beside(config: &Config, table: &TableConfig, progress: &Progress) {
    let (config, table, progress) = (config.clone(), table.clone(), progress.clone());
    let count = move || {
        let counted = connect(&config, "progress", &Watchdog::of_nobody()).and_then(|mut session| {
            let source = SourceTable::find(&mut session, &table)?;
            estimate_unsent(&mut session, &source)
        });
        match counted {
            Ok(unsent) => progress.expect_rows(unsent),
            // The run itself says what is wrong.
            Err(error) => log::debug!("{error}"),
        }
    };
    if let Err(error) = sync::spawn("progress", count) {
        log::debug!("cannot count beside the run: {error}");
    }
}

fn failed(table: &TableConfig, error: Error) -> TableReport {
    TableReport {
        source: table.source.clone(),
        topic: table.topic.clone(),
        target: table.target.to_string(),
        produce: None,
        consume: None,
        pruned: 0,
        error: Some(error),
        left: Left::default(),
        seconds: 0.0,
    }
}

/// Moves one table, on the present thread and those of its stages.
#[must_use]
pub fn move_table(leg: &LegContext<'_>, servers: &impl Servers, legs: Legs) -> TableReport {
    let mut produce = (legs != Legs::Consume).then(ProduceReport::default);
    let mut consume = (legs != Legs::Produce).then(ConsumeReport::default);
    let error = move_legs(leg, servers, produce.as_mut(), consume.as_mut()).err();
    let error = error.map(|error| blaming_condition(leg, error));
    let table = leg.table;
    TableReport {
        source: table.source.clone(),
        topic: table.topic.clone(),
        target: table.target.to_string(),
        produce,
        consume,
        pruned: 0,
        error,
        left: Left::default(),
        seconds: 0.0,
    }
}

fn move_legs(
    leg: &LegContext<'_>,
    servers: &impl Servers,
    produce: Option<&mut ProduceReport>,
    consume: Option<&mut ConsumeReport>,
) -> Result<()> {
    let (mut delivered, mut records) = (crate::data::Offsets::new(), 0);
    // The lock is kept until the second leg has ended: no other run may begin in between.
    let (mut ledger, mut later) = (None, None);
    if let Some(report) = produce {
        let produced = with_retries(leg, || {
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
            leg.progress.begin();
            later = produce::run(leg, servers, &mut opened, report)?;
            ledger = Some(opened);
            Ok(())
        });
        delivered.clone_from(&report.delivered);
        records = report.records_sent;
        produced?;
    }
    let columns = ledger.as_ref().map(|ledger| ledger.source_columns().to_vec()).unwrap_or_default();
    let types = ledger.as_ref().map(Ledger::record_types).unwrap_or_default();
    let (ended, ledger) = servers.keeping(ledger, later, || match consume {
        None => Ok(()),
        Some(report) if leg.shutdown.is_requested() => {
            report.complete = false;
            Ok(())
        }
        Some(report) => {
            leg.progress.begin();
            let produced = consume::Produced { delivered: &delivered, records, columns: &columns, types: &types };
            with_retries(leg, || consume::run(leg, servers, produced, report))
        }
    });
    if let Some(ledger) = ledger {
        servers.give_back(ledger);
    }
    ended
}

/// Tries a leg again when what was wrong may have passed. Each attempt begins with its recovery, so it goes on where the
/// last one stopped.
fn with_retries(leg: &LegContext<'_>, mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    let mut backoff = Backoff::new(&leg.config.retry);
    loop {
        let error = match attempt() {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        leg.progress.moved_at().into_iter().for_each(|at| backoff.moved(at));
        let pause = if error.is_transient() { backoff.after(&error) } else { None };
        let Some(pause) = pause else { return Err(error) };
        log::info!("{error}\ntrying again in {pause:?}");
        if leg.shutdown.wait(pause) {
            return Err(error);
        }
    }
}

//! `pg2ch prune`: deletes old flagged rows that the target provably holds.
//!
//! Equality is the proof: offsets say what was stored once, not what is there now. It takes no lock against runs. A row is
//! named by its version, so whatever changes it in between makes a version that the DELETE misses.

pub(super) mod fit;
pub mod pages;
mod report;
mod servers;

use std::time::{Duration, Instant};

pub use self::report::TableReport;
use self::servers::Servers;
use super::Frame;
use super::verify::patient;
use super::verify::waiting::Waiting;
use crate::clickhouse::ClickHouseTarget;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::fit::require_fit;
use crate::numbers::{grouped, whole};
use crate::ports::LegContext;
use crate::ports::limits::Limits;
use crate::ports::target::Target as _;
use crate::postgres::{PgOldRows, SourceTable, cannot_prune, connect, require_limit};
use crate::report::RunReport;
use crate::shutdown::Shutdown;

/// What the command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How old a row has to be.
    pub older_than: Duration,
    /// The column that says how old it is.
    pub by: String,
    /// How long ago its record has to have been read.
    pub held_for: Duration,
    /// Whether it is done, and not only shown.
    pub confirm: bool,
    /// Whether another column than the last one may be used.
    pub force: bool,
}

/// How many rows are looked at, at most, where `keep` asks for it at a run's end.
const AT_A_RUNS_END: u64 = 10 * pages::PAGE as u64;

/// Prunes what `keep` asks for, at a run's end: the tables whose second leg has come to its end.
pub fn keep(config: &Config, run: &mut RunReport, limits: &Limits, shutdown: &Shutdown) {
    let begun = Instant::now();
    for table in &config.tables {
        let Some(keep) = &table.removal.keep else { continue };
        let told = run.tables.iter_mut().find(|told| told.source == table.source);
        let Some(told) = told.filter(|told| told.consume.is_some() && told.is_complete()) else { continue };
        let passed = whole(run.seconds + begun.elapsed().as_secs_f64());
        let most = limits.max_seconds.map(|most| most.saturating_sub(passed));
        if shutdown.is_requested() || most == Some(0) {
            continue;
        }
        let limits = Limits { max_rows: Some(AT_A_RUNS_END), max_seconds: most, ..*limits };
        let options =
            Options { older_than: keep.age, by: keep.by.clone(), held_for: keep.held_for, confirm: true, force: false };
        let frame = Frame::new(config, &limits, shutdown.clone(), false);
        match frame.on(table, move |leg| prune(leg, &options)) {
            Ok(pruned) => {
                told.pruned = pruned.deleted;
                if pruned.rows >= AT_A_RUNS_END && pruned.deleted == 0 {
                    log::warn!(
                        "{}: `keep` looked at {} old rows, could delete none of them, and reaches no others: `pg2ch prune` shows why",
                        table.source,
                        grouped(pruned.rows)
                    );
                }
            }
            Err(error) => told.error = Some(error),
        }
    }
    run.seconds += begun.elapsed().as_secs_f64();
}

/// Prunes one table.
///
/// # Errors
/// 77 without the privilege, 78 if the tables do not prove what is deleted; the servers'.
pub fn prune(leg: &LegContext<'_>, options: &Options) -> Result<TableReport> {
    let begun = Instant::now();
    let patient = patient(leg.config);
    let mut session = connect(&patient, "prune", leg.watchdog)?;
    let table = SourceTable::find(&mut session, leg.table)?;
    let mut target = ClickHouseTarget::new(&patient, leg.table)?;
    let description = target.describe()?;
    require_fit(leg.table, &table.columns, &description)?;
    let (by, warning) = fit::require_source(&mut session, &table, &options.by)?;
    let (contents, other) = fit::require_target(leg.table, &table, &options.by, &mut target, &description)?;
    for fit::Warning { what, why, .. } in warning.iter().chain(&other) {
        log::warn!("{what}: {why}");
    }
    let mut report = TableReport::of(&options.by, options.confirm);
    report.columns_gone = fit::columns_gone(&mut session, &table)?;
    let mut deleter = connect(&patient, "prune", leg.watchdog)?;
    if !require_limit(&mut deleter, &table, &leg.table.topic, &options.by, options.force)? {
        let (what, why) = (cannot_prune(&table), "pg2ch_checkpoint has no row of this table");
        return Err(Error::config(what, why, "run `pg2ch --once` first: only rows that a run has sent can be pruned"));
    }
    let (topic, row_lock) = (&leg.table.topic, leg.config.timeouts.row_lock);
    let waiting = Waiting::new(leg)?;
    let rows = PgOldRows::new(session, deleter, table.clone(), topic, by, options.older_than, row_lock)?;
    report.limit.clone_from(&rows.limit);
    let mut servers = Servers::new(leg, rows, &table, target, &description, contents, waiting)?;
    pages::prune_pages(leg, options, &mut servers, &mut report)?;
    if report.complete {
        report.partitions = servers.partitions()?;
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

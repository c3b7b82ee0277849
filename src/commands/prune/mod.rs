//! `pg2ch prune`: deletes old flagged rows that the target provably holds.
//!
//! Equality is the proof: offsets say what was stored once, not what is there now. It takes no lock against runs. A row is
//! named by its version, so whatever changes it in between makes a version that the DELETE misses.

mod fit;
mod proof;
mod report;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use self::proof::Proof;
use self::report::TableReport;
use super::verify::patient;
use super::{Command, Frame};
use crate::clickhouse::ClickHouseTarget;
use crate::config::{Config, TableConfig};
use crate::error::{ExitCode, Result};
use crate::ports::LegContext;
use crate::ports::limits::Limits;
use crate::ports::target::Target as _;
use crate::postgres::{Age, OldRow, OldRows, SourceTable, connect};
use crate::report::RunReport;
use crate::shutdown::Shutdown;

/// How many rows are looked at, and deleted, at once.
const PAGE: usize = 1_000;

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

/// The command.
pub struct Prune(pub Options);

impl Command for Prune {
    type Told = TableReport;

    fn ask(&self, frame: &Frame<'_>, table: &TableConfig) -> Result<TableReport> {
        let options = self.0.clone();
        frame.on(table, move |leg| prune(leg, &options))
    }

    fn tell(&self, tables: &[TableReport], json: bool) -> (String, ExitCode) {
        report::printed(tables, json)
    }
}

/// How many rows are looked at, at most, where `keep` asks for it at a run's end.
const AT_A_RUNS_END: u64 = 10 * PAGE as u64;

/// Prunes what `keep` asks for, at a run's end: the tables whose second leg has come to its end.
pub fn keep(config: &Config, run: &mut RunReport, limits: &Limits, shutdown: &Shutdown) {
    let begun = Instant::now();
    for table in &config.tables {
        let Some(keep) = &table.removal.keep else { continue };
        let told = run.tables.iter_mut().find(|told| told.source == table.source);
        let Some(told) = told.filter(|told| told.consume.is_some() && told.is_complete()) else { continue };
        let passed = (run.seconds + begun.elapsed().as_secs_f64()) as u64;
        let most = limits.max_seconds.map(|most| most.saturating_sub(passed));
        if shutdown.is_asked() || most == Some(0) {
            continue;
        }
        let limits = Limits { max_rows: Some(AT_A_RUNS_END), max_seconds: most, ..*limits };
        let options =
            Options { older_than: keep.age, by: keep.by.clone(), held_for: keep.held_for, confirm: true, force: false };
        match Prune(options).ask(&Frame::new(config, &limits, shutdown.clone(), false), table) {
            Ok(pruned) => told.pruned = pruned.deleted,
            Err(error) => told.error = Some(error),
        }
    }
    run.seconds += begun.elapsed().as_secs_f64();
}

fn prune(leg: &LegContext<'_>, options: &Options) -> Result<TableReport> {
    let begun = Instant::now();
    let patient = patient(leg.config);
    let mut session = connect(&patient, "prune", leg.watchdog)?;
    let table = SourceTable::find(&mut session, leg.table)?;
    let mut target = ClickHouseTarget::new(&patient, leg.table)?;
    let description = target.describe()?;
    let by = fit::require(&mut session, leg.table, &table, &options.by, &mut target, &description)?;
    let mut report = TableReport::of(leg.table, &options.by, options.confirm);
    report.columns_gone = fit::columns_gone(&mut session, &table)?;
    let proof = Proof::new(leg, &table, target, &description, options.held_for)?;
    let age = Age { by, older_than: options.older_than, force: options.force };
    let deleter = connect(&patient, "prune", leg.watchdog)?;
    let row_lock = leg.config.timeouts.row_lock;
    let mut rows = OldRows::new(session, deleter, table, &leg.table.topic, age, row_lock)?;
    rows.limit().clone_into(&mut report.limit);
    let mut pruning = Pruning { leg, options, proof, report: &mut report, partitions: BTreeMap::new() };
    pruning.run(&mut rows)?;
    pruning.tell_partitions(&mut rows)?;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

struct Pruning<'a> {
    leg: &'a LegContext<'a>,
    options: &'a Options,
    proof: Proof<'a>,
    report: &'a mut TableReport,
    /// How many rows that are provable, and not deleted, each partition has.
    partitions: BTreeMap<u32, u64>,
}

impl Pruning<'_> {
    fn run(&mut self, rows: &mut OldRows) -> Result<()> {
        loop {
            if self.is_to_end() {
                self.report.complete = false;
                return Ok(());
            }
            let begun = Instant::now();
            let page = rows.page(self.proof.selected(), self.room())?;
            if page.is_empty() {
                return Ok(());
            }
            let provable = self.proof.of(&page, self.report)?;
            for row in &provable {
                *self.partitions.entry(row.version.table).or_default() += u64::from(!self.options.confirm);
            }
            if self.options.confirm {
                self.delete(rows, &provable)?;
                // Whether it is to end is asked at the next page.
                let _ = self.leg.shutdown.wait(begun.elapsed());
            } else {
                self.report.deletable += provable.len() as u64;
            }
        }
    }

    fn delete(&mut self, rows: &mut OldRows, provable: &[&OldRow]) -> Result<()> {
        if provable.is_empty() {
            return Ok(());
        }
        rows.record_limit()?;
        let deleted = rows.delete(provable)?;
        self.report.deletable += provable.len() as u64;
        self.report.deleted += deleted;
        self.report.changed += provable.len() as u64 - deleted;
        Ok(())
    }

    /// Names the partitions that hold no other rows.
    fn tell_partitions(&mut self, rows: &mut OldRows) -> Result<()> {
        if self.report.complete {
            self.report.partitions = rows.partitions_of(&self.partitions)?;
        }
        Ok(())
    }

    /// How many rows the next page may have: `--max-rows` counts those that are looked at.
    fn room(&self) -> usize {
        let most = self.leg.limits.max_rows.unwrap_or(u64::MAX).saturating_sub(self.report.rows);
        usize::try_from(most).unwrap_or(PAGE).min(PAGE)
    }

    fn is_to_end(&self) -> bool {
        let late = self.leg.limits.max_seconds.is_some_and(|most| self.leg.started.elapsed().as_secs() >= most);
        self.leg.shutdown.is_asked() || late || self.room() == 0
    }
}

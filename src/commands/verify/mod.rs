//! `pg2ch verify`: PostgreSQL against ClickHouse, key by key.
//!
//! Both servers count and sum their keys by bucket; only the buckets that differ are looked at key by key ([`keys`]). With
//! `--deep` the contents are compared too ([`deep`]). It takes no lock, so rows may be in motion: what seems to differ is
//! asked for again before it is reported. `--repair --confirm` takes the lock, fences dead runs and recovers what they had
//! delivered, and then takes the flag back from what is missing, so that the next run sends it.

pub(super) mod between;
mod buckets;
pub(super) mod contents;
mod deep;
pub(super) mod key;
mod keys;
mod letters;
pub(super) mod pruned;
mod report;
mod shown;
pub(super) mod source;
pub(super) mod target;
mod ttl;
pub(super) mod waiting;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use self::contents::Contents;
use self::key::KeyText;
use self::pruned::{Pruned, is_time};
use self::report::{Repaired, TableReport};
use self::shown::Shown;
use self::source::Source;
use self::target::TargetKeys;
use self::ttl::Ttl;
use self::waiting::Waiting;
use super::is_to_end;
use crate::clickhouse::ClickHouseTarget;
use crate::config::Config;
use crate::error::Result;
use crate::fit::require_fit;
use crate::kafka::KafkaLog;
use crate::legs::produce::recover;
use crate::open::{open_ledger, open_writer};
use crate::ports::LegContext;
use crate::ports::source::Ledger as _;
use crate::ports::target::Target;
use crate::ports::topic::{Fence as _, Of, TopicLog as _};
use crate::postgres::{PgLedger, SourceTable, connect};
use crate::report::ProduceReport;

/// What the command line asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Compare contents, too.
    pub deep: bool,
    /// Take the flag back from what is missing, or say what would be done.
    pub repair: bool,
    /// Do it.
    pub confirm: bool,
}

/// One table's verification under way.
struct Verification<'a> {
    leg: &'a LegContext<'a>,
    source: Source,
    target: TargetKeys,
    key: KeyText,
    ttl: Ttl,
    waiting: Waiting<'a>,
    /// The numbers of keys with a pending letter whose rows are reported.
    counted: HashSet<u64>,
    /// What `pg2ch prune` has deleted.
    pruned: Option<Pruned>,
    /// The lock, where the source may be changed.
    held: Option<PgLedger>,
    report: TableReport,
}

/// Verifies one table. It ends with 65 if something is missing, doubled, different, or a dead letter.
///
/// # Errors
/// 75 if a run holds the lock that `--repair` needs, 78 if the tables cannot be compared; the servers'.
pub fn verify(leg: &LegContext<'_>, options: Options) -> Result<TableReport> {
    let begun = Instant::now();
    let mut report = TableReport { complete: true, doubled_compared: true, ..TableReport::default() };
    let mut held = None;
    if options.repair {
        let mut repaired = Repaired { confirmed: options.confirm, ..Repaired::default() };
        if options.confirm {
            held = hold(leg, &mut repaired)?;
            if held.is_none() {
                report.complete = false;
                return Ok(report);
            }
        }
        report.repair = Some(repaired);
    }
    let patient = patient(leg.config);
    let mut session = connect(&patient, "verify", leg.watchdog)?;
    let table = SourceTable::find(&mut session, leg.table)?;
    let pruned = Pruned::recorded(&mut session, leg.table, &table)?;
    let waiting = Waiting::new(leg)?;
    let asker = connect(&patient, "verify", leg.watchdog)?;
    let mut target = ClickHouseTarget::new(&patient, leg.table)?;
    let description = target.describe()?;
    require_fit(leg.table, &[], &description)?;
    let rules = &leg.table.column_rules;
    let ttl = Ttl::of(&description, &table, rules);
    if let Ttl::Unknown(why) = &ttl {
        report.expiry_unknown = Some(why.clone());
    }
    let columns = description.keeping_columns();
    let pruned = pruned.filter(|pruned| is_time(&columns, &pruned.column));
    let key = KeyText::of(&table, &columns, rules, &leg.table.target.to_string())?;
    let contents = options.deep.then(|| Contents::of(&table, &columns, rules, target.calendar())).transpose()?;
    let shown = Shown::of(&table, &columns, rules);
    let source = Source::new(session, asker, table, key.clone())?;
    let target = TargetKeys::new(target, key.clone());
    let counted = HashSet::new();
    let mut verification = Verification { leg, source, target, key, ttl, waiting, counted, pruned, held, report };
    verification.compare_keys()?;
    if let Some((mut contents, left_out)) = contents {
        verification.report.deep = true;
        verification.report.columns_not_compared = left_out;
        verification.compare_contents(&mut contents, &shown)?;
    }
    if verification.report.complete {
        verification.count_letters()?;
    }
    verification.report.seconds = begun.elapsed().as_secs_f64();
    Ok(verification.report)
}

/// Takes the lock, fences and recovers as a run does, for `--repair`: so no row is taken for missing whose record is under way. The
/// ledger holds the lock. `None` if it was asked to finish while it waited.
fn hold(leg: &LegContext<'_>, repaired: &mut Repaired) -> Result<Option<PgLedger>> {
    let Some(mut ledger) = open_ledger(leg, None)? else { return Ok(None) };
    ledger.checkpoint()?;
    let table = leg.table;
    let mut log = KafkaLog::new(leg.config, &table.topic, &table.group, leg.watchdog)?;
    log.partitions()?;
    ledger.take_epoch()?;
    open_writer(leg, &ledger)?.fence()?;
    let checkpoint = ledger.checkpoint()?;
    let survey = log.survey(Of::Nobody)?;
    let mut report = ProduceReport::default();
    let recovery = recover(&mut log, survey, &mut ledger, checkpoint, leg.config, leg.shutdown, &mut report)?;
    repaired.recovered = report.rows_recovered;
    Ok(recovery.map(|_| ledger))
}

/// How long one statement of a server's may take.
const PATIENCE: Duration = Duration::from_secs(3_600);

/// The configuration with longer time limits: whole tables are read.
pub(super) fn patient(config: &Config) -> Config {
    let mut patient = config.clone();
    patient.timeouts.postgres = patient.timeouts.postgres.max(PATIENCE);
    patient.timeouts.clickhouse = patient.timeouts.clickhouse.max(PATIENCE);
    patient
}

impl Verification<'_> {
    /// Whether a signal or `--max-seconds` asks for the end; the report then says that it is not complete.
    fn is_to_end(&mut self) -> bool {
        let ends = is_to_end(self.leg);
        self.report.complete &= !ends;
        ends
    }

    /// Takes the flag back from these rows, or counts them where only that is wanted. Each goes out as a new version, a record of its own.
    fn repair(&mut self, record_keys: &[&str]) -> Result<()> {
        let Some(repair) = &mut self.report.repair else { return Ok(()) };
        repair.wanted += record_keys.len() as u64;
        if self.held.is_some() && !record_keys.is_empty() {
            repair.unflagged += self.source.unflag(record_keys)?;
        }
        Ok(())
    }
}

//! `--repair`: takes the flag back from rows that are missing, so that the next run sends them.
//!
//! Before anything is compared the lock is held, dead runs are fenced and what they had delivered is flagged: so no row is
//! taken for missing whose record is under way. The row goes out as a new version, a record of its own.

use super::report::Repaired;
use crate::error::Result;
use crate::kafka::KafkaLog;
use crate::legs::produce::recover;
use crate::open::{open_ledger, open_writer};
use crate::ports::LegContext;
use crate::ports::source::Ledger as _;
use crate::ports::topic::{Fence as _, Of, TopicLog as _};
use crate::postgres::PgLedger;
use crate::report::ProduceReport;

/// Takes the lock, fences and recovers as a run does: the ledger, which holds the lock. `None` if it was asked to finish while it
/// waited.
///
/// # Errors
/// 75 if a run holds the lock; the servers'.
pub fn hold(leg: &LegContext<'_>, repaired: &mut Repaired) -> Result<Option<PgLedger>> {
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

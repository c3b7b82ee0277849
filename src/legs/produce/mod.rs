//! The first leg: unsent rows → acknowledged records → flags.
//!
//! ```text
//! PostgreSQL ── reader ──▶ sender ──▶ flagger ──▶ PostgreSQL
//! ```
//!
//! Fence first, so that nothing of a dead run can still land; then recover what it had delivered; only then send.

mod batch_size;
mod flag;
mod held;
mod pauses;
mod read;
mod recover;
mod send;

pub use batch_size::BatchSize;
pub use flag::Flagger;
pub use read::Reader;
pub use recover::{Recovery, recover};
pub use send::{Order, Sender};

use std::sync::Arc;

use self::held::flagging_pace;
use self::pauses::Pauses;
use crate::crash;
use crate::error::Result;
use crate::ports::limits::Budget;
use crate::ports::source::{Checkpoint, Ledger};
use crate::ports::topic::{Fence as _, Of, TopicLog, wait_until_stable};
use crate::ports::{LegContext, Servers};
use crate::report::ProduceReport;

/// Sends what is unsent and flags it, on a ledger whose lock is held.
///
/// What was done is counted into `report` even where the leg fails.
///
/// # Errors
/// The first failure of a stage. Whatever was sent and not flagged is found by the next run.
pub fn run<S: Servers>(
    leg: &LegContext<'_>,
    servers: &S,
    ledger: &mut S::Ledger,
    report: &mut ProduceReport,
) -> Result<()> {
    // An earlier attempt of the same run may have been cut short.
    report.complete = true;
    // Refuses a topic that another source feeds.
    ledger.checkpoint()?;
    let outbox = &leg.table.outbox;
    let order = match (outbox.has_order(), outbox.message_key.is_empty()) {
        (false, _) => Order::Any,
        (true, true) => Order::AsRead,
        (true, false) => Order::ByMessageKey,
    };
    let in_order = order != Order::Any;
    let highest = ledger.highest_unsent_key()?;
    if highest.is_none() && !ledger.has_held() {
        return Ok(());
    }
    let config = leg.config;
    servers.expect_rows(ledger);
    let ((), mut log) = servers.both("epoch", || ledger.take_epoch(), || servers.log())?;
    let mut writer = servers.writer(ledger)?;
    writer.fence()?;
    // The checkpoint is read behind the fence: a run that has lost its lock may have fenced a later one, and ends here, before it
    // sends what that one sent.
    let (checkpoint, survey) = servers.both("checkpoint", || ledger.checkpoint(), || log.survey(Of::Nobody))?;
    let recovered_before = report.rows_recovered;
    let recovery = recover(&mut log, survey, ledger, checkpoint, config, leg.shutdown, report)?;
    let Some(recovery) = recovery else {
        report.complete = false;
        return Ok(());
    };

    let progress = &leg.progress;
    progress.flagged(report.rows_recovered - recovered_before);
    // What was held may be all that there was.
    let Some(highest) = highest else { return Ok(()) };
    ledger.begin_records(Some(&recovery.checkpoint.offsets))?;
    let floor = recovery.checkpoint.timestamp_floor;
    let rows = servers.rows(ledger, highest, floor)?;
    let budget = Budget::new(&leg.limits, leg.started, leg.shutdown);
    let mut flagger = Flagger::new(ledger, &recovery, flagging_pace(config.batch.rows), in_order);
    let pauses = Pauses::new(&config.postgres, leg.table);
    let size = BatchSize::new(&config.batch, &config.timeouts, log.trip(), recovery.checkpoint.offsets.len());
    let mut reader = Reader::new(rows, budget, size.clone(), recovery.held.keys, in_order, pauses);
    let mut sender = Sender::new(writer, order);
    progress.begin_rows();
    let mut move_rows = || loop {
        reader.pause(progress, flagger.take_time(), || flagger.replication_lag())?;
        let unsent = sender.unsent();
        servers.side_by_side(
            ["reader", "sender", "flagger"],
            &mut reader,
            |batch| {
                let batch = Arc::new(batch);
                let sent = size.time_sending(&batch, || sender.step(&batch))?;
                progress.sent(sent.iter().map(|batch| batch.sent.len()).sum());
                Ok(sent)
            },
            |sent| {
                let before = flagger.flagged();
                flagger.step(&sent)?;
                progress.flagged(flagger.flagged() - before);
                Ok(())
            },
        )?;
        let mut met = sender.take_refused();
        met.keys.extend(flagger.take_met());
        let unreadable = reader.take_unreadable();
        met.keys.extend(unreadable.iter().map(|row| row.key.clone().into_bytes()));
        met.message_keys.extend(unreadable.iter().filter_map(|row| Some(row.stops.clone()?.into_bytes())));
        report.add_unreadable(unreadable);
        if !reader.goes_on(sender.unsent() - unsent, met)? {
            return Ok(());
        }
    };
    let moved = move_rows();
    if moved.is_ok() && sender.records_sent() > 0 {
        servers.expect_copy();
    }
    let ended = moved.and_then(|()| {
        crash::point("finish.before");
        flagger.finish(config.timeouts.row_lock, leg.shutdown)
    });
    crash::point("finish.after");
    report.rows_read += reader.rows_read();
    report.paused += reader.pauses().paused();
    report.paused_for_replication += reader.pauses().for_replication();
    report.complete &= reader.is_complete();
    report.records_sent += sender.records_sent();
    report.add_too_large(sender.take_too_large());
    flagger.add_to(report);
    ended?;
    if let Some(checkpoint) = flagger.checkpoint() {
        let checkpoint = behind_markers(&mut log, leg, checkpoint)?;
        ledger.move_checkpoint(&checkpoint)?;
    }
    servers.keep_log(log);
    Ok(())
}

/// The checkpoint behind the transaction markers that follow our last records, so that the next run has no window to
/// read. Only where nothing but our own marker can lie in between: one offset, at the end of the partition.
fn behind_markers(log: &mut impl TopicLog, leg: &LegContext<'_>, mut checkpoint: Checkpoint) -> Result<Checkpoint> {
    let timeout = leg.config.timeouts.stable;
    let stable = wait_until_stable(log, &checkpoint.offsets, timeout, leg.shutdown)?;
    for (partition, next) in &mut checkpoint.offsets {
        if stable.get(partition) == Some(&(*next + 1)) {
            *next += 1;
        }
    }
    Ok(checkpoint)
}

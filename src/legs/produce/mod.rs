//! The first leg: unsent rows → acknowledged records → flags.
//!
//! ```text
//! PostgreSQL ── reader ──▶ sender ──▶ flagger ──▶ PostgreSQL
//! ```
//!
//! Fence first, so that nothing of a dead run can still land; then recover what it had delivered; only then send.
//!
//! A run may follow one of its own process that has done so and ended well. If the checkpoint, read under the lock, still bears that
//! run's epoch, no other has begun since: its producer is the last one that has fenced, and nothing of ours lies above the
//! checkpoint. Then rows are sent at once. A run that begins meanwhile shuts this one out as it does any other, and finds what it has
//! sent.

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

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use self::held::flagging_pace;
use self::pauses::Pauses;
use crate::crash;
use crate::data::Offsets;
use crate::error::{ExitCode, Result};
use crate::mutant;
use crate::ports::limits::Budget;
use crate::ports::source::{Checkpoint, Ledger, UnsentRows};
use crate::ports::topic::{End, Fence, Of, Survey, TopicLog, wait_from};
use crate::ports::{LegContext, Servers};
use crate::report::ProduceReport;

/// Sends what is unsent and flags it, on a ledger whose lock is held. Returns a checkpoint that is still to be moved: the next run
/// needs it, and no other step of this one.
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
) -> Result<Option<Checkpoint>> {
    // An earlier attempt of the same run may have been cut short.
    report.complete = true;
    // Refuses a topic that another source feeds.
    let checkpoint = ledger.checkpoint()?;
    let highest = ledger.highest_unsent_key()?;
    if highest.is_none() && !ledger.has_held() && reaches(servers, &checkpoint)? {
        return Ok(None);
    }
    let may_resume = highest.is_some() && !ledger.has_held() && ledger.still_has_epoch();
    let kept = if may_resume { servers.kept_writer() } else { None };
    servers.expect_rows(ledger, kept.is_some());
    if let (Some(writer), Some(highest)) = (kept, &highest) {
        if let Some(pipeline) = resume(leg, servers, ledger, writer, &checkpoint, highest.clone())? {
            let before = report.clone();
            match move_rows(leg, servers, ledger, pipeline, report) {
                Err(error) if error.exit_code() == ExitCode::Locked && report.records_sent == before.records_sent => {
                    // Another run has taken over, or one that ended before it sent anything has fenced this one.
                    ledger.checkpoint()?;
                    *report = before;
                    log::info!("{error}\nno other run has begun since: this one fences in its turn");
                }
                ended => return ended,
            }
        }
        servers.expect_rows(ledger, false);
    }
    let Some(begun) = begin(leg, servers, ledger, &checkpoint, highest.as_ref(), report)? else {
        report.complete = false;
        return Ok(None);
    };
    let Begun { writer, log, recovery, first } = begun;
    // What was held may be all that there was.
    let Some(highest) = highest else { return Ok(None) };
    ledger.begin_records(Some(&recovery.checkpoint.offsets))?;
    let reader = match first {
        Some(reader) => reader,
        None => {
            let rows = servers.rows(ledger, highest, recovery.checkpoint.timestamp_floor)?;
            reader_of(leg, rows, recovery.held.keys.clone())
        }
    };
    move_rows(leg, servers, ledger, Pipeline { reader, writer, log, recovery }, report)
}

/// Whether the topic reaches up to the checkpoint. If nothing is left to send, nothing else shows that it was recreated, and what went
/// down with it. The leg that follows would ask the same.
fn reaches<S: Servers>(servers: &S, checkpoint: &Checkpoint) -> Result<bool> {
    if checkpoint.offsets.is_empty() || mutant::is("an idle run takes the topic for the old one") {
        return Ok(true);
    }
    let mut log = servers.log()?;
    let survey = log.survey(servers.idle_survey())?;
    let end = |partition| survey.written.get(partition).copied().unwrap_or_default();
    let reaches = checkpoint.offsets.iter().all(|(partition, next)| end(partition) >= *next);
    if reaches {
        log.keep_survey(survey);
    }
    servers.keep_log(log);
    Ok(reaches)
}

/// What rows go through, once nothing has to be recovered any more.
struct Pipeline<U, W, L> {
    reader: Reader<U>,
    writer: W,
    log: L,
    recovery: Recovery,
}

/// The same, of the servers' kinds.
type PipelineOf<S> = Pipeline<<S as Servers>::Rows, <S as Servers>::Fence, <S as Servers>::Log>;

/// Goes on where the last run of this process has ended; `None` if the topic is not as that has left it. The first rows are read
/// beside: nobody else can have sent them, or only after this, and shuts this run out before.
fn resume<S: Servers>(
    leg: &LegContext<'_>,
    servers: &S,
    ledger: &mut S::Ledger,
    writer: S::Fence,
    checkpoint: &Checkpoint,
    highest: Vec<String>,
) -> Result<Option<PipelineOf<S>>> {
    let mut log = servers.log()?;
    let rows = servers.rows(ledger, highest, checkpoint.timestamp_floor)?;
    let mut reader = reader_of(leg, rows, HashSet::new());
    let survey = || Ok((log.survey(Of::Nobody)?, servers.fits_kept_writer(&writer)?));
    let look = || servers.both("first rows", || reader.read_early(), survey);
    let ((), ((), (survey, fits))) = servers.both("epoch", || ledger.resume(), look)?;
    if !(fits && is_at_end(checkpoint, &survey)) {
        servers.keep_log(log);
        return Ok(None);
    }
    let checkpoint = Checkpoint { offsets: survey.written, timestamp_floor: checkpoint.timestamp_floor };
    ledger.begin_records(Some(&checkpoint.offsets))?;
    Ok(Some(Pipeline { reader, writer, log, recovery: Recovery { checkpoint, ..Recovery::default() } }))
}

/// Whether the topic ends at the checkpoint: nothing lies above it, and nothing below it is lost.
fn is_at_end(checkpoint: &Checkpoint, survey: &Survey) -> bool {
    let stands_at = |partition: &i32| checkpoint.offsets.get(partition).copied().unwrap_or_default();
    survey.stable == survey.written
        && survey.written.iter().all(|(partition, end)| stands_at(partition) == *end)
        && checkpoint.offsets.keys().all(|partition| survey.written.contains_key(partition))
}

/// Reads all rows but those that are `held`.
fn reader_of<U: UnsentRows>(leg: &LegContext<'_>, rows: U, held: HashSet<Vec<u8>>) -> Reader<U> {
    let config = leg.config;
    let budget = Budget::new(&leg.limits, leg.started, leg.shutdown);
    let pauses = Pauses::new(&config.postgres, leg.table);
    let size = BatchSize::new(&config.batch, &config.timeouts);
    Reader::new(rows, budget, size, held, order_of(leg) != Order::Any, pauses)
}

/// The order in which the table's rows go out.
fn order_of(leg: &LegContext<'_>) -> Order {
    let outbox = &leg.table.outbox;
    match (outbox.has_order(), outbox.message_key.is_empty()) {
        (false, _) => Order::Any,
        (true, true) => Order::AsRead,
        (true, false) => Order::ByMessageKey,
    }
}

/// What a run begins with.
struct Begun<S: Servers> {
    /// The producer, which has shut out every earlier run.
    writer: S::Fence,
    log: S::Log,
    recovery: Recovery,
    /// Has read the first rows, if there was nothing to recover.
    first: Option<Reader<S::Rows>>,
}

/// Shuts out every earlier run, and recovers what it has delivered; `None` if the run was asked to finish meanwhile. `known` is the
/// checkpoint as it was read under the lock, `highest` the highest key of rows to send.
fn begin<S: Servers>(
    leg: &LegContext<'_>,
    servers: &S,
    ledger: &mut S::Ledger,
    known: &Checkpoint,
    highest: Option<&Vec<String>>,
    report: &mut ProduceReport,
) -> Result<Option<Begun<S>>> {
    let ((), mut log) = servers.both("epoch", || ledger.take_epoch(), || servers.log())?;
    let mut writer = servers.writer(ledger)?;
    writer.fence()?;
    // The first rows are read in the same trip as the survey that shows whether earlier runs have delivered some of them. If that may
    // be, they are read again after the recovery, which a failure to read must not prevent.
    let rows = highest.filter(|_| !ledger.has_held());
    let rows = rows.map(|highest| servers.rows(ledger, highest.clone(), known.timestamp_floor));
    let read = || {
        let mut reader = reader_of(leg, rows?.ok()?, HashSet::new());
        let read = reader.read_early();
        Some((reader, read))
    };
    let look = || servers.both("first rows", || Ok(read()), || log.survey(Of::Nobody));
    // The checkpoint is read behind the fence: a run that has lost its lock may have fenced a later one, and ends here, before it
    // sends what that one sent.
    let (checkpoint, (read, survey)) = servers.both("checkpoint", || ledger.checkpoint(), look)?;
    let stands = checkpoint == *known && !ledger.has_held();
    let first = match read {
        Some((reader, read)) if stands && may_be_sent(&checkpoint, &survey) => read.map(|()| Some(reader))?,
        _ => None,
    };
    let recovered_before = report.rows_recovered;
    let recovery = recover(&mut log, survey, ledger, checkpoint, leg.config, leg.shutdown, report)?;
    let Some(recovery) = recovery else { return Ok(None) };
    leg.progress.flagged(report.rows_recovered - recovered_before);
    Ok(Some(Begun { writer, log, recovery, first }))
}

/// Whether rows may be sent that were read beside the survey: no record speaks for one of them.
fn may_be_sent(checkpoint: &Checkpoint, survey: &Survey) -> bool {
    mutant::is("rows that were read before the window are sent") || is_at_end(checkpoint, survey)
}

fn move_rows<S: Servers>(
    leg: &LegContext<'_>,
    servers: &S,
    ledger: &mut S::Ledger,
    pipeline: PipelineOf<S>,
    report: &mut ProduceReport,
) -> Result<Option<Checkpoint>> {
    let Pipeline { mut reader, writer, mut log, recovery } = pipeline;
    let (config, progress, order) = (leg.config, &leg.progress, order_of(leg));
    let size = reader.size_at(log.trip(), recovery.checkpoint.offsets.len());
    let mut flagger = Flagger::new(ledger, &recovery, flagging_pace(config.batch.rows), order != Order::Any);
    // The ends are taken beside the last flags. The next leg begins with them if its producer was kept, and need not fence any more.
    let (is_read, of) = (reader.is_read(), servers.next_survey());
    let (mut survey, mut expects_copy) = (None, false);
    let mut sender = Sender::new(writer, order);
    progress.begin_rows();
    let mut move_rows = || loop {
        reader.pause(progress, flagger.take_time(), || flagger.replication_lag())?;
        if reader.read_ahead()? && !std::mem::replace(&mut expects_copy, true) {
            // The next leg follows soon.
            servers.expect_copy();
        }
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
            |sent, _| {
                let before = flagger.flagged();
                survey = if is_read.load(Ordering::Relaxed) {
                    Some(log.survey_beside(of, || flagger.step(&sent))?.0)
                } else {
                    flagger.step(&sent)?;
                    None
                };
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
    if moved.is_ok() && sender.records_sent() > 0 && !expects_copy {
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
    let checkpoint = flagger.checkpoint();
    let mut later = None;
    if let Some(checkpoint) = checkpoint {
        let stable = survey.as_ref().map_or_else(|| log.ends(End::Stable), |survey| Ok(survey.stable.clone()))?;
        let stable = wait_from(&mut log, stable, &checkpoint.offsets, config.timeouts.stable, leg.shutdown)?;
        later = Some(behind_markers(&stable, checkpoint));
        if let Some(survey) = survey.filter(|_| of == Of::Now) {
            log.keep_survey(Survey { stable, ..survey });
        }
    }
    ledger.keep_epoch();
    servers.keep_pipeline(sender.into_fence(), reader.into_rows());
    servers.keep_log(log);
    Ok(later)
}

/// The checkpoint behind the transaction markers that follow our last records, so that the next run has no window to
/// read. Only where nothing of our own but the marker can lie in between: one offset, at the stable end of the partition.
fn behind_markers(stable: &Offsets, mut checkpoint: Checkpoint) -> Checkpoint {
    for (partition, next) in &mut checkpoint.offsets {
        if stable.get(partition) == Some(&(*next + 1)) {
            *next += 1;
        }
    }
    checkpoint
}

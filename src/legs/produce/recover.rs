//! Finds out what the last run had delivered before it died, and flags it.
//!
//! Before: the lock is held, a new epoch is taken, and dead producers are fenced, so the topic holds all that will ever
//! come of earlier runs. The rows that the window speaks for are flagged page by page, or held, and the checkpoint moves with
//! them; then held rows are flagged. After: every unsent row is one whose present content is not the last record of its key,
//! but for those held still. If the process dies in between, the next run resumes at the checkpoint.

use std::time::Duration;

use super::held::{HeldRows, flagging_pace, settle};
use crate::config::Config;
use crate::crash;
use crate::data::Offsets;
use crate::error::Result;
use crate::ports::source::{Checkpoint, Ledger, WindowRecord};
use crate::ports::topic::{Survey, TopicLog, read_between, wait_from};
use crate::report::{Lost, ProduceReport};
use crate::shutdown::Shutdown;

/// How many records, and bytes of them, are compared with the table at once.
const CHUNK_RECORDS: usize = 10_000;
const CHUNK_BYTES: usize = 8 << 20;

/// Where the leg resumes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Everything below is flagged or held.
    pub checkpoint: Checkpoint,
    /// What was delivered and cannot be flagged yet.
    pub held: HeldRows,
}

/// Recovers what the `survey`, made behind the fence, shows behind the checkpoint; `None` if the run was asked to finish while it
/// waited.
///
/// # Errors
/// 69 if a foreign transaction keeps the end of the topic undecided; Kafka's and PostgreSQL's.
pub fn recover(
    log: &mut impl TopicLog,
    survey: Survey,
    ledger: &mut impl Ledger,
    checkpoint: Checkpoint,
    config: &Config,
    shutdown: &Shutdown,
    report: &mut ProduceReport,
) -> Result<Option<Recovery>> {
    let timeouts = config.timeouts;
    let Survey { starts, stable, written, .. } = survey;
    let mut stable = wait_from(log, stable, &written, timeouts.stable, shutdown)?;
    if shutdown.is_requested() {
        return Ok(None);
    }
    for &partition in checkpoint.offsets.keys() {
        // The topic has fewer partitions than it had.
        stable.entry(partition).or_insert(0);
    }
    let (from, is_recreated) = window_start(&checkpoint, &starts, &stable, report);
    if is_recreated {
        // Before the checkpoint moves: after a crash nothing else would show that the kept offsets are the old topic's.
        ledger.begin_records(None)?;
    }
    let mut end = Checkpoint { offsets: stable, timestamp_floor: checkpoint.timestamp_floor };
    let windows: Offsets =
        from.into_iter().filter(|(partition, next)| end.offsets.get(partition).is_some_and(|end| next < end)).collect();
    let has_window = !windows.is_empty()
        || end.offsets.iter().any(|(partition, next)| checkpoint.offsets.get(partition) != Some(next));
    let pace = flagging_pace(config.batch.rows);
    if has_window {
        let newest = read_window(log, ledger, &windows, &end.offsets, timeouts.kafka)?;
        let floor = end.timestamp_floor.max(newest);
        end.timestamp_floor = floor;
        let found = settle(pace, shutdown, |after, rows| ledger.flag_window(after, rows, floor))?;
        report.rows_recovered += found.flagged;
        if found.is_cut_short {
            return Ok(None);
        }
        crash::point("window.move.before");
        ledger.move_checkpoint(&end)?;
    } else {
        end = checkpoint;
    }
    let mut held = HeldRows::default();
    if ledger.has_held() {
        held = settle(pace, shutdown, |after, rows| ledger.settle_held(after, rows))?;
    }
    report.rows_recovered += held.flagged;
    report.rows_locked = held.locked() as u64;
    report.taken_back.clone_from(&held.taken_back);
    if held.is_cut_short {
        return Ok(None);
    }
    Ok(Some(Recovery { checkpoint: end, held }))
}

/// Where each partition's window begins, and whether the topic was recreated, with what cannot be known any more reported.
fn window_start(
    checkpoint: &Checkpoint,
    starts: &Offsets,
    ends: &Offsets,
    report: &mut ProduceReport,
) -> (Offsets, bool) {
    let (mut from, mut is_recreated) = (Offsets::new(), false);
    for (&partition, &end) in ends {
        let start = starts.get(&partition).copied().unwrap_or(0);
        let next = match checkpoint.offsets.get(&partition) {
            None => start,
            Some(&next) if next > end => {
                log::error!(
                    "partition {partition} ends at offset {end}, below the checkpoint {next}: the topic was recreated, or Kafka was restored from an older copy; \
                     records that were not copied before are lost"
                );
                is_recreated = true;
                report.delivered.remove(&partition);
                start
            }
            Some(&next) if next < start => {
                log::error!(
                    "partition {partition}: retention has deleted offsets {next} to {start} before they could be compared with the table; rows that were delivered there but not flagged are sent again"
                );
                report.window_lost.push(Lost { partition, from: next, to: start });
                start
            }
            Some(&next) => next,
        };
        from.insert(partition, next);
    }
    report.topic_recreated |= is_recreated;
    (from, is_recreated)
}

/// Gives the windows' records to the ledger; returns the newest timestamp.
fn read_window(
    log: &mut impl TopicLog,
    ledger: &mut impl Ledger,
    windows: &Offsets,
    ends: &Offsets,
    limit: Duration,
) -> Result<i64> {
    let mut newest = 0;
    let mut chunk: Vec<WindowRecord> = Vec::new();
    let mut bytes = 0;
    read_between(log, windows, ends, limit, "the records sent earlier", |record| {
        newest = newest.max(record.timestamp_ms);
        let headers = (record.headers)();
        bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len) + headers.len();
        chunk.push(WindowRecord {
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers,
        });
        if chunk.len() >= CHUNK_RECORDS || bytes >= CHUNK_BYTES {
            ledger.add_to_window(&chunk)?;
            chunk.clear();
            bytes = 0;
        }
        Ok(())
    })?;
    if !chunk.is_empty() {
        ledger.add_to_window(&chunk)?;
    }
    Ok(newest)
}

//! The first leg: unsent rows → acknowledged records → flags.
//!
//! ```text
//! PostgreSQL ── reader ──▶ sender ──▶ flagger ──▶ PostgreSQL
//! ```
//!
//! Fence first, so that nothing of a dead run can still land; then recover what it had delivered; only then send.

mod flag;
mod read;
mod recover;
mod send;

pub use flag::Flagger;
pub use read::Reader;
pub use recover::{Recovery, recover, wait_until_stable};
pub use send::Sender;

use std::sync::Arc;
use std::time::Instant;

use crate::config::{Config, TableConfig};
use crate::crash;
use crate::error::Result;
use crate::kafka::admin::Admin;
use crate::kafka::{Fence, KafkaWriter, TopicLog};
use crate::limits::{Budget, Limits};
use crate::mutant;
use crate::postgres::{Checkpoint, Ledger, PgLedger, SourceTable, connect};
use crate::progress::Progress;
use crate::report::ProduceReport;
use crate::servers::Servers;
use crate::shutdown::Shutdown;
use crate::watchdog::Watchdog;

/// Everything a leg needs from outside.
pub struct Surroundings<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The table to move.
    pub table: &'a TableConfig,
    /// The run's limits.
    pub limits: Limits,
    /// When the run began.
    pub started: Instant,
    /// Whether to go on.
    pub shutdown: &'a Shutdown,
    /// The time limits of PostgreSQL's calls.
    pub watchdog: &'a Watchdog,
    /// What those who watch are told.
    pub progress: Progress,
}

impl<'a> Surroundings<'a> {
    /// Those of a command that nobody watches, which begins now and has no limits.
    #[must_use]
    pub fn of_command(
        config: &'a Config,
        table: &'a TableConfig,
        shutdown: &'a Shutdown,
        watchdog: &'a Watchdog,
    ) -> Self {
        let (limits, progress) = (Limits::default(), Progress::default());
        Self { config, table, limits, started: Instant::now(), shutdown, watchdog, progress }
    }
}

/// Opens the ledger of a table and takes its lock; `None` if the run was asked to finish while it waited.
///
/// # Errors
/// 75 if another run holds the lock; PostgreSQL's.
pub fn open_ledger(around: &Surroundings<'_>) -> Result<Option<PgLedger>> {
    let mut session = connect(around.config, "ledger", around.watchdog)?;
    let table = SourceTable::find(&mut session, around.table)?;
    let row_lock = around.config.timeouts.row_lock;
    let mut ledger = PgLedger::new(session, table, &around.table.topic, row_lock, around.shutdown.clone())?;
    Ok(ledger.lock(around.limits.wait_lock)?.then_some(ledger))
}

/// Sends what is unsent and flags it, on a ledger whose lock is held.
///
/// What was done is counted into `report` even where the leg fails.
///
/// # Errors
/// The first failure of a stage. Whatever was sent and not flagged is found by the next run.
pub fn run<S: Servers>(
    around: &Surroundings<'_>,
    servers: &S,
    ledger: &mut S::Ledger,
    report: &mut ProduceReport,
) -> Result<()> {
    // An earlier attempt of the same run may have been cut short.
    report.complete = true;
    // Refuses a topic that another source feeds.
    ledger.checkpoint()?;
    let Some(highest) = ledger.highest_unsent_key()? else {
        return Ok(());
    };
    let config = around.config;
    let mut log = servers.log()?;
    log.partitions()?;
    let mut writer = servers.writer(ledger)?;
    let checkpoint = shut_out_others(ledger, &mut writer)?;
    let recovered_before = report.rows_recovered;
    let recovery = recover(&mut log, ledger, checkpoint, config.timeouts, around.shutdown, report)?;
    if mutant::is(FENCES_LATE) {
        writer.fence()?;
    }
    let Some(recovery) = recovery else {
        report.complete = false;
        return Ok(());
    };

    let floor = recovery.checkpoint.timestamp_floor;
    let rows = servers.rows(ledger, highest, floor)?;
    let budget = Budget::new(&around.limits, around.started, around.shutdown);
    let mut reader = Reader::new(rows, budget, config.batch.rows, recovery.held);
    let mut sender = Sender::new(writer);
    let mut flagger = Flagger::new(ledger, recovery.caps, floor);
    let progress = &around.progress;
    progress.flagged(report.rows_recovered - recovered_before);
    progress.begin_rows();
    let moved = servers.side_by_side(
        ["reader", "sender", "flagger"],
        || reader.step(),
        |batch| {
            let sent = sender.step(&Arc::new(batch))?;
            progress.sent(sent.iter().map(|batch| batch.sent.len()).sum());
            Ok(sent)
        },
        |sent| {
            let before = flagger.flagged();
            flagger.step(&sent)?;
            progress.flagged(flagger.flagged() - before);
            Ok(())
        },
    );
    let ended = moved.and_then(|()| {
        crash::point("finish.before");
        flagger.finish()
    });
    crash::point("finish.after");
    report.rows_read += reader.rows_read();
    report.complete &= reader.is_complete();
    report.records_sent += sender.records_sent();
    report.too_large.append(&mut sender.take_too_large());
    flagger.tell(report);
    ended?;
    if let Some(checkpoint) = flagger.settled() {
        let checkpoint = behind_markers(&mut log, around, checkpoint)?;
        ledger.move_checkpoint(&checkpoint)?;
    }
    Ok(())
}

const FENCES_LATE: &str = "the window is read before the fence";

/// Makes sure that from now on nobody but this run sends or flags; returns the checkpoint.
///
/// It is read last: a run that has lost its lock may fence a later one, and ends here, before it sends what that one sent.
///
/// # Errors
/// 75 if a later run has begun; PostgreSQL's and Kafka's.
pub fn shut_out_others(ledger: &mut impl Ledger, writer: &mut impl Fence) -> Result<Checkpoint> {
    ledger.take_epoch()?;
    if !mutant::is(FENCES_LATE) {
        writer.fence()?;
    }
    ledger.checkpoint()
}

/// The producer of the source's rows. Its name, `prefix-rows:database/schema.table`, is one for one source in the whole cluster.
///
/// # Errors
/// 78 if librdkafka refuses a property.
pub fn open_writer(around: &Surroundings<'_>, ledger: &PgLedger) -> Result<KafkaWriter> {
    let (config, table, topic) = (around.config, ledger.table(), &around.table.topic);
    let id = format!("{}-rows:{}/{}", config.kafka.transactional_prefix, table.database, table.name);
    KafkaWriter::new(config, &id, topic, record_limit(config, topic), None)
}

/// The topic's own limit on a batch of records; where it may not be asked, librdkafka's default applies, and what is too
/// large is found by trying.
fn record_limit(config: &Config, topic: &str) -> Option<usize> {
    let setting = Admin::new(config).and_then(|admin| admin.topic_setting(topic, "max.message.bytes"));
    match setting {
        Ok(value) => value.and_then(|value| value.parse().ok()),
        Err(error) => {
            log::debug!("{error}");
            None
        }
    }
}

/// The checkpoint behind the transaction markers that follow our last records, so that the next run has no window to
/// read. Only where nothing but our own marker can lie in between: one offset, at the end of the partition.
fn behind_markers(
    log: &mut impl TopicLog,
    around: &Surroundings<'_>,
    mut checkpoint: Checkpoint,
) -> Result<Checkpoint> {
    let timeout = around.config.timeouts.stable;
    let stable = wait_until_stable(log, &checkpoint.offsets, timeout, around.shutdown)?;
    for (partition, next) in &mut checkpoint.offsets {
        if stable.get(partition) == Some(&(*next + 1)) {
            *next += 1;
        }
    }
    Ok(checkpoint)
}

//! What the legs reach outside themselves, as traits with their contracts: the [`source`], the [`topic`], the [`target`], and
//! who opens them.
//!
//! The program implements them with real servers ([`open`](crate::open)), the simulation with its own.

pub mod engine;
pub mod layout;
pub mod limits;
pub mod progress;
pub mod prune;
pub mod record_types;
pub mod source;
mod source_column;
pub mod target;
pub mod topic;

use std::collections::HashSet;
use std::time::Instant;

use crate::config::{Config, TableConfig};
use crate::data::RecordId;
use crate::error::Result;
use crate::shutdown::Shutdown;
use crate::threads::watchdog::Watchdog;
use crate::threads::{self, Maker};
use limits::Limits;
use progress::Progress;
use record_types::RecordTypes;
use source::{Checkpoint, Ledger, UnsentRows};
use target::{NewToken, Target};
use topic::{Fence, Of, TopicLog};

/// Does two things, of which neither waits for the other; fails if one of them panics, or no thread can be had.
pub type Beside = Box<dyn FnMut(&mut (dyn FnMut() + Send), &mut dyn FnMut()) -> Result<()> + Send>;

/// Opens what a leg needs, when it needs it.
pub trait Servers {
    /// The session that locks and flags.
    type Ledger: Ledger + Send;
    /// The reader of unsent rows.
    type Rows: UnsentRows + Send;
    /// The topic.
    type Log: TopicLog + Send + 'static;
    /// The transactional producers.
    type Fence: Fence + Send;
    /// The target table.
    type Target: Target + Send;

    /// Opens the ledger and takes its lock; `None` if the run was asked to finish while it waited.
    ///
    /// # Errors
    /// 75 if another run holds the lock; PostgreSQL's.
    fn ledger(&self) -> Result<Option<Self::Ledger>>;

    /// The types of the columns in records, for a consume leg that runs alone, once it knows how far it will read.
    ///
    /// # Errors
    /// PostgreSQL's.
    fn record_types(&self) -> Result<RecordTypes>;

    /// Takes the ledger back at the end of a run, and gives up its lock: the end of the session would do it a moment later,
    /// and a run that begins in that moment would be refused.
    fn give_back(&self, ledger: Self::Ledger) {
        drop(ledger);
    }

    /// Does `work` while the ledger only keeps its lock, and moves the checkpoint `to` where that is left to do. It comes back, unless
    /// it hangs.
    fn keeping<T>(
        &self,
        ledger: Option<Self::Ledger>,
        to: Option<Checkpoint>,
        work: impl FnOnce() -> T,
    ) -> (T, Option<Self::Ledger>);

    /// Opens the unsent rows up to the key `highest`, with timestamps above `clock_floor`.
    ///
    /// # Errors
    /// PostgreSQL's.
    fn rows(&self, ledger: &Self::Ledger, highest: Vec<String>, clock_floor: i64) -> Result<Self::Rows>;

    /// Opens the topic, for reading.
    ///
    /// # Errors
    /// 78 if the client refuses its configuration.
    fn log(&self) -> Result<Self::Log>;

    /// Takes back the topic that a leg has read, for the one that follows, or the next run.
    fn keep_log(&self, log: Self::Log) {
        drop(log);
    }

    /// There are rows to send: what that takes, and the leg behind it, may be opened beside the steps that come before. They go
    /// through the [kept writer](Self::kept_writer), or another one.
    fn expect_rows(&self, _ledger: &Self::Ledger, _through_kept: bool) {}

    /// Rows were sent for the leg that follows, or soon are: nobody but this run is to move the group's offsets. Called once.
    fn expect_copy(&self) {}

    /// There are records to copy: what that takes may be opened beside the steps that come before.
    fn expect_records(&self, _log: &Self::Log) {}

    /// The ends are taken up to which a leg alone reads: the types of what lies below them can be asked for.
    fn expect_types(&self) {}

    /// Opens the topic again, from whichever thread, as often as it is asked.
    fn more_logs(&self) -> Box<dyn Fn() -> Result<Self::Log> + Send>;

    /// The topic's records that are dead letters already.
    ///
    /// # Errors
    /// Any Kafka error.
    fn letters(&self) -> Result<HashSet<RecordId>>;

    /// Makes the producer of the source's rows.
    ///
    /// # Errors
    /// 78 if the client refuses its configuration.
    fn writer(&self, ledger: &Self::Ledger) -> Result<Self::Fence>;

    /// Makes the producer of offsets and dead letters; or the one that an earlier run has [kept](Self::keep_fence), once.
    ///
    /// # Errors
    /// 78 if the client refuses its configuration.
    fn fence(&self, log: &Self::Log) -> Result<Self::Fence>;

    /// The producer of the source's rows that an earlier run of this process has [kept](Self::keep_pipeline), of the ledger's present
    /// session.
    fn kept_writer(&self) -> Option<Self::Fence> {
        None
    }

    /// Whether the kept writer may be used: the topic takes what it was made for.
    ///
    /// # Errors
    /// 78 if the topic does not take records with message keys as they are; Kafka's.
    fn fits_kept_writer(&self, _writer: &Self::Fence) -> Result<bool> {
        Ok(true)
    }

    /// Which survey the leg that follows begins with, if its producer was kept.
    fn next_survey(&self) -> Of {
        Of::Nobody
    }

    /// Which survey a first leg makes that finds nothing to send: the one with which the leg that follows begins.
    fn idle_survey(&self) -> Of {
        Of::Before
    }

    /// Takes back what a leg that ended well has sent and read through, for the next run of this process.
    fn keep_pipeline(&self, writer: Self::Fence, rows: Self::Rows) {
        drop((writer, rows));
    }

    /// Takes back the producer of offsets and dead letters, likewise.
    fn keep_fence(&self, fence: Self::Fence) {
        drop(fence);
    }

    /// Opens the target.
    ///
    /// # Errors
    /// 78 if the client refuses its configuration.
    fn target(&self) -> Result<Self::Target>;

    /// Makes the source of deduplication tokens.
    ///
    /// # Errors
    /// 70 if there is no randomness.
    fn tokens(&self) -> Result<NewToken>;

    /// Makes what records an INSERT while the one before it is sent: the first on a thread of its own.
    fn beside(&self) -> Beside {
        Box::new(|record, insert| {
            let record = || {
                record();
                Ok(())
            };
            let insert = || {
                insert();
                Ok(())
            };
            threads::both("recorder", record, insert).map(drop)
        })
    }

    /// Does two things of which neither waits for the other: [`threads::both`].
    ///
    /// # Errors
    /// The first of theirs.
    fn both<A: Send, B>(
        &self,
        name: &str,
        other: impl FnOnce() -> Result<A> + Send,
        own: impl FnOnce() -> Result<B>,
    ) -> Result<(A, B)> {
        threads::both(name, other, own)
    }

    /// Runs the three stages of a leg, each on its own thread: [`threads::side_by_side`].
    ///
    /// # Errors
    /// The first failure of a stage.
    fn side_by_side<A: Send, B: Send>(
        &self,
        names: [&str; 3],
        first: impl Maker<A>,
        second: impl FnMut(A) -> Result<Vec<B>> + Send,
        third: impl FnMut(B, &mut dyn FnMut() -> Option<B>) -> Result<()> + Send,
    ) -> Result<()> {
        threads::side_by_side(names, first, second, third)
    }
}

/// Everything a leg needs from outside.
pub struct LegContext<'a> {
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
    /// The time limits of calls that cannot be trusted to keep one.
    pub watchdog: &'a Watchdog,
    /// What the progress line shows.
    pub progress: Progress,
}

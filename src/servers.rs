//! What the legs reach outside themselves: the three servers, and the threads of their stages.
//!
//! The legs are written against [`Servers`]; [`RealServers`] is what the program gives them, the simulation gives its own.

use crate::clickhouse::{ClickHouseTarget, Target};
use crate::consume::{self, NewToken};
use crate::error::Result;
use crate::kafka::{Fence, KafkaLog, KafkaWriter, TopicLog};
use crate::postgres::{Ledger, PgLedger, PgUnsentRows, UnsentRows, connect};
use crate::produce::{self, Surroundings};
use crate::threads;

/// Opens what a leg needs, when it needs it.
pub trait Servers {
    /// The session that locks and flags.
    type Ledger: Ledger + Send;
    /// The reader of unsent rows.
    type Rows: UnsentRows + Send;
    /// The topic.
    type Log: TopicLog + Send;
    /// The transactional producers.
    type Fence: Fence + Send;
    /// The target table.
    type Target: Target + Send;

    /// Opens the ledger and takes its lock; `None` if the run was asked to finish while it waited.
    ///
    /// # Errors
    /// 75 if another run holds the lock; PostgreSQL's.
    fn ledger(&self) -> Result<Option<Self::Ledger>>;

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

    /// Makes the producer of the source's rows.
    ///
    /// # Errors
    /// 78 if the client refuses its configuration.
    fn writer(&self, ledger: &Self::Ledger) -> Result<Self::Fence>;

    /// Makes the producer of offsets and dead letters.
    ///
    /// # Errors
    /// 78 if the client refuses its configuration.
    fn fence(&self, log: &Self::Log) -> Result<Self::Fence>;

    /// Opens the target.
    ///
    /// # Errors
    /// 78 if the client refuses its configuration.
    fn target(&self) -> Result<Self::Target>;

    /// Makes the source of deduplication tokens.
    ///
    /// # Errors
    /// 70 if there is no randomness.
    fn tokens(&self) -> Result<NewToken> {
        consume::tokens()
    }

    /// Runs the three stages of a leg, each on its own thread: [`threads::side_by_side`].
    ///
    /// # Errors
    /// The first failure of a stage.
    fn side_by_side<A: Send, B: Send>(
        &self,
        names: [&str; 3],
        first: impl FnMut() -> Result<Option<A>> + Send,
        second: impl FnMut(A) -> Result<Vec<B>> + Send,
        third: impl FnMut(B) -> Result<()> + Send,
    ) -> Result<()> {
        threads::side_by_side(names, first, second, third)
    }
}

/// The servers that the configuration names.
pub struct RealServers<'a> {
    around: &'a Surroundings<'a>,
}

impl<'a> RealServers<'a> {
    /// Connects to nothing yet.
    #[must_use]
    pub const fn new(around: &'a Surroundings<'a>) -> Self {
        Self { around }
    }
}

impl Servers for RealServers<'_> {
    type Ledger = PgLedger;
    type Rows = PgUnsentRows;
    type Log = KafkaLog;
    type Fence = KafkaWriter;
    type Target = ClickHouseTarget;

    fn ledger(&self) -> Result<Option<PgLedger>> {
        produce::open_ledger(self.around)
    }

    fn rows(&self, ledger: &PgLedger, highest: Vec<String>, clock_floor: i64) -> Result<PgUnsentRows> {
        let session = connect(self.around.config, "reader", self.around.watchdog)?;
        PgUnsentRows::new(session, ledger.table(), highest, self.around.config.batch.bytes, clock_floor)
    }

    fn log(&self) -> Result<KafkaLog> {
        KafkaLog::new(self.around.config, &self.around.table.topic, &self.around.table.group)
    }

    fn writer(&self, ledger: &PgLedger) -> Result<KafkaWriter> {
        produce::open_writer(self.around, ledger)
    }

    fn fence(&self, log: &KafkaLog) -> Result<KafkaWriter> {
        consume::open_fence(self.around, log)
    }

    fn target(&self) -> Result<ClickHouseTarget> {
        ClickHouseTarget::new(self.around.config, self.around.table)
    }
}

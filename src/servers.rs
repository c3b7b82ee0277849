//! What the legs reach outside themselves: the three servers, and the threads of their stages.
//!
//! The legs are written against [`Servers`]; [`RealServers`] is what the program gives them, the simulation gives its own.

use std::cell::RefCell;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clickhouse::{ClickHouseTarget, Target};
use crate::consume::{self, NewToken};
use crate::error::Result;
use crate::kafka::{Fence, KafkaLog, KafkaWriter, TopicLog};
use crate::postgres::{Ledger, PgLedger, PgUnsentRows, Session, UnsentRows, connect};
use crate::produce::{self, Surroundings};
use crate::run::Legs;
use crate::sync;
use crate::threads;

/// How old what was opened ahead may be when it is wanted. Later its answers may no longer hold, or its connections.
const FRESH: Duration = Duration::from_secs(1);

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

    /// Takes the ledger back at the end of a run, and gives up its lock: the end of the session would do it a moment later,
    /// and a run that begins in that moment would be refused.
    fn give_back(&self, ledger: Self::Ledger) {
        drop(ledger);
    }

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

    /// Opens the topic again, from whichever thread, as often as it is asked.
    fn more_logs(&self) -> Box<dyn Fn() -> Result<Self::Log> + Send>;

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
    log: RefCell<Option<Ahead<KafkaLog>>>,
    target: RefCell<Option<Ahead<ClickHouseTarget>>>,
    session: RefCell<Option<Session>>,
}

impl<'a> RealServers<'a> {
    /// Begins to open what the consume leg will need, if there is one, beside what comes before it: an idle run waits for
    /// little else.
    #[must_use]
    pub fn new(around: &'a Surroundings<'a>, legs: Legs) -> Self {
        let (mut log, mut target) = (None, None);
        if legs != Legs::Produce {
            let (config, table) = (around.config.clone(), around.table.clone());
            log = Ahead::begin("kafka", move || KafkaLog::connected(&config, &table.topic, &table.group));
            let (config, table) = (around.config.clone(), around.table.clone());
            target = Ahead::begin("clickhouse", move || ClickHouseTarget::described(&config, &table));
        }
        Self { around, log: RefCell::new(log), target: RefCell::new(target), session: RefCell::new(None) }
    }

    /// The session of a ledger that was given back, for what is left to be written.
    #[must_use]
    pub fn into_session(self) -> Option<Session> {
        self.session.into_inner()
    }
}

/// Something that is being opened on a thread of its own.
struct Ahead<T> {
    opening: JoinHandle<Result<T>>,
    begun: Instant,
}

impl<T: Send + 'static> Ahead<T> {
    /// `None` where no thread can be had.
    fn begin(name: &str, open: impl FnOnce() -> Result<T> + Send + 'static) -> Option<Self> {
        let opening = sync::spawn(name, open).ok()?;
        Some(Self { opening, begun: Instant::now() })
    }

    /// What was opened, or why it could not be; `None` if it is too old, or was never begun.
    fn take(ahead: &RefCell<Option<Self>>) -> Option<Result<T>> {
        let ahead = ahead.take().filter(|ahead| ahead.begun.elapsed() < FRESH)?;
        ahead.opening.join().ok()
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

    fn give_back(&self, ledger: PgLedger) {
        self.session.replace(ledger.release());
    }

    fn rows(&self, ledger: &PgLedger, highest: Vec<String>, clock_floor: i64) -> Result<PgUnsentRows> {
        let session = connect(self.around.config, "reader", self.around.watchdog)?;
        PgUnsentRows::new(session, ledger.table(), highest, self.around.config.batch.bytes, clock_floor)
    }

    fn log(&self) -> Result<KafkaLog> {
        Ahead::take(&self.log).unwrap_or_else(|| self.more_logs()())
    }

    fn more_logs(&self) -> Box<dyn Fn() -> Result<KafkaLog> + Send> {
        let (config, table) = (self.around.config.clone(), self.around.table.clone());
        Box::new(move || KafkaLog::new(&config, &table.topic, &table.group))
    }

    fn writer(&self, ledger: &PgLedger) -> Result<KafkaWriter> {
        produce::open_writer(self.around, ledger)
    }

    fn fence(&self, log: &KafkaLog) -> Result<KafkaWriter> {
        consume::open_fence(self.around, log)
    }

    fn target(&self) -> Result<ClickHouseTarget> {
        Ahead::take(&self.target).unwrap_or_else(|| ClickHouseTarget::new(self.around.config, self.around.table))
    }
}

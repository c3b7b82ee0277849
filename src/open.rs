//! Opens the real servers: the one place that knows which client stands behind each port.

mod ahead;
mod warm;
mod writers;

use std::cell::RefCell;
use std::collections::HashSet;
use std::time::Instant;

use self::ahead::Ahead;
use self::warm::RowClients;
pub use self::warm::Warm;
use self::writers::{Limit, likely_limit, record_limit, writer_of};
pub use self::writers::{open_fence, open_writer};
use crate::clickhouse::{ClickHouseTarget, Http};
use crate::config::{Config, TableConfig};
use crate::data::{Fate, RecordId};
use crate::error::{Error, Result};
use crate::kafka::{KafkaLog, KafkaWriter, Letter, Letters};
use crate::ports::record_types::RecordTypes;
use crate::ports::source::{Checkpoint, Ledger};
use crate::ports::target::NewToken;
use crate::ports::topic::{End, Fence as _, Of};
use crate::ports::{LegContext, Servers};
use crate::postgres::{
    Marks, PgLedger, PgPasses, PgRows, PgUnsentRows, Session, SourceTable, connect, connect_reader, kept_record_types,
    renew_reader,
};
use crate::report::Legs;
use crate::shutdown::Shutdown;
use crate::threads::watchdog::Watchdog;

/// The servers that the configuration names.
pub struct RealServers<'a> {
    leg: &'a LegContext<'a>,
    legs: Legs,
    log: RefCell<Option<Ahead<KafkaLog>>>,
    /// The one that the first leg has read.
    read_log: RefCell<Option<Result<KafkaLog>>>,
    target: RefCell<Option<Ahead<ClickHouseTarget>>>,
    reader: RefCell<Option<Ahead<Session>>>,
    /// That of the last run, if it still answers.
    renewed: RefCell<Option<Ahead<Option<Session>>>>,
    writer: RefCell<Option<Ahead<KafkaWriter>>>,
    limit: RefCell<Option<Ahead<Limit>>>,
    fence: RefCell<Option<Ahead<KafkaWriter>>>,
    /// Through it a second leg alone asks for the source's types.
    columns: RefCell<Option<Ahead<Session>>>,
    types: RefCell<Option<Ahead<(RecordTypes, Session)>>>,
    /// One that no leg needs at present.
    session: RefCell<Option<Session>>,
    /// The topic as the last run has left it.
    kept_log: RefCell<Option<KafkaLog>>,
    http: RefCell<Option<Http>>,
    /// What the last run has moved rows through, and what this one leaves of it.
    row_clients: RefCell<RowClients>,
    /// When the first of what is kept was opened.
    opened: Instant,
}

impl<'a> RealServers<'a> {
    /// Begins to open what the consume leg will need, if there is one, beside what comes before it: an idle run waits for
    /// little else. What the last run has left open is used.
    #[must_use]
    pub fn new(leg: &'a LegContext<'a>, legs: Legs, warm: Warm) -> Self {
        let Warm { session, log: mut kept_log, http, row_clients, opened, .. } = warm.usable();
        let (mut log, mut target) = (None, None);
        if legs != Legs::Produce {
            // A run that waits for its lock is to see what the one before it has left.
            log = begin_log(leg, legs == Legs::Both && leg.limits.wait_lock.is_zero(), kept_log.take());
            let (config, table) = (leg.config.clone(), leg.table.clone());
            target = Ahead::begin("clickhouse", move || {
                let http = http.map_or_else(|| Http::new(&config), |http| Ok(http.for_another_run()))?;
                ClickHouseTarget::described(http, &table)
            });
        }
        // A second leg alone asks for the source's types through it, or only leaves its history.
        let columns = if legs == Legs::Consume && session.is_none() { begin_columns(leg) } else { None };
        let mut row_clients = row_clients.watched_by(leg.watchdog);
        let renewed = row_clients.reader.take().and_then(|reader| {
            let (config, watchdog) = (leg.config.clone(), leg.watchdog.clone());
            Ahead::begin("reader", move || Ok(renew_reader(reader, &config, &watchdog)))
        });
        Self {
            leg,
            legs,
            session: RefCell::new(session),
            kept_log: RefCell::new(kept_log),
            http: RefCell::default(),
            row_clients: RefCell::new(row_clients),
            renewed: RefCell::new(renewed),
            opened,
            log: RefCell::new(log),
            read_log: RefCell::default(),
            target: RefCell::new(target),
            reader: RefCell::default(),
            writer: RefCell::default(),
            limit: RefCell::default(),
            fence: RefCell::default(),
            columns: RefCell::new(columns),
            types: RefCell::default(),
        }
    }

    /// What is left open at the end of a run. The session may have a lock still, which goes with the history.
    #[must_use]
    pub fn into_warm(self) -> Warm {
        if let Some(reader) = self.renewed() {
            self.row_clients.borrow_mut().reader = Some(reader);
        }
        let session = self.session.into_inner().or_else(|| Ahead::take(&self.columns)?.ok());
        let log = self.read_log.into_inner().and_then(Result::ok).or(self.kept_log.into_inner());
        Warm {
            session,
            log: log.and_then(|log| log.rested().ok()),
            http: self.http.into_inner(),
            row_clients: self.row_clients.into_inner(),
            opened: self.opened,
            left: Instant::now(),
        }
    }
}

impl RealServers<'_> {
    fn begin_fence(&self, log: &KafkaLog) {
        let fence = open_fence(self.leg, log);
        self.fence.replace(Ahead::begin("fence", move || fence.and_then(KafkaWriter::connected)));
    }

    /// The reader's session of the last run, once.
    fn renewed(&self) -> Option<Session> {
        Ahead::take(&self.renewed)?.ok()?
    }

    /// The limit of the topic's records, if it was asked for; the client that has asked is left for the next run.
    fn limit(&self) -> Option<Result<Option<usize>>> {
        let asked = Ahead::take(&self.limit)?;
        Some(asked.map(|(limit, admin)| {
            self.row_clients.borrow_mut().admin = admin;
            limit
        }))
    }
}

impl Servers for RealServers<'_> {
    type Ledger = PgLedger;
    type Rows = Box<dyn PgRows>;
    type Log = KafkaLog;
    type Fence = KafkaWriter;
    type Target = ClickHouseTarget;

    fn ledger(&self) -> Result<Option<PgLedger>> {
        open_ledger(self.leg, self.session.take())
    }

    fn record_types(&self) -> Result<RecordTypes> {
        let LegContext { config, table, watchdog, .. } = self.leg;
        let asked = Ahead::take(&self.types).unwrap_or_else(|| query_types(config, table, watchdog, None));
        let (types, session) = asked?;
        // The history is written through it if the leg does not take long.
        self.session.replace(Some(session));
        Ok(types)
    }

    fn give_back(&self, ledger: PgLedger) {
        // Where the history is written next, the lock is given back in the same message.
        let is_last = self.leg.config.tables.len() == 1;
        self.session.replace(if is_last { Some(ledger.into_session()) } else { ledger.release() });
    }

    fn keeping<T>(
        &self,
        ledger: Option<PgLedger>,
        to: Option<Checkpoint>,
        work: impl FnOnce() -> T,
    ) -> (T, Option<PgLedger>) {
        let Some(ledger) = ledger else { return (work(), None) };
        match Marks::begin(ledger, to, &self.leg.progress) {
            Ok(marks) => (work(), marks.end()),
            Err(ledger) => (work(), Some(*ledger)),
        }
    }

    fn rows(&self, ledger: &PgLedger, highest: Vec<String>, clock_floor: i64) -> Result<Self::Rows> {
        let leg = self.leg;
        let ready = self.row_clients.borrow_mut().reader.take().map(Ok).or_else(|| Ahead::take(&self.reader));
        let session = ready.unwrap_or_else(|| connect_reader(leg.config, leg.watchdog))?;
        let (table, bytes) = (ledger.table(), leg.config.batch.bytes);
        if table.has_order() {
            return Ok(Box::new(PgPasses::new(session, table, bytes, clock_floor)));
        }
        Ok(Box::new(PgUnsentRows::new(session, table, highest, bytes, clock_floor)))
    }

    fn log(&self) -> Result<KafkaLog> {
        let LegContext { config, table, watchdog, .. } = self.leg;
        let opened = self.read_log.take().or_else(|| Ahead::take(&self.log));
        opened.unwrap_or_else(|| KafkaLog::connected(config, &table.topic, &table.group, watchdog))
    }

    fn keep_log(&self, log: KafkaLog) {
        self.read_log.replace(Some(Ok(log)));
    }

    fn expect_rows(&self, ledger: &PgLedger, through_kept: bool) {
        let (config, table, watchdog) = (self.leg.config, self.leg.table, self.leg.watchdog);
        // A reader is of the same server as the ledger's session was, if that is the same.
        let renewed = self.renewed().filter(|_| through_kept);
        if renewed.is_none() {
            let (of, watch) = (config.clone(), watchdog.clone());
            self.reader.replace(Ahead::begin("reader", move || connect_reader(&of, &watch)));
        }
        self.row_clients.borrow_mut().reader = renewed;
        let (of, watch, table) = (config.clone(), watchdog.clone(), table.clone());
        let admin = self.row_clients.borrow_mut().admin.take();
        self.limit.replace(Ahead::begin("limit", move || record_limit(&of, &table, &watch, admin)));
        if !through_kept {
            let writer = writer_of(self.leg, ledger, Some(likely_limit(config)));
            self.writer.replace(Ahead::begin("writer", move || writer.and_then(KafkaWriter::connected)));
        }
        if self.legs == Legs::Both {
            let target = self.target.take();
            self.target.replace(target.and_then(|target| target.then("calendar", ClickHouseTarget::with_calendar)));
            let log = self.log();
            if self.row_clients.borrow().fence.is_none() {
                log.iter().for_each(|log| self.begin_fence(log));
            }
            self.read_log.replace(Some(log));
        } else {
            self.log.replace(begin_log(self.leg, false, self.kept_log.take()));
        }
    }

    fn expect_copy(&self) {
        // What has failed, or is too old, is opened again when it is wanted.
        if let Some(Ok(mut fence)) = Ahead::take(&self.fence) {
            self.fence.replace(Ahead::begin("fence", move || fence.fence().map(|()| fence)));
        }
    }

    fn expect_types(&self) {
        let (of, watch) = (self.leg.config.clone(), self.leg.watchdog.clone());
        let (table, session) = (self.leg.table.clone(), self.columns.take());
        self.types.replace(Ahead::begin("types", move || query_types(&of, &table, &watch, session)));
    }

    fn expect_records(&self, log: &KafkaLog) {
        if self.legs == Legs::Consume && self.columns.borrow().is_none() {
            self.columns.replace(begin_columns(self.leg));
        }
        if self.fence.borrow().is_none() && self.row_clients.borrow().fence.is_none() {
            self.begin_fence(log);
        }
    }

    fn more_logs(&self) -> Box<dyn Fn() -> Result<KafkaLog> + Send> {
        let (config, table, watchdog) = (self.leg.config.clone(), self.leg.table.clone(), self.leg.watchdog.clone());
        Box::new(move || KafkaLog::new(&config, &table.topic, &table.group, &watchdog))
    }

    fn letters(&self) -> Result<HashSet<RecordId>> {
        letters(self.leg)
    }

    fn writer(&self, ledger: &PgLedger) -> Result<KafkaWriter> {
        let (writer, limit) = (Ahead::take(&self.writer), self.limit());
        let (Some(writer), Some(limit)) = (writer, limit) else { return open_writer(self.leg, ledger) };
        match limit? {
            Some(other) if other != likely_limit(self.leg.config) => writer_of(self.leg, ledger, Some(other)),
            _ => writer,
        }
    }

    fn kept_writer(&self) -> Option<KafkaWriter> {
        self.row_clients.borrow_mut().writer.take()
    }

    fn fits_kept_writer(&self, writer: &KafkaWriter) -> Result<bool> {
        let usual = |limit: Option<usize>| limit.unwrap_or_else(|| likely_limit(self.leg.config));
        Ok(self.limit().transpose()?.is_some_and(|limit| usual(limit) == usual(writer.max_bytes())))
    }

    fn next_survey(&self) -> Of {
        if self.row_clients.borrow().fence.is_some() { Of::Now } else { Of::Nobody }
    }

    fn idle_survey(&self) -> Of {
        // A run of the first leg alone may have no access to the group.
        if self.legs == Legs::Both { Of::Before } else { Of::Nobody }
    }

    fn keep_pipeline(&self, writer: KafkaWriter, rows: Self::Rows) {
        if self.leg.config.kafka.transactional {
            let mut row_clients = self.row_clients.borrow_mut();
            row_clients.writer = Some(writer);
            row_clients.reader = Some(rows.into_session());
            row_clients.used = Some(Instant::now());
        }
    }

    fn keep_fence(&self, fence: KafkaWriter) {
        if self.leg.config.kafka.transactional {
            let mut row_clients = self.row_clients.borrow_mut();
            row_clients.fence = Some(fence);
            row_clients.used = Some(Instant::now());
        }
    }

    fn fence(&self, log: &KafkaLog) -> Result<KafkaWriter> {
        if let Some(kept) = self.row_clients.borrow_mut().fence.take() {
            return Ok(kept);
        }
        Ahead::take(&self.fence).unwrap_or_else(|| open_fence(self.leg, log))
    }

    fn tokens(&self) -> Result<NewToken> {
        tokens()
    }

    fn target(&self) -> Result<ClickHouseTarget> {
        let opened = Ahead::take(&self.target);
        let target = opened.unwrap_or_else(|| ClickHouseTarget::new(self.leg.config, self.leg.table))?;
        self.http.replace(Some(target.http().clone()));
        Ok(target)
    }
}

/// Opens the topic, if it is not open, and surveys it if that is wanted.
fn begin_log(leg: &LegContext<'_>, surveys: bool, kept: Option<KafkaLog>) -> Option<Ahead<KafkaLog>> {
    let (config, table, watchdog) = (leg.config.clone(), leg.table.clone(), leg.watchdog.clone());
    Ahead::begin("kafka", move || {
        let survey = |log: KafkaLog| if surveys { log.surveyed() } else { Ok(log) };
        match kept.map(|log| survey(log.watched_by(&watchdog))) {
            Some(Ok(log)) => Ok(log),
            Some(Err(error)) if error.is_transient() => Err(error),
            // A client keeps the password with which it was made.
            _ => survey(KafkaLog::connected(&config, &table.topic, &table.group, &watchdog)?),
        }
    })
}

/// Opens the session of a second leg that runs alone.
fn begin_columns(leg: &LegContext<'_>) -> Option<Ahead<Session>> {
    let (config, watchdog) = (leg.config.clone(), leg.watchdog.clone());
    Ahead::begin("columns", move || connect(&config, "columns", &watchdog))
}

/// The types of the source's columns in records, asked for through a session that may be open already, and that session.
fn query_types(
    config: &Config,
    table: &TableConfig,
    watchdog: &Watchdog,
    opened: Option<Ahead<Session>>,
) -> Result<(RecordTypes, Session)> {
    let opened = opened.and_then(Ahead::ended);
    let mut session = opened.unwrap_or_else(|| connect(config, "columns", watchdog))?;
    let found = SourceTable::find(&mut session, table)?;
    let kept = kept_record_types(&mut session, &found.name, &table.topic)?;
    Ok((kept.unwrap_or_else(|| RecordTypes::of(&found.columns)), session))
}

/// Opens the ledger of a table, through a session that an earlier run has `kept`, if it still answers, and takes its lock; `None` if
/// the run was asked to finish while it waited.
///
/// # Errors
/// 75 if another run holds the lock; PostgreSQL's.
pub fn open_ledger(leg: &LegContext<'_>, kept: Option<Session>) -> Result<Option<PgLedger>> {
    let mut ledger = PgLedger::open(kept, leg.config, leg.table, leg.shutdown, leg.watchdog)?;
    Ok(ledger.lock(leg.limits.wait_lock)?.then_some(ledger))
}

/// The records of this topic that are dead letters; none if there is no topic of letters.
fn letters(leg: &LegContext<'_>) -> Result<HashSet<RecordId>> {
    // A run that is asked to finish still completes what it has begun, and has to know all of them for that.
    let mut letters = match Letters::of(leg, End::Stable, &Shutdown::default()) {
        Err(error) if !error.is_transient() => return Ok(HashSet::new()),
        letters => letters?,
    };
    let mut found = HashSet::new();
    while let Some(chunk) = letters.next_chunk()? {
        // What was replayed may be refused again by a target that was restored, which is another letter.
        let is_known = |letter: &&Letter| letters.fate(letter) != Fate::Replayed;
        found.extend(chunk.iter().filter(is_known).map(Letter::id));
    }
    Ok(found)
}

/// Tokens that no other run ever makes: 128 random bits, and a number.
///
/// # Errors
/// 70 if the operating system gives no random bits.
pub fn tokens() -> Result<NewToken> {
    let mut run = [0; 16];
    openssl::rand::rand_bytes(&mut run).map_err(|error| Error::bug("cannot make deduplication tokens", error))?;
    let run: String = run.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut count = 0_u64;
    Ok(Box::new(move || {
        count += 1;
        format!("{run}-{count}")
    }))
}

//! The session that holds the lock, the epoch and the checkpoint.
//!
//! The commits of its flags are asynchronous (`synchronous_commit = off`): flags and checkpoint move in one transaction, so a commit that a crash of PostgreSQL loses takes both back, and recovery finds the rows'
//! records behind the checkpoint and flags them again.

use std::sync::Arc;
use std::time::Duration;

use postgres::SimpleQueryRow;

use super::catalogue::Catalogue;
use super::connect::connect_and_query;
use super::epoch::Epoch;
use super::flag::{FlagStatements, Named, Wanted};
use super::flaggable::Flaggable;
use super::held::HeldStatements;
use super::own_tables::{Misplaced, OWN_TABLES, held_table, misplaced, misplaced_sql};
use super::session::{Session, literal};
use super::source_table::SourceTable;
use super::unsent::{highest_unsent_key, highest_unsent_key_sql};
use super::{lock, replication};
use crate::config::{Config, TableConfig};
use crate::crash;
use crate::data::{Offsets, RowBatch, record_digest};
use crate::error::{Error, Result};
use crate::mutant;
use crate::ports::record_types::RecordTypes;
use crate::ports::source::{Checkpoint, Flagged, Ledger, ReplicationLag, Settled, SourceColumn, WindowRecord};
use crate::shutdown::Shutdown;
use crate::threads::watchdog::Watchdog;

/// The partition number of the source's own row in the checkpoint table: its epoch and its timestamp floor.
const SOURCE_ROW: i32 = -1;

/// The ledger of one source in a real PostgreSQL.
pub struct PgLedger {
    pub(super) session: Session,
    pub(super) table: SourceTable,
    pub(super) topic: String,
    /// The table of held rows, with its schema.
    pub(super) held: String,
    pub(super) has_held: bool,
    /// `None` if nothing was kept.
    record_types: Option<RecordTypes>,
    /// What was asked in one message with the lock, until it is wanted.
    checkpoint_ahead: Option<Vec<SimpleQueryRow>>,
    highest_ahead: Option<Vec<SimpleQueryRow>>,
    /// How many records the window has been given.
    pub(super) window: i64,
    shutdown: Shutdown,
    /// The epoch in the checkpoint, as it was read last, and the one that an earlier run has kept.
    last_epoch: Option<i64>,
    kept_epoch: Option<Epoch>,
    statements: Option<Arc<Statements>>,
}

/// What writes under an epoch.
pub(super) struct Statements {
    pub epoch: Epoch,
    pub flag: FlagStatements,
    pub held: HeldStatements,
}

impl PgLedger {
    /// Opens the ledger of a table, through a session that an earlier run has `kept`, if it still answers; its lock is not taken yet. A lock of the whole table, as a change of its columns takes it, is
    /// waited for as long as one of a row.
    ///
    /// # Errors
    /// 78 if the table is unfit, or there are no tables of pg2ch's own, or only an older version's; PostgreSQL's.
    pub fn open(
        kept: Option<Session>,
        config: &Config,
        table: &TableConfig,
        shutdown: &Shutdown,
        watchdog: &Watchdog,
    ) -> Result<Self> {
        let row_lock = config.timeouts.row_lock.as_millis().max(1).to_string();
        let settings = [("synchronous_commit", "off"), ("lock_timeout", row_lock.as_str())];
        let asked = format!("{OWN_TABLES}; {}", Catalogue::sql(table));
        let (mut session, answers) = connect_and_query(kept, config, "ledger", &settings, &asked, watchdog)?;
        session.require_writable()?;
        let (own, found) = match answers {
            Some(mut answers) => {
                let found = answers.split_off(1.min(answers.len()));
                (answers, Catalogue::of(&found))
            }
            None => {
                let found = Catalogue::look_up(&mut session, table)?;
                (session.script("cannot look up the checkpoint", OWN_TABLES)?, found)
            }
        };
        found.as_ref().map_or(Ok(()), |found| found.relation.require_apart())?;
        let (topic, table) = (table.topic.clone(), SourceTable::of(&mut session, table, found)?);
        let held = held_table(own.first(), &table.name)?;
        let kept_epoch = session.epoch.take().filter(|(source, _)| *source == table.name);
        let kept_epoch = kept_epoch.map(|(source, number)| Epoch::resumed(source, &topic, number));
        Ok(Self {
            session,
            table,
            topic,
            held,
            has_held: false,
            record_types: None,
            checkpoint_ahead: None,
            highest_ahead: None,
            window: 0,
            shutdown: shutdown.clone(),
            last_epoch: None,
            kept_epoch,
            statements: None,
        })
    }

    pub const fn table(&self) -> &SourceTable {
        &self.table
    }

    /// Marks in the session what the run has done, for a run that finds the lock taken.
    pub(super) fn mark(&mut self, done: &str) -> Result<()> {
        self.session.execute_unwatched(&self.what("mark the progress of"), &lock::mark_sql(done))
    }

    /// Gives the lock back; the session is left, unless it is broken: then its end gives the lock back.
    pub fn release(mut self) -> Option<Session> {
        match lock::give_back(&mut self.session, &self.table) {
            Ok(()) => Some(self.into_session()),
            Err(error) => {
                log::debug!("{error}");
                None
            }
        }
    }

    /// The session, with the lock that goes with it.
    pub fn into_session(self) -> Session {
        let mut session = self.session;
        session.epoch = self.kept_epoch.map(Epoch::into_kept);
        session
    }

    fn checkpoint_sql(&self) -> String {
        let (source, topic) = (literal(&self.table.name), literal(&self.topic));
        format!(
            "SELECT source, partition, next_offset, timestamp_floor, epoch,
                    EXISTS (SELECT FROM {} AS h WHERE h.source = {source} AND h.topic = {topic}), record_types, topic
             FROM pg2ch_checkpoint WHERE {}",
            self.held,
            misplaced_sql(&source, &topic)
        )
    }

    fn what(&self, verb: &str) -> String {
        format!("cannot {verb} {}", self.table.name)
    }

    /// A table whose rows cannot be flagged is refused here, before anything is sent.
    fn write_under(&mut self, epoch: Epoch) -> Result<()> {
        let flaggable = Flaggable::find(&mut self.session, &self.table, &self.held)?;
        let flag = FlagStatements::new(&self.table, &self.topic, &flaggable);
        let held = HeldStatements::new(&self.held, &self.table, &self.topic);
        self.statements = Some(Arc::new(Statements { epoch, flag, held }));
        Ok(())
    }

    pub(super) fn statements(&self) -> Result<Arc<Statements>> {
        let taken = self.statements.clone();
        taken.ok_or_else(|| Error::bug(self.what("flag rows of"), "no epoch was taken before the first flag"))
    }
}

impl Ledger for PgLedger {
    fn source_columns(&self) -> &[SourceColumn] {
        &self.table.columns
    }

    fn lock(&mut self, wait: Duration) -> Result<bool> {
        let then = format!("{}; {}", self.checkpoint_sql(), highest_unsent_key_sql(&self.table));
        let Some(answers) = lock::take(&mut self.session, &self.table, wait, &self.shutdown, &then)? else {
            return Ok(false);
        };
        let mut answers = answers.into_iter();
        self.checkpoint_ahead = answers.next();
        // Between the two stands the answer to a SET.
        self.highest_ahead = answers.nth(1);
        Ok(true)
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        let what = self.what("read the checkpoint of");
        let rows = match self.checkpoint_ahead.take() {
            Some(rows) => rows,
            None => self.session.script(&what, &self.checkpoint_sql())?.pop().unwrap_or_default(),
        };
        let number = |row: &SimpleQueryRow, at| row.get(at).and_then(|text| text.parse().ok()).unwrap_or_default();
        self.has_held = rows.first().is_some_and(|row| row.get(5) == Some("t"));
        self.record_types = None;
        let (mut checkpoint, mut epoch) = (Checkpoint::default(), None);
        let found = rows.iter().map(|row| (row.get(0).unwrap_or_default(), row.get(7).unwrap_or_default()));
        if let Some(Misplaced { what: found, why, advice, statements, .. }) =
            misplaced(&self.table.name, &self.topic, found)
        {
            let hint = format!("{advice}, run: {}", statements.replace('\n', " "));
            return Err(Error::config(what, format!("{found}: {why}"), hint));
        }
        for row in rows.iter().filter(|row| row.get(7) == Some(&*self.topic)) {
            match row.get(1).and_then(|partition| partition.parse().ok()).unwrap_or(SOURCE_ROW) {
                SOURCE_ROW => {
                    (checkpoint.timestamp_floor, epoch) = (number(row, 3), Some(number(row, 4)));
                    self.record_types = row.get(6).and_then(RecordTypes::parse);
                }
                partition => {
                    checkpoint.offsets.insert(partition, number(row, 2));
                }
            }
        }
        self.last_epoch = epoch;
        match &self.statements {
            Some(ours) if !ours.epoch.is(epoch) => Err(ours.epoch.shut_out()),
            _ => Ok(checkpoint),
        }
    }

    fn record_types(&self) -> RecordTypes {
        self.record_types.clone().unwrap_or_else(|| RecordTypes::of(&self.table.columns))
    }

    fn begin_records(&mut self, from: Option<&Offsets>) -> Result<()> {
        let next = match (&self.record_types, from) {
            (Some(known), Some(from)) => known.followed_by(&self.table.columns, from),
            _ => Some(RecordTypes::of(&self.table.columns)),
        };
        if let Some(next) = next {
            let what = self.what("keep the types of the columns of");
            self.statements()?.epoch.keep_types(&mut self.session, &what, &next.text())?;
            self.record_types = Some(next);
        }
        Ok(())
    }

    fn highest_unsent_key(&mut self) -> Result<Option<Vec<String>>> {
        if let Some(answer) = self.highest_ahead.take() {
            return Ok(highest_unsent_key(Some(&answer)));
        }
        let what = self.what("look for unsent rows of");
        let answers = self.session.transaction_script(&what, &highest_unsent_key_sql(&self.table))?;
        Ok(highest_unsent_key(answers.get(1)))
    }

    fn take_epoch(&mut self) -> Result<()> {
        let (what, table) = (self.what("take the next epoch of"), &self.table);
        // What was asked with the lock proves nothing from here on.
        self.checkpoint_ahead = None;
        self.highest_ahead = None;
        self.kept_epoch = None;
        crash::point("epoch.before");
        let epoch = Epoch::take(&mut self.session, &what, &table.name, &self.topic)?;
        crash::point("epoch.after");
        self.write_under(epoch)
    }

    fn still_has_epoch(&self) -> bool {
        if mutant::is("the epoch is not compared") {
            return self.kept_epoch.is_some();
        }
        self.kept_epoch.as_ref().is_some_and(|epoch| epoch.is(self.last_epoch))
    }

    fn resume(&mut self) -> Result<()> {
        let kept = self.kept_epoch.take();
        self.write_under(kept.ok_or_else(|| Error::bug(self.what("flag rows of"), "no epoch was kept"))?)
    }

    fn keep_epoch(&mut self) {
        self.kept_epoch = self.statements.as_ref().map(|ours| ours.epoch.clone());
    }

    fn forget_epoch(&mut self) {
        self.kept_epoch = None;
    }

    fn has_held(&self) -> bool {
        self.has_held
    }

    fn flag(&mut self, batch: &RowBatch, indices: &[usize], to: &Checkpoint) -> Result<Flagged> {
        let statements = self.statements()?;
        let Statements { epoch, flag, held } = &*statements;
        let mut rows = Vec::with_capacity(indices.len());
        for &index in indices {
            let row = batch.row(index);
            let key = std::str::from_utf8(row.key)
                .map_err(|error| Error::bug("cannot flag a row", format!("its key is no text: {error}")))?;
            rows.push((row.version, key));
        }
        let digest = |place: usize| {
            let row = batch.row(indices[place]);
            record_digest(&self.topic, row.record_key, Some(row.value), row.headers)
        };
        let wanted = Wanted { rows, digest: &digest };
        let all = Named::of(&wanted, 0..wanted.rows.len());
        if flag.run_at_once(&mut self.session, &all, epoch, to)? {
            return Ok(Flagged { flagged: indices.len(), ..Flagged::default() });
        }
        let mut flagged = flag.run(&mut self.session, &wanted, &mut |transaction, flagged| {
            let keys: Vec<&str> = flagged.unflagged().map(|place| wanted.rows[place].1).collect();
            let digests: Vec<_> = flagged.unflagged().map(digest).collect();
            held.hold(transaction, &keys, &digests)?;
            epoch.apply(transaction, to)
        })?;
        for place in flagged.locked.iter_mut().chain(&mut flagged.taken_back).chain(&mut flagged.changed) {
            *place = indices[*place];
        }
        Ok(flagged)
    }

    fn add_to_window(&mut self, records: &[WindowRecord]) -> Result<()> {
        self.window_add(records)
    }

    fn flag_window(&mut self, after: i64, max_rows: usize, timestamp_floor: i64) -> Result<Settled> {
        self.window_flag(after, max_rows, timestamp_floor)
    }

    fn settle_held(&mut self, after: i64, max_rows: usize) -> Result<Settled> {
        self.held_settle(after, max_rows)
    }

    fn replication_lag(&mut self) -> Result<Option<ReplicationLag>> {
        replication::lag(&mut self.session)
    }

    fn move_checkpoint(&mut self, to: &Checkpoint) -> Result<()> {
        let what = self.what("move the checkpoint of");
        self.statements()?.epoch.move_checkpoint(&mut self.session, &what, to)
    }
}

//! The session that holds the lock, the epoch and the checkpoint.
//!
//! The commits of its flags are asynchronous (`synchronous_commit = off`): flags and checkpoint move in one transaction, so a commit that a crash of PostgreSQL loses takes both back, and recovery finds the rows'
//! records behind the checkpoint and flags them again.

use std::time::Duration;

use postgres::{Statement, Transaction};

use super::flag::{FlagStatements, Wanted};
use super::held::HeldStatements;
use super::lock;
use super::session::{Attempt, Session};
use super::source_table::SourceTable;
use super::unsent::highest_unsent_key;
use crate::crash;
use crate::data::{RowBatch, record_digest};
use crate::error::{Error, ExitCode, Result};
use crate::ports::source::{Checkpoint, Flagged, Ledger, Settled, SourceColumn, WindowRecord};
use crate::shutdown::Shutdown;

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
    /// How many records the window has been given.
    pub(super) window: i64,
    shutdown: Shutdown,
    epoch: Option<i64>,
    statements: Option<Statements>,
}

#[derive(Clone)]
pub(super) struct Statements {
    pub checkpoint: CheckpointStatements,
    pub flag: FlagStatements,
    pub held: HeldStatements,
}

/// What moves the checkpoint inside a transaction.
#[derive(Clone)]
pub(super) struct CheckpointStatements {
    source: String,
    topic: String,
    epoch: i64,
    claim: Statement,
    partitions: Statement,
}

impl PgLedger {
    /// Makes the ledger of `table`'s way into `topic` on `session`; a lock of the whole table is waited for `row_lock` long.
    ///
    /// # Errors
    /// 78 if there are no tables of pg2ch's own, or only an older version's; PostgreSQL's.
    pub fn new(
        mut session: Session,
        table: SourceTable,
        topic: &str,
        row_lock: Duration,
        shutdown: Shutdown,
    ) -> Result<Self> {
        let what = format!("cannot use the checkpoint of {}", table.name);
        session.execute_batch(
            &what,
            &format!("SET synchronous_commit = off; SET lock_timeout = {}", row_lock.as_millis().max(1)),
        )?;
        let held = own_tables(&mut session, &what)?;
        let topic = topic.to_owned();
        Ok(Self { session, table, topic, held, has_held: false, window: 0, shutdown, epoch: None, statements: None })
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &SourceTable {
        &self.table
    }

    /// Gives the lock back; the session is left, unless it is broken: then its end gives the lock back.
    #[must_use]
    pub fn release(mut self) -> Option<Session> {
        match lock::give_back(&mut self.session, &self.table) {
            Ok(()) => Some(self.session),
            Err(error) => {
                log::debug!("{error}");
                None
            }
        }
    }

    fn what(&self, verb: &str) -> String {
        format!("cannot {verb} {}", self.table.name)
    }

    pub(super) fn statements(&mut self) -> Result<Statements> {
        if let Some(statements) = &self.statements {
            return Ok(statements.clone());
        }
        let what = self.what("prepare to flag rows of");
        let Some(epoch) = self.epoch else {
            return Err(Error::bug(what, "no epoch was taken before the first flag"));
        };
        let checkpoint = CheckpointStatements {
            source: self.table.name.clone(),
            topic: self.topic.clone(),
            epoch,
            claim: self.session.prepare(&what, CLAIM)?,
            partitions: self.session.prepare(&what, MOVE)?,
        };
        let flag = FlagStatements::prepare(&mut self.session, &self.table, &self.topic)?;
        let held = HeldStatements::prepare(&mut self.session, &self.held, &self.table, &self.topic)?;
        Ok(self.statements.insert(Statements { checkpoint, flag, held }).clone())
    }
}

/// The name of the table of held rows, with its schema.
///
/// # Errors
/// 78 if it, or the checkpoint table, is not there or not as this version needs it.
fn own_tables(session: &mut Session, what: &str) -> Result<String> {
    let found = session.query_opt(
        what,
        "SELECT pg_catalog.to_regclass('pg2ch_checkpoint') IS NOT NULL,
                EXISTS (SELECT FROM pg_catalog.pg_attribute
                        WHERE attrelid = pg_catalog.to_regclass('pg2ch_checkpoint') AND attname = 'protocol'),
                (SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
                 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE c.oid = pg_catalog.to_regclass('pg2ch_held'))",
        &[],
    )?;
    let (exists, is_present, held) = found.map_or((false, false, None), |row| (row.get(0), row.get(1), row.get(2)));
    let why = match (exists, is_present, held) {
        (true, true, Some(held)) => return Ok(held),
        (true, false, _) => "the table pg2ch_checkpoint is of an older version of pg2ch",
        (true, true, None) => "the role's search path has no table pg2ch_held",
        (false, ..) => "the role's search path has no table pg2ch_checkpoint",
    };
    Err(Error::config(what, why, "run `pg2ch init`, or load sql/postgres_init.sql"))
}

/// Holds the epoch's row until the transaction ends, so that no later epoch can be taken in between.
const CLAIM: &str = "UPDATE pg2ch_checkpoint SET timestamp_floor = greatest(timestamp_floor, $4), updated_at = now()
    WHERE source = $1 AND topic = $2 AND partition = -1 AND epoch = $3";

const MOVE: &str = "INSERT INTO pg2ch_checkpoint AS c (source, topic, partition, next_offset, epoch, protocol)
    SELECT $1, $2, p, o, $3, 2 FROM unnest($4::int[], $5::bigint[]) AS moved (p, o)
    ON CONFLICT (source, topic, partition)
    DO UPDATE SET next_offset = excluded.next_offset, epoch = excluded.epoch, updated_at = now()";

impl CheckpointStatements {
    /// Checks the epoch, inside the caller's transaction, and keeps others from taking the next one.
    pub fn claim(&self, transaction: &mut Transaction<'_>) -> Attempt<()> {
        self.apply(transaction, &Checkpoint::default())
    }

    /// Checks the epoch and moves the checkpoint, inside the caller's transaction.
    pub fn apply(&self, transaction: &mut Transaction<'_>, to: &Checkpoint) -> Attempt<()> {
        let claimed =
            transaction.execute(&self.claim, &[&self.source, &self.topic, &self.epoch, &to.timestamp_floor])?;
        if claimed != 1 {
            return Err(shut_out(&self.source).into());
        }
        if to.offsets.is_empty() {
            return Ok(());
        }
        let (partitions, offsets): (Vec<i32>, Vec<i64>) = to.offsets.iter().map(|(&p, &o)| (p, o)).unzip();
        transaction.execute(&self.partitions, &[&self.source, &self.topic, &self.epoch, &partitions, &offsets])?;
        Ok(())
    }
}

fn shut_out(source: &str) -> Error {
    Error::new(
        ExitCode::Locked,
        format!("cannot flag rows of {source}"),
        "a newer run has taken over",
        "nothing is lost: the newer run flags what this one sent. Check whether this job is scheduled twice",
    )
}

impl Ledger for PgLedger {
    fn source_columns(&self) -> &[SourceColumn] {
        &self.table.columns
    }

    fn lock(&mut self, wait: Duration) -> Result<bool> {
        lock::take(&mut self.session, &self.table, wait, &self.shutdown)
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        let what = self.what("read the checkpoint of");
        let rows = self.session.query(
            &what,
            &format!(
                "SELECT source, partition, next_offset, timestamp_floor, epoch,
                        EXISTS (SELECT FROM {} AS h WHERE h.source = $2 AND h.topic = $1)
                 FROM pg2ch_checkpoint WHERE topic = $1",
                self.held
            ),
            &[&self.topic, &self.table.name],
        )?;
        self.has_held = rows.first().is_some_and(|row| row.get(5));
        let (mut checkpoint, mut epoch) = (Checkpoint::default(), None);
        for row in rows {
            let source: String = row.get(0);
            if source != self.table.name {
                return Err(Error::config(
                    what,
                    format!("another source, {source}, already feeds topic {}", self.topic),
                    "give each source a topic of its own; if that one has moved away, delete its rows from pg2ch_checkpoint",
                ));
            }
            match row.get(1) {
                SOURCE_ROW => (checkpoint.timestamp_floor, epoch) = (row.get(3), Some(row.get(4))),
                partition => {
                    checkpoint.offsets.insert(partition, row.get(2));
                }
            }
        }
        if self.epoch.is_some() && self.epoch != epoch {
            return Err(shut_out(&self.table.name));
        }
        Ok(checkpoint)
    }

    fn highest_unsent_key(&mut self) -> Result<Option<Vec<String>>> {
        highest_unsent_key(&mut self.session, &self.table)
    }

    fn take_epoch(&mut self) -> Result<()> {
        let what = self.what("take the next epoch of");
        crash::point("epoch.before");
        let (source, topic) = (self.table.name.clone(), self.topic.clone());
        let epoch = self.session.transaction(&what, |transaction| {
            // Durable before the first send: recovery has to find it after a crash of this run and of PostgreSQL.
            transaction.batch_execute("SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = 0")?;
            let row = transaction.query_one(
                "INSERT INTO pg2ch_checkpoint AS c (source, topic, partition, next_offset, epoch, protocol)
                 VALUES ($1, $2, -1, 0, 1, 2)
                 ON CONFLICT (source, topic, partition) DO UPDATE SET epoch = c.epoch + 1, updated_at = now()
                 RETURNING epoch",
                &[&source, &topic],
            )?;
            Ok(row.get(0))
        });
        self.epoch = Some(epoch.map_err(|failure| self.session.explain(&what, failure))?);
        crash::point("epoch.after");
        self.statements = None;
        // A table whose rows cannot be flagged is refused here, before anything is sent.
        self.statements().map(drop)
    }

    fn has_held(&self) -> bool {
        self.has_held
    }

    fn flag(&mut self, batch: &RowBatch, indices: &[usize], to: &Checkpoint) -> Result<Flagged> {
        let Statements { checkpoint, flag, held } = self.statements()?;
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
        let mut flagged = flag.run(&mut self.session, &wanted, &mut |transaction, flagged| {
            let keys: Vec<&str> = flagged.unflagged().map(|place| wanted.rows[place].1).collect();
            let digests: Vec<_> = flagged.unflagged().map(digest).collect();
            held.hold(transaction, &keys, &digests)?;
            checkpoint.apply(transaction, to)
        })?;
        for place in flagged.locked.iter_mut().chain(&mut flagged.taken_back) {
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

    fn move_checkpoint(&mut self, to: &Checkpoint) -> Result<()> {
        let what = self.what("move the checkpoint of");
        let checkpoint = self.statements()?.checkpoint;
        crash::point("checkpoint.before");
        let moved = self.session.transaction(&what, |transaction| {
            // Durable, because it may go back: a crash of PostgreSQL that undid it would leave the checkpoint of a topic that
            // is gone, and hide what was sent to the new one since.
            transaction.batch_execute("SET LOCAL synchronous_commit = on")?;
            checkpoint.apply(transaction, to)?;
            crash::point("checkpoint.commit.before");
            Ok(())
        });
        moved.map_err(|failure| self.session.explain(&what, failure))?;
        crash::point("checkpoint.after");
        Ok(())
    }
}

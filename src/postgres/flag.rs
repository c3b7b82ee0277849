//! Flags rows that are still the version that was read, together with the checkpoint, in one transaction.
//!
//! The ordinary way is one UPDATE that names each version by table, place, writer **and** key. Whatever it misses is
//! looked at row by row: moved by a rewrite of the table (flagged by content), changed by an application (left alone),
//! locked (left for later), or taken back by a trigger (undone, so that the row stays equal to its record).

use std::collections::HashSet;

use postgres::error::SqlState;
use postgres::{Statement, Transaction};

use super::session::{Attempt, Session};
use super::source_table::SourceTable;
use super::wire::{Tid, Xid};
use crate::crash;
use crate::data::{RowBatch, Version};
use crate::error::{Error, Result};
use crate::ports::source::Flagged;

/// How often a transaction is begun again after a deadlock, a lock that is not given, or a flag that is taken back.
const ATTEMPTS: usize = 8;

/// The statements of one table, prepared once.
#[derive(Clone)]
pub struct FlagStatements {
    what: String,
    update: Statement,
    lockable: Statement,
    missed: Statement,
    /// Whether triggers fire behind the UPDATE, which may change again what it returned.
    has_after_triggers: bool,
}

/// Runs inside the flagging transaction, before it commits.
pub type BeforeCommit<'a> = &'a mut dyn FnMut(&mut Transaction<'_>, &Flagged) -> Attempt<()>;

/// Versions and keys of some rows of a batch, as the statements' parameters.
#[derive(Default)]
struct Named {
    indices: Vec<usize>,
    tables: Vec<u32>,
    ctids: Vec<Tid>,
    xmins: Vec<Xid>,
    keys: Vec<String>,
    values: Vec<String>,
}

impl Named {
    fn push(&mut self, batch: &RowBatch, index: usize, version: Version, with_value: bool) {
        let row = batch.row(index);
        self.indices.push(index);
        self.tables.push(version.table);
        self.ctids.push(Tid(version.ctid.0, version.ctid.1));
        self.xmins.push(Xid(version.xmin));
        self.keys.push(String::from_utf8_lossy(row.key).into_owned());
        if with_value {
            self.values.push(String::from_utf8_lossy(row.value).into_owned());
        }
    }

    fn of(batch: &RowBatch, indices: impl Iterator<Item = usize>, with_value: bool) -> Self {
        let mut named = Self::default();
        for index in indices {
            named.push(batch, index, batch.row(index).version, with_value);
        }
        named
    }
}

/// A row that the ordinary UPDATE did not flag, as it stands inside the transaction.
struct Missed {
    index: usize,
    version: Version,
    equal: bool,
    /// The UPDATE did write it, but it is not flagged: a trigger took the flag back.
    written: bool,
}

impl FlagStatements {
    /// Prepares the statements for `table`.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn prepare(session: &mut Session, table: &SourceTable) -> Result<Self> {
        let what = format!("cannot flag rows of {}", table.name);
        let (name, flag) = (&table.name, table.flag_sql());
        let by_key = table.key_equals_sql("t", "b.key");
        let same_table = if table.is_partitioned { "AND t.tableoid = b.tableoid" } else { "" };
        let update = format!(
            "WITH u AS (UPDATE {name} AS t SET {flag} = TRUE
                 FROM unnest($1::oid[], $2::tid[], $3::xid[], $4::text[]) AS b (tableoid, ctid, xmin, key)
                 WHERE t.ctid = b.ctid AND t.xmin = b.xmin {same_table} AND {by_key} AND NOT t.{flag} RETURNING t.{flag} AS flag)
             SELECT count(*) FILTER (WHERE flag) FROM u"
        );
        let lockable = format!(
            "SELECT b.n FROM unnest($1::text[]) WITH ORDINALITY AS b (key, n) JOIN {name} AS t ON {by_key}
             WHERE NOT t.{flag} FOR NO KEY UPDATE OF t SKIP LOCKED"
        );
        let missed = format!(
            "SELECT b.n, t.tableoid, t.ctid, t.xmin, row_to_json(pg2ch_record)::text = b.value,
                    t.xmin::text::bigint = (pg_catalog.txid_current() & 4294967295)
             FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS b (key, value, n) JOIN {name} AS t ON {by_key},
                  {record}
             WHERE NOT t.{flag}",
            record = table.record_sql("t"),
        );
        require_flaggable(session, table)?;
        Ok(Self {
            update: session.prepare(&what, &update)?,
            lockable: session.prepare(&what, &lockable)?,
            missed: session.prepare(&what, &missed)?,
            has_after_triggers: has_after_triggers(session, &what, table)?,
            what,
        })
    }

    /// Flags the rows at `indices`, and commits together with what `before_commit` does.
    ///
    /// # Errors
    /// PostgreSQL's, or `before_commit`'s.
    pub fn run(
        &self,
        session: &mut Session,
        batch: &RowBatch,
        indices: &[usize],
        before_commit: BeforeCommit<'_>,
    ) -> Result<Flagged> {
        let mut taken_back = HashSet::new();
        let mut skip_locked = false;
        for _ in 0..ATTEMPTS {
            let known = taken_back.len();
            let mut retry = false;
            let attempt = session.transaction(&self.what, |transaction| {
                crash::point("flag.begin.after");
                let flagged = self.flag_in(transaction, batch, indices, &mut taken_back, skip_locked)?;
                crash::point("flag.update.after");
                if taken_back.len() > known {
                    // Undo what the trigger made of those rows: an early return rolls the transaction back.
                    retry = true;
                    return Err(Error::bug(&self.what, "a flag was taken back").into());
                }
                before_commit(transaction, &flagged)?;
                crash::point("flag.commit.before");
                Ok(flagged)
            });
            match attempt {
                Ok(flagged) => {
                    crash::point("flag.commit.after");
                    return Ok(flagged);
                }
                Err(_) if retry => {}
                Err(failure) => match failure.code() {
                    Some(&SqlState::LOCK_NOT_AVAILABLE) => skip_locked = true,
                    Some(&SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE) => skip_locked = true,
                    _ => return Err(session.explain(&self.what, failure)),
                },
            }
        }
        Err(Error::unavailable(
            &self.what,
            format!("its rows were locked, or their flags taken back, {ATTEMPTS} times in a row"),
            "look for long transactions on the table and for triggers that write to it; the next run goes on from here",
        ))
    }

    fn flag_in(
        &self,
        transaction: &mut Transaction<'_>,
        batch: &RowBatch,
        indices: &[usize],
        taken_back: &mut HashSet<usize>,
        skip_locked: bool,
    ) -> Attempt<Flagged> {
        let mut flagged = Flagged { taken_back: taken_back.iter().copied().collect(), ..Flagged::default() };
        flagged.taken_back.sort_unstable();
        let wanted = indices.iter().copied().filter(|index| !taken_back.contains(index));
        let mut named = Named::of(batch, wanted, false);
        if skip_locked {
            let (free, locked) = self.lock_free(transaction, batch, &named)?;
            flagged.locked = locked;
            named = free;
        }
        flagged.flagged = self.update(transaction, &named)?;
        if flagged.flagged == named.indices.len() {
            self.look_behind_triggers(transaction, batch, &named, taken_back)?;
            return Ok(flagged);
        }
        let missed = self.missed(transaction, batch, &named.indices)?;
        let mut moved = Named::default();
        for row in &missed {
            if row.written {
                taken_back.insert(row.index);
            } else if row.equal {
                moved.push(batch, row.index, row.version, false);
            }
        }
        if !moved.indices.is_empty() {
            flagged.flagged += self.update(transaction, &moved)?;
            // Equal to its record, free, named by its very version, and still not flagged: something suppresses the update.
            let stubborn = self.missed(transaction, batch, &moved.indices)?;
            taken_back.extend(stubborn.iter().filter(|row| row.equal || row.written).map(|row| row.index));
        }
        flagged.changed = named.indices.len() - flagged.flagged;
        self.look_behind_triggers(transaction, batch, &named, taken_back)?;
        Ok(flagged)
    }

    /// Adds the rows whose flag a trigger took back after the UPDATE had returned it, deferred triggers included.
    fn look_behind_triggers(
        &self,
        transaction: &mut Transaction<'_>,
        batch: &RowBatch,
        named: &Named,
        taken_back: &mut HashSet<usize>,
    ) -> Attempt<()> {
        if self.has_after_triggers {
            transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE")?;
            let missed = self.missed(transaction, batch, &named.indices)?;
            taken_back.extend(missed.iter().filter(|row| row.equal || row.written).map(|row| row.index));
        }
        Ok(())
    }

    fn update(&self, transaction: &mut Transaction<'_>, rows: &Named) -> Attempt<usize> {
        let row = transaction.query_one(&self.update, &[&rows.tables, &rows.ctids, &rows.xmins, &rows.keys])?;
        Ok(usize::try_from(row.get::<_, i64>(0)).unwrap_or_default())
    }

    /// Locks what can be locked at once; returns it, and the indices of what is locked by others.
    fn lock_free(
        &self,
        transaction: &mut Transaction<'_>,
        batch: &RowBatch,
        named: &Named,
    ) -> Attempt<(Named, Vec<usize>)> {
        let ours: HashSet<usize> = transaction
            .query(&self.lockable, &[&named.keys])?
            .iter()
            .filter_map(|row| position(named, row.get(0)))
            .collect();
        let rest: Vec<usize> = named.indices.iter().copied().filter(|index| !ours.contains(index)).collect();
        // Unflagged and not to be had: locked. Flagged, deleted or of another key: changed, which the caller counts.
        let locked: Vec<usize> = self.missed(transaction, batch, &rest)?.iter().map(|row| row.index).collect();
        let taken: HashSet<usize> = locked.iter().copied().collect();
        let free = named.indices.iter().copied().filter(|index| !taken.contains(index));
        Ok((Named::of(batch, free, false), locked))
    }

    /// The rows of `indices` that exist and are not flagged.
    fn missed(&self, transaction: &mut Transaction<'_>, batch: &RowBatch, indices: &[usize]) -> Attempt<Vec<Missed>> {
        if indices.is_empty() {
            return Ok(Vec::new());
        }
        let named = Named::of(batch, indices.iter().copied(), true);
        // Text is compared, so the search path is the reader's; triggers, which fire on UPDATE only, keep the role's.
        transaction.batch_execute("SET LOCAL search_path = pg_catalog")?;
        let rows = transaction.query(&self.missed, &[&named.keys, &named.values])?;
        transaction.batch_execute("SET LOCAL search_path TO DEFAULT")?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let (ctid, xmin): (Tid, Xid) = (row.get(2), row.get(3));
                Some(Missed {
                    index: position(&named, row.get(0))?,
                    version: Version { table: row.get(1), ctid: (ctid.0, ctid.1), xmin: xmin.0 },
                    equal: row.get::<_, Option<bool>>(4).unwrap_or(false),
                    written: row.get(5),
                })
            })
            .collect())
    }
}

/// That rows can be flagged at all: the role may update them, and so can the table (a published one without a replica
/// identity, or with a rule, cannot). That is asked when a statement begins, not when it is prepared.
///
/// # Errors
/// PostgreSQL's, sorted by exit code.
pub fn require_flaggable(session: &mut Session, table: &SourceTable) -> Result<()> {
    let (name, flag) = (&table.name, table.flag_sql());
    let what = format!("cannot flag rows of {name}");
    // As the flagging UPDATE itself: with RETURNING, which not every rule allows.
    let sql = format!(
        "EXPLAIN WITH u AS (UPDATE {name} SET {flag} = TRUE WHERE NOT {flag} RETURNING {flag}) SELECT count(*) FROM u"
    );
    session.query(&what, &sql, &[]).map(drop)
}

/// Whether a trigger of the table, or of one of its partitions, fires after an UPDATE. `tgtype` is a set of bits: 2 is
/// BEFORE, 16 is UPDATE, 64 is INSTEAD OF (pg_trigger in PostgreSQL's sources).
fn has_after_triggers(session: &mut Session, what: &str, table: &SourceTable) -> Result<bool> {
    let found = session.query_opt(
        what,
        "SELECT 1 FROM pg_catalog.pg_trigger
         WHERE (tgrelid = $1 OR tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass)))
           AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 16 <> 0 AND tgtype & (2 | 64) = 0
         LIMIT 1",
        &[&table.oid],
    )?;
    Ok(found.is_some())
}

/// The batch index behind an ordinality, which counts from 1.
fn position(named: &Named, ordinality: i64) -> Option<usize> {
    named.indices.get(usize::try_from(ordinality).ok()?.checked_sub(1)?).copied()
}

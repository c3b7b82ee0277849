//! Flags rows that are still the version that was sent, in one transaction with what the caller adds.
//!
//! Rows are locked first, and those that another session has locked are skipped: so this transaction never waits for a row
//! while it holds another, and no application is the victim of a deadlock with it
//! (`SKIP LOCKED`: <https://www.postgresql.org/docs/current/sql-select.html#SQL-FOR-UPDATE-SHARE>). One statement locks and flags each
//! version by table, place, writer **and** key. What it misses was moved by a rewrite of the table (flagged by content),
//! changed by an application (left alone), or is locked. A row that is ours and still not flagged had its flag taken back by a
//! trigger, whatever the trigger did: the transaction is undone, so that the row stays equal to its record. A row of which a
//! constraint or a trigger refuses the flag is found by halving, and counts as one whose flag is taken back: the others go.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use postgres::Transaction;
use postgres::error::SqlState;

use super::epoch::{Epoch, Moved};
use super::explain::may_be_a_rows_fault;
use super::flaggable::Flaggable;
use super::session::{Attempt, Failure, Params, Session, typed};
use super::source_table::SourceTable;
use super::wire::{Tid, Xid, version_of};
use crate::crash;
use crate::data::Version;
use crate::error::{Error, ExitCode, Result};
use crate::ports::source::{Checkpoint, Flagged};

/// How often a transaction is begun again after a deadlock, a lock that is not given, or a flag that is taken back.
const ATTEMPTS: usize = 8;

/// After how many locks that were not given, in a trigger, the rows are looked for that wait for them.
const PATIENCE: usize = ATTEMPTS / 2;

/// How long these may be looked for: each of them may take the whole time of a lock.
const SEARCH: Duration = Duration::from_secs(20);

/// The statements of one table.
pub struct FlagStatements {
    what: String,
    /// The rows that can be locked at once, as `l`: their ordinality and place. Parameters 1 to 4 are the columns of [`Named`].
    lock: String,
    /// What flags the rows in `l`, and returns their flags.
    update: String,
    /// The flag's column, quoted.
    flag: String,
    equal: String,
    unflagged: String,
    /// Whether triggers fire behind the UPDATE, which may change again what it returned.
    has_after_triggers: bool,
    /// The keys of rows whose refusal is logged.
    logged: Mutex<HashSet<String>>,
}

/// Runs inside the flagging transaction, before it commits.
pub type BeforeCommit<'a> = &'a mut dyn FnMut(&mut Transaction<'_>, &Flagged) -> Attempt<()>;

/// Rows that are to be flagged; everything names them by their place here.
pub struct Wanted<'a> {
    /// The version and the key of each.
    pub rows: Vec<(Version, &'a str)>,
    /// The digest of the record that each has to make.
    pub digest: &'a dyn Fn(usize) -> Vec<u8>,
}

/// The same rows, or some of them, as a statement's parameters.
#[derive(Default)]
pub(super) struct Named<'a> {
    places: Vec<usize>,
    pub tables: Vec<u32>,
    pub ctids: Vec<Tid>,
    pub xmins: Vec<Xid>,
    pub keys: Vec<&'a str>,
}

impl<'a> Named<'a> {
    pub fn push(&mut self, place: usize, version: Version, key: &'a str) {
        self.places.push(place);
        self.tables.push(version.table);
        self.ctids.push(Tid(version.ctid.0, version.ctid.1));
        self.xmins.push(Xid(version.xmin));
        self.keys.push(key);
    }

    pub fn of(wanted: &Wanted<'a>, places: impl Iterator<Item = usize>) -> Self {
        let mut named = Self::default();
        for place in places {
            let (version, key) = wanted.rows[place];
            named.push(place, version, key);
        }
        named
    }

    /// The place behind an ordinality, which counts from 1.
    fn place(&self, ordinality: i64) -> Option<usize> {
        self.places.get(usize::try_from(ordinality).ok()?.checked_sub(1)?).copied()
    }
}

impl FlagStatements {
    /// The statements for rows of `table` that go to `topic`.
    pub fn new(table: &SourceTable, topic: &str, flaggable: &Flaggable) -> Self {
        let (name, flag) = (&table.name, table.flag_sql());
        let by_key = table.key_equals_sql("t", "b.key");
        let lock = format!(
            "l AS MATERIALIZED (
                 SELECT b.n, t.tableoid AS tableoid, t.ctid AS ctid
                 FROM unnest($1::oid[], $2::tid[], $3::xid[], $4::text[]) WITH ORDINALITY AS b (tableoid, ctid, xmin, key, n)
                      JOIN {name} AS t ON t.ctid = b.ctid AND t.xmin = b.xmin {read} AND {by_key}
                 WHERE NOT t.{flag} FOR {strength} OF t SKIP LOCKED)",
            read = table.same_table_sql("b.tableoid"),
            strength = flaggable.lock_strength,
        );
        let update = format!(
            "UPDATE {name} AS t SET {flag} = TRUE FROM l WHERE t.ctid = l.ctid {locked}",
            locked = table.same_table_sql("l.tableoid"),
        );
        let equal = format!(
            "SELECT b.n, t.tableoid, t.ctid, t.xmin
             FROM unnest($1::text[], $2::bytea[]) WITH ORDINALITY AS b (key, digest, n) JOIN {name} AS t ON {by_key},
                  {digest}
             WHERE NOT t.{flag} AND pg2ch_digest.digest = b.digest",
            digest = table.digest_sql("t", topic),
        );
        let unflagged = format!(
            "SELECT b.n FROM unnest($1::text[]) WITH ORDINALITY AS b (key, n) JOIN {name} AS t ON {by_key} WHERE NOT t.{flag}"
        );
        Self {
            what: format!("cannot flag rows of {name}"),
            lock,
            update,
            flag,
            equal,
            unflagged,
            has_after_triggers: flaggable.has_after_triggers,
            logged: Mutex::default(),
        }
    }

    /// Flags the wanted rows, and commits together with what `before_commit` does.
    ///
    /// # Errors
    /// PostgreSQL's; what `before_commit` returned; 69 if locks or triggers are in the way again and again.
    pub fn run(&self, session: &mut Session, wanted: &Wanted<'_>, before_commit: BeforeCommit<'_>) -> Result<Flagged> {
        let (mut taken_back, mut contended) = (BTreeSet::new(), 0);
        for _ in 0..ATTEMPTS {
            let known = taken_back.len();
            let mut retry = false;
            let attempt = session.transaction(&self.what, |transaction| {
                crash::point("flag.begin.after");
                let flagged = self.flag_in(transaction, wanted, &mut taken_back)?;
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
                // Only the table as a whole, and what triggers touch, is waited for.
                Err(failure) if is_contention(&failure) => {
                    contended += 1;
                    if contended == PATIENCE && failure.may_be_a_rows_fault() {
                        taken_back.extend(self.refused(session, wanted, &taken_back, Some(Instant::now() + SEARCH))?);
                    }
                }
                Err(failure) if failure.may_be_a_rows_fault() => {
                    let refused = self.refused(session, wanted, &taken_back, None)?;
                    if refused.is_empty() {
                        return Err(session.failed(&self.what, failure));
                    }
                    taken_back.extend(refused);
                }
                Err(failure) => return Err(session.failed(&self.what, failure)),
            }
        }
        Err(Error::unavailable(
            &self.what,
            format!("its rows were locked, or their flags taken back, {ATTEMPTS} times in a row"),
            "look for long transactions on the table and for triggers that write to it; the next run resumes here",
        ))
    }

    /// The usual end of a batch in one statement: locks the rows, claims the epoch, flags the rows and moves the checkpoint; each
    /// only if all before it went as it should. `false` if anything is otherwise: nothing has changed then, and [`run`](Self::run)
    /// finds out what it is.
    pub fn run_at_once(&self, session: &mut Session, rows: &Named<'_>, epoch: &Epoch, to: &Checkpoint) -> Result<bool> {
        if self.has_after_triggers {
            return Ok(false);
        }
        let Self { lock, update, flag, .. } = self;
        // A trigger that takes a flag back is found when the rows are changed already: the division ends the statement.
        let sql = format!(
            "WITH {lock}, {claim_and_move}, u AS ({update} AND EXISTS (SELECT FROM c) RETURNING t.{flag} AS flag)
             SELECT CASE WHEN EXISTS (SELECT FROM c) THEN
                        1 / (CASE WHEN (SELECT count(*) FILTER (WHERE flag) FROM u) = cardinality($4) THEN 1 ELSE 0 END)
                    ELSE 0 END = 1",
            claim_and_move = Epoch::sql(5, "(SELECT count(*) FROM l) = cardinality($4)"),
        );
        crash::point("flag.before");
        let before: Params<'_> = &[&rows.tables, &rows.ctids, &rows.xmins, &rows.keys];
        let row = epoch.params(before, &Moved::of(to), |params| {
            session.raw(&self.what, |client| client.query_typed_one(&sql, &typed(params)))
        });
        match row {
            Ok(row) => {
                crash::point("flag.commit.after");
                Ok(row.get(0))
            }
            Err(error) if error.code().is_some() => {
                log::debug!("{}: {error}", self.what);
                Ok(false)
            }
            Err(error) => Err(session.explain(&self.what, error)),
        }
    }

    /// The rows of which PostgreSQL refuses the flag: each try to flag some of them is undone. With a time limit, those count as well
    /// that a trigger lets wait for a lock in vain; none is named where the time is over before all are found.
    fn refused(
        &self,
        session: &mut Session,
        wanted: &Wanted<'_>,
        but: &BTreeSet<usize>,
        until: Option<Instant>,
    ) -> Result<Vec<usize>> {
        let mut suspects = vec![(0..wanted.rows.len()).filter(|place| !but.contains(place)).collect::<Vec<_>>()];
        let mut refused = Vec::new();
        while let Some(rows) = suspects.pop() {
            if until.is_some_and(|until| Instant::now() >= until) {
                return Ok(Vec::new());
            }
            let Some(error) = self.refusal(session, wanted, &rows, until.is_some())? else { continue };
            match rows.as_slice() {
                [] => {}
                &[row] => refused.push((row, error)),
                rows => {
                    let (first, second) = rows.split_at(rows.len() / 2);
                    suspects.extend([second.to_vec(), first.to_vec()]);
                }
            }
        }
        refused.iter().for_each(|(row, error)| self.log_refusal(wanted.rows[*row].1, error));
        Ok(refused.into_iter().map(|(row, _)| row).collect())
    }

    /// Why these rows, in order, cannot be flagged together, if one of them may be the reason; `contended` says whether a lock
    /// that is not given counts.
    fn refusal(
        &self,
        session: &mut Session,
        wanted: &Wanted<'_>,
        rows: &[usize],
        contended: bool,
    ) -> Result<Option<Error>> {
        let is_other = |place: &usize| rows.binary_search(place).is_err();
        let mut others: BTreeSet<usize> = (0..wanted.rows.len()).filter(is_other).collect();
        let mut was_flagged = false;
        let undone: Attempt<()> = session.transaction(&self.what, |transaction| {
            self.flag_in(transaction, wanted, &mut others)?;
            was_flagged = true;
            Err(Error::bug(&self.what, "this was to be tried").into())
        });
        match undone {
            Err(failure)
                if !was_flagged && failure.may_be_a_rows_fault() && (contended || !is_contention(&failure)) =>
            {
                Ok(Some(session.explain(&self.what, failure)))
            }
            // A lock that is in the way now is one for the next attempt, too.
            Err(failure) if !was_flagged && failure.code().is_none() => Err(session.explain(&self.what, failure)),
            _ => Ok(None),
        }
    }

    /// Names a row of which PostgreSQL refuses the flag, once in a run.
    fn log_refusal(&self, key: &str, error: &Error) {
        if self.logged.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned()) {
            let hint = match error.exit_code() {
                ExitCode::Permission => error.hint(),
                _ => {
                    "correct the row, which is sent again then, or change the constraint or trigger that the message names"
                }
            };
            log::error!(
                "{}: PostgreSQL refuses the flag of the row {key}, which was sent: {}\n\
                 hint: {hint}",
                self.what,
                error.why(),
            );
        }
    }

    fn flag_in(
        &self,
        transaction: &mut Transaction<'_>,
        wanted: &Wanted<'_>,
        taken_back: &mut BTreeSet<usize>,
    ) -> Attempt<Flagged> {
        let mut flagged = Flagged { taken_back: taken_back.iter().copied().collect(), ..Flagged::default() };
        let named = Named::of(wanted, (0..wanted.rows.len()).filter(|place| !taken_back.contains(place)));
        let (mut ours, mut number) = self.flag(transaction, &named)?;
        if ours.len() < named.places.len() {
            let known: BTreeSet<usize> = ours.iter().copied().collect();
            let missed = named.places.iter().copied().filter(|place| !known.contains(place));
            let equal = self.equal(transaction, wanted, missed.collect())?;
            let (moved, more) = self.flag(transaction, &equal)?;
            flagged.locked = equal.places.into_iter().filter(|place| !moved.contains(place)).collect();
            ours.extend(moved);
            number += more;
        }
        if self.has_after_triggers {
            transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE")?;
        }
        if self.has_after_triggers || number < ours.len() {
            taken_back.extend(self.unflagged(transaction, &Named::of(wanted, ours.iter().copied()))?);
        }
        flagged.flagged = number;
        let met: BTreeSet<usize> = ours.into_iter().chain(flagged.locked.iter().copied()).collect();
        if met.len() < named.places.len() {
            flagged.changed = named.places.into_iter().filter(|place| !met.contains(place)).collect();
        }
        Ok(flagged)
    }

    /// Locks what can be locked at once, and flags it; returns what it has locked, and how many were flagged.
    fn flag(&self, transaction: &mut Transaction<'_>, rows: &Named<'_>) -> Attempt<(Vec<usize>, usize)> {
        if rows.places.is_empty() {
            return Ok((Vec::new(), 0));
        }
        let Self { lock, update, flag, .. } = self;
        let sql = format!(
            "WITH {lock}, u AS ({update} RETURNING t.{flag} AS flag)
             SELECT (SELECT count(*) FILTER (WHERE flag) FROM u), (SELECT array_agg(n) FROM l)"
        );
        let row = transaction.query_typed_one(&sql, &typed(&[&rows.tables, &rows.ctids, &rows.xmins, &rows.keys]))?;
        let locked: Option<Vec<i64>> = row.get(1);
        let ours = locked.unwrap_or_default().into_iter().filter_map(|n| rows.place(n)).collect();
        Ok((ours, usize::try_from(row.get::<_, i64>(0)).unwrap_or_default()))
    }

    /// The rows at `places` that are not flagged and still make their record, in the version that they have now.
    fn equal<'a>(
        &self,
        transaction: &mut Transaction<'_>,
        wanted: &Wanted<'a>,
        places: Vec<usize>,
    ) -> Attempt<Named<'a>> {
        let named = Named::of(wanted, places.into_iter());
        let digests: Vec<_> = named.places.iter().map(|&place| (wanted.digest)(place)).collect();
        // Text is compared, so the search path is the reader's; triggers, which fire on UPDATE only, keep the role's.
        transaction.batch_execute("SET LOCAL search_path = pg_catalog")?;
        let rows = transaction.query_typed(&self.equal, &typed(&[&named.keys, &digests]))?;
        transaction.batch_execute("SET LOCAL search_path TO DEFAULT")?;
        let mut equal = Named::default();
        for row in rows {
            if let Some(place) = named.place(row.get(0)) {
                equal.push(place, version_of(&row, [1, 2, 3]), wanted.rows[place].1);
            }
        }
        Ok(equal)
    }

    /// Which of these rows are not flagged.
    fn unflagged(&self, transaction: &mut Transaction<'_>, rows: &Named<'_>) -> Attempt<Vec<usize>> {
        let found = transaction.query_typed(&self.unflagged, &typed(&[&rows.keys]))?;
        Ok(found.iter().filter_map(|row| rows.place(row.get(0))).collect())
    }
}

/// Whether a lock was not given, or another transaction was in the way.
fn is_contention(failure: &Failure) -> bool {
    matches!(
        failure.code(),
        Some(&SqlState::LOCK_NOT_AVAILABLE | &SqlState::T_R_DEADLOCK_DETECTED | &SqlState::T_R_SERIALIZATION_FAILURE)
    )
}

impl Failure {
    fn may_be_a_rows_fault(&self) -> bool {
        matches!(self, Self::Postgres(error) if may_be_a_rows_fault(error))
    }
}

//! Flags rows that were delivered by an earlier run: those in `pg2ch_held`, and those of the recovery window.

use std::collections::HashSet;

use super::flag::Wanted;
use super::held::{Entry, HeldStatements};
use super::ledger::PgLedger;
use super::session::{Attempt, Failure, Params, pin, typed};
use super::wire::version_of;
use crate::error::Result;
use crate::numbers::counted;
use crate::ports::source::{Checkpoint, Held, Settled};

/// Where the rows that are to be flagged stand.
pub(super) enum Passed {
    /// In `pg2ch_held`: the entries of those that need it no more are dropped.
    Entries,
    /// In the topic: the checkpoint moves past their records, and rows that cannot be flagged are held, by one entry each.
    Records(Checkpoint),
}

impl PgLedger {
    pub(super) fn held_settle(&mut self, after: i64, max_rows: usize) -> Result<Settled> {
        let what = format!("cannot flag rows of {} that were sent before", self.table.name);
        let statements = self.statements()?;
        let mut limit = i64::try_from(max_rows.max(1)).unwrap_or(i64::MAX);
        let entries = loop {
            let HeldStatements { source, topic, page, .. } = &statements.held;
            match self.entries(&what, page, &[source, topic, &after, &limit]) {
                Ok(entries) => break entries,
                // The key's type has changed: a text that is no key any more names no row. Its page is halved down to it.
                Err(failure) if failure.is_data_exception() => {
                    if limit == 1 {
                        return self.drop_unreadable(&what, after);
                    }
                    limit /= 2;
                }
                Err(failure) => return Err(self.session.explain(&what, failure)),
            }
        };
        self.flag_entries(&entries, &Passed::Entries)
    }

    /// Flags the rows that still make their record, in one transaction with what has to go with it.
    pub(super) fn flag_entries(&mut self, entries: &[Entry], passed: &Passed) -> Result<Settled> {
        let statements = self.statements()?;
        let named: Vec<&Entry> = entries.iter().filter(|entry| entry.version.is_some()).collect();
        let wanted = Wanted {
            rows: named.iter().filter_map(|entry| Some((entry.version?, entry.key.as_str()))).collect(),
            digest: &|place| named[place].digest.clone(),
        };
        let (has_held, mut gone) = (self.has_held, Vec::new());
        let flagged = statements.flag.run(&mut self.session, &wanted, &mut |transaction, flagged| {
            let stuck = flagged.unflagged().map(|place| named[place]);
            match passed {
                Passed::Entries => {
                    let stays: HashSet<i64> = stuck.map(|entry| entry.id).collect();
                    let ids: Vec<i64> = entries.iter().map(|entry| entry.id).filter(|id| !stays.contains(id)).collect();
                    if entries.iter().any(|entry| entry.version.is_none()) {
                        gone = statements.held.gone(transaction, &ids)?;
                    }
                    // Durable: an entry that a crash of PostgreSQL brings back would speak for a row that has been sent anew.
                    transaction.batch_execute("SET LOCAL synchronous_commit = on")?;
                    statements.held.drop(transaction, &ids)?;
                    statements.epoch.claim(transaction)
                }
                Passed::Records(checkpoint) => {
                    if has_held {
                        // Without its checkpoint a run finds the records of held rows in the window. An entry must not
                        // outlive its row's flag: it would speak for a row whose flag is set back. If this transaction does
                        // not commit, record and entry are there still; once it has, neither is. Where tables are restored from
                        // a backup, a key has later records than the one that its entry speaks of.
                        let (keys, digests): (Vec<&str>, Vec<Vec<u8>>) =
                            entries.iter().map(|entry| (entry.key.as_str(), entry.digest.clone())).unzip();
                        statements.held.forget(transaction, &keys, &digests)?;
                    }
                    let (keys, digests): (Vec<&str>, Vec<Vec<u8>>) =
                        stuck.map(|entry| (entry.key.as_str(), entry.digest.clone())).unzip();
                    statements.held.hold(transaction, &keys, &digests)?;
                    statements.epoch.apply(transaction, checkpoint)
                }
            }
        })?;
        self.log_gone(&gone);
        let held = |taken_back| move |&place: &usize| (place, taken_back);
        let stuck = flagged.locked.iter().map(held(false)).chain(flagged.taken_back.iter().map(held(true)));
        let held = stuck.map(|(place, taken_back)| Held { key: named[place].key.clone().into_bytes(), taken_back });
        let next = entries.last().map(|last| last.id);
        Ok(Settled { flagged: flagged.flagged as u64, held: held.collect(), next })
    }

    /// Names rows that left the table before they could be flagged: nothing keeps track of them any more.
    fn log_gone(&self, keys: &[String]) {
        let Some(first) = keys.first() else { return };
        log::warn!(
            "{} left {} after being sent and before being flagged (the first: {first}). Deleted rows need nothing; those of a detached \
             partition, or of a table that was renamed, are sent again if they come back unflagged",
            counted(keys.len() as u64, "row"),
            self.table.name,
        );
    }

    pub(super) fn entries(&mut self, what: &str, page: &str, params: Params<'_>) -> Attempt<Vec<Entry>> {
        let rows = self.session.transaction(what, |transaction| {
            pin(transaction)?;
            Ok(transaction.query_typed(page, &typed(params))?)
        })?;
        let entry = |row: &postgres::Row| {
            let version = row.get::<_, Option<u32>>(5).map(|_| version_of(row, [5, 6, 7]));
            let end = row.get::<_, Option<i32>>(3).zip(row.get(4));
            Entry { id: row.get(0), key: row.get(1), digest: row.get(2), end, version }
        };
        Ok(rows.iter().map(entry).collect())
    }

    /// Drops the entry behind `after`, whose text is no key.
    fn drop_unreadable(&mut self, what: &str, after: i64) -> Result<Settled> {
        let statements = self.statements()?;
        let HeldStatements { source, topic, .. } = &statements.held;
        let sql = format!("SELECT min(id) FROM {} WHERE source = $1 AND topic = $2 AND id > $3", self.held);
        let dropped = self.session.transaction(what, |transaction| {
            let id: i64 = transaction.query_typed_one(&sql, &typed(&[source, topic, &after]))?.get(0);
            statements.held.drop(transaction, &[id])?;
            statements.epoch.claim(transaction)?;
            Ok(id)
        });
        let id = dropped.map_err(|failure| self.session.explain(what, failure))?;
        Ok(Settled { next: Some(id), ..Settled::default() })
    }
}

impl Failure {
    /// Whether a text was no value of its type. Class 22: a value that does not fit; class 23: the check of a domain.
    pub(super) fn is_data_exception(&self) -> bool {
        self.code().is_some_and(|code| matches!(code.code().get(..2), Some("22" | "23")))
    }
}

//! Flags the rows that an earlier run has left in `pg2ch_held`, and drops the entries of those that need it no more.

use super::flag::Wanted;
use super::held::{Entry, HeldStatements};
use super::ledger::PgLedger;
use super::session::Failure;
use crate::error::Result;
use crate::ports::source::{Held, Settled};

impl PgLedger {
    pub(super) fn held_settle(&mut self, after: i64, max_rows: usize) -> Result<Settled> {
        let what = format!("cannot flag rows of {} that were sent before", self.table.name);
        let statements = self.statements()?;
        let mut limit = i64::try_from(max_rows.max(1)).unwrap_or(i64::MAX);
        let entries = loop {
            match statements.held.page(&mut self.session, &what, after, limit) {
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
        let Some(last) = entries.last() else { return Ok(Settled::default()) };
        let next = Some(last.id);
        let named: Vec<&Entry> = entries.iter().filter(|entry| entry.version.is_some()).collect();
        let wanted = Wanted {
            rows: named.iter().filter_map(|entry| Some((entry.version?, entry.key.as_str()))).collect(),
            digest: &|place| named[place].digest.clone(),
        };
        let flagged = statements.flag.run(&mut self.session, &wanted, &mut |transaction, flagged| {
            let stays: Vec<i64> = flagged.unflagged().map(|place| named[place].id).collect();
            let ids: Vec<i64> = entries.iter().map(|entry| entry.id).filter(|id| !stays.contains(id)).collect();
            statements.held.drop(transaction, &ids)?;
            statements.checkpoint.claim(transaction)
        })?;
        let held = |taken_back| move |&place: &usize| (place, taken_back);
        let stuck = flagged.locked.iter().map(held(false)).chain(flagged.taken_back.iter().map(held(true)));
        let held = stuck.map(|(place, taken_back)| Held { key: named[place].key.clone().into_bytes(), taken_back });
        Ok(Settled { flagged: flagged.flagged as u64, held: held.collect(), next })
    }

    /// Drops the entry behind `after`, whose text is no key.
    fn drop_unreadable(&mut self, what: &str, after: i64) -> Result<Settled> {
        let statements = self.statements()?;
        let HeldStatements { source, topic, .. } = &statements.held;
        let sql = format!("SELECT min(id) FROM {} WHERE source = $1 AND topic = $2 AND id > $3", self.held);
        let dropped = self.session.transaction(what, |transaction| {
            let id: i64 = transaction.query_one(&sql, &[source, topic, &after])?.get(0);
            statements.held.drop(transaction, &[id])?;
            statements.checkpoint.claim(transaction)?;
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

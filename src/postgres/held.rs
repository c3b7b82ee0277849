//! The table `pg2ch_held`: rows that were delivered and are not flagged, by their key and the digest of their record.

use postgres::{Statement, Transaction};

use super::flag::Wanted;
use super::ledger::PgLedger;
use super::session::{Attempt, Failure, Session, pin};
use super::source_table::SourceTable;
use super::wire::{Tid, Xid};
use crate::crash;
use crate::data::Version;
use crate::error::Result;
use crate::ports::source::{Held, Settled};

/// The statements of one source and topic.
#[derive(Clone)]
pub(super) struct HeldStatements {
    source: String,
    topic: String,
    hold: Statement,
    drop: Statement,
    page: String,
}

/// An entry, and the version of its row if that is unflagged and still makes the record.
struct Entry {
    id: i64,
    key: String,
    digest: Vec<u8>,
    version: Option<Version>,
}

impl HeldStatements {
    /// `name` is the table's, with its schema.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn prepare(session: &mut Session, name: &str, table: &SourceTable, topic: &str) -> Result<Self> {
        let what = format!("cannot hold rows of {}", table.name);
        let hold = format!(
            "INSERT INTO {name} (source, topic, key, digest) SELECT $1, $2, h.key, h.digest
             FROM unnest($3::text[], $4::bytea[]) AS h (key, digest)"
        );
        let drop = format!("DELETE FROM {name} WHERE source = $1 AND topic = $2 AND id = ANY ($3::bigint[])");
        let page = format!(
            "SELECT h.id, h.key, h.digest, t.tableoid, t.ctid, t.xmin
             FROM (SELECT id, key, digest FROM {name} WHERE source = $1 AND topic = $2 AND id > $3 ORDER BY id LIMIT $4) AS h
             LEFT JOIN LATERAL (SELECT t.tableoid, t.ctid, t.xmin FROM {table} AS t, {digest}
                 WHERE {by_key} AND NOT t.{flag} AND pg2ch_digest.digest = h.digest) AS t ON TRUE
             ORDER BY h.id",
            table = table.name,
            digest = table.digest_sql("t", topic),
            by_key = table.key_equals_sql("t", "h.key"),
            flag = table.flag_sql(),
        );
        // A role that may not do this is refused before anything is sent: privileges are asked for when a statement begins.
        let allowed = format!(
            "EXPLAIN WITH d AS (DELETE FROM {name} RETURNING 1)
             INSERT INTO {name} (source, topic, key, digest) SELECT '', '', '', '' FROM d"
        );
        session.query(&what, &allowed, &[])?;
        Ok(Self {
            source: table.name.clone(),
            topic: topic.to_owned(),
            hold: session.prepare(&what, &hold)?,
            drop: session.prepare(&what, &drop)?,
            page,
        })
    }

    /// Holds rows, inside the caller's transaction.
    pub fn hold(&self, transaction: &mut Transaction<'_>, keys: &[&str], digests: &[Vec<u8>]) -> Attempt<()> {
        if !keys.is_empty() {
            crash::point("hold.before");
            transaction.execute(&self.hold, &[&self.source, &self.topic, &keys, &digests])?;
            crash::point("hold.after");
        }
        Ok(())
    }

    fn drop(&self, transaction: &mut Transaction<'_>, ids: &[i64]) -> Attempt<()> {
        crash::point("unhold.before");
        transaction.execute(&self.drop, &[&self.source, &self.topic, &ids])?;
        crash::point("unhold.after");
        Ok(())
    }

    fn page(&self, session: &mut Session, what: &str, after: i64, limit: i64) -> Attempt<Vec<Entry>> {
        let rows = session.transaction(what, |transaction| {
            pin(transaction)?;
            Ok(transaction.query(&self.page, &[&self.source, &self.topic, &after, &limit])?)
        })?;
        let entry = |row: &postgres::Row| {
            let version = row.get::<_, Option<u32>>(3).map(|table| {
                let (ctid, xmin): (Tid, Xid) = (row.get(4), row.get(5));
                Version { table, ctid: (ctid.0, ctid.1), xmin: xmin.0 }
            });
            Entry { id: row.get(0), key: row.get(1), digest: row.get(2), version }
        };
        Ok(rows.iter().map(entry).collect())
    }
}

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

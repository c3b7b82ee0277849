//! The table `pg2ch_held`: rows that were delivered and are not flagged, by their key and the digest of their record.

use postgres::{Statement, Transaction};

use super::session::{Attempt, Session, pin};
use super::source_table::SourceTable;
use super::wire::{Tid, Xid};
use crate::crash;
use crate::data::Version;
use crate::error::Result;

/// The statements of one source and topic.
#[derive(Clone)]
pub(super) struct HeldStatements {
    pub source: String,
    pub topic: String,
    hold: Statement,
    drop: Statement,
    page: String,
}

/// An entry, and the version of its row if that is unflagged and still makes the record.
pub(super) struct Entry {
    pub id: i64,
    pub key: String,
    pub digest: Vec<u8>,
    pub version: Option<Version>,
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

    pub fn drop(&self, transaction: &mut Transaction<'_>, ids: &[i64]) -> Attempt<()> {
        crash::point("unhold.before");
        transaction.execute(&self.drop, &[&self.source, &self.topic, &ids])?;
        crash::point("unhold.after");
        Ok(())
    }

    pub fn page(&self, session: &mut Session, what: &str, after: i64, limit: i64) -> Attempt<Vec<Entry>> {
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

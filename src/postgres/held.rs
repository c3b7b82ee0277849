//! The table `pg2ch_held`: rows that were delivered and are not flagged, by their key and the digest of their record.

use postgres::Transaction;

use super::session::{Attempt, typed};
use super::source_table::SourceTable;
use crate::crash;
use crate::data::Version;

/// The statements of one source and topic.
pub(super) struct HeldStatements {
    pub source: String,
    pub topic: String,
    hold: String,
    drop: String,
    forget: String,
    pub page: String,
    gone: String,
}

/// A row that was delivered, and its version if that is unflagged and still makes the record.
pub(super) struct Entry {
    pub id: i64,
    pub key: String,
    pub digest: Vec<u8>,
    /// Which partition's checkpoint passes the record, and where it then stands.
    pub end: Option<(i32, i64)>,
    pub version: Option<Version>,
}

/// The entries that a query finds, each with its row's version.
pub(super) fn page_sql(table: &SourceTable, topic: &str, entries: &str) -> String {
    format!(
        "SELECT h.id, h.key, h.digest, h.end_partition, h.end_offset, t.tableoid, t.ctid, t.xmin
         FROM ({entries}) AS h
         LEFT JOIN LATERAL (SELECT t.tableoid, t.ctid, t.xmin FROM {table} AS t, {digest}
             WHERE {by_key} AND NOT t.{flag} AND pg2ch_digest.digest = h.digest) AS t ON TRUE
         ORDER BY h.id",
        digest = table.digest_sql("t", topic),
        by_key = table.key_equals_sql("t", "h.key"),
        flag = table.flag_sql(),
        table = table.name,
    )
}

impl HeldStatements {
    /// `name` is the table's, with its schema.
    pub fn new(name: &str, table: &SourceTable, topic: &str) -> Self {
        let hold = format!(
            "INSERT INTO {name} (source, topic, key, digest) SELECT $1, $2, h.key, h.digest
             FROM unnest($3::text[], $4::bytea[]) AS h (key, digest)"
        );
        let drop = format!("DELETE FROM {name} WHERE source = $1 AND topic = $2 AND id = ANY ($3::bigint[])");
        let forget = format!(
            "DELETE FROM {name} WHERE source = $1 AND topic = $2
                 AND (key IN (SELECT unnest($3::text[])) OR digest IN (SELECT unnest($4::bytea[])))"
        );
        let page = page_sql(
            table,
            topic,
            &format!(
                "SELECT id, key, digest, NULL::int AS end_partition, NULL::bigint AS end_offset
                 FROM {name} WHERE source = $1 AND topic = $2 AND id > $3 ORDER BY id LIMIT $4"
            ),
        );
        let gone = format!(
            "SELECT h.key FROM {name} AS h WHERE h.source = $1 AND h.topic = $2 AND h.id = ANY ($3::bigint[])
                 AND NOT EXISTS (SELECT FROM {table} AS t WHERE {by_key})",
            table = table.name,
            by_key = table.key_equals_sql("t", "h.key"),
        );
        Self { source: table.name.clone(), topic: topic.to_owned(), hold, drop, forget, page, gone }
    }

    /// Holds rows, inside the caller's transaction.
    pub fn hold(&self, transaction: &mut Transaction<'_>, keys: &[&str], digests: &[Vec<u8>]) -> Attempt<()> {
        if !keys.is_empty() {
            crash::point("hold.before");
            transaction.execute_typed(&self.hold, &typed(&[&self.source, &self.topic, &keys, &digests]))?;
            crash::point("hold.after");
        }
        Ok(())
    }

    /// The keys of those of these entries of whose rows the table has none.
    pub fn gone(&self, transaction: &mut Transaction<'_>, ids: &[i64]) -> Attempt<Vec<String>> {
        let rows = transaction.query_typed(&self.gone, &typed(&[&self.source, &self.topic, &ids]))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    pub fn drop(&self, transaction: &mut Transaction<'_>, ids: &[i64]) -> Attempt<()> {
        crash::point("unhold.before");
        transaction.execute_typed(&self.drop, &typed(&[&self.source, &self.topic, &ids]))?;
        crash::point("unhold.after");
        Ok(())
    }

    /// Drops the entries of these keys and records, inside the caller's transaction.
    pub fn forget(&self, transaction: &mut Transaction<'_>, keys: &[&str], digests: &[Vec<u8>]) -> Attempt<()> {
        crash::point("unhold.before");
        transaction.execute_typed(&self.forget, &typed(&[&self.source, &self.topic, &keys, &digests]))?;
        crash::point("unhold.after");
        Ok(())
    }
}

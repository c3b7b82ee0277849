//! The recovery window: which unflagged rows were delivered, as they stand, before the last run died.
//!
//! The window is normally empty, but a lost checkpoint makes it the whole topic; so it lives in a temporary table, keeps only
//! records of keys that are unsent, and of those the digest. Every step is linear in it.

use std::collections::HashMap;

use super::ledger::PgLedger;
use super::session::{Attempt, pin};
use crate::crash;
use crate::data::{Headers, record_digest};
use crate::error::Result;
use crate::ports::source::WindowRecord;

/// How many rows are compared at once: few enough for a slow disk to find them within the statement's time limit.
const CHUNK: i64 = 5_000;

impl PgLedger {
    pub(super) fn window_add(&mut self, records: &[WindowRecord]) -> Result<()> {
        let what = format!("cannot recover what was sent of {}", self.table.name);
        if self.window == 0 {
            // Keys come in no order: what holds their index decides how long it takes. It cannot be set once it is used.
            let sized = self.session.execute_batch(&what, "SET temp_buffers = '64MB'");
            sized.unwrap_or_else(|error| log::debug!("{error}"));
            self.session.execute_batch(
                &what,
                "DROP TABLE IF EXISTS pg_temp.pg2ch_window;
                 CREATE TEMPORARY TABLE pg2ch_window
                     (n bigint, key text, key_digest bytea PRIMARY KEY, partition int, timestamp_ms bigint, digest bytea);
                 CREATE INDEX pg2ch_window_n ON pg_temp.pg2ch_window (n)",
            )?;
        }
        let last: Vec<&WindowRecord> = last_of_each_key(records);
        crash::point("window.before");
        self.window_insert(&what, &last)?;
        crash::point("window.after");
        Ok(())
    }

    /// A record whose key is no key of this table is another producer's. One such must not hide its neighbours, so the
    /// records are halved until it stands alone.
    fn window_insert(&mut self, what: &str, records: &[&WindowRecord]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        // The key as the table prints it, so that another spelling by another producer counts as the same key; by its digest,
        // because a text may be longer than an index takes, though the table's own key is not. A row that is gone by now still
        // has its earlier record replaced: it may come back as that one shows it.
        let sql = format!(
            "INSERT INTO pg_temp.pg2ch_window AS w
             SELECT DISTINCT ON (k.digest) $1 + r.n, k.key, k.digest, r.partition, r.timestamp_ms, r.digest
             FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bytea[])
                      WITH ORDINALITY AS r (key, partition, timestamp_ms, digest, n)
                  LEFT JOIN {name} AS t ON {by_key},
                  LATERAL (SELECT CASE WHEN t.tableoid IS NULL THEN r.key ELSE {key} END AS key OFFSET 0) AS s,
                  LATERAL (SELECT s.key, pg_catalog.sha256(pg_catalog.convert_to(s.key, 'UTF8')) AS digest OFFSET 0) AS k
             WHERE NOT t.{flag} OR EXISTS (SELECT 1 FROM pg_temp.pg2ch_window AS o WHERE o.key_digest = k.digest)
             ORDER BY k.digest, r.n DESC
             ON CONFLICT (key_digest) DO UPDATE
             SET partition = excluded.partition, timestamp_ms = excluded.timestamp_ms, digest = excluded.digest
             WHERE excluded.partition = w.partition OR excluded.timestamp_ms >= w.timestamp_ms",
            name = self.table.name,
            by_key = self.table.key_equals_sql("t", "r.key"),
            key = self.table.key_text_sql("t"),
            flag = self.table.flag_sql(),
        );
        // A key that PostgreSQL's text cannot hold is none of ours.
        let text =
            |key: &Option<Vec<u8>>| key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned);
        let keys: Vec<_> = records.iter().map(|record| text(&record.key)).collect();
        let partitions: Vec<_> = records.iter().map(|record| record.partition).collect();
        let timestamps: Vec<_> = records.iter().map(|record| record.timestamp_ms).collect();
        let digest = |record: &&WindowRecord| {
            // Where a table has no headers, those that something on the way adds say nothing about its rows.
            let headers = if self.table.headers.is_empty() { &[] } else { record.headers.as_slice() };
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            record_digest(&self.topic, key, value, Headers::of(headers))
        };
        let digests: Vec<_> = records.iter().map(digest).collect();
        let before = self.window;
        let inserted = self.session.transaction(what, |transaction| {
            pin(transaction)?;
            Ok(transaction.execute(&sql, &[&before, &keys, &partitions, &timestamps, &digests])?)
        });
        match inserted {
            Ok(_) => {
                self.window += i64::try_from(records.len()).unwrap_or_default();
                Ok(())
            }
            Err(failure) if failure.is_data_exception() => {
                if records.len() > 1 {
                    let (left, right) = records.split_at(records.len() / 2);
                    self.window_insert(what, left)?;
                    self.window_insert(what, right)?;
                }
                Ok(())
            }
            Err(failure) => Err(self.session.explain(what, failure)),
        }
    }

    /// Holds every unflagged row that makes the last record of its key, chunk by chunk in the log's order. None is flagged
    /// before the checkpoint has passed the window: so what dies in between is simply done again.
    pub(super) fn window_hold(&mut self) -> Result<()> {
        if self.window == 0 {
            return Ok(());
        }
        let what = format!("cannot compare the rows of {} with what was sent", self.table.name);
        self.session.execute_batch(&what, "ANALYZE pg_temp.pg2ch_window")?;
        let sql = format!(
            "INSERT INTO {held} (source, topic, key, digest)
             SELECT $1, $2, w.key, w.digest
             FROM pg_temp.pg2ch_window AS w JOIN {name} AS t ON {by_key}, {digest}
             WHERE w.n > $3 AND w.n <= $4 AND NOT t.{flag} AND pg2ch_digest.digest = w.digest
             ORDER BY w.n",
            held = self.held,
            name = self.table.name,
            by_key = self.table.key_equals_sql("t", "w.key"),
            digest = self.table.digest_sql("t", &self.topic),
            flag = self.table.flag_sql(),
        );
        let (source, topic) = (self.table.name.clone(), self.topic.clone());
        let checkpoint = self.statements()?.checkpoint;
        let mut from = 0;
        while from < self.window {
            let to = from + CHUNK;
            crash::point("window.hold.before");
            let held: Attempt<u64> = self.session.transaction(&what, |transaction| {
                checkpoint.claim(transaction)?;
                pin(transaction)?;
                Ok(transaction.execute(&sql, &[&source, &topic, &from, &to])?)
            });
            self.has_held |= held.map_err(|failure| self.session.explain(&what, failure))? > 0;
            crash::point("window.hold.after");
            from = to;
        }
        self.window = 0;
        self.session.execute_batch(&what, "DROP TABLE pg_temp.pg2ch_window")
    }
}

/// The records that count, in log order: in a partition a later one replaces an earlier one; across partitions (their
/// number has changed) the newer one does.
fn last_of_each_key(records: &[WindowRecord]) -> Vec<&WindowRecord> {
    let mut last: HashMap<&[u8], usize> = HashMap::new();
    for (index, record) in records.iter().enumerate() {
        // No text of PostgreSQL's holds a zero byte: such a key is none of ours.
        let Some(key) = record.key.as_deref().filter(|key| !key.contains(&0)) else { continue };
        let newer = last.get(key).is_none_or(|&known| {
            records[known].partition == record.partition || records[known].timestamp_ms <= record.timestamp_ms
        });
        if newer {
            last.insert(key, index);
        }
    }
    let mut indices: Vec<usize> = last.into_values().collect();
    indices.sort_unstable();
    indices.into_iter().map(|index| &records[index]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(partition: i32, offset: i64, timestamp_ms: i64, key: &str, value: &str) -> WindowRecord {
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        WindowRecord { partition, offset, timestamp_ms, key: bytes(key), value: bytes(value), headers: Vec::new() }
    }

    #[test]
    fn the_last_record_of_a_key_counts_not_the_first() {
        let records = [record(0, 1, 10, "k", "a"), record(0, 5, 10, "k", "b"), record(1, 2, 9, "k", "c")];
        let last = last_of_each_key(&records);
        assert_eq!(last.iter().map(|r| r.offset).collect::<Vec<_>>(), [5]);
    }
}

//! The recovery window: which unflagged rows were delivered, unchanged since, before the last run died.
//!
//! The window is normally empty, but a lost checkpoint makes it the whole topic. So it is stored in a temporary table, with
//! the records of unsent keys only, and of those the digest. Every step is linear in it. Its rows are flagged in the order of
//! their keys' last records, and the checkpoint moves with them: a recovery that dies keeps what it has done, and none
//! of the records that are still above the checkpoint belongs to a row that it has flagged.

use std::collections::HashMap;

use super::held::page_sql;
use super::ledger::PgLedger;
use super::session::{Params, pin, typed};
use super::settle::Passed;
use crate::crash;
use crate::data::{Headers, Offsets, record_digest};
use crate::error::Result;
use crate::ports::source::{Checkpoint, Settled, WindowRecord};

impl PgLedger {
    pub(super) fn window_add(&mut self, records: &[WindowRecord]) -> Result<()> {
        let what = format!("cannot recover what was sent of {}", self.table.name);
        if self.window == 0 {
            // Keys come in no order: what holds their index decides how long it takes. It cannot be set once it is used. The other
            // index grows with the rows: made at the end it would take one statement as long as the window is large.
            let sized = self.session.execute_batch(&what, "SET temp_buffers = '64MB'");
            sized.unwrap_or_else(|error| log::debug!("{error}"));
            self.session.execute_batch(
                &what,
                "DROP TABLE IF EXISTS pg_temp.pg2ch_window;
                 CREATE TEMPORARY TABLE pg2ch_window
                     (n bigint, key text, key_bytes bytea PRIMARY KEY, partition int, timestamp_ms bigint, digest bytea,
                      end_partition int, end_offset bigint);
                 CREATE INDEX ON pg_temp.pg2ch_window (n)",
            )?;
        }
        // Where the record's key is not the row's, PostgreSQL alone finds that, in the value.
        let has_row_key = self.table.message_key.is_empty();
        let last = if has_row_key { last_of_each_key(records) } else { each(records) };
        crash::point("window.before");
        self.window_insert(&what, &last)?;
        crash::point("window.after");
        Ok(())
    }

    /// A record whose key is no key of this table is another producer's. One such must not hide its neighbours, so the
    /// records are halved until it stands alone.
    fn window_insert(&mut self, what: &str, records: &[Last<'_>]) -> Result<()> {
        if records.is_empty() {
            return Ok(());
        }
        // The key as the table prints it, so that another spelling by another producer counts as the same key. A long one by
        // its digest, because a text may be longer than an index takes, though the table's own key is not; no UTF-8 begins
        // with its first byte. A row that is gone by now still has its earlier record replaced: it may come back as that one
        // shows it. The entry moves to the key's last record, whichever of them counts.
        let has_row_key = self.table.message_key.is_empty();
        let (row_key, end, newest) = if has_row_key {
            ("r.named".to_owned(), "r.n, r.end_partition, r.end_offset", "r.n DESC")
        } else {
            let end = "max(r.n) OVER last, first_value(r.end_partition) OVER last, first_value(r.end_offset) OVER last";
            // A row's versions have rising timestamps, into whichever partitions they went.
            (format!("{} OFFSET 0", self.table.row_key_sql("r.named")), end, "r.timestamp_ms DESC, r.n DESC")
        };
        let sql = format!(
            "INSERT INTO pg_temp.pg2ch_window AS w (key, key_bytes, partition, timestamp_ms, digest, n, end_partition, end_offset)
             SELECT DISTINCT ON (k.bytes) k.key, k.bytes, r.partition, r.timestamp_ms, r.digest, $1 + {end}
             FROM unnest($2::text[], $3::int[], $4::bigint[], $5::bytea[], $6::int[], $7::bigint[])
                      WITH ORDINALITY AS r (named, partition, timestamp_ms, digest, end_partition, end_offset, n)
                  CROSS JOIN LATERAL (SELECT {row_key}) AS f (key)
                  LEFT JOIN {name} AS t ON {by_key},
                  LATERAL (SELECT CASE WHEN t.tableoid IS NULL THEN f.key ELSE {key} END AS key OFFSET 0) AS s,
                  LATERAL (SELECT s.key, pg_catalog.convert_to(s.key, 'UTF8') AS utf8 OFFSET 0) AS u,
                  LATERAL (SELECT u.key, CASE WHEN pg_catalog.octet_length(u.utf8) <= 64 THEN u.utf8
                           ELSE '\\xff'::bytea || pg_catalog.sha256(u.utf8) END AS bytes OFFSET 0) AS k
             WHERE NOT t.{flag} OR EXISTS (SELECT 1 FROM pg_temp.pg2ch_window AS o WHERE o.key_bytes = k.bytes)
             WINDOW last AS (PARTITION BY k.bytes ORDER BY r.n DESC)
             ORDER BY k.bytes, {newest}
             ON CONFLICT (key_bytes) DO UPDATE
             SET n = excluded.n, end_partition = excluded.end_partition, end_offset = excluded.end_offset,
                 (partition, timestamp_ms, digest) = (
                     SELECT c.p, c.t, c.d FROM (VALUES (excluded.partition, excluded.timestamp_ms, excluded.digest, TRUE),
                                             (w.partition, w.timestamp_ms, w.digest, FALSE)) AS c (p, t, d, newer)
                     WHERE c.newer = (excluded.partition = w.partition OR excluded.timestamp_ms >= w.timestamp_ms))",
            name = self.table.name,
            by_key = self.table.key_equals_sql("t", "f.key"),
            key = self.table.key_text_sql("t"),
            flag = self.table.flag_sql(),
        );
        // A key that PostgreSQL's text cannot hold is none of ours.
        let text =
            |key: &Option<Vec<u8>>| key.as_deref().and_then(|key| std::str::from_utf8(key).ok()).map(str::to_owned);
        let named = |record: &WindowRecord| text(if has_row_key { &record.key } else { &record.value });
        let keys: Vec<_> = records.iter().map(|last| named(last.counts)).collect();
        let partitions: Vec<_> = records.iter().map(|last| last.counts.partition).collect();
        let timestamps: Vec<_> = records.iter().map(|last| last.counts.timestamp_ms).collect();
        let digest = |last: &Last<'_>| {
            let record = last.counts;
            // Where a table has no headers, those that something on the way adds say nothing about its rows.
            let headers = if self.table.headers.is_empty() { &[] } else { record.headers.as_slice() };
            let (key, value) = (record.key.as_deref(), record.value.as_deref());
            record_digest(&self.topic, key, value, Headers::of(headers))
        };
        let digests: Vec<_> = records.iter().map(digest).collect();
        let end_partitions: Vec<_> = records.iter().map(|last| last.end.partition).collect();
        let end_offsets: Vec<_> = records.iter().map(|last| last.end.offset + 1).collect();
        let before = self.window;
        let inserted = self.session.transaction(what, |transaction| {
            pin(transaction)?;
            let of_records: Params<'_> =
                &[&before, &keys, &partitions, &timestamps, &digests, &end_partitions, &end_offsets];
            Ok(transaction.execute_typed(&sql, &typed(of_records))?)
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

    /// Flags a page of the rows that make the last record of their key, holds those that cannot be flagged, and moves the
    /// checkpoint past these records.
    pub(super) fn window_flag(&mut self, after: i64, max_rows: usize, timestamp_floor: i64) -> Result<Settled> {
        if self.window == 0 {
            return Ok(Settled::default());
        }
        let what = format!("cannot compare the rows of {} with what was sent", self.table.name);
        if after == 0 {
            self.session.execute_batch(&what, "ANALYZE pg_temp.pg2ch_window")?;
        }
        crash::point("window.flag.before");
        let page = page_sql(
            &self.table,
            &self.topic,
            "SELECT n AS id, key, digest, end_partition, end_offset FROM pg_temp.pg2ch_window WHERE n > $1 ORDER BY n LIMIT $2",
        );
        let limit = i64::try_from(max_rows.max(1)).unwrap_or(i64::MAX);
        let entries =
            self.entries(&what, &page, &[&after, &limit]).map_err(|failure| self.session.explain(&what, failure))?;
        if entries.is_empty() {
            self.window = 0;
            self.session.execute_batch(&what, "DROP TABLE pg_temp.pg2ch_window")?;
            return Ok(Settled::default());
        }
        let offsets: Offsets = entries.iter().filter_map(|entry| entry.end).collect();
        let settled = self.flag_entries(&entries, &Passed::Records(Checkpoint { offsets, timestamp_floor }))?;
        self.has_held |= !settled.held.is_empty();
        crash::point("window.flag.after");
        Ok(settled)
    }
}

/// What a block of the window shows of a key.
struct Last<'a> {
    /// The record that counts: in a partition a later one replaces an earlier one; across partitions (their number has
    /// changed) the newer one does.
    counts: &'a WindowRecord,
    /// The one that was read last.
    end: &'a WindowRecord,
}

fn each(records: &[WindowRecord]) -> Vec<Last<'_>> {
    records.iter().map(|record| Last { counts: record, end: record }).collect()
}

/// One entry for each key, in the order of their last records.
fn last_of_each_key(records: &[WindowRecord]) -> Vec<Last<'_>> {
    let mut last: HashMap<&[u8], (usize, usize)> = HashMap::new();
    for (index, record) in records.iter().enumerate() {
        // No text of PostgreSQL's holds a zero byte: such a key is none of ours.
        let Some(key) = record.key.as_deref().filter(|key| !key.contains(&0)) else { continue };
        let newer = |&(_, known): &(usize, usize)| {
            records[known].partition == record.partition || records[known].timestamp_ms <= record.timestamp_ms
        };
        let counts = match last.get(key) {
            Some(known) if !newer(known) => known.1,
            _ => index,
        };
        last.insert(key, (index, counts));
    }
    let mut places: Vec<_> = last.into_values().collect();
    places.sort_unstable();
    places.into_iter().map(|(end, counts)| Last { counts: &records[counts], end: &records[end] }).collect()
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
        assert_eq!(last.iter().map(|last| (last.counts.offset, last.end.offset)).collect::<Vec<_>>(), [(5, 2)]);
    }
}

//! The recovery window: which unflagged rows were delivered, as they stand, before the last run died.
//!
//! The window is normally empty, but a lost checkpoint makes it the whole topic; so it lives in a temporary table, and
//! keeps only records of keys that are unsent. Until the last step nothing is written that a crash could leave behind.

use std::collections::HashMap;

use postgres::error::SqlState;

use super::ledger::PgLedger;
use super::wire::{Tid, Xid};
use crate::crash;
use crate::data::{RowBatch, Version};
use crate::error::Result;
use crate::ports::source::{Checkpoint, Held, Ledger, Recovered, WindowRecord};

/// How many rows are compared and flagged at once.
const CHUNK: i64 = 5_000;

impl PgLedger {
    pub(super) fn window_add(&mut self, records: &[WindowRecord]) -> Result<()> {
        let what = format!("cannot recover what was sent of {}", self.table.name);
        self.session.execute_batch(
            &what,
            "CREATE TEMPORARY TABLE IF NOT EXISTS pg2ch_window
                 (key text, digest bytea PRIMARY KEY, partition int, record_offset bigint, timestamp_ms bigint, value text)",
        )?;
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
        // because a text may be longer than an index takes, though the table's own key is not.
        let sql = format!(
            "INSERT INTO pg_temp.pg2ch_window AS w
             SELECT DISTINCT ON (k.digest) k.key, k.digest, r.partition, r.record_offset, r.timestamp_ms, r.value
             FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bigint[], $5::text[])
                      WITH ORDINALITY AS r (key, partition, record_offset, timestamp_ms, value, n)
                  JOIN {name} AS t ON {by_key}, LATERAL (SELECT {key} AS key, pg_catalog.sha256(convert_to({key}, 'UTF8')) AS digest) AS k
             WHERE NOT t.{flag} OR EXISTS (SELECT 1 FROM pg_temp.pg2ch_window AS o WHERE o.digest = k.digest)
             ORDER BY k.digest, r.n DESC
             ON CONFLICT (digest) DO UPDATE SET partition = excluded.partition, record_offset = excluded.record_offset,
                 timestamp_ms = excluded.timestamp_ms, value = excluded.value
             WHERE excluded.partition = w.partition OR excluded.timestamp_ms >= w.timestamp_ms",
            name = self.table.name,
            by_key = self.table.key_equals_sql("t", "r.key"),
            key = self.table.key_text_sql("t"),
            flag = self.table.flag_sql(),
        );
        // What PostgreSQL's text cannot hold equals no row; it is the last record of its key all the same.
        let text = |bytes: &Option<Vec<u8>>| {
            let text = bytes.as_deref().and_then(|b| std::str::from_utf8(b).ok());
            text.filter(|text| !text.contains('\0')).map(str::to_owned)
        };
        let keys: Vec<_> = records.iter().map(|record| text(&record.key)).collect();
        let partitions: Vec<_> = records.iter().map(|record| record.partition).collect();
        let offsets: Vec<_> = records.iter().map(|record| record.offset).collect();
        let timestamps: Vec<_> = records.iter().map(|record| record.timestamp_ms).collect();
        let values: Vec<_> = records.iter().map(|record| text(&record.value)).collect();
        let inserted = self
            .session
            .raw(what, |client| client.execute(sql.as_str(), &[&keys, &partitions, &offsets, &timestamps, &values]));
        match inserted {
            Ok(_) => Ok(()),
            // Class 22: a value that does not fit its type; class 23: the check of a domain.
            Err(error) if error.code().is_some_and(is_data_exception) => {
                if records.len() > 1 {
                    let (left, right) = records.split_at(records.len() / 2);
                    self.window_insert(what, left)?;
                    self.window_insert(what, right)?;
                }
                Ok(())
            }
            Err(error) => Err(self.session.explain(what, error)),
        }
    }

    pub(super) fn window_settle(&mut self, end: &Checkpoint) -> Result<Recovered> {
        let mut recovered = Recovered::default();
        let mut after = None;
        loop {
            let (batch, places) = self.window_matches(after.as_deref())?;
            if batch.is_empty() {
                break;
            }
            let indices: Vec<usize> = (0..batch.len()).collect();
            crash::point("settle.flag.before");
            let flagged = self.flag_rows(&batch, &indices, &|_| None)?;
            crash::point("settle.flag.after");
            recovered.flagged += flagged.flagged as u64;
            let held = |taken_back| move |index: &usize| (*index, taken_back);
            let stuck = flagged.locked.iter().map(held(false)).chain(flagged.taken_back.iter().map(held(true)));
            recovered.held.extend(stuck.map(|(index, taken_back)| Held {
                key: batch.row(index).key.to_vec(),
                partition: places[index].0,
                offset: places[index].1,
                taken_back,
            }));
            after = Some(String::from_utf8_lossy(batch.row(batch.len() - 1).key).into_owned());
        }
        let what = format!("cannot recover what was sent of {}", self.table.name);
        self.session.execute_batch(&what, "DROP TABLE IF EXISTS pg_temp.pg2ch_window")?;
        let mut to = end.clone();
        for held in &recovered.held {
            to.offsets.entry(held.partition).and_modify(|next| *next = (*next).min(held.offset)).or_insert(held.offset);
        }
        crash::point("settle.move.before");
        Ledger::move_checkpoint(self, &to)?;
        Ok(recovered)
    }

    /// Unflagged rows that equal their last record, in the keys' text order, with the records' places.
    fn window_matches(&mut self, after: Option<&str>) -> Result<(RowBatch, Vec<(i32, i64)>)> {
        let what = format!("cannot compare the rows of {} with what was sent", self.table.name);
        if self
            .session
            .query_opt(&what, "SELECT 1 WHERE to_regclass('pg_temp.pg2ch_window') IS NOT NULL", &[])?
            .is_none()
        {
            return Ok((RowBatch::default(), Vec::new()));
        }
        let sql = format!(
            "SELECT t.tableoid, t.ctid, t.xmin, w.key, w.value, w.partition, w.record_offset
             FROM (SELECT * FROM pg_temp.pg2ch_window AS w WHERE $1::text IS NULL OR w.key COLLATE \"C\" > $1
                   ORDER BY w.key COLLATE \"C\") AS w
             JOIN {name} AS t ON {by_key}, {record}
             WHERE NOT t.{flag} AND row_to_json(pg2ch_record)::text = w.value
             ORDER BY w.key COLLATE \"C\" LIMIT $2",
            name = self.table.name,
            by_key = self.table.key_equals_sql("t", "w.key"),
            record = self.table.record_sql("t"),
            flag = self.table.flag_sql(),
        );
        let rows = self.session.in_catalog(&what, |session| session.query(&what, sql.as_str(), &[&after, &CHUNK]))?;
        let mut batch = RowBatch::default();
        let mut places = Vec::new();
        for row in rows {
            let (ctid, xmin): (Tid, Xid) = (row.get(1), row.get(2));
            let version = Version { table: row.get(0), ctid: (ctid.0, ctid.1), xmin: xmin.0 };
            batch.push(version, row.get::<_, &str>(3).as_bytes(), row.get::<_, &str>(4).as_bytes());
            places.push((row.get(5), row.get(6)));
        }
        Ok((batch, places))
    }
}

fn is_data_exception(code: &SqlState) -> bool {
    matches!(code.code().get(..2), Some("22" | "23"))
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
        WindowRecord { partition, offset, timestamp_ms, key: bytes(key), value: bytes(value) }
    }

    #[test]
    fn the_last_record_of_a_key_counts_not_the_first() {
        let records = [record(0, 1, 10, "k", "a"), record(0, 5, 10, "k", "b"), record(1, 2, 9, "k", "c")];
        let last = last_of_each_key(&records);
        assert_eq!(last.iter().map(|r| r.offset).collect::<Vec<_>>(), [5]);
    }
}

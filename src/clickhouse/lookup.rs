//! Which records of a range the target holds.
//!
//! The minmax index on `(_partition, _offset)` makes this quick where the key's order follows the offsets.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::row_binary;
use super::sql::quote;
use super::target_table::ClickHouseTarget;
use crate::data::{Offsets, Ranges, RecordId};
use crate::error::{Error, Result};

/// Int32, Int64 and Int64, as RowBinary has them.
const ROW: usize = 20;

// The columns may be Nullable, which RowBinary shows by one more byte.
const PARTITION: &str = "ifNull(toInt32(_partition), toInt32(-1))";
pub(crate) const OFFSET: &str = "ifNull(toInt64(_offset), toInt64(-1))";
pub(crate) const TIMESTAMP: &str = "ifNull(toUnixTimestamp64Milli(_timestamp), toInt64(-1))";

impl ClickHouseTarget {
    pub(super) fn lookup(&mut self, ranges: &Ranges) -> Result<HashSet<RecordId>> {
        if ranges.is_empty() {
            return Ok(HashSet::new());
        }
        let conditions: Vec<String> = ranges
            .iter()
            .map(|(partition, (start, end))| {
                format!("(_partition = {partition} AND _offset >= {start} AND _offset < {end})")
            })
            .collect();
        self.look_up(&conditions.join(" OR "))
    }

    /// Which of a few records, wherever they lie, the table holds.
    pub(crate) fn held_of(&mut self, records: &[RecordId]) -> Result<HashSet<RecordId>> {
        if records.is_empty() {
            return Ok(HashSet::new());
        }
        let places: Vec<String> = records.iter().map(|id| format!("({}, {})", id.partition, id.offset)).collect();
        self.look_up(&format!("(_partition, _offset) IN ({})", places.join(", ")))
    }

    /// Why a row policy hides rows from this user, if one does, and how to lift it. Only the plan of a query shows it without a
    /// privilege of its own.
    pub(crate) fn row_policy(&mut self) -> Result<Option<(String, String)>> {
        let (name, user) = (self.sql_name(), quote(self.http.user()));
        let what = format!("cannot look up the row policies of {}", self.name());
        let plan = self.query(&what, &format!("EXPLAIN actions = 1 SELECT 1 FROM {name}"))?;
        Ok(filter_in(&String::from_utf8_lossy(&plan)).map(|filter| {
            let why = format!(
                "a row policy shows {user} only rows with {filter}; those that it hides would be inserted again"
            );
            (why, format!("CREATE ROW POLICY pg2ch ON {name} USING 1 TO {user};"))
        }))
    }

    /// The partitions that have an offset from these on: 60 ms for 60 million rows, with the index or without. A policy that hides rows
    /// is no reason to refuse it: the offsets are trusted.
    pub(super) fn partitions_from(&mut self, offsets: &Offsets) -> Result<BTreeSet<i32>> {
        let from =
            offsets.iter().map(|(partition, offset)| format!("(_partition = {partition} AND _offset >= {offset})"));
        let conditions: Vec<String> = from.collect();
        if conditions.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (name, conditions) = (self.sql_name(), conditions.join(" OR "));
        let found =
            self.ids(&format!("DISTINCT {PARTITION}, toInt64(0), toInt64(1) FROM {name} WHERE {conditions}"))?;
        Ok(found.into_iter().map(|id| id.partition).collect())
    }

    /// The highest offset of each partition.
    pub(super) fn highest_offsets(&mut self) -> Result<BTreeMap<i32, i64>> {
        let name = self.sql_name();
        let highest = self.rows(&format!("{PARTITION}, max({OFFSET}), toInt64(0) FROM {name} GROUP BY 1"))?;
        Ok(highest.into_iter().map(|id| (id.partition, id.offset)).collect())
    }

    fn look_up(&mut self, condition: &str) -> Result<HashSet<RecordId>> {
        let name = self.sql_name();
        let held = self.rows(&format!("{PARTITION}, {OFFSET}, {TIMESTAMP} FROM {name} WHERE {condition}"))?;
        Ok(held.into_iter().collect())
    }

    /// Those that are found, of a table no rows of which are hidden.
    fn rows(&mut self, select: &str) -> Result<Vec<RecordId>> {
        if !self.sees_all_rows {
            if let Some((why, fix)) = self.row_policy()? {
                return Err(Error::config(self.what(), why, format!("let its user see every row: {fix}")));
            }
            self.sees_all_rows = true;
        }
        self.ids(select)
    }

    fn what(&self) -> String {
        format!("cannot query which records {} holds", self.name())
    }

    fn ids(&mut self, select: &str) -> Result<Vec<RecordId>> {
        let what = self.what();
        // An array has its length in front: what a proxy has cut off is missed.
        let answer =
            self.query(&what, &format!("SELECT groupArray(tuple(*)) FROM (SELECT {select}) FORMAT RowBinary"))?;
        match row_binary::length(&answer) {
            Some((count, rows)) if Some(rows.len()) == count.checked_mul(ROW) => {
                Ok(rows.chunks_exact(ROW).filter_map(parse).collect())
            }
            _ => Err(self.http.unreadable(&what, format!("its {} bytes are not an array of rows", answer.len()))),
        }
    }
}

/// The condition by which a plan leaves out rows; a policy that shows all is the constant 1.
fn filter_in(plan: &str) -> Option<&str> {
    let filters = plan.lines().filter_map(|line| line.trim().strip_prefix("Row level filter column:"));
    filters.map(str::trim).find(|filter| *filter != "1")
}

fn parse(row: &[u8]) -> Option<RecordId> {
    Some(RecordId {
        partition: i32::from_le_bytes(row.get(..4)?.try_into().ok()?),
        offset: i64::from_le_bytes(row.get(4..12)?.try_into().ok()?),
        timestamp_ms: i64::from_le_bytes(row.get(12..20)?.try_into().ok()?),
    })
}

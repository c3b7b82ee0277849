//! What prune asks, on the real servers.

use std::collections::BTreeMap;

use crate::clickhouse::ClickHouseTarget;
use crate::commands::verify::between::Between;
use crate::commands::verify::contents::Contents;
use crate::commands::verify::key::KeyText;
use crate::commands::verify::source::{SourceRow, row_of, row_sql};
use crate::commands::verify::target::{Newest, TargetKeys};
use crate::commands::verify::waiting::Waiting;
use crate::error::Result;
use crate::ports::LegContext;
use crate::ports::prune::{OldRows, Shown, Waits};
use crate::ports::target::TargetDescription;
use crate::postgres::{OldRow, PgOldRows, SourceTable};

/// A row of the source, and what is compared of it.
pub struct Row {
    old: OldRow,
    compared: SourceRow,
}

/// The three servers.
pub struct Servers<'a> {
    rows: PgOldRows,
    selected: String,
    target: TargetKeys,
    contents: Contents,
    waiting: Waiting<'a>,
    /// How many rows that are provable, and not deleted, each partition has.
    partitions: BTreeMap<u32, u64>,
}

impl<'a> Servers<'a> {
    /// Asks nothing yet. `contents` are the columns that are compared: all that are sent.
    pub fn new(
        leg: &'a LegContext<'a>,
        rows: PgOldRows,
        table: &SourceTable,
        target: ClickHouseTarget,
        description: &TargetDescription,
        contents: Contents,
        waiting: Waiting<'a>,
    ) -> Result<Self> {
        let rules = &leg.table.column_rules;
        let key = KeyText::of(table, &description.columns, rules, &leg.table.target.to_string())?;
        Ok(Self {
            rows,
            selected: row_sql(table, &key, &contents.fields),
            target: TargetKeys::new(target, key),
            contents,
            waiting,
            partitions: BTreeMap::new(),
        })
    }

    /// Those partitions in which no other rows were met.
    pub fn partitions(&mut self) -> Result<Vec<String>> {
        self.rows.partitions_of(&self.partitions)
    }

    /// Whether every version that may be the newest is the row.
    fn equals(&mut self, row: &SourceRow, newest: &Newest) -> bool {
        let Ok(bytes) = self.contents.encode(&row.json) else { return false };
        newest.are_all() && newest.contents.iter().all(|other| *other == bytes)
    }
}

impl OldRows for Servers<'_> {
    type Row = Row;

    fn page(&mut self, most: usize) -> Result<Vec<Row>> {
        let page = self.rows.page(&self.selected, most)?;
        let row = |old: OldRow| Row { compared: row_of(&old.selected), old };
        Ok(page.into_iter().map(row).collect())
    }

    fn read_topic(&mut self) -> Result<()> {
        self.waiting.refresh()
    }

    fn waits(&self, row: &Row, shown: Option<Shown>) -> Waits {
        let SourceRow { key, json } = &row.compared;
        if self.waiting.is_in_topic(&key.record_key) {
            return Waits::InTopic;
        }
        match self.waiting.between(&key.record_key, json, shown.map(|shown| shown.place)) {
            Between::Refused | Between::Stale => Waits::AsLetter,
            Between::InTopic | Between::Dropped | Between::Nothing => Waits::No,
        }
    }

    fn shown(&mut self, rows: &[Row]) -> Result<Vec<Option<Shown>>> {
        let found = self.target.newest_versions(&self.contents, rows.iter().map(|row| &row.compared.key))?;
        let shown = |row: &Row| {
            let newest = found.get(&row.compared.key.number)?;
            let for_ms = row.old.read_ms.saturating_sub(newest.place.0);
            Some(Shown { equals: self.equals(&row.compared, newest), place: newest.place, for_ms })
        };
        Ok(rows.iter().map(shown).collect())
    }

    fn record_limit(&mut self) -> Result<()> {
        self.rows.record_limit()
    }

    fn delete(&mut self, rows: &[&Row]) -> Result<u64> {
        for row in rows {
            self.partitions.entry(row.old.version.table).or_default();
        }
        let old: Vec<&OldRow> = rows.iter().map(|row| &row.old).collect();
        self.rows.delete(&old)
    }

    fn pass_over(&mut self, rows: &[&Row]) {
        for row in rows {
            *self.partitions.entry(row.old.version.table).or_default() += 1;
        }
    }
}

//! Which rows the target provably holds.
//!
//! The order of the questions counts. The row is read first, then the topic to an end that is taken after that, then the target:
//! so no newer or older version of the row is under way that could replace what the target shows.

use std::time::Duration;

use super::report::TableReport;
use crate::clickhouse::ClickHouseTarget;
use crate::commands::verify::contents::Contents;
use crate::commands::verify::key::KeyText;
use crate::commands::verify::source::{SourceRow, row_of, row_sql};
use crate::commands::verify::target::{Newest, TargetKeys};
use crate::commands::verify::waiting::Waiting;
use crate::error::{Error, Result};
use crate::ports::LegContext;
use crate::ports::target::{Target as _, TargetDescription};
use crate::postgres::{OldRow, SourceTable};

/// What is asked about a row.
pub struct Proof<'a> {
    selected: String,
    target: TargetKeys,
    contents: Contents,
    waiting: Waiting<'a>,
    held_for_ms: i64,
}

impl<'a> Proof<'a> {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// 78 if a column that is sent cannot be compared.
    pub fn new(
        leg: &'a LegContext<'a>,
        table: &SourceTable,
        mut target: ClickHouseTarget,
        description: &TargetDescription,
        held_for: Duration,
    ) -> Result<Self> {
        let (columns, rules) = (&description.columns, &leg.table.column_rules);
        let key = KeyText::of(table, columns, rules, &leg.table.target.to_string())?;
        let (contents, left_out) = Contents::of(table, columns, rules, target.calendar())?;
        if !left_out.is_empty() {
            return Err(Error::config(
                format!("cannot prune {}", table.name),
                format!(
                    "{} of its records cannot be compared with the target, or the target does not have it",
                    left_out.join(", ")
                ),
                "leave the column out of the records with `exclude`, or give the target a column that takes it: see `pg2ch check`",
            ));
        }
        let held_for_ms = i64::try_from(held_for.as_millis()).unwrap_or(i64::MAX);
        Ok(Self {
            selected: row_sql(table, &key, contents.fields()),
            target: TargetKeys::new(target, key),
            contents,
            waiting: Waiting::new(leg)?,
            held_for_ms,
        })
    }

    /// What is selected of a row, its alias `t`: a key, and the compared columns.
    pub fn selected(&self) -> &str {
        &self.selected
    }

    /// Those rows of a page that the target provably holds; the others are counted by what is in the way.
    ///
    /// # Errors
    /// Any Kafka or ClickHouse error.
    pub fn of<'r>(&mut self, page: &'r [OldRow], report: &mut TableReport) -> Result<Vec<&'r OldRow>> {
        self.waiting.refresh()?;
        let rows: Vec<SourceRow> = page.iter().map(|row| row_of(&row.selected)).collect();
        let keys: Vec<(u64, &str)> = rows.iter().map(|row| (row.key.number, row.key.text.as_str())).collect();
        let found = self.target.newest_versions(self.contents.columns(), &keys, &self.contents)?;
        let mut provable = Vec::new();
        for (old, row) in page.iter().zip(&rows) {
            report.rows += 1;
            let record_key = row.key.record_key.as_str();
            if self.waiting.is_in_topic(record_key) {
                report.kept.in_topic += 1;
            } else if self.waiting.is_dead_letter(record_key) || self.waiting.is_dropped(record_key) {
                report.kept.dead_letters += 1;
            } else if let Some(newest) = found.get(&row.key.number) {
                if !self.equals(row, newest) {
                    report.kept.different += 1;
                } else if old.read_ms.saturating_sub(newest.timestamp_ms) < self.held_for_ms {
                    report.kept.too_new += 1;
                } else {
                    provable.push(old);
                }
            } else {
                report.kept.absent += 1;
            }
        }
        Ok(provable)
    }

    /// Whether every version that may be the newest is the row.
    fn equals(&mut self, row: &SourceRow, newest: &Newest) -> bool {
        let Ok(bytes) = self.contents.encode(&row.json) else { return false };
        newest.are_all && newest.contents.iter().all(|other| *other == bytes)
    }
}

//! What was found, for a person and for a machine.

use serde::Serialize;

use crate::commands::Outcome;
use crate::config::TableConfig;
use crate::error::ExitCode;
use crate::numbers::{counted, grouped};

/// How many keys of each kind are named; all are counted.
pub const MOST_SHOWN: usize = 20;

/// Keys of one kind.
#[derive(Debug, Default, Serialize)]
pub struct Keys {
    pub count: u64,
    pub keys: Vec<String>,
}

impl Keys {
    pub fn count(&mut self, shown: impl FnOnce() -> String) {
        self.add(1, std::iter::once_with(shown));
    }

    /// Counts several, of which some are named.
    pub fn add(&mut self, count: u64, shown: impl Iterator<Item = String>) {
        self.count += count;
        let room = MOST_SHOWN.saturating_sub(self.keys.len());
        self.keys.extend(shown.take(room));
    }
}

/// A row whose content differs.
#[derive(Debug, Serialize)]
pub struct Different {
    pub key: String,
    /// The first column that differs; none if the target does not take the row as it is.
    pub column: Option<String>,
    /// The source's value, or why the target does not take it.
    pub source: String,
    pub target: String,
}

/// What was done, or would be, to bring what is missing.
#[derive(Debug, Default, Serialize)]
pub struct Repaired {
    /// Whether it was done.
    pub confirmed: bool,
    /// Rows that are to be sent again.
    pub wanted: u64,
    /// Rows whose flag was taken back.
    pub unflagged: u64,
    /// Rows that an earlier run had delivered without flagging them: flagged now, not sent again.
    pub recovered: u64,
}

/// What was found out about one table.
#[derive(Debug, Default, Serialize)]
pub struct TableReport {
    /// Whether everything was compared: no limit, no signal.
    pub complete: bool,
    pub rows: u64,
    pub keys_in_target: u64,
    /// Rows whose flag is FALSE.
    pub unsent: u64,
    /// Rows whose flag is NULL: no run ever sends them.
    pub never_sent: u64,
    /// Flagged rows whose record is not copied yet.
    pub in_topic: u64,
    pub only_in_target: Keys,
    /// Keys in the target only that lie below the limit of `pg2ch prune`.
    pub pruned: u64,
    /// Flagged rows whose record the target has refused.
    pub dead_letters: Keys,
    /// Flagged rows whose record the target has refused, dismissed with `dead-letters drop`.
    pub dropped: u64,
    /// Flagged rows that the target's TTL has deleted.
    pub expired: u64,
    /// Why it cannot be told which of the missing rows its TTL has deleted, if it deletes any.
    pub expiry_unknown: Option<String>,
    /// Flagged rows that `deleted` says are deleted, and that the target no longer has.
    pub deleted: u64,
    /// Flagged rows that are nowhere.
    pub missing: Keys,
    /// Rows that are in the target once more than their record, the same partition, offset and timestamp.
    pub doubled: Keys,
    /// Whether they were looked for: always, as a target that keeps no positions is refused.
    pub doubled_compared: bool,
    /// Rows whose contents differ; looked for with `--deep`.
    pub different: u64,
    pub differences: Vec<Different>,
    /// Whether contents were compared.
    pub deep: bool,
    /// How many rows' contents were compared.
    pub rows_compared: u64,
    /// How many of them were also compared by what both servers print.
    pub rows_shown: u64,
    /// Columns whose contents cannot be compared.
    pub columns_not_compared: Vec<String>,
    /// What `--repair` did.
    pub repair: Option<Repaired>,
    pub seconds: f64,
}

impl TableReport {
    /// Whether another difference would be shown.
    pub fn shows_more_different(&self) -> bool {
        self.differences.len() < MOST_SHOWN
    }

    /// Counts a row whose content differs.
    pub fn add_different(&mut self, different: Option<Different>) {
        self.different += 1;
        self.differences.extend(different);
    }

    fn differs(&self) -> bool {
        self.missing.count + self.doubled.count + self.dead_letters.count + self.different + self.never_sent > 0
    }

    fn text_of(&self, source: &str, target: &str) -> String {
        let verdict = match (self.differs(), self.complete) {
            (true, true) => "they differ",
            (true, false) => "they differ, and were not compared completely: verify was interrupted",
            (false, true) => "equal",
            (false, false) => "equal as far as they were compared: verify was interrupted",
        };
        let (rows, keys) = (counted(self.rows, "row"), counted(self.keys_in_target, "key"));
        let mut text =
            format!("{source} and {target}: {verdict} ({rows}, {keys} in the target, {:.1} s)\n", self.seconds);
        for (count, name, meaning, keys) in self.figures().into_iter().filter(|(count, ..)| *count > 0) {
            text += &format!("  {name:<15} {:>10}  {meaning}{}\n", grouped(count), some(keys, count));
        }
        for Different { key, column, source, target } in &self.differences {
            text += &match column {
                Some(column) => {
                    format!("    {key}: column {column} is {source} in PostgreSQL and {target} in ClickHouse\n")
                }
                None => format!("    {key}: the target cannot hold it unchanged: {source}\n"),
            };
        }
        text + &self.remarks().into_iter().map(|remark| format!("  {remark}\n")).collect::<String>()
    }

    /// What was counted: how many, what they are called, what that means, and some of their keys.
    fn figures(&self) -> [(u64, &'static str, &'static str, &[String]); 12] {
        let unnamed: &[String] = &[];
        let Self { only_in_target, dead_letters, missing, doubled, .. } = self;
        let in_target = "not in PostgreSQL (any more), or outside `where`: deletes are not propagated";
        let lacking = "flagged, but not in the target, and not as it is in the topic or the dead letters";
        [
            (self.unsent, "unsent", "the next run sends them", unnamed),
            (self.never_sent, "never sent", "the flag is NULL: set it to FALSE, and the column NOT NULL", unnamed),
            (self.in_topic, "in the topic", "the next run copies them", unnamed),
            (only_in_target.count, "only in target", in_target, &only_in_target.keys),
            (self.pruned, "pruned", "in the target only, below the limit of `pg2ch prune`", unnamed),
            (dead_letters.count, "dead letters", "refused: see `pg2ch dead-letters`", &dead_letters.keys),
            (self.dropped, "dropped", "refused, and dismissed with `pg2ch dead-letters drop`", unnamed),
            (self.deleted, "deleted", "deleted in PostgreSQL, and no longer in the target", unnamed),
            (self.expired, "expired", "deleted by the target's TTL", unnamed),
            (missing.count, "missing", lacking, &missing.keys),
            (doubled.count, "doubled", "the same record more than once", &doubled.keys),
            (self.different, "different", "the contents differ", unnamed),
        ]
    }

    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(why) = self.expiry_unknown.as_ref().filter(|_| self.missing.count > 0) {
            remarks.push(format!("the target's TTL may have deleted what is missing; repair leaves it alone: {why}"));
        }
        if self.deep {
            remarks.push(format!("contents compared of {}", counted(self.rows_compared, "row")));
        }
        if !self.columns_not_compared.is_empty() {
            remarks.push(format!("columns not compared: {}", self.columns_not_compared.join(", ")));
        }
        remarks.extend(self.repair.as_ref().map(Repaired::text));
        remarks
    }
}

impl Outcome for TableReport {
    /// 65 if the table differs, otherwise 75 if it was not compared completely.
    fn exit_code(&self) -> ExitCode {
        match (self.differs(), self.complete) {
            (true, _) => ExitCode::Data,
            (false, true) => ExitCode::Done,
            // What was not compared may differ.
            (false, false) => ExitCode::Locked,
        }
    }

    fn text(&self, table: &TableConfig) -> String {
        self.text_of(&table.source, &table.target.to_string())
    }
}

impl Repaired {
    fn text(&self) -> String {
        if !self.confirmed {
            let rows = counted(self.wanted, "row");
            return format!("repair would set the flag of {rows} to FALSE; add --confirm to do it");
        }
        let locked = self.wanted - self.unflagged;
        let left = if locked > 0 {
            let (rows, are) = (counted(locked, "row"), if locked == 1 { "is" } else { "are" });
            format!("; {rows} {are} locked or changed by an application: repair again")
        } else {
            String::new()
        };
        format!("repair has set the flag of {} to FALSE: the next run sends them{left}", counted(self.unflagged, "row"))
    }
}

fn some(keys: &[String], count: u64) -> String {
    if keys.is_empty() {
        return String::new();
    }
    let more = if count > keys.len() as u64 { ", …" } else { "" };
    let plain = |key: &String| key.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect::<String>();
    format!(": {}{more}", keys.iter().map(plain).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_says_when_it_does_not_cover_everything() {
        let mut report = TableReport { complete: true, ..TableReport::default() };
        let text = |report: &TableReport| report.text_of("s", "t");
        assert!(text(&report).starts_with("s and t: equal (0 rows"), "{}", text(&report));
        report.complete = false;
        assert!(text(&report).contains("equal as far as they were compared"), "{}", text(&report));
        assert_eq!(report.exit_code(), ExitCode::Locked, "nobody knows about the rest");
        report.missing.count(|| "7".into());
        assert!(text(&report).contains("not compared completely"), "{}", text(&report));
        assert_eq!(report.exit_code(), ExitCode::Data);
    }

    #[test]
    fn all_are_counted_and_some_are_named() {
        let mut keys = Keys::default();
        keys.add(30, (0..30).map(|n| n.to_string()));
        keys.count(|| "more".into());
        assert_eq!((keys.count, keys.keys.len()), (31, MOST_SHOWN));
        assert!(some(&keys.keys, keys.count).ends_with(", 19, …"));
    }
}

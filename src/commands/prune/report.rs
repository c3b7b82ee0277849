//! What was deleted, or would be, and what was kept, for a person and for a machine.

use std::fmt::Write as _;

use serde::Serialize;

use crate::commands::Outcome;
use crate::config::TableConfig;
use crate::error::ExitCode;
use crate::numbers::{counted, grouped};

/// Rows that are kept, by what is in the way.
#[derive(Debug, Default, Serialize)]
pub struct Kept {
    /// A record of the key is not copied yet.
    pub in_topic: u64,
    /// A pending dead letter of the key is newer than the target's version.
    pub dead_letters: u64,
    /// The target does not have the key.
    pub absent: u64,
    /// The target's newest version is another one.
    pub different: u64,
    /// The record was read less than `--held-for` ago.
    pub too_new: u64,
}

/// What was done to one table.
#[derive(Debug, Default, Serialize)]
pub struct TableReport {
    /// The column that says how old a row is.
    pub by: String,
    /// Rows below it are old.
    pub limit: String,
    /// Whether rows were deleted, and not only counted.
    pub confirmed: bool,
    /// Whether all old rows were looked at: no limit, no signal.
    pub complete: bool,
    /// Flagged, old rows that were looked at.
    pub rows: u64,
    /// Those that the target provably holds.
    pub deletable: u64,
    /// Those that were deleted.
    pub deleted: u64,
    /// Those that an application had locked, or changed meanwhile.
    pub changed: u64,
    /// Those that the target does not provably hold.
    pub kept: Kept,
    /// Columns that are not sent: they are gone with the rows.
    pub columns_gone: Vec<String>,
    /// Partitions that had only rows that the target provably holds.
    pub partitions: Vec<String>,
    /// How long it took.
    pub seconds: f64,
}

impl TableReport {
    /// Nothing done yet.
    #[must_use]
    pub fn of(by: &str, confirmed: bool) -> Self {
        Self { by: by.to_owned(), confirmed, complete: true, ..Self::default() }
    }
}

impl Outcome for TableReport {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Done
    }

    fn text(&self, table: &TableConfig) -> String {
        let (Self { by, limit, .. }, source) = (self, &table.source);
        let mut text = if self.confirmed {
            format!("{source}: {} deleted, {by} before {limit}", counted(self.deleted, "row"))
        } else {
            format!(
                "{source}: {} would be deleted, {by} before {limit}; add --confirm to do it",
                counted(self.deletable, "row")
            )
        };
        let stopped = if self.complete { "" } else { "; not all were looked at" };
        let _ = writeln!(text, " ({} looked at{stopped}, {:.1} s)", counted(self.rows, "row"), self.seconds);
        let Kept { in_topic, dead_letters, absent, different, too_new } = self.kept;
        for (count, what) in [
            (self.changed, "locked or changed by an application meanwhile"),
            (in_topic, "kept: a record of the row is not copied yet"),
            (dead_letters, "kept: a pending dead letter of the row is newer than the target's version"),
            (absent, "kept: the target does not have the row"),
            (different, "kept: the newest version in the target differs"),
            (too_new, "kept: sent less than --held-for ago"),
        ] {
            if count > 0 {
                let _ = writeln!(text, "  {:>10}  {what}", grouped(count));
            }
        }
        if !self.partitions.is_empty() && !self.confirmed {
            let _ = writeln!(text, "  partitions that will be empty: {}", self.partitions.join(", "));
        }
        for name in self.partitions.iter().filter(|_| self.confirmed) {
            let _ = writeln!(
                text,
                "  {name} is empty; to drop it, if it still is:\n    BEGIN; LOCK TABLE {name}; DO $$ BEGIN IF EXISTS (SELECT FROM {name}) \
                 THEN RAISE 'not empty'; END IF; END $$; DROP TABLE {name}; COMMIT;"
            );
        }
        if !self.columns_gone.is_empty() {
            let _ = writeln!(text, "  not in the target, gone with the rows: {}", self.columns_gone.join(", "));
        }
        text
    }
}

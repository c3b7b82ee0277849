//! The target table: what it holds, and how a block of rows gets in.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::engine::{Engine, Rests, Window, column_options, columns_with_ttl, is_made_of, is_partitioned, rests_on};
use super::layout::Layout;
use crate::data::{CalendarRange, Column, Offsets, Ranges, RecordId};
use crate::error::{Error, Result};

/// The target as its server describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetDescription {
    /// What identifies it: its UUID, or its name where the database engine has none. The address would not distinguish a table that
    /// was dropped and created again.
    pub identity: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// The statement that creates it: whatever an ALTER changes shows in it.
    pub definition: String,
    /// Its engine, with arguments, clauses and settings.
    pub engine: Engine,
    /// The columns and expressions of its sorting key.
    pub sorting_key: Vec<String>,
    /// Its partition key; empty if it has none.
    pub partition_key: String,
    /// The materialized views that see its INSERTs, down the chain.
    pub views: Vec<View>,
    /// How many servers the configuration names for it, of which a run uses one.
    pub servers: usize,
    /// Settings that do not reach the server: a proxy drops them.
    pub dropped_settings: Vec<String>,
}

impl TargetDescription {
    /// Whether every table behind the target recognises a repeated INSERT of this many rows by its token, so that a repetition
    /// refills what lacks the rows and doubles nothing.
    #[must_use]
    pub fn views_remember(&self, rows: usize) -> bool {
        self.views
            .iter()
            .all(|view| matches!(view.window, Window::Tokens(window) if window >= self.entries(view, rows)))
    }

    /// How many tokens an INSERT of this many rows, or of more, leaves at most in the table that a view fills: each view that fills it
    /// counts for itself, and each partition.
    #[must_use]
    pub fn entries(&self, view: &View, rows: usize) -> u64 {
        let partitions = if view.is_partitioned { rows.min(MOST_PARTITIONS) } else { 1 };
        let views = self.views.iter().filter(|other| other.table == view.table).count();
        (partitions * views) as u64
    }

    /// What of the table rests on a column.
    #[must_use]
    pub fn rests_on(&self, column: &str) -> Rests {
        rests_on(column, &self.engine, &self.definition)
    }

    /// What the definition of a column says besides its type: the word, and what stands in brackets after it.
    #[must_use]
    pub fn options_of(&self, column: &str) -> Vec<(&'static str, Vec<String>)> {
        column_options(column, &self.definition)
    }

    /// Whether a column is, or is made of, the other one.
    #[must_use]
    pub fn is_made_of(&self, column: &str, other: &str) -> bool {
        is_made_of(column, other, &self.definition)
    }

    /// Whether its rows lie in more than one partition.
    #[must_use]
    pub fn is_partitioned(&self) -> bool {
        is_partitioned(&self.partition_key)
    }

    /// The column of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The columns that keep what is inserted; those that have a TTL do not.
    #[must_use]
    pub fn keeping_columns(&self) -> Vec<Column> {
        let expiring = columns_with_ttl(&self.definition);
        self.columns.iter().filter(|column| !expiring.contains(&column.name)).cloned().collect()
    }
}

/// An INSERT fills no more partitions of a table than that, unless the table is of no use.
const MOST_PARTITIONS: usize = 5_000;

/// A materialized view behind the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its database and name, quoted for SQL.
    pub name: String,
    /// The table that it fills, quoted for SQL; empty if it cannot be seen.
    pub table: String,
    /// Whether that table recognises a repeated INSERT.
    pub window: Window,
    /// Where that table's data lie.
    pub layout: Layout,
    /// Whether that table has partitions.
    pub is_partitioned: bool,
}

/// How an INSERT ended.
#[derive(Debug)]
pub enum Inserted {
    /// The server has stored the rows, or had stored a block of this token before, and the answer proves it.
    Stored,
    /// The answer says so, and does not prove that the server gave it: what is held must be asked before anything else.
    Unproven,
    /// The server refused the statement. The rows may be stored nevertheless: views see them after the target does.
    Refused(Refused),
    /// Something before the server refused the request for its size: nothing was stored.
    TooLarge(Error),
    /// It is not known whether the rows were stored: the same rows may be sent again under the same token.
    Unknown(Error),
}

/// An INSERT that the server refused.
#[derive(Debug)]
pub struct Refused {
    /// The server's own words, on one line.
    pub reason: String,
    /// What is to blame.
    pub cause: Cause,
    /// The same as an error, with the exit code that it asks for.
    pub error: Error,
}

/// What an INSERT was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Some row, as far as the code shows.
    Rows,
    /// The server's memory: a smaller INSERT may go in.
    Memory,
    /// The server's state, which passes.
    Moment,
    /// The statement, the table or the user: no other row would go in.
    Statement,
}

impl Cause {
    /// Whether the same INSERT may go in a moment later, so that no row is to blame.
    #[must_use]
    pub const fn passes(self) -> bool {
        matches!(self, Self::Memory | Self::Moment)
    }
}

/// The target table.
pub trait Target {
    /// Looks the table up, anew with every call.
    ///
    /// # Errors
    /// 78 if it is missing; any ClickHouse error.
    fn describe(&mut self) -> Result<TargetDescription>;

    /// The years that its server can show: older ones know fewer, or none of the functions that are asked.
    fn calendar(&mut self) -> CalendarRange {
        CalendarRange::default()
    }

    /// Which records of `ranges` the table holds.
    ///
    /// # Errors
    /// Any ClickHouse error.
    fn held(&mut self, ranges: &Ranges) -> Result<HashSet<RecordId>>;

    /// The partitions of which the table holds a record at their offset, or above it.
    ///
    /// # Errors
    /// Any ClickHouse error.
    fn holds_from(&mut self, offsets: &Offsets) -> Result<BTreeSet<i32>>;

    /// The highest offset that the table holds of each partition.
    ///
    /// # Errors
    /// Any ClickHouse error.
    fn highest(&mut self) -> Result<BTreeMap<i32, i64>>;

    /// Inserts a block, its header in front, under a token: blocks that come later under a used token are dropped silently,
    /// whatever is in them.
    ///
    /// # Errors
    /// 78 if the client cannot send it.
    fn insert(&mut self, body: &[u8], token: &str) -> Result<Inserted>;

    /// Whether the table's expressions take these rows, without storing any; the reason why not. `None` where that cannot be
    /// asked. What it takes may still be refused by the partition key and the indexes.
    fn probe(&mut self, _body: &[u8]) -> Option<std::result::Result<(), String>> {
        None
    }

    /// Gives up what [`probe`](Self::probe) has made.
    fn end_probes(&mut self) {}

    /// Whether the server knows how the INSERT of this token ended: `true` if one went well to its end, views included.
    fn has_ended_well(&mut self, _token: &str) -> bool {
        false
    }

    /// Whether inserts of an earlier run into the table are still executing.
    ///
    /// # Errors
    /// Any ClickHouse error.
    fn is_inserting(&mut self) -> Result<bool>;
}

/// Makes a token that was never used before.
pub type NewToken = Box<dyn FnMut() -> String + Send>;

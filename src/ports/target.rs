//! The target table: what it holds, and how a block of rows gets in.

use std::collections::HashSet;

use crate::data::{CalendarRange, Column, Ranges, RecordId};
use crate::error::{Error, Result};

/// What identifies the target: its address would not tell a table that was dropped and made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetDescription {
    /// The table's UUID, or its name where the database engine has none.
    pub identity: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Whether it keeps each record's position, so that it can be asked which records it holds.
    pub keeps_positions: bool,
}

/// The rows of one INSERT, encoded.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The format's name.
    pub format: &'static str,
    /// The columns, in the order of the encoded values.
    pub columns: &'a [String],
    /// Settings that the format asks for.
    pub settings: &'static [(&'static str, &'static str)],
    /// The rows.
    pub body: &'a [u8],
}

/// How an INSERT ended.
#[derive(Debug)]
pub enum Inserted {
    /// The server has stored the rows, or had stored a block of this token before.
    Stored,
    /// The server refused the data, and has stored nothing. Its own words.
    Refused(String),
    /// It is not known whether the rows were stored, or they could not be stored now: the same rows may be sent again
    /// under the same token.
    Unknown(Error),
}

/// The target table.
pub trait Target {
    /// Looks the table up.
    ///
    /// # Errors
    /// 78 if it is missing or unfit; ClickHouse's.
    fn describe(&mut self) -> Result<TargetDescription>;

    /// The years that its server can show: older ones know fewer, or none of the functions that are asked.
    fn calendar(&mut self) -> CalendarRange {
        CalendarRange::default()
    }

    /// Whether the table has no rows at all.
    ///
    /// # Errors
    /// ClickHouse's.
    fn is_empty(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Which records of `ranges` the table holds; none where it keeps no positions.
    ///
    /// # Errors
    /// ClickHouse's.
    fn held(&mut self, ranges: &Ranges) -> Result<HashSet<RecordId>>;

    /// Inserts a block under a token: blocks that come later under a used token are dropped in silence, whatever is in
    /// them.
    ///
    /// # Errors
    /// 77 or 78 if the server refuses the statement for a reason that is neither in the data nor passing.
    fn insert(&mut self, block: Block<'_>, token: &str) -> Result<Inserted>;

    /// Whether inserts of an earlier run into the table are still executing.
    ///
    /// # Errors
    /// ClickHouse's.
    fn is_inserting(&mut self) -> Result<bool>;
}

/// Makes a token that was never used before.
pub type NewToken = Box<dyn FnMut() -> String + Send>;

//! How rows leave: the column that says that a row is deleted.

use super::column_rules::ColumnRules;
use super::file::{File, Section};
use super::origin::Origin;
use super::reader::{Reader, refuse, take, text};
use super::{ColumnChoice, value};
use crate::error::Result;

/// The target's column that hides deleted rows, as `init` makes it.
pub const DELETED_MARK: &str = "_deleted";

/// What a table's rows leave by. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// The boolean or timestamp column that says that a row is deleted.
    pub deleted: Option<String>,
}

/// What has been read of the table already.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// The key's columns.
    pub key: &'a [String],
    /// The flag.
    pub flag: &'a str,
    /// Which columns are sent.
    pub columns: &'a ColumnChoice,
    /// What the target gets of them.
    pub rules: &'a ColumnRules,
}

/// Reads `deleted` of table number `at`.
///
/// # Errors
/// 78 if a value is refused.
pub fn read(reader: &mut Reader, file: &File, section: &mut Section, at: usize, known: Known<'_>) -> Result<Removal> {
    let place = format!("table[{at}].deleted");
    let Some((entry, origin)) = take(file, section, "deleted") else {
        reader.note(place, "", &Origin::Default);
        return Ok(Removal::default());
    };
    let column = text(&place, &origin, entry.value)?;
    let hint = "name a boolean or timestamp column that is sent, such as `deleted = \"is_deleted\"`";
    value::column(&column)
        .and_then(|()| known.require_value(&column))
        .map_err(|why| refuse(&place, &origin, why, hint))?;
    reader.note(place, column.clone(), &origin);
    Ok(Removal { deleted: Some(column) })
}

impl Known<'_> {
    /// That the target gets the column, as a value that changes.
    fn require_value(self, column: &str) -> Result<(), String> {
        let is = |named: &[String]| named.iter().any(|name| name == column);
        let is_sent = match self.columns {
            ColumnChoice::All => true,
            ColumnChoice::Only(named) => is(named),
            ColumnChoice::AllBut(named) => !is(named),
        };
        if column == self.flag {
            return Err("it is the flag, which is never part of a record".into());
        }
        if is(self.key) {
            return Err("it is a column of the key: a row that is deleted would be another row".into());
        }
        if !is_sent {
            return Err("the column is not sent: `columns` or `exclude` leaves it out".into());
        }
        if self.rules.ignore.contains(column) {
            return Err("the target does not get the column: `ignore` names it".into());
        }
        Ok(())
    }
}

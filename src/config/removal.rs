//! How rows leave: the column that says that a row is deleted, and what a run prunes at its end.

use std::time::Duration;

use super::column_rules::ColumnRules;
use super::file::Value;
use super::reader::Section;
use super::{ColumnChoice, value};
use crate::error::Result;

/// The target's column that hides deleted rows, as `init` makes it.
pub const DELETED_MARK: &str = "_deleted";

/// What a table's rows leave by. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removal {
    /// The boolean or timestamp column that says that a row is deleted.
    pub deleted: Option<String>,
    /// What a run prunes at its end.
    pub keep: Option<Keep>,
}

/// How long a row stays in the source once it was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How old it has to be before it is deleted.
    pub age: Duration,
    /// The column that says how old it is.
    pub by: String,
    /// How long ago its record has to have been read.
    pub held_for: Duration,
}

/// How long ago a row has to have been sent before it is pruned: a target on one server may lose what is younger.
pub const HELD_FOR: Duration = Duration::from_secs(3600);

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

/// Reads `deleted` and `keep`.
///
/// # Errors
/// 78 if a value is refused.
pub fn read(section: &mut Section<'_>, known: Known<'_>) -> Result<Removal> {
    let deleted = section.optional("deleted", |section, key| {
        let hint = "name a boolean or timestamp column that is sent, such as `deleted = \"is_deleted\"`";
        section.checked(key, None, hint, |column| value::column(column).and_then(|()| known.require_value(column)))
    })?;
    let keep = section.optional("keep", |section, key| {
        let hint = "write `keep = { age = \"7d\", by = \"created_at\" }`";
        section.read(key, None, hint, keep, |(_, shown)| String::clone(shown))
    })?;
    Ok(Removal { deleted, keep: keep.map(|given| given.value.0) })
}

/// Also gives the parts as they are shown.
fn keep(given: Value) -> Result<(Keep, String), String> {
    let parts = given.pairs()?;
    let (mut age, mut by, mut held_for) = (None, None, HELD_FOR);
    for (name, given) in &parts {
        let duration = || value::duration(given).map_err(|why| format!("{name} = {given:?} {why}"));
        match name.as_str() {
            "age" => age = Some(duration()?),
            "held_for" => held_for = duration()?,
            "by" => {
                value::column(given)?;
                by = Some(given.clone());
            }
            _ => return Err(format!("`{name}` is not a part of it")),
        }
    }
    let (Some(age), Some(by)) = (age, by) else { return Err("it needs `age` and `by`".to_owned()) };
    let shown: Vec<String> = parts.iter().map(|(name, given)| format!("{name} = {given}")).collect();
    Ok((Keep { age, by, held_for }, shown.join(", ")))
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

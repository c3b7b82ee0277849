//! How rows leave: the column that says that a row is deleted, and what a run prunes at its end.

use std::time::Duration;

use super::column_rules::ColumnRules;
use super::file::{File, Section, Value};
use super::origin::Origin;
use super::reader::{Reader, kind, refuse, take, text};
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

/// Reads `deleted` and `keep` of table number `at`.
///
/// # Errors
/// 78 if a value is refused.
pub fn read(reader: &mut Reader, file: &File, section: &mut Section, at: usize, known: Known<'_>) -> Result<Removal> {
    Ok(Removal { deleted: deleted(reader, file, section, at, known)?, keep: keep(reader, file, section, at)? })
}

fn deleted(
    reader: &mut Reader,
    file: &File,
    section: &mut Section,
    at: usize,
    known: Known<'_>,
) -> Result<Option<String>> {
    let place = format!("table[{at}].deleted");
    let Some((entry, origin)) = take(file, section, "deleted") else {
        reader.note(place, "", &Origin::Default);
        return Ok(None);
    };
    let column = text(&place, &origin, entry.value)?;
    let hint = "name a boolean or timestamp column that is sent, such as `deleted = \"is_deleted\"`";
    value::column(&column)
        .and_then(|()| known.require_value(&column))
        .map_err(|why| refuse(&place, &origin, why, hint))?;
    reader.note(place, column.clone(), &origin);
    Ok(Some(column))
}

fn keep(reader: &mut Reader, file: &File, section: &mut Section, at: usize) -> Result<Option<Keep>> {
    let place = format!("table[{at}].keep");
    let Some((entry, origin)) = take(file, section, "keep") else {
        reader.note(place, "", &Origin::Default);
        return Ok(None);
    };
    let refused = |why: String| refuse(&place, &origin, why, "write `keep = { age = \"7d\", by = \"created_at\" }`");
    let Value::Pairs(parts) = entry.value else {
        return Err(refused(format!("it is {}", kind(&entry.value))));
    };
    let (mut age, mut by, mut held_for) = (None, None, HELD_FOR);
    for (name, given) in &parts {
        let duration = || value::duration(given).map_err(|why| refused(format!("{name} = {given:?} {why}")));
        match name.as_str() {
            "age" => age = Some(duration()?),
            "held_for" => held_for = duration()?,
            "by" => {
                value::column(given).map_err(refused)?;
                by = Some(given.clone());
            }
            _ => return Err(refused(format!("`{name}` is not a part of it"))),
        }
    }
    let (Some(age), Some(by)) = (age, by) else { return Err(refused("it needs `age` and `by`".to_owned())) };
    let shown: Vec<String> = parts.iter().map(|(name, given)| format!("{name} = {given}")).collect();
    reader.note(place, shown.join(", "), &origin);
    Ok(Some(Keep { age, by, held_for }))
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

//! The column that says that a row is deleted: fit for it or not.

use crate::config::TableConfig;
use crate::error::{Error, Result};
use crate::ports::source::SourceColumn;

/// Finds the column among those of the table `name`; `what` says, for a message, what cannot be done.
///
/// # Errors
/// 78 if it cannot say so.
pub fn column(config: &TableConfig, name: &str, columns: &[SourceColumn], what: &str) -> Result<Option<SourceColumn>> {
    let Some(wanted) = &config.removal.deleted else { return Ok(None) };
    let hint = "check `deleted` in [[table]]: it names a boolean or timestamp column";
    let Some(found) = columns.iter().find(|column| column.name == *wanted) else {
        return Err(Error::config(what, format!("{name} has no column {wanted}"), hint));
    };
    if !is_boolean(found) && !found.base_type.starts_with("timestamp") {
        return Err(Error::config(what, format!("the column {wanted} is of type {}", found.type_name), hint));
    }
    if !is_boolean(found) && found.not_null {
        let why = format!("the column {wanted} is never NULL: every row would be deleted");
        let hint = "let the column be NULL while a row is live: ALTER TABLE … ALTER COLUMN … DROP NOT NULL";
        return Err(Error::config(what, why, hint));
    }
    Ok(Some(found.clone()))
}

/// Whether the column is a boolean, and no timestamp.
#[must_use]
pub fn is_boolean(column: &SourceColumn) -> bool {
    column.base_type == "boolean"
}

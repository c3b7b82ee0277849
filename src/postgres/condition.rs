//! Whether `where` depends on a column: PostgreSQL tells.

use postgres::error::SqlState;

use super::catalogue::column_names;
use super::session::Session;
use super::source_table::{SourceTable, quote};
use crate::error::Result;

pub fn condition_uses(session: &mut Session, table: &SourceTable, column: &str) -> Result<bool> {
    if !table.has_condition() {
        return Ok(false);
    }
    let what = format!("cannot look at `where` of [[table]] {}", table.name);
    session.in_catalog(&what, |session| {
        let columns = column_names(session, table.oid, &table.name)?;
        let others: Vec<String> = columns.iter().filter(|other| *other != column).map(|other| quote(other)).collect();
        // Without the column, PostgreSQL understands a condition only if it does not need it. System columns it may name.
        let (columns, name, taken) = (others.join(", "), &table.name, table.taken_sql());
        let sql = format!(
            "SELECT FROM (SELECT {columns}, ctid, xmin, xmax, cmin, cmax, tableoid FROM {name}) AS t WHERE {taken}"
        );
        match session.raw(&what, |client| client.prepare(&sql)) {
            Ok(_) => Ok(false),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => Ok(true),
            Err(error) => Err(session.explain(&what, error)),
        }
    })
}

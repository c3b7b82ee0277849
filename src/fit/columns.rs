//! The target's columns, as `check` and `init` ask for them.

use serde::Deserialize;

use super::differences::TargetColumn;
use crate::clickhouse::column_type::{Column, DefaultKind};
use crate::clickhouse::{Http, text};
use crate::config::TargetName;
use crate::error::Result;

#[derive(Deserialize)]
struct Row {
    name: String,
    r#type: String,
    default_kind: String,
    is_in_sorting_key: u8,
    zone: String,
}

/// Reads the columns of a table, in its order; none if there is no such table. `what` says, for a message, what cannot be
/// done.
///
/// # Errors
/// ClickHouse's.
pub fn read(http: &Http, what: &str, target: &TargetName) -> Result<Vec<TargetColumn>> {
    let sql = format!(
        "SELECT name, type, default_kind, is_in_sorting_key, timezone() AS zone FROM system.columns \
         WHERE database = {} AND table = {} ORDER BY position",
        text(&target.database),
        text(&target.table)
    );
    Ok(http.rows(what, &sql, &[])?.into_iter().map(column).collect())
}

fn column(row: Row) -> TargetColumn {
    let default_kind = DefaultKind::parse(&row.default_kind);
    let column = Column { name: row.name, type_name: row.r#type, default_kind, zone: row.zone };
    TargetColumn { column, is_in_sorting_key: row.is_in_sorting_key == 1 }
}

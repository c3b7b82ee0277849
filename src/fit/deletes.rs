//! Soft deletes: what the target hides deleted rows by, the second argument of its engine.

use crate::clickhouse::column_type::DefaultKind;
use crate::clickhouse::{quote, text};
use crate::config::{DELETED_MARK, TableConfig};
use crate::ports::source::SourceColumn;
use crate::ports::target::TargetDescription;

/// The column of the target that says that a row is deleted, as the source has it.
#[must_use]
pub fn column(table: &TableConfig) -> Option<&str> {
    table.removal.deleted.as_deref().and_then(|name| table.column_rules.column_of(name))
}

/// [`DELETED_MARK`] as a CREATE TABLE has it; `name` is the column that it is made of, in the target.
#[must_use]
pub fn definition(source: &SourceColumn, name: &str) -> String {
    let name = quote(name);
    let made = if source.base_type == "boolean" {
        format!("ifNull(toUInt8({name}), 0)")
    } else {
        format!("isNotNull({name})")
    };
    format!("{} UInt8 MATERIALIZED {made}", quote(DELETED_MARK))
}

/// A question that is answered with `1` if `expression`, over the target's column `name` of type `type_name`, marks what is
/// deleted and nothing else. An expression over other columns is refused by the server.
#[must_use]
pub fn question(expression: &str, source: &SourceColumn, name: &str, type_name: &str) -> String {
    let values = match (source.base_type.as_str(), type_name.contains("Nullable(")) {
        ("boolean", true) => ["NULL, 0", "false, 0", "true, 1"].as_slice(),
        ("boolean", false) => &["false, 0", "true, 1"],
        _ => &["NULL, 0", "'1970-01-01 00:00:00', 1", "'2026-01-02 03:04:05', 1"],
    };
    let rows: Vec<String> = values
        .iter()
        .filter_map(|value| value.split_once(", "))
        .map(|(value, wanted)| {
            format!("SELECT CAST({value}, {}) AS {}, {wanted} AS pg2ch_wanted", text(type_name), quote(name))
        })
        .collect();
    format!("SELECT min(({expression}) = pg2ch_wanted) FROM ({}) FORMAT TabSeparated", rows.join(" UNION ALL "))
}

/// The settings by which merges remove deleted rows, each with the value that turns it off.
pub const CLEANUP: [(&str, &str); 2] =
    [("allow_experimental_replacing_merge_with_cleanup", "0"), ("clean_deleted_rows", "Never")];

/// Why merges must not remove deleted rows.
pub const SHOWN_AGAIN: &str = "merges would remove deleted rows, and an older version that comes late would show again";

/// The setting that has merges remove deleted rows, and the one that stops it.
#[must_use]
pub fn cleanup<'a>(setting: impl Fn(&str) -> Option<&'a str>) -> Option<(String, String)> {
    CLEANUP.iter().find_map(|(name, off)| {
        let value = setting(name)?;
        let is_off = value == *off || value == "false";
        let off = if *off == "0" { "0".to_owned() } else { text(off) };
        (!is_off).then(|| (format!("{name} = {value}"), format!("{name} = {off}")))
    })
}

/// Why the engine does not hide what is deleted; `None` if it does, or is not asked to.
#[must_use]
pub fn misfit(table: &TableConfig, target: &TargetDescription) -> Option<Misfit> {
    let by = target.engine.argument(1);
    let Some(name) = column(table) else {
        return by.map(Misfit::Unnamed);
    };
    let Some(by) = by else { return Some(Misfit::Shown) };
    let is_computed = |by: &str| {
        target.columns.iter().any(|column| column.name == by && column.default_kind == DefaultKind::Materialized)
    };
    // An engine takes a UInt8 only.
    (by != name && !is_computed(&by)).then_some(Misfit::Other(by))
}

/// In what an engine is not what `deleted` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It hides rows by this column, and `deleted` names none.
    Unnamed(String),
    /// It shows deleted rows.
    Shown,
    /// It hides rows by another column than `deleted` names.
    Other(String),
}

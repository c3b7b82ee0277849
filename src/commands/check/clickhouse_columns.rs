//! The target's columns against the source's.

use serde::Deserialize;

use super::Source;
use super::finding::{Findings, Severity};
use crate::clickhouse::column_type::ColumnType;
use crate::clickhouse::quote;
use crate::postgres::SourceColumn;
use crate::type_fit::{Fit, fit};
use crate::type_map::target_type;

/// What pg2ch puts in front of the row, and the types that hold it.
const POSITION: [(&str, &str); 3] =
    [("_partition", "Int32"), ("_offset", "Int64"), ("_timestamp", "DateTime64(3, 'UTC')")];

/// A column of the target.
#[derive(Debug, Deserialize)]
pub struct TargetColumn {
    name: String,
    r#type: String,
    default_kind: String,
    is_in_sorting_key: u8,
}

/// Compares them, for the target `name`.
pub fn columns(name: &str, target: &[TargetColumn], source: Option<&Source>, findings: &mut Findings) {
    for (wanted, type_name) in POSITION {
        if !target.iter().any(|column| column.name == wanted) {
            findings.add(
                Severity::Error,
                "position-column",
                format!("{name} has no column {wanted}"),
                "rows are recognised by their records' partition, offset and timestamp: without them a crash would double rows",
                format!("ALTER TABLE {name} ADD COLUMN {} {type_name};", quote(wanted)),
            );
        }
    }
    for column in target {
        unknown_type(name, column, findings);
    }
    let Some(source) = source else { return };
    for column in &source.columns {
        match target.iter().find(|other| other.name == column.name) {
            None => missing(name, column, findings),
            Some(other) => compare(name, column, other, findings),
        }
    }
    for column in target {
        let is_known = column.name.starts_with('_') || source.columns.iter().any(|other| other.name == column.name);
        if !is_known && column.default_kind.is_empty() {
            let (quoted, column_type) = (quote(&column.name), crate::clickhouse::text(&column.r#type));
            findings.add(
                Severity::Error,
                "column-extra",
                format!("the target's column {} has no DEFAULT, and the source has no such column", column.name),
                "nothing is made up: every record is refused for want of its value",
                format!("ALTER TABLE {name} MODIFY COLUMN {quoted} DEFAULT defaultValueOfTypeName({column_type});"),
            );
        }
    }
}

fn unknown_type(name: &str, column: &TargetColumn, findings: &mut Findings) {
    let is_inserted = !matches!(column.default_kind.as_str(), "MATERIALIZED" | "ALIAS");
    if is_inserted && let Err(unsupported) = ColumnType::parse(&column.r#type) {
        findings.add(
            Severity::Warning,
            "type-unknown",
            format!("the target's column {} is of type {}", column.name, column.r#type),
            format!(
                "{unsupported}, so the whole table goes as JSONEachRow, where ClickHouse's parser changes values that do not fit \
                 (300 in a UInt8 becomes 44) without a word"
            ),
            format!("ALTER TABLE {name} MODIFY COLUMN {} String;", quote(&column.name)),
        );
    }
}

fn missing(name: &str, column: &SourceColumn, findings: &mut Findings) {
    findings.add(
        Severity::Error,
        "column-missing",
        format!("the target has no column {}", column.name),
        "every record is refused: a field that nobody takes is never dropped in silence",
        format!("ALTER TABLE {name} ADD COLUMN {} {};", quote(&column.name), target_type(column)),
    );
}

fn compare(name: &str, column: &SourceColumn, other: &TargetColumn, findings: &mut Findings) {
    let pair = format!("{} is {} in PostgreSQL and {} in ClickHouse", column.name, column.type_name, other.r#type);
    if matches!(other.default_kind.as_str(), "MATERIALIZED" | "ALIAS") {
        findings.add(
            Severity::Error,
            "column-computed",
            format!("the target's column {} is {}", column.name, other.default_kind),
            "no value can be inserted into it: every record is refused",
            format!("ALTER TABLE {name} MODIFY COLUMN {} REMOVE {};", quote(&column.name), other.default_kind),
        );
        return;
    }
    // A type that is unknown altogether has a finding of its own.
    if ColumnType::parse(&other.r#type).is_err() {
        return;
    }
    let (quoted, wanted) = (quote(&column.name), target_type(column));
    let modify = format!("ALTER TABLE {name} MODIFY COLUMN {quoted} {wanted};");
    let (severity, id, why, fix) = match fit(column, &other.r#type) {
        Fit::Lossless => return,
        Fit::Lossy(why) => {
            (Severity::Warning, "type-lossy", format!("{why}; what is refused goes to the dead letters"), modify)
        }
        // Nothing of it was ever stored, and ClickHouse converts no such values.
        Fit::Impossible(why) => (
            Severity::Error,
            "type-impossible",
            format!("{why}: every record is refused"),
            format!("ALTER TABLE {name} DROP COLUMN {quoted};\nALTER TABLE {name} ADD COLUMN {quoted} {wanted};"),
        ),
    };
    let fix = if other.is_in_sorting_key == 1 {
        format!("-- a column of ORDER BY cannot be altered: make the table anew with {} as {wanted}", column.name)
    } else {
        fix
    };
    findings.add(severity, id, pair, why, fix);
}

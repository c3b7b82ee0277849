//! Whether ClickHouse turns the stored values of a column into another type's without changing one of them.
//!
//! Its conversions cut digits and days off, clamp and wrap around silently, so only the pairs that are listed here are safe.

use crate::clickhouse::column_type::{Column, ColumnType, Integer, ScalarType};
use crate::clickhouse::encode::shown_shifted;
use crate::ports::source::SourceColumn;

use super::map::split;

/// Whether each value of `from` that is not NULL becomes, as `to`, what PostgreSQL has in the `source` column.
#[must_use]
pub fn is_exact(source: &SourceColumn, from: &Column, to: &str) -> bool {
    match (ColumnType::parse(&from.type_name), ColumnType::parse(to)) {
        (Ok(from_type), Ok(to)) => {
            shown_shifted(source, from).is_none()
                && is_exact_value(source, &from_type.without_null(), &to.without_null())
        }
        _ => false,
    }
}

/// Whether both are integers: what the other one has no place for, ClickHouse can tell.
#[must_use]
pub fn are_integers(from: &str, to: &str) -> bool {
    let is_integer = |type_name: &str| {
        let parsed = ColumnType::parse(type_name).map(ColumnType::without_null);
        matches!(parsed, Ok(ColumnType::Scalar(ScalarType::Integer(_))))
    };
    is_integer(from) && is_integer(to)
}

fn is_exact_value(source: &SourceColumn, from: &ColumnType, to: &ColumnType) -> bool {
    match (from, to) {
        (from, to) if from == to => true,
        (ColumnType::Array(from), ColumnType::Array(to)) | (ColumnType::Nullable(from), ColumnType::Nullable(to)) => {
            is_exact_value(source, from, to)
        }
        (from, ColumnType::Nullable(to)) => is_exact_value(source, from, to),
        (ColumnType::Scalar(from), ColumnType::Scalar(to)) => is_exact_scalar(source, from, to),
        _ => false,
    }
}

fn is_exact_scalar(source: &SourceColumn, from: &ScalarType, to: &ScalarType) -> bool {
    use ScalarType as T;
    let (element, _) = split(source.base_type.trim_end_matches("[]"));
    match (from, to) {
        (from, T::String) => prints_alike(source, &element, from),
        (T::Integer(from), T::Integer(to)) => from == to || (from.bytes < to.bytes && (to.signed || !from.signed)),
        // ClickHouse has no conversion from Int128 and larger ones.
        (T::Integer(from), T::Decimal(to)) => from.bytes <= 8 && to.precision - to.scale >= digits(*from),
        (T::Integer(from), T::Float64) => from.bytes <= 4,
        (T::Integer(from), T::Float32) => from.bytes <= 2,
        // What the source calls a boolean was stored as 0 or 1.
        (T::Integer(Integer { signed: false, bytes: 1 }), T::Bool) => element == "boolean",
        (T::Decimal(from), T::Decimal(to)) => {
            to.scale >= from.scale && to.precision - to.scale >= from.precision - from.scale
        }
        (T::Bool, T::Integer(_))
        | (T::Float32, T::Float64)
        | (T::Date, T::Date32)
        | (T::DateTime, T::DateTime64(_)) => true,
        (T::DateTime64(from), T::DateTime64(to)) => from <= to && *to < 9,
        // A day begins in UTC there; with a time zone PostgreSQL has it begin in that of a session.
        (T::Date | T::Date32, T::DateTime64(to)) => element == "timestamp without time zone" && *to < 9,
        _ => false,
    }
}

/// Decimal digits of the largest integer that ClickHouse converts to a Decimal.
pub const fn digits(Integer { bytes, .. }: Integer) -> u32 {
    match bytes {
        1 => 3,
        2 => 5,
        4 => 10,
        _ => 20,
    }
}

/// Whether ClickHouse's text of such a value is PostgreSQL's text of a value of `element`.
fn prints_alike(source: &SourceColumn, element: &str, from: &ScalarType) -> bool {
    use ScalarType as T;
    let is_text = matches!(element, "text" | "character varying");
    match from {
        T::Integer(_) => is_text || matches!(source.base_type.as_str(), "numeric" | "numeric[]" | "oid" | "oid[]"),
        T::FixedString(_) | T::Enum(_) => is_text || source.is_enum,
        T::Bool | T::Uuid | T::Date | T::Date32 => is_text,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clickhouse_would_cut_wrap_or_print_otherwise_is_not_exact() {
        for (source, from, to, exact) in [
            ("bigint", "Int32", "Int64", true),
            ("bigint", "UInt32", "Int64", true),
            ("bigint", "UInt64", "Int64", false),
            ("bigint", "Nullable(Int32)", "Int64", true),
            ("numeric(12,4)", "Decimal(10, 2)", "Decimal(12, 4)", true),
            ("numeric(10,4)", "Decimal(10, 2)", "Decimal(10, 4)", false),
            ("numeric(10,2)", "Decimal(10, 4)", "Decimal(10, 2)", false),
            ("numeric(12,2)", "Float64", "Decimal(12, 2)", false),
            ("numeric(12,2)", "Int32", "Decimal(12, 2)", true),
            ("numeric(10,2)", "Int32", "Decimal(10, 2)", false),
            ("integer", "Float64", "Int32", false),
            ("text", "LowCardinality(String)", "String", true),
            ("text", "Int32", "String", true),
            ("numeric", "Int32", "String", true),
            ("numeric(80,2)", "Int32", "String", false),
            ("character(4)", "Int32", "String", false),
            ("numeric", "Decimal(10, 2)", "String", false),
            ("text", "Float64", "String", false),
            ("text", "DateTime64(6, 'UTC')", "String", false),
            ("text", "UUID", "LowCardinality(String)", true),
            ("jsonb", "Map(String, String)", "String", false),
            ("date", "Date", "Date32", true),
            ("date", "DateTime64(3, 'UTC')", "Date32", false),
            ("timestamp with time zone", "DateTime('America/New_York')", "DateTime64(6, 'UTC')", true),
            ("timestamp without time zone", "DateTime('America/New_York')", "DateTime64(6, 'UTC')", false),
            ("timestamp without time zone", "Date32", "DateTime64(6, 'UTC')", true),
            ("timestamp with time zone", "Date32", "DateTime64(6, 'UTC')", false),
            ("timestamp(3) with time zone", "DateTime64(6, 'UTC')", "DateTime64(3, 'UTC')", false),
            ("boolean", "UInt8", "Bool", true),
            ("boolean", "Int16", "Bool", false),
            ("bigint[]", "Array(Int32)", "Array(Nullable(Int64))", true),
            ("bigint[]", "Array(Nullable(Int32))", "Array(Int64)", false),
            ("text[]", "Array(String)", "String", false),
        ] {
            let source = SourceColumn { base_type: source.into(), ..SourceColumn::default() };
            assert_eq!(is_exact(&source, &Column::new("c", from), to), exact, "{source:?}: {from} to {to}");
        }
        assert!(are_integers("Nullable(UInt64)", "Int64") && !are_integers("Float64", "Int64"));
    }
}

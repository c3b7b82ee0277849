//! What becomes of the stored values when a column is altered to another type, and the types that leave them as they are. An ALTER
//! that cannot convert one of them leaves the column unreadable, and one that cuts digits says nothing.

use super::exact::{digits, is_exact};
use crate::clickhouse::column_type::{Column, ColumnType, Decimal, Integer, ScalarType, in_dictionary, takes_null};
use crate::clickhouse::encode::is_zoned;
use crate::clickhouse::text;
use crate::ports::source::SourceColumn;

/// What becomes of the values that are stored in a column, whatever they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conversion {
    /// Each stays the value that it is.
    Exact,
    /// Each becomes a text from which it can be read, and which PostgreSQL would write otherwise.
    Rewritten,
    /// Some are cut, shifted or refused.
    Unsafe,
}

/// How ClickHouse converts a column of these values to the type `to`.
#[must_use]
pub fn conversion(source: &SourceColumn, from: &Column, to: &str) -> Conversion {
    if is_exact(source, from, to) {
        return Conversion::Exact;
    }
    let is_text = ColumnType::parse(to).map(ColumnType::without_null) == Ok(ColumnType::Scalar(ScalarType::String));
    // The text of a time does not say in which zone it is, and an hour of each year comes twice.
    if is_text && ColumnType::parse(&from.type_name).is_ok() && !is_zoned(from) {
        return Conversion::Rewritten;
    }
    Conversion::Unsafe
}

/// A type that holds every value of the old type, and of the one that is wanted, where there is one.
#[must_use]
pub fn holding_both(old: &str, wanted: &str) -> Option<String> {
    both(&ColumnType::parse(old).ok()?, &ColumnType::parse(wanted).ok()?)
}

fn both(one: &ColumnType, other: &ColumnType) -> Option<String> {
    use ColumnType as T;
    match (one, other) {
        (T::Nullable(one), T::Nullable(other)) => Some(format!("Nullable({})", both(one, other)?)),
        (T::Nullable(one), other) => Some(format!("Nullable({})", both(one, other)?)),
        (one, T::Nullable(other)) => Some(format!("Nullable({})", both(one, other)?)),
        (T::Array(one), T::Array(other)) => Some(format!("Array({})", both(one, other)?)),
        (T::Scalar(one), T::Scalar(other)) => both_scalars(one, other),
        _ => None,
    }
}

fn both_scalars(one: &ScalarType, other: &ScalarType) -> Option<String> {
    use ScalarType as T;
    const LARGEST: u32 = 76;
    let decimal = |scalar: &ScalarType| match scalar {
        T::Integer(integer) => (integer.bytes <= 8).then(|| (digits(*integer), 0)),
        T::Decimal(Decimal { precision, scale }) => Some((precision - scale, *scale)),
        _ => None,
    };
    // What is a time now is the midnight of a date, or was a time before.
    let precision = |scalar: &ScalarType| match scalar {
        T::DateTime => Some(3),
        T::DateTime64(precision) => Some(*precision),
        _ => None,
    };
    if let (T::Integer(one), T::Integer(other)) = (one, other) {
        let signed = |integer: &Integer| if integer.signed { integer.bytes } else { integer.bytes * 2 };
        let bytes = signed(one).max(signed(other));
        return (bytes <= 32).then(|| format!("Int{}", bytes * 8));
    }
    if let (Some(one), Some(other)) = (decimal(one), decimal(other)) {
        let (whole, scale) = (one.0.max(other.0), one.1.max(other.1));
        return (whole + scale <= LARGEST).then(|| format!("Decimal({}, {scale})", whole + scale));
    }
    let wanted = if *other == T::Date32 { 0 } else { precision(other)? };
    let precision = precision(one)?.max(wanted);
    (precision < 9).then(|| format!("DateTime64({precision}, 'UTC')"))
}

/// The type, and what follows it, of a column that has `type_name` and takes a missing value as well.
#[must_use]
pub fn takes_missing(type_name: &str) -> String {
    if takes_null(type_name) {
        return type_name.to_owned();
    }
    if let Some(inner) = in_dictionary(type_name) {
        return format!("LowCardinality(Nullable({inner}))");
    }
    match ColumnType::parse(type_name) {
        Ok(ColumnType::Scalar(_)) => format!("Nullable({type_name})"),
        _ => with_zero(type_name),
    }
}

/// A type with the value that ClickHouse has for nothing as its DEFAULT.
#[must_use]
pub fn with_zero(type_name: &str) -> String {
    format!("{type_name} DEFAULT defaultValueOfTypeName({})", text(type_name))
}

/// Whether expressions over a column stay possible when it gets this type, and the same values.
#[must_use]
pub fn is_of_one_kind(from: &str, to: &str) -> bool {
    use ScalarType as T;
    let (Ok(old), Ok(new)) = (ColumnType::parse(from), ColumnType::parse(to)) else { return false };
    matches!(old, ColumnType::Nullable(_)) == matches!(new, ColumnType::Nullable(_))
        && match (old.without_null(), new.without_null()) {
            (ColumnType::Scalar(old), ColumnType::Scalar(new)) => matches!(
                (old, new),
                (T::Integer(_), T::Integer(_))
                    | (T::Decimal(_), T::Decimal(_))
                    | (T::Float32 | T::Float64, T::Float64)
                    | (T::String | T::FixedString(_), T::String)
                    | (T::Date, T::Date32)
                    | (T::DateTime | T::DateTime64(_), T::DateTime64(_))
            ),
            (old, new) => old == new,
        }
}

/// Whether an index of the plainest kinds (minmax, set, `bloom_filter`) takes a column when it gets this type.
#[must_use]
pub fn takes_index(from: &str, to: &str) -> bool {
    let is_refused = ["Decimal(", "Date32", "Array("].iter().any(|refused| to.contains(refused));
    !is_refused || !to.contains("Date32") && is_of_one_kind(from, to)
}

/// Whether a codec that is made for numbers takes a column when it gets this type.
#[must_use]
pub fn takes_codec_of_numbers(from: &str, to: &str) -> bool {
    use ScalarType as T;
    let scalar = |type_name: &str| match ColumnType::parse(type_name).ok()?.without_null() {
        ColumnType::Scalar(scalar) => Some(scalar),
        _ => None,
    };
    match (scalar(from), scalar(to)) {
        (Some(T::Float32 | T::Float64), Some(T::Float64)) => true,
        (Some(T::Float32 | T::Float64), _) => false,
        (_, Some(T::Integer(Integer { bytes, .. }))) => bytes <= 8,
        (_, Some(T::Decimal(decimal))) => decimal.bytes() <= 8,
        (_, Some(to)) => matches!(to, T::Bool | T::Date | T::Date32 | T::DateTime | T::DateTime64(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_holds_both_has_the_digits_of_both() {
        for (one, other, both) in [
            ("Decimal(10, 4)", "Decimal(10, 2)", Some("Decimal(12, 4)")),
            ("Nullable(Decimal(10, 2))", "Nullable(Decimal(6, 4))", Some("Nullable(Decimal(12, 4))")),
            ("Array(Decimal(10, 4))", "Array(Nullable(Decimal(10, 2)))", Some("Array(Nullable(Decimal(12, 4)))")),
            ("Decimal(10, 2)", "Int32", Some("Decimal(12, 2)")),
            ("Int64", "Decimal(10, 2)", Some("Decimal(22, 2)")),
            ("UInt32", "Int32", Some("Int64")),
            ("UInt256", "Int32", None),
            ("Int128", "Decimal(10, 2)", None),
            ("DateTime64(3, 'America/New_York')", "Date32", Some("DateTime64(3, 'UTC')")),
            ("DateTime", "Date32", Some("DateTime64(3, 'UTC')")),
            ("DateTime64(9)", "Date32", None),
            ("Date32", "DateTime64(6, 'UTC')", None),
            ("Float64", "Decimal(12, 2)", None),
        ] {
            assert_eq!(holding_both(one, other).as_deref(), both, "{one} {other}");
        }
    }
}

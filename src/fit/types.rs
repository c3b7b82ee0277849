//! Whether a target column takes every value of a source column.
//!
//! The typed encoder refuses what does not fit, so a lossy pair means dead letters, not changed values.

use super::map::split;
use crate::clickhouse::column_type::{Column, ColumnType, Decimal, Integer, ScalarType};
use crate::clickhouse::encode::shown_shifted;
use crate::ports::source::SourceColumn;

/// How well a target type takes a source column's values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Every value, whole. Where ClickHouse has no wider type of the kind (dates before 1900, NaN in a numeric), the widest
    /// one counts as such.
    Lossless,
    /// Some values; which others are refused.
    Lossy(String),
    /// No value at all.
    Impossible(String),
}

/// Compares a source column with its target.
#[must_use]
pub fn fit(column: &SourceColumn, of_target: &Column) -> Fit {
    let target = match ColumnType::parse(&of_target.type_name) {
        Ok(target) => target,
        Err(unsupported) => {
            return Fit::Impossible(unsupported.to_string());
        }
    };
    match (fit_nullable(&column.base_type, column.not_null, &target), shown_shifted(column, of_target)) {
        (Fit::Impossible(why), _) => Fit::Impossible(why),
        (_, Some(why)) => Fit::Lossy(why),
        (fit, None) => fit,
    }
}

fn fit_nullable(source: &str, not_null: bool, target: &ColumnType) -> Fit {
    let (target, takes_null) = match target {
        ColumnType::Nullable(inner) => (&**inner, true),
        other => (other, false),
    };
    match fit_value(source, target) {
        Fit::Lossless if is_document(source) && !takes_null => {
            Fit::Lossy("a document that is only null is refused".into())
        }
        Fit::Lossless if !not_null && !takes_null => Fit::Lossy("NULL is refused".into()),
        fit => fit,
    }
}

fn is_text(target: &ColumnType) -> bool {
    target.clone().without_null() == ColumnType::Scalar(ScalarType::String)
}

fn is_document(source: &str) -> bool {
    matches!(source, "json" | "jsonb")
}

fn fit_value(source: &str, target: &ColumnType) -> Fit {
    match (source.strip_suffix("[]"), target) {
        (_, ColumnType::Scalar(ScalarType::String)) => Fit::Lossless,
        // Of a domain over an array.
        (Some(element), ColumnType::Array(inner)) if element.ends_with("[]") && is_text(inner) => {
            Fit::Impossible("an array of arrays fits a String, but no Array of String".into())
        }
        (Some(element), ColumnType::Array(inner)) => fit_nullable(element, false, inner),
        (Some(_), _) => Fit::Impossible("an array fits only an Array or a String".into()),
        (None, ColumnType::Scalar(target)) => fit_scalar(source, target),
        (None, _) if is_document(source) => Fit::Lossy("only documents of exactly this shape are accepted".into()),
        (None, _) => Fit::Impossible(format!("{source} is a single value")),
    }
}

/// The kinds of PostgreSQL types, as far as their JSON form differs.
enum Kind {
    /// Decimal digits that the largest has, and bytes.
    Integer {
        digits: u32,
        bytes: usize,
    },
    /// Bits of the mantissa.
    Float {
        bits: u32,
    },
    /// Digits before and behind the point, where limited.
    Numeric(Option<(u32, u32)>),
    Boolean,
    Uuid,
    Date,
    /// Digits behind the second.
    Timestamp(u32),
    Document,
    /// Text, and every other type: a JSON string.
    Text,
}

fn kind(source: &str) -> Kind {
    let (name, modifiers) = split(source);
    match name.as_str() {
        "smallint" => Kind::Integer { digits: 5, bytes: 2 },
        "integer" => Kind::Integer { digits: 10, bytes: 4 },
        "bigint" => Kind::Integer { digits: 19, bytes: 8 },
        "real" => Kind::Float { bits: 24 },
        "double precision" => Kind::Float { bits: 53 },
        "numeric" => Kind::Numeric(match *modifiers {
            [digits, scale] if scale <= digits => Some((digits - scale, scale)),
            _ => None,
        }),
        "boolean" => Kind::Boolean,
        "uuid" => Kind::Uuid,
        "date" => Kind::Date,
        "timestamp without time zone" | "timestamp with time zone" => {
            Kind::Timestamp(modifiers.first().copied().unwrap_or(6))
        }
        "json" | "jsonb" => Kind::Document,
        _ => Kind::Text,
    }
}

/// Whether a target type takes several values of a source for one: texts that are one time, number or address in different forms. A
/// key of it would name several rows.
#[must_use]
pub fn folds(column: &SourceColumn, of_target: &Column) -> bool {
    ColumnType::parse(&of_target.type_name).is_ok_and(|target| folds_value(&column.base_type, &target))
}

fn folds_value(source: &str, target: &ColumnType) -> bool {
    match (source.strip_suffix("[]"), target) {
        (_, ColumnType::Nullable(inner)) => folds_value(source, inner),
        (Some(element), ColumnType::Array(inner)) => folds_value(element, inner),
        (Some(_), _) => false,
        (None, ColumnType::Scalar(target)) => folds_scalar(source, target),
        (None, _) => is_document(source),
    }
}

fn folds_scalar(source: &str, target: &ScalarType) -> bool {
    use ScalarType as T;
    // PostgreSQL prints a time, an interval and an address in one form.
    let is_free = |source: &str| !source.starts_with("time") && !matches!(source, "inet" | "cidr" | "interval");
    match kind(source) {
        // There true is 1.
        Kind::Document if *target == T::Integer(Integer { signed: false, bytes: 1 }) => true,
        Kind::Text if !is_free(source) => false,
        Kind::Text | Kind::Document => matches!(
            target,
            T::Date | T::Date32 | T::DateTime | T::DateTime64(_) | T::Time | T::Time64(_) | T::Uuid | T::Ipv6 | T::Json
        ),
        _ => false,
    }
}

#[expect(clippy::match_same_arms, reason = "a String takes everything, whatever stands below")]
fn fit_scalar(source: &str, target: &ScalarType) -> Fit {
    let never = || Fit::Impossible(format!("{target} accepts no value of {source}"));
    match (kind(source), target) {
        (_, ScalarType::String) => Fit::Lossless,
        (Kind::Integer { digits, bytes }, target) => fit_integer(digits, bytes, target),
        (Kind::Float { bits }, target) => fit_float(bits, target),
        (Kind::Numeric(limits), target) => fit_numeric(limits, target),
        (Kind::Boolean, ScalarType::Bool) | (Kind::Uuid, ScalarType::Uuid) | (Kind::Date, ScalarType::Date32) => {
            Fit::Lossless
        }
        (Kind::Uuid, ScalarType::FixedString(36)) => Fit::Lossless,
        // A true is a 1 there.
        (Kind::Boolean, ScalarType::Integer(Integer { signed: false, bytes: 1 })) => Fit::Lossless,
        (Kind::Date, ScalarType::Date) => lossy("days before 1970 and after 2149-06-06 are refused"),
        (Kind::Date | Kind::Timestamp(_), ScalarType::DateTime64(9)) => lossy("years outside 1900 to 2262 are refused"),
        (Kind::Date, ScalarType::DateTime64(_)) => Fit::Lossless,
        (Kind::Date, ScalarType::DateTime) => lossy("years outside 1970 to 2106 are refused"),
        (Kind::Timestamp(digits), ScalarType::DateTime64(precision)) if u32::from(*precision) >= digits => {
            Fit::Lossless
        }
        (Kind::Timestamp(_), ScalarType::DateTime64(precision)) => {
            Fit::Lossy(format!("times with more than {precision} digits after the second are refused"))
        }
        (Kind::Timestamp(_), ScalarType::DateTime) => {
            lossy("fractions of a second, and years outside 1970 to 2106, are refused")
        }
        (Kind::Document, ScalarType::Json) => lossy(
            "a JSON column keeps neither null members nor empty objects, nor the order and the digits of what was written; String does",
        ),
        (Kind::Document, _) => lossy("only documents of exactly this form are accepted"),
        (Kind::Text, ScalarType::FixedString(length)) => {
            Fit::Lossy(format!("text of a length other than {length} bytes is refused"))
        }
        (Kind::Text, ScalarType::Enum(_)) => lossy("a text that is not a member of the enum is refused"),
        (Kind::Text, number) if is_number(number) => never(),
        (Kind::Text, ScalarType::Bool | ScalarType::Json) => never(),
        (Kind::Text, other) => Fit::Lossy(format!("a text that is not a {other} is refused")),
        _ => never(),
    }
}

fn lossy(which: &str) -> Fit {
    Fit::Lossy(which.to_owned())
}

fn is_number(target: &ScalarType) -> bool {
    use ScalarType as T;
    matches!(target, T::Integer(_) | T::Float32 | T::Float64 | T::Decimal(_))
}

fn impossible_number(target: &ScalarType) -> Fit {
    Fit::Impossible(format!("{target} accepts no number"))
}

fn fit_integer(digits: u32, bytes: usize, target: &ScalarType) -> Fit {
    match target {
        ScalarType::Integer(Integer { signed: true, bytes: target_bytes }) if *target_bytes >= bytes => Fit::Lossless,
        ScalarType::Integer(_) => Fit::Lossy(format!("numbers outside the range of {target} are refused")),
        ScalarType::Decimal(Decimal { precision, scale }) if precision - scale >= digits => Fit::Lossless,
        ScalarType::Decimal(Decimal { precision, scale }) => {
            Fit::Lossy(format!("numbers of more than {} digits are refused", precision - scale))
        }
        ScalarType::Float32 if bytes <= 2 => Fit::Lossless,
        ScalarType::Float64 if bytes <= 4 => Fit::Lossless,
        ScalarType::Float32 | ScalarType::Float64 => shown_otherwise(target),
        _ => impossible_number(target),
    }
}

/// Of the numbers that a float rounds to one, it takes the one that it is shown as.
fn shown_otherwise(target: &ScalarType) -> Fit {
    Fit::Lossy(format!("numbers that {target} would show with other digits are refused"))
}

fn fit_float(bits: u32, target: &ScalarType) -> Fit {
    match target {
        ScalarType::Float64 => Fit::Lossless,
        ScalarType::Float32 if bits <= 24 => Fit::Lossless,
        ScalarType::Float32 => lossy("numbers that Float32 would round are refused"),
        target if is_number(target) => Fit::Lossy(format!("numbers that {target} would round are refused")),
        _ => impossible_number(target),
    }
}

fn fit_numeric(limits: Option<(u32, u32)>, target: &ScalarType) -> Fit {
    match (limits, target) {
        (Some((before, behind)), ScalarType::Decimal(Decimal { precision, scale }))
            if *scale >= behind && precision - scale >= before =>
        {
            Fit::Lossless
        }
        (_, ScalarType::Float32 | ScalarType::Float64) => shown_otherwise(target),
        (_, target) if is_number(target) => {
            Fit::Lossy(format!("numbers with more digits than {target} has are refused"))
        }
        _ => impossible_number(target),
    }
}

#[cfg(test)]
mod tests;

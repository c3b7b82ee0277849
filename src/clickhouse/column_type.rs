//! What `system.columns` says about a target column, and its type as a tree.
//!
//! Only types whose every value can be checked before it is sent are known here. No field fills a column of any other.

use std::fmt;

mod parse;
mod scalars;

pub use crate::data::{Column, DefaultKind, in_dictionary, takes_null};

/// A type that the encoder does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsupportedType {
    /// The column, where one is known.
    pub column: Option<String>,
    /// The innermost part that is not known, for instance `Variant(String, UInt8)`.
    pub type_name: String,
}

impl fmt::Display for UnsupportedType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(column) = &self.column {
            write!(f, "column {column:?}: ")?;
        }
        write!(f, "pg2ch does not know the type {}", self.type_name)
    }
}

impl std::error::Error for UnsupportedType {}

/// A column's type as far as its encoding goes: `LowCardinality`, `SimpleAggregateFunction` and the names of
/// time zones, which change nothing in RowBinary, are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// A type without parts.
    Scalar(ScalarType),
    /// `Nullable(T)`.
    Nullable(Box<ColumnType>),
    /// `Array(T)`; also a `Nested` that is not flattened.
    Array(Box<ColumnType>),
    /// `Tuple(Int32, String)`.
    Tuple(Vec<ColumnType>),
    /// `Tuple(a Int32, b String)`; also each element of a `Nested`.
    NamedTuple(Vec<(String, ColumnType)>),
    /// `Map(K, V)`.
    Map(ScalarType, Box<ColumnType>),
}

impl ColumnType {
    /// The type of the values that are not NULL.
    pub(crate) fn without_null(self) -> Self {
        match self {
            Self::Nullable(inner) => *inner,
            other => other,
        }
    }
}

/// A type whose values have no parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScalarType {
    /// `Int8` to `Int256`, `UInt8` to `UInt256`.
    Integer(Integer),
    Float32,
    Float64,
    /// `Decimal(P, S)`, however it is spelt.
    Decimal(Decimal),
    Bool,
    String,
    /// Length in bytes.
    FixedString(usize),
    Uuid,
    /// `Date`: 1970-01-01 to 2149-06-06.
    Date,
    Date32,
    /// `DateTime`: whole seconds, 1970 to 2106.
    DateTime,
    /// Digits after the second, 0 to 9.
    DateTime64(u8),
    /// `Time`: whole seconds.
    Time,
    /// Digits after the second, 0 to 9.
    Time64(u8),
    Enum(EnumType),
    Ipv4,
    Ipv6,
    /// `JSON` without typed paths.
    Json,
}

/// `Int8` to `Int256`, `UInt8` to `UInt256`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Integer {
    /// Whether negative numbers have a place.
    pub signed: bool,
    /// 1, 2, 4, 8, 16 or 32.
    pub bytes: usize,
}

/// `Decimal(precision, scale)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal {
    /// Digits in all, 1 to 76.
    pub precision: u32,
    /// Digits after the point, at most `precision`.
    pub scale: u32,
}

impl Decimal {
    /// Bytes of a value: 4, 8, 16 or 32.
    pub fn bytes(self) -> usize {
        match self.precision {
            ..=9 => 4,
            10..=18 => 8,
            19..=38 => 16,
            _ => 32,
        }
    }
}

/// `Enum8` or `Enum16`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnumType {
    /// 1 or 2.
    bytes: usize,
    /// Sorted by name.
    members: Vec<(String, i16)>,
}

impl EnumType {
    /// Bytes of a value: 1 or 2.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number that stands for a name.
    pub fn number(&self, name: &str) -> Option<i16> {
        let at = self.members.binary_search_by(|(member, _)| member.as_str().cmp(name)).ok()?;
        self.members.get(at).map(|(_, number)| *number)
    }
}

impl fmt::Display for ScalarType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScalarType::Integer(Integer { signed, bytes }) => {
                write!(f, "{}Int{}", if *signed { "" } else { "U" }, bytes * 8)
            }
            ScalarType::Float32 => f.write_str("Float32"),
            ScalarType::Float64 => f.write_str("Float64"),
            ScalarType::Decimal(Decimal { precision, scale }) => {
                write!(f, "Decimal({precision}, {scale})")
            }
            ScalarType::Bool => f.write_str("Bool"),
            ScalarType::String => f.write_str("String"),
            ScalarType::FixedString(length) => write!(f, "FixedString({length})"),
            ScalarType::Uuid => f.write_str("UUID"),
            ScalarType::Date => f.write_str("Date"),
            ScalarType::Date32 => f.write_str("Date32"),
            ScalarType::DateTime => f.write_str("DateTime"),
            ScalarType::DateTime64(precision) => write!(f, "DateTime64({precision})"),
            ScalarType::Time => f.write_str("Time"),
            ScalarType::Time64(precision) => write!(f, "Time64({precision})"),
            ScalarType::Enum(members) => write!(f, "Enum{}", members.bytes * 8),
            ScalarType::Ipv4 => f.write_str("IPv4"),
            ScalarType::Ipv6 => f.write_str("IPv6"),
            ScalarType::Json => f.write_str("JSON"),
        }
    }
}

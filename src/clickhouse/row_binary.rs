//! Reads RowBinary, as far as it takes to split an answer into its rows and columns: how long a value is, by its type.

use super::column_type::{ColumnType, ScalarType};

/// A String's bytes, and what comes behind them.
pub fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, behind) = length(bytes)?;
    behind.split_at_checked(length)
}

/// What comes behind a value; `None` if the bytes end within it, or its type has no fixed form.
pub fn value<'a>(column_type: &ColumnType, bytes: &'a [u8]) -> Option<&'a [u8]> {
    match column_type {
        ColumnType::Scalar(scalar) => skip_scalar(scalar, bytes),
        ColumnType::Nullable(inner) => match bytes.split_first()? {
            (0, behind) => value(inner, behind),
            (_, behind) => Some(behind),
        },
        ColumnType::Array(inner) => {
            let (length, behind) = length(bytes)?;
            (0..length).try_fold(behind, |rest, _| value(inner, rest))
        }
        ColumnType::Tuple(inner) => inner.iter().try_fold(bytes, |rest, part| value(part, rest)),
        ColumnType::NamedTuple(inner) => inner.iter().try_fold(bytes, |rest, (_, part)| value(part, rest)),
        ColumnType::Map(key, inner) => {
            let (length, behind) = length(bytes)?;
            (0..length).try_fold(behind, |rest, _| value(inner, skip_scalar(key, rest)?))
        }
    }
}

/// Whether values of the type have one form, so that they can be compared byte by byte. The server stores a JSON document
/// in a form of its own.
pub fn is_comparable(column_type: &ColumnType) -> bool {
    match column_type {
        ColumnType::Scalar(scalar) => *scalar != ScalarType::Json,
        ColumnType::Nullable(inner) | ColumnType::Array(inner) | ColumnType::Map(_, inner) => is_comparable(inner),
        ColumnType::Tuple(inner) => inner.iter().all(is_comparable),
        ColumnType::NamedTuple(inner) => inner.iter().all(|(_, part)| is_comparable(part)),
    }
}

fn skip_scalar<'a>(scalar: &ScalarType, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let length = match scalar {
        ScalarType::String => return string(bytes).map(|(_, behind)| behind),
        ScalarType::Json => return None,
        ScalarType::Integer(integer) => integer.bytes,
        ScalarType::Decimal(decimal) => decimal.bytes(),
        ScalarType::Enum(members) => members.bytes(),
        ScalarType::FixedString(length) => *length,
        ScalarType::Bool => 1,
        ScalarType::Date => 2,
        ScalarType::Float32 | ScalarType::Date32 | ScalarType::DateTime | ScalarType::Time | ScalarType::Ipv4 => 4,
        ScalarType::Float64 | ScalarType::DateTime64(_) | ScalarType::Time64(_) => 8,
        ScalarType::Uuid | ScalarType::Ipv6 => 16,
    };
    bytes.get(length..)
}

/// A length, seven bits a byte, the lowest first.
pub fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut length = 0_usize;
    for (index, byte) in bytes.iter().take(9).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((length, &bytes[index + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clickhouse::column_type::Column;
    use crate::clickhouse::encode::RowEncoder;
    use crate::data::RecordId;

    #[test]
    fn what_the_encoder_writes_is_skipped_to_its_last_byte() {
        for (type_name, json) in [
            ("Int256", "-5"),
            ("Decimal(38, 4)", "1.5"),
            ("Nullable(String)", "null"),
            ("LowCardinality(Nullable(String))", "\"some text\""),
            ("Array(Nullable(Int32))", "[1,null,3]"),
            ("Array(Array(String))", "[[\"a\"],[],[\"b\",\"c\"]]"),
            ("Map(String, Array(UInt8))", "{\"a\":[1,2],\"b\":[]}"),
            ("Tuple(a Date32, b UUID)", "{\"a\":\"2026-01-02\",\"b\":\"00112233-4455-6677-8899-aabbccddeeff\"}"),
            ("FixedString(3)", "\"abc\""),
            ("Enum16('x' = 300)", "\"x\""),
            ("DateTime64(6, 'UTC')", "\"2026-01-02T03:04:05.123456+00:00\""),
            ("IPv6", "\"::1\""),
            ("Bool", "true"),
            ("Float32", "1.5"),
        ] {
            let mut encoder = RowEncoder::new(&[Column::new("c", type_name)]).unwrap();
            let mut row = Vec::new();
            let at = RecordId { partition: 0, offset: 0, timestamp_ms: 0 };
            encoder.encode(at, format!("{{\"c\":{json}}}").as_bytes(), &mut row).unwrap();
            let parsed = ColumnType::parse(type_name).unwrap();
            assert_eq!(value(&parsed, &row), Some(&[][..]), "{type_name}");
            row.pop();
            assert_eq!(value(&parsed, &row), None, "{type_name}, cut");
        }
    }
}

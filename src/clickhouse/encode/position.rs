//! Where a record stands in its topic, and the columns of the target that keep it.

use super::number;
use super::refusal::Refusal;
use super::time;
use crate::clickhouse::column_type::{ColumnType, Integer, ScalarType, UnsupportedType};
use crate::data::{CalendarRange, RecordId};

/// A column that keeps a part of the id.
#[derive(Clone, Debug)]
pub(super) struct PositionColumn {
    name: &'static str,
    nullable: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Partition(Integer),
    Offset(Integer),
    /// Digits after the second, 3 to 9.
    Timestamp(u8),
}

/// Whether a column of the position, of this type, holds every value that it may have.
pub fn holds_position(name: &'static str, type_name: &str) -> bool {
    PositionColumn::new(name, type_name).is_ok()
}

impl PositionColumn {
    /// # Errors
    /// If the type does not hold every partition, offset or millisecond (save for negative ones).
    pub fn new(name: &'static str, type_name: &str) -> Result<PositionColumn, UnsupportedType> {
        let (nullable, column_type) = match ColumnType::parse(type_name)? {
            ColumnType::Nullable(inner) => (true, *inner),
            other => (false, other),
        };
        let kind = match (name, column_type) {
            ("_partition", ColumnType::Scalar(ScalarType::Integer(integer))) if integer.bytes >= 4 => {
                Kind::Partition(integer)
            }
            ("_offset", ColumnType::Scalar(ScalarType::Integer(integer))) if integer.bytes >= 8 => {
                Kind::Offset(integer)
            }
            ("_timestamp", ColumnType::Scalar(ScalarType::DateTime64(digits @ 3..))) => Kind::Timestamp(digits),
            _ => {
                return Err(UnsupportedType { column: None, type_name: type_name.to_owned() });
            }
        };
        Ok(PositionColumn { name, nullable, kind })
    }

    pub fn write(&self, id: RecordId, range: CalendarRange, out: &mut Vec<u8>) -> Result<(), Refusal> {
        if self.nullable {
            out.push(0);
        }
        let refusal =
            |value: i64, rule: String| Refusal { column: Some(self.name.to_owned()), value: value.to_string(), rule };
        let integer = |kind: Integer, value: i64, out: &mut Vec<u8>| {
            number::small(kind, value, out).ok_or_else(|| refusal(value, number::out_of_range(kind, 0).rule))
        };
        match self.kind {
            Kind::Partition(kind) => integer(kind, id.partition.into(), out),
            Kind::Offset(kind) => integer(kind, id.offset, out),
            Kind::Timestamp(digits) => {
                let (seconds, milliseconds) = (id.timestamp_ms.div_euclid(1000), id.timestamp_ms.rem_euclid(1000));
                let fraction = milliseconds * 10_i64.pow(u32::from(digits - 3));
                let ticks = time::instant(digits, seconds, fraction, range)
                    .ok_or_else(|| refusal(id.timestamp_ms, time::out_of_range(digits, range)))?;
                out.extend_from_slice(&ticks.to_le_bytes());
                Ok(())
            }
        }
    }
}

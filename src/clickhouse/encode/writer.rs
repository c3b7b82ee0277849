//! From a column's type to the writer of its values.

use super::context::Context;
use super::fields::{Absent, Field, Fields};
use super::json::Cursor;
use super::json_column;
use super::refusal::{Checked, Fault};
use super::{float, number, text, time};
use crate::clickhouse::column_type::{ColumnType, ScalarType};
use crate::data::CalendarRange;

/// Writes the values of one type.
#[derive(Clone, Debug)]
pub(super) enum Writer {
    Scalar(ScalarType),
    Nullable(Box<Writer>),
    Array(Box<Writer>),
    /// A tuple without names, from an array.
    Sequence(Vec<Writer>),
    /// A tuple with names, from an object.
    Object(Fields),
    Map(ScalarType, Box<Writer>),
}

impl Writer {
    pub fn new(column_type: ColumnType) -> Writer {
        let boxed = |inner: Box<ColumnType>| Box::new(Writer::new(*inner));
        match column_type {
            ColumnType::Scalar(scalar) => Writer::Scalar(scalar),
            ColumnType::Nullable(inner) => Writer::Nullable(boxed(inner)),
            ColumnType::Array(inner) => Writer::Array(boxed(inner)),
            ColumnType::Tuple(elements) => Writer::Sequence(elements.into_iter().map(Writer::new).collect()),
            ColumnType::NamedTuple(elements) => {
                let field = |(name, element)| Field::new(name, Writer::new(element), Absent::Refused);
                Writer::Object(Fields::new(elements.into_iter().map(field).collect()))
            }
            ColumnType::Map(key, inner) => Writer::Map(key, boxed(inner)),
        }
    }

    pub fn is_nullable(&self) -> bool {
        matches!(self, Writer::Nullable(_))
    }

    /// Passes [`Fields::set_missing_as_null`] on to the tuples within.
    pub fn set_missing_as_null(&mut self, yes: bool) {
        match self {
            Writer::Scalar(_) => {}
            Writer::Nullable(inner) | Writer::Array(inner) | Writer::Map(_, inner) => {
                inner.set_missing_as_null(yes);
            }
            Writer::Sequence(elements) => elements.iter_mut().for_each(|element| element.set_missing_as_null(yes)),
            Writer::Object(fields) => fields.set_missing_as_null(yes),
        }
    }

    /// Reads a value and appends it. What was appended before a fault is left for the caller to take back.
    pub fn write(&mut self, cursor: &mut Cursor<'_>, context: &mut Context, out: &mut Vec<u8>) -> Checked<()> {
        match self {
            Writer::Scalar(scalar) => write_scalar(scalar, cursor, context, out),
            Writer::Nullable(inner) => {
                if cursor.peek() == Some(b'n') {
                    cursor.literal()?;
                    out.push(1);
                    return Ok(());
                }
                out.push(0);
                inner.write(cursor, context, out)
            }
            Writer::Array(element) => write_array(element, cursor, context, out),
            Writer::Sequence(elements) => write_sequence(elements, cursor, context, out),
            Writer::Object(fields) => {
                if cursor.peek() != Some(b'{') {
                    return Err(cursor.mismatch("a Tuple with names", "an object"));
                }
                fields.write(cursor, context, out)
            }
            Writer::Map(key, value) => write_map(key, value, cursor, context, out),
        }
    }
}

fn write_scalar(scalar: &ScalarType, cursor: &mut Cursor<'_>, context: &mut Context, out: &mut Vec<u8>) -> Checked<()> {
    match scalar {
        ScalarType::Integer(integer) => number::integer(*integer, cursor, out),
        ScalarType::String => text::string(cursor, out),
        ScalarType::Float32 => float::float::<f32>(cursor, context, out),
        ScalarType::Float64 => float::float::<f64>(cursor, context, out),
        ScalarType::Decimal(decimal) => number::decimal(*decimal, cursor, out),
        ScalarType::Bool => number::boolean(cursor, out),
        ScalarType::Json => json_column::write(cursor, context, out),
        _ => {
            if cursor.peek() != Some(b'"') {
                return Err(cursor.mismatch(&scalar.to_string(), "a string"));
            }
            let quoted = cursor.string()?;
            write_text(scalar, quoted.text(&mut context.text)?, quoted.start, context.range, out)
        }
    }
}

/// A value that JSON writes as a string: also each key of an object.
fn write_text(scalar: &ScalarType, text: &str, at: usize, range: CalendarRange, out: &mut Vec<u8>) -> Checked<()> {
    match scalar {
        ScalarType::String => text::plain_string(text, out),
        ScalarType::FixedString(bytes) => text::fixed_string(*bytes, text, at, out)?,
        ScalarType::DateTime64(digits) => time::date_time64(*digits, text, at, range, out)?,
        ScalarType::DateTime => time::date_time(text, at, out)?,
        ScalarType::Date => time::date(text, at, out)?,
        ScalarType::Date32 => time::date32(text, at, range, out)?,
        ScalarType::Time => time::time(None, text, at, out)?,
        ScalarType::Time64(digits) => time::time(Some(*digits), text, at, out)?,
        ScalarType::Uuid => text::uuid(text, at, out)?,
        ScalarType::Enum(members) => text::enumeration(members, text, at, out)?,
        ScalarType::Ipv4 => text::ipv4(text, at, out)?,
        ScalarType::Ipv6 => text::ipv6(text, at, out)?,
        ScalarType::Integer(integer) => number::integer_text(*integer, text, at, out)?,
        ScalarType::Float32 | ScalarType::Float64 | ScalarType::Decimal(_) | ScalarType::Bool | ScalarType::Json => {
            return Err(Fault::new(at, format!("text, which {scalar} does not take")));
        }
    }
    Ok(())
}

fn write_array(element: &mut Writer, cursor: &mut Cursor<'_>, context: &mut Context, out: &mut Vec<u8>) -> Checked<()> {
    if cursor.peek() != Some(b'[') {
        return Err(cursor.mismatch("Array", "an array"));
    }
    let place = out.len();
    out.push(0);
    let mut length = 0;
    let mut more = cursor.begin(b'[', b']')?;
    while more {
        element.write(cursor, context, out)?;
        length += 1;
        more = cursor.more(b']')?;
    }
    text::length_at(place, length, out);
    Ok(())
}

fn write_sequence(
    elements: &mut [Writer],
    cursor: &mut Cursor<'_>,
    context: &mut Context,
    out: &mut Vec<u8>,
) -> Checked<()> {
    if cursor.peek() != Some(b'[') {
        return Err(cursor.mismatch("a Tuple without names", "an array"));
    }
    let (start, expected) = (cursor.at(), elements.len());
    let wrong_length = || Fault::new(start, format!("not an array of {expected} elements, as the Tuple has"));
    let mut more = cursor.begin(b'[', b']')?;
    for element in elements {
        if !more {
            return Err(wrong_length());
        }
        element.write(cursor, context, out)?;
        more = cursor.more(b']')?;
    }
    if more { Err(wrong_length()) } else { Ok(()) }
}

/// Keys that occur twice are kept twice, as ClickHouse itself does.
fn write_map(
    key: &ScalarType,
    value: &mut Writer,
    cursor: &mut Cursor<'_>,
    context: &mut Context,
    out: &mut Vec<u8>,
) -> Checked<()> {
    if cursor.peek() != Some(b'{') {
        return Err(cursor.mismatch("Map", "an object"));
    }
    let place = out.len();
    out.push(0);
    let mut length = 0;
    let mut more = cursor.begin(b'{', b'}')?;
    while more {
        let quoted = cursor.key()?;
        write_text(key, quoted.text(&mut context.text)?, quoted.start, context.range, out)?;
        value.write(cursor, context, out)?;
        length += 1;
        more = cursor.more(b'}')?;
    }
    text::length_at(place, length, out);
    Ok(())
}

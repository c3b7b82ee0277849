//! From a column's type to the writer of its values; the writer of an object, a row or a tuple with names, has one for each field.
//!
//! Fields normally arrive in the table's order, so each is first compared with the one expected next, and what
//! is appended stands right already. In any other order the row is put together again at its end.

use std::collections::{HashMap, HashSet};

use super::context::Context;
use super::json::Cursor;
use super::json_column;
use super::origin::{Demand, Origin};
use super::refusal::{Checked, Fault};
use super::{float, number, text, time};
use crate::clickhouse::column_type::{ColumnType, ScalarType};
use crate::data::CalendarRange;
use crate::mutant;

/// Writes the values of one type.
#[derive(Clone, Debug)]
pub(super) enum Writer {
    Scalar(ScalarType),
    /// A scalar of which its origin demands more than its type.
    Strict(Demand, ScalarType),
    Nullable(Box<Writer>),
    Array(Box<Writer>),
    /// A tuple without names, from an array.
    Sequence(Vec<Writer>),
    /// A tuple with names, from an object.
    Object(Fields),
    Map(ScalarType, Box<Writer>),
}

impl Writer {
    pub fn new(column_type: ColumnType, origin: Origin) -> Writer {
        let within = |inner: ColumnType| Writer::new(inner, origin.within());
        match column_type {
            ColumnType::Scalar(scalar) => {
                let demand = match scalar {
                    ScalarType::String => origin.of_string(),
                    ScalarType::Float32 => origin.of_float32(),
                    ScalarType::Float64 => origin.of_float64(),
                    _ => None,
                };
                demand.map_or_else(|| Writer::Scalar(scalar.clone()), |demand| Writer::Strict(demand, scalar.clone()))
            }
            ColumnType::Nullable(inner) => Writer::Nullable(Box::new(Writer::new(*inner, origin))),
            ColumnType::Array(inner) => Writer::Array(Box::new(within(*inner))),
            ColumnType::Tuple(elements) => Writer::Sequence(elements.into_iter().map(within).collect()),
            ColumnType::NamedTuple(elements) => {
                let field = |(name, element)| Field::new(name, within(element), false);
                Writer::Object(Fields::new(elements.into_iter().map(field).collect()))
            }
            ColumnType::Map(key, inner) => Writer::Map(key, Box::new(within(*inner))),
        }
    }

    /// Adds what [`Fields::lacking`] of the tuples within say.
    fn lacking(&self, path: &str, found: &mut Vec<(String, u64)>) {
        match self {
            Writer::Scalar(_) | Writer::Strict(..) => {}
            Writer::Nullable(inner) | Writer::Array(inner) | Writer::Map(_, inner) => inner.lacking(path, found),
            Writer::Sequence(elements) => elements.iter().for_each(|element| element.lacking(path, found)),
            Writer::Object(fields) => fields.lacking(&format!("{path}."), found),
        }
    }

    /// Reads a value and appends it. What was appended before a fault is left for the caller to take back.
    pub fn write(&mut self, cursor: &mut Cursor<'_>, context: &mut Context, out: &mut Vec<u8>) -> Checked<()> {
        match self {
            Writer::Scalar(scalar) => write_scalar(scalar, cursor, context, out),
            Writer::Strict(demand, scalar) => write_strict(*demand, scalar, cursor, context, out),
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

fn write_strict(
    demand: Demand,
    scalar: &ScalarType,
    cursor: &mut Cursor<'_>,
    context: &mut Context,
    out: &mut Vec<u8>,
) -> Checked<()> {
    match (demand, cursor.peek()) {
        // A string with its quotes.
        (Demand::AsSpelt, Some(b'"')) if !mutant::is("a document loses its quotes") => {
            text::plain_string(cursor.value()?, out);
            Ok(())
        }
        (Demand::OnlyString, first) if first != Some(b'"') => {
            Err(cursor.mismatch("a String within a document", "a string"))
        }
        (Demand::NoArray, Some(b'[')) => {
            Err(Fault::new(cursor.at(), "an array of more dimensions than the column's type has"))
        }
        (Demand::Exact, _) => float::exact_float32(cursor, context, out),
        (Demand::AsShown, _) if *scalar == ScalarType::Float32 => float::shown::<f32>(cursor, context, out),
        (Demand::AsShown, _) => float::shown::<f64>(cursor, context, out),
        _ => write_scalar(scalar, cursor, context, out),
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
    write_parts(b'[', b']', cursor, out, |cursor, out| element.write(cursor, context, out))
}

/// The parts of an array or object, and how many they are in front.
fn write_parts<'a>(
    open: u8,
    close: u8,
    cursor: &mut Cursor<'a>,
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut Cursor<'a>, &mut Vec<u8>) -> Checked<()>,
) -> Checked<()> {
    let place = out.len();
    out.push(0);
    let mut length = 0;
    let mut more = cursor.begin(open, close)?;
    while more {
        write(cursor, out)?;
        length += 1;
        more = cursor.more(close)?;
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
    write_parts(b'{', b'}', cursor, out, |cursor, out| {
        let quoted = cursor.key()?;
        write_text(key, quoted.text(&mut context.text)?, quoted.start, context.range, out)?;
        value.write(cursor, context, out)
    })
}

/// What becomes of a field that a record lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absent {
    Refused,
    /// The row leaves the column out, and the server fills in its DEFAULT.
    Default,
    /// It is taken as null: the record is of a time before the column was added, or after it was dropped.
    Null,
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    pub writer: Writer,
    absent: Absent,
    /// The name in quotes and a colon, as PostgreSQL writes it.
    key: Vec<u8>,
}

impl Field {
    /// A field of records, of a column that `has_default`, or a member of a tuple.
    pub fn new(name: String, writer: Writer, has_default: bool) -> Field {
        let key = key_text(&name);
        let absent = match writer {
            _ if has_default => Absent::Default,
            Writer::Nullable(_) => Absent::Null,
            _ => Absent::Refused,
        };
        Field { name, writer, absent, key }
    }

    /// A column that no field of a record fills.
    pub fn without_source(name: String, writer: Writer) -> Field {
        // No key begins so.
        Field { name, writer, absent: Absent::Refused, key: vec![0] }
    }

    fn has_source(&self) -> bool {
        self.key != [0]
    }
}

/// A place in the list of fields.
type Index = usize;

#[derive(Clone, Debug)]
pub(super) struct Fields {
    list: Vec<Field>,
    by_name: HashMap<String, Index>,
    /// Which field came first lately, and then, for each field, which came after it.
    expected: Vec<Index>,
    /// Where each field of the object in hand was appended; empty again before the next one.
    segments: Vec<Option<(usize, usize)>>,
    /// How many of them it has.
    arrived: usize,
    /// Fields of a record that are passed over.
    ignored: HashSet<String>,
    /// How many records lacked each field and were taken nevertheless.
    lacking: Vec<u64>,
}

impl Fields {
    pub fn new(fields: Vec<Field>) -> Fields {
        let sourced = fields.iter().enumerate().filter(|(_, field)| field.has_source());
        let by_name = sourced.map(|(index, field)| (field.name.clone(), index)).collect();
        let expected = (0..=fields.len()).collect();
        let (segments, lacking) = (vec![None; fields.len()], vec![0; fields.len()]);
        Fields { list: fields, by_name, expected, segments, arrived: 0, ignored: HashSet::new(), lacking }
    }

    /// Passes over the fields of these names.
    pub fn ignoring(mut self, names: impl IntoIterator<Item = String>) -> Fields {
        self.ignored.extend(names);
        self
    }

    /// Adds the fields that objects lacked, here and in the tuples within, and how many did; their names follow `path`.
    pub fn lacking(&self, path: &str, found: &mut Vec<(String, u64)>) {
        for (field, &count) in self.list.iter().zip(&self.lacking) {
            let name = format!("{path}{}", field.name);
            field.writer.lacking(&name, found);
            if count > 0 {
                found.push((name, count));
            }
        }
    }

    /// Whether the last object had every field.
    pub fn is_complete(&self) -> bool {
        self.arrived == self.list.len()
    }

    /// The places of the fields that the last object lacked and that the server fills in: its row has nothing there.
    pub fn left_out(&self) -> impl Iterator<Item = usize> {
        let fields = self.list.iter().zip(&self.segments).enumerate();
        fields.filter(|(_, (field, segment))| segment.is_none() && field.absent == Absent::Default).map(|(at, _)| at)
    }

    pub fn write(&mut self, cursor: &mut Cursor<'_>, context: &mut Context, out: &mut Vec<u8>) -> Checked<()> {
        let (object, start) = (cursor.at(), out.len());
        self.segments.fill(None);
        self.arrived = 0;
        let (mut in_order, mut next) = (true, 0);
        let mut more = cursor.begin(b'{', b'}')?;
        while more {
            let Some(index) = self.locate(next, cursor, context)? else {
                cursor.value()?;
                more = cursor.more(b'}')?;
                continue;
            };
            let begin = out.len();
            let (field, segment) = (&mut self.list[index], &mut self.segments[index]);
            if segment.is_some() {
                return Err(Fault::new(cursor.at(), "the field is there twice").within(&field.name));
            }
            if let Err(fault) = field.writer.write(cursor, context, out) {
                return Err(fault.within(&field.name));
            }
            *segment = Some((begin, out.len()));
            in_order &= index == self.arrived;
            self.arrived += 1;
            next = index + 1;
            more = cursor.more(b'}')?;
        }
        if !in_order || !self.is_complete() {
            self.arrange(object, start, out)?;
        }
        Ok(())
    }

    /// Takes a key and the colon after it, and returns whose it is, if it is not ignored. `place` is the one in `expected`.
    fn locate(&mut self, place: usize, cursor: &mut Cursor<'_>, context: &mut Context) -> Checked<Option<Index>> {
        let expected = self.expected[place];
        if self.list.get(expected).is_some_and(|field| cursor.eat_all(&field.key)) {
            cursor.spaces();
            return Ok(Some(expected));
        }
        let quoted = cursor.key()?;
        let name = quoted.text(&mut context.text)?;
        match self.by_name.get(name) {
            Some(&index) => {
                self.expected[place] = index;
                Ok(Some(index))
            }
            None if self.ignored.contains(name) => Ok(None),
            None => Err(Fault::new(cursor.at(), "the target has no such column").within(name)),
        }
    }

    /// Puts the fields appended since `start` into the table's order, with what stands for the missing ones.
    fn arrange(&mut self, object: usize, start: usize, out: &mut Vec<u8>) -> Checked<()> {
        let end = out.len();
        for (field, segment) in self.list.iter().zip(&self.segments) {
            match (segment, field.absent) {
                (Some((from, to)), _) => out.extend_from_within(*from..*to),
                (None, Absent::Default) => {}
                (None, Absent::Null) => out.push(1),
                (None, Absent::Refused) => {
                    let rule = "the record lacks this field, and the column has no default";
                    return Err(Fault::new(object, rule).within(&field.name));
                }
            }
        }
        out.drain(start..end);
        for (segment, lacking) in self.segments.iter().zip(&mut self.lacking) {
            *lacking += u64::from(segment.is_none());
        }
        Ok(())
    }
}

/// A key as PostgreSQL writes it: `escape_json` knows short escapes for these and \u00xx for other controls.
fn key_text(name: &str) -> Vec<u8> {
    let mut key = String::from("\"");
    for character in name.chars() {
        match character {
            '"' => key.push_str("\\\""),
            '\\' => key.push_str("\\\\"),
            '\u{8}' => key.push_str("\\b"),
            '\u{c}' => key.push_str("\\f"),
            '\n' => key.push_str("\\n"),
            '\r' => key.push_str("\\r"),
            '\t' => key.push_str("\\t"),
            control @ ..' ' => key.push_str(&format!("\\u{:04x}", u32::from(control))),
            plain => key.push(plain),
        }
    }
    key.push_str("\":");
    key.into_bytes()
}

//! A JSON object whose fields have a type each: a row, or a tuple with names.
//!
//! Fields normally arrive in the table's order, so each is first compared with the one expected next, and what
//! is appended stands right already. In any other order the row is put together again at its end.

use std::collections::{HashMap, HashSet};

use super::context::Context;
use super::json::Cursor;
use super::refusal::{Checked, Fault};
use super::writer::Writer;

/// What becomes of a field that a record lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    Refused,
    /// The row leaves the column out, and the server fills in its DEFAULT.
    Default,
    /// It is taken as null.
    Null,
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    pub name: String,
    pub writer: Writer,
    pub absent: Absent,
    /// The name in quotes and a colon, as PostgreSQL writes it.
    key: Vec<u8>,
}

impl Field {
    pub fn new(name: String, writer: Writer, absent: Absent) -> Field {
        let key = key_text(&name);
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
        Fields { list: fields, by_name, expected, segments, ignored: HashSet::new(), lacking }
    }

    /// Passes over the fields of these names.
    pub fn ignoring(mut self, names: impl IntoIterator<Item = String>) -> Fields {
        self.ignored.extend(names);
        self
    }

    /// The fields that records lacked, and how many did.
    pub fn lacking(&self) -> impl Iterator<Item = (&str, u64)> {
        let counted = self.list.iter().zip(&self.lacking);
        counted.filter(|(_, count)| **count > 0).map(|(field, count)| (field.name.as_str(), *count))
    }

    /// The places of the fields that the last object lacked and that the server fills in: its row has nothing there.
    pub fn left_out(&self) -> impl Iterator<Item = usize> {
        let fields = self.list.iter().zip(&self.segments).enumerate();
        fields.filter(|(_, (field, segment))| segment.is_none() && field.absent == Absent::Default).map(|(at, _)| at)
    }

    /// Says for every nullable field, here and in the tuples within, what its absence means.
    pub fn set_missing_as_null(&mut self, yes: bool) {
        for field in &mut self.list {
            if field.writer.is_nullable() && field.absent != Absent::Default {
                field.absent = if yes { Absent::Null } else { Absent::Refused };
            }
            field.writer.set_missing_as_null(yes);
        }
    }

    pub fn write(&mut self, cursor: &mut Cursor<'_>, context: &mut Context, out: &mut Vec<u8>) -> Checked<()> {
        let (object, start) = (cursor.at(), out.len());
        self.segments.fill(None);
        let (mut arrived, mut in_order, mut next) = (0, true, 0);
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
            in_order &= index == arrived;
            arrived += 1;
            next = index + 1;
            more = cursor.more(b'}')?;
        }
        if !in_order || arrived < self.list.len() {
            self.arrange(object, start, out)?;
        }
        Ok(())
    }

    /// Takes a key and the colon after it, and tells whose it is, if it is not ignored. `place` is the one in `expected`.
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

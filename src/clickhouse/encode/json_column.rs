//! A value of ClickHouse's `JSON` type, sent as text (setting `input_format_binary_read_json_as_string`).
//!
//! The server takes the text apart into paths. What it would change on the way is refused here: numbers that
//! neither 64-bit integers nor `Float64` hold, keys with dots, which it takes for paths, and arrays whose
//! elements it would give one common type at the cost of their values. (A key that is there twice it refuses
//! itself, and with it the INSERT.) What it leaves out by design is not refused: members that are null and
//! empty objects, which it does not tell from absent ones, and the order of the keys. A `String` column keeps
//! all of that.

use super::Context;
use super::float::reads_back;
use super::json::Cursor;
use super::refusal::{Checked, Fault};
use super::text;

pub(super) fn write(cursor: &mut Cursor<'_>, context: &mut Context, out: &mut Vec<u8>) -> Checked<()> {
    if cursor.peek() != Some(b'{') {
        return Err(cursor.mismatch("JSON", "an object"));
    }
    let start = cursor.at();
    let text = cursor.value()?;
    check(text, context).map_err(|mut fault| {
        fault.at += start;
        fault
    })?;
    text::plain_string(text, out);
    Ok(())
}

/// Kinds of values that an array holds, each a bit, or the mark of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    const NULL: Kinds = Kinds(1);
    const ARRAY: Kinds = Kinds(1 << 1);
    const BOOLEAN: Kinds = Kinds(1 << 2);
    /// Integers that a `Float64` holds.
    const INTEGER: Kinds = Kinds(1 << 3);
    /// Integers that it may round.
    const LARGE_INTEGER: Kinds = Kinds(1 << 4);
    const OBJECT: Kinds = Kinds(1 << 5);
    /// Fractions and texts.
    const OTHER: Kinds = Kinds(1 << 6);
    /// Not what an array holds: these are members of an object.
    const MEMBERS: Kinds = Kinds(1 << 7);

    fn has(self, kind: Kinds) -> bool {
        self.0 & kind.0 != 0
    }

    fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    fn without(self, other: Kinds) -> Kinds {
        Kinds(self.0 & !other.0)
    }

    /// What may change when the server looks for one type for all elements, and for the arrays that other
    /// rows have at the same path. (Found by comparing what a server of version 26.9 shows of random
    /// documents.)
    fn conflict(self) -> Option<&'static str> {
        let values = self.without(Kinds::NULL.and(Kinds::ARRAY));
        if self.has(Kinds::MEMBERS) {
            None
        } else if self.has(Kinds::NULL) && (self.has(Kinds::ARRAY.and(Kinds::OBJECT)) || values == Kinds::default()) {
            Some("an array in which JSON may turn null into something empty")
        } else if values.has(Kinds::BOOLEAN) && values != Kinds::BOOLEAN {
            Some("an array of booleans and other values, which JSON may turn into those")
        } else if values.has(Kinds::LARGE_INTEGER) {
            Some("an array with an integer beyond 2^53, which JSON may round")
        } else {
            None
        }
    }
}

/// Walks over the parts of a text that is known to be JSON.
fn check(text: &str, context: &mut Context) -> Checked<()> {
    let mut cursor = Cursor::new(text);
    let Context { open, text: scratch, .. } = context;
    open.clear();
    while let Some(byte) = cursor.peek() {
        let at = cursor.at();
        let found = match byte {
            b'"' => {
                key_or_text(&mut cursor, scratch)?;
                Kinds::OTHER
            }
            b'-' | b'0'..=b'9' => number(cursor.number()?, at, scratch)?,
            b't' | b'f' | b'n' => match cursor.literal()? {
                "null" => Kinds::NULL,
                _ => Kinds::BOOLEAN,
            },
            b'[' | b'{' => {
                cursor.step();
                open.push(if byte == b'{' { Kinds::MEMBERS } else { Kinds::default() });
                continue;
            }
            b']' | b'}' => {
                cursor.step();
                let closed = open.pop().unwrap_or_default();
                if let Some(rule) = closed.conflict() {
                    return Err(Fault::new(0, rule));
                }
                // An array shares its type with the arrays within it.
                let object = closed.has(Kinds::MEMBERS);
                if object { Kinds::OBJECT } else { closed.without(Kinds::NULL).and(Kinds::ARRAY) }
            }
            _ => {
                cursor.step();
                continue;
            }
        };
        if let Some(around) = open.last_mut() {
            *around = around.and(found);
        }
    }
    Ok(())
}

fn key_or_text(cursor: &mut Cursor<'_>, scratch: &mut Vec<u8>) -> Checked<()> {
    let quoted = cursor.string()?;
    let plain = quoted.text(scratch)?;
    cursor.spaces();
    if cursor.eat(b':') && plain.contains('.') {
        return Err(Fault::new(quoted.start, "a key with a dot, which JSON would take for a path"));
    }
    Ok(())
}

/// A number survives as an integer of 64 bits or as a `Float64`.
fn number(text: &str, at: usize, scratch: &mut Vec<u8>) -> Checked<Kinds> {
    const SAFE_INTEGER: u64 = 1 << 53;
    let changed = || Fault::new(at, "a number that JSON would round or turn into text");
    if text.contains(['.', 'e', 'E']) {
        let value: f64 = text.parse().map_err(|_| changed())?;
        let survives = value.is_finite() && reads_back(value, text, scratch);
        return if survives { Ok(Kinds::OTHER) } else { Err(changed()) };
    }
    match (text.parse::<i64>(), text.parse::<u64>()) {
        (Ok(value), _) if value.unsigned_abs() <= SAFE_INTEGER => Ok(Kinds::INTEGER),
        (Ok(_), _) | (_, Ok(_)) => Ok(Kinds::LARGE_INTEGER),
        (Err(_), Err(_)) => Err(changed()),
    }
}

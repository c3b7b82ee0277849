//! A value of ClickHouse's `JSON` type, sent as text (setting `input_format_binary_read_json_as_string`).
//!
//! The server takes the text apart into paths. What it would change on the way is refused here: numbers that
//! neither 64-bit integers nor `Float64` hold, keys with dots, which it takes for paths, and arrays whose
//! elements it would give one common type at the cost of their values. (A key that is there twice it refuses
//! itself, and with it the INSERT.) What it leaves out by design is not refused: members that are null and
//! empty objects, which it does not tell from absent ones, and the order of the keys. A `String` column keeps
//! all of that.

use super::context::Context;
use super::float::reads_back;
use super::json::Cursor;
use super::kinds::Kinds;
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

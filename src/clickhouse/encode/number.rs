//! Integers, decimals and booleans.

use super::exact::{Misfit, scaled};
use super::json::Cursor;
use super::refusal::{Checked, Fault};
use crate::clickhouse::column_type::{Decimal, Integer, ScalarType};

/// An integer, as long as its value is one: `5.00` and `5e2` are. In a `UInt8`, which often stands in for
/// `Bool`, `true` and `false` are 1 and 0.
pub(super) fn integer(integer: Integer, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Checked<()> {
    let start = cursor.at();
    if let Some(value) = cursor.small_integer() {
        return small(integer, value, out).ok_or_else(|| out_of_range(integer, start));
    }
    match cursor.peek() {
        Some(b'-' | b'0'..=b'9') => {}
        Some(b't' | b'f') if integer == (Integer { signed: false, bytes: 1 }) => {
            return boolean(cursor, out);
        }
        _ => return Err(cursor.mismatch(&ScalarType::Integer(integer).to_string(), "a number")),
    }
    match scaled(cursor.number()?, 0) {
        Ok(value) if value.fits(integer.signed, integer.bytes) => {
            value.append_to(integer.bytes, out);
        }
        Ok(_) | Err(Misfit::TooLarge) => return Err(out_of_range(integer, start)),
        Err(Misfit::Fraction) => {
            return Err(Fault::new(start, format!("not an integer, as {} asks", ScalarType::Integer(integer))));
        }
    }
    Ok(())
}

/// An integer as a key of an object, where only its plain form counts: 1 and 1.0 would be one key otherwise.
pub(super) fn integer_text(kind: Integer, text: &str, at: usize, out: &mut Vec<u8>) -> Checked<()> {
    let plain = text.strip_prefix('-').unwrap_or(text);
    if plain.is_empty()
        || !plain.bytes().all(|byte| byte.is_ascii_digit())
        || (plain.len() > 1 && plain.starts_with('0'))
    {
        return Err(Fault::new(at, format!("not an integer, as {} asks", ScalarType::Integer(kind))));
    }
    match scaled(text, 0) {
        Ok(value) if value.fits(kind.signed, kind.bytes) => value.append_to(kind.bytes, out),
        _ => return Err(out_of_range(kind, at)),
    }
    Ok(())
}

/// Appends an integer of any width; `None` if it does not fit.
pub(super) fn small(integer: Integer, value: i64, out: &mut Vec<u8>) -> Option<()> {
    let bits = integer.bytes * 8;
    let fits = match (integer.signed, bits) {
        (true, 64..) => true,
        (true, _) => value >= -(1 << (bits - 1)) && value < 1 << (bits - 1),
        (false, 64..) => value >= 0,
        (false, _) => value >= 0 && value < 1 << bits,
    };
    if !fits {
        return None;
    }
    let little_endian = value.to_le_bytes();
    if integer.bytes <= 8 {
        out.extend_from_slice(&little_endian[..integer.bytes]);
    } else {
        let sign = if value < 0 { 0xff } else { 0 };
        out.extend_from_slice(&little_endian);
        out.resize(out.len() + integer.bytes - 8, sign);
    }
    Some(())
}

#[cold]
pub(super) fn out_of_range(integer: Integer, at: usize) -> Box<Fault> {
    let bits = integer.bytes * 8;
    let range = match (integer.signed, bits) {
        (true, ..=64) => format!("{} to {}", i64::MIN >> (64 - bits), i64::MAX >> (64 - bits)),
        (false, ..=64) => format!("0 to {}", u64::MAX >> (64 - bits)),
        (true, _) => format!("-2^{0} to 2^{0} - 1", bits - 1),
        (false, _) => format!("0 to 2^{bits} - 1"),
    };
    Fault::new(at, format!("out of range for {} ({range})", ScalarType::Integer(integer)))
}

/// A decimal, digit for digit. Zeros beyond the scale are no digits.
pub(super) fn decimal(decimal: Decimal, cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Checked<()> {
    let start = cursor.at();
    let Decimal { precision, scale } = decimal;
    if !matches!(cursor.peek(), Some(b'-' | b'0'..=b'9')) {
        let named = format!("Decimal({precision}, {scale})");
        return Err(match special(cursor) {
            Some(name) => Fault::new(start, format!("{named} has no {name}")),
            None => cursor.mismatch(&named, "a number"),
        });
    }
    match scaled(cursor.number()?, scale) {
        Ok(value) if value.digits <= precision as usize => {
            value.append_to(decimal.bytes(), out);
            Ok(())
        }
        Ok(_) | Err(Misfit::TooLarge) => {
            let whole = precision - scale;
            Err(Fault::new(
                start,
                format!("more than {whole} digits before the point, too large for Decimal({precision}, {scale})"),
            ))
        }
        Err(Misfit::Fraction) => Err(Fault::new(
            start,
            format!("more than {scale} digits after the point, which Decimal({precision}, {scale}) would cut"),
        )),
    }
}

/// PostgreSQL's names for what JSON numbers cannot say.
pub(super) fn special(cursor: &Cursor<'_>) -> Option<&'static str> {
    let quoted = cursor.starts_with_string()?;
    ["NaN", "Infinity", "-Infinity"].into_iter().find(|name| *name == quoted)
}

pub(super) fn boolean(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Checked<()> {
    if !matches!(cursor.peek(), Some(b't' | b'f')) {
        return Err(cursor.mismatch("Bool", "true or false"));
    }
    let value = cursor.literal()? == "true";
    out.push(u8::from(value));
    Ok(())
}

//! Floats, refused where they would be rounded.

use std::fmt::{Arguments, LowerExp};
use std::io::Write;
use std::str::FromStr;

use super::context::Context;
use super::exact::Parts;
use super::json::Cursor;
use super::number::special;
use super::refusal::{Checked, Fault};

/// The two widths of a float.
pub(super) trait Float: Copy + FromStr + LowerExp {
    const NAME: &'static str;
    /// Decimal numbers of this many digits always survive the way there and back.
    const SAFE_DIGITS: i64;
    fn is_infinite(self) -> bool;
    fn is_normal(self) -> bool;
    fn append_to(self, out: &mut Vec<u8>);
}

macro_rules! float {
    ($float:ty, $name:literal, $digits:literal) => {
        impl Float for $float {
            const NAME: &'static str = $name;
            const SAFE_DIGITS: i64 = $digits;
            fn is_infinite(self) -> bool {
                <$float>::is_infinite(self)
            }
            fn is_normal(self) -> bool {
                <$float>::is_normal(self)
            }
            fn append_to(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    };
}
float!(f32, "Float32", 6);
float!(f64, "Float64", 15);

/// A float, as long as the number reads back the same (see [`reads_back`]), or PostgreSQL's "NaN",
/// "Infinity" and "-Infinity".
pub(super) fn float<F: Float>(cursor: &mut Cursor<'_>, context: &mut Context, out: &mut Vec<u8>) -> Checked<()> {
    kept_as::<F>(reads_back, cursor, context, out)
}

/// The same for a number that PostgreSQL does not keep as a float: it is taken if it is what the float is shown as. Its exact
/// digits, and any that round to it, are other numbers to PostgreSQL, and would become one with it.
pub(super) fn shown<F: Float>(cursor: &mut Cursor<'_>, context: &mut Context, out: &mut Vec<u8>) -> Checked<()> {
    kept_as::<F>(is_shown, cursor, context, out)
}

fn kept_as<F: Float>(
    is_kept: fn(F, &str, &mut Vec<u8>) -> bool,
    cursor: &mut Cursor<'_>,
    context: &mut Context,
    out: &mut Vec<u8>,
) -> Checked<()> {
    let start = cursor.at();
    if !matches!(cursor.peek(), Some(b'-' | b'0'..=b'9')) {
        let Some(value) = special(cursor).and_then(|name| name.parse::<F>().ok()) else {
            return Err(cursor.mismatch(F::NAME, "a number"));
        };
        cursor.string()?;
        value.append_to(out);
        return Ok(());
    }
    let number = cursor.number()?;
    let value = parse::<F>(number, start)?;
    if !is_kept(value, number, &mut context.text) {
        return Err(Fault::new(start, format!("{} would show it as {value:e}", F::NAME)));
    }
    value.append_to(out);
    Ok(())
}

/// A double in a Float32, as long as it is the same number: 0.1 is not, although both print so.
pub(super) fn exact_float32(cursor: &mut Cursor<'_>, context: &mut Context, out: &mut Vec<u8>) -> Checked<()> {
    if !matches!(cursor.peek(), Some(b'-' | b'0'..=b'9')) {
        return float::<f32>(cursor, context, out);
    }
    let start = cursor.at();
    let number = cursor.number()?;
    let (narrow, double) = (parse::<f32>(number, start)?, parse::<f64>(number, start)?);
    if f64::from(narrow).to_bits() != double.to_bits() {
        return Err(Fault::new(start, format!("a double that Float32 would round to {:e}", f64::from(narrow))));
    }
    narrow.append_to(out);
    Ok(())
}

fn parse<F: Float>(number: &str, at: usize) -> Checked<F> {
    match number.parse::<F>() {
        Ok(value) if !value.is_infinite() => Ok(value),
        _ => Err(Fault::new(at, format!("too large for {}", F::NAME))),
    }
}

/// Whether a float, printed again, is the number it was read from: either in its shortest form or with as many
/// digits as the number has. That lets 0.1 pass although no binary float equals it, and everything PostgreSQL
/// prints of a float of the same width, but neither 16777217 in a Float32 nor a double's 17 digits.
pub(super) fn reads_back<F: Float>(value: F, number: &str, scratch: &mut Vec<u8>) -> bool {
    if is_shown(value, number, scratch) {
        return true;
    }
    let parts = Parts::of(number);
    let precision = usize::try_from(parts.significant() - 1).unwrap_or(usize::MAX);
    // No double has more digits than 767, so longer texts cannot be exact.
    precision < 800 && prints_as(format_args!("{value:.precision$e}"), &parts, scratch)
}

/// Whether a number is the shortest of those that a float stands for, in which a float is shown.
fn is_shown<F: Float>(value: F, number: &str, scratch: &mut Vec<u8>) -> bool {
    let parts = Parts::of(number);
    let digits = parts.significant();
    let is_safe = digits == 0 || (digits <= F::SAFE_DIGITS && value.is_normal());
    is_safe || prints_as(format_args!("{value:e}"), &parts, scratch)
}

fn prints_as(printed: Arguments<'_>, number: &Parts<'_>, scratch: &mut Vec<u8>) -> bool {
    scratch.clear();
    let text = scratch.write_fmt(printed).ok().and_then(|()| str::from_utf8(scratch).ok());
    text.is_some_and(|text| Parts::of(text).same_value(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeps<F: Float>(number: &str) -> bool {
        parse::<F>(number, 0).is_ok_and(|value| reads_back(value, number, &mut Vec::new()))
    }

    #[test]
    fn a_float64_keeps_what_postgresql_prints_of_a_double() {
        for number in [
            "0.1",
            "-0",
            "0.30000000000000004",
            "1e+23",
            "5e-324",
            "5.6843418860808015e-14",
            "1.50",
            "1.7976931348623157e+308",
            "9007199254740992",
            "100000000000000000000000",
        ] {
            assert!(keeps::<f64>(number), "{number}");
        }
    }

    #[test]
    fn a_float64_refuses_what_it_would_round() {
        for number in [
            "9007199254740993",
            "0.30000000000000004001",
            "1e-400",
            "1e309",
            "3e-324",
            &format!("0.{}", "3".repeat(2000)),
        ] {
            assert!(!keeps::<f64>(number), "{number}");
        }
    }

    #[test]
    fn a_float32_keeps_what_postgresql_prints_of_a_real() {
        for number in ["0.1", "3.4028235e+38", "1e-45", "16777216", "1.1754944e-38", "0.333333343", "1.00000000"] {
            assert!(keeps::<f32>(number), "{number}");
        }
    }

    #[test]
    fn a_float32_refuses_a_double_that_it_would_round() {
        for number in ["0.30000000000000004", "16777217", "3.4028236e+38", "1e39", "3.5e38", "1e-46"] {
            assert!(!keeps::<f32>(number), "{number}");
        }
    }
}

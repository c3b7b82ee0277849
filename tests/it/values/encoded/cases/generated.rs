//! Random values with what the server has to show of them, worked out without the encoder's help.

use std::borrow::Cow;

use super::{CalendarRange, Case, Expected};

/// As many random cases as wanted; the same for the same seed. Every one is to be shown.
#[must_use]
pub fn generated(seed: u64, count: usize) -> Vec<Case> {
    let mut random = Random(seed);
    let makers = [integer, decimal, float64, float32, string, date, date_time64, uuid, address, array, map, tuple];
    (0..count)
        .map(|index| {
            let made = makers[index % makers.len()](&mut random);
            Case {
                column_type: Cow::Owned(made.column_type),
                json: Cow::Owned(made.json),
                range: CalendarRange::Narrow,
                show: made.show,
                expected: Expected::Shown(Cow::Owned(made.shown)),
            }
        })
        .collect()
}

struct Made {
    column_type: String,
    json: String,
    show: &'static str,
    shown: String,
}

fn made(column_type: impl Into<String>, json: impl Into<String>, shown: impl Into<String>) -> Made {
    Made { column_type: column_type.into(), json: json.into(), show: "v", shown: shown.into() }
}

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 up to, not including, the limit.
    fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit.max(1)
    }

    fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    fn chance(&mut self) -> bool {
        self.bits() & 1 == 1
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap_or(0)]
    }

    /// Digits without a leading zero; empty for a length of 0.
    fn digits(&mut self, length: u64) -> String {
        (0..length)
            .map(|index| char::from(b'0' + u8::try_from(self.between(u64::from(index == 0), 9)).unwrap_or(0)))
            .collect()
    }
}

fn integer(random: &mut Random) -> Made {
    // So many digits always fit.
    let (column_type, digits, signed) = random.pick(&[
        ("Int8", 2, true),
        ("Int16", 4, true),
        ("Int32", 9, true),
        ("Int64", 18, true),
        ("Int128", 38, true),
        ("Int256", 76, true),
        ("UInt8", 2, false),
        ("UInt16", 4, false),
        ("UInt32", 9, false),
        ("UInt64", 19, false),
        ("UInt128", 38, false),
        ("UInt256", 77, false),
        ("Nullable(Int64)", 18, true),
    ]);
    let length = random.between(1, digits);
    let sign = if signed && random.chance() { "-" } else { "" };
    let text = format!("{sign}{}", random.digits(length));
    let tail = random.pick(&["", "", ".0", ".000", "e0", "e+00"]);
    made(column_type, format!("{text}{tail}"), text)
}

fn decimal(random: &mut Random) -> Made {
    let precision = random.between(1, 76);
    let scale = random.below(precision + 1);
    let sign = random.pick(&["", "-"]);
    let length = random.between(1, (precision - scale).max(1));
    let whole = if precision == scale { "0".to_owned() } else { random.digits(length) };
    let length = random.below(scale + 1);
    let fraction: String = random.digits(length).chars().rev().collect();
    let trimmed = fraction.trim_end_matches('0');
    let point = if trimmed.is_empty() { "" } else { "." };
    let zero = whole == "0" && trimmed.is_empty();
    let shown = format!("{}{whole}{point}{trimmed}", if zero { "" } else { sign });
    let zeros = "0".repeat(usize::try_from(random.below(4)).unwrap_or(0));
    let point = if fraction.is_empty() && zeros.is_empty() { "" } else { "." };
    made(format!("Decimal({precision}, {scale})"), format!("{sign}{whole}{point}{fraction}{zeros}"), shown)
}

fn float64(random: &mut Random) -> Made {
    let value = loop {
        let value = f64::from_bits(random.bits());
        if value.is_finite() {
            break value;
        }
    };
    let json = if random.chance() { format!("{value:e}") } else { format!("{value:.16e}") };
    Made { show: "reinterpretAsUInt64(v)", ..made("Float64", json, value.to_bits().to_string()) }
}

fn float32(random: &mut Random) -> Made {
    let value = loop {
        let value = f32::from_bits(u32::try_from(random.bits() >> 32).unwrap_or(0));
        if value.is_finite() {
            break value;
        }
    };
    let json = if random.chance() { format!("{value:e}") } else { format!("{value:.8e}") };
    Made { show: "reinterpretAsUInt32(v)", ..made("Float32", json, value.to_bits().to_string()) }
}

/// A text and one of the ways JSON writes it.
fn text(random: &mut Random) -> (String, String) {
    let (mut plain, mut json) = (String::new(), String::from("\""));
    for _ in 0..random.pick(&[0, 1, 5, 20, 200]) {
        let character = match random.below(6) {
            0 => char::from(u8::try_from(random.below(0x20)).unwrap_or(0)),
            1 => random.pick(&['"', '\\', '/', '\'', '\u{7f}']),
            2 => u32::try_from(random.below(0x11_0000)).ok().and_then(char::from_u32).unwrap_or('é'),
            _ => char::from(u8::try_from(random.between(0x20, 0x7e)).unwrap_or(0)),
        };
        plain.push(character);
        if matches!(character, '"' | '\\' | ..' ') || random.below(10) == 0 {
            for unit in character.encode_utf16(&mut [0; 2]) {
                json.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            json.push(character);
        }
    }
    json.push('"');
    (plain, json)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn string(random: &mut Random) -> Made {
    let (plain, json) = text(random);
    let mut column_type = random.pick(&["String", "LowCardinality(String)"]).to_owned();
    // Longer ones a server refuses as suspicious.
    if random.chance() && (1..=256).contains(&plain.len()) {
        column_type = format!("FixedString({})", plain.len());
    }
    Made { show: "hex(v)", ..made(column_type, json, hexadecimal(plain.as_bytes())) }
}

/// A day that every month has, or the leap day.
fn day(random: &mut Random, first_year: u64, last_year: u64) -> String {
    if random.below(10) == 0 {
        return random.pick(&["1972-02-29", "2000-02-29", "2104-02-29", "1999-12-31", "2100-02-28"]).to_owned();
    }
    let (year, month, day) = (random.between(first_year, last_year), random.between(1, 12), random.between(1, 28));
    format!("{year:04}-{month:02}-{day:02}")
}

fn date(random: &mut Random) -> Made {
    let (column_type, first, last) = random.pick(&[("Date", 1970, 2148), ("Date32", 1900, 2299)]);
    let day = day(random, first, last);
    made(column_type, format!("\"{day}\""), day)
}

fn date_time64(random: &mut Random) -> Made {
    let digits = random.below(10);
    let day = day(random, 1900, if digits == 9 { 2261 } else { 2299 });
    // Around noon, so that no offset moves the day.
    let (utc, offset) = (random.between(12 * 60, 12 * 60 + 59), random.below(11 * 60));
    let east = random.chance();
    let local = if east { utc + offset } else { utc - offset };
    let sign = if east { '+' } else { '-' };
    let (second, fraction) = (random.below(60), random.digits(digits));
    let point = if digits == 0 { "" } else { "." };
    let zeros = if digits > 0 && random.chance() { "00" } else { "" };
    let separator = random.pick(&['T', ' ']);
    let json = format!(
        "\"{day}{separator}{:02}:{:02}:{second:02}{point}{fraction}{zeros}{sign}{:02}:{:02}\"",
        local / 60,
        local % 60,
        offset / 60,
        offset % 60
    );
    let shown = format!("{day} {:02}:{:02}:{second:02}{point}{fraction}", utc / 60, utc % 60);
    made(format!("DateTime64({digits}, 'UTC')"), json, shown)
}

fn uuid(random: &mut Random) -> Made {
    let digits = format!("{:016x}{:016x}", random.bits(), random.bits());
    let text = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
    made("UUID", format!("\"{text}\""), text)
}

fn address(random: &mut Random) -> Made {
    if random.chance() {
        let bytes: Vec<String> = (0..4).map(|_| random.below(256).to_string()).collect();
        return made("IPv4", format!("\"{}\"", bytes.join(".")), bytes.join("."));
    }
    let groups: Vec<u64> = (0..8).map(|_| random.pick(&[0, 0, 1, 0xffff]) & random.bits()).collect();
    let json: Vec<String> = groups.iter().map(|group| format!("{group:x}")).collect();
    let shown: String = groups.iter().map(|group| format!("{group:04X}")).collect();
    Made { show: "hex(v)", ..made("IPv6", format!("\"{}\"", json.join(":")), shown) }
}

fn array(random: &mut Random) -> Made {
    let length = random.pick(&[0, 1, 3, 127, 128, 300]);
    let elements: Vec<(String, String)> = (0..length)
        .map(|_| match random.below(4) {
            0 => ("null".to_owned(), "NULL".to_owned()),
            _ => {
                let number = random.digits(5);
                (number.clone(), number)
            }
        })
        .collect();
    let list = |side: fn(&(String, String)) -> &str| elements.iter().map(side).collect::<Vec<_>>().join(",");
    made("Array(Nullable(UInt32))", format!("[{}]", list(|pair| &pair.0)), format!("[{}]", list(|pair| &pair.1)))
}

fn map(random: &mut Random) -> Made {
    let pairs: Vec<(u64, String)> = (0..random.below(200)).map(|key| (key, random.digits(3))).collect();
    let json: Vec<String> = pairs.iter().map(|(key, value)| format!("\"{key}\": [{value}]")).collect();
    let shown: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}:[{value}]")).collect();
    made("Map(UInt16, Array(Int32))", format!("{{{}}}", json.join(" , ")), format!("{{{}}}", shown.join(",")))
}

/// A tuple whose fields arrive in a random order.
fn tuple(random: &mut Random) -> Made {
    let (number, text, flag) =
        (random.digits(6), "x".repeat(usize::try_from(random.below(300)).unwrap_or(0)), random.chance());
    let mut fields = [format!("\"n\":{number}"), format!("\"s\":\"{text}\""), format!("\"b\":[{flag}]")];
    for last in (1..fields.len()).rev() {
        fields.swap(last, usize::try_from(random.below(last as u64 + 1)).unwrap_or(0));
    }
    made(
        "Tuple(n Int32, s String, b Array(Bool))",
        format!("{{{}}}", fields.join(",")),
        format!("({number},'{text}',[{flag}])"),
    )
}

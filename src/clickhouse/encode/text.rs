//! Strings, and what is written as one: fixed strings, enums, UUIDs, addresses.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::exact::low_half;
use super::json::Cursor;
use super::quoted::Quoted;
use super::refusal::{Checked, Fault};
use crate::clickhouse::column_type::EnumType;

/// Appends a length as ClickHouse writes one: seven bits a byte, the lowest first.
pub(super) fn length(length: usize, out: &mut Vec<u8>) {
    let (bytes, width) = length_bytes(length);
    out.extend_from_slice(&bytes[..width]);
}

/// Writes a length over the one byte that was kept free for it at `place`, moving the rest if it needs more.
pub(super) fn length_at(place: usize, length: usize, out: &mut Vec<u8>) {
    let (bytes, width) = length_bytes(length);
    if width == 1 {
        out[place] = bytes[0];
    } else {
        out.splice(place..=place, bytes.into_iter().take(width));
    }
}

fn length_bytes(length: usize) -> ([u8; 10], usize) {
    let (mut bytes, mut width, mut rest) = ([0; 10], 0, length);
    loop {
        let low = rest.to_le_bytes()[0] & 0x7f;
        rest >>= 7;
        bytes[width] = if rest == 0 { low } else { low | 0x80 };
        width += 1;
        if rest == 0 {
            return (bytes, width);
        }
    }
}

/// A `String`: a JSON string's text, any other value's JSON text exactly as it stands. PostgreSQL prints
/// `bytea` as the text `\x...`, and that text is what is stored.
pub(super) fn string(cursor: &mut Cursor<'_>, out: &mut Vec<u8>) -> Checked<()> {
    let text = match cursor.peek() {
        Some(b'"') => return quoted_string(cursor.string()?, out),
        Some(b't' | b'f') => cursor.literal()?,
        Some(b'-' | b'0'..=b'9' | b'[' | b'{') => cursor.value()?,
        _ => return Err(cursor.mismatch("String", "a value")),
    };
    plain_string(text, out);
    Ok(())
}

pub(super) fn plain_string(text: &str, out: &mut Vec<u8>) {
    length(text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

fn quoted_string(quoted: Quoted<'_>, out: &mut Vec<u8>) -> Checked<()> {
    if !quoted.escaped {
        plain_string(quoted.raw, out);
        return Ok(());
    }
    let place = out.len();
    out.push(0);
    quoted.append_to(out)?;
    length_at(place, out.len() - place - 1, out);
    Ok(())
}

/// A `FixedString`. ClickHouse fills a shorter text up with zero bytes, which is another text.
pub(super) fn fixed_string(bytes: usize, text: &str, at: usize, out: &mut Vec<u8>) -> Checked<()> {
    if text.len() != bytes {
        let found = text.len();
        return Err(Fault::new(at, format!("{found} bytes, but FixedString({bytes}) takes exactly {bytes}")));
    }
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

pub(super) fn enumeration(members: &EnumType, text: &str, at: usize, out: &mut Vec<u8>) -> Checked<()> {
    let no_member = || Fault::new(at, format!("not a member of the Enum{}", members.bytes() * 8));
    let number = members.number(text).ok_or_else(no_member)?;
    out.extend_from_slice(&number.to_le_bytes()[..members.bytes()]);
    Ok(())
}

/// A UUID in the form PostgreSQL prints. ClickHouse keeps it as two little-endian halves, the upper one first.
pub(super) fn uuid(text: &str, at: usize, out: &mut Vec<u8>) -> Checked<()> {
    let (upper, lower) = uuid_halves(text.as_bytes())
        .ok_or_else(|| Fault::new(at, "not a UUID of the form xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"))?;
    out.extend_from_slice(&upper.to_le_bytes());
    out.extend_from_slice(&lower.to_le_bytes());
    Ok(())
}

fn uuid_halves(text: &[u8]) -> Option<(u64, u64)> {
    if text.len() != 36 {
        return None;
    }
    let mut value = 0_u128;
    for (index, byte) in text.iter().enumerate() {
        if matches!(index, 8 | 13 | 18 | 23) {
            if *byte != b'-' {
                return None;
            }
        } else {
            value = value << 4 | u128::from(char::from(*byte).to_digit(16)?);
        }
    }
    Some((low_half(value >> 64), low_half(value)))
}

pub(super) fn ipv4(text: &str, at: usize, out: &mut Vec<u8>) -> Checked<()> {
    match text.parse::<Ipv4Addr>() {
        Ok(address) => out.extend_from_slice(&address.to_bits().to_le_bytes()),
        Err(_) => return Err(Fault::new(at, no_address(text, "IPv4"))),
    }
    Ok(())
}

pub(super) fn ipv6(text: &str, at: usize, out: &mut Vec<u8>) -> Checked<()> {
    match text.parse::<Ipv6Addr>() {
        Ok(address) => out.extend_from_slice(&address.octets()),
        Err(_) => return Err(Fault::new(at, no_address(text, "IPv6"))),
    }
    Ok(())
}

#[cold]
fn no_address(text: &str, family: &str) -> String {
    if text.contains('/') {
        format!("an address with a network mask, which {family} would cut")
    } else if family == "IPv6" && text.parse::<Ipv4Addr>().is_ok() {
        // ::ffff:10.0.0.1 is another value of PostgreSQL's inet.
        "an IPv4 address, which IPv6 would change into ::ffff:...".to_owned()
    } else {
        format!("not an {family} address")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_seven_bits_a_byte() {
        for (value, expected) in [(0, &[0_u8][..]), (127, &[127]), (128, &[0x80, 1]), (300, &[0xac, 2])] {
            let mut out = Vec::new();
            length(value, &mut out);
            assert_eq!(out, expected, "{value}");
        }
    }

    #[test]
    fn a_longer_length_moves_what_follows() {
        let mut out = b"a_bc".to_vec();
        length_at(1, 300, &mut out);
        assert_eq!(out, b"a\xac\x02bc");
    }

    #[test]
    fn a_uuid_is_two_little_endian_halves() {
        let halves = uuid_halves(b"00112233-4455-6677-8899-AABBccddeeff");
        assert_eq!(halves, Some((0x0011_2233_4455_6677, 0x8899_aabb_ccdd_eeff)));
        assert_eq!(uuid_halves(b"00112233445566778899aabbccddeeff----"), None);
    }
}

//! JSON strings and their escapes.

use super::refusal::{Checked, Fault};

/// A string as it stands between its quotes.
#[derive(Clone, Copy)]
pub(super) struct Quoted<'a> {
    pub raw: &'a str,
    /// Whether `raw` holds escapes.
    pub escaped: bool,
    /// Where the opening quote stands.
    pub start: usize,
}

impl<'a> Quoted<'a> {
    /// The text itself; `scratch` is used only if there are escapes.
    pub fn text<'s>(self, scratch: &'s mut Vec<u8>) -> Checked<&'s str>
    where
        'a: 's,
    {
        if !self.escaped {
            return Ok(self.raw);
        }
        scratch.clear();
        self.append_to(scratch)?;
        str::from_utf8(scratch).map_err(|_| Fault::new(self.start, "not valid UTF-8"))
    }

    /// Appends the text, its escapes resolved.
    pub fn append_to(self, out: &mut Vec<u8>) -> Checked<()> {
        let mut rest = self.raw;
        while let Some(at) = rest.find('\\') {
            out.extend_from_slice(&rest.as_bytes()[..at]);
            rest = &rest[at + 1..];
            let plain = match rest.as_bytes().first() {
                Some(b'u') => {
                    rest = &rest[1..];
                    let character = unicode_escape(&mut rest)
                        .ok_or_else(|| Fault::new(self.start, "a \\u escape that stands for half a character"))?;
                    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(&other) => other,
                None => break,
            };
            out.push(plain);
            rest = &rest[1..];
        }
        out.extend_from_slice(rest.as_bytes());
        Ok(())
    }
}

/// The character that four hexadecimal digits stand for, or two such escapes in a row.
fn unicode_escape(rest: &mut &str) -> Option<char> {
    let first = code_unit(rest)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first);
    }
    *rest = rest.strip_prefix("\\u")?;
    let second = code_unit(rest).filter(|unit| (0xdc00..0xe000).contains(unit))?;
    char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
}

fn code_unit(rest: &mut &str) -> Option<u32> {
    let (digits, tail) = rest.split_at_checked(4)?;
    *rest = tail;
    u32::from_str_radix(digits, 16).ok()
}

/// How many bytes pass before a quote, a backslash or a control character, eight at a time.
pub(super) fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = word ^ (ONES * 0x22);
        let backslash = word ^ (ONES * 0x5c);
        // A byte's high bit is set where a subtraction borrows: zero minus one, or less than a space.
        // A borrow can mark bytes above a true hit wrongly, never below it: the lowest mark is exact.
        let marks = ((quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word))
            & HIGHS;
        if marks != 0 {
            return index * 8 + marks.trailing_zeros() as usize / 8;
        }
    }
    let stop = |byte: &u8| matches!(byte, b'"' | b'\\' | ..0x20);
    words.len() * 8 + rest.iter().position(stop).unwrap_or(rest.len())
}

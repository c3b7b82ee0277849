//! A cursor over JSON text that hands out values as they stand, without building any.
//!
//! Numbers and strings come out as slices of the record, so that decimals and large integers keep every digit
//! and most text is copied once. Everything passed over is checked against RFC 8259; nothing here recurses.

use super::quoted::{Quoted, plain_run};
use super::refusal::{Checked, Fault};

/// Arrays and objects inside a value nest no deeper than this.
pub(super) const MAX_NESTING: usize = 1024;

/// A position in a record's text.
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a str) -> Self {
        Cursor { text, at: 0 }
    }

    /// Bytes read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Passes over one byte, which has to be a whole character.
    pub fn step(&mut self) {
        self.at += 1;
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.text.len()
    }

    /// Takes one byte if it is the one given.
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Takes a run of bytes if it stands here; it has to end on a character's end.
    pub fn eat_all(&mut self, bytes: &[u8]) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(bytes);
        self.at += if found { bytes.len() } else { 0 };
        found
    }

    pub fn spaces(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Broken JSON at this place.
    #[cold]
    pub fn broken(&self, expected: &str) -> Box<Fault> {
        let found = match self.text[self.at..].chars().next() {
            Some(found) => format!("found {found:?}"),
            None => "the record ends".to_owned(),
        };
        Fault::new(self.at, format!("not valid JSON at byte {}: expected {expected}, {found}", self.at))
    }

    pub fn expect(&mut self, byte: u8) -> Checked<()> {
        if self.eat(byte) { Ok(()) } else { Err(self.broken(&format!("{:?}", char::from(byte)))) }
    }

    /// `true`, `false` or `null`, whichever stands here.
    pub fn literal(&mut self) -> Checked<&'static str> {
        for literal in ["true", "false", "null"] {
            if self.eat_all(literal.as_bytes()) {
                return Ok(literal);
            }
        }
        Err(self.broken("a value"))
    }

    /// A plain integer of at most 18 digits. `None`, with nothing taken, if anything else stands here.
    pub fn small_integer(&mut self) -> Option<i64> {
        let bytes = &self.text.as_bytes()[self.at..];
        let negative = bytes.first() == Some(&b'-');
        let digits = &bytes[usize::from(negative)..];
        let (mut value, mut length) = (0_i64, 0);
        while let Some(digit @ b'0'..=b'9') = digits.get(length) {
            if length == 18 {
                return None;
            }
            value = value * 10 + i64::from(digit - b'0');
            length += 1;
        }
        let leading_zero = length > 1 && digits.first() == Some(&b'0');
        if length == 0 || leading_zero || matches!(digits.get(length), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        self.at += usize::from(negative) + length;
        Some(if negative { -value } else { value })
    }

    /// A number's text.
    pub fn number(&mut self) -> Checked<&'a str> {
        let start = self.at;
        self.eat(b'-');
        if !self.eat(b'0') {
            self.digits()?;
        }
        if self.eat(b'.') {
            self.digits()?;
        }
        if self.eat(b'e') || self.eat(b'E') {
            let _sign = self.eat(b'+') || self.eat(b'-');
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Checked<()> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(self.broken("a digit")) } else { Ok(()) }
    }

    pub fn string(&mut self) -> Checked<Quoted<'a>> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        self.expect(b'"')?;
        let mut escaped = false;
        loop {
            self.at += plain_run(&bytes[self.at..]);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.broken("the end of a string")),
            }
        }
        let raw = &self.text[start + 1..self.at];
        self.at += 1;
        Ok(Quoted { raw, escaped, start })
    }

    fn escape(&mut self) -> Checked<()> {
        self.at += 1;
        let hexadecimal = match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 0,
            Some(b'u') => 4,
            _ => return Err(self.broken("an escape")),
        };
        self.at += 1;
        for _ in 0..hexadecimal {
            if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                return Err(self.broken("four hexadecimal digits"));
            }
            self.at += 1;
        }
        Ok(())
    }

    /// An object's key and the colon after it.
    pub fn key(&mut self) -> Checked<Quoted<'a>> {
        let key = self.string()?;
        self.spaces();
        self.expect(b':')?;
        self.spaces();
        Ok(key)
    }

    /// Begins an array or object; `false` if it is empty and thereby ended.
    pub fn begin(&mut self, open: u8, close: u8) -> Checked<bool> {
        self.expect(open)?;
        self.spaces();
        Ok(!self.eat(close))
    }

    /// What follows a part of an array or object: `true` for another part, `false` for the end.
    pub fn more(&mut self, close: u8) -> Checked<bool> {
        self.spaces();
        if self.eat(b',') {
            self.spaces();
            return Ok(true);
        }
        if self.eat(close) {
            return Ok(false);
        }
        Err(self.broken(&format!("',' or {:?}", char::from(close))))
    }

    /// The text of the string without escapes that stands here, if one does; nothing is taken.
    pub fn starts_with_string(&self) -> Option<&'a str> {
        let rest = self.text[self.at..].strip_prefix('"')?;
        rest.split_once('"').map(|(text, _)| text)
    }

    /// Any value's text, exactly as it stands.
    pub fn value(&mut self) -> Checked<&'a str> {
        let start = self.at;
        let mut nesting = Nesting::default();
        loop {
            if !self.first_part(&mut nesting)? {
                continue;
            }
            loop {
                let Some(close) = nesting.innermost() else {
                    return Ok(&self.text[start..self.at]);
                };
                if self.more(close)? {
                    if close == b'}' {
                        self.key()?;
                    }
                    break;
                }
                nesting.leave();
            }
        }
    }

    /// Takes a value without parts, or enters one that has some. `true` once a whole value has been taken.
    fn first_part(&mut self, nesting: &mut Nesting) -> Checked<bool> {
        let at = self.at;
        let entered = match self.peek() {
            Some(b'"') => self.string().map(|_| false),
            Some(b'-' | b'0'..=b'9') => self.number().map(|_| false),
            Some(b'[') => self.begin(b'[', b']'),
            Some(b'{') => self.begin(b'{', b'}'),
            _ => self.literal().map(|_| false),
        }?;
        if entered {
            let object = self.text.as_bytes()[at] == b'{';
            if !nesting.enter(object) {
                return Err(Fault::new(
                    at,
                    format!("nested more than {MAX_NESTING} levels deep, which no column takes"),
                ));
            }
            if object {
                self.key()?;
            }
        }
        Ok(!entered)
    }

    /// What kind of value begins here, in words; `None` if none does.
    pub fn kind(&self) -> Option<&'static str> {
        Some(match self.peek()? {
            b'n' => "null",
            b't' | b'f' => "a boolean",
            b'"' => "a string",
            b'-' | b'0'..=b'9' => "a number",
            b'[' => "an array",
            b'{' => "an object",
            _ => return None,
        })
    }

    /// The fault of a value of the wrong kind.
    #[cold]
    pub fn mismatch(&self, column_type: &str, wanted: &str) -> Box<Fault> {
        match self.kind() {
            None => self.broken("a value"),
            Some("null") => Fault::new(self.at, format!("null, but {column_type} is not Nullable")),
            Some(found) => Fault::new(self.at, format!("{found}, but {column_type} takes {wanted}")),
        }
    }
}

/// The kinds of the arrays and objects that are open, one bit each.
struct Nesting {
    objects: [u64; MAX_NESTING / 64],
    depth: usize,
}

impl Default for Nesting {
    fn default() -> Self {
        Nesting { objects: [0; MAX_NESTING / 64], depth: 0 }
    }
}

impl Nesting {
    /// `false` if that is too deep.
    fn enter(&mut self, object: bool) -> bool {
        let Some(word) = self.objects.get_mut(self.depth / 64) else {
            return false;
        };
        let bit = 1 << (self.depth % 64);
        *word = if object { *word | bit } else { *word & !bit };
        self.depth += 1;
        true
    }

    fn leave(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    /// The bracket that closes the innermost one.
    fn innermost(&self) -> Option<u8> {
        let top = self.depth.checked_sub(1)?;
        let object = (self.objects.get(top / 64)? >> (top % 64)) & 1 == 1;
        Some(if object { b'}' } else { b']' })
    }
}

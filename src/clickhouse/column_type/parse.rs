//! The grammar of the server's type names, as far as the encoder knows the types.

use super::{ColumnType, ScalarType, UnsupportedType};
use crate::ports::engine::unescaped;

impl ColumnType {
    /// Reads a type as `system.columns.type` spells it.
    ///
    /// # Errors
    /// Names the innermost part that the encoder does not know.
    pub fn parse(type_name: &str) -> Result<ColumnType, UnsupportedType> {
        let mut parser = Parser { text: type_name, at: 0 };
        let parsed = parser.column_type(0)?;
        parser.spaces();
        if parser.rest().is_empty() { Ok(parsed) } else { Err(unsupported(type_name)) }
    }
}

pub(super) fn unsupported(type_name: &str) -> UnsupportedType {
    UnsupportedType { column: None, type_name: type_name.to_owned() }
}

/// Types nest no deeper than this; the server's own limit is of the same order.
const MAX_DEPTH: usize = 64;

pub(super) type Parsed<T> = Result<T, UnsupportedType>;

pub(super) struct Parser<'a> {
    pub(super) text: &'a str,
    pub(super) at: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    pub(super) fn spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    pub(super) fn eat(&mut self, token: char) -> bool {
        self.spaces();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len_utf8();
        }
        found
    }

    pub(super) fn expect(&mut self, token: char) -> Parsed<()> {
        if self.eat(token) { Ok(()) } else { Err(unsupported(self.text)) }
    }

    /// Letters, digits and underscores.
    pub(super) fn word(&mut self) -> &'a str {
        self.spaces();
        let rest = self.rest();
        let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    pub(super) fn number<T: std::str::FromStr>(&mut self) -> Parsed<T> {
        self.spaces();
        let start = self.at;
        self.eat('-');
        self.word();
        self.text[start..self.at].parse().map_err(|_| unsupported(self.text))
    }

    /// What stands between two quotes of a kind, its escapes resolved.
    pub(super) fn quoted(&mut self, quote: char) -> Parsed<String> {
        self.expect(quote)?;
        let mut name = String::new();
        let mut characters = self.rest().char_indices();
        while let Some((offset, character)) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some((_, escaped)) => name.push(unescaped(escaped)),
                    None => break,
                },
                _ if character == quote => {
                    self.at += offset + quote.len_utf8();
                    return Ok(name);
                }
                _ => name.push(character),
            }
        }
        Err(unsupported(self.text))
    }

    /// Passes over arguments, if there are any, up to the closing bracket.
    pub(super) fn skip_arguments(&mut self) -> Parsed<()> {
        if !self.eat('(') {
            return Ok(());
        }
        let mut open = 1_usize;
        while open > 0 {
            match self.rest().chars().next() {
                Some(quote @ ('\'' | '`' | '"')) => {
                    self.quoted(quote)?;
                    continue;
                }
                Some('(') => open += 1,
                Some(')') => open -= 1,
                Some(_) => {}
                None => return Err(unsupported(self.text)),
            }
            self.at += self.rest().chars().next().map_or(0, char::len_utf8);
        }
        Ok(())
    }

    fn column_type(&mut self, depth: usize) -> Parsed<ColumnType> {
        self.spaces();
        let start = self.at;
        let name = self.word();
        if depth > MAX_DEPTH || name.is_empty() {
            return Err(unsupported(self.text));
        }
        match name {
            "Nullable" => Ok(ColumnType::Nullable(Box::new(self.single(depth)?))),
            "LowCardinality" => self.single(depth),
            "Array" => Ok(ColumnType::Array(Box::new(self.single(depth)?))),
            "Tuple" => self.tuple(depth),
            // Only where `flatten_nested = 0`: otherwise each part is a column of its own, an Array.
            "Nested" => Ok(ColumnType::Array(Box::new(self.tuple(depth)?))),
            "Map" => self.map(depth),
            "SimpleAggregateFunction" => {
                self.expect('(')?;
                self.word();
                self.skip_arguments()?;
                self.expect(',')?;
                let inner = self.column_type(depth + 1)?;
                self.expect(')')?;
                Ok(inner)
            }
            _ => {
                if let Some(scalar) = self.scalar(name)? {
                    return Ok(ColumnType::Scalar(scalar));
                }
                self.skip_arguments()?;
                Err(unsupported(&self.text[start..self.at]))
            }
        }
    }

    fn single(&mut self, depth: usize) -> Parsed<ColumnType> {
        self.expect('(')?;
        let inner = self.column_type(depth + 1)?;
        self.expect(')')?;
        Ok(inner)
    }

    fn map(&mut self, depth: usize) -> Parsed<ColumnType> {
        self.expect('(')?;
        let start = self.at;
        let key = match self.column_type(depth + 1)? {
            // The keys of a JSON object are text: what has no plain text form cannot be one.
            ColumnType::Scalar(
                ScalarType::Float32
                | ScalarType::Float64
                | ScalarType::Decimal(_)
                | ScalarType::Bool
                | ScalarType::Time
                | ScalarType::Time64(_)
                | ScalarType::Json,
            ) => {
                return Err(unsupported(&format!("Map({}, ...)", &self.text[start..self.at])));
            }
            ColumnType::Scalar(key) => key,
            _ => return Err(unsupported(self.text)),
        };
        self.expect(',')?;
        let value = self.column_type(depth + 1)?;
        self.expect(')')?;
        Ok(ColumnType::Map(key, Box::new(value)))
    }

    fn tuple(&mut self, depth: usize) -> Parsed<ColumnType> {
        self.expect('(')?;
        let (mut named, mut unnamed) = (Vec::new(), Vec::new());
        loop {
            match self.element_name()? {
                Some(name) => named.push((name, self.column_type(depth + 1)?)),
                None => unnamed.push(self.column_type(depth + 1)?),
            }
            if !self.eat(',') {
                break;
            }
        }
        self.expect(')')?;
        match (named.is_empty(), unnamed.is_empty()) {
            (false, true) => Ok(ColumnType::NamedTuple(named)),
            (true, false) => Ok(ColumnType::Tuple(unnamed)),
            _ => Err(unsupported(self.text)),
        }
    }

    /// The name in front of a tuple's element: a word that another word follows, or a quoted one.
    fn element_name(&mut self) -> Parsed<Option<String>> {
        self.spaces();
        if let Some(quote @ ('`' | '"')) = self.rest().chars().next() {
            return self.quoted(quote).map(Some);
        }
        let start = self.at;
        let word = self.word();
        self.spaces();
        if self.rest().starts_with(['(', ',', ')']) {
            self.at = start;
            return Ok(None);
        }
        Ok(Some(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Decimal, Integer};
    use super::*;

    pub fn scalar(type_name: &str) -> ScalarType {
        match ColumnType::parse(type_name) {
            Ok(ColumnType::Scalar(scalar)) => scalar,
            other => panic!("{type_name}: {other:?}"),
        }
    }

    #[test]
    fn integers_carry_their_sign_and_width() {
        assert_eq!(scalar("UInt8"), ScalarType::Integer(Integer { signed: false, bytes: 1 }));
        assert_eq!(scalar("Int256"), ScalarType::Integer(Integer { signed: true, bytes: 32 }));
        assert!(ColumnType::parse("Int24").is_err());
    }

    #[test]
    fn every_spelling_of_a_decimal_is_known() {
        for (spelling, precision, scale) in
            [("Decimal(10, 2)", 10, 2), ("Decimal(5)", 5, 0), ("Decimal32(4)", 9, 4), ("Decimal256(76)", 76, 76)]
        {
            assert_eq!(scalar(spelling), ScalarType::Decimal(Decimal { precision, scale }), "{spelling}");
        }
        assert!(ColumnType::parse("Decimal(77, 0)").is_err());
        assert!(ColumnType::parse("Decimal(5, 6)").is_err());
    }

    #[test]
    fn time_zones_change_nothing() {
        assert_eq!(scalar("DateTime('Europe/Berlin')"), ScalarType::DateTime);
        assert_eq!(scalar("DateTime64(6, 'UTC')"), ScalarType::DateTime64(6));
        assert_eq!(scalar("DateTime64"), ScalarType::DateTime64(3));
        assert!(ColumnType::parse("DateTime64(10)").is_err());
    }

    #[test]
    fn enum_members_may_be_negative_and_escaped() {
        let ScalarType::Enum(members) = scalar(r"Enum8('it\'s' = -3, 'tab\t' = 2, 'a, b) = 1' = 0)") else {
            panic!("no enum")
        };
        assert_eq!(members.number("it's"), Some(-3));
        assert_eq!(members.number("tab\t"), Some(2));
        assert_eq!(members.number("a, b) = 1"), Some(0));
        assert_eq!(members.number("it"), None);
        assert!(ColumnType::parse("Enum8('a' = 128)").is_err());
    }

    #[test]
    fn wrappers_that_do_not_show_in_the_encoding_are_left_out() {
        let nullable_text = ColumnType::Nullable(Box::new(ColumnType::Scalar(ScalarType::String)));
        assert_eq!(ColumnType::parse("LowCardinality(Nullable(String))"), Ok(nullable_text.clone()));
        assert_eq!(ColumnType::parse("SimpleAggregateFunction(anyLast, Nullable(String))"), Ok(nullable_text));
    }

    #[test]
    fn tuples_are_named_or_not() {
        let int = || ColumnType::Scalar(ScalarType::Integer(Integer { signed: true, bytes: 4 }));
        assert_eq!(
            ColumnType::parse(r"Tuple(`a b` Int32, c Int32, `d\`e` Int32)"),
            Ok(ColumnType::NamedTuple(vec![("a b".into(), int()), ("c".into(), int()), ("d`e".into(), int())]))
        );
        assert_eq!(ColumnType::parse("Tuple(Int32, Int32)"), Ok(ColumnType::Tuple(vec![int(), int()])));
        assert!(ColumnType::parse("Tuple()").is_err());
    }

    #[test]
    fn an_unknown_part_is_named() {
        for (type_name, part) in [
            ("Array(Variant(String, UInt8))", "Variant(String, UInt8)"),
            ("AggregateFunction(sum, UInt64)", "AggregateFunction(sum, UInt64)"),
            ("Nullable(Nothing)", "Nothing"),
            ("Object('json')", "Object('json')"),
            ("JSON(a UInt8)", "JSON(a UInt8)"),
            ("Map(Float64, String)", "Map(Float64, ...)"),
        ] {
            assert_eq!(ColumnType::parse(type_name), Err(unsupported(part)));
        }
    }

    #[test]
    fn garbage_is_refused() {
        let deep = "Array(".repeat(10_000);
        for garbage in ["", "(", "Int32)", "Array(Int32", "Enum8()", "Enum8('a' = )", "FixedString('a')", "é", &deep] {
            assert!(ColumnType::parse(garbage).is_err(), "{garbage}");
        }
    }
}

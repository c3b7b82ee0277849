//! The grammar of the types without parts, from their arguments on.

use std::str::FromStr;

use super::parse::{Parsed, Parser, unsupported};
use super::{Decimal, EnumType, Integer, ScalarType};

impl Parser<'_> {
    /// The type of a name, its arguments read; `None` if the name is not known.
    pub(super) fn scalar(&mut self, name: &str) -> Parsed<Option<ScalarType>> {
        if let Some(integer) = integer(name) {
            return Ok(Some(ScalarType::Integer(integer)));
        }
        Ok(Some(match name {
            "Float32" => ScalarType::Float32,
            "Float64" => ScalarType::Float64,
            "Decimal" => self.decimal()?,
            "Decimal32" => self.decimal_of(9)?,
            "Decimal64" => self.decimal_of(18)?,
            "Decimal128" => self.decimal_of(38)?,
            "Decimal256" => self.decimal_of(76)?,
            "Bool" => ScalarType::Bool,
            "String" => ScalarType::String,
            "FixedString" => ScalarType::FixedString(self.only_number()?),
            "UUID" => ScalarType::Uuid,
            "Date" => ScalarType::Date,
            "Date32" => ScalarType::Date32,
            "DateTime" | "DateTime32" => {
                self.skip_arguments()?;
                ScalarType::DateTime
            }
            "DateTime64" => ScalarType::DateTime64(self.second_digits()?),
            "Time" => ScalarType::Time,
            "Time64" => ScalarType::Time64(self.second_digits()?),
            "Enum8" => self.enumeration(1)?,
            "Enum16" => self.enumeration(2)?,
            "IPv4" => ScalarType::Ipv4,
            "IPv6" => ScalarType::Ipv6,
            "JSON" => return self.json(),
            _ => return Ok(None),
        }))
    }

    fn only_number<T: FromStr>(&mut self) -> Parsed<T> {
        self.expect('(')?;
        let number = self.number()?;
        self.expect(')')?;
        Ok(number)
    }

    fn decimal(&mut self) -> Parsed<ScalarType> {
        let (mut precision, mut scale) = (10, 0);
        if self.eat('(') {
            precision = self.number()?;
            if self.eat(',') {
                scale = self.number()?;
            }
            self.expect(')')?;
        }
        self.checked_decimal(precision, scale)
    }

    fn decimal_of(&mut self, precision: u32) -> Parsed<ScalarType> {
        let scale = self.only_number()?;
        self.checked_decimal(precision, scale)
    }

    fn checked_decimal(&self, precision: u32, scale: u32) -> Parsed<ScalarType> {
        if (1..=76).contains(&precision) && scale <= precision {
            Ok(ScalarType::Decimal(Decimal { precision, scale }))
        } else {
            Err(unsupported(self.text))
        }
    }

    /// The precision of a `DateTime64` or `Time64`, 3 where none is given; a time zone is passed over.
    fn second_digits(&mut self) -> Parsed<u8> {
        if !self.eat('(') {
            return Ok(3);
        }
        let digits: u8 = self.number()?;
        if self.eat(',') {
            self.spaces();
            self.quoted('\'')?;
        }
        self.expect(')')?;
        if digits <= 9 { Ok(digits) } else { Err(unsupported(self.text)) }
    }

    fn enumeration(&mut self, bytes: usize) -> Parsed<ScalarType> {
        self.expect('(')?;
        let mut members = Vec::new();
        loop {
            self.spaces();
            let name = self.quoted('\'')?;
            self.expect('=')?;
            let number: i16 = self.number()?;
            if bytes == 1 && i8::try_from(number).is_err() {
                return Err(unsupported(self.text));
            }
            members.push((name, number));
            if !self.eat(',') {
                break;
            }
        }
        self.expect(')')?;
        members.sort();
        Ok(ScalarType::Enum(EnumType { bytes, members }))
    }

    /// `JSON` with nothing but limits: typed paths convert and SKIP drops, unseen by the encoder.
    fn json(&mut self) -> Parsed<Option<ScalarType>> {
        let start = self.at;
        if self.eat('(') {
            loop {
                let limit = self.word();
                if !matches!(limit, "max_dynamic_paths" | "max_dynamic_types") || !self.eat('=') {
                    self.at = start;
                    return Ok(None);
                }
                self.number::<u64>()?;
                if !self.eat(',') {
                    break;
                }
            }
            self.expect(')')?;
        }
        Ok(Some(ScalarType::Json))
    }
}

fn integer(name: &str) -> Option<Integer> {
    let (signed, bits) = match name.strip_prefix('U') {
        Some(rest) => (false, rest.strip_prefix("Int")?),
        None => (true, name.strip_prefix("Int")?),
    };
    let bytes = match bits {
        "8" => 1,
        "16" => 2,
        "32" => 4,
        "64" => 8,
        "128" => 16,
        "256" => 32,
        _ => return None,
    };
    Some(Integer { signed, bytes })
}

//! Values, and what the target shows of them or why they are refused.
//!
//! One table for two tests: the encoder's own, and the one that sends what it encodes to a server and compares
//! what the server then shows. [`generated`] adds as many random values as wanted.

mod generated;
mod refused;
mod shown;

pub use generated::generated;

use std::borrow::Cow;

use super::CalendarRange;

/// A value for a table of one column `v`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The column's type.
    pub column_type: Cow<'static, str>,
    /// The value as it stands in the record `{"v":...}`.
    pub json: Cow<'static, str>,
    /// What the server has to be able to show.
    pub range: CalendarRange,
    /// The expression over `v` that is compared, in the format TSVRaw.
    pub show: &'static str,
    /// What becomes of the value.
    pub expected: Expected,
}

/// What becomes of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It is encoded, and this is what the server shows.
    Shown(Cow<'static, str>),
    /// It is refused, with this in the rule.
    Refused(&'static str),
}

use Expected::{Refused, Shown};

impl Case {
    const fn new(column_type: &'static str, json: &'static str, expected: Expected) -> Case {
        let (column_type, json) = (Cow::Borrowed(column_type), Cow::Borrowed(json));
        Case { column_type, json, range: CalendarRange::Narrow, show: "v", expected }
    }

    /// The record that carries the value.
    #[must_use]
    pub fn record(&self) -> String {
        format!("{{\"v\":{}}}", self.json)
    }
}

/// The edges of every type, chosen by hand.
#[must_use]
pub fn edges() -> Vec<Case> {
    let shown = shown::SHOWN.iter().flat_map(|(column_type, values)| {
        values.iter().map(|(json, text)| Case::new(column_type, json, Shown(Cow::Borrowed(text))))
    });
    let refused = refused::REFUSED.iter().flat_map(|(column_type, values)| {
        values.iter().map(|(json, rule)| Case::new(column_type, json, Refused(rule)))
    });
    let wide = shown::WIDE.iter().map(|(column_type, json, text)| Case {
        range: CalendarRange::Wide,
        ..Case::new(column_type, json, Shown(Cow::Borrowed(text)))
    });
    shown.chain(refused).chain(wide).collect()
}

/// A type, and pairs of a value and what becomes of it.
type Table = &'static [(&'static str, &'static [(&'static str, &'static str)])];

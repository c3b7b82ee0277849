//! What the text of a record does not tell: of what type a value is in PostgreSQL.
//!
//! `row_to_json` prints the document `"123"` like the text `123`, the double 0.1 like the real 0.1, and an array of two
//! dimensions like one of documents.

use crate::data::Column;
use crate::ports::source::SourceColumn;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    kind: Kind,
    is_array: bool,
    is_element: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    /// Its text tells all that is to be known, or its source is not known.
    #[default]
    Plain,
    Double,
    /// A number that is no float, of any digits.
    Digits,
    Document,
    /// A member or an element of a document.
    Part,
}

/// What its origin demands of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// A document is kept as it is spelt, a string with its quotes.
    AsSpelt,
    /// Only a string becomes a String: 1 and "1" would be one.
    OnlyString,
    /// No array becomes a String: as a text it would be another array.
    NoArray,
    /// No number is rounded that has the double's precision.
    Exact,
    /// Of the numbers that one float stands for, only the one that it is shown as: two would be one.
    AsShown,
}

impl Origin {
    pub fn of(column: &SourceColumn) -> Origin {
        let (element, is_array) = match column.base_type.strip_suffix("[]") {
            Some(element) => (element, true),
            None => (column.base_type.as_str(), false),
        };
        let kind = match element {
            "json" | "jsonb" => Kind::Document,
            "double precision" => Kind::Double,
            "smallint" | "integer" | "bigint" => Kind::Digits,
            numeric if numeric.starts_with("numeric") => Kind::Digits,
            _ => Kind::Plain,
        };
        Origin { kind, is_array, is_element: false }
    }

    /// The origin of what is within a value.
    pub fn within(self) -> Origin {
        let kind = match self.kind {
            Kind::Document if !self.is_array => Kind::Part,
            kind => kind,
        };
        Origin { kind, is_array: false, is_element: self.is_array || self.is_element }
    }

    pub fn of_string(self) -> Option<Demand> {
        match self.kind {
            Kind::Document if !self.is_array => Some(Demand::AsSpelt),
            Kind::Part => Some(Demand::OnlyString),
            _ => self.is_element.then_some(Demand::NoArray),
        }
    }

    pub fn of_float32(self) -> Option<Demand> {
        (self.kind == Kind::Double).then_some(Demand::Exact).or_else(|| self.of_float64())
    }

    pub fn of_float64(self) -> Option<Demand> {
        matches!(self.kind, Kind::Digits | Kind::Document | Kind::Part).then_some(Demand::AsShown)
    }
}

/// Names of time zones that show a time as it was stored, apart from `Etc/`.
const IS_UTC: [&str; 6] = ["UTC", "GMT", "UCT", "Zulu", "Universal", "Greenwich"];

/// Why a column shows a source column's days or times otherwise than PostgreSQL does, if that is so.
pub fn shown_shifted(column: &SourceColumn, target: &Column) -> Option<String> {
    let zone = shifting_zone(target)?;
    let source = &column.base_type;
    let is_date = matches!(source.strip_suffix("[]").unwrap_or(source), "date");
    let what = if is_date { "a date is stored as its midnight in" } else { "a time without time zone is stored as" };
    (is_date || source.contains("without time zone"))
        .then(|| format!("{what} UTC, and a column in {zone} shows it shifted"))
}

/// Whether a column shows times otherwise than in UTC.
#[must_use]
pub fn is_zoned(column: &Column) -> bool {
    shifting_zone(column).is_some()
}

fn shifting_zone(column: &Column) -> Option<&str> {
    zone_of(column).filter(|zone| !IS_UTC.contains(&zone.trim_start_matches("Etc/")))
}

/// The time zone in which a column of times is shown.
fn zone_of(target: &Column) -> Option<&str> {
    let arguments = &target.type_name[target.type_name.find("DateTime")?..];
    let named = arguments.split_once('\'').and_then(|(_, rest)| rest.split_once('\''));
    Some(named.map_or(&target.zone, |(zone, _)| zone))
}

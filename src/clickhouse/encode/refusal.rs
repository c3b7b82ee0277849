//! Why a record does not become a row.

use std::fmt;

/// The longest excerpt of a value in a [`Refusal`], in bytes.
pub const MAX_EXCERPT: usize = 200;

/// A record that does not fit its target table, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The column that refuses (a tuple's element after a dot); `None` where the record as a whole is at fault.
    pub column: Option<String>,
    /// The value as it stands in the record, at most [`MAX_EXCERPT`] bytes of it.
    pub value: String,
    /// What the value breaks.
    pub rule: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.column {
            Some(column) => write!(f, "column {column:?} refuses {}: {}", self.value, self.rule),
            None if self.value.is_empty() => write!(f, "the record is refused: {}", self.rule),
            None => write!(f, "the record is refused: {}: {}", self.rule, self.value),
        }
    }
}

impl std::error::Error for Refusal {}

/// A refusal on its way up: where it happened instead of an excerpt, boxed to keep the way of good values short.
#[derive(Debug)]
pub(super) struct Fault {
    pub column: Option<String>,
    /// The byte of the record where the value in question, or the broken JSON, begins.
    pub at: usize,
    pub rule: String,
}

pub(super) type Checked<T> = Result<T, Box<Fault>>;

impl Fault {
    #[cold]
    pub fn new(at: usize, rule: impl Into<String>) -> Box<Fault> {
        Box::new(Fault { column: None, at, rule: rule.into() })
    }

    /// Puts the name of the field that encloses the fault in front.
    #[cold]
    pub fn within(mut self: Box<Self>, field: &str) -> Box<Fault> {
        self.column = Some(match self.column {
            Some(inner) => format!("{field}.{inner}"),
            None => field.to_owned(),
        });
        self
    }
}

/// As much of a text as an excerpt holds, cut where a character ends.
pub(super) fn excerpt(text: &str) -> String {
    text[..character_start(text, MAX_EXCERPT)].to_owned()
}

/// The last place up to `at` where a character begins or the text ends.
pub(super) fn character_start(text: &str, at: usize) -> usize {
    let mut start = at.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_ends_where_a_character_ends() {
        assert_eq!(excerpt("short"), "short");
        let long = "a".repeat(199) + "éé";
        assert_eq!(excerpt(&long), "a".repeat(199));
    }

    #[test]
    fn a_refusal_reads_as_a_sentence() {
        let refusal = Refusal { column: Some("age".into()), value: "300".into(), rule: "out of range".into() };
        assert_eq!(refusal.to_string(), "column \"age\" refuses 300: out of range");
    }
}

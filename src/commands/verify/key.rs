//! One text for a key, the same on both servers, and its number: the first 64 bits of the text's MD5.
//!
//! The number puts a key into a bucket by its first bits and distinguishes it from its neighbours by the rest. A pair of types for
//! which no equal text is known is refused: a comparison that may be wrong is worse than none.

use crate::clickhouse::column_type::{Column, ColumnType, ScalarType};
use crate::clickhouse::{quote as quote_target, text};
use crate::config::ColumnRules;
use crate::error::{Error, Result};
use crate::fit::map::split;
use crate::ports::source::SourceColumn;
use crate::postgres::{SourceTable, quote, value_sql};

/// What to do about a key that cannot be compared. The new table is filled from the topic, which may no longer have every record.
const HINT: &str = "name a new table as `target` in [[table]], create it with this column as a String (`pg2ch init --print` prints the \
                    statement), and run: it is filled from the topic's records, and `pg2ch verify --repair` says what these lack. Without \
                    that rows are copied all the same";

/// Stands between the columns of a key; inside a column it is escaped.
const BETWEEN: char = '\u{1f}';
const ESCAPE: char = '\u{1e}';

/// How both servers spell a key.
#[derive(Clone, Debug)]
pub struct KeyText {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    column: String,
    texts: Texts,
}

/// How ClickHouse compares the column with a text, so that it can use its primary index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Literal {
    Number,
    Text,
    /// The text stands in another time zone than the column.
    None,
}

impl KeyText {
    /// Finds the texts for a source's key and the columns of its target.
    ///
    /// # Errors
    /// 78 if a key column is missing in the target, or is of a type that cannot be compared.
    pub fn of(source: &SourceTable, target: &[Column], rules: &ColumnRules, target_name: &str) -> Result<Self> {
        let parts = source.key.iter().map(|column| {
            let what = format!("cannot compare {} with {target_name}", source.name);
            let name = rules.column_of(&column.name).unwrap_or(&column.name);
            let found = target.iter().find(|candidate| candidate.name == name).ok_or_else(|| {
                Error::config(&what, format!("the target has no key column {name}"), "run `pg2ch check`")
            })?;
            part(column, found).ok_or_else(|| {
                Error::config(
                    &what,
                    format!(
                        "the key column {} is {} in PostgreSQL and {} in ClickHouse, and their texts cannot be compared",
                        column.name, column.type_name, found.type_name
                    ),
                    HINT,
                )
            })
        });
        Ok(Self { parts: parts.collect::<Result<Vec<_>>>()? })
    }

    /// The text in PostgreSQL, of the row `t`.
    pub fn source_sql(&self) -> String {
        match self.parts.as_slice() {
            [only] => only.texts.source.clone(),
            several => {
                let escaped = several.iter().map(|part| {
                    format!("replace(replace({}, chr(30), chr(30) || '0'), chr(31), chr(30) || '1')", part.texts.source)
                });
                escaped.collect::<Vec<_>>().join(" || chr(31) || ")
            }
        }
    }

    /// The text in ClickHouse.
    pub fn target_sql(&self) -> String {
        match self.parts.as_slice() {
            [only] => only.texts.target.clone(),
            several => {
                let escaped = several.iter().map(|part| {
                    format!(
                        "replaceAll(replaceAll({}, char(30), concat(char(30), '0')), char(31), concat(char(30), '1'))",
                        part.texts.target
                    )
                });
                format!("concat({})", escaped.collect::<Vec<_>>().join(", char(31), "))
            }
        }
    }

    /// The number in PostgreSQL: a bigint, to be read without its sign.
    pub fn source_number_sql(&self) -> String {
        format!("('x' || substr(md5(convert_to({}, 'UTF8')), 1, 16))::bit(64)::bigint", self.source_sql())
    }

    /// The number in ClickHouse: a UInt64.
    pub fn target_number_sql(&self) -> String {
        format!("reinterpretAsUInt64(reverse(substring(MD5({}), 1, 8)))", self.target_sql())
    }

    /// A condition on these keys that ClickHouse can answer from its primary index, if there is one.
    pub fn target_condition(&self, keys: &[&str]) -> Option<String> {
        if self.parts.iter().any(|part| part.texts.literal == Literal::None) {
            return None;
        }
        if let [only] = self.parts.as_slice() {
            // Not in parentheses, each of which the server parses as an expression: nine times as long for the whole list.
            let values: Vec<String> = keys.iter().map(|key| literal(key, only.texts.literal)).collect();
            return Some(format!("{} IN ({})", quote_target(&only.column), values.join(",")));
        }
        let columns: Vec<String> = self.parts.iter().map(|part| quote_target(&part.column)).collect();
        let tuples: Vec<String> = keys
            .iter()
            .map(|key| {
                let values: Vec<String> = self
                    .split(key)
                    .iter()
                    .zip(&self.parts)
                    .map(|(value, part)| literal(value, part.texts.literal))
                    .collect();
                format!("({})", values.join(","))
            })
            .collect();
        Some(format!("({}) IN ({})", columns.join(","), tuples.join(",")))
    }

    /// The key for a person: the text, or those of its columns.
    pub fn shown(&self, key: &str) -> String {
        if self.parts.len() == 1 { key.to_owned() } else { format!("({})", self.split(key).join(", ")) }
    }

    fn split(&self, key: &str) -> Vec<String> {
        if self.parts.len() == 1 {
            return vec![key.to_owned()];
        }
        let plain = |part: &str| {
            part.replace(&format!("{ESCAPE}1"), &BETWEEN.to_string())
                .replace(&format!("{ESCAPE}0"), &ESCAPE.to_string())
        };
        key.split(BETWEEN).map(plain).collect()
    }
}

fn literal(value: &str, kind: Literal) -> String {
    // Only digits go unquoted into a statement.
    let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if kind == Literal::Number && is_number { value.to_owned() } else { text(value) }
}

fn part(source: &SourceColumn, target: &Column) -> Option<Part> {
    let mut texts = Texts::of(source, target)?;
    if texts.nullable {
        // A NULL in the target is the document `null`, or no key of the source.
        let is_document = matches!(source.base_type.as_str(), "json" | "jsonb");
        let (null, literal) = if is_document { ("'null'", Literal::None) } else { ("char(0)", texts.literal) };
        texts = Texts { target: format!("ifNull({}, {null})", texts.target), literal, ..texts };
    }
    Some(Part { column: target.name.clone(), texts })
}

/// Two expressions that make the same text of a value, one on each server.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    /// PostgreSQL's; the row's alias is `t`.
    pub source: String,
    /// ClickHouse's.
    pub target: String,
    literal: Literal,
    /// Whether the target's may be NULL.
    nullable: bool,
}

impl Texts {
    /// Those for a pair of columns, if any are known.
    pub fn of(source: &SourceColumn, target: &Column) -> Option<Self> {
        let (in_source, in_target) = (format!("t.{}", quote(&source.name)), quote_target(&target.name));
        let (nullable, scalar) = match ColumnType::parse(&target.type_name).ok()? {
            ColumnType::Scalar(scalar) => (false, scalar),
            ColumnType::Nullable(inner) => match *inner {
                ColumnType::Scalar(scalar) => (true, scalar),
                _ => return None,
            },
            _ => return None,
        };
        let is_utc = target.type_name.contains("'UTC'");
        let (base, _) = split(&source.base_type);
        let is_integer = matches!(base.as_str(), "smallint" | "integer" | "bigint");
        let is_time = matches!(base.as_str(), "timestamp without time zone" | "timestamp with time zone");
        let plain = format!("{in_source}::text");
        // What the record holds, and so what a String or an Enum was given.
        let as_sent = match base.as_str() {
            "text" | "character varying" | "uuid" | "json" | "jsonb" => plain.clone(),
            _ if is_integer => plain.clone(),
            _ => printed_in_json(&format!("to_json({})", value_sql("t", source)), has_parts(source)),
        };
        let own = format!("toString({in_target})");
        let (source_text, target_text, literal) = match scalar {
            ScalarType::String => (as_sent, own, Literal::Text),
            ScalarType::FixedString(_) => (as_sent, format!("toStringCutToZero({in_target})"), Literal::Text),
            // An unknown member's name would be an error, not an unequal value.
            ScalarType::Enum(_) => (as_sent, own, Literal::None),
            ScalarType::Integer(_) if is_integer => (plain, own, Literal::Number),
            ScalarType::Integer(_) if base == "numeric" => (trimmed_source(&in_source), own, Literal::Number),
            ScalarType::Decimal(_) if is_integer => (plain, trimmed_target(&own), Literal::Text),
            ScalarType::Decimal(_) if base == "numeric" => {
                (trimmed_source(&in_source), trimmed_target(&own), Literal::Text)
            }
            ScalarType::Bool if base == "boolean" => (plain, own, Literal::None),
            ScalarType::Uuid if base == "uuid" => (plain, own, Literal::Text),
            ScalarType::Date | ScalarType::Date32 if base == "date" => (plain, own, Literal::Text),
            ScalarType::DateTime | ScalarType::DateTime64(_) if is_time => (
                shaped(&in_source),
                format!("toString(toDateTime64({in_target}, 6, 'UTC'))"),
                if is_utc && matches!(scalar, ScalarType::DateTime64(_)) { Literal::Text } else { Literal::None },
            ),
            ScalarType::Ipv4 if base == "inet" => (format!("host({in_source})"), own, Literal::Text),
            _ => return None,
        };
        Some(Self { source: source_text, target: target_text, literal, nullable })
    }
}

/// Infinite times and those before our era have no such form, and no place in the target either. `to_char` leaves the era out.
fn shaped(time: &str) -> String {
    format!(
        "CASE WHEN {time} < '0001-01-01' THEN {time}::text ELSE coalesce(to_char({time}, 'YYYY-MM-DD HH24:MI:SS.US'), {time}::text) END"
    )
}

/// Whether JSON prints an array or an object of a column.
fn has_parts(source: &SourceColumn) -> bool {
    source.is_composite || source.base_type.ends_with("[]")
}

/// What a String is given of a value in a record. A document within an array or an object may hold an escape (`\u0000`) that no text
/// can, so of those the JSON itself is taken.
pub(super) fn printed_in_json(json: &str, has_parts: bool) -> String {
    if has_parts {
        format!("CASE WHEN json_typeof({json}) IN ('array', 'object') THEN ({json})::text ELSE {json} #>> '{{}}' END")
    } else {
        format!("({json} #>> '{{}}')")
    }
}

/// A number without trailing zeros behind the point.
fn trimmed_source(column: &str) -> String {
    format!(
        "CASE WHEN strpos({column}::text, '.') > 0 THEN rtrim(rtrim({column}::text, '0'), '.') ELSE {column}::text END"
    )
}

fn trimmed_target(number: &str) -> String {
    format!("if(position({number}, '.') > 0, replaceRegexpOne({number}, '[.]?0*$', ''), {number})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(source: &str, target: &str) -> Option<Part> {
        let source = SourceColumn {
            name: "k".into(),
            type_name: source.into(),
            base_type: source.into(),
            not_null: true,
            ..SourceColumn::default()
        };
        part(&source, &Column::new("k", target))
    }

    #[test]
    fn only_pairs_of_types_with_an_equal_text_are_compared() {
        for (source, target) in [("bigint", "Int64"), ("numeric(10,2)", "Decimal(10, 2)"), ("date", "String")] {
            assert!(pair(source, target).is_some(), "{source}, {target}");
        }
        for (source, target) in [("double precision", "Float64"), ("date", "DateTime"), ("text", "UUID")] {
            assert!(pair(source, target).is_none(), "{source}, {target}");
        }
    }

    #[test]
    fn the_columns_of_a_key_stay_apart_whatever_they_hold() {
        let parts = [pair("text", "String"), pair("bigint", "Int64")].into_iter().flatten().collect();
        let key = KeyText { parts };
        assert_eq!(key.split("a\u{1e}1\u{1e}0'\u{1f}5"), ["a\u{1f}\u{1e}'", "5"]);
        assert_eq!(key.target_condition(&["it's\u{1f}5"]).as_deref(), Some("(`k`,`k`) IN (('it\\'s',5))"));
    }
}

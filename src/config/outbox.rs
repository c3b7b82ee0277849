//! What an outbox asks for: the order of its rows, the keys and headers of its records.

use std::collections::{BTreeSet, HashMap};

use serde_json::value::RawValue;

use super::file::{File, Section, Value};
use super::origin::Origin;
use super::reader::{Reader, column_names, kind, refuse, take};
use super::value;
use crate::error::Result;

/// The order of a table's rows, and what its records have beside the value. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    /// Names of headers, each with the column that fills it, in the file's order.
    pub headers: Vec<(String, String)>,
    /// Columns in whose order rows are sent, ties by the key.
    pub order_by: Vec<String>,
    /// Columns that make the record's key, instead of the row's.
    pub message_key: Vec<String>,
}

impl Outbox {
    /// Whether rows are sent in an order that a consumer may rely on.
    #[must_use]
    pub fn has_order(&self) -> bool {
        !self.order_by.is_empty() || !self.message_key.is_empty()
    }
}

/// Reads `order_by`, `message_key` and `headers` of table number `at`.
///
/// # Errors
/// 78 if a value is refused.
pub fn read(reader: &mut Reader, file: &File, section: &mut Section, at: usize, flag: &str) -> Result<Outbox> {
    let order_by = columns(reader, file, section, (at, "order_by"), flag)?;
    let message_key = columns(reader, file, section, (at, "message_key"), flag)?;
    let headers = headers(reader, file, section, at, flag)?;
    Ok(Outbox { headers, order_by, message_key })
}

fn columns(
    reader: &mut Reader,
    file: &File,
    section: &mut Section,
    (at, key): (usize, &str),
    flag: &str,
) -> Result<Vec<String>> {
    let place = format!("table[{at}].{key}");
    let Some((entry, origin)) = take(file, section, key) else {
        reader.note(place, "", &Origin::Default);
        return Ok(Vec::new());
    };
    let hint = format!("name one column, `{key} = \"one\"`, or several, `{key} = [\"one\", \"other\"]`");
    let names = column_names(&place, &origin, entry.value, &hint)?;
    let twice = names.iter().enumerate().find(|(at, name)| names[..*at].contains(*name));
    let why = match twice {
        _ if names.is_empty() => "it names no column".to_owned(),
        Some((_, name)) => format!("it names the column `{name}` twice"),
        None if names.iter().any(|name| name == flag) => format!("the flag {flag} changes when a row is sent"),
        None => {
            reader.note(place, names.join(", "), &origin);
            return Ok(names);
        }
    };
    Err(refuse(&place, &origin, why, &hint))
}

fn headers(
    reader: &mut Reader,
    file: &File,
    section: &mut Section,
    at: usize,
    flag: &str,
) -> Result<Vec<(String, String)>> {
    let place = format!("table[{at}].headers");
    let Some((entry, origin)) = take(file, section, "headers") else {
        reader.note(place, "", &Origin::Default);
        return Ok(Vec::new());
    };
    let refused = |why: String| refuse(&place, &origin, why, "write `headers = { name = \"column\" }`");
    let Value::Pairs(headers) = entry.value else {
        return Err(refused(format!("it is {}", kind(&entry.value))));
    };
    let mut names = BTreeSet::new();
    for (name, column) in &headers {
        header(name, column, flag).map_err(refused)?;
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(refused(format!("the header `{name}` is named twice")));
        }
    }
    let shown: Vec<String> = headers.iter().map(|(name, column)| format!("{name} ← {column}")).collect();
    reader.note(place, shown.join(", "), &origin);
    Ok(headers)
}

/// The row's key out of a record's value, as PostgreSQL prints it; `None` if that has no such fields.
pub(super) fn row_key(columns: &[String], value: &[u8]) -> Option<String> {
    let fields: HashMap<String, &RawValue> = serde_json::from_slice(value).ok()?;
    let tokens = columns.iter().map(|column| fields.get(column).map(|token| token.get()));
    let tokens = tokens.collect::<Option<Vec<&str>>>()?;
    match tokens.as_slice() {
        [only] if only.starts_with('"') => serde_json::from_str(only).ok(),
        [only] => Some((*only).to_owned()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}

fn header(name: &str, column: &str, flag: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > 249 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a header's name has 1 to 249 characters, ASCII without spaces".to_owned());
    }
    if name.to_ascii_lowercase().starts_with("pg2ch-") {
        return Err(format!("the header `{name}` begins with `pg2ch-`, as those of dead letters do"));
    }
    if column == flag {
        return Err(format!("the flag {flag} is never part of a record"));
    }
    value::column(column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rows_key_is_read_from_the_value_as_postgresql_prints_it() {
        let key = |columns: &[&str], value: &str| {
            let columns: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
            row_key(&columns, value.as_bytes())
        };
        let value = r#"{"id":12345678901234567890,"tenant":"a \"b\" é","n":1.10,"done":true}"#;
        assert_eq!(key(&["id"], value).as_deref(), Some("12345678901234567890"));
        assert_eq!(key(&["tenant"], value).as_deref(), Some("a \"b\" é"));
        assert_eq!(key(&["n"], value).as_deref(), Some("1.10"));
        assert_eq!(key(&["tenant", "id"], value).as_deref(), Some(r#"["a \"b\" é", 12345678901234567890]"#));
        assert_eq!((key(&["other"], value), key(&["id"], "no json")), (None, None));
    }
}

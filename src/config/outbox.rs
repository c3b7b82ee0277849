//! What an outbox asks for: the order of its rows, the keys and headers of its records.

use std::collections::{BTreeSet, HashMap};

use serde_json::value::RawValue;

use super::file::Value;
use super::reader::Section;
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

/// Reads `order_by`, `message_key` and `headers`.
///
/// # Errors
/// 78 if a value is refused.
pub fn read(section: &mut Section<'_>, flag: &str) -> Result<Outbox> {
    let order_by = columns(section, "order_by", flag)?;
    let message_key = columns(section, "message_key", flag)?;
    let headers = section.optional("headers", |section, key| {
        let hint = "write `headers = { name = \"column\" }`";
        let show = |(name, column): &(String, String)| format!("{name} ← {column}");
        let show = |headers: &Vec<_>| headers.iter().map(show).collect::<Vec<_>>().join(", ");
        section.read(key, None, hint, |given| headers(given, flag), show)
    })?;
    Ok(Outbox { headers: headers.map(|given| given.value).unwrap_or_default(), order_by, message_key })
}

fn columns(section: &mut Section<'_>, key: &str, flag: &str) -> Result<Vec<String>> {
    let hint = format!("name one column, `{key} = \"one\"`, or several, `{key} = [\"one\", \"other\"]`");
    let Some(given) = section.optional(key, |section, key| section.names(key, &hint))? else { return Ok(Vec::new()) };
    if given.value.iter().any(|name| name == flag) {
        return Err(given.refuse(format!("the flag {flag} changes when a row is sent"), &hint));
    }
    Ok(given.value)
}

fn headers(given: Value, flag: &str) -> Result<Vec<(String, String)>, String> {
    let headers = given.pairs()?;
    let mut names = BTreeSet::new();
    for (name, column) in &headers {
        header(name, column, flag)?;
        if !names.insert(name.to_ascii_lowercase()) {
            return Err(format!("the header `{name}` is named twice"));
        }
    }
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

//! What an outbox asks for: the headers of its records.

use std::collections::BTreeSet;

use super::file::{File, Section, Value};
use super::origin::Origin;
use super::reader::{Reader, kind, refuse, take};
use super::value;
use crate::error::Result;

/// What a table's records have beside key and value. By default nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outbox {
    /// Names of headers, each with the column that fills it, in the file's order.
    pub headers: Vec<(String, String)>,
}

/// Reads `headers` of table number `at`.
///
/// # Errors
/// 78 if a value is refused.
pub fn read(reader: &mut Reader, file: &File, section: &mut Section, at: usize, flag: &str) -> Result<Outbox> {
    let place = format!("table[{at}].headers");
    let Some((entry, origin)) = take(file, section, "headers") else {
        reader.note(place, "", &Origin::Default);
        return Ok(Outbox::default());
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
    Ok(Outbox { headers })
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

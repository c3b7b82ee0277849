//! The order in which a table's rows go out, and the key of a record where it is not the row's.

use super::row_sql::one_text;
use super::session::Session;
use super::source_table::{SourceTable, quote, understood};
use crate::error::{Error, Result};
use crate::ports::source::SourceColumn;

impl SourceTable {
    /// That PostgreSQL can sort the rows as they are to be sent, and that a record's value names its row where its key does not.
    pub(super) fn require_order(&self, session: &mut Session, what: &str) -> Result<()> {
        if let Some(column) = self.key.iter().find(|column| !self.message_key.is_empty() && !reads_alike(column)) {
            return Err(Error::config(
                what,
                format!(
                    "its key column {} of type {} reads otherwise in JSON than alone",
                    column.name, column.type_name
                ),
                "name a `key` of integers, texts, uuids or dates: with `message_key`, it is read from the record's value",
            ));
        }
        if self.order_by.is_empty() {
            return Ok(());
        }
        let what = format!("cannot use `order_by` of [[table]] {}", self.name);
        let sql = format!("SELECT FROM {} AS t ORDER BY {}", self.name, self.order_sql("t"));
        let hint = "name columns whose type sorts, such as a number or a time";
        understood(session, &what, &sql, |why| Error::config(&what, why, hint)).map(drop)
    }

    /// Whether rows come in passes: in an order, or with keys of their own.
    pub fn has_order(&self) -> bool {
        !(self.order_by.is_empty() && self.message_key.is_empty())
    }

    /// The columns by which rows are sorted.
    pub fn order_columns(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.order_by.iter().map(|column| column.name.as_str()).collect();
        for column in &self.key {
            if !names.contains(&column.name.as_str()) {
                names.push(&column.name);
            }
        }
        names
    }

    /// The same for `ORDER BY`, of `row`.
    pub fn order_sql(&self, row: &str) -> String {
        self.order_columns().iter().map(|name| format!("{row}.{}", quote(name))).collect::<Vec<_>>().join(", ")
    }

    /// The record's key as one text, NULL where it has none.
    pub fn record_key_sql(&self, row: &str) -> String {
        if self.message_key.is_empty() {
            return self.key_text_sql(row);
        }
        one_text(&self.message_key, |column| format!("{row}.{}", quote(&column.name)))
    }

    /// The row's key out of a record's value, the text `value`, where the record's key is another.
    pub fn row_key_sql(&self, value: &str) -> String {
        one_text(&self.key, |column| {
            let field = column.name.replace('\'', "''");
            format!("(({value})::json ->> '{field}')::{}", column.type_name)
        })
    }
}

/// Whether a value's JSON says the same as its text.
fn reads_alike(column: &SourceColumn) -> bool {
    let base = column.base_type.split('(').next().unwrap_or_default();
    let alike = ["smallint", "integer", "bigint", "numeric", "text", "character varying", "uuid", "date", "boolean"];
    let is_array = column.base_type.ends_with("[]");
    !is_array && (column.is_enum || alike.contains(&base) || base.ends_with("citext"))
}

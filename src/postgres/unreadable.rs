//! Rows of which PostgreSQL cannot make a record: text that is not UTF-8 in a database without an encoding, JSON of more than
//! 1 GB, a damaged value. One of them fails the whole statement that reads its batch. Here it is found, so that the others go.

use postgres::error::SqlState;

use super::explain::cause;
use super::session::{Session, literal};
use super::source_table::SourceTable;
use crate::error::{Error, Result};
use crate::report::UnreadableRow;

/// How many such rows a leg passes over.
pub(super) const MOST_UNREADABLE: usize = 1_000;

/// Whether a statement may have failed for a row that it read: data exceptions, program limits, too little memory for a value,
/// damaged data (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
pub(super) fn may_be_a_rows_fault(error: &Error) -> bool {
    cause(error).and_then(postgres::Error::code).is_some_and(|code| {
        *code == SqlState::OUT_OF_MEMORY || matches!(code.code().get(..2), Some("22" | "54" | "XX"))
    })
}

/// Tries the first `limit` unsent rows one by one, in a session that looks names up in pg_catalog. `range` limits them further
/// (`AND …`, the row's alias is `t`).
///
/// # Errors
/// PostgreSQL's: the role may not use PL/pgSQL, or a key cannot be read either.
pub(super) fn find(
    session: &mut Session,
    table: &SourceTable,
    range: &str,
    order: &str,
    limit: usize,
) -> Result<Vec<UnreadableRow>> {
    let what = format!("cannot find the unreadable rows of {}", table.name);
    let stops = if table.message_key.is_empty() { "NULL".into() } else { table.record_key_sql("t") };
    let headers = table.more_headers_sql("s");
    let body = format!(
        "DECLARE pg2ch_row record; pg2ch_rows jsonb := '[]';
         BEGIN
             FOR pg2ch_row IN
                 SELECT t.ctid AS place, t.tableoid AS relation, {key} AS key, {stops} AS stops FROM {name} AS t
                 WHERE {unsent} {range} ORDER BY {order} LIMIT {limit}
             LOOP
                 BEGIN
                     PERFORM convert_to(row_to_json(pg2ch_record)::text, 'UTF8'){headers}
                     FROM (SELECT {inner} FROM {name} AS t
                           WHERE t.ctid = pg2ch_row.place AND t.tableoid = pg2ch_row.relation) AS s, {record};
                 EXCEPTION WHEN OTHERS THEN
                     pg2ch_rows := pg2ch_rows || jsonb_build_array(jsonb_build_array(
                         pg2ch_row.key, pg2ch_row.stops, SQLERRM || ' (' || SQLSTATE || ')'));
                 END;
             END LOOP;
             PERFORM set_config('pg2ch.unreadable', pg2ch_rows::text, false);
         END",
        key = table.key_text_sql("t"),
        name = table.name,
        unsent = table.unsent_sql(),
        inner = table.record_columns_sql("t").join(", "),
        record = table.record_sql("s"),
    );
    let sql = format!("DO {}; SELECT current_setting('pg2ch.unreadable')", literal(&body));
    let answers = session.script(&what, &sql)?;
    let found = answers.last().and_then(|rows| rows.first()).and_then(|row| row.get(0)).unwrap_or("[]");
    let found: Vec<(String, Option<String>, String)> =
        serde_json::from_str(found).map_err(|error| Error::bug(&what, error))?;
    Ok(found.into_iter().map(|(key, stops, reason)| UnreadableRow { key, reason, stops }).collect())
}

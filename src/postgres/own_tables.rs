//! The tables in PostgreSQL that are pg2ch's own: found by the role's search path, and of this version.

use postgres::SimpleQueryRow;

use crate::error::{Error, Result};

/// What looks them up.
pub(super) const OWN_TABLES: &str = "
    SELECT pg_catalog.to_regclass('pg2ch_checkpoint') IS NOT NULL,
           EXISTS (SELECT FROM pg_catalog.pg_attribute
                   WHERE attrelid = pg_catalog.to_regclass('pg2ch_checkpoint') AND attname = 'protocol'),
           (SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = pg_catalog.to_regclass('pg2ch_held'))";

/// The name of the table of held rows, with its schema; `table` is the source's.
///
/// # Errors
/// 78 if it, or the checkpoint table, is not there or not as this version needs it.
pub(super) fn held_table(answer: Option<&Vec<SimpleQueryRow>>, table: &str) -> Result<String> {
    let row = answer.and_then(|rows| rows.first());
    let column = |at| row.and_then(|row| row.get(at));
    let why = match (column(0), column(1), column(2)) {
        (Some("t"), Some("t"), Some(held)) => return Ok(held.to_owned()),
        (Some("t"), Some("t"), None) => "the role's search path has no table pg2ch_held",
        (Some("t"), ..) => "the table pg2ch_checkpoint is of an older version of pg2ch",
        _ => "the role's search path has no table pg2ch_checkpoint",
    };
    let hint = "run `pg2ch init`, or load sql/postgres_init.sql";
    Err(Error::config(format!("cannot use the checkpoint of {table}"), why, hint))
}

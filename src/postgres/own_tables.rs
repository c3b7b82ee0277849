//! The tables in PostgreSQL that are pg2ch's own: found by the role's search path, and of this version.

use postgres::SimpleQueryRow;
use postgres::error::SqlState;

use super::catalogue::name_sql;
use super::session::{Session, literal, typed};
use crate::data::Offsets;
use crate::error::{Error, Result};
use crate::ports::record_types::RecordTypes;

/// What looks them up.
pub(super) const OWN_TABLES: &str = "
    SELECT pg_catalog.to_regclass('pg2ch_checkpoint') IS NOT NULL,
           EXISTS (SELECT FROM pg_catalog.pg_attribute
                   WHERE attrelid = pg_catalog.to_regclass('pg2ch_checkpoint') AND attname = 'record_types'),
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

/// The offset in each partition up to which the rows of a source are settled, as the checkpoint has it; none where the role cannot read it.
///
/// # Errors
/// Any PostgreSQL error.
pub fn settled_offsets(session: &mut Session, source: &str, topic: &str) -> Result<Offsets> {
    const WHAT: &str = "cannot read the checkpoint";
    let readable = "SELECT 1 WHERE has_table_privilege(to_regclass('pg2ch_checkpoint'), 'SELECT')
                    AND NOT row_security_active(to_regclass('pg2ch_checkpoint'))";
    if session.query_opt(WHAT, readable, &[])?.is_none() {
        return Ok(Offsets::new());
    }
    let sql = format!(
        "SELECT partition, next_offset FROM pg2ch_checkpoint WHERE source = {} AND topic = $2 AND partition >= 0",
        name_sql("$1")
    );
    let rows = session.query(WHAT, &sql, &[&source, &topic])?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Why the checkpoint's rows keep a source from being sent to its topic. A run refuses that, and `check` shows it.
pub struct Misplaced {
    pub id: &'static str,
    pub what: String,
    pub why: &'static str,
    /// What to do before the statements, or instead of them.
    pub advice: String,
    /// One a line.
    pub statements: String,
}

/// The condition on the rows of the checkpoint table that [`misplaced`] judges.
pub fn misplaced_sql(source: &str, topic: &str) -> String {
    format!("(topic = {topic} OR source = {source} AND partition <> -1 AND next_offset > 0)")
}

/// Judges the sources and topics of the checkpoint's rows: whether another source feeds the topic, or the source has fed another
/// topic before, and nothing shows that all of that was copied.
pub fn misplaced<'a>(source: &str, topic: &str, rows: impl Iterator<Item = (&'a str, &'a str)>) -> Option<Misplaced> {
    let (here, elsewhere): (Vec<_>, Vec<_>) = rows.partition(|(_, other)| *other == topic);
    let named = |source: &str, topic: &str| format!("topic = {} AND source = {}", literal(topic), literal(source));
    if let Some((other, _)) = here.iter().find(|(other, _)| *other != source) {
        // Their types come along: DELETE would have uncopied records read by the columns' types of now.
        let rename =
            |table: &str| format!("UPDATE {table} SET source = {} WHERE {};\n", literal(source), named(other, topic));
        return Some(Misplaced {
            id: "topic-shared",
            what: format!("another source, {other}, already feeds topic {topic}"),
            why: "recovery needs a topic with the rows of one source",
            advice: format!(
                "give each source a topic of its own; if {other} has got another name, or has moved away for good"
            ),
            statements: format!("BEGIN;\n{}{}COMMIT;", rename("pg2ch_held"), rename("pg2ch_checkpoint")),
        });
    }
    let (_, old) = elsewhere.first().filter(|_| here.is_empty())?;
    let delete = |table: &str| format!("DELETE FROM {table} WHERE {};", named(source, old));
    Some(Misplaced {
        id: "topic-changed",
        what: format!("the rows of {source} went to topic {old} before"),
        why: "what was flagged and not yet copied from there would be missing",
        advice: format!(
            "run `pg2ch --once` with `topic = \"{old}\"` until it ends with 0 and has nothing to do; then give that topic up"
        ),
        statements: format!("{}\n{}", delete("pg2ch_held"), delete("pg2ch_checkpoint")),
    })
}

/// The types of the columns in the records of `source` in `topic`, as runs have kept them; `None` if none has.
pub fn kept_record_types(session: &mut Session, source: &str, topic: &str) -> Result<Option<RecordTypes>> {
    let what = format!("cannot read the types of the columns in records of {source}");
    let sql = "SELECT to_jsonb(c) ->> 'record_types' FROM pg2ch_checkpoint AS c
         WHERE source = $1 AND topic = $2 AND partition = -1";
    match session.raw(&what, |client| client.query_typed_opt(sql, &typed(&[&source, &topic]))) {
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(None),
        found => {
            let row = found.map_err(|error| session.explain(&what, error))?;
            let text: Option<String> = row.and_then(|row| row.get(0));
            Ok(text.as_deref().and_then(RecordTypes::parse))
        }
    }
}

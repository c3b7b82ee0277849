//! Whether a table's rows can be flagged, and what decides how.

use super::session::{Session, literal};
use super::source_table::SourceTable;
use crate::error::Result;

/// What decides how the rows of a table are flagged.
pub struct Flaggable {
    /// The lock that the UPDATE itself takes: the weaker one lets inserts refer to the row, unless the flag is part of a unique
    /// index that they could refer to.
    pub lock_strength: &'static str,
    /// Whether a trigger of the table, or of one of its partitions, fires after an UPDATE.
    pub has_after_triggers: bool,
}

impl Flaggable {
    /// Asks all of it at once: a table whose rows cannot be flagged, or held in the table `held`, is refused.
    pub fn find(session: &mut Session, table: &SourceTable, held: &str) -> Result<Self> {
        let what = format!("cannot flag rows of {}", table.name);
        let (oid, flag) = (table.oid, literal(&table.flag));
        // `tgtype` is a set of bits: 2 is BEFORE, 16 is UPDATE, 64 is INSTEAD OF (pg_trigger in PostgreSQL's sources).
        let sql = format!(
            "{update};
             EXPLAIN WITH d AS (DELETE FROM {held} RETURNING 1)
             INSERT INTO {held} (source, topic, key, digest) SELECT '', '', '', '' FROM d;
             WITH parts AS MATERIALIZED (
                 SELECT array_append(array_agg(relid::oid), {oid}::oid) AS oids FROM pg_catalog.pg_partition_tree({oid}::oid::regclass))
             SELECT EXISTS (SELECT FROM pg_catalog.pg_index i
                        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND a.attname = {flag}
                        WHERE i.indrelid = ANY ((SELECT oids FROM parts)::oid[]) AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL),
                    EXISTS (SELECT FROM pg_catalog.pg_trigger
                        WHERE tgrelid = ANY ((SELECT oids FROM parts)::oid[]) AND NOT tgisinternal AND tgenabled <> 'D'
                          AND tgtype & 16 <> 0 AND tgtype & (2 | 64) = 0)",
            update = update_sql(table),
        );
        let answers = session.script(&what, &sql)?;
        let row = answers.last().and_then(|rows| rows.first());
        let is_true = |at| row.and_then(|row| row.get(at)) == Some("t");
        Ok(Self { lock_strength: if is_true(0) { "UPDATE" } else { "NO KEY UPDATE" }, has_after_triggers: is_true(1) })
    }
}

/// That rows can be flagged at all: the role may update them, and so can the table (a published one without a replica
/// identity, or with a rule, cannot). That is asked when a statement begins, not when it is prepared.
pub fn require_flaggable(session: &mut Session, table: &SourceTable) -> Result<()> {
    session.script(&format!("cannot flag rows of {}", table.name), &update_sql(table)).map(drop)
}

/// As the flagging UPDATE itself: with RETURNING, which not every rule allows.
fn update_sql(table: &SourceTable) -> String {
    let (name, flag) = (&table.name, table.flag_sql());
    format!(
        "EXPLAIN WITH u AS (UPDATE {name} SET {flag} = TRUE WHERE NOT {flag} RETURNING {flag}) SELECT count(*) FROM u"
    )
}

//! What the order of an outbox rests on: columns that are filled, and numbers that rise as their rows are written.

use super::finding::Findings;
use crate::error::Result;
use crate::postgres::{Session, SourceTable, quote};

/// Looks at the columns of `order_by` and `message_key`.
pub fn check(session: &mut Session, source: &SourceTable, findings: &mut Findings) -> Result<()> {
    let name = &source.name;
    // In the key of several columns a NULL is `null`, and the record has a key.
    let message_key = if let [only] = &*source.message_key { std::slice::from_ref(only) } else { &[] };
    for (key, columns, why) in [
        ("order_by", &*source.order_by, "rows without a value are sent last"),
        ("message_key", message_key, "records without a key go to any partition, in no order"),
    ] {
        for column in columns.iter().filter(|column| !column.not_null) {
            findings.warning(
                "order-nullable",
                format!("the column {} of `{key}` may be NULL", column.name),
                why,
                format!("ALTER TABLE {name} ALTER COLUMN {} SET NOT NULL;", quote(&column.name)),
            );
        }
    }
    source.order_by.iter().try_for_each(|column| numbers(session, source, &column.name, findings))
}

/// Where the column gets its values from.
fn numbers(session: &mut Session, source: &SourceTable, column: &str, findings: &mut Findings) -> Result<()> {
    let what = format!("cannot look up where {column} of {} gets its values", source.name);
    let found = session.query_opt(
        &what,
        "SELECT (SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_depend d
                   JOIN pg_catalog.pg_sequence s ON s.seqrelid = CASE d.classid
                       WHEN 'pg_catalog.pg_attrdef'::regclass THEN d.refobjid ELSE d.objid END
                   JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 WHERE s.seqcache > 1
                   AND (d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = f.oid
                        OR d.classid = 'pg_catalog.pg_class'::regclass AND d.refobjid = a.attrelid
                           AND d.refobjsubid = a.attnum AND d.deptype IN ('a', 'i'))
                 LIMIT 1),
                pg_catalog.pg_get_expr(f.adbin, f.adrelid) ~* '(now|transaction_timestamp)\\(\\)|CURRENT_TIMESTAMP'
         FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
         WHERE a.attrelid = $1 AND a.attname = $2::text",
        &[&source.oid, &column],
    )?;
    let (cached, begun): (Option<String>, Option<bool>) = found.map_or((None, None), |row| (row.get(0), row.get(1)));
    if let Some(sequence) = cached {
        findings.warning(
            "order-cached",
            format!("the sequence {sequence} of {column} gives each session several numbers ahead (CACHE)"),
            "of two rows written one after the other, the second may get the lower number",
            format!("ALTER SEQUENCE {sequence} CACHE 1;"),
        );
    }
    if begun == Some(true) {
        findings.warning(
            "order-now",
            format!("{column} is the time at which the transaction began"),
            "of two writers that wait for each other, the first may have begun last",
            format!(
                "order by a sequence's number, drawn after the lock; or ALTER TABLE {} ALTER COLUMN {} SET DEFAULT clock_timestamp();",
                source.name,
                quote(column)
            ),
        );
    }
    Ok(())
}

//! What happens around a flagging UPDATE: triggers, free space, a table that is never vacuumed.

use super::finding::Findings;
use super::source::Found;
use crate::error::Result;
use crate::postgres::{Session, quote};

/// Looks for what slows flagging down, or undoes it.
pub fn check(session: &mut Session, found: &Found, findings: &mut Findings) -> Result<()> {
    if let Some(flag) = &found.flag {
        triggers(session, found, flag, findings)?;
    }
    if !found.relation.is_partitioned {
        space(session, found, findings)?;
    }
    Ok(())
}

fn triggers(session: &mut Session, found: &Found, flag: &str, findings: &mut Findings) -> Result<()> {
    // An UPDATE of the whole fires the row triggers of its partitions, and not their statement triggers. A partition has copies of
    // the whole's row triggers.
    // tgtype: 1 for each row, 4 on INSERT, 16 on UPDATE (pg_trigger in PostgreSQL's manual). A trigger on columns fires
    // only if the flag is one of them.
    let rows = session.query(
        &format!("cannot look up the triggers of {}", found.relation.name),
        "SELECT t.tgname::text, pg_catalog.pg_get_triggerdef(t.oid), t.tgtype & 1 = 1 AND t.tgtype & 4 = 0 AND t.tgqual IS NULL,
                pg_catalog.format('%I.%I', n.nspname, c.relname), t.tgtype & 1 = 1, t.tgqual IS NOT NULL
         FROM pg_catalog.pg_trigger t
         JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE (t.tgrelid = $1 OR t.tgtype & 1 = 1
                AND t.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass))
                AND NOT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(t.tgrelid) AS above
                    JOIN pg_catalog.pg_trigger p ON p.tgrelid = above.relid
                    WHERE above.relid <> t.tgrelid AND p.tgname = t.tgname AND p.tgfoid = t.tgfoid))
           AND NOT t.tgisinternal AND t.tgtype & 16 = 16 AND t.tgenabled <> 'D'
           AND (cardinality(t.tgattr::int2[]) = 0 OR (SELECT a.attnum FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = t.tgrelid AND a.attname = $2::text) = ANY (t.tgattr::int2[]))
           AND coalesce(pg_catalog.pg_get_triggerdef(t.oid), '') !~* ('WHEN .*old\\.\"?' || $2::text)",
        &[&found.relation.oid, &flag],
    )?;
    for row in rows {
        let (trigger, definition, can_be_narrowed): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
        let (table, is_for_each_row, has_condition): (String, bool, bool) = (row.get(3), row.get(4), row.get(5));
        let name = quote(&trigger);
        let fix = match definition.split_once(" EXECUTE ") {
            // An application's update sets the flag to FALSE, and the trigger is meant for it: only flagging is left out.
            Some((head, call)) if can_be_narrowed => format!(
                "BEGIN;\nDROP TRIGGER {name} ON {table};\n{head} WHEN (OLD.{flag} IS TRUE OR NEW.{flag} IS NOT TRUE) \
                 EXECUTE {call};\nCOMMIT;",
                flag = quote(flag),
            ),
            _ => format!("-- make it do nothing where {flag} becomes TRUE. Its definition:\n-- {definition}"),
        };
        findings.warning(
            "update-trigger",
            format!(
                "the trigger {trigger} of {table} fires on every {} is flagged{}",
                if is_for_each_row { "row that" } else { "UPDATE by which a batch" },
                if has_condition { ", if its WHEN condition holds" } else { "" }
            ),
            format!(
                "it costs time for each {}; if it changes the row (an `updated_at`), the target never gets that change; if it \
                 resets the flag, the row is sent once, but every run reports it and exits with 65",
                if is_for_each_row { "row" } else { "batch" }
            ),
            fix,
        );
    }
    Ok(())
}

fn space(session: &mut Session, found: &Found, findings: &mut Findings) -> Result<()> {
    let row = session.query_opt(
        &format!("cannot look up the settings of {}", found.relation.name),
        "SELECT coalesce((SELECT option_value FROM pg_catalog.pg_options_to_table(reloptions)
                    WHERE option_name = 'fillfactor')::int, 100),
                EXISTS (SELECT FROM pg_catalog.pg_options_to_table(reloptions)
                    WHERE option_name = 'autovacuum_enabled' AND NOT option_value::boolean)
         FROM pg_catalog.pg_class WHERE oid = $1",
        &[&found.relation.oid],
    )?;
    let Some(row) = row else { return Ok(()) };
    let (fill, is_left): (i32, bool) = (row.get(0), row.get(1));
    let name = &found.relation.name;
    if is_left {
        findings.warning(
            "table-autovacuum-off",
            format!("autovacuum is disabled for {name}"),
            "every flagged row leaves a dead tuple, so the table and its indexes keep growing",
            format!("ALTER TABLE {name} RESET (autovacuum_enabled);"),
        );
    }
    if fill > 90 {
        findings.note(
            "fillfactor",
            format!("{name} has fillfactor {fill}"),
            "each row is updated once, when it is flagged. With room in its page the new version stays there, which halves the WAL. It takes up to twice the disk, and applies to new rows",
            format!("ALTER TABLE {name} SET (fillfactor = 50);"),
        );
    }
    Ok(())
}

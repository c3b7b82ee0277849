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
    // tgtype: 1 for each row, 4 on INSERT, 8 on DELETE, 16 on UPDATE (pg_trigger in PostgreSQL's manual). A trigger on columns fires
    // only if the flag is one of them.
    // A trigger of INSERT or DELETE as well needs a second one for these: their rows have no OLD, or no NEW. What CREATE TRIGGER
    // does not restore is in the last column: when it fires, in each partition, its comments, the extensions it depends on.
    let rows = session.query(
        &format!("cannot look up the triggers of {}", found.relation.name),
        "WITH fires AS (
             SELECT t.*, pg_catalog.pg_get_triggerdef(t.oid) AS definition,
                    t.tgtype & 1 = 1 AND t.tgqual IS NULL AS can_be_narrowed,
                    (SELECT free.name FROM generate_series(2, 99) AS n
                     CROSS JOIN LATERAL (SELECT CASE WHEN octet_length(t.tgname::text) > 60 THEN left(t.tgname::text, 15)
                         ELSE t.tgname::text END || '_' || n AS name) AS free
                     WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger x WHERE x.tgname::text = free.name) ORDER BY n LIMIT 1) AS second
             FROM pg_catalog.pg_trigger t
             WHERE (t.tgrelid = $1 OR t.tgtype & 1 = 1
                    AND t.tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass))
                    AND NOT EXISTS (SELECT FROM pg_catalog.pg_partition_ancestors(t.tgrelid) AS above
                        JOIN pg_catalog.pg_trigger p ON p.tgrelid = above.relid
                        WHERE above.relid <> t.tgrelid AND p.tgname = t.tgname AND p.tgfoid = t.tgfoid))
               AND NOT t.tgisinternal AND t.tgtype & 16 = 16
               AND t.tgenabled IN ('A', CASE WHEN pg_catalog.current_setting('session_replication_role') = 'replica' THEN 'R' ELSE 'O' END)
               AND (cardinality(t.tgattr::int2[]) = 0 OR (SELECT a.attnum FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = t.tgrelid AND a.attname = $2::text) = ANY (t.tgattr::int2[])))
         SELECT t.tgname::text, t.definition, t.can_be_narrowed, w.name, t.tgtype & 1 = 1, t.tgqual IS NOT NULL,
                pg_catalog.quote_ident(t.tgname::text), pg_catalog.quote_ident(t.second), again.statements
         FROM fires t
         CROSS JOIN LATERAL (SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name FROM pg_catalog.pg_class c
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = t.tgrelid) AS w
         CROSS JOIN LATERAL (
              WITH RECURSIVE every AS (
                  SELECT t.tgrelid AS relid, 0 AS level, FALSE AS is_set
                  UNION ALL SELECT i.inhrelid, e.level + 1, e.is_set OR p.tgenabled <> 'O' FROM every e
                  JOIN pg_catalog.pg_inherits i ON i.inhparent = e.relid
                  JOIN pg_catalog.pg_trigger p ON p.tgrelid = e.relid AND p.tgname = t.tgname AND p.tgfoid = t.tgfoid)
              SELECT string_agg(each.statement, '' ORDER BY names.at, e.level, e.relid, each.at) AS statements
              FROM every e JOIN pg_catalog.pg_class c ON c.oid = e.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
              JOIN pg_catalog.pg_trigger p ON p.tgrelid = e.relid AND p.tgname = t.tgname AND p.tgfoid = t.tgfoid
              CROSS JOIN unnest(ARRAY[t.tgname::text, CASE WHEN t.tgtype & 12 <> 0 THEN t.second END]) WITH ORDINALITY AS names (name, at)
              CROSS JOIN LATERAL (
                  SELECT 1 AS at, pg_catalog.format(E'ALTER TABLE %I.%I %s TRIGGER %I;\n', n.nspname, c.relname, CASE p.tgenabled
                         WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'D' THEN 'DISABLE' ELSE 'ENABLE' END, names.name)
                         AS statement
                  WHERE e.is_set OR p.tgenabled <> 'O'
                  UNION ALL SELECT 2, pg_catalog.format(E'COMMENT ON TRIGGER %I ON %I.%I IS %L;\n', names.name, n.nspname, c.relname, d.description)
                  FROM pg_catalog.pg_description d WHERE d.objoid = p.oid AND d.classoid = 'pg_catalog.pg_trigger'::regclass
                  UNION ALL SELECT 3, pg_catalog.format(E'ALTER TRIGGER %I ON %I.%I DEPENDS ON EXTENSION %I;\n', names.name, n.nspname, c.relname,
                         x.extname)
                  FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension x ON x.oid = d.refobjid
                  WHERE d.objid = p.oid AND d.classid = 'pg_catalog.pg_trigger'::regclass AND d.deptype = 'x') AS each
              WHERE names.name IS NOT NULL) AS again
         WHERE coalesce(t.definition, '') !~* ('WHEN .*old\\.\"?' || $2::text) ORDER BY w.name, t.tgname",
        &[&found.relation.oid, &flag],
    )?;
    for row in rows {
        let [trigger, definition, table]: [String; 3] = [row.get(0), row.get(1), row.get(3)];
        let (is_for_each_row, has_condition): (bool, bool) = (row.get(4), row.get(5));
        let narrowed = row.get::<_, bool>(2).then(|| {
            narrowed(&definition, &table, &[row.get(6), row.get(7)], &quote(flag), row.get::<_, Option<&str>>(8))
        });
        let fix = narrowed.flatten().unwrap_or_else(|| {
            format!("-- make it do nothing where {} becomes TRUE. Its definition:\n-- {definition}", quote(flag))
        });
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

/// The statements that make the trigger anew for all updates but those that flag a row: an application's update sets the flag to
/// FALSE, and the trigger is meant for it. A second one keeps the events besides UPDATE.
fn narrowed(
    definition: &str,
    table: &str,
    [name, second]: &[&str; 2],
    flag: &str,
    restored: Option<&str>,
) -> Option<String> {
    let (create, rest) = definition.split_once(&format!(" TRIGGER {name} "))?;
    let (when, rest) = rest.split_once(' ')?;
    let (events, rest) = rest.split_once(&format!(" ON {table} "))?;
    let (head, call) = rest.split_once(" EXECUTE ")?;
    let (others, update) = events.split_at(events.find("UPDATE")?);
    let other = others
        .strip_suffix(" OR ")
        .map(|others| format!("{create} TRIGGER {second} {when} {others} ON {table} {head} EXECUTE {call};\n"));
    Some(format!(
        "BEGIN;\nDROP TRIGGER {name} ON {table};\n{create} TRIGGER {name} {when} {update} ON {table} {head} \
         WHEN (OLD.{flag} IS TRUE OR NEW.{flag} IS NOT TRUE) EXECUTE {call};\n{}{}COMMIT;",
        other.unwrap_or_default(),
        restored.unwrap_or_default(),
    ))
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

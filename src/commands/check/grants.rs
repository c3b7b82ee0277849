//! What the role may do, and the smallest GRANT that is missing.

use super::finding::{Findings, Severity};
use super::source::Found;
use crate::commands::init::{RUNS, own_table_statements};
use crate::config::TableConfig;
use crate::error::Result;
use crate::postgres::{Lacking, SEES_REPLICAS, Session, lacking_for, quote};

const WHAT: &str = "cannot query the role's privileges";

/// Whether the role may look into the source's schema at all.
pub fn schema(session: &mut Session, table: &TableConfig, findings: &mut Findings) -> Result<bool> {
    let row = session.query_opt(
        WHAT,
        "SELECT n.nspname::text, pg_catalog.quote_ident(current_user) FROM pg_catalog.pg_namespace n
         WHERE n.nspname = (pg_catalog.parse_ident($1))[1] AND NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE')",
        &[&table.source],
    )?;
    let Some(row) = row else { return Ok(true) };
    let (schema, role): (String, String) = (row.get(0), row.get(1));
    let object = format!("SCHEMA {}", quote(&schema));
    findings.missing_privilege("USAGE", &format!("schema {schema}"), &object, &role, "finding the table");
    Ok(false)
}

/// What the role may do with the source, the checkpoint and temporary tables.
pub fn table(session: &mut Session, found: &Found, findings: &mut Findings) -> Result<()> {
    let row = session.query_opt(
        WHAT,
        "SELECT pg_catalog.quote_ident(current_user), pg_catalog.has_table_privilege($1::oid, 'SELECT'),
                $2::text IS NULL OR pg_catalog.has_column_privilege($1::oid, $2::text, 'UPDATE'),
                pg_catalog.has_database_privilege(current_database(), 'TEMPORARY'),
                pg_catalog.quote_ident(current_database()), pg_catalog.row_security_active($1::oid)",
        &[&found.relation.oid, &found.flag],
    )?;
    let Some(row) = row else { return Ok(()) };
    let role: String = row.get(0);
    let (selects, updates, makes_temporary): (bool, bool, bool) = (row.get(1), row.get(2), row.get(3));
    let (database, is_filtered): (String, bool) = (row.get(4), row.get(5));
    let name = &found.relation.name;
    if !selects {
        findings.missing_privilege("SELECT", name, name, &role, "reading rows");
    }
    if let (false, Some(flag)) = (updates, &found.flag) {
        findings.missing_privilege(&format!("UPDATE ({})", quote(flag)), name, name, &role, "flagging rows");
    }
    if !makes_temporary {
        let (what, object) = (format!("database {database}"), format!("DATABASE {database}"));
        let needed_for = "comparing the records after the checkpoint with the table";
        findings.missing_privilege("TEMPORARY", &what, &object, &role, needed_for);
    }
    if is_filtered {
        findings.error(
            "row-level-security",
            format!("a row-level security policy of {name} applies to {role}"),
            "rows hidden by it would never be sent; a run will not start",
            format!("ALTER ROLE {role} BYPASSRLS;"),
        );
    }
    checkpoint(session, &role, findings)
}

/// What the role lacks for `where`.
pub fn condition(session: &mut Session, table: &TableConfig, findings: &mut Findings) -> Result<()> {
    let Some(condition) = &table.condition else { return Ok(()) };
    for Lacking { privilege, object, role } in lacking_for(session, condition)? {
        findings.missing_privilege(&privilege, &object, &object, &role, "`where`");
    }
    Ok(())
}

fn checkpoint(session: &mut Session, role: &str, findings: &mut Findings) -> Result<()> {
    let rows = session.query(
        WHAT,
        "SELECT c.oid::regclass::text, privilege, t.why
         FROM (VALUES ('pg2ch_checkpoint', ARRAY['SELECT', 'INSERT', 'UPDATE'], 'keeping the checkpoint'),
                      ('pg2ch_held', ARRAY['SELECT', 'INSERT', 'DELETE'], 'keeping which rows cannot be flagged yet'))
                  AS t (name, privileges, why),
              unnest(t.privileges) AS privilege, pg_catalog.pg_class c
         WHERE c.oid = pg_catalog.to_regclass(t.name) AND NOT pg_catalog.has_table_privilege(c.oid, privilege)
         ORDER BY t.name, pg_catalog.array_position(t.privileges, privilege)",
        &[],
    )?;
    for row in rows {
        let (name, privilege, why): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        findings.missing_privilege(&privilege, &name, &name, role, &why);
    }
    policies(session, &["pg2ch_checkpoint", "pg2ch_held"], findings)
}

/// Row-level security on tables of pg2ch's own: services turn it on for every table of a schema.
fn policies(session: &mut Session, tables: &[&str], findings: &mut Findings) -> Result<()> {
    let rows = session.query(
        WHAT,
        "SELECT c.relname::text, pg_catalog.format('ALTER TABLE %I.%I DISABLE ROW LEVEL SECURITY;', n.nspname, c.relname),
                pg_catalog.quote_ident(current_user)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace, pg_catalog.unnest($1) AS own (name)
         WHERE c.oid = pg_catalog.to_regclass(own.name) AND pg_catalog.row_security_active(c.oid) ORDER BY 1",
        &[&tables],
    )?;
    for row in rows {
        let (name, fix, role): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let (severity, why) = match name.as_str() {
            "pg2ch_runs" => (Severity::Note, "`pg2ch status` cannot show how the last runs ended"),
            _ => (Severity::Error, "a run will not start, because rows that it needs could be hidden"),
        };
        let what = format!("row-level security of {name} applies to {role}");
        findings.add(severity, "own-row-level-security", what, why, fix);
    }
    Ok(())
}

/// The history of runs is nothing that a run needs.
pub fn history(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let found = session.query_opt(WHAT, "SELECT 1 WHERE to_regclass('pg2ch_runs') IS NOT NULL", &[])?;
    if found.is_none() {
        findings.note(
            "runs-missing",
            "the role's search path has no table pg2ch_runs",
            "`pg2ch status` cannot show how the last runs ended",
            format!("{};", own_table_statements(RUNS)),
        );
    }
    let lacking = session.query_opt(
        WHAT,
        "SELECT string_agg(p, ', '), pg_catalog.quote_ident(current_user), c.oid::regclass::text
         FROM pg_catalog.pg_class c, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS p
         WHERE c.oid = pg_catalog.to_regclass('pg2ch_runs') AND NOT pg_catalog.has_table_privilege(c.oid, p) GROUP BY c.oid",
        &[],
    )?;
    policies(session, &["pg2ch_runs"], findings)?;
    if let Some(row) = lacking {
        let (privileges, role, name): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        findings.note(
            "runs-grant-missing",
            format!("{role} lacks {privileges} on {name}"),
            "`pg2ch status` cannot show how the last runs ended",
            format!("GRANT {privileges} ON {name} TO {role};"),
        );
    }
    Ok(())
}

/// Whether the role sees how far replicas are behind.
pub fn replication(session: &mut Session, findings: &mut Findings) -> Result<()> {
    let sql = format!(
        "SELECT pg_catalog.quote_ident(current_user) WHERE NOT pg_catalog.pg_has_role('{SEES_REPLICAS}', 'USAGE')"
    );
    if let Some(role) = session.value::<String>(WHAT, &sql, &[])? {
        findings.error(
            "grant-missing",
            format!("{role} is no member of {SEES_REPLICAS}"),
            "`max_replication_lag` is set, and a run cannot see how far replicas are behind",
            format!("GRANT {SEES_REPLICAS} TO {role};"),
        );
    }
    Ok(())
}

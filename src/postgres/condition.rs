//! What PostgreSQL knows about `where`: whether it depends on a column, what the role lacks for it, whether it is what fails.

use postgres::error::SqlState;

use super::catalogue::column_names;
use super::connect::connect;
use super::explain::{cause, may_be_a_rows_fault};
use super::session::Session;
use super::source_table::{SourceTable, quote};
use crate::error::{Error, ExitCode, Result};
use crate::ports::LegContext;

/// A privilege that the role lacks.
pub struct Lacking {
    pub privilege: String,
    /// As a GRANT calls it.
    pub object: String,
    /// Quoted.
    pub role: String,
}

impl Lacking {
    pub fn grant(&self) -> String {
        format!("GRANT {} ON {} TO {};", self.privilege, self.object, self.role)
    }
}

/// What the role lacks of what a condition names: schemas, and the functions, operators and tables in them.
pub fn lacking_for(session: &mut Session, condition: &str) -> Result<Vec<Lacking>> {
    let what = "cannot query the privileges that `where` needs";
    // Quoted names of other characters are not found.
    let sql = r"WITH words AS (SELECT word FROM regexp_split_to_table($1 || ' ' || lower($1), '[^[:alnum:]_$]+') AS word),
             named AS (SELECT oid, nspname FROM pg_namespace WHERE nspname IN (SELECT word FROM words))
         SELECT privilege, object, quote_ident(current_user) FROM (
             SELECT 1, 'USAGE', format('SCHEMA %I', nspname) FROM named WHERE NOT has_schema_privilege(oid, 'USAGE')
             UNION ALL
             SELECT 2, 'EXECUTE', 'FUNCTION ' || p.oid::regprocedure FROM pg_proc p JOIN named n ON n.oid = p.pronamespace
             WHERE p.prokind <> 'p' AND NOT has_function_privilege(p.oid, 'EXECUTE')
                 AND (p.proname IN (SELECT word FROM words)
                      OR p.oid IN (SELECT oprcode FROM pg_operator WHERE oprnamespace = n.oid AND strpos($1, oprname) > 0))
             UNION ALL
             SELECT 3, 'SELECT', format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN named n ON n.oid = c.relnamespace
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relname IN (SELECT word FROM words)
                 AND NOT has_table_privilege(c.oid, 'SELECT')) AS lacking (step, privilege, object)
         ORDER BY step, object";
    let rows = session.in_catalog(what, |session| session.query(what, sql, &[&condition]))?;
    Ok(rows.iter().map(|row| Lacking { privilege: row.get(0), object: row.get(1), role: row.get(2) }).collect())
}

/// The error, with a hint that names `where` if that may be what fails.
pub fn blaming_condition(leg: &LegContext<'_>, error: Error) -> Error {
    let (Some(condition), Some(cause)) = (&leg.table.condition, cause(&error)) else { return error };
    let name = &leg.table.source;
    if cause.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        let lacking = connect(leg.config, "grants", leg.watchdog)
            .and_then(|mut session| lacking_for(&mut session, condition))
            .unwrap_or_default();
        let grants: Vec<String> = lacking.iter().map(Lacking::grant).collect();
        let hint = format!("grant the role what `where` of [[table]] {name} needs: {}", grants.join(" "));
        return if grants.is_empty() { error } else { error.with_hint(hint) };
    }
    if error.exit_code() != ExitCode::Config || !may_be_a_rows_fault(cause) {
        return error;
    }
    let hint = format!(
        "correct `where` of [[table]] {name} if it fails on a row: NULLIF or CASE in it can spare such rows. Otherwise {}",
        error.hint()
    );
    error.with_hint(hint)
}

pub fn condition_uses(session: &mut Session, table: &SourceTable, column: &str) -> Result<bool> {
    if !table.has_condition() {
        return Ok(false);
    }
    let what = format!("cannot look at `where` of [[table]] {}", table.name);
    session.in_catalog(&what, |session| {
        let columns = column_names(session, table.oid, &table.name)?;
        let others: Vec<String> = columns.iter().filter(|other| *other != column).map(|other| quote(other)).collect();
        // Without the column, PostgreSQL understands a condition only if it does not need it. System columns it may name.
        let (columns, name, taken) = (others.join(", "), &table.name, table.taken_sql());
        let sql = format!(
            "SELECT FROM (SELECT {columns}, ctid, xmin, xmax, cmin, cmax, tableoid FROM {name}) AS t WHERE {taken}"
        );
        match session.raw(&what, |client| client.prepare(&sql)) {
            Ok(_) => Ok(false),
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => Ok(true),
            Err(error) => Err(session.explain(&what, error)),
        }
    })
}

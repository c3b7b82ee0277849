//! Whether `where` means the same with `pg_catalog` alone and with the role's search path: PostgreSQL shows both.

use postgres::SimpleQueryRow;

use super::session::Session;
use crate::error::{Error, Result};
use crate::ports::source::SourceColumn;

/// Whether a type of the columns may bring operators of its own, outside `pg_catalog`.
pub(super) fn may_have_operators(columns: &[SourceColumn]) -> bool {
    // A name outside pg_catalog has its schema. Enums and composite types have the operators of pg_catalog.
    columns.iter().any(|column| column.base_type.contains('.') && !column.is_enum && !column.is_composite)
}

/// That PostgreSQL reads `where` with `pg_catalog` alone as it does with the role's search path. There the operators of a type like
/// `citext` are found, and here those of text, to which it is cast: other rows would be sent.
pub(super) fn require_one_meaning(session: &mut Session, table: &str, condition: &str, what: &str) -> Result<()> {
    let plan = format!("EXPLAIN (VERBOSE, COSTS OFF) SELECT {condition} FROM {table} AS t WHERE FALSE");
    let both = format!(
        "SELECT pg_catalog.quote_ident(name) FROM pg_catalog.unnest(pg_catalog.current_schemas(TRUE)) AS path (name);
         {plan}; SET LOCAL search_path = pg_catalog; {plan}"
    );
    // What is not understood with the role's search path has one meaning only.
    let Ok(answers) = session.transaction_script(what, &both) else { return Ok(()) };
    let [schemas, for_role, _, here] = answers.as_slice() else { return Ok(()) };
    let schemas = lines(schemas);
    let (for_role, here) = (lines(for_role), lines(here));
    if unqualified(&for_role, &schemas) == unqualified(&here, &schemas) {
        return Ok(());
    }
    let meaning = |plan: &[String]| {
        let output = plan.iter().find_map(|line| line.trim().strip_prefix("Output: "));
        output.map_or_else(|| plan.join(" "), str::to_owned)
    };
    Err(Error::config(
        what,
        format!(
            "pg2ch looks names up in pg_catalog only: there it means {}, with the role's search path it means {}",
            meaning(&here),
            meaning(&for_role)
        ),
        "cast the column to a type of pg_catalog (`name::text = 'x'`), or name the schema of the operator (`name OPERATOR(public.=) 'x'`)",
    ))
}

fn lines(answer: &[SimpleQueryRow]) -> Vec<String> {
    answer.iter().filter_map(|row| Some(row.get(0)?.to_owned())).collect()
}

/// The plan with no schema of these before a name: they stand there where the search path does not have them.
fn unqualified(plan: &[String], schemas: &[String]) -> String {
    let text = plan.join("\n");
    let mut parts = text.split("OPERATOR(");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (operator, rest) = part.split_once(')').unwrap_or((part, ""));
        plain.push_str(operator);
        plain.push_str(rest);
    }
    schemas.iter().fold(plain, |plain, schema| plain.replace(&format!("{schema}."), ""))
}

//! `keep`: what prune would refuse at a run's end, in the words of `pg2ch prune`.

use super::finding::Findings;
use crate::clickhouse::ClickHouseTarget;
use crate::commands::prune::fit::{Warning, require_source, require_target};
use crate::config::{Keep, TableConfig};
use crate::error::{Error, ExitCode, Result};
use crate::fit::INTENDED;
use crate::ports::target::TargetDescription;
use crate::postgres::{Session, SourceTable, quote, reads_checkpoint, require_limit};

/// PostgreSQL's part: what deletes the rows, and finds them.
pub fn source(session: &mut Session, config: &TableConfig, table: &SourceTable, findings: &mut Findings) -> Result<()> {
    let Some(keep) = &config.removal.keep else { return Ok(()) };
    match require_source(session, table, &keep.by) {
        Ok((_, None)) => {}
        Ok((_, Some(Warning { id, what, why }))) => findings.warning(id, what, why, INTENDED),
        Err(error) if error.exit_code() == ExitCode::Permission => return privilege(session, table, findings),
        Err(error) => return refused(error, findings),
    }
    // That it is missing, or not to be read, is among the findings already.
    if reads_checkpoint(session, "cannot look up the checkpoint table")?
        && let Err(error) = require_limit(session, table, &config.topic, &keep.by, false)
    {
        refused(error, findings)?;
    }
    index(session, table, keep, findings)
}

/// ClickHouse's part: what proves that it holds the rows.
pub fn target(
    table: &TableConfig,
    source: &SourceTable,
    target: &mut ClickHouseTarget,
    description: &TargetDescription,
    findings: &mut Findings,
) -> Result<()> {
    let Some(keep) = &table.removal.keep else { return Ok(()) };
    match require_target(table, source, &keep.by, target, description) {
        // That it has a TTL is among the findings already.
        Ok(_) => Ok(()),
        Err(error) => refused(error, findings),
    }
}

fn refused(error: Error, findings: &mut Findings) -> Result<()> {
    if error.exit_code() != ExitCode::Config {
        return Err(error);
    }
    let what = format!("`keep`: {}: {}", error.what(), error.why());
    let why = "a run reports it after both legs, and ends with 78";
    findings.error("keep-refused", what, why, error.hint());
    Ok(())
}

fn privilege(session: &mut Session, table: &SourceTable, findings: &mut Findings) -> Result<()> {
    let sql = "SELECT pg_catalog.quote_ident(current_user)";
    if let Some(role) = session.value::<String>("cannot query the role's privileges", sql, &[])? {
        let name = &table.name;
        findings.missing_privilege("DELETE", name, name, &role, "`keep`");
    }
    Ok(())
}

/// Without an index every page reads and sorts the table.
fn index(session: &mut Session, table: &SourceTable, keep: &Keep, findings: &mut Findings) -> Result<()> {
    let sql = "SELECT 1 FROM pg_catalog.pg_index AS i
         JOIN pg_catalog.pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
         WHERE i.indrelid = $1 AND i.indisvalid AND a.attname = $2";
    if session.query_opt("cannot look up the indexes", sql, &[&table.oid, &keep.by])?.is_some() {
        return Ok(());
    }
    let key = table.key.iter().map(|column| &column.name);
    let columns: Vec<String> = std::iter::once(&keep.by).chain(key).map(|column| quote(column)).collect();
    let how = if table.is_partitioned { "" } else { "CONCURRENTLY " };
    findings.warning(
        "keep-index",
        format!("{} has no index on {}", table.name, keep.by),
        "`keep` reads and sorts the whole table for each page of 1,000 rows",
        format!("CREATE INDEX {how}ON {} ({});", table.name, columns.join(", ")),
    );
    Ok(())
}

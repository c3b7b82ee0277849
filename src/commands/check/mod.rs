//! `pg2ch check`: asks all three servers, with the run's own settings, what would go wrong. It changes nothing.

mod clickhouse;
mod clock;
mod distributed;
mod finding;
mod grants;
mod kafka;
mod postgres;
mod source;
mod storage;

pub use finding::{Finding, Server, Severity, TableFindings};

use super::watched;
use crate::config::{Config, TableConfig};
use crate::error::{ExitCode, Result};
use crate::outcome::backlog::Backlog;
use crate::ports::source::SourceColumn;
use crate::threads::watchdog::Watchdog;

/// What the source has, as far as the target has to fit it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Every column but the flag.
    pub columns: Vec<SourceColumn>,
    /// The table.
    pub table: crate::postgres::SourceTable,
    /// Its comment.
    pub comment: Option<String>,
}

/// Checks every table; the text to print, and the exit code.
///
/// # Errors
/// 69 if a server accepts connections but does not answer.
pub fn run(config: &Config, json: bool) -> Result<(String, ExitCode)> {
    let mut tables = Vec::new();
    for table in &config.tables {
        let (config, table) = (config.clone(), table.clone());
        tables.push(watched(move |watchdog| Ok(check(&config, &table, watchdog)))?);
    }
    let code = tables.iter().map(TableFindings::exit_code).fold(ExitCode::Done, ExitCode::graver);
    let text = if json { finding::as_json(&tables, code) } else { finding::as_text(&tables) };
    Ok((text, code))
}

/// One server that cannot be asked does not hide what the others have to say.
fn check(config: &Config, table: &TableConfig, watchdog: &Watchdog) -> TableFindings {
    let mut found = TableFindings {
        source: table.source.clone(),
        topic: table.topic.clone(),
        target: table.target.to_string(),
        ..TableFindings::default()
    };
    let mut source = None;
    match postgres::check(config, table, watchdog) {
        Ok(checked) => {
            found.versions.push(("PostgreSQL", checked.version));
            found.findings.extend(checked.findings);
            source = checked.source;
        }
        Err(error) => found.failures.push(error),
    }
    match kafka::check(config, table) {
        Ok(findings) => found.findings.extend(findings),
        Err(error) => found.failures.push(error),
    }
    match clickhouse::check(config, table, source.as_ref()) {
        Ok((version, findings)) => {
            found.versions.push(("ClickHouse", version));
            found.findings.extend(findings);
        }
        Err(error) => found.failures.push(error),
    }
    found.findings.sort_by_key(|finding| finding.severity);
    // What it cannot tell is among the findings already.
    found.backlog = Backlog::ask(config, table, watchdog).0;
    found
}

//! What a run has left behind: rows that are unsent, records that are not copied.
//!
//! A run that came to its end knows that it left nothing. Only after another one the servers are asked, for a moment: nobody
//! waits for a number.

use std::time::Duration;

use serde::Serialize;

use crate::commands::backlog::Backlog;
use crate::config::Config;
use crate::error::Error;
use crate::exit_code::ExitCode;
use crate::report::{RunReport, TableReport};
use crate::threads::beside;
use crate::watchdog::Watchdog;

/// The longest that is waited for the servers.
const LIMIT: Duration = Duration::from_secs(2);

/// What is left, as far as it is known; of a leg that did not run, nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Unsent rows; counted up to 1,000,000.
    pub unsent_rows: Option<i64>,
    /// Offsets that are not copied: so many records at most.
    pub uncopied_records: Option<i64>,
}

/// Finds out what is left of each table.
pub fn measure(config: &Config, report: &mut RunReport) {
    for table in &mut report.tables {
        // While another run works, what is left is not this one's to tell.
        if table.exit_code() != ExitCode::Locked {
            table.left = left_of(config, table);
        }
    }
}

fn left_of(config: &Config, table: &TableReport) -> Left {
    let is_sent = table.produce.as_ref().is_none_or(crate::report::ProduceReport::left_nothing);
    let known = |ran: bool, number: Option<i64>| if ran { number } else { None };
    let told = |unsent, behind| Left {
        unsent_rows: known(table.has_produced(), unsent),
        uncopied_records: known(table.has_consumed(), behind),
    };
    if table.is_complete() && is_sent {
        return told(Some(0), Some(0));
    }
    let asked = ask(config, &table.source).unwrap_or_default();
    told(asked.unsent.as_ref().map(|unsent| unsent.rows), asked.behind())
}

fn ask(config: &Config, source: &str) -> Option<Backlog> {
    let table = config.tables.iter().find(|table| table.source == source)?.clone();
    let mut config = config.clone();
    config.timeouts.connect = config.timeouts.connect.min(LIMIT / 3);
    config.timeouts.kafka = config.timeouts.kafka.min(LIMIT / 3);
    config.timeouts.clickhouse = config.timeouts.clickhouse.min(LIMIT / 3);
    let late = || Some(Error::unavailable("cannot ask what is left", "no answer in time", "see pg2ch status"));
    beside("backlog", LIMIT, late, move || Ok(Backlog::ask(&config, &table, &Watchdog::default()).0)).ok()
}

//! `pg2ch dead-letters`: lists what the target has refused, and inserts it again.
//!
//! A letter is *pending* while the target holds neither its record, by partition, offset and timestamp, nor a newer version of its
//! row. Both commands exit
//! with 65 while a letter is pending and with 0 once none is, so that monitoring can call the list.

pub(super) mod read;
mod replay;
pub(super) mod report;
mod settled;

use std::time::Instant;

use self::read::Letters;
use self::replay::Replay;
use self::report::{State, TableLetters, as_json, as_text, id_of};
use crate::clickhouse::ClickHouseTarget;
use crate::config::Config;
use crate::error::{ExitCode, Result};
use crate::kafka::{KafkaLog, Letter};
use crate::ports::LegContext;
use crate::ports::limits::Limits;
use crate::ports::topic::{End, TopicLog};
use crate::shutdown::Shutdown;
use crate::threads::watchdog::Watchdog;

/// Lists the letters of every table, each with whether the target holds its record by now.
///
/// # Errors
/// The servers', sorted by exit code.
pub fn list(config: &Config, json: bool, limits: &Limits, shutdown: &Shutdown) -> Result<(String, ExitCode)> {
    each_table(config, json, limits, shutdown, look_through)
}

/// How many letters of a table the target does not hold.
///
/// # Errors
/// The servers', sorted by exit code.
pub fn pending(leg: &LegContext<'_>) -> Result<u64> {
    let mut report = TableLetters::of(leg.table);
    look_through(leg, &mut report)?;
    Ok(report.pending)
}

fn look_through(leg: &LegContext<'_>, report: &mut TableLetters) -> Result<()> {
    let table = leg.table;
    let mut log = KafkaLog::new(leg.config, &table.dead_letter_topic(), &table.group)?;
    let mut target = ClickHouseTarget::new(leg.config, table)?;
    let ends = log.ends(End::Stable)?;
    let mut letters = Letters::new(log, ends, &table.topic, leg)?;
    while let Some(chunk) = letters.next_chunk()? {
        let held = target.held_of(&chunk.iter().map(id_of).collect::<Vec<_>>())?;
        let lacking: Vec<&Letter> = chunk.iter().filter(|letter| !held.contains(&id_of(letter))).collect();
        let settled = settled::settled(&mut target, table, &lacking);
        for letter in &chunk {
            let id = id_of(letter);
            let state = match (held.contains(&id), settled.contains(&id)) {
                (true, _) => State::Replayed,
                (_, true) => State::Settled,
                _ => State::Pending,
            };
            report.count(letter, state);
        }
    }
    letters.tell(report);
    Ok(())
}

/// Inserts the records of all pending letters into the target, with the positions and timestamps that they had, so that
/// they never win over a newer version.
///
/// # Errors
/// 75 if a run holds a table's lock; the servers', sorted by exit code. What was inserted is recognised by the next replay.
pub fn replay(config: &Config, json: bool, limits: &Limits, shutdown: &Shutdown) -> Result<(String, ExitCode)> {
    each_table(config, json, limits, shutdown, |leg, report| match Replay::begin(leg)? {
        Some(replay) => replay.run(report),
        None => Ok(()),
    })
}

fn each_table(
    config: &Config,
    json: bool,
    limits: &Limits,
    shutdown: &Shutdown,
    mut look: impl FnMut(&LegContext<'_>, &mut TableLetters) -> Result<()>,
) -> Result<(String, ExitCode)> {
    let (watchdog, started) = (Watchdog::default(), Instant::now());
    let mut tables = Vec::new();
    for table in &config.tables {
        let mut report = TableLetters::of(table);
        let leg = LegContext { limits: *limits, started, ..LegContext::of_command(config, table, shutdown, &watchdog) };
        look(&leg, &mut report)?;
        tables.push(report);
    }
    let is_pending = tables.iter().any(|table| table.pending > 0);
    let code = if is_pending { ExitCode::Data } else { ExitCode::Done };
    Ok((if json { as_json(&tables, code) } else { as_text(&tables) }, code))
}

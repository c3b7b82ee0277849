//! `pg2ch dead-letters`: lists what the target has refused, and inserts it again.
//!
//! A letter is *pending* while the target holds neither its record, by partition, offset and timestamp, nor a newer version of its
//! row. Both commands exit
//! with 65 while a letter is pending and with 0 once none is, so that monitoring can call the list.

pub(super) mod read;
mod replay;
pub(super) mod report;
mod settled;

use self::read::Letters;
use self::replay::Replay;
use self::report::{State, TableLetters, as_json, as_text, id_of};
use super::{Command, Frame};
use crate::clickhouse::ClickHouseTarget;
use crate::config::TableConfig;
use crate::error::{ExitCode, Result};
use crate::kafka::{KafkaLog, Letter};
use crate::ports::LegContext;
use crate::ports::topic::{End, TopicLog};

/// The command that lists the letters of every table, each with whether the target holds its record by now.
pub struct List;

impl Command for List {
    type Told = TableLetters;

    fn ask(&self, frame: &Frame<'_>, table: &TableConfig) -> Result<TableLetters> {
        frame.on(table, |leg| {
            let mut report = TableLetters::of(leg.table);
            look_through(leg, &mut report)?;
            Ok(report)
        })
    }

    fn tell(&self, tables: &[TableLetters], json: bool) -> (String, ExitCode) {
        tell(tables, json)
    }
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
    let mut log = KafkaLog::new(leg.config, &table.dead_letter_topic(), &table.group, leg.watchdog)?;
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

/// The command that inserts the records of all pending letters into the target, with the positions and timestamps that they
/// had, so that they never win over a newer version. What was inserted is recognised by the next replay.
pub struct ReplayAll;

impl Command for ReplayAll {
    type Told = TableLetters;

    fn ask(&self, frame: &Frame<'_>, table: &TableConfig) -> Result<TableLetters> {
        frame.on(table, |leg| {
            let mut report = TableLetters::of(leg.table);
            if let Some(replay) = Replay::begin(leg)? {
                replay.run(&mut report)?;
            }
            Ok(report)
        })
    }

    fn tell(&self, tables: &[TableLetters], json: bool) -> (String, ExitCode) {
        tell(tables, json)
    }
}

fn tell(tables: &[TableLetters], json: bool) -> (String, ExitCode) {
    let is_pending = tables.iter().any(|table| table.pending > 0);
    let code = if is_pending { ExitCode::Data } else { ExitCode::Done };
    (if json { as_json(tables, code) } else { as_text(tables) }, code)
}

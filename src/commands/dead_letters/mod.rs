//! `pg2ch dead-letters`: lists what the target has refused, inserts it again, or dismisses it.
//!
//! A letter is *pending* while the target holds neither its record, by partition, offset and timestamp, nor a newer version of its
//! row, and it was neither replayed nor dismissed. The commands exit with 65 while a letter is pending and with 0 once none is, so
//! that monitoring can call the list.

mod alone;
mod dismiss;
pub(super) mod look;
mod replay;
pub(super) mod report;
mod settled;

pub use self::dismiss::Choice;
use self::look::Looker;
use self::replay::Replay;
use self::report::TableLetters;
use super::{Command, Frame};
use crate::config::{Config, TableConfig};
use crate::error::{Error, ExitCode, Result};
use crate::kafka::Letters;
use crate::ports::LegContext;
use crate::ports::topic::End;

/// The command that lists the letters of every table, each with whether the target holds its record by now.
pub struct List;

impl Command for List {
    type Outcome = TableLetters;

    fn run(&self, frame: &Frame<'_>, table: &TableConfig) -> Result<TableLetters> {
        frame.on(table, look_through)
    }
}

/// How many letters of a table the target does not hold.
///
/// # Errors
/// The servers', sorted by exit code.
pub fn pending(leg: &LegContext<'_>) -> Result<u64> {
    Ok(look_through(leg)?.pending)
}

fn look_through(leg: &LegContext<'_>) -> Result<TableLetters> {
    let mut report = TableLetters::of(leg.table);
    let mut letters = Letters::of(leg, End::Stable, leg.shutdown)?;
    let mut looker = Looker::new(leg)?;
    while let Some(chunk) = letters.next_chunk()? {
        let states = looker.states(&letters, &chunk)?;
        chunk.iter().zip(states).for_each(|(letter, state)| report.count(leg.table, letter, state));
    }
    report.add(&letters);
    Ok(report)
}

/// The command that inserts the records that the target does not hold, of letters neither dropped nor replayed before. They keep
/// their positions and timestamps, so they never win over a newer version: settled letters are among them. The next replay recognises
/// what was inserted.
pub struct ReplayAll;

impl Command for ReplayAll {
    type Outcome = TableLetters;

    fn run(&self, frame: &Frame<'_>, table: &TableConfig) -> Result<TableLetters> {
        frame.on(table, |leg| {
            let mut report = TableLetters::of(leg.table);
            if let Some(replay) = Replay::begin(leg)? {
                replay.run(&mut report)?;
            }
            Ok(report)
        })
    }
}

/// The command that dismisses letters.
pub struct Dismiss(Choice);

impl Dismiss {
    /// The letters of `choice`, in the tables of `config`.
    ///
    /// # Errors
    /// 64 if several tables have the records that it names.
    pub fn new(choice: Choice, config: &Config) -> Result<Self> {
        if choice.records.is_empty() || config.tables.len() == 1 {
            return Ok(Self(choice));
        }
        Err(Error::new(
            ExitCode::Usage,
            "cannot drop dead letters by partition and offset",
            "several tables are configured, and each has such records",
            "name the table: `--table NAME`",
        ))
    }
}

impl Command for Dismiss {
    type Outcome = TableLetters;

    fn run(&self, frame: &Frame<'_>, table: &TableConfig) -> Result<TableLetters> {
        let choice = self.0.clone();
        frame.on(table, move |leg| {
            let mut report = TableLetters::of(leg.table);
            dismiss::dismiss(leg, &choice, &mut report)?;
            Ok(report)
        })
    }
}

//! `pg2ch dead-letters`: lists what the target has refused, inserts it again, or dismisses it.
//!
//! A letter is *pending* while the target holds neither its record, by partition, offset and timestamp, nor a newer version of its
//! row, and it was neither replayed nor dismissed. The commands exit with 65 while a letter is pending and with 0 once none is, so
//! that monitoring can call the list.

mod alone;
mod dismiss;
mod look;
mod older;
mod replay;
pub(super) mod report;

pub use self::dismiss::{Choice, Named, dismiss};
use self::look::Looker;
use self::replay::Replay;
use self::report::TableLetters;
use crate::error::Result;
use crate::kafka::Letters;
use crate::ports::LegContext;
use crate::ports::topic::End;

/// How many letters of a table the target does not hold.
pub(super) fn pending(leg: &LegContext<'_>) -> Result<u64> {
    Ok(list(leg)?.pending)
}

/// Lists the letters of a table, each with whether the target holds its record by now.
///
/// # Errors
/// The servers'.
pub fn list(leg: &LegContext<'_>) -> Result<TableLetters> {
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

/// Inserts the records that the target does not hold, of letters neither dropped nor replayed before. They keep their positions and
/// timestamps, so they never win over a newer version: settled letters are among them. The next replay recognises what was
/// inserted.
///
/// # Errors
/// 75 if a run holds the lock; the servers'.
pub fn replay(leg: &LegContext<'_>) -> Result<TableLetters> {
    let mut report = TableLetters::of(leg.table);
    if let Some(replay) = Replay::begin(leg)? {
        replay.run(&mut report)?;
    }
    Ok(report)
}

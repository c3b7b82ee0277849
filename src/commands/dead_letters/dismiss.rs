//! Dismisses letters whose records are not wanted in the target.
//!
//! Nothing is deleted. A note in the dead-letter topic says so, written with the table's lock held and consume runs fenced off.

use std::collections::BTreeSet;

use super::alone::Alone;
use super::look::Looker;
use super::report::{State, TableLetters};
use crate::config::Config;
use crate::data::Fate;
use crate::error::{Error, ExitCode, Result};
use crate::kafka::{Letter, Letters};
use crate::ports::LegContext;
use crate::ports::topic::End;

/// What is to be dismissed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The records' partitions and offsets; none for every pending letter.
    pub records: Vec<(i32, i64)>,
    /// Whether it is done, and not only shown.
    pub confirm: bool,
}

impl Choice {
    /// That it says which table it means.
    ///
    /// # Errors
    /// 64 if several tables have the records that it names.
    pub fn require_one_table(&self, config: &Config) -> Result<()> {
        if self.records.is_empty() || config.tables.len() == 1 {
            return Ok(());
        }
        Err(Error::new(
            ExitCode::Usage,
            "cannot drop dead letters by partition and offset",
            "several tables are configured, and each has such records",
            "name the table: `--table NAME`",
        ))
    }
}

/// Dismisses one table's chosen letters that are pending, or shows them.
///
/// # Errors
/// 75 if a run holds the lock; the servers'.
pub fn dismiss(leg: &LegContext<'_>, choice: &Choice) -> Result<TableLetters> {
    let mut report = TableLetters::of(leg.table);
    let (mut alone, mut letters) = if choice.confirm {
        let Some(alone) = Alone::take(leg)? else { return Ok(report) };
        let letters = alone.letters(leg)?;
        (Some(alone), letters)
    } else {
        (None, Letters::of(leg, End::Stable, leg.shutdown)?)
    };
    let mut unmet: BTreeSet<(i32, i64)> = choice.records.iter().copied().collect();
    let mut looker = Looker::new(leg)?;
    while let Some(chunk) = letters.next_chunk()? {
        let states = looker.states(&letters, &chunk)?;
        let mut dismissed: Vec<&Letter> = Vec::new();
        for (letter, state) in chunk.iter().zip(states) {
            let id = letter.id();
            let place = (id.partition, id.offset);
            if state != State::Pending || !(choice.records.is_empty() || choice.records.contains(&place)) {
                report.count(leg.table, letter, state);
                continue;
            }
            unmet.remove(&place);
            report.to_drop += u64::from(alone.is_none());
            report.count(leg.table, letter, if alone.is_some() { State::Dropped } else { State::Pending });
            dismissed.push(letter);
        }
        if let Some(alone) = &mut alone {
            alone.note(&dismissed, Fate::Dropped)?;
        }
    }
    report.add(&letters);
    if report.complete {
        for (partition, offset) in unmet {
            log::warn!("partition {partition} offset {offset} is not a pending dead letter");
        }
    }
    Ok(report)
}

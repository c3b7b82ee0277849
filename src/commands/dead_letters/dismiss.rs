//! Dismisses letters whose records are not wanted in the target.
//!
//! Nothing is deleted. A note in the dead-letter topic says so, written with the table's lock held and consume runs fenced off.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::alone::Alone;
use super::look::Looker;
use super::report::{State, TableLetters, time};
use crate::config::Config;
use crate::data::Fate;
use crate::error::{Error, ExitCode, Result};
use crate::kafka::{Letter, Letters};
use crate::ports::LegContext;
use crate::ports::topic::End;

/// A record as the list shows it, with its place and its time: a topic that was recreated has other records in the same places.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its time; any, if left out.
    pub time: Option<String>,
}

impl Named {
    fn is(&self, letter: &Letter) -> bool {
        let record = &letter.record;
        (self.partition, self.offset) == (record.partition, record.offset)
            && self.time.as_ref().is_none_or(|named| *named == time(record.timestamp_ms))
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, offset, time } = self;
        write!(f, "partition {partition} offset {offset}")?;
        time.iter().try_for_each(|time| write!(f, " of {time}"))
    }
}

/// What is to be dismissed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The records; none for every pending letter.
    pub records: Vec<Named>,
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
    let mut met: BTreeMap<&Named, BTreeSet<String>> =
        choice.records.iter().map(|named| (named, BTreeSet::new())).collect();
    let mut looker = Looker::new(leg)?;
    while let Some(chunk) = letters.next_chunk()? {
        let states = looker.states(&letters, &chunk)?;
        let mut dismissed: Vec<&Letter> = Vec::new();
        for (letter, state) in chunk.iter().zip(states) {
            let mut is_chosen = choice.records.is_empty();
            for (_, times) in met.iter_mut().filter(|(named, _)| state == State::Pending && named.is(letter)) {
                times.insert(time(letter.record.timestamp_ms));
                is_chosen = true;
            }
            if state != State::Pending || !is_chosen {
                report.count(leg.table, letter, state);
                continue;
            }
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
        for (named, times) in met {
            if times.is_empty() {
                log::warn!("{named} is not a pending dead letter");
            } else if times.len() > 1 {
                let Named { partition, offset, .. } = named;
                let each: Vec<String> = times.iter().map(|time| format!("{partition}:{offset}@{time}")).collect();
                log::warn!(
                    "{named} means {} records, as the topic was recreated, or Kafka was restored from an older copy: {} would mean one each",
                    each.len(),
                    each.join(" and ")
                );
            }
        }
    }
    Ok(report)
}

//! The source's columns against the target's: what differs, what that means for a run, and the statement that fixes it.
//!
//! `check` shows the differences, `init` makes the additive changes and prints the others, and a run copies nothing where one
//! of them would lose values.

pub mod alteration;
pub mod conversion;
pub mod deletes;
mod differences;
mod exact;
pub mod map;
pub mod storage;
pub mod types;

pub use alteration::Remedy;
pub use differences::{Difference, Effect, INTENDED, POSITION, differences, is_refused_view, nested_arrays, taken};
pub use exact::{are_integers, is_exact};

use crate::clickhouse::column_type::Column;
use crate::config::TableConfig;
use crate::error::{Error, Result};
use crate::ports::source::SourceColumn;
use crate::ports::target::TargetDescription;

/// Refuses a run whose target would lose values or rows of the source; `source` is empty where it is not known.
///
/// # Errors
/// 78 with the first thing that does not fit.
pub fn require_fit(table: &TableConfig, source: &[SourceColumn], target: &TargetDescription) -> Result<()> {
    let mut found = differences(table, (!source.is_empty()).then_some(source), target);
    let sent: Vec<&str> = source.iter().map(|column| column.name.as_str()).collect();
    found.extend(storage::misfits(table, &sent, target));
    for weaker in found.iter().filter(|difference| difference.effect == Effect::Weaker) {
        log::info!("{}: {}", weaker.what, weaker.why);
    }
    match found.into_iter().find(|difference| difference.effect == Effect::Stops) {
        None => Ok(()),
        Some(difference) => Err(Error::config(
            format!("cannot use {} as the target", table.target),
            format!("{}: {}", difference.what, difference.why),
            hint_of(&difference),
        )),
    }
}

/// What to do about it: a statement, where one is enough.
fn hint_of(difference: &Difference) -> String {
    if let Some(hint) = difference.hint {
        return hint.to_owned();
    }
    let fix = difference.fix.trim_end_matches(';');
    let what = match difference.remedy {
        Remedy::Addition => "run `pg2ch init`, which adds what the target lacks",
        Remedy::NewColumn => "run `pg2ch check`: it prints the statements that recreate the table with its rows",
        _ if fix.contains('\n') || fix.contains(';') => "run `pg2ch check`: it prints the fix and every other mismatch",
        _ => return fix.trim_start_matches("-- ").to_owned(),
    };
    format!("{what}. Meanwhile the records stay in the topic")
}

/// A column that takes its values elsewhere than it did: it is gone, was renamed, or is of another kind. An INSERT that was
/// executing meanwhile stored none there.
#[must_use]
pub fn takes_values_elsewhere(before: &[Column], now: &[Column]) -> Option<String> {
    before.iter().find_map(|column| match now.iter().find(|other| other.name == column.name) {
        None => Some(format!("it no longer has the column {}", column.name)),
        Some(other) if other.default_kind != column.default_kind => {
            Some(format!("its column {} has changed its kind", column.name))
        }
        Some(_) => None,
    })
}

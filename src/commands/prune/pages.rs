//! Which rows are deleted: page by page, what the target provably holds.
//!
//! The order of the questions counts. The rows are read first, then the topic to an end that is taken after that, then the
//! target: so no newer or older version of a row is under way that could replace what the target shows.

use std::time::{Duration, Instant};

use super::Options;
use super::report::{Kept, TableReport};
use crate::commands::is_to_end;
use crate::error::Result;
use crate::mutant;
use crate::ports::LegContext;
use crate::ports::prune::{OldRows, Shown, Waits};

/// How many rows are looked at, and deleted, at once.
pub const PAGE: usize = 1_000;

/// Deletes, or counts, until every old row was looked at or the run is to end.
///
/// # Errors
/// 78 if a trigger or rule keeps rows; any error of a server.
pub fn prune_pages(
    leg: &LegContext<'_>,
    options: &Options,
    rows: &mut impl OldRows,
    report: &mut TableReport,
) -> Result<()> {
    loop {
        let room = room(leg, report);
        if room == 0 || is_to_end(leg) {
            report.complete = false;
            return Ok(());
        }
        let begun = Instant::now();
        let page = rows.page(room)?;
        if page.is_empty() {
            return Ok(());
        }
        // After the rows: what was sent of one of them before it was read is there.
        rows.read_topic()?;
        let shown = rows.shown(&page)?;
        let mut provable = Vec::new();
        for (row, shown) in page.iter().zip(shown) {
            report.rows += 1;
            match in_the_way(rows.waits(row, shown), shown, options.held_for, &mut report.kept) {
                Some(count) => *count += 1,
                None => provable.push(row),
            }
        }
        report.deletable += provable.len() as u64;
        if !options.confirm {
            rows.pass_over(&provable);
            continue;
        }
        if !provable.is_empty() {
            if !mutant::is("prune: no limit is recorded") {
                rows.record_limit()?;
            }
            let deleted = rows.delete(&provable)?;
            report.deleted += deleted;
            report.changed += (provable.len() as u64).saturating_sub(deleted);
        }
        // Whether it is to end is asked at the next page.
        let _ = leg.shutdown.wait(begun.elapsed());
    }
}

/// What a planted fault makes of what was found.
fn planted(waits: Waits, shown: Option<Shown>) -> (Waits, Option<Shown>) {
    if matches!(waits, Waits::InTopic) {
        return if mutant::is("prune: what waits is not looked for") { (Waits::No, shown) } else { (waits, shown) };
    }
    if mutant::is("prune: a committed offset is enough") {
        return (Waits::No, Some(Shown { equals: true, for_ms: i64::MAX, place: (0, 0) }));
    }
    if mutant::is("prune: a key in the target is enough") {
        return (waits, shown.map(|shown| Shown { equals: true, ..shown }));
    }
    (waits, shown)
}

/// What keeps a row: where it is counted.
fn in_the_way(waits: Waits, shown: Option<Shown>, held_for: Duration, kept: &mut Kept) -> Option<&mut u64> {
    let (waits, shown) = planted(waits, shown);
    match waits {
        Waits::InTopic => return Some(&mut kept.in_topic),
        Waits::AsLetter => return Some(&mut kept.dead_letters),
        Waits::No => {}
    }
    let Some(shown) = shown else { return Some(&mut kept.absent) };
    if !shown.equals {
        return Some(&mut kept.different);
    }
    let held_for = i64::try_from(held_for.as_millis()).unwrap_or(i64::MAX);
    (shown.for_ms < held_for).then_some(&mut kept.too_new)
}

/// How many rows the next page may have: `--max-rows` counts those that are looked at.
fn room(leg: &LegContext<'_>, report: &TableReport) -> usize {
    let most = leg.limits.max_rows.unwrap_or(u64::MAX).saturating_sub(report.rows);
    usize::try_from(most).unwrap_or(PAGE).min(PAGE)
}

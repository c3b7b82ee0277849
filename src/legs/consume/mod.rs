//! The second leg: records → inserted batches → committed offsets.
//!
//! ```text
//! Kafka ── fetcher ──▶ preparer ──▶ inserter (and committer) ──▶ ClickHouse, Kafka
//! ```
//!
//! Fence first, so that no dead run can commit any more; finish what it had begun to insert; only then copy on. Far away
//! the next INSERT is recorded while one is sent: neither waits for the other.

mod attempt;
mod commit;
mod fetch;
mod insert;
pub mod position;
mod prepare;
mod prepared;
mod record_batch;
mod recover;
mod refused;

pub use commit::{Committer, Known};
pub use fetch::{BatchSize, Fetcher};
pub use insert::{InsertRules, Inserter, ReadAgain, Tools};
pub use prepare::{Preparer, RowFormat};
pub use prepared::Prepared;
pub use record_batch::RecordBatch;
pub use recover::Start;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::clickhouse::encode::CalendarRange;
use crate::data::{Offsets, Ranges};
use crate::error::{Error, ExitCode, Result};
use crate::fit::require_fit;
use crate::legs::pace::{Pace, SharedPace};
use crate::mutant;
use crate::ports::limits::Budget;
use crate::ports::record_types::RecordTypes;
use crate::ports::source::SourceColumn;
use crate::ports::target::{Target, TargetDescription};
use crate::ports::topic::{Fence, Of, Survey, TopicLog, read_again, wait_from};
use crate::ports::{LegContext, Servers};
use crate::report::ConsumeReport;
use crate::threads::Spares;
use position::Context;

/// Offsets are committed again after a day without: brokers forget them a week after the last commit
/// (`offsets.retention.minutes`).
const REFRESH_AFTER: u64 = 24 * 60 * 60;

/// What the first leg of the same run leaves to the second.
#[derive(Clone, Copy, Debug)]
pub struct Produced<'a> {
    /// Up to where the topic must be read at least.
    pub delivered: &'a Offsets,
    /// How many records it has sent.
    pub records: u64,
    /// The source's columns; none if this run has no first leg.
    pub columns: &'a [SourceColumn],
    /// Of which types they were in records.
    pub types: &'a RecordTypes,
}

/// How many bytes the first INSERT of a leg has: what a slow link takes in time, too, and what lets the stages work side by side
/// soon. The next ones grow to the configured size while they are quick.
const FIRST_BLOCK: usize = 1 << 20;

/// How often a leg begins again: the target may be found altered, or the producer of an earlier run fenced.
const ATTEMPTS: usize = 5;

/// Copies what the topic holds into the target, at least up to what was delivered.
///
/// What was done is counted into `report` even where the leg fails. Where the target turns out to be altered, its columns are read
/// anew, and what it lacks is encoded for them.
///
/// # Errors
/// The first failure of a stage. Whatever was inserted and not committed is recognised by the next run.
pub fn run<S: Servers>(
    leg: &LegContext<'_>,
    servers: &S,
    produced: Produced<'_>,
    report: &mut ConsumeReport,
) -> Result<()> {
    for _ in 1..ATTEMPTS {
        let mut retry = None;
        match (attempt(leg, servers, produced, report, &mut retry), retry) {
            (Err(error), Some(how)) => log::info!("{error}\n{how}"),
            (ended, _) => return ended,
        }
    }
    attempt(leg, servers, produced, report, &mut None)
}

/// How another attempt differs, if a failure calls for one.
type Retry = Option<&'static str>;

fn attempt<S: Servers>(
    leg: &LegContext<'_>,
    servers: &S,
    produced: Produced<'_>,
    report: &mut ConsumeReport,
    retry: &mut Retry,
) -> Result<()> {
    let (config, table) = (leg.config, leg.table);
    let mut log = servers.log()?;
    let mut target = servers.target()?;
    let description = target.describe()?;
    // A second leg alone knows the source's columns only where there is something to copy: the encoder refuses what does not fit.
    require_fit(table, produced.columns, &description)?;
    let context = Context { group: &table.group, topic: &table.topic, target: &description.identity };

    let mut behind = produced.records;
    // Where something was delivered there is something to copy.
    if produced.delivered.is_empty() {
        let survey = log.kept_survey().map_or_else(|| log.survey(Of::Before), Ok)?;
        let Survey { starts, stable, written, committed } = survey;
        let ends = wait_from(&mut log, stable, produced.delivered, config.timeouts.stable, leg.shutdown)?;
        report.complete = is_all(&written, &ends);
        let mut start = Start::of(&committed, &starts, &ends, context);
        if start.is_done(&ends) && now() < start.oldest_commit() + REFRESH_AFTER {
            start.check_log(&mut log, &starts, config.timeouts.kafka)?;
            if !start.has_foreign_offsets() {
                servers.keep_log(log);
                return Ok(());
            }
        }
        behind = start.behind(&ends);
    }

    log.expect(behind);
    servers.expect_records(&log);
    let fenced = || {
        let mut fence = servers.fence(&log)?;
        fence.fence().map(|()| fence)
    };
    let (calendar, mut fence) = servers.both("calendar", || Ok(target.calendar()), fenced)?;
    let mut survey_now = |log: &mut S::Log, kept: Option<Survey>| -> Result<_> {
        let Survey { starts, stable, written, committed } = kept.map_or_else(|| log.survey(Of::Now), Ok)?;
        let ends = wait_from(log, stable, produced.delivered, config.timeouts.stable, leg.shutdown)?;
        report.complete = is_all(&written, &ends);
        let start = Start::of(&committed, &starts, &ends, context);
        Ok((starts, ends, committed, start))
    };
    // Only now can no other run move the offsets; one that has moved them may have seen later ends. If a producer of an earlier run
    // is no longer the last one, it cannot even record its first INSERT.
    let kept = log.kept_survey().filter(|_| fence.is_kept());
    let (mut starts, mut ends, mut committed, mut start) = survey_now(&mut log, kept)?;
    if fence.is_kept() && start.is_unclear() {
        // What others have begun is finished only by a run that has fenced them.
        fence = servers.fence(&log)?;
        fence.fence()?;
        (starts, ends, committed, start) = survey_now(&mut log, None)?;
    }
    if start.has_foreign_offsets() {
        // A later run may have sent, and moved the offsets, between the answers. Its recorded INSERT must not be finished with fewer
        // rows under its token: only ends that are asked for now show that the log is another one.
        Survey { starts, stable: ends, .. } = log.survey(Of::Nobody)?;
        start = Start::of(&committed, &starts, &ends, context);
    }
    if produced.columns.is_empty() {
        // What is written to the topic from now on lies behind these ends.
        servers.expect_types();
    }
    let unsent = start.unsent(&ends);
    let checked = || {
        let mut check = |log: &mut S::Log| start.check_log(log, &starts, config.timeouts.kafka);
        if config.kafka.transactional && !produced.delivered.is_empty() {
            log.written_beside(check)
        } else {
            check(&mut log).map(|()| (Offsets::new(), ()))
        }
    };
    let (beyond, (written, ())) = servers.both("beyond", || target.holds_from(&unsent), checked)?;
    start.distrust(&beyond, &ends);
    start.begin_again(&starts, &ends, report);
    start.skip_lost(&starts, report);
    start.log_untrusted();
    require_proof(leg, &start, &description)?;
    let trimmed = start.trimmed();
    if !trimmed.is_empty() {
        start.report_trimmed(&trimmed, &target.highest()?, report);
    }
    if start.must_query() {
        wait_for_inserts(&mut target, leg)?;
    }
    let types = if produced.columns.is_empty() { &servers.record_types()? } else { produced.types };
    let delivered = if start.begins_again { &Offsets::new() } else { produced.delivered };
    let read_to = before_markers(&ends, &written, delivered);
    copy(leg, servers, log, target, calendar, &description, types, fence, start, (&read_to, &ends), report, retry)
}

/// Whether everything that was written can be read: no transaction of anybody else hides a part of it.
fn is_all(written: &Offsets, ends: &Offsets) -> bool {
    written.iter().all(|(partition, end)| ends.get(partition).is_some_and(|stable| stable >= end))
}

/// Up to where partitions have to be read: not up to the marker of this run's last transaction, where nothing but it is left. A stable
/// end after a record of that transaction shows that its marker was written. If all that was `written` by then ends with the offset
/// after the record, that is the marker. [A stable end alone does not show it: somebody else's record, followed by the first one
/// of an open transaction, may lie before the marker.]
fn before_markers(ends: &Offsets, written: &Offsets, delivered: &Offsets) -> Offsets {
    let read_to = |(&partition, &end): (&i32, &i64)| {
        let is_behind = delivered.get(&partition).is_some_and(|next| next + 1 == end);
        let ends_there = written.get(&partition) == Some(&end) || mutant::is("an end behind a record is its marker");
        (partition, if is_behind && ends_there { end - 1 } else { end })
    };
    ends.iter().map(read_to).collect()
}

#[allow(clippy::too_many_arguments)] // each is a different thing, made once above
fn copy<S: Servers>(
    leg: &LegContext<'_>,
    servers: &S,
    mut log: S::Log,
    target: S::Target,
    calendar: CalendarRange,
    description: &TargetDescription,
    types: &RecordTypes,
    fence: S::Fence,
    start: Start,
    (read_to, ends): (&Offsets, &Offsets),
    report: &mut ConsumeReport,
    retry: &mut Retry,
) -> Result<()> {
    let (config, table, progress) = (leg.config, leg.table, &leg.progress);
    progress.begin_records(start.behind(ends));
    let context = Context { group: &table.group, topic: &table.topic, target: &description.identity };
    let format = RowFormat::of(&description.columns, &table.column_rules, types, calendar)?;
    let (must_query, is_kept) = (start.must_query(), fence.is_kept());
    let mut committer = Committer::new(fence, context, start.known, now);
    let rules = InsertRules {
        description: description.clone(),
        on_bad_row: table.on_bad_row,
        max_dead_letters: table.max_dead_letters,
        retry: config.retry,
    };
    let mut preparer = Preparer::new(format);
    if start.begins_again {
        committer.refresh();
    }
    let shutdown = leg.shutdown.clone();
    let (open_log, limit, mut letters_log) = (servers.more_logs(), config.timeouts.kafka, None);
    let letters = if must_query { servers.letters()? } else { HashSet::new() };
    let tools = Tools {
        letters,
        token: servers.tokens()?,
        pause: Box::new(move |pause| shutdown.wait(pause)),
        beside: servers.beside(),
        read_again: Box::new(move |refused| {
            // One client for all letters, another after a failure.
            let mut client = letters_log.take().map_or_else(&open_log, Ok)?;
            let letters = read_again(&mut client, refused, limit)?;
            letters_log = Some(client);
            Ok(letters)
        }),
    };
    let mut inserter = Inserter::new(committer, target, rules, tools);

    let ended = finish_intents(leg, &mut log, &start.intents, &mut preparer, &mut inserter).and_then(|()| {
        progress.copied(inserter.records_copied());
        let size = BatchSize { records: config.batch.insert_rows, bytes: config.batch.insert_bytes };
        let pace = SharedPace::new(Pace::new(FIRST_BLOCK, size.bytes, config.timeouts.clickhouse / 10));
        let budget = Budget::new(&leg.limits, leg.started, leg.shutdown);
        // Where a trip takes no time a third batch in memory gains nothing.
        let looks_ahead = log.is_distant();
        let from = inserter.committer().next();
        let mut fetcher = Fetcher::new(&mut log, &from, ends, size, budget, config.timeouts.kafka)?.reading_to(read_to);
        let (batches, prepared_ones) = (Spares::default(), Spares::default());
        let moved = servers.side_by_side(
            ["fetcher", "preparer", "inserter"],
            || fetcher.step_into(batches.take()),
            |batch| {
                let block = BatchSize { bytes: pace.size(), ..size };
                let ready = preparer.step(&batch, block, || prepared_ones.take())?;
                batches.give_back(batch.emptied());
                Ok(ready.into_iter().collect())
            },
            |prepared, following| {
                let mut waiting = Some(prepared);
                while let Some(prepared) = waiting {
                    let before = inserter.records_copied();
                    waiting = pace.time(prepared.bytes(), || {
                        inserter.record(&prepared)?;
                        let next = if looks_ahead { following() } else { None };
                        inserter.step(&prepared, next.as_ref()).map(|()| next)
                    })?;
                    progress.copied(inserter.records_copied() - before);
                    prepared_ones.give_back(prepared.emptied());
                }
                Ok(())
            },
        );
        report.complete &= fetcher.is_complete();
        moved?;
        if report.complete {
            inserter.committer().refresh();
        }
        inserter.finish()
    });
    inserter.add_to(report);
    report_lacking(preparer.lacking(), report);
    let is_shut_out = ended.as_ref().is_err_and(|error| error.exit_code() == ExitCode::Locked);
    if inserter.is_altered() {
        *retry = Some("its columns are read anew, and its rows encoded again");
    } else if is_kept && is_shut_out && !inserter.committer().has_committed() {
        *retry =
            Some("another run has moved the offsets since the last one of this process: this one fences in its turn");
    }
    if ended.is_ok() {
        servers.keep_log(log);
        servers.keep_fence(inserter.into_fence());
    }
    ended
}

/// What a table with a TTL does not hold may have expired. Sent again, it would reach the views behind the table twice.
fn require_proof(leg: &LegContext<'_>, start: &Start, description: &TargetDescription) -> Result<()> {
    if !start.is_untrusted() || !description.engine.deletes_by_ttl() || description.views.is_empty() {
        return Ok(());
    }
    Err(Error::config(
        format!("cannot determine which records of topic {} were copied into {}", leg.table.topic, leg.table.target),
        "the group's offsets are not pg2ch's own for this target, its TTL deletes rows, and views read it: they would get the expired rows twice",
        "run `pg2ch init --start-at-end` to copy only new records, or `--start-at-beginning` if nothing was copied yet",
    ))
}

/// Says which fields records lacked: nothing is filled in without a word.
fn report_lacking(lacking: BTreeMap<String, u64>, report: &mut ConsumeReport) {
    for (field, count) in lacking {
        log::info!("{count} records lack the field {field}: their rows have NULL, or the column's DEFAULT, there");
        *report.fields_lacking.entry(field).or_default() += count;
    }
}

/// An insert of a dead run that is still executing would land after the target was asked.
fn wait_for_inserts(target: &mut impl Target, leg: &LegContext<'_>) -> Result<()> {
    let until = Instant::now() + leg.config.timeouts.clickhouse;
    while target.is_inserting()? {
        if Instant::now() >= until || leg.shutdown.wait(Duration::from_millis(100)) {
            return Err(Error::unavailable(
                format!("cannot ask what {} holds", leg.table.target),
                "an earlier run's INSERT into it is still executing",
                "wait until it ends, or KILL QUERY the one whose query_id begins with `pg2ch`; the next run resumes here",
            ));
        }
    }
    Ok(())
}

/// Sends again, under their tokens, the INSERTs that were recorded and not confirmed.
fn finish_intents<F: Fence + Send, T: Target>(
    leg: &LegContext<'_>,
    log: &mut impl TopicLog,
    intents: &[(String, Ranges)],
    preparer: &mut Preparer,
    inserter: &mut Inserter<F, T>,
) -> Result<()> {
    if !intents.is_empty() {
        inserter.committer().require_last()?;
    }
    for (token, ranges) in intents {
        let from = ranges.iter().map(|(&partition, &(start, _))| (partition, start)).collect();
        let ends = ranges.iter().map(|(&partition, &(_, end))| (partition, end)).collect();
        // What is left of a refused INSERT before it: the offset must not pass over it.
        let next = next_before(inserter);
        read(leg, log, (&next, &from), preparer, |prepared| inserter.step(prepared, None))?;
        read(leg, log, (&from, &ends), preparer, |prepared| {
            log::info!("an insert of {} records was recorded and not confirmed; it is sent again", prepared.len());
            inserter.finish_intent(prepared, token)
        })?;
    }
    Ok(())
}

/// Where what was left before a recorded INSERT begins.
fn next_before<F: Fence + Send, T: Target>(inserter: &mut Inserter<F, T>) -> Offsets {
    if mutant::is("the offset passes over what lies before a recorded insert") {
        return Offsets::new();
    }
    inserter.committer().next()
}

/// Reads what lies between these offsets, of a recorded INSERT or before it, as one batch.
fn read(
    leg: &LegContext<'_>,
    log: &mut impl TopicLog,
    (from, ends): (&Offsets, &Offsets),
    preparer: &mut Preparer,
    mut copy: impl FnMut(&Prepared) -> Result<()>,
) -> Result<()> {
    let size = size_of_a_recorded_set();
    let budget =
        Budget::new(&crate::ports::limits::Limits::default(), leg.started, &crate::shutdown::Shutdown::default());
    let mut fetcher = Fetcher::new(log, from, ends, size, budget, leg.config.timeouts.kafka)?;
    while let Some(batch) = fetcher.step()? {
        if let Some(prepared) = preparer.step(&batch, size, Prepared::default)? {
            copy(&prepared)?;
        }
    }
    Ok(())
}

/// The recorded set was one batch, so it fits once more.
fn size_of_a_recorded_set() -> BatchSize {
    if mutant::is("a recorded insert is finished in other ranges") {
        return BatchSize { records: 1, bytes: usize::MAX };
    }
    BatchSize { records: usize::MAX, bytes: usize::MAX }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

//! Brings one INSERT to an end that is known: sends it, judges the answer, and sends it again where that is safe.
//!
//! A refusal is no proof that nothing was stored: a view behind the target sees the rows after the target does, so what is held
//! is asked first. A repetition under the token refills views whose tables remember tokens, and doubles those whose tables do
//! not; there the target is asked before anything is repeated.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use super::insert::{Ended, Inserter};
use super::prepared::{Prepared, cover};
use crate::data::{Ranges, RecordId};
use crate::error::{Error, Result};
use crate::fit::takes_values_elsewhere;
use crate::legs::retry::Backoff;
use crate::mutant;
use crate::ports::engine::Window;
use crate::ports::target::{Cause, Inserted, Refused, Target, TargetDescription};
use crate::ports::topic::Fence;
use crate::report::Lost;

/// What a refusal means.
enum Verdict {
    /// It is an end.
    Ended(Ended),
    /// The same INSERT may be repeated.
    Repeat(Error),
}

/// One INSERT under way.
struct Block<'a> {
    prepared: &'a Prepared,
    rows: &'a [usize],
    ranges: &'a Ranges,
    token: &'a str,
    body: &'a [u8],
    /// It was sent before, and may be stored.
    is_repeated: bool,
    /// An attempt had no answer at all.
    is_unanswered: bool,
}

impl Block<'_> {
    /// Whether a server that has stored something has stored these rows: a repeated INSERT may be taken for the one before.
    fn is_sent_once(&self) -> bool {
        if mutant::is("no asking after a repeat") {
            return true;
        }
        !self.is_repeated
    }
}

impl<F: Fence + Send, T: Target> Inserter<F, T> {
    /// Sends the rows under a token until the server says yes or no, or the attempts are used up. `repeats` is an INSERT of a run
    /// that died.
    pub(super) fn insert(
        &mut self,
        prepared: &Prepared,
        rows: &[usize],
        ranges: &Ranges,
        token: &str,
        repeats: bool,
    ) -> Result<Ended> {
        let body = prepared.body_of(rows);
        let mut block =
            Block { prepared, rows, ranges, token, body: &body, is_repeated: repeats, is_unanswered: repeats };
        let mut backoff = Backoff::new(&self.rules.retry);
        cover(&mut self.sent, ranges);
        loop {
            self.counts.inserts += 1;
            let (error, is_memory) = match self.send(block.body, token)? {
                Inserted::Stored if block.is_sent_once() => return Ok(Ended::Stored),
                Inserted::Stored => return Ok(Ended::Ask),
                Inserted::Unproven => {
                    self.log_unproven();
                    return Ok(Ended::Ask);
                }
                Inserted::TooLarge(error) => return self.too_large(&block, error),
                Inserted::Refused(refused) => {
                    let is_memory = refused.cause == Cause::Memory;
                    match self.refused(&block, refused)? {
                        Verdict::Ended(ended) => return Ok(ended),
                        Verdict::Repeat(error) => (error, is_memory),
                    }
                }
                Inserted::Unknown(error) => {
                    block.is_unanswered = true;
                    (error, false)
                }
            };
            block.is_repeated = true;
            let Some(pause) = backoff.after(&error) else {
                if is_memory && rows.len() > 1 {
                    return self.too_large(&block, error);
                }
                // A server that has too much to do is not asked again by the leg, either.
                return Err(if error.pause().is_some() { error.waited_out() } else { error });
            };
            log::warn!(
                "{}: {}; the same rows are sent again under the same token in {pause:.1?}",
                error.what(),
                error.why()
            );
            if (self.tools.pause)(pause) {
                return Err(error);
            }
            if block.is_unanswered && self.queries_first(rows.len()) && self.holds_any(&block)? {
                self.report_views_unknown(&block);
                return Ok(Ended::Ask);
            }
        }
    }

    /// Sends an INSERT, and records the next one meanwhile, if that is not done yet.
    ///
    /// Where that fails, how the INSERT ended is left for the next attempt to find out: a producer commits nothing more behind a
    /// transaction of which it does not know the end.
    fn send(&mut self, body: &[u8], token: &str) -> Result<Inserted> {
        let Self { committer, target, tools, upcoming, .. } = self;
        let Some(upcoming) = upcoming.as_mut().filter(|upcoming| !upcoming.is_recorded) else {
            return target.insert(body, token);
        };
        let (mut recorded, mut inserted) = (Ok(()), None);
        (tools.beside)(&mut || recorded = committer.intend(&upcoming.ranges, &upcoming.token), &mut || {
            inserted = Some(target.insert(body, token));
        })?;
        if !mutant::is("an insert is sent though it could not be recorded") {
            recorded?;
        }
        upcoming.is_recorded = true;
        inserted.unwrap_or_else(|| Err(Error::bug("cannot insert into the target", "nothing was sent")))
    }

    /// Whether the target is asked before an INSERT is repeated: a server may have forgotten its token (the window counts one entry
    /// for each target partition of anybody's INSERTs), and views whose tables remember none are doubled. Where views remember, a
    /// repetition also brings them what they lack.
    fn queries_first(&self, rows: usize) -> bool {
        let description = &self.rules.description;
        let is_forgotten = match description.engine.window() {
            Window::Tokens(window) => description.is_partitioned() && 2 * rows as u64 > window,
            Window::Never | Window::Dropped | Window::Unknown => false,
        };
        description.views.is_empty() || !description.views_remember(rows) || is_forgotten
    }

    /// Whether the target holds some of the rows, once nothing of the INSERT is executing any more.
    fn holds_any(&mut self, block: &Block<'_>) -> Result<bool> {
        let mut waits = 0;
        while self.target.is_inserting()? && waits < MOST_WAITS {
            waits += 1;
            if (self.tools.pause)(Duration::from_millis(100)) {
                break;
            }
        }
        Ok(self.count_held(block)? > 0)
    }

    fn count_held(&mut self, block: &Block<'_>) -> Result<usize> {
        let held = self.target.held(block.ranges)?;
        Ok(block.rows.iter().filter(|&&row| held.contains(&block.prepared.id(row))).count())
    }

    /// What a refusal means.
    fn refused(&mut self, block: &Block<'_>, refused: Refused) -> Result<Verdict> {
        let Refused { reason, cause, error } = refused;
        let has_views = !self.rules.description.views.is_empty();
        if cause.passes() && !has_views {
            return Ok(Verdict::Repeat(error));
        }
        if !cause.passes() {
            self.require_unaltered(&reason)?;
        }
        let held = self.count_held(block)?;
        if held == 0 {
            return match cause {
                Cause::Rows => Ok(Verdict::Ended(Ended::Refused(reason))),
                Cause::Memory | Cause::Moment => Ok(Verdict::Repeat(error)),
                Cause::Statement => Err(error),
            };
        }
        if !has_views {
            // An earlier attempt has stored them.
            return Ok(Verdict::Ended(Ended::Ask));
        }
        if block.is_unanswered && cause.passes() {
            // The rows may be the first attempt's, with the views whole: only a reply shows that.
            return Ok(Verdict::Repeat(error));
        }
        self.committer.note_refused(block.ranges);
        if let Err(error) = self.committer.flush() {
            // Whether a later run finds the note is not known.
            self.report_views(block.ranges, held, &reason);
            return Err(error);
        }
        if !(self.rules.description.views_remember(block.rows.len()) && self.refills_views(block)?) {
            self.report_views(block.ranges, held, &reason);
        }
        Ok(Verdict::Ended(Ended::Ask))
    }

    /// Sends a block again that the target holds and a view has refused; whether the views have it now.
    fn refills_views(&mut self, block: &Block<'_>) -> Result<bool> {
        for pause in Backoff::new(&self.rules.retry) {
            if (self.tools.pause)(pause) {
                break;
            }
            self.counts.inserts += 1;
            if matches!(self.target.insert(block.body, block.token)?, Inserted::Stored) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells once that the views behind the target may not have these rows just once, and counts them.
    pub(super) fn report_views(&mut self, ranges: &Ranges, rows: usize, reason: &str) {
        self.counts.rows_refused_by_views += rows as u64;
        let views = self.views_named();
        log::error!(
            "the views behind the target ({views}) may lack {rows} rows of an INSERT, or have them twice: {reason}\n\
             hint: fix the view, delete from its table what it has of these rows, and fill them in from the target with the view's \
             own SELECT over the partitions and offsets {ranges:?}"
        );
    }

    fn report_views_unknown(&mut self, block: &Block<'_>) {
        if !self.rules.description.views.is_empty() && !self.target.has_ended_well(block.token) {
            let reason = "the reply was lost, and a repetition might not be recognised as one";
            self.report_views(block.ranges, block.rows.len(), reason);
        }
    }

    fn views_named(&self) -> String {
        self.rules.description.views.iter().map(|view| view.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// An INSERT of a run that died, whose rows the target holds: whether a view refused them is known only if that run has
    /// noted it, or the server shows it.
    pub(super) fn check_views_of(
        &mut self,
        token: &str,
        prepared: &Prepared,
        part: &Range<usize>,
        held: &HashSet<RecordId>,
    ) {
        let rows = prepared.rows(part).into_iter().filter(|&row| held.contains(&prepared.id(row))).count();
        if rows == 0 || self.rules.description.views.is_empty() {
            return;
        }
        let ranges = prepared.ranges_of(part);
        if self.committer.was_refused(&ranges) {
            self.report_views(&ranges, rows, "the run that sent it died after the refusal");
        } else if !self.target.has_ended_well(token) {
            self.report_views(
                &ranges,
                rows,
                "the run that sent it died before the reply, and system.query_log does not show how it ended",
            );
        }
    }

    /// Refuses to go on if the target is not the one for which the rows were encoded.
    ///
    /// # Errors
    /// 69: the rows have to be encoded anew.
    fn require_unaltered(&mut self, reason: &str) -> Result<()> {
        if self.compare_target()? { Ok(()) } else { Err(self.altered(reason)) }
    }

    /// The same, whatever was sent since the last look.
    ///
    /// # Errors
    /// 69: the rows have to be encoded anew.
    pub(super) fn require_as_described(&mut self, reason: &str) -> Result<()> {
        if self.target.describe()? == self.rules.description { Ok(()) } else { Err(self.altered(reason)) }
    }

    fn altered(&mut self, reason: &str) -> Error {
        self.is_altered = true;
        Error::unavailable(
            "cannot insert into the target",
            format!("it was altered after its columns were read: {reason}"),
            "wait until the ALTER ends; the next run resumes here",
        )
    }

    /// Whether the target is still the one for which the rows were encoded. An INSERT that a column's end or renaming has met
    /// while it was executing went in without that column's values, and nothing else shows it.
    ///
    /// # Errors
    /// 69 if another table has taken its place; ClickHouse's.
    fn compare_target(&mut self) -> Result<bool> {
        if self.sent.is_empty() {
            return Ok(true);
        }
        let now = self.target.describe()?;
        self.compare_with(&now)
    }

    /// The same, with the target as it is `now`.
    pub(super) fn compare_with(&mut self, now: &TargetDescription) -> Result<bool> {
        let (sent, before) = (std::mem::take(&mut self.sent), &self.rules.description);
        if now == before {
            return Ok(true);
        }
        if now.identity != before.identity {
            // What was sent is in the table that had the name before.
            return Err(self.altered("another table has its name"));
        }
        if let Some(what) = takes_values_elsewhere(&before.columns, &now.columns) {
            log::error!(
                "the target was altered while this run inserted into it ({what}): rows that were inserted meanwhile may lack \
                 values: {sent:?}\nhint: compare them with `pg2ch verify --deep`, which repairs what differs"
            );
            let ranges = sent.into_iter().map(|(partition, (from, to))| Lost { partition, from, to });
            self.counts.inserted_while_altered.extend(ranges);
        }
        Ok(false)
    }

    /// The INSERT is too large to be sent whole. If an attempt may still be under way, every target partition of its set is
    /// marked under its token first, so that it finds the token used.
    fn too_large(&mut self, block: &Block<'_>, error: Error) -> Result<Ended> {
        if block.is_unanswered && block.rows.len() > 1 {
            self.disarm(block, block.rows)?;
        }
        Ok(Ended::TooLarge(error))
    }

    /// Sends the rows under the token of the whole set, in blocks as small as they have to be: a token that is used in a
    /// partition drops everything else that comes with it there.
    fn disarm(&mut self, block: &Block<'_>, rows: &[usize]) -> Result<()> {
        // Without partitions a single row uses the token up.
        let rows = if self.rules.description.is_partitioned() { rows } else { &rows[..1] };
        let body = block.prepared.body_of(rows);
        self.counts.inserts += 1;
        match self.target.insert(&body, block.token)? {
            Inserted::Stored | Inserted::Unproven => Ok(()),
            // Rows that are refused would refuse the whole set, too.
            Inserted::Refused(refused) if !refused.cause.passes() => Ok(()),
            Inserted::Refused(Refused { error, .. }) | Inserted::TooLarge(error) | Inserted::Unknown(error) => {
                if rows.len() == 1 {
                    return Err(error);
                }
                let (one, other) = rows.split_at(rows.len() / 2);
                self.disarm(block, one)?;
                self.disarm(block, other)
            }
        }
    }

    fn log_unproven(&mut self) {
        if !std::mem::replace(&mut self.has_told_unproven, true) {
            log::info!(
                "replies to INSERTs lack the id of their query (a server before 23.3, or a proxy): pg2ch queries the target after each"
            );
        }
    }
}

/// How many times a tenth of a second an INSERT whose answer was lost is waited for.
const MOST_WAITS: usize = 100;

//! Inserts batches, each row once, whatever the answers.
//!
//! Before a block is sent, its ranges and its token are recorded: far away while the block before it is sent. A token
//! names one set of rows forever: halves, and sets reduced by what the target holds, get tokens of their own. After an end
//! that is not known the same rows go again under the same token, which also disarms a request that is still in flight; then
//! the target is asked, and what is missing goes under a new token. What a dead run had recorded is asked for first, and only
//! what is missing goes under its token. Only then does the offset move.
//!
//! [`attempt`](super::attempt) brings one INSERT to its end; [`refused`](super::refused) finds the rows that are refused.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use super::commit::Committer;
use super::prepared::Prepared;
use crate::config::{OnBadRow, RetryConfig};
use crate::crash;
use crate::data::{DeadLetter, Ranges, RecordId};
use crate::error::{Error, Result};
use crate::mutant;
use crate::ports::Beside;
use crate::ports::target::{NewToken, Target, TargetDescription};
use crate::ports::topic::Fence;
use crate::report::ConsumeReport;

/// How often the target may be found to lack rows that it has confirmed.
const ROUNDS: usize = 5;

/// How many dead letters a leg logs one by one.
const MOST_TOLD: u64 = 20;

/// How an insert treats what it is given.
#[derive(Clone, Debug)]
pub struct InsertRules {
    /// The target for which the rows were encoded.
    pub description: TargetDescription,
    /// What happens to a record that is refused.
    pub on_bad_row: OnBadRow,
    /// How many may be refused before the run stops.
    pub max_dead_letters: u64,
    /// Repetitions of an INSERT whose end is not known.
    pub retry: RetryConfig,
}

/// Reads records again, as the dead letters that they are to become for these reasons.
pub type ReadAgain = Box<dyn FnMut(Vec<(RecordId, String)>) -> Result<Vec<DeadLetter>> + Send>;

/// What an inserter takes from outside, so that tests decide it.
pub struct Tools {
    /// A token that was never used before.
    pub token: NewToken,
    /// Records an INSERT while the one before it is sent.
    pub beside: Beside,
    /// Waits; `true` if the run was asked to finish meanwhile.
    pub pause: Box<dyn FnMut(Duration) -> bool + Send>,
    /// Reads records again.
    pub read_again: ReadAgain,
    /// Records that are dead letters already: another letter would only repeat it.
    pub letters: HashSet<RecordId>,
}

/// How a block's INSERT ended, repetitions included.
pub(super) enum Ended {
    /// Stored, and proven by the first answer.
    Stored,
    /// The target must be asked what it holds.
    Ask,
    /// Refused, with nothing stored, for what may be a row's fault; the reason.
    Refused(String),
    /// Too large, with nothing stored that asking does not show.
    TooLarge(Error),
}

/// The token under which a set is recorded.
pub(super) struct Recorded {
    pub(super) token: String,
    /// Whether it may have been sent under it.
    pub(super) is_sent: bool,
}

/// The INSERT after the one that is sent: it is recorded meanwhile.
pub(super) struct Upcoming {
    pub(super) ranges: Ranges,
    pub(super) token: String,
    pub(super) is_recorded: bool,
}

/// The last stage of the consume leg.
pub struct Inserter<F, T> {
    pub(super) committer: Committer<F>,
    pub(super) target: T,
    pub(super) rules: InsertRules,
    pub(super) tools: Tools,
    pub(super) counts: ConsumeReport,
    /// The target is not the one for which the rows were encoded.
    pub(super) is_altered: bool,
    /// What was sent since the target was last found to be as described.
    pub(super) sent: Ranges,
    /// The batch that is recorded and not yet sent, and its token.
    recorded: Option<(Ranges, String)>,
    pub(super) upcoming: Option<Upcoming>,
    /// Whether it was said that the answers prove nothing.
    pub(super) has_told_unproven: bool,
}

impl<F: Fence + Send, T: Target> Inserter<F, T> {
    /// Makes the stage.
    pub fn new(committer: Committer<F>, target: T, rules: InsertRules, tools: Tools) -> Self {
        Self {
            committer,
            target,
            rules,
            tools,
            counts: ConsumeReport::default(),
            is_altered: false,
            sent: Ranges::new(),
            recorded: None,
            upcoming: None,
            has_told_unproven: false,
        }
    }

    /// Records the INSERT of a batch that goes whole, unless that was done while the one before it was sent. The next batch may
    /// arrive meanwhile.
    ///
    /// # Errors
    /// Kafka's.
    pub fn record(&mut self, prepared: &Prepared) -> Result<()> {
        if self.recorded.is_none() && self.goes_whole(prepared) {
            let token = self.record_part(prepared, &(0..prepared.len()), &prepared.ranges)?;
            self.recorded = Some((prepared.ranges.clone(), token));
        }
        Ok(())
    }

    /// Inserts a batch and notes its offsets; they are committed with a later batch's intent, or by
    /// [`finish`](Self::finish). The `next` one, if it is there already and goes whole, is recorded meanwhile. A run that dies leaves
    /// both open, and the later one was not sent.
    ///
    /// # Errors
    /// 65 if a bad record stops the run; ClickHouse's and Kafka's.
    pub fn step(&mut self, prepared: &Prepared, next: Option<&Prepared>) -> Result<()> {
        let recorded = self.recorded.take().filter(|(ranges, _)| *ranges == prepared.ranges);
        let recorded = recorded.map(|(_, token)| Recorded { token, is_sent: false });
        self.upcoming = next.filter(|next| self.goes_whole(next)).map(|next| Upcoming {
            ranges: next.ranges.clone(),
            token: (self.tools.token)(),
            is_recorded: false,
        });
        let copied = self.copy_parts(prepared, prepared.parts(), recorded);
        let upcoming = self.upcoming.take().filter(|upcoming| upcoming.is_recorded);
        self.recorded = upcoming.map(|Upcoming { ranges, token, .. }| (ranges, token));
        copied
    }

    /// Whether a batch goes in one INSERT, as far as is known before, and nothing has to be asked for it.
    fn goes_whole(&self, prepared: &Prepared) -> bool {
        !prepared.is_empty() && prepared.fits_one_insert() && self.committer.to_query(&prepared.ranges).is_empty()
    }

    /// Finishes an INSERT that a dead run had recorded: `prepared` are the records of its ranges.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn finish_intent(&mut self, prepared: &Prepared, token: &str) -> Result<()> {
        let parts = prepared.parts();
        if parts.len() > 1 {
            // The table was altered since. Only the first part goes under the token; the others are asked for, too.
            self.committer.distrust(&prepared.ranges);
        }
        self.copy_parts(prepared, parts, Some(Recorded { token: token.to_owned(), is_sent: true }))
    }

    /// Deals with the parts of a batch in order, the first of them as `recorded`.
    fn copy_parts(
        &mut self,
        prepared: &Prepared,
        parts: Vec<Range<usize>>,
        mut recorded: Option<Recorded>,
    ) -> Result<()> {
        parts.into_iter().try_for_each(|part| self.copy(prepared, part, recorded.take()))
    }

    /// Commits what was inserted last.
    ///
    /// # Errors
    /// Kafka's.
    pub fn finish(&mut self) -> Result<()> {
        crash::point("consume.finish.before");
        if self.sent.is_empty() {
            self.committer.flush()?;
        } else {
            // Offsets are committed all the same: the rows are stored, and the run reports what they lack. If another table has
            // the name now, they say nothing of it.
            let Self { committer, target, tools, .. } = self;
            let (mut committed, mut described) = (Ok(()), None);
            (tools.beside)(&mut || committed = committer.flush(), &mut || described = Some(target.describe()))?;
            committed?;
            if let Some(described) = described {
                self.compare_with(&described?)?;
            }
        }
        crash::point("consume.finish.after");
        Ok(())
    }

    /// The offsets as this run has moved them.
    pub const fn committer(&mut self) -> &mut Committer<F> {
        &mut self.committer
    }

    /// The producer, for the next run.
    pub fn into_fence(self) -> F {
        self.committer.into_fence()
    }

    /// Adds what was done to the report.
    pub fn add_to(&self, report: &mut ConsumeReport) {
        let more = self.counts.dead_letters.saturating_sub(MOST_TOLD);
        if more > 0 {
            log::warn!(
                "{more} more records went to the dead letters; `pg2ch dead-letters` lists them with their reasons"
            );
        }
        report.add(&self.counts);
    }

    /// How many records it has dealt with.
    pub const fn records_copied(&self) -> u64 {
        self.counts.records_copied
    }

    /// Whether the target was found altered: its rows have to be encoded anew.
    pub const fn is_altered(&self) -> bool {
        self.is_altered
    }

    /// Deals with the records `part`; `recorded` is the token of an open intent for just these ranges.
    ///
    /// What the target may hold is asked for first, and left alone: a row is neither inserted nor refused twice. That goes
    /// for an INSERT of a dead run, too: its set may have been reduced by what was held then. If it is still in flight, what is
    /// missing goes under its token, so only one of the two is stored.
    fn copy(&mut self, prepared: &Prepared, part: Range<usize>, recorded: Option<Recorded>) -> Result<()> {
        let ranges = prepared.ranges_of(&part);
        let to_query = self.to_query(&ranges, recorded.as_ref().is_some_and(|recorded| recorded.is_sent));
        let held = if to_query.is_empty() { HashSet::new() } else { self.target.held(&to_query)? };
        if let Some(Recorded { token, is_sent: true }) = &recorded {
            self.check_views_of(token, prepared, &part, &held);
        }
        let is_known = |id: &RecordId| held.contains(id) || self.tools.letters.contains(id);
        let (mut refused, mut stop) = (Vec::new(), None);
        for (index, reason) in prepared.refused(&part).filter(|(index, _)| !is_known(&prepared.id(*index))) {
            let id = prepared.id(index);
            stop = self.limit(&id, reason, refused.len()).map(|error| (index, error));
            if stop.is_some() {
                break;
            }
            refused.push((id, reason.to_owned()));
        }
        let dead = self.letters(refused)?;
        let Some((index, error)) = stop else { return self.copy_rows(prepared, part, recorded, &held, dead) };
        if part.start < index {
            self.copy_rows(prepared, part.start..index, recorded, &held, dead)?;
        }
        self.committer.flush()?;
        Err(error)
    }

    /// The ranges of which the target may hold something.
    fn to_query(&self, ranges: &Ranges, is_sent: bool) -> Ranges {
        if is_sent && mutant::is("a recorded insert is sent again whole") {
            return Ranges::default();
        }
        if is_sent { ranges.clone() } else { self.committer.to_query(ranges) }
    }

    /// Records the INSERT of `part` under a new token.
    fn record_part(&mut self, prepared: &Prepared, part: &Range<usize>, ranges: &Ranges) -> Result<String> {
        let token = (self.tools.token)();
        if mutant::is("commit before insert") {
            self.committer.advance(ranges, &prepared.last_of(part), Vec::new());
            self.committer.flush()?;
            return Ok(token);
        }
        self.committer.intend(ranges, &token)?;
        Ok(token)
    }

    /// Brings the encoded rows of `part` into the target, but for those that are `held`; `dead` are its dead letters.
    fn copy_rows(
        &mut self,
        prepared: &Prepared,
        part: Range<usize>,
        mut recorded: Option<Recorded>,
        held: &HashSet<RecordId>,
        mut dead: Vec<DeadLetter>,
    ) -> Result<()> {
        let ranges = prepared.ranges_of(&part);
        let mut rows = prepared.rows(&part);
        self.counts.rows_held += leave_out(prepared, &mut rows, held);
        let mut was_refused = false;
        for round in 0..ROUNDS {
            if rows.is_empty() {
                return self.dealt_with(prepared, &part, &ranges, dead);
            }
            let Recorded { token, is_sent } = match recorded.take() {
                Some(recorded) => recorded,
                None => Recorded { token: self.record_part(prepared, &part, &ranges)?, is_sent: false },
            };
            match self.insert(prepared, &rows, &ranges, &token, is_sent)? {
                Ended::Stored => {
                    self.counts.rows_inserted += rows.len() as u64;
                    return self.dealt_with(prepared, &part, &ranges, dead);
                }
                Ended::Ask => {
                    self.counts.rows_inserted += self.drop_held(prepared, &mut rows, &ranges)?;
                    let has_views = !self.rules.description.views.is_empty();
                    if self.rules.description.engine.deletes_by_ttl() && (has_views || round > 0) {
                        // Its TTL deletes what has expired at once: that is no loss, and views would get it again.
                        self.counts.rows_inserted += rows.len() as u64;
                        return self.dealt_with(prepared, &part, &ranges, dead);
                    }
                    if has_views && !rows.is_empty() {
                        self.report_views(
                            &ranges,
                            rows.len(),
                            "the target confirmed them and does not hold them: they go again",
                        );
                    }
                    recorded = token_of_the_rest(token);
                }
                Ended::Refused(reason) => {
                    if let [row] = rows[..] {
                        // Altered before the INSERT, and back before it was looked at again, the target refuses a fitting row.
                        if !std::mem::replace(&mut was_refused, true) {
                            recorded = Some(Recorded { token, is_sent: true });
                            continue;
                        }
                        dead.extend(self.refused_by_server(prepared, row, reason, dead.len())?);
                        return self.dealt_with(prepared, &part, &ranges, dead);
                    }
                    let bad = self.find_bad(prepared, &rows, dead.len())?;
                    if bad.is_empty() {
                        return self.halve(prepared, &part, &ranges, &rows);
                    }
                    // What is left is another set: it is recorded anew, in the place of this one.
                    self.committer.forget_intents(&ranges);
                    rows.retain(|row| bad.iter().all(|(other, _)| other != row));
                    let bad = bad.into_iter().map(|(row, reason)| (prepared.id(row), reason));
                    dead.extend(self.letters(bad.collect())?);
                }
                Ended::TooLarge(error) => {
                    if rows.len() == 1 {
                        return Err(error);
                    }
                    return self.halve(prepared, &part, &ranges, &rows);
                }
            }
        }
        if rows.is_empty() {
            return self.dealt_with(prepared, &part, &ranges, dead);
        }
        Err(Error::unavailable(
            "cannot store a batch in the target",
            format!("it confirmed {} rows {ROUNDS} times and still does not hold them: {ranges:?}", rows.len()),
            "look for what deletes rows of the target, and at its server's log; the next run resumes here",
        ))
    }

    /// Deals with the halves of a part whose INSERT was refused, each as a part of its own. The records that its columns do
    /// not take are found again with their halves.
    fn halve(&mut self, prepared: &Prepared, part: &Range<usize>, ranges: &Ranges, rows: &[usize]) -> Result<()> {
        self.committer.forget_intents(ranges);
        self.committer.distrust(ranges);
        let middle = rows[rows.len() / 2];
        self.copy(prepared, part.start..middle, None)?;
        self.copy(prepared, middle..part.end, None)
    }

    /// Notes that `part` is done. Dead letters are committed at once, with the offsets behind them.
    fn dealt_with(
        &mut self,
        prepared: &Prepared,
        part: &Range<usize>,
        ranges: &Ranges,
        dead: Vec<DeadLetter>,
    ) -> Result<()> {
        self.counts.records_copied += part.len() as u64;
        let letters = dead.len() as u64;
        let named = MOST_TOLD.saturating_sub(self.counts.dead_letters);
        for letter in dead.iter().take(usize::try_from(named).unwrap_or(usize::MAX)) {
            log::warn!(
                "partition {} offset {} goes to the dead letters: {}",
                letter.partition,
                letter.offset,
                letter.reason
            );
        }
        self.committer.advance(ranges, &prepared.last_of(part), dead);
        if letters > 0 {
            self.committer.flush()?;
            self.counts.dead_letters += letters;
        }
        Ok(())
    }

    /// Asks the target, and leaves out the rows that it holds of `ranges`; returns how many.
    fn drop_held(&mut self, prepared: &Prepared, rows: &mut Vec<usize>, ranges: &Ranges) -> Result<u64> {
        let held = self.target.held(ranges)?;
        Ok(leave_out(prepared, rows, &held))
    }
}

/// Leaves out the rows whose records are `held`; returns how many.
fn leave_out(prepared: &Prepared, rows: &mut Vec<usize>, held: &HashSet<RecordId>) -> u64 {
    let before = rows.len();
    rows.retain(|&row| !held.contains(&prepared.id(row)));
    (before - rows.len()) as u64
}

/// The token of what is left of a set: the server would take the same one for the whole set.
fn token_of_the_rest(token: String) -> Option<Recorded> {
    mutant::is("the reduced set keeps its token").then_some(Recorded { token, is_sent: true })
}

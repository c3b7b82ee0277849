//! Inserts batches, each row once, whatever the answers.
//!
//! Before a block is sent, its ranges and its token are recorded. A token names one set of rows for ever: halves, and
//! sets reduced by what the target holds, get tokens of their own. After an end that is not known the same rows go again
//! under the same token, which also disarms a request that is still under way; then the target is asked, and what is
//! missing goes under a new token. What a dead run had recorded is asked for first, and only what is missing goes under its
//! token. Only then does the offset move.
//!
//! A target that keeps no positions cannot be asked. There a token also holds a digest of its set, so that a repetition of
//! another set (the table was altered meanwhile) gets a token of its own: such rows may double, but none is dropped.

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::commit::Committer;
use super::prepared::Prepared;
use crate::config::{OnBadRow, RetryConfig};
use crate::crash;
use crate::data::{DeadLetter, Ranges, RecordId};
use crate::error::{Error, ExitCode, Result};
use crate::legs::retry::Backoff;
use crate::mutant;
use crate::ports::target::{Block, Inserted, NewToken, Target};
use crate::ports::topic::Fence;
use crate::report::ConsumeReport;

/// How often the target may be found to lack rows that it has confirmed.
const ROUNDS: usize = 5;

/// How an insert treats what it is given.
#[derive(Clone, Debug)]
pub struct InsertRules {
    /// The format's name.
    pub format: &'static str,
    /// The columns of the INSERT.
    pub columns: Vec<String>,
    /// Settings that the format asks for.
    pub settings: &'static [(&'static str, &'static str)],
    /// What happens to a record that is refused.
    pub on_bad_row: OnBadRow,
    /// How many may be refused before the run stops.
    pub max_dead_letters: u64,
    /// Repetitions of an INSERT whose end is not known.
    pub retry: RetryConfig,
    /// Whether the target can be asked which records it holds.
    pub keeps_positions: bool,
}

/// Reads a record again, as the dead letter that it is to become for this reason.
pub type ReadAgain = Box<dyn FnMut(RecordId, &str) -> Result<DeadLetter> + Send>;

/// What an inserter takes from outside, so that tests decide it.
pub struct Tools {
    /// A token that was never used before.
    pub token: NewToken,
    /// Waits; `true` if the run was asked to finish meanwhile.
    pub pause: Box<dyn FnMut(Duration) -> bool + Send>,
    /// Reads a record again.
    pub read_again: ReadAgain,
}

/// The last stage of the consume leg.
pub struct Inserter<F, T> {
    committer: Committer<F>,
    target: T,
    rules: InsertRules,
    tools: Tools,
    counts: ConsumeReport,
}

/// How a block's INSERT ended, retries included.
enum Ended {
    /// Stored at the first attempt.
    Stored,
    /// Confirmed after an attempt whose end is not known: the target must be asked.
    Confirmed,
    /// Refused as bad data, for this reason. It may be stored nevertheless: by an earlier attempt, or because only a view
    /// behind the table refuses it.
    Refused(String),
}

impl<F: Fence, T: Target> Inserter<F, T> {
    /// Makes the stage.
    pub fn new(committer: Committer<F>, target: T, rules: InsertRules, tools: Tools) -> Self {
        Self { committer, target, rules, tools, counts: ConsumeReport::default() }
    }

    /// Inserts a batch and notes its offsets; they are committed with the next batch's intent, or by
    /// [`finish`](Self::finish).
    ///
    /// # Errors
    /// 65 if a bad record stops the run; ClickHouse's and Kafka's.
    pub fn step(&mut self, prepared: &Prepared) -> Result<()> {
        self.copy(prepared, 0..prepared.len(), None)
    }

    /// Finishes an INSERT that a dead run had recorded: `prepared` are the records of its ranges.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn finish_intent(&mut self, prepared: &Prepared, token: &str) -> Result<()> {
        self.copy(prepared, 0..prepared.len(), Some(token.to_owned()))
    }

    /// Commits what was inserted last.
    ///
    /// # Errors
    /// Kafka's.
    pub fn finish(&mut self) -> Result<()> {
        crash::point("consume.finish.before");
        self.committer.flush()?;
        crash::point("consume.finish.after");
        Ok(())
    }

    /// The offsets as this run has moved them.
    pub const fn committer(&mut self) -> &mut Committer<F> {
        &mut self.committer
    }

    /// Adds what was done to the report.
    pub fn tell(&self, report: &mut ConsumeReport) {
        report.add(&self.counts);
    }

    /// How many records it has dealt with.
    pub const fn records_copied(&self) -> u64 {
        self.counts.records_copied
    }

    /// Deals with the records `part`; `recorded` is the token of an open intent for just these ranges.
    ///
    /// What the target may hold is asked for first, and left alone: a row is neither inserted nor refused twice. That goes
    /// for a recorded INSERT, too: its set may have been reduced by what was held then. If it is still under way, what is
    /// missing goes under its token, so only one of the two is stored.
    fn copy(&mut self, prepared: &Prepared, part: Range<usize>, recorded: Option<String>) -> Result<()> {
        let ranges = prepared.ranges_of(&part);
        let to_ask = if recorded.is_some() { ranges } else { self.committer.to_ask(&ranges) };
        let asks = self.rules.keeps_positions
            && !(to_ask.is_empty() || recorded.is_some() && mutant::is("a recorded insert is sent again whole"));
        let held = if asks { self.target.held(&to_ask)? } else { HashSet::new() };
        let refused: Vec<(usize, &DeadLetter)> =
            prepared.refused(&part).filter(|(index, _)| !held.contains(&prepared.id(*index))).collect();
        if self.rules.on_bad_row == OnBadRow::Stop
            && let Some((index, letter)) = refused.first()
        {
            if part.start < *index {
                self.copy_rows(prepared, part.start..*index, recorded, &held, Vec::new())?;
            }
            self.committer.flush()?;
            return Err(stopped(&prepared.id(*index), &letter.reason));
        }
        let mut dead = Vec::new();
        for (index, letter) in refused {
            self.require_few(&prepared.id(index), &letter.reason, dead.len())?;
            dead.push(letter.clone());
        }
        self.copy_rows(prepared, part, recorded, &held, dead)
    }

    /// Brings the encoded rows of `part` into the target, but for those that are `held`; `dead` are its dead letters.
    fn copy_rows(
        &mut self,
        prepared: &Prepared,
        part: Range<usize>,
        mut token: Option<String>,
        held: &HashSet<RecordId>,
        mut dead: Vec<DeadLetter>,
    ) -> Result<()> {
        let ranges = prepared.ranges_of(&part);
        let mut rows = prepared.rows(&part);
        self.counts.rows_held += leave_out(prepared, &mut rows, held);
        for _ in 0..ROUNDS {
            if rows.is_empty() {
                return self.dealt_with(prepared, &part, &ranges, dead);
            }
            let digest = self.digest(prepared, &rows, &ranges);
            let recorded = token.take().filter(|name| self.is_of_this_set(name, digest.as_deref(), rows.len()));
            let repeats = recorded.is_some();
            let name = match recorded {
                Some(name) => name,
                None => {
                    let unique = (self.tools.token)();
                    let name = digest.map_or(unique.clone(), |digest| format!("{unique}-{digest}"));
                    self.committer.intend(&ranges, &name)?;
                    name
                }
            };
            if mutant::is("commit before insert") {
                self.committer.advance(&ranges, &prepared.last_of(&part), Vec::new());
                self.committer.flush()?;
            }
            match self.insert(prepared, &rows, &name)? {
                Ended::Stored if !repeats || mutant::is("no asking after a repeat") => {
                    self.counts.rows_inserted += rows.len() as u64;
                    return self.dealt_with(prepared, &part, &ranges, dead);
                }
                Ended::Stored | Ended::Confirmed if !self.rules.keeps_positions => {
                    self.counts.rows_inserted += rows.len() as u64;
                    return self.dealt_with(prepared, &part, &ranges, dead);
                }
                Ended::Stored | Ended::Confirmed => {
                    self.counts.rows_inserted += self.drop_held(prepared, &mut rows, &ranges)?;
                    token = mutant::is("the reduced set keeps its token").then_some(name);
                }
                Ended::Refused(reason) => {
                    let sent = rows.clone();
                    self.counts.rows_inserted += self.drop_held(prepared, &mut rows, &ranges)?;
                    if rows.len() < sent.len() {
                        let count = sent.len() - rows.len();
                        self.counts.rows_refused_by_views += count as u64;
                        log::error!(
                            "a view behind the target has refused an INSERT: the target holds its {count} rows, the view lacks \
                             them: {reason}\nhint: mend the view, and bring the rows into it from the target, by their \
                             partitions and offsets: {ranges:?}"
                        );
                    } else if let [row] = sent[..] {
                        dead.extend(self.refused_by_server(prepared, row, &reason, dead.len())?);
                        return self.dealt_with(prepared, &part, &ranges, dead);
                    } else {
                        return self.bisect(prepared, &part, &ranges, &rows);
                    }
                }
            }
        }
        if rows.is_empty() {
            return self.dealt_with(prepared, &part, &ranges, dead);
        }
        Err(Error::unavailable(
            "cannot store a batch in the target",
            format!("it confirmed {} rows {ROUNDS} times and still does not hold them: {ranges:?}", rows.len()),
            "look for what deletes rows of the target, and at its server's log; the next run goes on from here",
        ))
    }

    /// Deals with the halves of a part whose INSERT was refused, each as a part of its own.
    fn bisect(&mut self, prepared: &Prepared, part: &Range<usize>, ranges: &Ranges, rows: &[usize]) -> Result<()> {
        self.committer.forget_intents(ranges);
        if self.rules.keeps_positions {
            self.committer.distrust(ranges);
        }
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
        for letter in &dead {
            log::warn!(
                "partition {} offset {} goes to the dead letters: {}",
                letter.partition,
                letter.offset,
                letter.reason
            );
        }
        let letters = dead.len() as u64;
        self.committer.advance(ranges, &prepared.last_of(part), dead);
        if letters > 0 {
            self.committer.flush()?;
            self.counts.dead_letters += letters;
        }
        Ok(())
    }

    /// What tells the set of an INSERT from any other, where the target cannot be asked.
    fn digest(&self, prepared: &Prepared, rows: &[usize], ranges: &Ranges) -> Option<String> {
        if self.rules.keeps_positions {
            return None;
        }
        let InsertRules { format, columns, .. } = &self.rules;
        let mut digest = Sha256::new_with_prefix(format!("{ranges:?}{format}{columns:?}"));
        // By offset, and not as they lie in the body: that differs from run to run.
        rows.iter().for_each(|&row| digest.update(prepared.row(row)));
        Some(digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Whether a recorded token is for just these rows: the server would drop any others that come with it.
    fn is_of_this_set(&self, name: &str, digest: Option<&str>, rows: usize) -> bool {
        let fits = digest.is_none_or(|digest| name.ends_with(&format!("-{digest}")));
        if !fits {
            log::warn!(
                "an insert that was recorded and not confirmed has another content today: the table was altered since. Its {rows} rows \
                 go again under a new token; if the first insert was stored, they are in the target twice"
            );
        }
        fits
    }

    /// Asks the target, and leaves out the rows that it holds of `ranges`; returns how many.
    fn drop_held(&mut self, prepared: &Prepared, rows: &mut Vec<usize>, ranges: &Ranges) -> Result<u64> {
        if !self.rules.keeps_positions {
            return Ok(0);
        }
        let held = self.target.held(ranges)?;
        Ok(leave_out(prepared, rows, &held))
    }

    /// Sends the rows under a token until the server says yes or no, or the attempts are used up.
    fn insert(&mut self, prepared: &Prepared, rows: &[usize], token: &str) -> Result<Ended> {
        let body = prepared.body_of(rows);
        let mut backoff = Backoff::new(&self.rules.retry);
        let mut certain = true;
        loop {
            let InsertRules { format, columns, settings, .. } = &self.rules;
            let block = Block { format, columns, settings, body: &body };
            self.counts.inserts += 1;
            let another = (mutant::is("blind retry under a new token") && !certain).then(|| (self.tools.token)());
            match self.target.insert(block, another.as_deref().unwrap_or(token))? {
                Inserted::Stored if certain || mutant::is("no asking after a repeat") => return Ok(Ended::Stored),
                Inserted::Stored => return Ok(Ended::Confirmed),
                Inserted::Refused(reason) => return Ok(Ended::Refused(reason)),
                Inserted::Unknown(error) => {
                    certain = false;
                    let Some(pause) = backoff.next() else { return Err(error) };
                    log::warn!("{error}\nthe same rows are sent again under the same token in {pause:?}");
                    if (self.tools.pause)(pause) {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn refused_by_server(
        &mut self,
        prepared: &Prepared,
        row: usize,
        reason: &str,
        before: usize,
    ) -> Result<Option<DeadLetter>> {
        let id = prepared.id(row);
        if self.rules.on_bad_row == OnBadRow::Stop {
            self.committer.forget_intents(&prepared.ranges_of(&(row..row + 1)));
            self.committer.flush()?;
            return Err(stopped(&id, reason));
        }
        self.require_few(&id, reason, before)?;
        (self.tools.read_again)(id, reason).map(Some)
    }

    /// Stops the run in front of a record that would be one dead letter too many, with the `before` ones of the same part.
    fn require_few(&mut self, id: &RecordId, reason: &str, before: usize) -> Result<()> {
        let refused = self.counts.dead_letters + before as u64;
        if refused < self.rules.max_dead_letters {
            return Ok(());
        }
        self.committer.flush()?;
        Err(Error::new(
            ExitCode::Data,
            format!("stopped before partition {} offset {}", id.partition, id.offset),
            format!("the target has refused {refused} records in this run; the next: {reason}"),
            "this many refusals suggest that the target does not match the topic: run `pg2ch check`; `max_dead_letters` sets the limit",
        ))
    }
}

fn stopped(id: &RecordId, reason: &str) -> Error {
    Error::new(
        ExitCode::Data,
        format!("stopped before partition {} offset {}", id.partition, id.offset),
        format!("the target does not take the record: {reason}"),
        "fix the target or the data; with `on_bad_row = \"dead-letter\"` the run would go on without the record",
    )
}

/// Leaves out the rows whose records are `held`; returns how many.
fn leave_out(prepared: &Prepared, rows: &mut Vec<usize>, held: &HashSet<RecordId>) -> u64 {
    let before = rows.len();
    rows.retain(|&row| !held.contains(&prepared.id(row)));
    (before - rows.len()) as u64
}

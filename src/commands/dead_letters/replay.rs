//! Inserts the records of dead letters into the target, with the positions and timestamps that they had.
//!
//! It holds the table's lock and shuts out consume runs, so that nothing else inserts the same records meanwhile. The letters of
//! one stretch of the dead-letter topic go in one INSERT as a rule. The INSERTs of a stretch go under one sequence of tokens,
//! which follows from the stretch and the target alone; a token is left behind only once the server has answered, and what it
//! does not hold then goes under the next. So whatever a replay that died had sent, or a proxy still holds back, meets its token
//! again before anything goes under another, and the server stores only one of the two. A record that goes alone has a sequence
//! of its own. If the process dies before or after any call, the next replay asks the target and resumes.

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::alone::Alone;
use super::older::{self, Older};
use super::report::{State, TableLetters};
use crate::clickhouse::ClickHouseTarget;
use crate::crash;
use crate::data::{Fate, RecordId, RecordPosition};
use crate::error::{Error, Result};
use crate::fit::require_fit;
use crate::kafka::{Letter, Letters};
use crate::legs::consume::RowFormat;
use crate::legs::retry::Backoff;
use crate::ports::LegContext;
use crate::ports::limits::Budget;
use crate::ports::target::{Cause, Inserted, Refused, Target, TargetDescription};

/// How often the target may confirm rows and still not hold them.
const ROUNDS: u32 = 3;

/// How often the target may be found altered.
const ALTERATIONS: u32 = 5;

/// A replay of one table's letters, with everybody else shut out.
pub struct Replay<'a> {
    leg: &'a LegContext<'a>,
    letters: Letters,
    target: ClickHouseTarget,
    description: TargetDescription,
    format: RowFormat,
    alone: Alone,
    alterations: u32,
}

/// A record as a row of an INSERT.
struct Row {
    id: RecordId,
    header: Vec<u8>,
    bytes: Vec<u8>,
}

/// What became of some rows: none, or why they still do not fit.
type Outcomes = HashMap<RecordId, std::result::Result<(), String>>;

/// How an INSERT ended.
enum Ended {
    /// The server has stored it, or has known its token.
    Confirmed,
    /// It refuses some row.
    Refused(String),
    /// It, or a proxy, takes only smaller ones.
    TooLarge(Error),
    /// The rows are encoded for a table that was altered.
    Altered,
}

impl<'a> Replay<'a> {
    /// Takes the lock, fences consume runs, and finds the letters; `None` if it was asked to finish meanwhile.
    ///
    /// # Errors
    /// 75 if a run holds the lock; the servers'.
    pub fn begin(leg: &'a LegContext<'a>) -> Result<Option<Self>> {
        let Some(mut alone) = Alone::take(leg)? else { return Ok(None) };
        let mut target = ClickHouseTarget::new(leg.config, leg.table)?;
        let description = target.describe()?;
        require_fit(leg.table, &[], &description)?;
        let letters = alone.letters(leg)?;
        let format = format_of(leg, &description, &mut alone, &mut target)?;
        Ok(Some(Self { leg, letters, target, description, format, alone, alterations: 0 }))
    }

    /// Replays stretch by stretch. Letters that still do not fit are shown, with today's reason.
    pub fn run(mut self, report: &mut TableLetters) -> Result<()> {
        let mut budget = Budget::new(&self.leg.limits, self.leg.started, self.leg.shutdown);
        let (mut stopped, mut older) = (false, Older::new(self.leg, &self.description)?);
        while !stopped && let Some(chunk) = self.letters.next_chunk()? {
            let mut held = self.target.held_of(&chunk.iter().map(Letter::id).collect::<Vec<_>>())?;
            // A record may have several letters, of earlier versions.
            let mut seen = HashSet::new();
            let is_open = |letter: &&Letter| {
                let id = letter.id();
                !held.contains(&id) && self.letters.fate(letter) == Fate::Refused && seen.insert(id)
            };
            let open: Vec<&Letter> = chunk.iter().filter(is_open).collect();
            let older = match &mut older {
                Some(rows) => rows.of(&open)?,
                None => HashSet::new(),
            };
            let mut chosen: Vec<&Letter> = Vec::new();
            for letter in open.into_iter().filter(|letter| !older.contains(&letter.id())) {
                if budget.allows(1) == 0 {
                    stopped = true;
                    break;
                }
                budget.spend(1);
                chosen.push(letter);
            }
            let mut outcomes = self.bring(&chosen, chunk[0].at)?;
            outcomes.extend(older.into_iter().map(|id| (id, Err(older::REASON.to_owned()))));
            let brought = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).map(|(id, _)| *id);
            held.extend(brought);
            // The target may hold other records at the same places: of a topic that was recreated since.
            let is_brought = |letter: &&&Letter| outcomes.get(&letter.id()).is_some_and(Result::is_ok);
            report.inserted += chosen.iter().filter(is_brought).count() as u64;
            crash::point("replay.note.before");
            let is_new = |letter: &&Letter| held.contains(&letter.id()) && self.letters.fate(letter) == Fate::Refused;
            self.alone.note(&chunk.iter().filter(is_new).collect::<Vec<_>>(), Fate::Replayed)?;
            for letter in &chunk {
                self.report(letter, &held, &outcomes, report);
            }
        }
        report.add(&self.letters);
        report.complete &= !stopped;
        Ok(())
    }

    fn report(&self, letter: &Letter, held: &HashSet<RecordId>, outcomes: &Outcomes, report: &mut TableLetters) {
        let id = letter.id();
        match (held.contains(&id), self.letters.fate(letter)) {
            (true, _) | (_, Fate::Replayed) => report.replayed += 1,
            (_, Fate::Dropped) => report.dropped += 1,
            (false, Fate::Refused) => {
                report.pending += 1;
                let reason = outcomes.get(&id).and_then(|outcome| outcome.as_ref().err());
                report.show(self.leg.table, letter, State::Pending, reason.unwrap_or(&letter.record.reason));
            }
        }
    }

    /// Brings records of the stretch that begins there into the target.
    fn bring(&mut self, letters: &[&Letter], stretch: RecordPosition) -> Result<Outcomes> {
        let (mut outcomes, mut turn) = (Outcomes::new(), 0);
        loop {
            let open: Vec<&&Letter> = letters.iter().filter(|letter| !outcomes.contains_key(&letter.id())).collect();
            let mut sets = self.encoded(&open, &mut outcomes);
            let mut is_altered = false;
            while let Some(set) = sets.pop()
                && !is_altered
            {
                is_altered = self.bring_set(set, stretch, &mut turn, &mut sets, &mut outcomes)?;
            }
            if !is_altered {
                return Ok(outcomes);
            }
            self.read_anew()?;
        }
    }

    /// The records as rows, those of one header together; what the columns do not take is told.
    fn encoded(&mut self, letters: &[&&Letter], outcomes: &mut Outcomes) -> Vec<(Vec<Row>, u32)> {
        let mut sets: Vec<(Vec<Row>, u32)> = Vec::new();
        for letter in letters {
            let id = letter.id();
            let mut bytes = Vec::new();
            match self.format.encode(id, letter.record.value.as_deref(), &mut bytes) {
                Ok(shape) => {
                    let header = self.format.headers().swap_remove(usize::from(shape));
                    let row = Row { id, header, bytes };
                    match sets.iter_mut().find(|(rows, _)| rows.first().is_some_and(|first| first.header == row.header))
                    {
                        Some((rows, _)) => rows.push(row),
                        None => sets.push((vec![row], 0)),
                    }
                }
                Err(reason) => {
                    outcomes.insert(id, Err(reason));
                }
            }
        }
        sets
    }

    /// One INSERT of a set of rows that has gone so many rounds, and what follows from its end; whether the table was altered.
    fn bring_set(
        &mut self,
        (mut rows, mut round): (Vec<Row>, u32),
        stretch: RecordPosition,
        turn: &mut u32,
        sets: &mut Vec<(Vec<Row>, u32)>,
        outcomes: &mut Outcomes,
    ) -> Result<bool> {
        let token = match rows.as_slice() {
            [row] => self.token(&format!("{}\0{}\0{}\0{round}", row.id.partition, row.id.offset, row.id.timestamp_ms)),
            _ => self.token(&format!("stretch\0{}\0{}\0{turn}", stretch.partition, stretch.offset)),
        };
        let mut body = rows.first().map_or_else(Vec::new, |row| row.header.clone());
        rows.iter().for_each(|row| body.extend_from_slice(&row.bytes));
        let ended = self.insert(&body, &token)?;
        if matches!(ended, Ended::Altered) {
            return Ok(true);
        }
        *turn += u32::from(rows.len() > 1);
        // Asked also after a refusal: an earlier attempt may have been stored, or only a view behind the table refuses.
        let held = self.target.held_of(&rows.iter().map(|row| row.id).collect::<Vec<_>>())?;
        outcomes.extend(held.iter().map(|id| (*id, Ok(()))));
        rows.retain(|row| !held.contains(&row.id));
        round += 1;
        let is_given_up = !matches!(ended, Ended::Confirmed) || round >= ROUNDS;
        match (rows.as_slice(), ended) {
            ([], _) => {}
            // The server knows the token and dropped the rows: it is of an earlier replay, or they were deleted since. No request
            // of this token can be stored any more, so the next one may be used.
            (_, Ended::Confirmed) if !is_given_up => sets.push((rows, round)),
            ([row], Ended::Refused(reason)) => {
                outcomes.insert(row.id, Err(reason));
            }
            ([_], Ended::TooLarge(error)) => return Err(error),
            ([row], _) => {
                let reason = format!(
                    "ClickHouse has confirmed it {ROUNDS} times and does not hold it: look for what deletes rows"
                );
                outcomes.insert(row.id, Err(reason));
            }
            (_, _) => {
                let behind = rows.split_off(rows.len() / 2);
                sets.extend([(behind, 0), (rows, 0)]);
            }
        }
        Ok(false)
    }

    /// Sends rows until the server says yes or no, or the attempts are used up.
    fn insert(&mut self, body: &[u8], token: &str) -> Result<Ended> {
        let mut backoff = Backoff::new(&self.leg.config.retry);
        loop {
            let error = match self.target.insert(body, token)? {
                Inserted::Stored | Inserted::Unproven => return Ok(Ended::Confirmed),
                Inserted::TooLarge(error) => return Ok(Ended::TooLarge(error)),
                Inserted::Refused(Refused { reason, cause, error }) if !cause.passes() => {
                    return if self.is_altered()? {
                        Ok(Ended::Altered)
                    } else if cause == Cause::Rows {
                        Ok(Ended::Refused(reason))
                    } else {
                        Err(error)
                    };
                }
                Inserted::Refused(Refused { error, .. }) | Inserted::Unknown(error) => error,
            };
            let Some(pause) = backoff.after(&error).filter(|_| error.is_transient()) else { return Err(error) };
            log::warn!("{error}\nthe same rows are sent again under the same token in {pause:?}");
            if self.leg.shutdown.wait(pause) {
                return Err(error);
            }
        }
    }

    /// Whether the target is not the one for which the rows were encoded.
    fn is_altered(&mut self) -> Result<bool> {
        Ok(self.alterations < ALTERATIONS && self.target.describe()? != self.description)
    }

    /// Describes the target anew, for the rows that it lacks.
    fn read_anew(&mut self) -> Result<()> {
        self.alterations += 1;
        self.description = self.target.describe()?;
        require_fit(self.leg.table, &[], &self.description)?;
        self.format = format_of(self.leg, &self.description, &mut self.alone, &mut self.target)?;
        Ok(())
    }

    /// The same for the same rows and target, on every host.
    fn token(&self, what: &str) -> String {
        let covered = format!("{}\0{}\0{what}", self.description.identity, self.leg.table.topic);
        let digest: String = Sha256::digest(covered).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("replay-{digest}")
    }
}

fn format_of(
    leg: &LegContext<'_>,
    description: &TargetDescription,
    alone: &mut Alone,
    target: &mut ClickHouseTarget,
) -> Result<RowFormat> {
    RowFormat::of(&description.columns, &leg.table.column_rules, &alone.record_types()?, target.calendar())
}

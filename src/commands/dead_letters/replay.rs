//! Inserts the records of dead letters into the target, with the positions and timestamps that they had.
//!
//! It holds the table's lock and shuts out consume runs, so that nothing else inserts the same records meanwhile. Each record
//! goes in an INSERT of its own, under a token that follows from the record and the target alone: whatever a replay that died
//! had sent, or a proxy still holds back, is the same block under the same token, and the server drops the second one. If the
//! process dies before or after any call, the next replay asks the target and resumes.

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::read::Letters;
use super::report::{State, TableLetters, id_of};
use crate::clickhouse::ClickHouseTarget;
use crate::data::{Headers, Record, RecordId};
use crate::error::Result;
use crate::fit::require_fit;
use crate::kafka::{KafkaLog, KafkaWriter, Letter};
use crate::legs::consume::RowFormat;
use crate::legs::retry::Backoff;
use crate::open::{open_fence, open_ledger};
use crate::ports::LegContext;
use crate::ports::limits::Budget;
use crate::ports::target::{Cause, Inserted, Refused, Target};
use crate::ports::topic::{End, Fence, TopicLog, wait_until_stable};
use crate::postgres::PgLedger;

/// How often the target may confirm a row and still not hold it.
const ROUNDS: u32 = 3;

/// A replay of one table's letters, with everybody else shut out.
pub struct Replay<'a> {
    leg: &'a LegContext<'a>,
    letters: Letters,
    target: ClickHouseTarget,
    identity: String,
    format: RowFormat,
    /// Its session holds the lock.
    _ledger: PgLedger,
    /// It would shut out a consume run that has no lock; nothing is committed through it.
    _fence: KafkaWriter,
}

impl<'a> Replay<'a> {
    /// Takes the lock, fences consume runs, and finds the letters; `None` if it was asked to finish meanwhile.
    ///
    /// # Errors
    /// 75 if a run holds the lock; the servers'.
    pub fn begin(leg: &'a LegContext<'a>) -> Result<Option<Self>> {
        let (config, table) = (leg.config, leg.table);
        let Some(ledger) = open_ledger(leg)? else { return Ok(None) };
        let mut target = ClickHouseTarget::new(config, table)?;
        let description = target.describe()?;
        require_fit(table, &[], &description)?;
        let mut fence = open_fence(leg, &KafkaLog::new(config, &table.topic, &table.group, leg.watchdog)?)?;
        fence.fence()?;
        // What the fence has completed of a dead run counts, so the end is taken only now.
        let mut log = KafkaLog::new(config, &table.dead_letter_topic(), &table.group, leg.watchdog)?;
        let written = log.ends(End::Written)?;
        let ends = wait_until_stable(&mut log, &written, config.timeouts.stable, leg.shutdown)?;
        let format = RowFormat::of(&description.columns, &table.column_rules, target.calendar())?;
        Ok(Some(Self {
            leg,
            letters: Letters::new(log, ends, &table.topic, leg)?,
            target,
            identity: description.identity,
            format,
            _ledger: ledger,
            _fence: fence,
        }))
    }

    /// Replays letter by letter. Those that still do not fit are shown, with today's reason.
    ///
    /// # Errors
    /// ClickHouse's and Kafka's.
    pub fn run(mut self, report: &mut TableLetters) -> Result<()> {
        let mut budget = Budget::new(&self.leg.limits, self.leg.started, self.leg.shutdown);
        let mut stopped = false;
        while !stopped && let Some(chunk) = self.letters.next_chunk()? {
            let ids: Vec<RecordId> = chunk.iter().map(id_of).collect();
            let mut held = self.target.held_of(&ids)?;
            for letter in &chunk {
                // A record may have several letters: it was refused again after the offsets were set back.
                if held.contains(&id_of(letter)) {
                    report.replayed += 1;
                    continue;
                }
                stopped |= budget.allows(1) == 0;
                if stopped {
                    report.count(letter, State::Pending);
                    continue;
                }
                budget.spend(1);
                self.replay(letter, &mut held, report)?;
            }
        }
        self.letters.tell(report);
        report.complete &= !stopped;
        Ok(())
    }

    fn replay(&mut self, letter: &Letter, held: &mut HashSet<RecordId>, report: &mut TableLetters) -> Result<()> {
        match self.bring(letter)? {
            Ok(()) => {
                held.insert(id_of(letter));
                report.replayed += 1;
                report.inserted += 1;
            }
            Err(reason) => {
                report.pending += 1;
                report.show(letter, State::Pending, &reason);
            }
        }
        Ok(())
    }

    /// Brings one record into the target; the inner error is why it still does not fit.
    fn bring(&mut self, letter: &Letter) -> Result<Result<(), String>> {
        let id = id_of(letter);
        let record = Record {
            partition: id.partition,
            offset: id.offset,
            timestamp_ms: id.timestamp_ms,
            key: letter.record.key.as_deref(),
            value: letter.record.value.as_deref(),
            headers: Headers::of(&letter.record.headers),
        };
        let mut row = Vec::new();
        let shape = match self.format.encode(&record, &mut row) {
            Ok(shape) => shape,
            Err(reason) => return Ok(Err(reason)),
        };
        let mut body = self.format.headers().swap_remove(usize::from(shape));
        body.append(&mut row);
        for round in 0..ROUNDS {
            let refused = self.insert(&body, &self.token(&id, round))?;
            // Asked also after a refusal: an earlier attempt may have been stored, or only a view behind the table refuses.
            if self.target.held_of(&[id])?.contains(&id) {
                return Ok(Ok(()));
            }
            if let Some(reason) = refused {
                return Ok(Err(reason));
            }
            // The server knows the token and dropped the row: a replayed row was deleted since. No request of this token
            // can be stored any more, so the next one may be used.
        }
        Ok(Err(format!("ClickHouse has confirmed it {ROUNDS} times and does not hold it: look for what deletes rows")))
    }

    /// Sends the row until the server says yes or no, or the attempts are used up; if it says no, why.
    fn insert(&mut self, body: &[u8], token: &str) -> Result<Option<String>> {
        let mut backoff = Backoff::new(&self.leg.config.retry);
        loop {
            let error = match self.target.insert(body, token)? {
                Inserted::Stored | Inserted::Unproven => return Ok(None),
                Inserted::Refused(Refused { reason, cause: Cause::Rows, .. }) => return Ok(Some(reason)),
                Inserted::Refused(Refused { error, .. }) | Inserted::TooLarge(error) | Inserted::Unknown(error) => {
                    error
                }
            };
            let Some(pause) = backoff.after(&error).filter(|_| error.is_transient()) else { return Err(error) };
            log::warn!("{error}\nthe same row is sent again under the same token in {pause:?}");
            if self.leg.shutdown.wait(pause) {
                return Err(error);
            }
        }
    }

    /// The same for the same record and target, on every host.
    fn token(&self, id: &RecordId, round: u32) -> String {
        let RecordId { partition, offset, timestamp_ms } = id;
        let topic = &self.leg.table.topic;
        let covered = format!("{}\0{topic}\0{partition}\0{offset}\0{timestamp_ms}\0{round}", self.identity);
        let digest: String = Sha256::digest(covered).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        format!("replay-{digest}")
    }
}

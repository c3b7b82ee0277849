//! Reads the dead letters of one table, a bounded number at a time.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::letter::{Letter, PolledLetter};
use super::log::KafkaLog;
use crate::data::{Fate, NextOffset, Offsets, RecordId, RecordPosition};
use crate::error::{Error, Result};
use crate::ports::LegContext;
use crate::ports::topic::{End, TopicLog as _, wait_until_stable};
use crate::shutdown::Shutdown;

/// How many offsets, and bytes, the letters span that are in memory at once.
const CHUNK_LETTERS: i64 = 500;
const CHUNK_BYTES: usize = 4 << 20;

/// The letters of one table up to an end: one partition after the other, oldest first.
pub struct Letters {
    log: KafkaLog,
    ends: Offsets,
    /// Where each partition begins.
    starts: Offsets,
    /// Partitions that are not begun.
    waiting: VecDeque<(i32, NextOffset)>,
    /// The one that is read.
    open: Option<i32>,
    /// What was read and belongs to the next chunk.
    ahead: Option<Letter>,
    /// What became of letters, by the notes that lie among them, and where those lie.
    fates: HashMap<RecordId, (Fate, RecordPosition)>,
    topic: String,
    limit: Duration,
    shutdown: Shutdown,
    foreign: u64,
}

impl Letters {
    /// The letters of the leg's table that lie in its dead-letter topic now, up to `end`. Undecided transactions below the written end
    /// are waited for.
    ///
    /// # Errors
    /// 78 if there is no such topic; 69 if a transaction stays undecided; Kafka's.
    pub fn of(leg: &LegContext<'_>, end: End, shutdown: &Shutdown) -> Result<Self> {
        let (config, table) = (leg.config, leg.table);
        let mut log = KafkaLog::new(config, &table.dead_letter_topic(), &table.group, leg.watchdog)?;
        let mut ends = log.ends(end)?;
        if end == End::Written {
            ends = wait_until_stable(&mut log, &ends, config.timeouts.stable, shutdown)?;
        }
        let mut starts = log.starts()?;
        starts.retain(|partition, start| ends.get(partition).is_some_and(|end| *start < *end));
        let mut letters = Self {
            log,
            ends,
            waiting: starts.clone().into_iter().collect(),
            starts,
            open: None,
            ahead: None,
            fates: HashMap::new(),
            topic: table.topic.clone(),
            limit: config.timeouts.kafka,
            shutdown: shutdown.clone(),
            foreign: 0,
        };
        // A note may lie in another partition than its letter, which is read later.
        while let Some(letter) = letters.next()? {
            let fate = letter.record.fate;
            if fate != Fate::Refused {
                letters.fates.insert(letter.id(), (fate, letter.at));
            }
        }
        letters.waiting = letters.starts.clone().into_iter().collect();
        letters.foreign = 0;
        Ok(letters)
    }

    /// What became of a letter. One that lies above the note was refused once more since.
    #[must_use]
    pub fn fate(&self, letter: &Letter) -> Fate {
        let since = |note: &RecordPosition| letter.at.partition == note.partition && letter.at.offset > note.offset;
        let noted = self.fates.get(&letter.id()).filter(|(_, note)| !since(note));
        noted.map_or(Fate::Refused, |(fate, _)| *fate)
    }

    /// The next letters, of one stretch of one partition: the same ones whenever it is read. `None` at the end, or when the command was
    /// asked to finish.
    ///
    /// # Errors
    /// Kafka's, or 69 if no record comes in time.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<Letter>>> {
        let (mut chunk, mut bytes) = (Vec::<Letter>::new(), 0);
        while let Some(letter) = self.ahead.take().map_or_else(|| self.next(), |ahead| Ok(Some(ahead)))? {
            if letter.record.fate != Fate::Refused {
                continue;
            }
            let stretch = |letter: &Letter| (letter.at.partition, letter.at.offset / CHUNK_LETTERS);
            if chunk.first().is_some_and(|first| stretch(first) != stretch(&letter) || bytes >= CHUNK_BYTES) {
                self.ahead = Some(letter);
                break;
            }
            bytes += size(&letter);
            chunk.push(letter);
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// The next letter or note.
    fn next(&mut self) -> Result<Option<Letter>> {
        while !self.shutdown.is_requested() {
            let Some(partition) = self.open else {
                let Some((partition, start)) = self.waiting.pop_front() else { return Ok(None) };
                self.log.read_from(&[(partition, start)].into(), &self.ends)?;
                self.open = Some(partition);
                continue;
            };
            let (at, letter) = match self.log.poll_letter(self.limit)? {
                PolledLetter::Letter(letter) => (letter.at, Some(*letter)),
                PolledLetter::Foreign(at) => (at, None),
                PolledLetter::End(ended) => {
                    self.open = (ended != partition).then_some(partition);
                    continue;
                }
                PolledLetter::Nothing => {
                    return Err(Error::unavailable(
                        format!("cannot read the dead letters in partition {partition}"),
                        format!("no record came for {:?}", self.limit),
                        "check the brokers, and try again",
                    ));
                }
            };
            if self.is_beyond(at.partition, at.offset + 1) {
                self.open = None;
            }
            // What lies beyond came after this command began.
            if self.is_beyond(at.partition, at.offset) {
                continue;
            }
            match letter {
                Some(letter) if letter.topic == self.topic => return Ok(Some(letter)),
                _ => self.foreign += 1,
            }
        }
        Ok(None)
    }

    fn is_beyond(&self, partition: i32, offset: i64) -> bool {
        self.ends.get(&partition).is_none_or(|&end| offset >= end)
    }

    /// Whether the end was reached.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.open.is_none() && self.waiting.is_empty() && self.ahead.is_none()
    }

    /// How many records of the topic so far were no letters of this table.
    #[must_use]
    pub const fn foreign(&self) -> u64 {
        self.foreign
    }
}

fn size(letter: &Letter) -> usize {
    let record = &letter.record;
    record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len) + record.reason.len()
}

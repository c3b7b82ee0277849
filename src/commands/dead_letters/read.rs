//! Reads the letters of one table, a bounded number at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use super::report::TableLetters;
use crate::data::Offsets;
use crate::error::{Error, Result};
use crate::kafka::{KafkaLog, Letter, PolledLetter};
use crate::ports::LegContext;
use crate::ports::topic::TopicLog;
use crate::shutdown::Shutdown;

/// How many letters, and bytes of them, are in memory at once.
const CHUNK_LETTERS: usize = 500;
const CHUNK_BYTES: usize = 4 << 20;

/// The letters of one table up to an end, oldest first in each partition.
pub struct Letters {
    log: KafkaLog,
    ends: Offsets,
    /// Partitions that have not reached their end.
    open: BTreeSet<i32>,
    topic: String,
    limit: Duration,
    shutdown: Shutdown,
    foreign: u64,
}

impl Letters {
    /// Begins at the start of a dead-letter topic; only letters from `topic` count.
    ///
    /// # Errors
    /// Kafka's.
    pub fn new(mut log: KafkaLog, ends: Offsets, topic: &str, leg: &LegContext<'_>) -> Result<Self> {
        let mut from = log.starts()?;
        from.retain(|partition, start| ends.get(partition).is_some_and(|end| *start < *end));
        if !from.is_empty() {
            log.read_from(&from, &ends)?;
        }
        Ok(Self {
            log,
            ends,
            open: from.keys().copied().collect(),
            topic: topic.to_owned(),
            limit: leg.config.timeouts.kafka,
            shutdown: leg.shutdown.clone(),
            foreign: 0,
        })
    }

    /// The next letters; `None` at the end, or when the command was asked to finish.
    ///
    /// # Errors
    /// Kafka's, or 69 if no record comes in time.
    pub fn next_chunk(&mut self) -> Result<Option<Vec<Letter>>> {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while !self.open.is_empty() && chunk.len() < CHUNK_LETTERS && bytes < CHUNK_BYTES && !self.shutdown.is_asked() {
            let at = match self.log.poll_letter(self.limit)? {
                PolledLetter::Letter(letter) => {
                    let at = letter.at;
                    if self.is_beyond(at.partition, at.offset) {
                        // It came after this command began.
                    } else if letter.topic == self.topic {
                        bytes += size(&letter);
                        chunk.push(*letter);
                    } else {
                        self.foreign += 1;
                    }
                    at
                }
                PolledLetter::Foreign(at) => {
                    self.foreign += u64::from(!self.is_beyond(at.partition, at.offset));
                    at
                }
                PolledLetter::End(partition) => {
                    self.open.remove(&partition);
                    continue;
                }
                PolledLetter::Nothing => {
                    return Err(Error::unavailable(
                        format!("cannot read the dead letters in partitions {:?}", self.open),
                        format!("no record came for {:?}", self.limit),
                        "check the brokers, and try again",
                    ));
                }
            };
            if self.is_beyond(at.partition, at.offset + 1) {
                self.open.remove(&at.partition);
            }
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    fn is_beyond(&self, partition: i32, offset: i64) -> bool {
        self.ends.get(&partition).is_none_or(|&end| offset >= end)
    }

    /// Whether the end was reached.
    pub fn is_complete(&self) -> bool {
        self.open.is_empty()
    }

    /// Tells what was read.
    pub(super) fn tell(&self, report: &mut TableLetters) {
        report.foreign += self.foreign;
        report.complete = self.is_complete();
    }
}

fn size(letter: &Letter) -> usize {
    let record = &letter.record;
    record.key.as_ref().map_or(0, Vec::len) + record.value.as_ref().map_or(0, Vec::len) + record.reason.len()
}

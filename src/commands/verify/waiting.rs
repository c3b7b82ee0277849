//! The records that are not in the target for a known reason: still in the topic, or a dead letter.

use super::between::{Between, NewestLetters, Place, hash};
use crate::clickhouse::ClickHouseTarget;
use crate::config::TableConfig;
use crate::data::Offsets;
use crate::error::{Error, Result};
use crate::kafka::explain::is_unknown_topic;
use crate::kafka::{KafkaLog, Letter, Letters};
use crate::legs::consume::Start;
use crate::legs::consume::position::Context;
use crate::ports::LegContext;
use crate::ports::target::Target;
use crate::ports::topic::{End, TopicLog, read_between, wait_until_stable};

/// The most keys that are held: 96 MB of them.
const MOST_KEYS: usize = 6_000_000;

/// For how many keys room is made at a time: doubling it would take more than there is to hold.
const ROOM: usize = 500_000;

/// Keys, by 64 bits of each, with the timestamp of the newest record.
#[derive(Debug, Default)]
struct Uncopied {
    /// Sorted, but for what came since `settle`.
    newest: Vec<(u64, i64)>,
}

impl Uncopied {
    fn add(&mut self, key: &[u8], timestamp_ms: i64) {
        if self.newest.len() == self.newest.capacity() {
            self.newest.reserve_exact(ROOM);
        }
        self.newest.push((hash(key), timestamp_ms));
    }

    fn settle(&mut self) {
        self.newest.sort_unstable();
        self.newest.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                kept.1 = later.1;
            }
            is_same
        });
    }

    fn newest(&self, key: &str) -> Option<i64> {
        let found = self.newest.binary_search_by_key(&hash(key.as_bytes()), |(key, _)| *key);
        found.ok().map(|place| self.newest[place].1)
    }
}

/// What waits between the two tables.
pub struct Waiting<'a> {
    leg: &'a LegContext<'a>,
    log: KafkaLog,
    /// Up to where the topic has been read; where nothing has, the place of the group.
    next: Option<Offsets>,
    uncopied: Uncopied,
    newest_letters: Option<NewestLetters>,
}

impl<'a> Waiting<'a> {
    pub fn new(leg: &'a LegContext<'a>) -> Result<Self> {
        let table = leg.table;
        let log = KafkaLog::new(leg.config, &table.topic, &table.group, leg.watchdog)?;
        Ok(Self { leg, log, next: None, uncopied: Uncopied::default(), newest_letters: None })
    }

    /// Reads on to the present end of the topic, and the dead letters if they are not known yet.
    ///
    /// Every record that was written before this is called and is not in the target afterwards is then known.
    ///
    /// # Errors
    /// 69 if a foreign transaction keeps the end undecided, or if there is too much; Kafka's and ClickHouse's.
    pub fn refresh(&mut self) -> Result<()> {
        let config = self.leg.config;
        let written = self.log.ends(End::Written)?;
        let ends = wait_until_stable(&mut self.log, &written, config.timeouts.stable, self.leg.shutdown)?;
        let mut from = match self.next.take() {
            Some(next) => next,
            None => self.start(&ends)?,
        };
        let ends_before = |(partition, next): &(&i32, &i64)| ends.get(partition).is_some_and(|end| end < next);
        if let Some((partition, _)) = from.iter().find(ends_before) {
            return Err(Error::unavailable(
                format!("cannot read the uncopied records of topic {}", self.leg.table.topic),
                format!(
                    "partition {partition} ends before what was read of it: the topic was recreated, or Kafka was restored from an older copy meanwhile"
                ),
                "run the command again: it reads the topic that exists now",
            ));
        }
        let starts = self.log.starts()?;
        for (partition, next) in &mut from {
            *next = (*next).max(starts.get(partition).copied().unwrap_or(0));
        }
        self.read(&from, &ends)?;
        self.next = Some(ends);
        if self.newest_letters.is_none() {
            self.newest_letters = Some(self.read_letters()?);
        }
        Ok(())
    }

    /// Whether a record of this key lies beyond the group's offset.
    pub fn is_in_topic(&self, record_key: &str) -> bool {
        self.uncopied.newest(record_key).is_some()
    }

    /// Whether a record of this key is a dead letter.
    pub fn has_letter(&self, record_key: &str) -> bool {
        self.newest_letters.as_ref().is_some_and(|letters| letters.has(record_key))
    }

    /// What is known of a flagged row, all of its columns as JSON if it [has a letter](Self::has_letter), next to the target's newest
    /// version of its key, `held`.
    pub fn between(&self, record_key: &str, json: &str, held: Option<Place>) -> Between {
        let (letters, uncopied) = (self.newest_letters.as_ref(), self.uncopied.newest(record_key));
        letters.map_or(Between::Nothing, |letters| letters.between(record_key, json, uncopied, held))
    }

    /// Where the second leg would go on.
    fn start(&mut self, ends: &Offsets) -> Result<Offsets> {
        let table = self.leg.table;
        let (committed, starts) = (self.log.committed()?, self.log.starts()?);
        let identity = ClickHouseTarget::new(self.leg.config, table)?.describe()?.identity;
        let context = Context { group: &table.group, topic: &table.topic, target: &identity };
        let start = Start::of(&committed, &starts, ends, context);
        Ok(start.known.into_iter().map(|(partition, known)| (partition, known.next)).collect())
    }

    fn read(&mut self, from: &Offsets, ends: &Offsets) -> Result<()> {
        let ranges: Offsets = ends
            .iter()
            .filter_map(|(partition, end)| {
                let next = from.get(partition).copied().unwrap_or(0);
                (next < *end).then_some((*partition, next))
            })
            .collect();
        let (uncopied, table, limit) = (&mut self.uncopied, self.leg.table, self.leg.config.timeouts.kafka);
        let what = format!("the uncopied records of topic {}", table.topic);
        read_between(&mut self.log, &ranges, ends, limit, &what, |record| {
            uncopied.add(&table.row_key(record.key, record.value), record.timestamp_ms);
            if uncopied.newest.len() <= MOST_KEYS {
                return Ok(());
            }
            Err(Error::unavailable(
                format!("cannot distinguish uncopied records of topic {} from missing rows", table.topic),
                format!("more than {MOST_KEYS} records are not copied yet"),
                "run `pg2ch consume` first",
            ))
        })?;
        self.uncopied.settle();
        Ok(())
    }

    /// All dead letters that were written before this is called; `None` without the topic.
    ///
    /// # Errors
    /// 69 if a foreign transaction keeps the end undecided; Kafka's.
    pub fn letters(&self) -> Result<Option<Letters>> {
        match Letters::of(self.leg, End::Written, self.leg.shutdown) {
            Err(error) if is_unknown_topic(&error) => Ok(None),
            letters => letters.map(Some),
        }
    }

    fn read_letters(&self) -> Result<NewestLetters> {
        let (mut newest, key_columns) = (NewestLetters::default(), &self.leg.table.key);
        let Some(mut letters) = self.letters()? else { return Ok(newest) };
        while let Some(chunk) = letters.next_chunk()? {
            for letter in &chunk {
                let key = hash(letter_key(self.leg.table, letter).as_bytes());
                newest.add(key, letter, letters.fate(letter), key_columns);
            }
        }
        Ok(newest)
    }
}

/// The key of a letter's row, as PostgreSQL prints it.
pub fn letter_key(table: &TableConfig, letter: &Letter) -> String {
    let record = &letter.record;
    String::from_utf8_lossy(&table.row_key(record.key.as_deref(), record.value.as_deref())).into_owned()
}

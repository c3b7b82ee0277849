//! The keys of records that are not in the target for a known reason: still in the topic, or a dead letter.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::clickhouse::ClickHouseTarget;
use crate::data::{Fate, Offsets};
use crate::error::{Error, Result};
use crate::kafka::explain::is_unknown_topic;
use crate::kafka::{KafkaLog, Letter, Letters};
use crate::legs::consume::Start;
use crate::legs::consume::position::Context;
use crate::ports::LegContext;
use crate::ports::target::Target;
use crate::ports::topic::{End, TopicLog, read_between, wait_until_stable};

/// The most keys that are held: 48 MB of them.
const MOST_KEYS: usize = 6_000_000;

/// For how many keys room is made at a time: doubling it would take more than there is to hold.
const ROOM: usize = 500_000;

/// A set of keys, by 64 bits of each.
#[derive(Debug, Default)]
struct KeySet {
    /// Sorted, but for what came since `settle`.
    hashes: Vec<u64>,
}

impl KeySet {
    fn add(&mut self, key: &[u8]) {
        if self.hashes.len() == self.hashes.capacity() {
            self.hashes.reserve_exact(ROOM);
        }
        self.hashes.push(hash(key));
    }

    fn settle(&mut self) {
        self.hashes.sort_unstable();
        self.hashes.dedup();
    }

    fn contains(&self, key: &str) -> bool {
        self.hashes.binary_search(&hash(key.as_bytes())).is_ok()
    }
}

fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// What waits between the two tables.
pub struct Waiting<'a> {
    leg: &'a LegContext<'a>,
    log: KafkaLog,
    /// Up to where the topic has been read; where nothing has, the place of the group.
    next: Option<Offsets>,
    in_topic: KeySet,
    dead: Option<KeySet>,
    /// Those of them that were dismissed.
    dropped: KeySet,
}

impl<'a> Waiting<'a> {
    pub fn new(leg: &'a LegContext<'a>) -> Result<Self> {
        let table = leg.table;
        let log = KafkaLog::new(leg.config, &table.topic, &table.group, leg.watchdog)?;
        Ok(Self { leg, log, next: None, in_topic: KeySet::default(), dead: None, dropped: KeySet::default() })
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
                    "partition {partition} ends before what was read of it: the topic was deleted and recreated meanwhile"
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
        if self.dead.is_none() {
            self.dead = Some(self.read_dead_letters()?);
        }
        Ok(())
    }

    /// Whether a record of this key lies beyond the group's offset.
    pub fn is_in_topic(&self, record_key: &str) -> bool {
        self.in_topic.contains(record_key)
    }

    /// Whether a record of this key is a dead letter that the target does not hold.
    pub fn is_dead_letter(&self, record_key: &str) -> bool {
        self.dead.as_ref().is_some_and(|dead| dead.contains(record_key))
    }

    /// Whether a record of this key is a dead letter that was dismissed.
    pub fn is_dropped(&self, record_key: &str) -> bool {
        self.dropped.contains(record_key)
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
        let (in_topic, table, limit) = (&mut self.in_topic, self.leg.table, self.leg.config.timeouts.kafka);
        let what = format!("the uncopied records of topic {}", table.topic);
        read_between(&mut self.log, &ranges, ends, limit, &what, |record| {
            in_topic.add(&table.row_key(record.key, record.value));
            if in_topic.hashes.len() <= MOST_KEYS {
                return Ok(());
            }
            Err(Error::unavailable(
                format!("cannot distinguish uncopied records of topic {} from missing rows", table.topic),
                format!("more than {MOST_KEYS} records are not copied yet"),
                "run `pg2ch consume` first",
            ))
        })?;
        self.in_topic.settle();
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

    fn read_dead_letters(&mut self) -> Result<KeySet> {
        let (config, table) = (self.leg.config, self.leg.table);
        let mut dead = KeySet::default();
        let Some(mut letters) = self.letters()? else { return Ok(dead) };
        let mut target = ClickHouseTarget::new(config, table)?;
        while let Some(chunk) = letters.next_chunk()? {
            let held = target.held_of(&chunk.iter().map(Letter::id).collect::<Vec<_>>())?;
            for letter in chunk.iter().filter(|letter| !held.contains(&letter.id())) {
                let record = &letter.record;
                let key = table.row_key(record.key.as_deref(), record.value.as_deref());
                match letters.fate(letter) {
                    Fate::Refused => dead.add(&key),
                    Fate::Dropped => self.dropped.add(&key),
                    Fate::Replayed => {}
                }
            }
        }
        dead.settle();
        self.dropped.settle();
        Ok(dead)
    }
}

//! Kafka in memory: two partitions, transactions with their markers, producer epochs, the group's offsets.

#[path = "kafka/clients.rs"]
mod clients;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pg2ch::data::{RecordId, RecordPosition, Version};
use pg2ch::error::Result;
use pg2ch::ports::topic::{Committed, OffsetCommit};

pub use clients::{SimLog, SimWriter};

use crate::postgres::{Content, id_of};
use crate::world::{MARKERS, World, shut_out, unavailable};

pub const PARTITIONS: i32 = 2;

/// The keys of other producers' records begin here.
pub const FIRST_NEIGHBOUR: i64 = 1 << 40;

/// Rows whose text is longer are too large for the topic.
pub const MAX_VALUE: usize = 400;

#[derive(Clone, Debug)]
pub struct Data {
    /// The row's key.
    pub row: i64,
    pub key: Option<String>,
    pub value: String,
    /// The bytes of its headers.
    pub headers: Vec<u8>,
    pub timestamp_ms: i64,
    pub version: Version,
}

impl Data {
    /// Whether a row of this content makes this record.
    pub fn is_of(&self, id: i64, content: &Content) -> bool {
        self.value == content.json(id) && self.headers == content.headers()
    }
}

enum Entry {
    Data { transaction: usize, data: Data },
    Marker,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Committed,
    Aborted,
}

struct Transaction {
    producer: &'static str,
    state: State,
    /// Partitions that have no marker of it yet.
    unmarked: BTreeSet<i32>,
}

#[derive(Default)]
struct Partition {
    start: i64,
    log: Vec<Entry>,
}

/// A record that was committed, in any life of the topic.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub id: RecordId,
    pub data: Data,
    /// It need not be in the target: it was gone before it could be copied.
    pub excused: bool,
}

#[derive(Default)]
pub struct Kafka {
    partitions: BTreeMap<i32, Partition>,
    transactions: Vec<Transaction>,
    epochs: HashMap<&'static str, u32>,
    pub offsets: BTreeMap<i32, Committed>,
    /// The group's offsets as they were before its last commits, and which were foreign; the latest last.
    pub earlier: Vec<(BTreeMap<i32, Committed>, BTreeSet<i32>)>,
    /// Partitions whose offset somebody else has moved since our last commit.
    pub foreign: BTreeSet<i32>,
    /// Grows when the topic is deleted and made again.
    pub made: u64,
    /// Offsets were moved, deleted or made worthless: records may be refused, and so buried, once more.
    pub set_back: bool,
    pub dead: Vec<RecordId>,
    /// Every committed record, in order.
    pub history: Vec<Delivered>,
    /// Records committed, and dead letters, since it was set to 0.
    pub sent: u64,
    pub buried: u64,
}

impl Kafka {
    fn partition(&mut self, partition: i32) -> &mut Partition {
        self.partitions.entry(partition).or_default()
    }

    pub fn written(&self, partition: i32) -> i64 {
        self.partitions.get(&partition).map_or(0, |found| found.log.len() as i64)
    }

    pub fn stable(&self, partition: i32) -> i64 {
        let Some(found) = self.partitions.get(&partition) else { return 0 };
        let undecided = found.log.iter().position(|entry| match entry {
            Entry::Data { transaction, .. } => self.transactions[*transaction].unmarked.contains(&partition),
            Entry::Marker => false,
        });
        undecided.unwrap_or(found.log.len()) as i64
    }

    pub fn start(&self, partition: i32) -> i64 {
        self.partitions.get(&partition).map_or(0, |found| found.start)
    }

    /// The last committed record of a row, in the topic's present life or an earlier one.
    pub fn last_of(&self, id: i64) -> Option<&Data> {
        self.history.iter().rev().find(|found| found.data.row == id).map(|found| &found.data)
    }

    /// The keys of the committed records from an offset to another.
    pub fn rows_between(&self, partition: i32, from: i64, end: i64) -> impl Iterator<Item = i64> {
        let found = self.partitions.get(&partition);
        let entries = found
            .into_iter()
            .flat_map(move |found| (from.max(found.start)..end).filter_map(|at| found.log.get(at as usize)));
        entries.filter_map(|entry| match entry {
            Entry::Data { transaction, data } => {
                (self.transactions[*transaction].state == State::Committed).then_some(data.row)
            }
            Entry::Marker => None,
        })
    }

    fn mark(&mut self, transaction: usize) {
        for partition in std::mem::take(&mut self.transactions[transaction].unmarked) {
            self.partition(partition).log.push(Entry::Marker);
        }
    }

    fn append(&mut self, transaction: usize, partition: i32, data: Data) -> RecordPosition {
        self.transactions[transaction].unmarked.insert(partition);
        let log = &mut self.partition(partition).log;
        log.push(Entry::Data { transaction, data });
        RecordPosition { partition, offset: log.len() as i64 - 1 }
    }

    fn begin(&mut self, producer: &'static str) -> usize {
        self.transactions.push(Transaction { producer, state: State::Open, unmarked: BTreeSet::new() });
        self.transactions.len() - 1
    }

    /// Another producer's record, without a transaction: it is there at once, as a row that the source does not have.
    pub fn add_neighbour(&mut self, partition: i32, timestamp_ms: i64) {
        let transaction = self.begin("neighbour");
        self.transactions[transaction].state = State::Committed;
        let row = FIRST_NEIGHBOUR + transaction as i64;
        let content = Content::new("a neighbour's", 7);
        let data = Data {
            row,
            key: Some(row.to_string()),
            value: content.json(row),
            headers: content.headers(),
            timestamp_ms,
            version: Version { xmin: u32::MAX - transaction as u32, ..Version::default() },
        };
        self.append(transaction, partition, data);
        self.transactions[transaction].unmarked.clear();
        let sent = self.sent;
        self.remember(transaction);
        self.sent = sent;
    }

    /// Another producer's transaction, which hides what comes after it until it is aborted.
    pub fn begin_foreign(&mut self, partition: i32) -> usize {
        let transaction = self.begin("foreign");
        let version = Version::default();
        let data = Data {
            row: 0,
            key: Some("foreign".into()),
            value: "{}".into(),
            headers: Vec::new(),
            timestamp_ms: 0,
            version,
        };
        self.append(transaction, partition, data);
        transaction
    }

    pub fn abort(&mut self, transaction: usize) {
        self.transactions[transaction].state = State::Aborted;
        self.mark(transaction);
    }

    /// The broker aborts what dead producers left open, after a minute or so.
    pub fn time_out(&mut self) {
        for index in 0..self.transactions.len() {
            if self.transactions[index].state == State::Open {
                self.abort(index);
            }
        }
    }

    fn remember(&mut self, transaction: usize) {
        for (&partition, found) in &self.partitions {
            for (offset, entry) in found.log.iter().enumerate() {
                if let Entry::Data { transaction: of, data } = entry
                    && *of == transaction
                {
                    let id = RecordId { partition, offset: offset as i64, timestamp_ms: data.timestamp_ms };
                    self.history.push(Delivered { id, data: data.clone(), excused: false });
                    self.sent += 1;
                }
            }
        }
    }

    /// Whether committed readers can still find it.
    pub fn has(&self, id: &RecordId) -> bool {
        self.partitions.get(&id.partition).is_some_and(|found| {
            id.offset >= found.start
                && matches!(found.log.get(id.offset as usize),
                    Some(Entry::Data { data, .. }) if data.timestamp_ms == id.timestamp_ms)
        })
    }

    /// Deletes what lies below `start`.
    pub fn retain_from(&mut self, partition: i32, start: i64) {
        let stable = self.stable(partition);
        let found = self.partition(partition);
        found.start = found.start.max(start.min(stable));
    }

    /// Deletes the topic and makes it again; the broker forgets the group's offsets with it, or not yet.
    pub fn recreate(&mut self, forget_offsets: bool) {
        for index in 0..self.transactions.len() {
            self.transactions[index].unmarked.clear();
        }
        self.partitions.clear();
        self.earlier.clear();
        self.made += 1;
        if forget_offsets {
            self.offsets.clear();
        } else {
            self.foreign.extend(0..PARTITIONS);
        }
        self.set_back = true;
    }
}

pub fn partition_of(key: &[u8]) -> i32 {
    id_of(key).map_or(0, |id| (id % i64::from(PARTITIONS)) as i32)
}

impl World {
    fn require_epoch(&self, producer: &'static str, epoch: u32) -> Result<()> {
        let current = self.kafka.epochs.get(producer).copied().unwrap_or(0);
        if current == epoch { Ok(()) } else { Err(shut_out("cannot write to the topic")) }
    }

    fn commit_transaction(&mut self, producer: &'static str, epoch: u32, transaction: usize) -> Result<()> {
        self.require_epoch(producer, epoch)?;
        if self.kafka.transactions[transaction].state != State::Open {
            return Err(unavailable("cannot commit"));
        }
        self.kafka.transactions[transaction].state = State::Committed;
        self.kafka.remember(transaction);
        // The broker answers as soon as the commit is decided; the markers follow.
        if self.troubled && self.one_in(10) {
            self.later(MARKERS, 20, move |world| world.kafka.mark(transaction));
        } else {
            self.kafka.mark(transaction);
        }
        Ok(())
    }

    fn commit_offsets(
        &mut self,
        producer: &'static str,
        (epoch, made): (u32, u64),
        offsets: Vec<OffsetCommit>,
        dead: &[RecordId],
    ) -> Result<()> {
        self.require_epoch(producer, epoch)?;
        self.kafka.earlier.push((self.kafka.offsets.clone(), self.kafka.foreign.clone()));
        for OffsetCommit { partition, next, metadata } in offsets {
            self.note(|| format!("      offset of partition {partition}: {next} {metadata}"));
            let ours = !self.kafka.foreign.remove(&partition);
            if made != self.kafka.made {
                // Of the topic before: not true of this one.
                self.kafka.foreign.insert(partition);
            }
            let before = self.kafka.offsets.insert(partition, Committed { next, metadata });
            if let Some(before) = before.filter(|before| ours && before.next > next) {
                self.broke(|| format!("the offset of partition {partition} went back from {} to {next}", before.next));
            }
        }
        self.kafka.buried += dead.len() as u64;
        self.kafka.dead.extend(dead);
        Ok(())
    }
}

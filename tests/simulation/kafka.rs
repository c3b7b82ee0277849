//! Kafka in memory: two partitions, transactions with their markers, producer epochs, the group's offsets.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use pg2ch::batch::{Offsets, RecordPosition, RowBatch, Version};
use pg2ch::clickhouse::RecordId;
use pg2ch::error::Result;
use pg2ch::kafka::{Committed, DeadLetter, End, Fence, OffsetCommit, Polled, Record, Sent, TopicLog};
use pg2ch::mutant;

use crate::postgres::id_of;
use crate::world::{MARKERS, Run, World, shut_out, unavailable};

pub const PARTITIONS: i32 = 2;

/// Rows whose text is longer are too large for the topic.
pub const MAX_VALUE: usize = 400;

#[derive(Clone, Debug)]
pub struct Data {
    pub key: String,
    pub value: String,
    pub timestamp_ms: i64,
    pub version: Version,
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
    /// Partitions whose offset somebody else has moved since our last commit.
    pub foreign: BTreeSet<i32>,
    /// Grows when the topic is deleted and made again.
    made: u64,
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

    fn stable(&self, partition: i32) -> i64 {
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
    pub fn last_of(&self, id: i64) -> Option<&str> {
        let key = id.to_string();
        self.history.iter().rev().find(|found| found.data.key == key).map(|found| found.data.value.as_str())
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

    /// Another producer's transaction, which hides what comes after it until it is aborted.
    pub fn begin_foreign(&mut self, partition: i32) -> usize {
        let transaction = self.begin("foreign");
        let version = Version::default();
        let data = Data { key: "foreign".into(), value: "{}".into(), timestamp_ms: 0, version };
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
}

/// A reader of committed records.
pub struct SimLog {
    run: Run,
    next: Offsets,
    told_end: BTreeSet<i32>,
}

impl SimLog {
    pub fn new(run: &Run) -> Self {
        Self { run: run.clone(), next: Offsets::new(), told_end: BTreeSet::new() }
    }

    fn offsets(&self, what: &'static str, of: impl Fn(&Kafka, i32) -> i64) -> Result<Offsets> {
        self.run
            .read(what, |world| Ok((0..PARTITIONS).map(|partition| (partition, of(&world.kafka, partition))).collect()))
    }
}

impl TopicLog for SimLog {
    fn partitions(&mut self) -> Result<Vec<i32>> {
        self.run.read("kafka: partitions", |_| Ok((0..PARTITIONS).collect()))
    }

    fn ends(&mut self, end: End) -> Result<Offsets> {
        let written = mutant::is("the high watermark is taken for the last stable offset");
        match end {
            End::Stable if !written => self.offsets("kafka: stable ends", Kafka::stable),
            _ => self.offsets("kafka: written ends", Kafka::written),
        }
    }

    fn starts(&mut self) -> Result<Offsets> {
        self.offsets("kafka: starts", Kafka::start)
    }

    fn committed(&mut self) -> Result<BTreeMap<i32, Committed>> {
        self.run.read("kafka: committed offsets", |world| Ok(world.kafka.offsets.clone()))
    }

    fn read_from(&mut self, from: &Offsets, _until: &Offsets) -> Result<()> {
        self.next.clone_from(from);
        self.told_end.clear();
        Ok(())
    }

    fn poll(&mut self, _wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Polled> {
        let Self { run, next, told_end } = self;
        run.read("kafka: poll", |world| {
            let open: Vec<i32> = next.keys().copied().filter(|partition| !told_end.contains(partition)).collect();
            let Some(partition) = world.rng.choice(open) else { return Ok(Polled::Nothing) };
            let (start, stable) = (world.kafka.start(partition), world.kafka.stable(partition));
            let at = next.entry(partition).or_default();
            if *at < start {
                return Err(unavailable("offset out of range"));
            }
            while *at < stable {
                let offset = *at;
                *at += 1;
                let log = &world.kafka.partition(partition).log;
                if let Some(Entry::Data { transaction, data }) = log.get(offset as usize) {
                    let (transaction, data) = (*transaction, data.clone());
                    if world.kafka.transactions[transaction].state == State::Committed {
                        sink(Record {
                            partition,
                            offset,
                            timestamp_ms: data.timestamp_ms,
                            key: Some(data.key.as_bytes()),
                            value: Some(data.value.as_bytes()),
                        });
                        return Ok(Polled::Record);
                    }
                }
            }
            told_end.insert(partition);
            Ok(Polled::End(partition))
        })
    }
}

/// A transactional producer.
pub struct SimWriter {
    run: Run,
    name: &'static str,
    epoch: u32,
    /// The topic's life that the run knows.
    made: u64,
}

impl SimWriter {
    pub fn new(run: &Run, name: &'static str) -> Self {
        let made = run.world().kafka.made;
        Self { run: run.clone(), name, epoch: 0, made }
    }
}

impl Fence for SimWriter {
    fn fence(&mut self) -> Result<()> {
        let name = self.name;
        if mutant::is("no fence") {
            self.epoch = self.run.world().kafka.epochs.get(name).copied().unwrap_or(0);
            return Ok(());
        }
        self.epoch = self.run.write(
            "kafka: fence",
            |_| {},
            move |world| {
                let epoch = world.kafka.epochs.entry(name).or_default();
                *epoch += 1;
                let epoch = *epoch;
                for index in 0..world.kafka.transactions.len() {
                    let transaction = &mut world.kafka.transactions[index];
                    if transaction.producer == name {
                        if transaction.state == State::Open {
                            transaction.state = State::Aborted;
                        }
                        world.kafka.mark(index);
                    }
                }
                Ok(epoch)
            },
        )?;
        Ok(())
    }

    fn send(&mut self, batch: &RowBatch, indices: &[usize]) -> Result<Sent> {
        let (name, epoch) = (self.name, self.epoch);
        let too_large: BTreeSet<i32> = indices
            .iter()
            .filter(|&&index| batch.row(index).value.len() > MAX_VALUE)
            .map(|&index| partition_of(batch.row(index).key))
            .collect();
        if !too_large.is_empty() {
            let suspects =
                indices.iter().copied().filter(|&index| too_large.contains(&partition_of(batch.row(index).key)));
            return Ok(Sent::TooLarge(suspects.collect()));
        }
        let records: Vec<(i32, Data)> = indices
            .iter()
            .map(|&index| {
                let row = batch.row(index);
                let data = Data {
                    key: String::from_utf8_lossy(row.key).into_owned(),
                    value: String::from_utf8_lossy(row.value).into_owned(),
                    timestamp_ms: batch.timestamp_ms,
                    version: row.version,
                };
                (partition_of(row.key), data)
            })
            .collect();
        let prefix = records[..records.len() / 2].to_vec();
        let append = move |world: &mut World, records: Vec<(i32, Data)>| {
            world.require_epoch(name, epoch)?;
            let transaction = world.kafka.begin(name);
            let places: Vec<RecordPosition> =
                records.into_iter().map(|(partition, data)| world.kafka.append(transaction, partition, data)).collect();
            Ok((transaction, places))
        };
        let (transaction, places) = self.run.write(
            "kafka: send rows",
            move |world| drop(append(world, prefix)),
            move |world| append(world, records),
        )?;
        let commit = move |world: &mut World| world.commit_transaction(name, epoch, transaction);
        if mutant::is("flag before the acknowledgement") {
            self.run.world().later("kafka: commit rows", 6, move |world| drop(commit(world)));
        } else {
            self.run.write("kafka: commit rows", |_| {}, commit)?;
        }
        Ok(Sent::Committed(places))
    }

    fn commit(&mut self, offsets: &[OffsetCommit], dead: &[DeadLetter]) -> Result<()> {
        let (name, epoch, offsets, made) = (self.name, self.epoch, offsets.to_vec(), self.made);
        let dead: Vec<RecordId> = dead
            .iter()
            .map(|letter| RecordId {
                partition: letter.partition,
                offset: letter.offset,
                timestamp_ms: letter.timestamp_ms,
            })
            .collect();
        if mutant::is("dead letters outside the offsets' transaction") && !dead.is_empty() {
            let dead = dead.clone();
            self.run.write(
                "kafka: send dead letters",
                |_| {},
                move |world| {
                    world.kafka.dead.extend(dead);
                    Ok(())
                },
            )?;
            return self.run.write(
                "kafka: commit offsets",
                |_| {},
                move |world| world.commit_offsets(name, (epoch, made), offsets, &[]),
            );
        }
        let what = if dead.is_empty() { "kafka: commit offsets" } else { "kafka: commit offsets and dead letters" };
        self.run.write(what, |_| {}, move |world| world.commit_offsets(name, (epoch, made), offsets, &dead))
    }
}

impl World {
    fn commit_offsets(
        &mut self,
        producer: &'static str,
        (epoch, made): (u32, u64),
        offsets: Vec<OffsetCommit>,
        dead: &[RecordId],
    ) -> Result<()> {
        self.require_epoch(producer, epoch)?;
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

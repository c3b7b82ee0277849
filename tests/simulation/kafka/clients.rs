//! Kafka's clients, as the legs know them: a reader of committed records, and a transactional producer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pg2ch::data::{DeadLetter, Offsets, Record, RecordId, RecordPosition, RowBatch};
use pg2ch::error::Result;
use pg2ch::mutant;
use pg2ch::ports::topic::{Committed, End, Fence, Of, OffsetCommit, Polled, Sent, Survey, TopicLog};

use super::{Data, Entry, Kafka, MAX_VALUE, PARTITIONS, State, partition_of};
use crate::postgres::id_of;
use crate::world::{Run, World, unavailable};

/// A reader of committed records.
pub struct SimLog {
    run: Run,
    next: Offsets,
    /// The ends that were known when that was assigned.
    until: Offsets,
    told_end: BTreeSet<i32>,
    /// What the first survey says, if it was made before.
    ahead: Option<Survey>,
    /// The last survey for a consume leg, for planted faults.
    last: Option<Survey>,
    /// What the leg before has found.
    kept: Option<Survey>,
    /// The topic's life that was surveyed last.
    pub made: u64,
}

impl SimLog {
    pub fn new(run: &Run, ahead: Option<Survey>) -> Self {
        let made = run.world().kafka.made;
        Self {
            run: run.clone(),
            next: Offsets::new(),
            until: Offsets::new(),
            told_end: BTreeSet::new(),
            ahead,
            last: None,
            kept: None,
            made,
        }
    }

    fn offsets(&self, what: &'static str, of: impl Fn(&Kafka, i32) -> i64) -> Result<Offsets> {
        self.run
            .read(what, |world| Ok((0..PARTITIONS).map(|partition| (partition, of(&world.kafka, partition))).collect()))
    }
}

impl SimLog {
    /// What a fault believes without asking again.
    fn believed(&self, of: Of) -> Option<Survey> {
        let is_asked_again = matches!(of, Of::Nobody);
        self.last.clone().filter(|_| is_asked_again && mutant::is("ends older than the offsets are believed"))
    }

    /// The answers come in any order.
    fn survey_anew(&mut self, of: Of) -> Result<Survey> {
        self.partitions()?;
        self.made = self.run.world().kafka.made;
        let mut survey = Survey::default();
        let mut questions = [0, 1, 2, 3];
        self.run.world().rng.shuffle(&mut questions);
        for question in questions {
            match (question, of) {
                (0, _) => survey.starts = self.starts()?,
                (1, _) => survey.stable = self.ends(End::Stable)?,
                (2, _) => survey.written = self.ends(End::Written)?,
                (_, Of::Nobody) => {}
                (_, Of::Before) => survey.committed = self.committed_before()?,
                (_, Of::Now) => survey.committed = self.committed()?,
            }
        }
        Ok(survey)
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

    fn survey(&mut self, of: Of) -> Result<Survey> {
        if let Some(believed) = self.believed(of) {
            return Ok(believed);
        }
        let mut survey = match (self.ahead.take(), of) {
            (Some(survey), Of::Before) => survey,
            _ => {
                self.run.surveys(true);
                let survey = self.survey_anew(of);
                self.run.surveys(false);
                survey?
            }
        };
        if mutant::is("the stable end is taken at once") && matches!(of, Of::Nobody) {
            survey.written.clear();
        }
        if let (Of::Now, Some(before)) = (of, &self.last)
            && mutant::is("offsets are not read again behind the fence")
        {
            survey.committed.clone_from(&before.committed);
        }
        if !matches!(of, Of::Nobody) {
            self.last = Some(survey.clone());
        }
        Ok(survey)
    }

    fn survey_beside<T>(&mut self, of: Of, work: impl FnOnce() -> Result<T>) -> Result<(Survey, T)> {
        let (survey, done) = self.run.clone().in_any_order(|| self.survey(of), work);
        let done = done?;
        Ok((survey?, done))
    }

    fn keep_survey(&mut self, survey: Survey) {
        self.kept = Some(survey);
    }

    fn kept_survey(&mut self) -> Option<Survey> {
        self.kept.take()
    }

    /// Far away more happens at once.
    fn is_distant(&self) -> bool {
        true
    }

    fn read_from(&mut self, from: &Offsets, until: &Offsets) -> Result<()> {
        self.next.clone_from(from);
        self.until.clone_from(until);
        self.told_end.clear();
        Ok(())
    }

    fn poll(&mut self, _wait: Duration, sink: &mut dyn FnMut(Record<'_>)) -> Result<Polled> {
        let Self { run, next, until, told_end, .. } = self;
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
                            key: data.key.as_deref().map(str::as_bytes),
                            value: Some(data.value.as_bytes()),
                            headers: &|| data.headers.clone(),
                        });
                        return Ok(Polled::Record);
                    }
                }
            }
            if until.get(&partition).is_some_and(|until| world.kafka.written(partition) < *until) {
                // The topic was made again: there is nothing at the end that it had.
                return Err(unavailable("offset out of range"));
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
    /// What it has fenced its predecessors with; 0 before that.
    epoch: u32,
    /// The topic's life that the run knows.
    made: u64,
    /// Whether it fences when it first sends.
    is_late: bool,
    /// Whether an earlier run of the process has made it.
    is_kept: bool,
}

impl SimWriter {
    pub fn new(run: &Run, name: &'static str) -> Self {
        let made = run.world().kafka.made;
        let is_late = name == "rows" && mutant::is("the window is read before the fence");
        Self { run: run.clone(), name, epoch: 0, made, is_late, is_kept: false }
    }

    /// The same in the hands of another run.
    pub fn of_run(self, run: &Run, made: u64) -> Self {
        Self { run: run.clone(), made, is_kept: true, ..self }
    }
}

impl SimWriter {
    /// The rows of the requests that are refused, because one of their rows is too large: some rows of a partition make a request.
    fn suspects(&self, batch: &RowBatch, indices: &[usize]) -> Vec<usize> {
        let is_too_large = |index: &usize| batch.row(*index).value.len() > MAX_VALUE;
        if !indices.iter().any(is_too_large) {
            return Vec::new();
        }
        let mut of_partition: BTreeMap<i32, Vec<usize>> = BTreeMap::new();
        for &index in indices {
            of_partition.entry(partition_of(batch.row(index).record_key.unwrap_or_default())).or_default().push(index);
        }
        let rows = self.run.world().rng.usize(1..=3);
        let requests = of_partition.values().flat_map(|rows_of| rows_of.chunks(rows));
        let mut suspects: Vec<usize> =
            requests.filter(|rows| rows.iter().any(is_too_large)).flatten().copied().collect();
        suspects.sort_unstable();
        suspects
    }
}

impl Fence for SimWriter {
    fn fence(&mut self) -> Result<()> {
        let name = self.name;
        if self.epoch > 0 || self.is_late {
            return Ok(());
        }
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

    fn is_kept(&self) -> bool {
        self.is_kept
    }

    fn send(&mut self, batch: &RowBatch, indices: &[usize]) -> Result<Sent> {
        if std::mem::take(&mut self.is_late) {
            self.fence()?;
        }
        let (name, epoch) = (self.name, self.epoch);
        let suspects = self.suspects(batch, indices);
        if !suspects.is_empty() {
            return Ok(Sent::TooLarge(suspects));
        }
        let records: Vec<(i32, Data)> = indices
            .iter()
            .map(|&index| {
                let row = batch.row(index);
                let data = Data {
                    row: id_of(row.key).unwrap_or_default(),
                    key: row.record_key.map(|key| String::from_utf8_lossy(key).into_owned()),
                    value: String::from_utf8_lossy(row.value).into_owned(),
                    headers: row.headers.bytes().to_vec(),
                    timestamp_ms: batch.timestamp_ms,
                    version: row.version,
                };
                (partition_of(row.record_key.unwrap_or_default()), data)
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

//! Questions about the offsets of a topic and of a group, one by one or all of them at once.

use std::collections::BTreeMap;
use std::time::Instant;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

use super::{ASK, KafkaLog};
use crate::data::Offsets;
use crate::error::{Error, Result};
use crate::kafka::client::Context;
use crate::kafka::explain::explain;
use crate::ports::topic::{Committed, Of, Survey};
use crate::sync::{ScopedJoinHandle, scope, spawn_scoped};

/// How often everything is asked again because the topic has got other partitions meanwhile.
const ROUNDS: usize = 5;

impl KafkaLog {
    /// Asks for all of it at once, and for the partitions beside it: those that were known may be out of date, and a window or
    /// a backlog in one that is not known would be passed over.
    pub(super) fn query_all(&mut self, of: Of) -> Result<Survey> {
        self.load_partitions()?;
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let written_reader = self.written_reader()?;
            let (survey, partitions) = self.query_side_by_side(&written_reader, of)?;
            if partitions == self.partitions {
                let trip = begun.elapsed();
                self.trip = Some(self.trip.map_or(trip, |shortest| shortest.min(trip)));
                return survey;
            }
            self.partitions = partitions;
        }
        Err(Error::unavailable(
            self.what(ASK),
            "its brokers do not agree on its partitions",
            "check the brokers; the next run resumes here",
        ))
    }

    /// What was found, and the partitions as they are now: if they are others, the rest says nothing.
    fn query_side_by_side(&self, written_reader: &BaseConsumer<Context>, of: Of) -> Result<(Result<Survey>, Vec<i32>)> {
        let committed_reader = &*self.committed_reader;
        scope(|scope| {
            let beside = |name, consumer, at| {
                let asked = spawn_scoped(scope, name, move || self.offsets_at(consumer, at));
                asked.map_err(|error| self.no_thread(error))
            };
            let starts = beside("starts", committed_reader, Offset::Beginning)?;
            let stable = beside("stable ends", committed_reader, Offset::End)?;
            let written = beside("written ends", written_reader, Offset::End)?;
            let partitions = spawn_scoped(scope, "partitions", || self.query_partitions());
            let partitions = partitions.map_err(|error| self.no_thread(error))?;
            let committed = match of {
                Of::Nobody => Ok(BTreeMap::new()),
                Of::Before => self.offsets_of_group(written_reader),
                Of::Now => self.offsets_of_group(committed_reader),
            };
            let partitions = self.answer(partitions)?;
            let survey = || {
                let (starts, stable, written) = (self.answer(starts)?, self.answer(stable)?, self.answer(written)?);
                Ok(Survey { starts, stable, written, committed: committed? })
            };
            Ok((survey(), partitions))
        })
    }

    fn answer<T>(&self, asked: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
        asked.join().map_err(|_| Error::bug(self.what(ASK), "a question's thread has ended"))?
    }

    fn no_thread(&self, error: std::io::Error) -> Error {
        Error::unavailable(self.what(ASK), error, "raise the limit on threads (ulimit -u)")
    }

    /// The topic's partitions, ascending. Never empty.
    pub(super) fn query_partitions(&self) -> Result<Vec<i32>> {
        let metadata = self.in_turns("find", |turn| self.committed_reader.fetch_metadata(Some(&self.topic), turn))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let error = topic.and_then(MetadataTopic::error).map(Code::from);
        let mut partitions: Vec<i32> =
            topic.map(|topic| topic.partitions().iter().map(MetadataPartition::id).collect()).unwrap_or_default();
        partitions.sort_unstable();
        let missing = partitions.is_empty().then_some(Code::UnknownTopicOrPartition);
        match error.or(missing) {
            Some(code) => Err(explain(&self.what("find"), &KafkaError::MetadataFetch(code), None, &self.uses)),
            None => Ok(partitions),
        }
    }

    /// Asks `consumer` for one offset of every partition at once: [`Offset::Beginning`] or [`Offset::End`], which go where
    /// librdkafka takes a timestamp (ListOffsets knows them as -2 and -1).
    pub(super) fn offsets_at(&self, consumer: &BaseConsumer<Context>, at: Offset) -> Result<Offsets> {
        let wanted = self.list(|_| Some(at))?;
        self.offsets_in(self.call(ASK, || consumer.offsets_for_times(wanted, self.limit)))
    }

    /// The offsets in the answer to such a question.
    pub(super) fn offsets_in(&self, found: Result<TopicPartitionList, KafkaError>) -> Result<Offsets> {
        let mut offsets = Offsets::new();
        for element in self.explained(ASK, found)?.elements() {
            self.explained(ASK, element.error())?;
            if let Offset::Offset(offset) = element.offset() {
                offsets.insert(element.partition(), offset);
            }
        }
        Ok(offsets)
    }

    pub(super) fn offsets_of_group(&self, reader: &BaseConsumer<Context>) -> Result<BTreeMap<i32, Committed>> {
        let list = self.list(|_| Some(Offset::Invalid))?;
        let verb = format!("read the offsets of group {} in", self.group);
        let found = self.in_turns(&verb, |turn| reader.committed_offsets(list.clone(), turn))?;
        let mut committed = BTreeMap::new();
        for element in found.elements() {
            self.explained(&verb, element.error())?;
            if let Offset::Offset(next) = element.offset() {
                committed.insert(element.partition(), Committed { next, metadata: metadata_of(&element) });
            }
        }
        Ok(committed)
    }

    /// The group's offsets in partitions of other topics, as far as it has any there and they may be read.
    ///
    /// # Errors
    /// Any Kafka error.
    pub fn committed_elsewhere<T>(&self, places: Vec<(T, String, i32)>) -> Result<Vec<(T, String, i32, Committed)>> {
        let mut list = TopicPartitionList::new();
        for (_, topic, partition) in &places {
            list.add_partition(topic, *partition);
        }
        let verb = format!("read the offsets of group {} besides", self.group);
        let found = self.in_turns(&verb, |turn| self.committed_reader.committed_offsets(list.clone(), turn))?;
        let committed = places.into_iter().filter_map(|(of, topic, partition)| {
            let element = found.find_partition(&topic, partition).filter(|element| element.error().is_ok())?;
            let Offset::Offset(next) = element.offset() else { return None };
            Some((of, topic, partition, Committed { next, metadata: metadata_of(&element) }))
        });
        Ok(committed.collect())
    }
}

/// The text beside an offset. Another client may have committed bytes that are no UTF-8, on which the library panics.
fn metadata_of(element: &TopicPartitionListElem<'_>) -> String {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| element.metadata().to_owned())).unwrap_or_default()
}

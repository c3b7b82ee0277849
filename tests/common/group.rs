//! The offsets of a world's consumer group, and what others do to them.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::World;

impl World {
    /// Commits offsets for the group as an ordinary consumer does: a plain commit, no metadata of ours.
    pub fn set_offsets(&self, offsets: &[(i32, i64)]) {
        let consumer: BaseConsumer = self.client().set("group.id", &self.name).create().unwrap();
        let mut list = TopicPartitionList::new();
        for &(partition, offset) in offsets {
            list.add_partition_offset(&self.name, partition, Offset::Offset(offset)).unwrap();
        }
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// The group's offsets, with their metadata.
    pub fn offsets(&self) -> Vec<(i32, i64, String)> {
        let consumer: BaseConsumer = self.client().set("group.id", &self.name).create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&self.name), Duration::from_secs(10)).unwrap();
        let mut list = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            list.add_partition(&self.name, partition.id());
        }
        let committed = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
        let mut offsets: Vec<_> = committed
            .elements()
            .iter()
            .filter_map(|e| match e.offset() {
                Offset::Offset(offset) => Some((e.partition(), offset, e.metadata().to_owned())),
                _ => None,
            })
            .collect();
        offsets.sort();
        offsets
    }

    /// Commits offsets with the metadata that they had.
    pub fn restore_offsets(&self, offsets: &[(i32, i64, String)]) {
        let consumer: BaseConsumer = self.client().set("group.id", &self.name).create().unwrap();
        let mut list = TopicPartitionList::new();
        for (partition, offset, metadata) in offsets {
            let mut element = list.add_partition(&self.name, *partition);
            element.set_offset(Offset::Offset(*offset)).unwrap();
            element.set_metadata(metadata);
        }
        consumer.commit(&list, CommitMode::Sync).unwrap();
    }

    /// Deletes the group's offsets, as an operator does with `kafka-consumer-groups.sh`.
    pub fn delete_group(&self) {
        let options = super::topic::admin_options();
        let results = pollster::block_on(self.admin().delete_groups(&[&self.name], &options)).unwrap();
        results.into_iter().for_each(|result| drop(result.unwrap()));
    }
}

//! Records fetched together: a contiguous range of each of some partitions.

use std::collections::BTreeMap;
use std::ops::Range;

use super::position::LastRecord;
use crate::clickhouse::{Ranges, RecordId};
use crate::kafka::Record;

/// Records in one buffer, by partition and offset once they are [sorted](RecordBatch::sort).
#[derive(Clone, Debug, Default)]
pub struct RecordBatch {
    /// What the batch covers, the offsets of control records and deleted ones included.
    pub ranges: Ranges,
    text: Vec<u8>,
    records: Vec<Span>,
}

#[derive(Clone, Debug)]
struct Span {
    id: RecordId,
    start: usize,
    key_len: Option<u32>,
    value_len: Option<u32>,
}

impl RecordBatch {
    /// Makes room for a batch of that size at once: growing by doubling would cost twice the memory.
    pub fn reserve(&mut self, records: usize, bytes: usize) {
        self.records.reserve_exact(records);
        self.text.reserve_exact(bytes);
    }

    /// Empties it, keeping its memory for the next batch.
    #[must_use]
    pub fn emptied(mut self) -> Self {
        self.ranges.clear();
        self.text.clear();
        self.records.clear();
        self
    }

    /// Appends a record.
    pub fn push(&mut self, record: &Record<'_>) {
        let start = self.text.len();
        let mut append = |part: Option<&[u8]>| {
            part.map(|bytes| {
                self.text.extend_from_slice(bytes);
                // A record is smaller than 2 GiB: the protocol's sizes are signed 32-bit numbers.
                u32::try_from(bytes.len()).unwrap_or(u32::MAX)
            })
        };
        let (key_len, value_len) = (append(record.key), append(record.value));
        let id = RecordId { partition: record.partition, offset: record.offset, timestamp_ms: record.timestamp_ms };
        self.records.push(Span { id, start, key_len, value_len });
    }

    /// Puts the records into the order of partition and offset, in which each index range covers contiguous ranges.
    pub fn sort(&mut self) {
        self.records.sort_by_key(|span| (span.id.partition, span.id.offset));
    }

    /// The number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it has no records; it may still cover control records.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The size of all keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The identity of record `index`.
    #[must_use]
    pub fn id(&self, index: usize) -> RecordId {
        self.records[index].id
    }

    /// Record `index`, which must be below [`len`](Self::len).
    #[must_use]
    pub fn record(&self, index: usize) -> Record<'_> {
        let span = &self.records[index];
        let key_end = span.start + span.key_len.unwrap_or(0) as usize;
        let value_end = key_end + span.value_len.unwrap_or(0) as usize;
        Record {
            partition: span.id.partition,
            offset: span.id.offset,
            timestamp_ms: span.id.timestamp_ms,
            key: span.key_len.map(|_| &self.text[span.start..key_end]),
            value: span.value_len.map(|_| &self.text[key_end..value_end]),
        }
    }

    /// What the records `part` cover: together with the other parts of a division, all of the batch's ranges.
    #[must_use]
    pub fn ranges_of(&self, part: &Range<usize>) -> Ranges {
        let first = part.start.checked_sub(1).map(|before| self.id(before));
        let last = (part.end < self.len()).then(|| self.id(part.end - 1));
        let mut ranges = Ranges::new();
        for (&partition, &(start, end)) in &self.ranges {
            // Where the part before this one ended, and where this one ends, if that is inside the partition.
            let start = match first {
                Some(before) if before.partition > partition => continue,
                Some(before) if before.partition == partition => before.offset + 1,
                _ => start,
            };
            let end = match last {
                Some(last) if last.partition < partition => continue,
                Some(last) if last.partition == partition => last.offset + 1,
                _ => end,
            };
            if start < end {
                ranges.insert(partition, (start, end));
            }
        }
        ranges
    }

    /// The last record of each partition within `part`.
    #[must_use]
    pub fn last_of(&self, part: &Range<usize>) -> BTreeMap<i32, LastRecord> {
        self.records[part.clone()]
            .iter()
            .map(|span| (span.id.partition, LastRecord { offset: span.id.offset, timestamp_ms: span.id.timestamp_ms }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(records: &[(i32, i64)], ranges: &[(i32, (i64, i64))]) -> RecordBatch {
        let mut batch = RecordBatch { ranges: ranges.iter().copied().collect(), ..RecordBatch::default() };
        for &(partition, offset) in records {
            batch.push(&Record { partition, offset, timestamp_ms: 5, key: None, value: Some(b"v") });
        }
        batch.sort();
        batch
    }

    #[test]
    fn the_parts_of_a_division_cover_the_ranges_once() {
        // Partition 1 has no records, 2 ends with a control record.
        let batch = batch(&[(2, 7), (0, 0), (0, 2), (2, 5)], &[(0, (0, 4)), (1, (9, 11)), (2, (5, 9))]);
        let expected = [
            (0..1, vec![(0, (0, 1))]),
            (1..4, vec![(0, (1, 4)), (1, (9, 11)), (2, (5, 9))]),
            (0..2, vec![(0, (0, 3))]),
            (2..4, vec![(0, (3, 4)), (1, (9, 11)), (2, (5, 9))]),
            (2..3, vec![(0, (3, 4)), (1, (9, 11)), (2, (5, 6))]),
            (3..4, vec![(2, (6, 9))]),
            (0..4, vec![(0, (0, 4)), (1, (9, 11)), (2, (5, 9))]),
        ];
        for (part, ranges) in expected {
            assert_eq!(batch.ranges_of(&part), ranges.into_iter().collect(), "{part:?}");
        }
    }

    #[test]
    fn a_batch_of_control_records_covers_its_ranges() {
        let batch = batch(&[], &[(0, (3, 4))]);
        assert_eq!(batch.ranges_of(&(0..0)), [(0, (3, 4))].into());
    }
}

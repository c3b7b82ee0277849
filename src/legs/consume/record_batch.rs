//! Records fetched together, on their way to be encoded.

use crate::data::{Ranges, Record, RecordId};

/// The values of records in one buffer, in the order in which they came: a row is made of nothing else.
#[derive(Clone, Debug, Default)]
pub struct RecordBatch {
    /// What it covers, the offsets of control records and deleted ones included: a contiguous range of each of some
    /// partitions.
    pub ranges: Ranges,
    /// Whether none follows it.
    pub is_last: bool,
    text: Vec<u8>,
    records: Vec<Span>,
}

#[derive(Clone, Debug)]
struct Span {
    id: RecordId,
    /// Where its value ends, and the next one's begins.
    end: usize,
    is_tombstone: bool,
}

impl RecordBatch {
    /// Empties it, keeping its memory for the next records.
    #[must_use]
    pub fn emptied(mut self) -> Self {
        self.ranges.clear();
        self.is_last = false;
        self.text.clear();
        self.records.clear();
        self
    }

    /// Appends a record.
    pub fn push(&mut self, record: &Record<'_>) {
        self.text.extend_from_slice(record.value.unwrap_or_default());
        let (id, end) = (RecordId::of(record), self.text.len());
        self.records.push(Span { id, end, is_tombstone: record.value.is_none() });
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

    /// The size of all values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The records' identities and values; a tombstone has none.
    pub fn iter(&self) -> impl Iterator<Item = (RecordId, Option<&[u8]>)> {
        let mut start = 0;
        self.records.iter().map(move |span| {
            let value = &self.text[start..span.end];
            start = span.end;
            (span.id, (!span.is_tombstone).then_some(value))
        })
    }
}

//! Records fetched together, on their way to be encoded.

use crate::data::{Headers, Ranges, Record, RecordId};

/// Records in one buffer, in the order in which they came.
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
    start: usize,
    key_len: Option<u32>,
    value_len: Option<u32>,
    end: usize,
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
        let start = self.text.len();
        let mut append = |part: Option<&[u8]>| {
            part.map(|bytes| {
                self.text.extend_from_slice(bytes);
                // A record is smaller than 2 GiB: the protocol's sizes are signed 32-bit numbers.
                u32::try_from(bytes.len()).unwrap_or(u32::MAX)
            })
        };
        let (key_len, value_len) = (append(record.key), append(record.value));
        self.text.extend_from_slice(record.headers.bytes());
        let (id, end) = (RecordId::of(record), self.text.len());
        self.records.push(Span { id, start, key_len, value_len, end });
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

    /// The size of all keys, values and headers.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The records.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.records.iter().map(|span| {
            let key_end = span.start + span.key_len.unwrap_or(0) as usize;
            let value_end = key_end + span.value_len.unwrap_or(0) as usize;
            Record {
                partition: span.id.partition,
                offset: span.id.offset,
                timestamp_ms: span.id.timestamp_ms,
                key: span.key_len.map(|_| &self.text[span.start..key_end]),
                value: span.value_len.map(|_| &self.text[key_end..value_end]),
                headers: Headers::of(&self.text[value_end..span.end]),
            }
        })
    }
}

//! The rows of an INSERT, encoded, and which records they are of.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

use super::position::LastRecord;
use crate::clickhouse::encode::Shape;
use crate::data::{Ranges, RecordId};

/// Records whose rows are encoded: a contiguous range of each of some partitions.
///
/// The records' own bytes are not kept: a row is enough, and the few that the columns do not take are read again.
#[derive(Debug, Default)]
pub struct Prepared {
    /// What it covers, the offsets of control records and deleted ones included.
    pub ranges: Ranges,
    /// The header of the first shape, and the encoded rows, in the order in which their records came.
    body: Vec<u8>,
    /// What an INSERT of rows of each shape begins with.
    headers: Vec<Vec<u8>>,
    /// Whether every row is of the first shape, so that the body is an INSERT's.
    is_mixed: bool,
    /// By partition and offset once they are [sorted](Prepared::sort).
    records: Vec<Encoded>,
    /// What the columns do not take, and why; likewise sorted.
    refused: Vec<(RecordId, String)>,
    /// The size of their values.
    refused_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Encoded {
    id: RecordId,
    /// Where its row begins in the body.
    start: usize,
    /// The row's length; 0 if the columns do not take the record.
    len: u32,
    /// Which columns the row has.
    shape: Shape,
}

/// Extends `covered` to the ends of `ranges`.
pub(super) fn cover(covered: &mut Ranges, ranges: &Ranges) {
    for (&partition, &(start, end)) in ranges {
        covered.entry(partition).or_insert((start, end)).1 = end;
    }
}

impl Encoded {
    const fn place(&self) -> (i32, i64) {
        (self.id.partition, self.id.offset)
    }
}

impl Prepared {
    /// Makes room for rows of that size at once: growing by doubling would cost twice the memory.
    pub fn reserve(&mut self, records: usize, bytes: usize) {
        self.records.reserve_exact(records);
        self.body.reserve_exact(bytes);
    }

    /// Begins the body with the header of the first shape.
    pub fn begin(&mut self, headers: Vec<Vec<u8>>) {
        self.body.extend_from_slice(headers.first().map_or(&[], Vec::as_slice));
        self.headers = headers;
    }

    /// The headers of all shapes that the rows have.
    pub fn set_headers(&mut self, headers: Vec<Vec<u8>>) {
        self.headers = headers;
    }

    /// Empties it, keeping its memory for the next rows.
    #[must_use]
    pub fn emptied(mut self) -> Self {
        self.ranges.clear();
        self.body.clear();
        self.is_mixed = false;
        self.records.clear();
        self.refused.clear();
        self.refused_bytes = 0;
        self
    }

    /// Covers `ranges`, too, which begin where those before them ended.
    pub fn cover(&mut self, ranges: &Ranges) {
        cover(&mut self.ranges, ranges);
    }

    /// Adds the record of this identity and value, whose row `encode` appends to the body, or refuses with a reason.
    pub fn push(
        &mut self,
        id: RecordId,
        value: Option<&[u8]>,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<Shape, String>,
    ) {
        let start = self.body.len();
        let shape = encode(&mut self.body).unwrap_or_else(|reason| {
            self.refused_bytes += value.map_or(0, <[u8]>::len);
            self.refused.push((id, reason));
            0
        });
        self.is_mixed |= shape != 0;
        // A row is hardly larger than its record, which is smaller than 2 GiB.
        let len = u32::try_from(self.body.len() - start).unwrap_or(u32::MAX);
        self.records.push(Encoded { id, start, len, shape });
    }

    /// Puts the records into the order of partition and offset, in which each index range covers contiguous ranges.
    pub fn sort(&mut self) {
        // They came as runs, which a stable sort merges.
        self.records.sort_by_key(Encoded::place);
        self.refused.sort_by_key(|(id, _)| (id.partition, id.offset));
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

    /// The size of the rows, and of the values that are refused.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.body.len() + self.refused_bytes
    }

    /// The identity of record `index`.
    #[must_use]
    pub fn id(&self, index: usize) -> RecordId {
        self.records[index].id
    }

    /// The indices of those records of `part` that have a row.
    #[must_use]
    pub fn rows(&self, part: &Range<usize>) -> Vec<usize> {
        part.clone().filter(|&index| self.records[index].len > 0).collect()
    }

    /// The records of `part` that the columns do not take, with their indices and the reasons.
    pub fn refused(&self, part: &Range<usize>) -> impl Iterator<Item = (usize, &str)> {
        self.refused.iter().filter_map(move |(id, reason)| {
            let index = self.records.binary_search_by_key(&(id.partition, id.offset), Encoded::place).ok()?;
            part.contains(&index).then_some((index, reason.as_str()))
        })
    }

    /// The records in parts whose rows are of one shape each: a single one, but where a column with a DEFAULT was added to the
    /// source or dropped from it.
    #[must_use]
    pub fn parts(&self) -> Vec<Range<usize>> {
        let (mut parts, mut start, mut shape) = (Vec::new(), 0, None);
        for (at, record) in self.records.iter().enumerate().filter(|(_, record)| record.len > 0) {
            if shape.is_some_and(|shape| shape != record.shape) {
                parts.push(start..at);
                start = at;
            }
            shape = Some(record.shape);
        }
        parts.push(start..self.records.len());
        parts
    }

    /// Whether every record has a row, all of one shape.
    #[must_use]
    pub const fn fits_one_insert(&self) -> bool {
        self.refused.is_empty() && !self.is_mixed
    }

    /// The body of an INSERT of the records `indices`, whose rows are of one shape.
    #[must_use]
    pub fn body_of(&self, indices: &[usize]) -> Cow<'_, [u8]> {
        if indices.len() == self.records.len() - self.refused.len() && !self.is_mixed {
            return Cow::Borrowed(&self.body);
        }
        let shape = indices.first().map_or(0, |&index| self.records[index].shape);
        let mut body = self.headers.get(usize::from(shape)).cloned().unwrap_or_default();
        indices.iter().for_each(|&index| body.extend_from_slice(self.row(index)));
        Cow::Owned(body)
    }

    /// The row of record `index`; nothing if the columns do not take it.
    #[must_use]
    pub fn row(&self, index: usize) -> &[u8] {
        let Encoded { start, len, .. } = self.records[index];
        &self.body[start..start + len as usize]
    }

    /// What the records `part` cover: together with the other parts of a division, all of the ranges.
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
            .map(|Encoded { id, .. }| (id.partition, LastRecord { offset: id.offset, timestamp_ms: id.timestamp_ms }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(records: &[(i32, i64)], ranges: &[(i32, (i64, i64))]) -> Prepared {
        let mut prepared = Prepared { ranges: ranges.iter().copied().collect(), ..Prepared::default() };
        prepared.begin(vec![b"all: ".to_vec(), b"some: ".to_vec()]);
        for &(partition, offset) in records {
            prepared.push(RecordId { partition, offset, timestamp_ms: 5 }, Some(b"v"), |body| {
                if offset == 5 {
                    return Err("five".into());
                }
                body.extend_from_slice(format!("{partition}.{offset} ").as_bytes());
                Ok(Shape::from(offset == 2))
            });
        }
        prepared.sort();
        prepared
    }

    #[test]
    fn the_parts_of_a_division_cover_the_ranges_once() {
        // Partition 1 has no records, 2 ends with a control record.
        let prepared = prepared(&[(2, 7), (0, 0), (0, 2), (2, 5)], &[(0, (0, 4)), (1, (9, 11)), (2, (5, 9))]);
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
            assert_eq!(prepared.ranges_of(&part), ranges.into_iter().collect(), "{part:?}");
        }
    }

    #[test]
    fn a_batch_of_control_records_covers_its_ranges() {
        let prepared = prepared(&[], &[(0, (3, 4))]);
        assert_eq!(prepared.ranges_of(&(0..0)), [(0, (3, 4))].into());
    }

    #[test]
    fn every_record_finds_its_row_again_whatever_the_order_in_which_they_came() {
        let prepared = prepared(&[(2, 7), (0, 0), (2, 5), (0, 2)], &[]);
        assert_eq!(prepared.rows(&(0..4)), [0, 1, 3], "the one at offset 5 is refused");
        assert_eq!(*prepared.body_of(&[0, 3]), *b"all: 0.0 2.7 ");
        assert_eq!(*prepared.body_of(&[1]), *b"some: 0.2 ", "of another shape, and so an INSERT of its own");
        assert_eq!(prepared.parts(), [0..1, 1..3, 3..4], "what is refused goes with what comes before");
        assert_eq!(prepared.refused(&(1..4)).collect::<Vec<_>>(), [(2, "five")]);
        assert_eq!(prepared.refused(&(0..2)).count(), 0);
    }

    #[test]
    fn what_follows_on_is_covered_with_what_was_before() {
        let mut prepared = prepared(&[], &[(0, (3, 4)), (2, (1, 5))]);
        prepared.cover(&[(0, (4, 9)), (1, (0, 2))].into());
        assert_eq!(prepared.ranges, [(0, (3, 9)), (1, (0, 2)), (2, (1, 5))].into());
    }
}

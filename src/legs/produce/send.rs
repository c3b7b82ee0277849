//! Sends each batch as one Kafka transaction.
//!
//! If the process dies before the commit is asked for, the next run's fence aborts the transaction and the rows go out
//! again; if it dies after, recovery finds the records behind the checkpoint and flags their rows.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use crate::data::{RecordPosition, RowBatch, SentBatch, halves};
use crate::error::{Error, Result};
use crate::mutant;
use crate::ports::source::LeftOut;
use crate::ports::topic::{Fence, LARGEST_RECORD, Sent};
use crate::report::TooLargeRow;

/// The second stage of the produce leg.
pub struct Sender<F> {
    fence: F,
    records_sent: u64,
    too_large: Vec<TooLargeRow>,
    /// Rows that were given to it and not sent.
    unsent: usize,
    order: Order,
    /// Where rows have message keys: those of the rows that were refused, behind which others of the key wait.
    stopped: HashSet<Vec<u8>>,
    /// The keys of the rows that were refused since they were taken, where rows have an order.
    refused: HashSet<Vec<u8>>,
}

/// The order in which rows go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// None that anybody may rely on.
    Any,
    /// That in which they are read.
    AsRead,
    /// The same, and a row waits for those before it that have its message key.
    ByMessageKey,
}

impl<F: Fence> Sender<F> {
    /// Makes the stage on a producer that has fenced its predecessors.
    pub fn new(fence: F, order: Order) -> Self {
        let (stopped, refused) = (HashSet::new(), HashSet::new());
        Self { fence, records_sent: 0, too_large: Vec::new(), unsent: 0, order, stopped, refused }
    }

    /// Sends a batch; returns what was committed, in one piece as a rule.
    ///
    /// A record that is too large fails its neighbours with it. So the suspects are separated from the rest and halved
    /// until each refused row stands alone; those stay unsent, and no other row waits for them but later ones with the same
    /// message key.
    ///
    /// # Errors
    /// Kafka's; the rows of the transaction under way may then be sent or not.
    pub fn step(&mut self, batch: &Arc<RowBatch>) -> Result<Vec<SentBatch>> {
        let committed = if self.order == Order::Any { self.suspects_last(batch) } else { self.in_order(batch) }?;
        self.unsent += batch.len() - committed.iter().map(|sent| sent.sent.len()).sum::<usize>();
        Ok(committed)
    }

    fn suspects_last(&mut self, batch: &Arc<RowBatch>) -> Result<Vec<SentBatch>> {
        let mut committed = Vec::with_capacity(1);
        let mut waiting: VecDeque<Vec<usize>> = VecDeque::from([(0..batch.len()).collect()]);
        while let Some(indices) = waiting.pop_front() {
            match self.fence.send(batch, &indices)? {
                Sent::Committed(positions) => {
                    let sent = indices.into_iter().zip(positions).collect();
                    committed.extend(self.sent(batch, sent));
                }
                Sent::TooLarge(suspects) => self.separate(batch, &indices, &suspects, &mut waiting),
                Sent::Partly { committed: sent, too_large } => {
                    committed.extend(self.sent(batch, sent));
                    self.separate(batch, &too_large, &too_large, &mut waiting);
                }
            }
        }
        Ok(committed)
    }

    /// In contiguous pieces, from left to right.
    fn in_order(&mut self, batch: &Arc<RowBatch>) -> Result<Vec<SentBatch>> {
        let mut committed = Vec::with_capacity(1);
        // The leftmost lies on top.
        let whole = 0..batch.len();
        let mut waiting = vec![whole];
        while let Some(piece) = waiting.pop() {
            let indices: Vec<usize> = piece.clone().filter(|&index| !self.is_stopped(batch, index)).collect();
            if indices.is_empty() {
                continue;
            }
            match self.fence.send(batch, &indices)? {
                Sent::Committed(positions) => {
                    let sent = indices.into_iter().zip(positions).collect();
                    committed.extend(self.sent(batch, sent));
                }
                Sent::TooLarge(_) if indices.len() == 1 => self.set_aside(batch, indices[0]),
                Sent::TooLarge(suspects) => waiting.extend(contiguous(&piece, &suspects)),
                Sent::Partly { .. } => {
                    return Err(Error::bug("cannot send rows in their order", "the producer has no transactions"));
                }
            }
        }
        Ok(committed)
    }

    /// Whether a row before this one, of the same message key, was refused.
    fn is_stopped(&self, batch: &RowBatch, index: usize) -> bool {
        batch.row(index).record_key.is_some_and(|key| self.stopped.contains(key))
    }

    fn stop(&mut self, key: Option<&[u8]>) {
        if mutant::is("a stopped key is not stopped") {
            return;
        }
        self.stopped.extend(key.map(<[u8]>::to_vec));
    }

    fn set_aside(&mut self, batch: &RowBatch, guilty: usize) {
        let row = batch.row(guilty);
        let key = String::from_utf8_lossy(row.key).into_owned();
        if self.order != Order::Any {
            self.refused.insert(row.key.to_vec());
        }
        let stops = row.record_key.filter(|_| self.order == Order::ByMessageKey);
        self.stop(stops);
        let stops = stops.map(|key| String::from_utf8_lossy(key).into_owned());
        let behind = match &stops {
            Some(stops) => format!(", and rows behind it of key {stops} wait until it fits or its flag is set to TRUE"),
            None => String::new(),
        };
        let raise = if row.size() < LARGEST_RECORD { "raise the topic's `max.message.bytes`, or " } else { "" };
        log::error!(
            "row {key} is too large for the topic ({} bytes); it stays unsent{behind}\n\
             hint: {raise}shorten the row; a record has at most 100 MB",
            row.size()
        );
        self.too_large.push(TooLargeRow { key, bytes: row.size(), stops });
    }

    fn sent(&mut self, batch: &Arc<RowBatch>, sent: Vec<(usize, RecordPosition)>) -> Option<SentBatch> {
        self.records_sent += sent.len() as u64;
        (!sent.is_empty()).then(|| SentBatch { rows: Arc::clone(batch), sent })
    }

    fn separate(
        &mut self,
        batch: &RowBatch,
        indices: &[usize],
        suspects: &[usize],
        waiting: &mut VecDeque<Vec<usize>>,
    ) {
        if let [guilty] = *indices {
            return self.set_aside(batch, guilty);
        }
        let innocent: Vec<usize> =
            indices.iter().copied().filter(|index| suspects.binary_search(index).is_err()).collect();
        if !innocent.is_empty() {
            waiting.push_back(innocent);
        }
        match halves(&(0..suspects.len())) {
            Some((left, right)) => waiting.extend([suspects[left].to_vec(), suspects[right].to_vec()]),
            None => waiting.push_back(suspects.to_vec()),
        }
    }

    /// The producer, for the next run.
    pub fn into_fence(self) -> F {
        self.fence
    }

    /// How many records were committed.
    pub const fn records_sent(&self) -> u64 {
        self.records_sent
    }

    /// How many rows that it was given it has not sent.
    pub const fn unsent(&self) -> usize {
        self.unsent
    }

    /// The keys of rows, and those of records, that are not to be read again; of rows, those since this was asked last.
    pub fn take_refused(&mut self) -> LeftOut {
        LeftOut { keys: std::mem::take(&mut self.refused), message_keys: self.stopped.clone() }
    }

    /// The rows that the topic does not take.
    pub fn take_too_large(&mut self) -> Vec<TooLargeRow> {
        std::mem::take(&mut self.too_large)
    }
}

/// The parts of a piece before, among and behind the suspects, or its halves: the leftmost is the last.
fn contiguous(piece: &Range<usize>, suspects: &[usize]) -> Vec<Range<usize>> {
    let first = suspects.first().copied().unwrap_or(piece.start).clamp(piece.start, piece.end);
    let behind = suspects.last().map_or(piece.end, |last| last + 1).clamp(first, piece.end);
    let mut parts = vec![behind..piece.end, first..behind, piece.start..first];
    if mutant::is("innocents first") {
        parts.swap(0, 1);
    }
    parts.retain(|part| !part.is_empty());
    if let [whole] = parts.as_slice()
        && let Some((left, right)) = halves(whole)
    {
        parts = vec![right, left];
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_split_into_contiguous_parts_of_which_the_leftmost_is_the_last() {
        assert_eq!(contiguous(&(0..10), &[3, 4, 6]), [7..10, 3..7, 0..3]);
        assert_eq!(contiguous(&(3..7), &[3, 6]), [5..7, 3..5]);
        assert_eq!(contiguous(&(3..5), &[4]), [4..5, 3..4]);
        assert_eq!(contiguous(&(0..4), &[]), [2..4, 0..2]);
    }
}

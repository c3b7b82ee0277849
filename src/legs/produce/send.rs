//! Sends each batch as one Kafka transaction.
//!
//! If the process dies before the commit is asked for, the next run's fence aborts the transaction and the rows go out
//! again; if it dies after, recovery finds the records behind the checkpoint and flags their rows.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::data::{RecordPosition, RowBatch, SentBatch, halves};
use crate::error::Result;
use crate::ports::topic::{Fence, Sent};
use crate::report::TooLargeRow;

/// The second stage of the produce leg.
pub struct Sender<F> {
    fence: F,
    records_sent: u64,
    too_large: Vec<TooLargeRow>,
}

impl<F: Fence> Sender<F> {
    /// Makes the stage on a producer that has fenced its predecessors.
    pub const fn new(fence: F) -> Self {
        Self { fence, records_sent: 0, too_large: Vec::new() }
    }

    /// Sends a batch; returns what was committed, in one piece as a rule.
    ///
    /// A record that is too large fails its neighbours with it. So the suspects are separated from the rest and halved
    /// until each refused row stands alone; those stay unsent, and no other row waits for them.
    ///
    /// # Errors
    /// Kafka's; the rows of the transaction under way may then be sent or not.
    pub fn step(&mut self, batch: &Arc<RowBatch>) -> Result<Vec<SentBatch>> {
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
            let row = batch.row(guilty);
            let key = String::from_utf8_lossy(row.key).into_owned();
            log::error!("row {key} is too large for the topic ({} bytes); it stays unsent", row.size());
            self.too_large.push(TooLargeRow { key, bytes: row.size() });
            return;
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

    /// How many records were committed.
    pub const fn records_sent(&self) -> u64 {
        self.records_sent
    }

    /// How many rows the topic does not take.
    pub const fn too_large(&self) -> usize {
        self.too_large.len()
    }

    /// The rows that the topic does not take.
    pub fn take_too_large(&mut self) -> Vec<TooLargeRow> {
        std::mem::take(&mut self.too_large)
    }
}

//! Fetches records up to the ends that were taken when the leg began.
//!
//! It changes nothing: a crash here loses nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use super::record_batch::RecordBatch;
use crate::data::Offsets;
use crate::error::{Error, Result};
use crate::ports::limits::Budget;
use crate::ports::topic::{Polled, TopicLog};

/// How much is fetched at once: enough to make handing it over cheap, and little beside the rows of an INSERT.
const HAND_OVER: BatchSize = BatchSize { records: 2048, bytes: 512 << 10 };

/// The size of an INSERT.
#[derive(Clone, Copy, Debug)]
pub struct BatchSize {
    /// Records at most.
    pub records: usize,
    /// Bytes after which no more are added.
    pub bytes: usize,
}

impl BatchSize {
    /// The size of the batches of which an INSERT of this size is made.
    #[must_use]
    pub fn hand_over(self) -> Self {
        Self { records: self.records.min(HAND_OVER.records), bytes: self.bytes.min(HAND_OVER.bytes) }
    }
}

/// The first stage of the consume leg.
pub struct Fetcher<'a, L> {
    log: &'a mut L,
    /// Where each partition has been read to.
    next: Offsets,
    ends: Offsets,
    /// Where only markers follow.
    read_to: Offsets,
    /// Partitions that have not reached their end.
    open: BTreeSet<i32>,
    size: BatchSize,
    budget: Budget,
    limit: Duration,
    /// Whether the next stage waits for the last batch.
    is_awaited: bool,
    at_end: bool,
}

impl<'a, L: TopicLog> Fetcher<'a, L> {
    /// Makes the stage, from the offsets `from` to the offsets `ends`, for INSERTs of this size; a record is waited for at
    /// most `limit` long.
    ///
    /// # Errors
    /// Kafka's.
    pub fn new(
        log: &'a mut L,
        from: &Offsets,
        ends: &Offsets,
        size: BatchSize,
        budget: Budget,
        limit: Duration,
    ) -> Result<Self> {
        let next: Offsets = from
            .iter()
            .filter(|(partition, next)| ends.get(partition).is_some_and(|end| next < &end))
            .map(|(&partition, &next)| (partition, next))
            .collect();
        if !next.is_empty() {
            log.read_from(&next, ends)?;
        }
        let open = next.keys().copied().collect();
        let size = size.hand_over();
        Ok(Self {
            log,
            next,
            ends: ends.clone(),
            read_to: ends.clone(),
            open,
            size,
            budget,
            limit,
            is_awaited: false,
            at_end: false,
        })
    }

    /// Where nothing but markers is known to lie between these offsets and the ends, they are not waited for.
    #[must_use]
    pub fn reading_to(self, read_to: &Offsets) -> Self {
        Self { read_to: read_to.clone(), ..self }
    }

    /// The next batch; `None` at the end.
    ///
    /// # Errors
    /// Kafka's, or 69 if no record comes in time.
    pub fn step(&mut self) -> Result<Option<RecordBatch>> {
        self.step_into(RecordBatch::default())
    }

    /// As [`step`](Self::step), in the memory of an emptied batch.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_into(&mut self, mut batch: RecordBatch) -> Result<Option<RecordBatch>> {
        self.at_end = self.open.is_empty();
        let most = if self.at_end { 0 } else { self.budget.allows(self.size.records) };
        if most == 0 {
            batch.is_last = true;
            return Ok(std::mem::take(&mut self.is_awaited).then_some(batch));
        }
        let starts = self.next.clone();
        while !self.open.is_empty() && batch.len() < most && batch.bytes() < self.size.bytes {
            self.fetch_one(&mut batch)?;
        }
        self.budget.spend(batch.len());
        batch.ranges = crate::data::ranges(&starts, &self.next);
        batch.is_last = self.open.is_empty();
        self.is_awaited = !batch.is_last;
        Ok(Some(batch))
    }

    fn fetch_one(&mut self, batch: &mut RecordBatch) -> Result<()> {
        let Self { log, next, ends, read_to, open, limit, .. } = self;
        let mut reached = None;
        let polled = log.poll(*limit, &mut |record| {
            // Records beyond the end belong to the next run; repeated ones are dropped.
            let (Some(next), Some(&end)) = (next.get_mut(&record.partition), ends.get(&record.partition)) else {
                return;
            };
            if record.offset < *next || !open.contains(&record.partition) {
                return;
            }
            if record.offset < end {
                batch.push(&record);
                *next = record.offset + 1;
            }
            if record.offset + 1 >= read_to.get(&record.partition).map_or(end, |&to| to.min(end)) {
                reached = Some(record.partition);
            }
        })?;
        match polled {
            Polled::Record => {}
            Polled::End(partition) => reached = Some(partition),
            Polled::Nothing => {
                return Err(Error::unavailable(
                    format!("cannot read partitions {open:?} up to their ends"),
                    format!("no record came for {limit:?}"),
                    "check the brokers; the next run resumes here",
                ));
            }
        }
        if let Some(partition) = reached
            && open.remove(&partition)
            && let Some(&end) = ends.get(&partition)
        {
            // What lies between the last record and the end are control records: they are dealt with, too.
            next.insert(partition, end);
        }
        Ok(())
    }

    /// Whether it has come to the end, and not to a limit.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        self.at_end
    }
}

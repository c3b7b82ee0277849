//! How large a batch may be: in bytes by the time that PostgreSQL takes to bring it and Kafka to take it, in rows by how far away
//! Kafka is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{BatchConfig, Timeouts};
use crate::data::RowBatch;
use crate::legs::pace::Pace;
use crate::ports::source::FIRST_BYTES;

/// How many rows a batch has where Kafka is near: more are not faster, and a short backlog then has fewer batches to work on side
/// by side.
const NEAR_ROWS: usize = 10_000;

/// About what a row costs the slowest stage.
const ROW: Duration = Duration::from_micros(5);

/// How many round trips a transaction waits for: its partitions, its records, its end.
const TRIPS: u32 = 3;

/// What goes to a partition in one piece (librdkafka's `batch.size` is 1 MB), as keys spread it. A second piece waits for the first
/// one's answer, and keeps librdkafka's thread busy meanwhile.
const PIECE: usize = 900_000;

/// How large a batch may be. The reader and the sender share it.
#[derive(Clone, Debug)]
pub struct BatchSize {
    rows: usize,
    /// How many rows make the trip a tenth of a batch, and how many bytes the partitions take in one piece each.
    far_rows: usize,
    pieces: usize,
    most_rows: usize,
    trip: Duration,
    reading: Pace,
    sending: Arc<Mutex<Pace>>,
}

impl BatchSize {
    /// The first batch is small. The next ones grow to the configured size while they are quick: those that a slow link takes
    /// too long for would fail again and again.
    #[must_use]
    pub fn new(batch: &BatchConfig, timeouts: &Timeouts) -> Self {
        let pace = |limit: Duration| Pace::new(FIRST_BYTES, batch.bytes, limit / 10);
        Self {
            rows: batch.rows.min(NEAR_ROWS),
            far_rows: 0,
            pieces: PIECE,
            most_rows: batch.rows,
            trip: Duration::ZERO,
            reading: pace(timeouts.postgres),
            sending: Arc::new(Mutex::new(pace(timeouts.kafka))),
        }
    }

    /// From now on a `trip` to Kafka is to be no more than a tenth of a batch, if that goes to this many `partitions` at once.
    pub fn reach(&mut self, trip: Duration, partitions: usize) {
        self.far_rows = usize::try_from(10 * trip.as_micros() / ROW.as_micros()).unwrap_or(usize::MAX);
        self.pieces = partitions.saturating_mul(PIECE);
        self.trip = trip;
    }

    /// Sends a batch, and adapts to the time that it takes beyond its trips; nobody waits for it meanwhile.
    pub fn time_sending<T>(&self, batch: &RowBatch, send: impl FnOnce() -> T) -> T {
        let (rows, bytes, begun) = (batch.len(), batch.bytes(), Instant::now());
        let sent = send();
        let took = begun.elapsed();
        log::debug!("{rows} rows of {bytes} bytes were sent in {took:?}");
        self.sending().took(bytes, took.saturating_sub(self.trip * TRIPS));
        sent
    }

    /// Adapts to the time that it took to read a batch, and to the size of its rows.
    pub fn took_reading(&mut self, batch: &RowBatch, time: Duration) {
        self.reading.took(batch.bytes(), time.saturating_sub(self.trip));
        let at_once = self.pieces / (batch.bytes() / batch.len().max(1)).max(1);
        self.rows = self.far_rows.min(at_once).max(NEAR_ROWS).min(self.most_rows);
    }

    /// How many rows the next batch may have.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// How many bytes it may have.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.reading.size().min(self.sending().size())
    }

    fn sending(&self) -> MutexGuard<'_, Pace> {
        self.sending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, load};
    use crate::data::{Headers, Row, Version};

    #[test]
    fn the_farther_kafka_is_the_more_rows_a_batch_has() {
        let config = load(&Flags { config: Some("/dev/null".into()), ..Flags::default() }).unwrap();
        let rows = |trip, most, partitions| {
            let batch = BatchConfig { rows: most, ..config.batch };
            let mut size = BatchSize::new(&batch, &config.timeouts);
            size.reach(Duration::from_millis(trip), partitions);
            size.took_reading(&rows_of(100), Duration::from_millis(trip));
            size.rows()
        };
        assert_eq!([0, 2, 10, 40].map(|trip| rows(trip, 30_000, 6)), [10_000, 10_000, 20_000, 30_000]);
        assert_eq!([0, 40].map(|trip| rows(trip, 500, 6)), [500, 500]);
        // Of rows of 101 bytes, one and two partitions take this many in one piece.
        assert_eq!([1, 2].map(|partitions| rows(40, 30_000, partitions)), [10_000, 17_821]);
    }

    /// A row of this many bytes, and its key.
    fn rows_of(bytes: usize) -> RowBatch {
        let mut batch = RowBatch::default();
        let (version, headers) = (Version::default(), Headers::of(&[]));
        batch.push(&Row { version, key: b"k", record_key: None, value: &vec![b'v'; bytes], headers });
        batch
    }

    #[test]
    fn the_trips_of_a_small_batch_say_nothing_about_a_large_one() {
        let config = load(&Flags { config: Some("/dev/null".into()), ..Flags::default() }).unwrap();
        let trip = Duration::from_millis(50);
        let mut size = BatchSize::new(&config.batch, &config.timeouts);
        size.reach(trip, 1);
        size.time_sending(&rows_of(1000), || std::thread::sleep(trip * TRIPS));
        assert!(size.sending().size() > FIRST_BYTES, "{size:?}");
    }
}

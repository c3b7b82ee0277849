//! How many rows a flagging transaction takes: few enough that no application waits long for a row that it has locked.

use std::time::{Duration, Instant};

/// How long a transaction may keep rows locked. A trigger can make each row slow.
const LONG: Duration = Duration::from_millis(500);

/// How many rows the first one takes.
const FIRST: usize = 100;

/// The size of the next transaction, by the time that the last one took.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rows: usize,
    max: usize,
}

impl Pace {
    /// Begins with few rows; never more than `max`.
    pub fn new(max: usize) -> Self {
        Self { rows: FIRST.min(max), max }
    }

    /// How many rows the next transaction may take.
    pub const fn rows(self) -> usize {
        self.rows
    }

    /// Runs a transaction of that many rows, and adapts to the time that it takes.
    pub fn time<T>(&mut self, rows: usize, transaction: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = transaction();
        self.took(rows, begun.elapsed());
        result
    }

    fn took(&mut self, rows: usize, time: Duration) {
        let fit = rows as u128 * LONG.as_micros() / time.as_micros().max(1);
        let fit = usize::try_from(fit).unwrap_or(usize::MAX);
        // Short ones say little: it grows step by step.
        self.rows = fit.clamp(1, self.rows.saturating_mul(10)).min(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_transactions_shrink_and_quick_ones_grow_to_the_batch() {
        let mut pace = Pace::new(10_000);
        assert_eq!(pace.rows(), 100);
        for expected in [1_000, 10_000, 10_000] {
            pace.took(pace.rows(), Duration::from_millis(1));
            assert_eq!(pace.rows(), expected);
        }
        pace.took(10_000, Duration::from_secs(5));
        assert_eq!(pace.rows(), 1_000);
        pace.took(1, Duration::from_secs(60));
        assert_eq!(pace.rows(), 1);
    }
}

//! How much is done at a time: as much as takes no longer than it may.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The size of the next piece of work, by the time that the last one took.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    size: usize,
    most: usize,
    long: Duration,
}

impl Pace {
    /// Begins with the size `first`; a piece is never larger than `most`, and is not meant to take longer than `long`.
    pub fn new(first: usize, most: usize, long: Duration) -> Self {
        Self { size: first.min(most), most, long }
    }

    /// How large the next piece may be.
    pub const fn size(self) -> usize {
        self.size
    }

    /// Does a piece of work of this size, and adapts to the time that it takes.
    pub fn time<T>(&mut self, size: usize, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = work();
        self.took(size, begun.elapsed());
        result
    }

    /// Adapts to a piece of work of this size that took so long.
    pub fn took(&mut self, size: usize, time: Duration) {
        let fit = size as u128 * self.long.as_micros() / time.as_micros().max(1);
        let fit = usize::try_from(fit).unwrap_or(usize::MAX);
        // Short ones say little: it grows step by step.
        self.size = fit.clamp(1, self.size.saturating_mul(10)).min(self.most);
    }
}

/// The same for stages on threads of their own: one does the work, another makes its pieces.
#[derive(Debug)]
pub struct SharedPace(Mutex<Pace>);

impl SharedPace {
    /// Shares it.
    pub const fn new(pace: Pace) -> Self {
        Self(Mutex::new(pace))
    }

    /// As [`Pace::size`].
    pub fn size(&self) -> usize {
        self.lock().size()
    }

    /// As [`Pace::time`]; nobody waits for the work.
    pub fn time<T>(&self, size: usize, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = work();
        self.lock().took(size, begun.elapsed());
        result
    }

    fn lock(&self) -> MutexGuard<'_, Pace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_work_shrinks_and_quick_work_grows_to_the_most() {
        let mut pace = Pace::new(100, 10_000, Duration::from_millis(500));
        assert_eq!(pace.size(), 100);
        for expected in [1_000, 10_000, 10_000] {
            pace.took(pace.size(), Duration::from_millis(1));
            assert_eq!(pace.size(), expected);
        }
        pace.took(10_000, Duration::from_secs(5));
        assert_eq!(pace.size(), 1_000);
        pace.took(1, Duration::from_secs(60));
        assert_eq!(pace.size(), 1);
    }
}

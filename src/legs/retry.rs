//! Pauses between attempts: growing, jittered, and few.

use std::time::Duration;

use crate::config::RetryConfig;

/// The pauses of one piece of work, one before each further attempt.
#[derive(Clone, Debug)]
pub struct Backoff {
    left: u32,
    pause: Duration,
    max_pause: Duration,
}

impl Backoff {
    /// As many pauses as the configuration allows attempts, less one.
    #[must_use]
    pub fn new(config: &RetryConfig) -> Self {
        Self { left: config.attempts.saturating_sub(1), pause: config.pause, max_pause: config.max_pause }
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    /// The next pause: between half and all of the nominal one, so that two runs do not stay in step.
    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        let nominal = self.pause.min(self.max_pause);
        self.pause = nominal * 2;
        Some(nominal.mul_f64(0.5 + fastrand::f64() / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_the_longest_and_end() {
        let config =
            RetryConfig { attempts: 5, pause: Duration::from_millis(100), max_pause: Duration::from_millis(300) };
        let pauses: Vec<_> = Backoff::new(&config).collect();
        assert_eq!(pauses.len(), 4);
        for (pause, nominal) in pauses.iter().zip([100, 200, 300, 300]) {
            let nominal = Duration::from_millis(nominal);
            assert!((nominal / 2..=nominal).contains(pause), "{pause:?} of {nominal:?}");
        }
    }
}

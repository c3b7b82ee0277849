//! Pauses between attempts: growing, jittered, and few; none once the next attempt would take too long.

use std::time::{Duration, Instant};

use crate::config::RetryConfig;
use crate::error::Error;

/// How often a server that has too much to do is asked in all.
const PATIENT_ATTEMPTS: u32 = 3;

/// The pauses of one piece of work, one before each further attempt.
#[derive(Clone, Debug)]
pub struct Backoff {
    left: u32,
    pause: Duration,
    max_pause: Duration,
    give_up: Duration,
    /// Attempts, the present one included.
    made: u32,
    /// When the work began, or something was last moved.
    since: Instant,
    /// When the present attempt began.
    begun: Instant,
}

impl Backoff {
    /// As many pauses as the configuration allows attempts, less one.
    #[must_use]
    pub fn new(config: &RetryConfig) -> Self {
        let RetryConfig { attempts, pause, max_pause, give_up } = *config;
        let now = Instant::now();
        Self { left: attempts.saturating_sub(1), pause, max_pause, give_up, made: 1, since: now, begun: now }
    }

    /// Something was moved then: the server that fails now has worked until then.
    pub fn moved(&mut self, at: Instant) {
        self.since = self.since.max(at);
        self.begun = self.begun.max(at);
    }
}

impl Backoff {
    /// The pause after an attempt that failed with `error`: a server that has too much to do is left alone for longer, and
    /// asked less often. `None` if it is not asked again.
    pub fn after(&mut self, error: &Error) -> Option<Duration> {
        let Some(pause) = error.pause() else { return self.next() };
        let made = self.made;
        self.left = self.left.min(PATIENT_ATTEMPTS.saturating_sub(made));
        let ordinary = self.next()?;
        let pause = ordinary.max(pause * 2_u32.pow(made.saturating_sub(1).min(PATIENT_ATTEMPTS)));
        (self.since.elapsed() + pause <= self.give_up).then_some(pause)
    }
}

impl Iterator for Backoff {
    type Item = Duration;

    /// The pause after a failed attempt: between half and all of the nominal one, so that two runs do not stay in step. `None`
    /// if the attempts are used up, or if another one, failing as slowly as this one, would end after `give_up`.
    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        self.made += 1;
        let nominal = self.pause.min(self.max_pause);
        self.pause = nominal * 2;
        let pause = nominal.mul_f64(0.5 + fastrand::f64() / 2.0);
        let end_of_next = self.since.elapsed() + pause + self.begun.elapsed();
        self.begun = Instant::now() + pause;
        (end_of_next <= self.give_up).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(give_up: Duration) -> RetryConfig {
        let (pause, max_pause) = (Duration::from_millis(100), Duration::from_millis(300));
        RetryConfig { attempts: 5, pause, max_pause, give_up }
    }

    #[test]
    fn an_attempt_that_would_end_too_late_is_not_made() {
        let mut slow = Backoff::new(&rules(Duration::from_millis(400)));
        std::thread::sleep(Duration::from_millis(250));
        assert_eq!(slow.next(), None, "250 ms, a pause and 250 ms more");
        let mut slow = Backoff::new(&rules(Duration::from_millis(400)));
        std::thread::sleep(Duration::from_millis(250));
        slow.moved(Instant::now());
        assert!(slow.next().is_some(), "until a moment ago all went well");
    }

    #[test]
    fn a_server_that_has_too_much_to_do_is_asked_three_times_with_growing_pauses() {
        let busy = Error::unavailable("cannot insert", "too many parts", "wait").with_pause(Duration::from_secs(2));
        let mut backoff = Backoff::new(&rules(Duration::from_secs(60)));
        let pauses: Vec<_> = std::iter::from_fn(|| backoff.after(&busy)).collect();
        assert_eq!(pauses, [Duration::from_secs(2), Duration::from_secs(4)]);
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_end() {
        let config = rules(Duration::from_secs(60));
        let pauses: Vec<_> = Backoff::new(&config).collect();
        assert_eq!(pauses.len(), 4);
        for (pause, nominal) in pauses.iter().zip([100, 200, 300, 300]) {
            let nominal = Duration::from_millis(nominal);
            assert!((nominal / 2..=nominal).contains(pause), "{pause:?} of {nominal:?}");
        }
    }
}

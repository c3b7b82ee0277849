//! A time limit for calls that have none of their own.
//!
//! The synchronous PostgreSQL client waits forever for a server that no longer replies but whose kernel still acknowledges
//! packets (a stopped process, a stalled disk). librdkafka's calls have limits, and not all of them are kept
//! (<https://github.com/confluentinc/librdkafka/issues/5456>). Such a call cannot be interrupted from outside without `unsafe`, so the command is ended around it: its thread
//! is left behind, the process exits with 69, and the next run recovers, as it does after a kill.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

use super::beside;

/// How often the waiting side looks at the calls in progress in a thread.
pub const CHECK_EVERY: Duration = Duration::from_millis(250);

/// How long a call may take before the terminal shows it.
const QUIET: Duration = Duration::from_secs(1);

/// Knows which calls are in progress, and until when they may take. Clones share one state.
///
/// None exists without a thread that looks at it: [`watched`], [`Watchdog::pair`].
#[derive(Clone, Debug)]
pub struct Watchdog {
    calls: Arc<Mutex<Calls>>,
}

#[derive(Debug, Default)]
struct Calls {
    next_id: u64,
    open: Vec<Call>,
}

#[derive(Debug)]
struct Call {
    id: u64,
    what: String,
    limit: Duration,
    begun: Instant,
}

/// Does `work` on a thread named `name`, which is left behind if a call in it exceeds its limit.
///
/// # Errors
/// 69 then; 70 if it panics; what `work` returns.
pub fn watched<T: Send + 'static>(name: &str, work: impl FnOnce(&Watchdog) -> Result<T> + Send + 'static) -> Result<T> {
    let (watchdog, watcher) = Watchdog::pair();
    beside(name, CHECK_EVERY, || watcher.overdue(), move || work(&watchdog))
}

/// The other end of a [`Watchdog`]: it looks at the calls.
#[derive(Debug)]
#[must_use = "a watchdog that nobody looks at ends nothing"]
pub struct Watcher(Watchdog);

impl Watchdog {
    /// One for the thread that makes the calls, and its watcher, for the one that waits for that thread.
    pub fn pair() -> (Self, Watcher) {
        let watchdog = Self { calls: Arc::default() };
        (watchdog.clone(), Watcher(watchdog))
    }

    /// One for work on a thread that is not waited for, or only for a set time.
    #[must_use]
    pub fn of_nobody() -> Self {
        Self { calls: Arc::default() }
    }

    /// Watches `call`, described by `what`, until it returns.
    pub fn watch<T>(&self, what: &str, limit: Duration, call: impl FnOnce() -> T) -> T {
        let _guard = self.open(what, limit);
        call()
    }

    fn open(&self, what: &str, limit: Duration) -> OpenCall<'_> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.next_id += 1;
        let id = calls.next_id;
        calls.open.push(Call { id, what: what.to_owned(), limit, begun: Instant::now() });
        OpenCall { watchdog: self, id }
    }
}

impl Watcher {
    /// Why the command has to end: a call should have returned by now.
    #[must_use]
    pub fn overdue(&self) -> Option<Error> {
        let calls = self.0.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let call = calls.open.iter().find(|call| call.begun.elapsed() >= call.limit)?;
        Some(Error::unavailable(
            call.what.clone(),
            format!("no reply within {:?}", call.limit),
            "check that server's process, disk and locks: it accepts connections but does not reply; another run is safe",
        ))
    }

    /// What is waited for, for a person who watches: the call that is in progress for longest, once that is worth a word.
    #[must_use]
    pub fn waits_for(&self) -> Option<String> {
        let calls = self.0.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let call = calls.open.iter().min_by_key(|call| call.begun)?;
        let elapsed = call.begun.elapsed();
        // Calls are named after their failure.
        let what = call.what.strip_prefix("cannot ").unwrap_or(&call.what);
        let (seconds, limit) = (elapsed.as_secs(), call.limit.as_secs());
        (elapsed >= QUIET).then(|| format!("waiting {seconds} s, {limit} s at most, to {what}"))
    }
}

struct OpenCall<'a> {
    watchdog: &'a Watchdog,
    id: u64,
}

impl Drop for OpenCall<'_> {
    fn drop(&mut self) {
        let mut calls = self.watchdog.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.open.retain(|call| call.id != self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_overdue_only_while_it_runs_beyond_its_limit() {
        let (watchdog, watcher) = Watchdog::pair();
        let overdue = || watcher.overdue().map(|error| error.what().to_owned());
        watchdog.watch("quick", Duration::from_secs(60), || assert_eq!(overdue(), None));
        watchdog.watch("slow", Duration::ZERO, || assert_eq!(overdue(), Some("slow".into())));
        assert_eq!(overdue(), None);
    }
}

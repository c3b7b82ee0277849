//! A time limit for calls that have none of their own.
//!
//! The synchronous PostgreSQL client waits for ever for a server that has stopped answering but whose kernel still
//! acknowledges packets (a stopped process, a stalled disk). Such a call cannot be interrupted from outside without
//! `unsafe`, so the run is ended around it: the leg's thread is left behind, the process exits with 69, and the next run
//! recovers, as it does after a kill.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often whoever waits for a thread looks at the calls that are under way in it.
pub const LOOK: Duration = Duration::from_millis(250);

/// Knows which calls are under way, and until when they may take. Clones share one state.
#[derive(Clone, Debug, Default)]
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
    until: Instant,
}

/// A call that has exceeded its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// What the call was for, and on which server.
    pub what: String,
    /// Its limit.
    pub limit: Duration,
}

impl Watchdog {
    /// Watches `call`, described by `what`, until it returns.
    pub fn watch<T>(&self, what: &str, limit: Duration, call: impl FnOnce() -> T) -> T {
        let _guard = self.open(what, limit);
        call()
    }

    fn open(&self, what: &str, limit: Duration) -> OpenCall<'_> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.next_id += 1;
        let id = calls.next_id;
        calls.open.push(Call { id, what: what.to_owned(), limit, until: Instant::now() + limit });
        OpenCall { watchdog: self, id }
    }

    /// A call that should have returned by now, if there is one.
    #[must_use]
    pub fn overdue(&self) -> Option<Overdue> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        calls
            .open
            .iter()
            .find(|call| call.until <= now)
            .map(|call| Overdue { what: call.what.clone(), limit: call.limit })
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
        let watchdog = Watchdog::default();
        watchdog.watch("quick", Duration::from_secs(60), || assert_eq!(watchdog.overdue(), None));
        watchdog.watch("slow", Duration::ZERO, || assert_eq!(watchdog.overdue().map(|o| o.what), Some("slow".into())));
        assert_eq!(watchdog.overdue(), None);
    }
}

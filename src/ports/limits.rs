//! How far a run goes: until all is done, a limit is reached, or it is asked to finish.

use std::time::{Duration, Instant};

use crate::shutdown::Shutdown;

/// What the command line allows a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Rows that each leg may move.
    pub max_rows: Option<u64>,
    /// Seconds after which no new batch is begun.
    pub max_seconds: Option<u64>,
    /// How long to wait for another run's lock.
    pub wait_lock: Duration,
}

/// One leg's share of the limits, counted down as it goes.
#[derive(Clone, Debug)]
pub struct Budget {
    shutdown: Shutdown,
    rows_left: Option<u64>,
    until: Option<Instant>,
}

impl Budget {
    /// A leg's budget; the seconds count from `started`.
    #[must_use]
    pub fn new(limits: &Limits, started: Instant, shutdown: &Shutdown) -> Self {
        Self {
            shutdown: shutdown.clone(),
            rows_left: limits.max_rows,
            until: limits.max_seconds.map(|seconds| started + Duration::from_secs(seconds)),
        }
    }

    /// How many rows the next batch may have, of `wanted`; 0 when the leg is to finish.
    #[must_use]
    pub fn allows(&self, wanted: usize) -> usize {
        if self.shutdown.is_requested() || self.until.is_some_and(|until| Instant::now() >= until) {
            return 0;
        }
        self.rows_left.map_or(wanted, |left| wanted.min(usize::try_from(left).unwrap_or(usize::MAX)))
    }

    /// Counts rows that were taken.
    pub fn spend(&mut self, rows: usize) {
        if let Some(left) = &mut self.rows_left {
            *left = left.saturating_sub(rows as u64);
        }
    }

    /// Gives rows back that were taken, and then not moved.
    pub fn give_back(&mut self, rows: usize) {
        if let Some(left) = &mut self.rows_left {
            *left = left.saturating_add(rows as u64);
        }
    }

    /// The run's shutdown, for waits.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }
}

//! What a run leaves open for the next one of the same process: opening it anew costs both sides more than an idle run's questions.

use std::time::{Duration, Instant};

use super::ahead::FRESH;
use crate::clickhouse::Http;
use crate::kafka::KafkaLog;
use crate::postgres::Session;

/// How long a connection is used. Addresses, passwords and certificates are looked up anew behind it.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// One table's connections between two runs.
pub struct Warm {
    /// A session of PostgreSQL, without a lock unless the history gives it back.
    pub session: Option<Session>,
    pub(super) log: Option<KafkaLog>,
    pub(super) http: Option<Http>,
    /// When they were opened.
    pub(super) opened: Instant,
    /// When the last run has left them.
    pub(super) left: Instant,
}

impl Default for Warm {
    fn default() -> Self {
        let now = Instant::now();
        Self { session: None, log: None, http: None, opened: now, left: now }
    }
}

impl Warm {
    /// What the next run may use of it: nothing that is old, or was not used for long.
    pub(super) fn usable(self) -> Self {
        if self.opened.elapsed() < LONGEST && self.left.elapsed() < FRESH { self } else { Self::default() }
    }
}

//! What a run leaves open for the next one of the same process: opening it anew costs both sides more than an idle run's questions.
//!
//! The producer of rows has fenced its predecessors under the epoch that the session keeps, and cannot do so twice. So it is used
//! again only with that very session, and only if the checkpoint still bears that epoch: then no other run has begun since.

use std::time::{Duration, Instant};

use super::ahead::FRESH;
use crate::clickhouse::Http;
use crate::kafka::admin::Admin;
use crate::kafka::{KafkaLog, KafkaWriter};
use crate::postgres::Session;
use crate::threads::watchdog::Watchdog;

/// How long a connection is used. Addresses, passwords and certificates are looked up anew behind it.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// How long what only a run with rows needs is kept without one. Networks forget a silent connection after 4 minutes or more, and
/// none of its ends would know.
const SILENT: Duration = Duration::from_secs(3 * 60);

/// One table's connections between two runs.
pub struct Warm {
    /// A session of PostgreSQL, without a lock unless the history gives it back.
    pub session: Option<Session>,
    pub(super) log: Option<KafkaLog>,
    pub(super) http: Option<Http>,
    pub(super) row_clients: RowClients,
    /// When they were opened.
    pub(super) opened: Instant,
    /// When the last run has left them.
    pub(super) left: Instant,
}

/// What only a run needs that moves something.
#[derive(Default)]
pub(super) struct RowClients {
    pub writer: Option<KafkaWriter>,
    pub reader: Option<Session>,
    pub fence: Option<KafkaWriter>,
    pub admin: Option<Admin>,
    /// When something was moved last.
    pub used: Option<Instant>,
}

impl Default for Warm {
    fn default() -> Self {
        let now = Instant::now();
        Self { session: None, log: None, http: None, row_clients: RowClients::default(), opened: now, left: now }
    }
}

impl Warm {
    /// The session alone: the other connections end here.
    #[must_use]
    pub fn only_session(self) -> Self {
        Self { session: self.session, ..Self::default() }
    }

    /// What the next run may use of it: nothing that is old, or was not used for long.
    pub(super) fn usable(self) -> Self {
        let mut usable =
            if self.opened.elapsed() < LONGEST && self.left.elapsed() < FRESH { self } else { Self::default() };
        if usable.row_clients.used.is_none_or(|used| used.elapsed() >= SILENT) {
            usable.row_clients = RowClients::default();
        }
        if usable.session.is_none() {
            // The epoch was its.
            (usable.row_clients.writer, usable.row_clients.reader) = (None, None);
        }
        usable
    }
}

impl RowClients {
    /// The same for another run, whose watchdog it gets.
    pub fn watched_by(self, watchdog: &Watchdog) -> Self {
        let Self { writer, reader, fence, admin, used } = self;
        let again = |writer: KafkaWriter| writer.for_another_run(watchdog);
        let admin = admin.map(|admin| admin.watched_by(watchdog));
        Self { writer: writer.map(again), reader, fence: fence.map(again), admin, used }
    }
}

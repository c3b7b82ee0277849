//! When a leg pauses, to be gentle to PostgreSQL and its replicas: between two batches, when nothing is in hand.
//!
//! The stages have dealt with all that was read: no pass is open, no row is locked, and what was sent is flagged.

use std::time::{Duration, Instant};

use crate::config::{PostgresConfig, TableConfig};
use crate::error::Result;
use crate::ports::limits::Budget;
use crate::ports::progress::Progress;
use crate::ports::source::ReplicationLag;

/// The longest pause. Behind it a batch is moved, whatever lags.
const LONGEST: Duration = Duration::from_secs(60);

/// How often it is asked how far the replicas are.
const ASK: Duration = Duration::from_secs(1);

/// When a leg may read.
#[derive(Debug)]
pub struct Pauses {
    source: String,
    rows_per_second: Option<u64>,
    percent: Option<u64>,
    max_lag: Option<u64>,
    longest: Duration,
    /// By the number of rows, none is read before.
    due: Instant,
    /// Whether a batch was read since the last pause, and how long PostgreSQL took for it.
    has_read: bool,
    busy: Duration,
    /// When it was last asked how far the replicas are, and whether one was too far behind.
    asked: Instant,
    lags: bool,
    paused: Duration,
    for_replication: Duration,
}

impl Pauses {
    /// Those that the configuration asks for, from now on.
    pub fn new(postgres: &PostgresConfig, table: &TableConfig) -> Self {
        let now = Instant::now();
        Self {
            source: table.source.clone(),
            rows_per_second: table.max_rows_per_second,
            percent: postgres.pause_percent,
            max_lag: postgres.max_replication_lag,
            longest: LONGEST,
            due: now,
            has_read: false,
            busy: Duration::ZERO,
            asked: now,
            lags: false,
            paused: Duration::ZERO,
            for_replication: Duration::ZERO,
        }
    }

    /// How many rows a batch may have, of `wanted`: those of a second, so that no pause is much longer.
    pub fn allows(&self, wanted: usize) -> usize {
        self.rows_per_second.map_or(wanted, |rows| wanted.min(usize::try_from(rows).unwrap_or(usize::MAX)))
    }

    /// Counts a batch that was read, and the time that it took. What a slow server has cost is not caught up with.
    pub fn took(&mut self, rows: usize, time: Duration) {
        self.has_read = true;
        self.busy += time;
        if let Some(per_second) = self.rows_per_second {
            self.due = self.due.max(Instant::now()) + Duration::from_secs_f64(rows as f64 / per_second as f64);
        }
    }

    /// Whether replicas may have to be waited for before the first row is read.
    pub const fn come_first(&self) -> bool {
        self.max_lag.is_some()
    }

    /// Whether the next batch has to wait for a pause.
    pub fn is_due(&self) -> bool {
        let is_to_ask = self.max_lag.is_some() && (self.lags || self.asked.elapsed() >= ASK);
        self.has_read && (self.percent.is_some() || is_to_ask || Instant::now() < self.due)
    }

    /// Pauses until rows may be read, or the leg is to finish: `flagging` is the time that PostgreSQL took for flags since the last
    /// pause, and `lag` asks how far the replica is that is furthest behind.
    ///
    /// # Errors
    /// Those of `lag`.
    pub fn pause(
        &mut self,
        budget: &Budget,
        progress: &Progress,
        flagging: Duration,
        lag: impl FnMut() -> Result<Option<ReplicationLag>>,
    ) -> Result<()> {
        let (begun, paused) = (Instant::now(), self.paused);
        let busy = std::mem::take(&mut self.busy) + flagging;
        let rest = self.percent.map_or(Duration::ZERO, |percent| busy.mul_f64(percent as f64 / 100.0));
        if std::mem::take(&mut self.has_read) {
            self.paused += wait_until(self.due.max(begun + rest.min(self.longest)), budget);
        }
        let replicas = self.wait_for_replicas(budget, progress, lag);
        if self.paused > paused {
            progress.paused();
        }
        replicas
    }

    fn wait_for_replicas(
        &mut self,
        budget: &Budget,
        progress: &Progress,
        mut lag: impl FnMut() -> Result<Option<ReplicationLag>>,
    ) -> Result<()> {
        let Some(most) = self.max_lag else { return Ok(()) };
        let begun = Instant::now();
        loop {
            let behind = lag()?.filter(|lag| lag.bytes > most);
            self.asked = Instant::now();
            let was_told = std::mem::replace(&mut self.lags, behind.is_some());
            let Some(ReplicationLag { replica, bytes: lag }) = behind else { return Ok(()) };
            let left = self.longest.saturating_sub(begun.elapsed());
            if left.is_zero() || budget.allows(1) == 0 {
                return Ok(());
            }
            if !was_told {
                log::info!(
                    "{}: pausing: the replica {replica} is {:.1} MiB of WAL behind, more than `max_replication_lag` allows",
                    self.source,
                    lag as f64 / f64::from(1 << 20)
                );
            }
            progress.pauses_for(&replica);
            let waited = wait_until(Instant::now() + left.min(ASK), budget);
            self.paused += waited;
            self.for_replication += waited;
        }
    }

    /// How long it has paused in all.
    pub const fn paused(&self) -> Duration {
        self.paused
    }

    /// How long of that for replicas.
    pub const fn for_replication(&self) -> Duration {
        self.for_replication
    }
}

/// Waits until then, or until the leg is to finish; how long.
fn wait_until(until: Instant, budget: &Budget) -> Duration {
    let begun = Instant::now();
    let mut now = begun;
    while now < until && budget.allows(1) > 0 {
        let _ = budget.shutdown().wait((until - now).min(Duration::from_millis(100)));
        now = Instant::now();
    }
    now - begun
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, load};
    use crate::ports::limits::Limits;
    use crate::shutdown::Shutdown;

    fn pauses(rows_per_second: Option<u64>, percent: Option<u64>, max_lag: Option<u64>) -> Pauses {
        let config = load(&Flags { config: Some("/dev/null".into()), ..Flags::default() }).unwrap();
        Pauses { rows_per_second, percent, max_lag, ..Pauses::new(&config.postgres, &config.tables[0]) }
    }

    fn budget(max_seconds: Option<u64>) -> Budget {
        Budget::new(&Limits { max_seconds, ..Limits::default() }, Instant::now(), &Shutdown::default())
    }

    /// How long it pauses in milliseconds, where the replica is so far behind each time that it is asked.
    fn pause(pauses: &mut Pauses, flagging: u64, lags: &[u64]) -> u128 {
        let (begun, mut lags) = (Instant::now(), lags.iter());
        let lag = || Ok(lags.next().map(|&bytes| ReplicationLag { replica: "one".into(), bytes }));
        pauses.pause(&budget(None), &Progress::default(), Duration::from_millis(flagging), lag).unwrap();
        begun.elapsed().as_millis()
    }

    #[test]
    fn nothing_pauses_that_is_not_asked_for() {
        let mut free = pauses(None, None, None);
        free.took(1_000_000, Duration::from_secs(5));
        assert!(!free.is_due() && free.allows(5_000) == 5_000);
        assert!(pause(&mut free, 5_000, &[u64::MAX]) < 50);
        assert_eq!(free.paused(), Duration::ZERO);
    }

    #[test]
    fn rows_are_due_one_after_the_other_and_lost_time_is_not_caught_up_with() {
        let mut held = pauses(Some(1_000), None, None);
        assert_eq!((held.allows(5_000), held.allows(10), held.is_due()), (1_000, 10, false));
        std::thread::sleep(Duration::from_millis(50));
        held.took(50, Duration::ZERO);
        held.took(50, Duration::ZERO);
        assert!(held.is_due());
        assert!(pause(&mut held, 0, &[]) >= 90 && held.paused() >= Duration::from_millis(90) && !held.is_due());
    }

    #[test]
    fn the_slower_postgresql_is_the_longer_is_the_pause_up_to_its_bound() {
        let mut held = pauses(None, Some(50), None);
        held.longest = Duration::from_millis(400);
        let mut after = |reading, flagging| {
            held.took(1, Duration::from_millis(reading));
            assert!(held.is_due());
            pause(&mut held, flagging, &[])
        };
        assert!((50..190).contains(&after(40, 60)));
        assert!((200..390).contains(&after(100, 300)));
        assert!((400..2_000).contains(&after(10_000, 60_000)));
    }

    #[test]
    fn a_replica_that_lags_is_waited_for_until_it_has_caught_up_or_the_bound_is_reached() {
        let mut held = pauses(None, None, Some(100));
        assert!(pause(&mut held, 0, &[100]) < 50);
        assert!((1_000..1_900).contains(&pause(&mut held, 0, &[101, 99])));
        held.took(1, Duration::ZERO);
        assert!(!held.is_due());
        held.longest = Duration::from_millis(1_100);
        assert!((1_100..1_900).contains(&pause(&mut held, 0, &[500; 9])));
        // It is moved batch by batch while it lags, and asked between.
        held.took(1, Duration::ZERO);
        assert!(held.is_due() && held.for_replication() >= Duration::from_secs(2));
    }

    #[test]
    fn no_pause_goes_on_behind_the_runs_end() {
        let mut held = pauses(None, Some(10_000), Some(1));
        held.took(1, Duration::from_secs(100));
        let begun = Instant::now();
        let lag = || Ok(Some(ReplicationLag { replica: "one".into(), bytes: 2 }));
        held.pause(&budget(Some(1)), &Progress::default(), Duration::ZERO, lag).unwrap();
        assert!((900..1_900).contains(&begun.elapsed().as_millis()));
    }
}

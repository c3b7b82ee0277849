//! How far the process has come, for whoever asks a long run by SIGUSR1. The counters are of the whole process: they only
//! grow, and nothing is decided by them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static SENT: AtomicU64 = AtomicU64::new(0);
static FLAGGED: AtomicU64 = AtomicU64::new(0);
static COPIED: AtomicU64 = AtomicU64::new(0);

/// Counts records that were committed to a topic.
pub fn sent(records: usize) {
    SENT.fetch_add(records as u64, Ordering::Relaxed);
}

/// Counts rows that were flagged.
pub fn flagged(rows: usize) {
    FLAGGED.fetch_add(rows as u64, Ordering::Relaxed);
}

/// Counts records that are dealt with.
pub fn copied(records: usize) {
    COPIED.fetch_add(records as u64, Ordering::Relaxed);
}

/// A line for a person: what was done by this process, `elapsed` into the run.
#[must_use]
pub fn line(source: &str, elapsed: Duration) -> String {
    let [sent, flagged, copied] = [&SENT, &FLAGGED, &COPIED].map(|counter| counter.load(Ordering::Relaxed));
    format!(
        "{source}, {:.1} s into the run: {sent} records sent, {flagged} rows flagged, {copied} records copied since the start",
        elapsed.as_secs_f64()
    )
}

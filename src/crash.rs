//! Named crash points, for the tests: a debug build ends there as if it were killed. A release build has none.

/// The environment variable that names the point to die at, with `:N` for its N-th passing (1 if left out).
#[cfg(debug_assertions)]
pub const VARIABLE: &str = "PG2CH_CRASH_AT";

/// The same for a point to stop at, as a machine that is suspended does.
#[cfg(debug_assertions)]
pub const STOP_VARIABLE: &str = "PG2CH_STOP_AT";

/// The points of the produce leg, in the order in which a run passes them: before and after every call with an effect.
#[cfg(debug_assertions)]
pub const PRODUCE: &[&str] = &[
    "lock.after",
    "epoch.before",
    "epoch.after",
    "fence.before",
    "fence.after",
    "read.after",
    "kafka.begin.after",
    "kafka.send.after",
    "kafka.commit.before",
    "kafka.commit.after",
    "flag.before",
    "flag.commit.after",
    "finish.before",
    "finish.after",
    "checkpoint.before",
    "checkpoint.after",
];

/// The point behind a pass over rows that have an order.
#[cfg(debug_assertions)]
pub const PRODUCE_PASS: &str = "pass.end.after";

/// The points that a run passes only where an earlier one has left something to recover.
#[cfg(debug_assertions)]
pub const PRODUCE_RECOVERY: &[&str] =
    &["window.before", "window.after", "window.flag.before", "window.flag.after", "window.move.before"];

/// The points around a row that cannot be flagged.
#[cfg(debug_assertions)]
pub const PRODUCE_HELD: &[&str] =
    &["flag.begin.after", "flag.update.after", "hold.before", "hold.after", "flag.commit.before"];

/// The points around the entry of such a row, when it is needed no more.
#[cfg(debug_assertions)]
pub const PRODUCE_UNHELD: &[&str] = &["unhold.before", "unhold.after"];

/// The points around the types of the columns in records, kept where they are not those of the run before.
#[cfg(debug_assertions)]
pub const PRODUCE_TYPES: &[&str] = &["types.before", "types.after"];

/// The points around a record that the topic does not take.
#[cfg(debug_assertions)]
pub const PRODUCE_TOO_LARGE: &[&str] = &["kafka.abort.before", "kafka.abort.after"];

/// The points of `pg2ch prune`, in the order in which it passes them.
#[cfg(debug_assertions)]
pub const PRUNE: &[&str] = &[
    "prune.limit.before",
    "prune.limit.after",
    "prune.delete.before",
    "prune.delete.after",
    "prune.look.after",
    "prune.commit.after",
];

/// The points of the consume leg, in the order in which a run passes them.
#[cfg(debug_assertions)]
pub const CONSUME: &[&str] = &[
    "fence.before",
    "fence.after",
    "intend.before",
    "kafka.begin.after",
    "offsets.sent.after",
    "kafka.commit.before",
    "kafka.commit.after",
    "intend.after",
    "clickhouse.insert.before",
    "clickhouse.insert.after",
    "consume.finish.before",
    "consume.finish.after",
];

/// The point that it passes only with a record that the target does not take: sent to the dead letters, not yet committed.
#[cfg(debug_assertions)]
pub const CONSUME_DEAD_LETTER: &str = "dead-letter.sent.after";

/// The points where verify has looked at one server and not yet at the other.
#[cfg(debug_assertions)]
pub const VERIFY: &[&str] = &["verify.keys.asked", "verify.rows.asked"];

/// The point of `dead-letters replay` between an INSERT's reply and the note of what became of its letters.
#[cfg(debug_assertions)]
pub const REPLAY: &str = "replay.note.before";

/// Dies here, by SIGKILL, or stops until SIGCONT, if the test asked for it.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use signal_hook::consts::{SIGKILL, SIGSTOP};

    for (variable, signal) in [(VARIABLE, SIGKILL), (STOP_VARIABLE, SIGSTOP)] {
        if is_asked_for(variable, name) {
            let _ = signal_hook::low_level::raise(signal);
        }
    }
}

/// Whether this is the passing of the point that `variable` names.
#[cfg(debug_assertions)]
fn is_asked_for(variable: &'static str, name: &str) -> bool {
    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};

    static PASSED: Mutex<Option<HashMap<&str, u64>>> = Mutex::new(None);
    let Ok(wanted) = std::env::var(variable) else { return false };
    let (wanted, passing) = wanted.split_once(':').unwrap_or((&wanted, "1"));
    if wanted != name {
        return false;
    }
    let mut passed = PASSED.lock().unwrap_or_else(PoisonError::into_inner);
    let count = passed.get_or_insert_default().entry(variable).or_default();
    *count += 1;
    *count == passing.parse().unwrap_or(1)
}

/// Nothing, in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &str) {}

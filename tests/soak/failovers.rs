//! PostgreSQL loses commits: its last asynchronous ones in a crash, or the tail that a promoted standby never got, while runs of the
//! old primary live on.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::common::Ended;
use super::common::failover::Pair;
use super::subject::Subject;

const TIMEOUTS: &str = "connect = \"2s\"\npostgres = \"5s\"\nkafka = \"5s\"\nstable = \"5s\"";

/// A PostgreSQL that is killed before it has written its last commits.
pub fn lose_commits(subject: &mut Subject<'_>, pair: &Pair, times: u64) {
    for _ in 0..times {
        subject.world.insert_rows(30);
        subject.expect_trouble(TIMEOUTS);
        pair.stop_writing_commits();
        let run = subject.start(&["--once", "--wait-lock", "20s"]);
        let at = subject.rng.u64(50..1_500);
        std::thread::sleep(Duration::from_millis(at));
        pair.act("kill", "postgres");
        pair.act("start", "postgres");
        subject.tally.faults += 1;
        let ended = Ended::after(run);
        subject.ended(ended, &[0, 69, 75]);
        pair.use_primary(&mut subject.world);
        subject.run_until_well();
        subject.check();
    }
}

/// A promotion with a lost tail; the old primary is killed, or a run lives on in it.
pub fn promote(subject: &mut Subject<'_>, pair: &Pair) {
    subject.world.insert_rows(30);
    pair.catch_up();
    // Some of the rows' flags are in the tail, some are not.
    subject.expect_trouble(TIMEOUTS);
    let run = subject.start(&["--once", "--wait-lock", "20s"]);
    let at = subject.rng.u64(..1_000);
    std::thread::sleep(Duration::from_millis(at));
    pair.cut_off();
    let ended = Ended::after(run);
    subject.ended(ended, &[0]);
    subject.change_some();
    subject.world.insert_rows(10);
    if subject.rng.bool() {
        subject.run(&["--once", "--wait-lock", "20s"], &[0]);
        subject.change_some();
    }
    let zombie = subject.start(&["--once", "--wait-lock", "20s"]);
    let at = subject.rng.u64(..1_000);
    std::thread::sleep(Duration::from_millis(at));
    let before = rows(subject);
    let is_killed = subject.rng.bool();
    if is_killed {
        pair.act("kill", "postgres");
    }
    pair.promote(&mut subject.world);
    subject.tally.faults += 1;
    let after = rows(subject);
    subject.run_until_well();
    let ended = Ended::after(zombie);
    subject.ended(ended, if is_killed { &[0, 69] } else { &[0, 69, 75] });
    subject.world.insert_rows(10);
    subject.run_until_well();
    let keys = before.keys().chain(after.keys());
    let tail: HashSet<String> = keys.filter(|key| before.get(*key) != after.get(*key)).cloned().collect();
    subject.compare_but_for(&tail);
}

/// What each row holds, by its key.
fn rows(subject: &mut Subject<'_>) -> HashMap<String, String> {
    let sql = format!("SELECT id::text, (row_to_json(t)::jsonb - 'sent_to_kafka')::text FROM {} t", subject.world.name);
    subject.world.pg.query(&sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

//! The runs of `--every` share their connections, and whatever changes between two of them is seen all the same.

use std::process::Child;
use std::time::Duration;

use crate::common::proxy::{Fault, Proxy, Way, has};
use crate::common::{Ended, World, signal};

/// The one session that this process has in PostgreSQL: its process there, and its name without this process's own.
fn session(world: &mut World, run: &Child) -> Option<(i32, String)> {
    let sql = "SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'pg2ch ledger %:' || $1";
    // While the first run looks for a pool there are two of them.
    let rows = world.pg.query(sql, &[&run.id().to_string()]).unwrap();
    let [row] = &rows[..] else { return None };
    Some((row.get(0), row.get(1)))
}

/// Waits until it has one, which is that of another run than `before`.
fn next_session(world: &mut World, run: &Child, before: &str) -> (i32, String) {
    let mut found = None;
    let is_another = |world: &mut World| {
        found = session(world, run);
        found.as_ref().is_some_and(|(_, name)| name != before)
    };
    world.wait_until(is_another, "another run");
    found.unwrap()
}

/// Has a new row moved by the process that runs on.
fn moves_a_row(world: &mut World) {
    let rows = world.ch_number("SELECT count() FROM {t}");
    world.insert_rows(1);
    world.wait_until(|world| world.ch_number("SELECT count() FROM {t}") == rows + 1, "the row to be copied");
}

fn ends_well(mut world: World, run: Child) {
    signal("TERM", &run);
    let ended = Ended::of(&run.wait_with_output().unwrap()).expect(0);
    assert!(!ended.stderr.contains("error:"), "{}", ended.stderr);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn the_runs_of_a_process_share_a_session_and_hold_no_lock_in_between() {
    let mut world = World::new("warm");
    let run = world.start(&["--every", "1s"]);
    // On a busy machine the history may come too late, and takes the session along.
    let mut last = next_session(&mut world, &run, "");
    let shares = |world: &mut World| {
        let next = next_session(world, &run, &last.1);
        let before = std::mem::replace(&mut last, next);
        before.0 == last.0
    };
    world.wait_until(shares, "a run that uses the session of the one before it");
    moves_a_row(&mut world);

    // Another process is refused for as long as a run takes, and no longer.
    world.run(&["--once", "--wait-lock", "10s"]).expect(0);
    ends_well(world, run);
}

#[test]
fn a_lock_is_as_old_as_its_run_however_old_the_session_is() {
    let mut world = World::new("warm_since");
    world.settings.insert("batch", "rows = 50".into());
    let run = world.start(&["--every", "1s"]);
    next_session(&mut world, &run, "");
    std::thread::sleep(Duration::from_secs(5));

    world.insert_rows(2_000);
    let held = format!(
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND a.application_name LIKE 'pg2ch ledger %:{}'",
        run.id()
    );
    world.wait_until(|world| world.sql_number(&held) == 1, "a run to take the lock");
    signal("STOP", &run);
    let refused = world.once().expect(75);
    signal("CONT", &run);

    let duration = refused.stderr.split_once(", for ").unwrap().1;
    let seconds: u32 = duration.split_once('s').unwrap().0.parse().unwrap_or_else(|_| panic!("{}", refused.stderr));
    assert!(seconds < 5, "{}", refused.stderr);
    world.wait_until(|world| world.unsent() == 0, "the rows to be flagged");
    ends_well(world, run);
}

#[test]
fn a_session_that_was_ended_between_two_runs_is_opened_anew() {
    let mut world = World::new("warm_ended");
    let run = world.start(&["--every", "1s"]);
    for _ in 0..3 {
        let before = next_session(&mut world, &run, "");
        world.sql(&format!("SELECT pg_terminate_backend({})", before.0));
        let after = next_session(&mut world, &run, &before.1);
        assert_ne!(after.0, before.0);
        moves_a_row(&mut world);
    }
    signal("TERM", &run);
    // A run that was hit in its middle may have failed.
    Ended::of(&run.wait_with_output().unwrap()).expect(0);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_failed_run_leaves_no_session_to_the_next_one() {
    let mut world = World::new("warm_failed");
    world.settings.insert("retry", "attempts = 1".into());
    let proxy = Proxy::before_clickhouse(&mut world);
    let run = world.start(&["--every", "1s"]);
    let before = next_session(&mut world, &run, "");

    proxy.on_nth(1, Way::ToServer, has("system.tables"), Fault::Cut);
    proxy.wait_for_hit();

    let is_another = |world: &mut World| session(world, &run).is_some_and(|(process, _)| process != before.0);
    world.wait_until(is_another, "a session of its own");
    moves_a_row(&mut world);
    signal("TERM", &run);
    let ended = Ended::of(&run.wait_with_output().unwrap()).expect(0);
    assert!(ended.stderr.contains("error: cannot look up the target"), "{}", ended.stderr);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_process_that_is_killed_after_some_runs_loses_and_doubles_nothing() {
    let mut world = World::new("warm_killed");
    world.settings.insert("batch", "rows = 50".into());
    for rows in [300, 600, 900] {
        let mut run = world.start(&["--every", "1s"]);
        world.wait_until(|world| session(world, &run).is_some() && world.unsent() == 0, "the first run");
        world.insert_rows(rows);
        world.wait_until(|world| world.unsent() < rows, "the first batch to be flagged");
        run.kill().unwrap();
        run.wait().unwrap();
    }
    world.run(&["--once", "--wait-lock", "10s"]).expect(0);
    world.assert_exactly_once();
}

#[test]
fn source_topic_and_target_may_change_between_two_runs() {
    let mut world = World::new("warm_changes");
    let run = world.start(&["--every", "1s"]);
    moves_a_row(&mut world);

    world.add_partitions(5);
    world.insert_rows(40);
    world.wait_until(|world| world.ch_number("SELECT count() FROM {t}") == 41, "the rows of all partitions");
    assert!(world.ch_number("SELECT uniqExact(_partition) FROM {t}") > 3);

    // The target has the column before the source does.
    world.ch("ALTER TABLE {t} ADD COLUMN note String DEFAULT 'none'");
    moves_a_row(&mut world);
    world.sql("ALTER TABLE {t} ADD COLUMN note text NOT NULL DEFAULT 'some'");
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE");
    world.wait_until(|world| world.ch_number("SELECT countIf(note = 'some') FROM {t}") == 42, "rows with the column");

    // Its name now belongs to another table.
    world.ch("CREATE TABLE {t}_next AS {t}");
    world.ch("SYSTEM STOP MERGES {t}_next");
    world.ch("EXCHANGE TABLES {t} AND {t}_next");
    world.insert_rows(1);
    world.wait_until(
        |world| world.ch_number("SELECT count() FROM {t}") == 2 * 42 + 1,
        "the new table to get every record",
    );
    world.ch("DROP TABLE {t}_next");
    ends_well(world, run);
}

#[test]
fn the_tables_of_a_process_have_a_session_each() {
    let mut worlds = ["a", "b"].map(|letter| World::new(&format!("warm_tables_{letter}")));
    let [first, second] = &mut worlds;
    first.add_table(second);
    let run = first.start(&["--every", "1s"]);
    for _ in 0..2 {
        moves_a_row(first);
        moves_a_row(second);
    }
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg2ch ledger %:' || $1";
    first.wait_until(
        |world| world.pg.query_one(sessions, &[&run.id().to_string()]).unwrap().get::<_, i64>(0) == 2,
        "two sessions",
    );
    first.run(&["--once", "--wait-lock", "10s"]).expect(0);
    signal("TERM", &run);
    Ended::of(&run.wait_with_output().unwrap()).expect(0);
    worlds.iter_mut().for_each(World::assert_exactly_once);
}

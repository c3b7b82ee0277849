//! `pg2ch status`, and the history of runs behind it.

use crate::common::{World, signal};
use serde_json::Value;

fn status(world: &World) -> Value {
    world.run(&["status", "--json"]).expect(0).report()
}

#[test]
fn it_tells_what_waits_in_each_place() {
    let mut world = World::new("status_waits");
    world.insert_rows(6);
    world.run(&["produce"]).expect(0);
    world.insert_rows(2);
    let report = status(&world);
    assert_eq!(report["unsent"]["rows"], 2);
    assert_eq!(report["unsent"]["lowest_key"], "7");
    assert!(report["unsent_seconds_at_most"].as_i64().unwrap() < 60, "{report:#}");
    let behind: i64 = report["partitions"].as_array().unwrap().iter().map(|p| p["behind"].as_i64().unwrap()).sum();
    assert!((6..=9).contains(&behind), "six records and a marker for each partition: {behind}");
    assert_eq!(report["dead_letters_pending"], 0);

    world.once().expect(0);
    let report = status(&world);
    assert_eq!((&report["unsent"]["rows"], &report["records_behind_at_most"]), (&0.into(), &0.into()));
    let text = world.run(&["status"]).expect(0).stdout;
    assert!(text.contains("unsent            0 rows") && text.contains("both legs, succeeded, by "), "{text}");
}

#[test]
fn dead_entries_of_the_index_are_visited_once() {
    let mut world = World::new("status_once");
    world.name_sessions();
    world.insert_rows(2000);
    world.run(&["produce"]).expect(0);
    world.sql("ANALYZE {t}");
    let before = world.scans("idx_scan");
    assert_eq!(status(&world)["unsent"]["rows"], 0);
    assert_eq!(world.scans("idx_scan") - before, 1);
}

#[test]
fn dead_letters_are_counted_until_they_are_replayed() {
    let mut world = World::new("status_dead");
    world.settings.insert("[table]", "allow_lossy = [\"user_id\"]".into());
    world.ch("ALTER TABLE {t} MODIFY COLUMN user_id Int8");
    world.insert_rows(130);
    world.once().expect(65);
    assert_eq!(status(&world)["dead_letters_pending"], 3, "128, 129 and 130 are no Int8");
    world.ch("ALTER TABLE {t} MODIFY COLUMN user_id Int64");
    world.run(&["dead-letters", "replay"]).expect(0);
    assert_eq!(status(&world)["dead_letters_pending"], 0);
}

#[test]
fn runs_that_moved_something_or_failed_are_kept_and_the_others_only_seen() {
    let mut world = World::new("status_runs");
    world.once().expect(0);
    world.once().expect(0);
    let report = status(&world);
    assert_eq!(report["runs"].as_array().unwrap().len(), 0, "nothing was moved");
    assert_eq!(report["last_seen"].as_array().unwrap().len(), 1);

    world.insert_rows(4);
    world.once().expect(0);
    world.settings.insert("clickhouse", "url = \"http://app:app@localhost:1\"".into());
    world.settings.insert("retry", "attempts = 1".into());
    world.once().expect(69);
    world.settings.clear();
    let report = status(&world);
    let runs = report["runs"].as_array().unwrap();
    let ends: Vec<_> =
        runs.iter().map(|run| (run["exit_code"].as_i64().unwrap(), run["records_sent"].as_i64().unwrap())).collect();
    assert_eq!(ends, [(69, 0), (0, 4)]);
    assert!(runs[0]["error"].as_str().unwrap().contains("ClickHouse"), "{report:#}");
    assert_eq!(report["last_seen"][0]["exit_code"], 69);
}

#[test]
fn the_history_is_bounded() {
    let mut world = World::new("status_bounded");
    world.sql(
        "INSERT INTO pg2ch_runs (source, topic, legs, last_seen, started_at, seconds, exit_code, complete, all_sent, records_sent,
            rows_flagged, records_copied, inserts, dead_letters, run_by)
         SELECT 'public.{t}', '{t}', 'both', false, now(), 1, 0, true, true, 1, 1, 1, 1, 0, 'test' FROM generate_series(1, 250)",
    );
    world.insert_rows(1);
    world.once().expect(0);
    assert_eq!(world.sql_number("SELECT count(*) FROM pg2ch_runs WHERE topic = '{t}' AND NOT last_seen"), 100);
}

#[test]
fn it_works_while_a_run_works() {
    let mut world = World::new("status_busy");
    world.insert_rows(20_000);
    world.settings.insert("batch", "rows = 50".into());
    let mut run = world.start(&["--once"]);
    // Each command writes the configuration anew: the run has to have read it.
    let mut session = world.another_session();
    let flagged = format!("SELECT count(*) FROM {} WHERE sent_to_kafka", world.name);
    world.wait_for("the run to have begun", || session.query_one(&flagged, &[]).unwrap().get::<_, i64>(0) > 0);
    let mut told = Vec::new();
    while run.try_wait().unwrap().is_none() {
        told.push(status(&world)["unsent"]["rows"].as_i64().unwrap());
    }
    assert!(run.wait().unwrap().success());
    assert!(told.iter().any(|&rows| rows > 0 && rows < 20_000), "{told:?}");
    world.assert_exactly_once();
}

#[test]
fn a_run_does_without_a_history() {
    let mut world = World::new("status_without");
    let role = world.become_role(
        "GRANT SELECT, UPDATE ON {t} TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held TO {role}",
    );
    world.insert_rows(2);
    let ended = world.once().expect(0);
    assert_eq!(ended.stderr, "");
    let report = status(&world);
    assert_eq!(report["unsent"]["rows"], 0);
    assert_eq!(report["runs"].as_array().unwrap().len(), 0);
    world.drop_role(&role);
}

#[test]
fn a_long_run_tells_how_far_it_is_when_it_is_asked_by_a_signal() {
    let mut world = World::new("status_signal");
    world.insert_rows(20_000);
    world.settings.insert("batch", "rows = 50".into());
    let run = world.start(&["--once"]);
    world.wait_for("the run to have begun", || world_flagged(&world) > 0);
    signal("USR1", &run);
    let ended = run.wait_with_output().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{told}");
    let line = told.lines().find(|line| line.contains("s into the run")).expect("a line of progress");
    let words: Vec<&str> = line.split(": ").nth(1).unwrap().split(' ').collect();
    let sent: u64 = words[0].replace(',', "").parse().unwrap();
    assert!(sent > 0 && sent <= 20_000, "{line}");
}

fn world_flagged(world: &World) -> i64 {
    let mut session = world.another_session();
    let sql = format!("SELECT count(*) FROM {} WHERE sent_to_kafka", world.name);
    session.query_one(&sql, &[]).unwrap().get(0)
}

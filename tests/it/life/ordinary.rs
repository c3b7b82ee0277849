//! The ordinary life of the job, on the real servers.

use std::collections::HashSet;
use std::process::Command;

use crate::common::{Ended, World};

#[test]
fn a_first_run_brings_every_row_and_a_second_one_does_nothing() {
    let mut world = World::new("first");
    world.insert_rows(25);
    let ended = world.once().expect(0);
    assert_eq!(ended.number("produce", "rows_flagged"), 25);
    assert_eq!(ended.number("consume", "rows_inserted"), 25);
    assert_eq!(ended.report()["complete"], true);
    world.assert_exactly_once();

    let ended = world.once().expect(0);
    assert_eq!(ended.number("produce", "records_sent"), 0);
    assert_eq!(ended.number("consume", "records_copied"), 0);
    assert_eq!(ended.stderr, "", "cron sends what is printed");
    world.assert_exactly_once();
}

#[test]
fn an_empty_table_is_nothing_to_do() {
    let mut world = World::new("empty");
    let ended = world.once().expect(0);
    assert_eq!(ended.report()["complete"], true);
    assert_eq!(ended.number("produce", "records_sent"), 0);
    assert_eq!(ended.number("consume", "inserts"), 0);
    assert!(world.topic().is_empty());
    world.assert_exactly_once();
}

#[test]
fn rows_that_come_later_go_with_the_next_run() {
    let mut world = World::new("later");
    world.insert_rows(3);
    world.once().expect(0);
    world.sql(
        r#"INSERT INTO {t} (user_id, event_type, event_time, payload) VALUES (1, 'login', now(), '{"ip": "127.0.0.1"}')"#,
    );

    let ended = world.once().expect(0);

    assert_eq!(ended.number("produce", "rows_flagged"), 1);
    assert_eq!(ended.number("consume", "rows_inserted"), 1);
    assert_eq!(world.ch("SELECT payload FROM {t} ORDER BY _ingested_at DESC LIMIT 1"), r#"{"ip": "127.0.0.1"}"#);
    world.assert_exactly_once();
}

#[test]
fn a_changed_row_whose_flag_is_set_back_goes_out_as_a_new_version() {
    let mut world = World::new("version");
    world.stop_merges();
    world.insert_rows(3);
    world.once().expect(0);
    world.sql("UPDATE {t} SET event_type = 'logout', sent_to_kafka = FALSE WHERE id = 2");

    let ended = world.once().expect(0);

    assert_eq!(ended.number("produce", "rows_flagged"), 1);
    assert_eq!(world.ch("SELECT event_type FROM {t} WHERE id = 2 ORDER BY _offset"), "login\nlogout");
    assert_eq!(world.ch("SELECT event_type FROM {t} FINAL WHERE id = 2"), "logout");
    assert_eq!(world.ch_number("SELECT count() FROM {t} FINAL"), 3);
    world.assert_exactly_once();
}

#[test]
fn a_row_whose_flag_alone_is_set_back_is_sent_again_because_it_is_asked_for() {
    let mut world = World::new("again");
    world.stop_merges();
    world.insert_rows(2);
    world.once().expect(0);
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 1");

    world.once().expect(0);

    let records = world.topic();
    assert_eq!(records.iter().filter(|record| record.key == "1").count(), 2);
    assert_eq!(world.unsent(), 0);
    world.assert_target_equals_topic(&records);
    assert_eq!(world.ch_number("SELECT count() FROM {t} FINAL"), 2);
}

#[test]
fn other_consumers_see_plain_rows_and_nothing_of_ours() {
    let mut world = World::new("plain");
    world.sql(
        r#"INSERT INTO {t} (id, user_id, event_type, event_time, payload)
           VALUES (42, 7, 'login "naïve" 日本', '2024-05-01 10:00:00.5+02', '{"ip": "10.0.0.1", "n": 1.50}')"#,
    );
    let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
    let before = world.sql_number(clock);
    world.once().expect(0);
    let after = world.sql_number(clock);

    let records = world.topic();

    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!(record.key, "42");
    assert_eq!(
        record.value,
        r#"{"id":42,"user_id":7,"event_type":"login \"naïve\" 日本","event_time":"2024-05-01T08:00:00.5+00:00","payload":{"n": 1.50, "ip": "10.0.0.1"}}"#
    );
    assert!(record.headers.is_empty(), "{:?}", record.headers);
    assert!((before - 1..=after).contains(&record.timestamp_ms), "{before} <= {} <= {after}", record.timestamp_ms);
}

#[test]
fn a_hundred_thousand_rows_take_many_batches_over_three_partitions() {
    let mut world = World::new("many");
    world.stop_merges();
    world.settings.insert("batch", "rows = 3000\ninsert_rows = 7000".into());
    world.insert_rows(100_000);

    let ended = world.once().expect(0);

    assert_eq!(ended.number("produce", "rows_flagged"), 100_000);
    assert_eq!(ended.number("consume", "rows_inserted"), 100_000);
    assert!(ended.number("consume", "inserts") >= 100_000 / 7000, "{}", ended.stdout);
    let partitions: HashSet<i32> = world.topic().iter().map(|record| record.partition).collect();
    assert_eq!(partitions.len(), 3);
    // Batch after batch under one timestamp each: the time when it was read.
    assert!(world.ch_number("SELECT uniqExact(_timestamp) FROM {t}") > 5);
    world.assert_exactly_once();
}

#[test]
fn the_two_legs_do_the_same_one_after_the_other() {
    let mut world = World::new("legs");
    world.insert_rows(10);

    let produced = world.run(&["produce", "--json"]).expect(0);
    assert_eq!(produced.number("produce", "rows_flagged"), 10);
    assert!(produced.report()["consume"].is_null());
    assert_eq!((world.unsent(), world.topic().len()), (0, 10));
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 0);

    let consumed = world.run(&["consume", "--json"]).expect(0);
    assert_eq!(consumed.number("consume", "rows_inserted"), 10);
    assert!(consumed.report()["produce"].is_null());
    world.assert_exactly_once();
}

#[test]
fn a_run_whose_document_cannot_be_written_moves_its_rows_and_fails() {
    let mut world = World::new("full");
    for (args, code) in [(&["--once", "--json"][..], 69), (&["--once"], 0), (&["verify"], 69)] {
        world.insert_rows(4);
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let ended = Ended::of(&world.command(args).stdout(full).output().unwrap()).expect(code);
        assert_eq!(ended.stderr.contains("error: cannot write to standard output"), code != 0, "{}", ended.stderr);
        assert_eq!(world.unsent(), if args == ["verify"] { 4 } else { 0 });
    }
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn in_the_environment_of_cron_a_run_that_went_well_prints_nothing() {
    let mut world = World::new("cron");
    world.insert_rows(4);
    // Not even HOME or PATH; the root as directory; no terminal.
    let mut command = Command::new(env!("CARGO_BIN_EXE_pg2ch"));
    command.arg("--once").arg("--config").arg(world.config()).env_clear().current_dir("/");

    let ended = Ended::of(&command.output().unwrap());

    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (0, "", ""));
    world.assert_exactly_once();
}

//! Schedules that broke simpler versions of the first leg: what applications, other producers and operators do at the
//! wrong moment.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::{Duration, Instant};

use common::World;
use common::foreign::Foreign;
use common::servers::Servers;
use postgres::{Client, NoTls};

impl World {
    fn second_session(&self) -> Client {
        Client::connect(&self.servers.postgres_url, NoTls).unwrap()
    }
}

/// How often each key was sent.
fn copies(world: &World, key: &str) -> usize {
    world.topic().iter().filter(|record| record.key == key).count()
}

/// The last content that was sent of a key.
fn last_of(world: &World, key: &str) -> String {
    let mut records = world.topic();
    records.retain(|record| record.key == key);
    records.sort_by_key(|record| record.offset);
    records.pop().map(|record| record.value).unwrap_or_default()
}

// What changes between reading and flagging.

#[test]
fn a_row_changed_after_it_was_sent_goes_out_again_once() {
    let mut world = World::new("a_to_b");
    world.insert_rows(5);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.sql("UPDATE {t} SET event_type = 'b' WHERE id = 3");
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!(ended.number("produce", "rows_recovered"), 4);
    assert_eq!(ended.number("produce", "records_sent"), 1);
    assert_eq!(copies(&world, "3"), 2);
    world.assert_sent_exactly_once();
}

#[test]
fn a_row_changed_there_and_back_before_the_next_run_is_not_sent_again() {
    let mut world = World::new("a_b_a_unseen");
    world.insert_rows(5);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.sql("UPDATE {t} SET event_type = 'b' WHERE id = 3");
    world.sql("UPDATE {t} SET event_type = 'login' WHERE id = 3");
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!(ended.number("produce", "rows_recovered"), 5);
    world.assert_sent_exactly_once();
}

#[test]
fn a_row_sent_as_a_then_as_b_then_as_a_ends_as_a() {
    let mut world = World::new("a_b_a_sent");
    world.insert_rows(5);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.sql("UPDATE {t} SET event_type = 'b' WHERE id = 3");
    world.kill_at("kafka.commit.after", &["produce"]);
    world.sql("UPDATE {t} SET event_type = 'login' WHERE id = 3");
    // All three records lie in the window of nobody's checkpoint: an earlier A must not pass for the last one.
    world.sql("DELETE FROM pg2ch_checkpoint WHERE source = 'public.{t}'");
    world.run(&["produce"]).expect(0);
    assert_eq!(copies(&world, "3"), 3);
    assert!(last_of(&world, "3").contains("login"), "{}", last_of(&world, "3"));
    assert_eq!((world.unsent(), world.records()), (0, 7));
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 7);
}

#[test]
fn a_table_rewritten_between_reading_and_flagging_flags_each_row_and_no_stranger() {
    for rewrite in ["VACUUM FULL {t}", "CLUSTER {t} USING {t}_by_user"] {
        let mut world = World::new("rewritten");
        world.sql("CREATE INDEX {t}_by_user ON {t} (user_id)");
        // Loaded in one transaction: all rows have one xmin. The dead ones in front make the rewrite move the others, so that
        // rows which are not even read yet come to lie where those of the first batch were.
        world.sql(
            "INSERT INTO {t} (user_id, event_type, event_time) SELECT n, 'login', now() FROM generate_series(1, 160) n",
        );
        world.sql("DELETE FROM {t} WHERE id <= 60");
        world.batch_rows(20);
        let mut run = world.start_stopped_at("kafka.commit.after");
        world.sql(rewrite);
        world.sql("INSERT INTO {t} (user_id, event_type, event_time) VALUES (1000, 'late', now())");
        run.go_on();
        let ended = run.end().expect(0);
        assert_eq!(ended.number("produce", "rows_flagged"), 100, "{rewrite}");
        assert_eq!(ended.number("produce", "rows_changed"), 0, "{rewrite}");
        assert_eq!(world.unsent(), 1, "{rewrite}: the late row");
        world.run(&["produce"]).expect(0);
        world.assert_sent_exactly_once();
    }
}

#[test]
fn a_new_version_in_the_old_ones_place_is_told_apart() {
    let mut world = World::new("same_place");
    // An index on what changes: without it the old place would stay a signpost to the new one.
    world.sql("CREATE INDEX ON {t} (user_id)");
    world.insert_rows(3);
    let place = "SELECT (ctid::text::point)[1]::bigint FROM {t} WHERE id = 2";
    let before = world.sql_number(place);
    let mut run = world.start_stopped_at("kafka.commit.after");
    let mut version = 0;
    // The dead version's place is free when no transaction is left that might see it.
    let until = Instant::now() + Duration::from_secs(20);
    while version == 0 || world.sql_number(place) != before {
        assert!(Instant::now() < until, "the row did not come back to its place");
        version += 1;
        world.sql(&format!("UPDATE {{t}} SET user_id = 500 + {version} WHERE id = 2"));
        world.sql("VACUUM {t}");
    }
    run.go_on();
    run.end().expect(0);
    assert_eq!(world.unsent(), 1);
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 4);
    world.assert_sent_exactly_once();
}

#[test]
fn a_row_changed_between_reading_and_flagging_keeps_its_flag_and_its_neighbours_lose_theirs() {
    let mut world = World::new("changed_meanwhile");
    world.insert_rows(10);
    let mut run = world.start_stopped_at("kafka.commit.after");
    world.sql("UPDATE {t} SET event_type = 'b' WHERE id = 3");
    world.sql("UPDATE {t} SET event_type = 'there' WHERE id = 4");
    world.sql("UPDATE {t} SET event_type = 'login' WHERE id = 4");
    world.sql("DELETE FROM {t} WHERE id = 5");
    run.go_on();
    let ended = run.end().expect(0);
    assert_eq!(ended.number("produce", "rows_flagged"), 8);
    assert_eq!(world.unsent(), 1);
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 11);
    world.assert_sent_exactly_once();
}

#[test]
fn partitions_whose_rows_have_the_same_place_are_told_apart() {
    let columns = "id bigint NOT NULL, part int NOT NULL, event_type text, event_time timestamptz DEFAULT now(), \
                   sent_to_kafka boolean NOT NULL DEFAULT FALSE, PRIMARY KEY (id, part)) PARTITION BY LIST (part";
    let mut world = World::unmade(Servers::shared(), "partitioned", columns, 2);
    for part in [1, 2] {
        world.sql(&format!("CREATE TABLE {{t}}_{part} PARTITION OF {{t}} FOR VALUES IN ({part})"));
    }
    world.settings.insert("[table]", "key = [\"id\", \"part\"]".into());
    world.run(&["init"]).expect(0);
    // One transaction, so the same xmin; the same places in both partitions.
    world.sql("INSERT INTO {t} (id, part, event_type) SELECT n, p, 'x' FROM generate_series(1, 30) n, generate_series(1, 2) p");
    let mut run = world.start_stopped_at("kafka.commit.after");
    world.sql("UPDATE {t} SET event_type = 'b' WHERE id <= 10 AND part = 1");
    run.go_on();
    let ended = run.end().expect(0);
    assert_eq!(ended.number("produce", "rows_flagged"), 50);
    assert_eq!(world.sql_number("SELECT count(*) FROM {t} WHERE NOT sent_to_kafka AND part = 1"), 10);
    assert_eq!(world.unsent(), 10);
    world.kill_at("kafka.commit.after", &["produce"]);
    assert_eq!(world.run(&["produce", "--json"]).expect(0).number("produce", "rows_recovered"), 10);
    assert_eq!((world.unsent(), world.records()), (0, 70));
}

// Locks and triggers.

#[test]
fn a_locked_row_is_flagged_later_and_never_sent_again() {
    let mut world = World::new("locked");
    world.settings.insert("timeouts", "row_lock = \"200ms\"".into());
    world.insert_rows(10);
    let mut other = world.second_session();
    let mut lock = other.transaction().unwrap();
    lock.execute(&format!("SELECT 1 FROM {} WHERE id = 4 FOR UPDATE", world.name), &[]).unwrap();
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!((ended.number("produce", "rows_flagged"), ended.number("produce", "rows_locked")), (9, 1));
    // Another row comes, while the old one stays locked: it neither waits nor drags the checkpoint past the locked one.
    for _ in 0..2 {
        world.insert_rows(1);
        let ended = world.run(&["produce", "--json"]).expect(0);
        assert_eq!((ended.number("produce", "records_sent"), ended.number("produce", "rows_locked")), (1, 1));
    }
    lock.rollback().unwrap();
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (1, 0));
    assert_eq!(world.records(), 12);
    world.assert_sent_exactly_once();
}

#[test]
fn a_locked_row_is_not_sent_again_though_the_run_that_could_not_flag_it_was_killed() {
    let mut world = World::with("locked_killed", common::USER_LOGINS, 1);
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.insert_rows(10);
    let mut other = world.second_session();
    let mut lock = other.transaction().unwrap();
    lock.execute(&format!("SELECT 1 FROM {} WHERE id = 4 FOR UPDATE", world.name), &[]).unwrap();
    world.kill_at("finish.before", &["produce"]);
    assert_eq!(world.unsent(), 1);
    lock.rollback().unwrap();
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (1, 0));
    world.assert_sent_exactly_once();
}

#[test]
fn a_row_locked_by_a_transaction_that_changes_it_goes_out_in_its_new_version() {
    let mut world = World::new("locked_changed");
    world.settings.insert("timeouts", "row_lock = \"200ms\"".into());
    world.insert_rows(10);
    let mut other = world.second_session();
    let mut lock = other.transaction().unwrap();
    lock.execute(&format!("UPDATE {} SET event_type = 'new' WHERE id = 4", world.name), &[]).unwrap();
    world.run(&["produce"]).expect(0);
    lock.commit().unwrap();
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!(ended.number("produce", "records_sent"), 1);
    assert_eq!(world.records(), 11);
    world.assert_sent_exactly_once();
}

#[test]
fn a_row_still_locked_from_an_earlier_run_keeps_the_checkpoint_when_a_later_lock_ends() {
    let mut world = World::with("locked_twice", common::USER_LOGINS, 1);
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.insert_rows(1);
    let (mut first, mut second) = (world.second_session(), world.second_session());
    let mut first_lock = first.transaction().unwrap();
    first_lock.execute(&format!("SELECT 1 FROM {} WHERE id = 1 FOR UPDATE", world.name), &[]).unwrap();
    world.run(&["produce"]).expect(0);
    // In the second run another row is locked when it is flagged, and free when it is tried again at the end.
    world.insert_rows(1);
    let mut second_lock = second.transaction().unwrap();
    second_lock.execute(&format!("SELECT 1 FROM {} WHERE id = 2 FOR UPDATE", world.name), &[]).unwrap();
    let mut run = world.start_stopped_at("finish.before");
    second_lock.rollback().unwrap();
    run.go_on();
    run.end().expect(0);
    first_lock.rollback().unwrap();
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (1, 0));
    world.assert_sent_exactly_once();
}

#[test]
fn a_deadlock_with_an_application_ends_and_loses_nothing() {
    let mut world = World::new("deadlock");
    world.settings.insert("timeouts", "row_lock = \"5s\"".into());
    world.insert_rows(10);
    let (mut other, name) = (world.second_session(), world.name.clone());
    let mut lock = other.transaction().unwrap();
    lock.execute(&format!("UPDATE {name} SET user_id = 99, sent_to_kafka = FALSE WHERE id = 9"), &[]).unwrap();
    let run = world.start(&["produce", "--json"]);
    world.wait_until(
        |world| {
            let waiting = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
                world.name
            );
            world.sql_number(&waiting) > 0
        },
        "the run to wait for row 9",
    );
    // The run holds row 1 by now and waits for row 9: one of the two has to give way. If it is the run, it may flag row 1
    // before this update gets it: a change of a flagged row counts only if it takes the flag back.
    let application = lock.execute(&format!("UPDATE {name} SET user_id = 99, sent_to_kafka = FALSE WHERE id = 1"), &[]);
    match application {
        Ok(_) => lock.commit().unwrap(),
        Err(_) => lock.rollback().unwrap(),
    }
    common::Ended::of(&run.wait_with_output().unwrap()).expect(0);
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

/// Runs five times beside a trigger that takes the flag of row 3 back: it is reported each time, and sent once.
fn sent_once_in_spite_of(name: &str, timing: &str, body: &str) {
    let mut world = World::new(name);
    world.insert_rows(6);
    let t = world.name.clone();
    let body = body.replace("{t}", &t);
    world
        .pg
        .batch_execute(&format!(
            "CREATE FUNCTION {t}_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
             CREATE {timing} FOR EACH ROW EXECUTE FUNCTION {t}_back()",
            timing = timing.replace("{t}", &t),
        ))
        .unwrap();
    for run in 1..=5 {
        let ended = world.run(&["produce", "--json"]).expect(65);
        assert_eq!(ended.report()["produce"]["taken_back"], serde_json::json!(["3"]), "run {run}: {}", ended.stdout);
        assert_eq!((world.unsent(), world.records()), (1, 6), "run {run}");
    }
    world.sql("DROP FUNCTION {t}_back CASCADE");
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 6);
    world.assert_sent_exactly_once();
}

#[test]
fn a_trigger_that_takes_the_flag_back_before_the_update_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_before",
        "TRIGGER back BEFORE UPDATE ON {t}",
        "IF NEW.id = 3 THEN NEW.sent_to_kafka := FALSE; END IF; RETURN NEW;",
    );
}

#[test]
fn a_trigger_that_takes_the_flag_back_after_the_update_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_after",
        "TRIGGER back AFTER UPDATE ON {t}",
        "IF NEW.id = 3 AND NEW.sent_to_kafka THEN UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 3; END IF; RETURN NULL;",
    );
}

#[test]
fn a_trigger_that_takes_the_flag_back_at_the_commit_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_deferred",
        "CONSTRAINT TRIGGER back AFTER UPDATE ON {t} DEFERRABLE INITIALLY DEFERRED",
        "IF NEW.id = 3 AND NEW.sent_to_kafka THEN UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 3; END IF; RETURN NULL;",
    );
}

#[test]
fn a_trigger_that_suppresses_the_update_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_suppressed",
        "TRIGGER back BEFORE UPDATE ON {t}",
        "IF NEW.id = 3 THEN RETURN NULL; END IF; RETURN NEW;",
    );
}

#[test]
fn a_trigger_that_sets_the_time_of_the_last_change_is_no_change() {
    let columns = format!("{}, updated_at timestamptz", common::USER_LOGINS);
    let mut world = World::with("touched", &columns, 1);
    world.insert_rows(6);
    let t = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "CREATE FUNCTION {t}_touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
             CREATE TRIGGER touch BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {t}_touch()"
        ))
        .unwrap();
    world.run(&["produce"]).expect(0);
    world.insert_rows(6);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.run(&["produce"]).expect(0);
    world.run(&["produce"]).expect(0);
    assert_eq!((world.unsent(), world.records()), (0, 12));
}

// The topic, and who else writes to it.

#[test]
fn foreign_records_of_every_kind_cause_no_copies() {
    let mut world = World::new("foreign");
    let foreign = Foreign::new(&world);
    for round in 0..3 {
        world.insert_rows(20);
        foreign.send(&[
            (Some(b"garbage"), Some(b"no json")),
            (Some(b"\xff\xfe\x00"), Some(b"\xff\x00\xff")),
            (Some(b"99999999999999999999999"), Some(b"{}")),
            (Some(b""), Some(b"")),
            (None, Some(b"{\"id\": 1}")),
            (Some(b"777777"), None),
            (Some(b"888888"), Some(b"{\"id\": 888888}")),
        ]);
        world.kill_at("kafka.commit.after", &["produce"]);
        foreign.send(&[(Some(b"more garbage"), Some(b"\0")), (Some(b"[1"), Some(b"[")), (None, None)]);
        let ended = world.run(&["produce", "--json"]).expect(0);
        assert_eq!(ended.number("produce", "rows_recovered"), 20, "round {round}");
        assert_eq!(ended.number("produce", "records_sent"), 0, "round {round}");
        assert_eq!(world.unsent(), 0);
    }
    assert_eq!(world.records(), 60 + 30);
}

#[test]
fn a_row_that_another_producer_wrote_over_in_the_topic_is_sent_again_so_that_it_stands_last() {
    let mut world = World::new("overwritten");
    world.insert_rows(5);
    world.kill_at("kafka.commit.after", &["produce"]);
    let foreign = Foreign::new(&world);
    // A value with a zero byte cannot even be compared in PostgreSQL: it counts all the same.
    foreign.send(&[(Some(b"2"), None), (Some(b"3"), Some(b"{\"id\": 3}")), (Some(b"4"), Some(b"\0"))]);
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (2, 3));
    for key in ["2", "3", "4"] {
        assert!(last_of(&world, key).contains("login"), "row {key} stands last");
    }
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 5 + 3 + 3);
}

#[test]
fn a_foreign_transaction_left_open_ends_the_run_with_69_and_doubles_nothing() {
    let mut world = World::with("left_open", common::USER_LOGINS, 1);
    world.settings.insert("timeouts", "stable = \"500ms\"".into());
    world.settings.insert("retry", "attempts = 1".into());
    world.insert_rows(5);
    let open = Foreign::with_open_transaction(&world);
    let ended = world.run(&["produce"]).expect(69);
    assert!(ended.stderr.contains("transaction of another producer"), "{}", ended.stderr);
    // It may also be begun while our records are under way: they are committed, and hidden.
    open.abort();
    let mut run = world.start_stopped_at("kafka.begin.after");
    let open = Foreign::with_open_transaction(&world);
    run.go_on();
    let first = run.end();
    assert!([0, 69].contains(&first.code), "{first:?}");
    world.insert_rows(1);
    world.run(&["produce"]).expect(69);
    open.abort();
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 6);
    world.assert_sent_exactly_once();
}

#[test]
fn a_topic_deleted_and_made_again_is_reported_and_started_over() {
    let mut world = World::new("remade");
    world.insert_rows(30);
    world.run(&["produce"]).expect(0);
    let topic = world.name.clone();
    world.delete_topic(&topic);
    world.create_topic(&topic, 3, &[]);
    world.insert_rows(3);
    let ended = world.run(&["produce", "--json"]).expect(65);
    assert_eq!(ended.report()["produce"]["topic_recreated"], true);
    assert_eq!((world.unsent(), world.records()), (0, 3));
    world.insert_rows(2);
    world.run(&["produce"]).expect(0);
    assert_eq!((world.unsent(), world.records()), (0, 5));
}

#[test]
fn a_window_that_retention_has_eaten_into_is_reported() {
    let mut world = World::with("eaten", common::USER_LOGINS, 1);
    world.insert_rows(10);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.delete_records(0, 4);
    let ended = world.run(&["produce", "--json"]).expect(65);
    assert_eq!(ended.report()["produce"]["window_lost"], serde_json::json!([{"partition": 0, "from": 0, "to": 4}]));
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (6, 4));
    world.insert_rows(1);
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

#[test]
fn a_record_too_large_for_the_topic_is_named_and_its_neighbours_go() {
    let mut world = World::new("too_large");
    let topic = world.name.clone();
    world.delete_topic(&topic);
    world.create_topic(&topic, 2, &[("max.message.bytes", "1500")]);
    world.insert_rows(40);
    world.sql("UPDATE {t} SET details = to_jsonb((SELECT string_agg(md5(n::text), '') FROM generate_series(1, 60) n)) WHERE id IN (7, 23)");
    for _ in 0..2 {
        let ended = world.run(&["produce", "--json"]).expect(65);
        let large = ended.report()["produce"]["too_large"].clone();
        let keys: Vec<_> =
            large.as_array().unwrap().iter().map(|row| row["key"].as_str().unwrap().to_owned()).collect();
        assert_eq!(keys, ["7", "23"]);
        assert_eq!((world.unsent(), world.records()), (2, 38));
    }
    world.sql("UPDATE {t} SET details = NULL WHERE NOT sent_to_kafka");
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

// The checkpoint.

#[test]
fn two_sources_that_feed_one_topic_are_refused() {
    let mut world = World::new("one_topic");
    world.insert_rows(3);
    world.run(&["produce"]).expect(0);
    let name = world.name.clone();
    world.sql("CREATE TABLE {t}_too (LIKE {t} INCLUDING ALL)");
    world.sql("INSERT INTO {t}_too (id, user_id, event_type, event_time) VALUES (1, 1, 'x', now())");
    world.settings.insert("[table]", format!("source = \"public.{name}_too\""));
    let ended = world.run(&["produce"]).expect(78);
    assert!(ended.stderr.contains("is fed by"), "{}", ended.stderr);
    assert_eq!(world.records(), 3);
}

#[test]
fn a_lost_checkpoint_makes_the_whole_topic_the_window_and_copies_nothing() {
    let mut world = World::new("checkpoint_lost");
    world.insert_rows(40);
    world.run(&["produce"]).expect(0);
    world.sql("DELETE FROM pg2ch_checkpoint WHERE source = 'public.{t}'");
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE id % 4 = 0");
    world.insert_rows(2);
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (10, 2));
    world.assert_sent_exactly_once();
}

#[test]
fn in_a_long_window_too_the_last_record_of_a_key_counts() {
    let mut world = World::with("long_window", common::USER_LOGINS, 1);
    // More records than are compared at once, so that A and B of row 3 come in different pieces.
    world.insert_rows(2_500);
    world.run(&["produce"]).expect(0);
    world.sql("UPDATE {t} SET event_type = 'b', sent_to_kafka = FALSE WHERE id IN (3, 4)");
    world.run(&["produce"]).expect(0);
    world.sql("UPDATE {t} SET event_type = 'login', sent_to_kafka = FALSE WHERE id = 3");
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 4");
    world.sql("DELETE FROM pg2ch_checkpoint WHERE source = 'public.{t}'");
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (1, 1));
    assert!(last_of(&world, "3").contains("login") && copies(&world, "3") == 3 && copies(&world, "4") == 2);
    assert_eq!(world.unsent(), 0);
}

#[test]
fn when_the_clock_goes_back_new_records_are_still_later_than_old_ones() {
    let mut world = World::new("clock");
    world.insert_rows(3);
    world.run(&["produce"]).expect(0);
    // What a run would have left whose clock was half an hour ahead.
    world.sql("UPDATE pg2ch_checkpoint SET timestamp_floor = timestamp_floor + 1800000 WHERE source = 'public.{t}' AND partition = -1");
    let floor =
        world.sql_number("SELECT timestamp_floor FROM pg2ch_checkpoint WHERE source = 'public.{t}' AND partition = -1");
    world.batch_rows(1);
    world.insert_rows(3);
    world.run(&["produce"]).expect(0);
    let late: Vec<i64> = world.topic().iter().map(|record| record.timestamp_ms).filter(|&ms| ms > floor).collect();
    assert_eq!(late.len(), 3, "all above {floor}");
    let after =
        world.sql_number("SELECT timestamp_floor FROM pg2ch_checkpoint WHERE source = 'public.{t}' AND partition = -1");
    assert_eq!(after, late.into_iter().max().unwrap(), "and the floor has risen with them");
}

// Two runs.

#[test]
fn a_second_run_is_refused_and_names_the_first() {
    let mut world = World::new("second_run");
    world.insert_rows(3);
    let mut run = world.start_stopped_at("kafka.commit.after");
    let ended = world.run(&["produce"]).expect(75);
    assert!(ended.stderr.contains(&format!(":{}", run.pid())), "the holder's process is named: {}", ended.stderr);
    run.go_on();
    run.end().expect(0);
    world.assert_sent_exactly_once();
}

/// A run is stopped at `point`, its sessions are ended as by an administrator, another run does the work, and the first
/// one goes on, with everything it remembers.
fn overtaken_at(world: &mut World, point: &str) {
    world.insert_rows(12);
    let mut run = world.start_stopped_at(point);
    let name = format!("%:{}", run.pid());
    world
        .pg
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1", &[&name])
        .unwrap();
    world.sql("UPDATE {t} SET event_type = 'meanwhile' WHERE id % 5 = 0 AND NOT sent_to_kafka");
    world.run(&["produce", "--wait-lock", "5s"]).expect(0);
    world.assert_sent_exactly_once();
    run.go_on();
    let ended = run.end();
    assert!([0, 69, 75].contains(&ended.code), "{point}: {ended:?}");
    world.assert_sent_exactly_once();
    world.insert_rows(1);
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

#[test]
fn a_run_whose_sessions_were_ended_is_overtaken_and_harmless_when_it_wakes_up() {
    let mut world = World::new("overtaken");
    world.batch_rows(5);
    for point in ["epoch.before", "epoch.after", "fence.after", "read.after", "kafka.begin.after"] {
        overtaken_at(&mut world, point);
    }
}

#[test]
fn a_run_overtaken_between_sending_and_flagging_is_harmless_when_it_wakes_up() {
    let mut world = World::new("overtaken_late");
    world.batch_rows(5);
    for point in
        ["kafka.send.after", "kafka.commit.before", "kafka.commit.after", "flag.begin.after", "flag.commit.before"]
    {
        overtaken_at(&mut world, point);
    }
}

/// Behind a connection pooler two runs may both believe that they hold the lock: the epoch tells them apart.
#[test]
fn a_run_whose_epoch_is_past_flags_nothing_neither_what_it_sent_nor_what_it_recovers() {
    let mut world = World::new("epoch");
    let next = "UPDATE pg2ch_checkpoint SET epoch = epoch + 1 WHERE source = 'public.{t}' AND partition = -1";
    world.insert_rows(5);
    for point in ["kafka.commit.after", "window.after"] {
        let mut run = world.start_stopped_at(point);
        world.sql(next);
        run.go_on();
        let ended = run.end().expect(75);
        assert!(ended.stderr.contains("next epoch"), "{}", ended.stderr);
        assert_eq!((world.unsent(), world.records()), (5, 5), "{point}");
    }
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 5);
    world.assert_sent_exactly_once();
}

#[test]
fn a_run_whose_epoch_is_past_when_it_has_fenced_sends_nothing() {
    let mut world = World::new("epoch_past");
    world.insert_rows(5);
    for point in ["epoch.after", "fence.before", "fence.after"] {
        let mut run = world.start_stopped_at(point);
        world.sql("UPDATE pg2ch_checkpoint SET epoch = epoch + 1 WHERE source = 'public.{t}' AND partition = -1");
        run.go_on();
        let ended = run.end().expect(75);
        assert!(ended.stderr.contains("next epoch"), "{}", ended.stderr);
        assert_eq!((world.unsent(), world.records()), (5, 0), "{point}");
    }
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

#[test]
fn a_lock_lost_under_a_live_run_doubles_nothing() {
    let mut world = World::new("lock_lost");
    world.batch_rows(2);
    for round in 0..4 {
        let sent = world.sql_number("SELECT count(*) FROM {t}") + 4 * round;
        world.insert_rows(60);
        let run = world.start(&["produce"]);
        world.wait_until(
            |world| world.sql_number("SELECT count(*) FROM {t} WHERE sent_to_kafka") > sent,
            "the first flags",
        );
        let name = format!("%:{}", run.id());
        world
            .pg
            .execute(
                "SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                 WHERE l.locktype = 'advisory' AND a.application_name LIKE $1",
                &[&name],
            )
            .unwrap();
        let second = world.run(&["produce", "--wait-lock", "10s"]);
        assert!([0, 75].contains(&second.code), "{second:?}");
        let first = common::Ended::of(&run.wait_with_output().unwrap());
        assert!([0, 69, 75].contains(&first.code), "{first:?}");
        world.run(&["produce"]).expect(0);
        world.assert_sent_exactly_once();
    }
}

//! `headers` in `[[table]]`: columns that travel beside a record's value, and count for what the record is.

use crate::common::servers::Servers;
use crate::common::{Seen, USER_LOGINS, World};

const HEADERS: &str =
    "headers = { traceparent = \"trace\", ce_type = \"event_type\", raw = \"raw\" }\nexclude = [\"trace\", \"raw\"]";

/// A table with columns that only headers have, and rows of which each has a trace.
fn with_headers(name: &str, rows: i64) -> World {
    let columns = format!("{USER_LOGINS}, trace text DEFAULT 'first', raw bytea");
    let mut world = World::unmade(Servers::shared(), name, &columns, 1);
    world.settings.insert("[table]", HEADERS.into());
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.run(&["init"]).expect(0);
    world.stop_merges();
    world.insert_rows(rows);
    world
}

fn produce(world: &World) -> (i64, i64) {
    let ended = world.run(&["produce", "--json"]).expect(0);
    (ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent"))
}

/// The traces that were sent of a row, in order.
fn traces(world: &World, key: &str) -> Vec<String> {
    let records = world.topic();
    let of_key = records.iter().filter(|record| record.key == key);
    of_key.map(|record| record.headers.get("traceparent").cloned().unwrap_or_default()).collect()
}

#[test]
fn a_record_has_the_headers_in_their_order_and_a_null_leaves_one_out() {
    let mut world = with_headers("headers", 4);
    world.sql("UPDATE {t} SET trace = NULL WHERE id = 2");
    world.sql("UPDATE {t} SET trace = '', raw = '\\x00ff80' WHERE id = 3");
    world.sql("UPDATE {t} SET trace = 'é', raw = 'ascii' WHERE id = 4");
    world.once().expect(0);
    let headers = |record: &Seen| record.header_names.join(" ");
    let records = world.topic();
    let names: Vec<_> = records.iter().map(headers).collect();
    assert_eq!(names, ["traceparent ce_type", "ce_type", "traceparent ce_type raw", "traceparent ce_type raw"]);
    assert_eq!(records[0].headers["ce_type"], "login");
    assert_eq!(
        (records[2].headers["traceparent"].as_str(), records[2].headers["raw"].chars().next()),
        ("", Some('\0'))
    );
    assert_eq!((records[3].headers["traceparent"].as_str(), records[3].headers["raw"].as_str()), ("é", "ascii"));
    assert!(!records[0].value.contains("trace"), "{}", records[0].value);
    // The target has the value alone.
    world.run(&["verify", "--deep"]).expect(0);
    world.run(&["check"]).expect(0);
    assert_eq!((world.unsent(), world.records()), (0, 4));
}

#[test]
fn a_header_that_changes_makes_a_new_version_though_the_value_is_the_same() {
    // Given rows that were delivered by a run that died before it flagged them
    let mut world = with_headers("headers_died", 4);
    world.sql("UPDATE {t} SET raw = '\\xff00' WHERE id = 2");
    world.sql("UPDATE {t} SET trace = NULL WHERE id = 3");
    world.kill_at("kafka.commit.after", &["produce"]);
    // When an application changes what only a header of one has
    world.sql("UPDATE {t} SET trace = 'second' WHERE id = 1");
    // Then that one goes out again, and no other
    assert_eq!(produce(&world), (3, 1));
    assert_eq!((traces(&world, "1"), world.records()), (vec!["first".to_owned(), "second".to_owned()], 5));
    assert_eq!(produce(&world), (0, 0));
}

#[test]
fn a_row_moved_between_reading_and_flagging_is_known_by_its_headers_too() {
    let mut world = with_headers("headers_moved", 4);
    let mut run = world.start_stopped_at("kafka.commit.after");
    world.sql("UPDATE {t} SET trace = CASE id WHEN 1 THEN 'second' ELSE trace END WHERE id < 3");
    run.go_on();
    let ended = run.end().expect(0);
    assert_eq!((ended.number("produce", "rows_flagged"), ended.number("produce", "rows_changed")), (3, 1));
    assert_eq!(produce(&world), (0, 1));
    assert_eq!(traces(&world, "1"), ["first", "second"]);
}

#[test]
fn a_locked_row_is_held_with_its_headers() {
    for (change, then) in [("SELECT 1", (1, 0)), ("UPDATE {t} SET trace = 'second' WHERE id = 1", (0, 1))] {
        let mut world = with_headers("headers_held", 3);
        let mut lock = world.another_session();
        lock.batch_execute(&format!("BEGIN; SELECT FROM {} WHERE id = 1 FOR UPDATE", world.name)).unwrap();
        assert_eq!(produce(&world), (0, 3));
        lock.batch_execute("ROLLBACK").unwrap();
        world.sql(change);
        assert_eq!(produce(&world), then, "{change}");
        assert_eq!(world.unsent(), 0);
    }
}

#[test]
fn a_dead_letter_has_the_headers_of_its_record_behind_its_own() {
    // Whether the server refuses the row or no row can be made of the record: both are read again.
    for (name, refuses, takes) in [
        ("headers_dead", "ADD CONSTRAINT picky CHECK user_id != 1000", "DROP CONSTRAINT picky"),
        ("headers_unfit", "MODIFY COLUMN user_id Int8", "MODIFY COLUMN user_id Int64"),
    ] {
        let mut world = with_headers(name, 0);
        world.settings.insert("[table]", format!("{HEADERS}\nallow_lossy = [\"user_id\"]"));
        world.ch(&format!("ALTER TABLE {{t}} {refuses}"));
        world.insert_rows(3);
        world.sql("UPDATE {t} SET user_id = 1000 WHERE id = 2");
        world.once().expect(65);
        let letters = world.topic_named(&format!("{}.dead", world.name));
        let [letter] = letters.as_slice() else { panic!("{letters:?}") };
        assert_eq!(letter.header_names[5..], ["traceparent", "ce_type"]);
        assert_eq!(
            (letter.headers["traceparent"].as_str(), letter.headers["pg2ch-topic"].as_str()),
            ("first", &*world.name)
        );
        world.ch("SYSTEM START MERGES {t}");
        world.ch(&format!("ALTER TABLE {{t}} {takes}"));
        world.assert_every_record_once();
        world.run(&["dead-letters", "replay"]).expect(0);
        world.assert_target_equals_topic(&world.topic());
    }
}

#[test]
fn headers_count_for_the_size_of_a_record() {
    let mut world = with_headers("headers_large", 3);
    world.alter_topic("max.message.bytes", "4000");
    world.sql(
        "UPDATE {t} SET trace = (SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) n) WHERE id = 2",
    );
    let ended = world.once().expect(65);
    assert_eq!((ended.number("produce", "records_sent"), world.unsent()), (2, 1));
    assert!(ended.report()["produce"]["too_large"][0]["bytes"].as_u64().unwrap() > 6_400);
}

#[test]
fn another_choice_of_headers_after_a_crash_sends_what_was_delivered_in_its_new_form() {
    let mut world = with_headers("headers_choice", 3);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.settings.insert("[table]", HEADERS.replace("traceparent", "trace"));
    assert_eq!(produce(&world), (0, 3));
    assert_eq!((world.unsent(), world.records()), (0, 6));
}

#[test]
fn a_header_of_a_column_that_is_not_there_is_refused() {
    let mut world = with_headers("headers_none", 1);
    world.settings.insert("[table]", "headers = { a = \"usr\" }".into());
    let ended = world.once().expect(78);
    assert!(ended.stderr.contains("has no column usr") && ended.stderr.contains("`headers`"), "{}", ended.stderr);
    assert_eq!(world.records(), 0);
}

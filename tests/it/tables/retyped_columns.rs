//! A column of the source gets another type while records wait, or under a run: each record is read by the types of its own time.

use serde_json::{Value, json};

use pg2ch::crash;

use crate::common::World;

const COLUMNS: &str = "id bigint PRIMARY KEY, note text, doc jsonb, docs jsonb[] NOT NULL DEFAULT '{}', gone json, \
    sent_to_kafka boolean NOT NULL DEFAULT FALSE";

/// There and back: what was text is documents, and the other way round. The values themselves change as the statement says.
const RETYPED: &str = "ALTER TABLE {t} ALTER note TYPE jsonb USING to_jsonb(note), ALTER doc TYPE text USING doc #>> '{}', \
    ALTER docs DROP DEFAULT, ALTER docs TYPE text[] USING '{x}', DROP COLUMN gone";

/// A row in the topic that looks the same before and after the change, and one behind it.
fn with_a_record_waiting(name: &str) -> World {
    let mut world = World::with(name, COLUMNS, 1);
    world.sql(r#"INSERT INTO {t} VALUES (1, 'a', '"b"', ARRAY['"1"', '1']::jsonb[], '"c"')"#);
    world.run(&["produce"]).expect(0);
    world.sql(RETYPED);
    world.sql(r#"INSERT INTO {t} VALUES (2, '"a"', 'b', '{1}')"#);
    world
}

/// The target's rows as JSON.
fn shown(world: &World) -> Vec<Value> {
    let settings = "SETTINGS output_format_json_quote_64bit_integers = 0";
    let rows = world.ch(&format!(
        "SELECT id, note, doc, docs, gone FROM {{t}} FINAL ORDER BY id FORMAT JSONCompactEachRow {settings}"
    ));
    rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The record from before the change, and the one from after it.
fn as_they_were() -> [Value; 2] {
    [json!([1, "a", "\"b\"", ["\"1\"", "1"], "\"c\""]), json!([2, "\"a\"", "b", ["1"], null])]
}

#[test]
fn a_record_that_waits_is_read_by_the_types_that_its_columns_had() {
    for (name, legs) in [("retyped_once", &["--once"][..]), ("retyped_alone", &["consume"])] {
        let world = with_a_record_waiting(name);
        if legs == ["consume"] {
            // Nothing was sent since the change: what waits is older than it.
            world.run(legs).expect(0);
            assert_eq!(shown(&world), as_they_were()[..1]);
            world.run(&["produce"]).expect(0);
        }
        world.run(legs).expect(0);
        assert_eq!(shown(&world), as_they_were(), "{name}");
    }
}

#[test]
fn a_change_there_and_back_is_no_secret() {
    let mut world = World::with("retyped_back", COLUMNS, 3);
    let mut expected = Vec::new();
    for id in 0..6 {
        let (is_text, row) = (id % 2 == 0, id.to_string());
        let value = if is_text { format!("'{row}'") } else { format!("'\"{row}\"'") };
        world.sql(&format!("INSERT INTO {{t}} (id, note) VALUES ({id}, {value})"));
        world.run(&["produce"]).expect(0);
        let change = if is_text { "jsonb USING to_jsonb(note)" } else { "text USING note #>> '{}'" };
        world.sql(&format!("ALTER TABLE {{t}} ALTER note TYPE {change}"));
        expected.push(if is_text { row } else { format!("\"{row}\"") });
    }
    world.once().expect(0);
    assert_eq!(world.ch("SELECT note FROM {t} ORDER BY id"), expected.join("\n"));
}

#[test]
fn a_letter_is_replayed_with_the_types_of_its_record() {
    let mut world = World::with("retyped_letter", COLUMNS, 1);
    world.ch("ALTER TABLE {t} ADD CONSTRAINT none CHECK id > 9");
    world.sql(r#"INSERT INTO {t} VALUES (1, 'a', '"b"', ARRAY['"1"', '1']::jsonb[], '"c"')"#);
    world.once().expect(65);
    world.sql(RETYPED);
    world.sql(r#"INSERT INTO {t} VALUES (2, '"a"', 'b', '{1}')"#);
    world.once().expect(65);
    world.ch("ALTER TABLE {t} DROP CONSTRAINT none");
    let left = world.run(&["dead-letters", "replay"]).expect(65).stdout;
    assert!(
        left.contains("1 pending, 1 replayed"),
        "the ALTER has changed the row, so repair has it sent again: {left}"
    );
    world.sql("DELETE FROM {t} WHERE id = 1");
    world.run(&["dead-letters", "replay"]).expect(0);
    assert_eq!(shown(&world), as_they_were());
}

#[test]
fn killed_around_the_note_of_a_change() {
    for point in crash::PRODUCE_TYPES {
        let world = with_a_record_waiting("retyped_killed");
        world.kill_at(point, &["produce"]);
        world.once().expect(0);
        assert_eq!(shown(&world), as_they_were(), "{point}");
    }
}

#[test]
fn what_was_kept_of_a_topic_does_not_outlive_it() {
    let mut world = World::with("retyped_remade", COLUMNS, 1);
    world.sql("INSERT INTO {t} (id, note) SELECT n, n FROM generate_series(1, 20) n");
    world.once().expect(0);
    world.sql("ALTER TABLE {t} ALTER note TYPE jsonb USING to_jsonb(note)");
    world.sql(r#"INSERT INTO {t} (id, note) VALUES (21, '"a"')"#);
    world.once().expect(0);
    let topic = world.name.clone();
    world.delete_topic(&topic);
    world.create_topic(&topic, 1, &[]);
    world.sql(r#"INSERT INTO {t} (id, note) VALUES (22, '"b"')"#);
    // Once the checkpoint has moved, the next run does not see that the topic is another one.
    world.kill_at("checkpoint.after", &["produce"]);
    world.run(&["--once"]);
    assert_eq!(world.ch("SELECT note FROM {t} WHERE id > 20 ORDER BY id"), "\"a\"\n\"b\"");
}

#[test]
fn a_change_under_a_run_is_noticed_by_its_reader() {
    let columns = "id bigint PRIMARY KEY, note text, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    for (name, settings) in [("retyped_under", ""), ("retyped_in_order", "order_by = \"id\"")] {
        let mut world = World::with(name, columns, 1);
        world.settings.insert("[table]", settings.into());
        world.batch_rows(3);
        world.sql("INSERT INTO {t} SELECT n, n FROM generate_series(1, 60) n");
        let mut run = world.start_command_stopped_at(&["--once", "-v"], "kafka.commit.after");
        let change = format!("ALTER TABLE {} ALTER note TYPE jsonb USING to_jsonb(note)", world.name);
        let mut session = world.another_session();
        let change = std::thread::spawn(move || session.batch_execute(&change).unwrap());
        if settings.is_empty() {
            change.join().unwrap();
            run.go_on();
        } else {
            // A pass keeps the table until it ends, which it does because somebody waits.
            world.wait_until(
                |world| {
                    world.sql_number("SELECT count(*) FROM pg_locks WHERE relation = '{t}'::regclass AND NOT granted")
                        > 0
                },
                "the ALTER to wait",
            );
            run.go_on();
            change.join().unwrap();
        }
        let ended = run.end().expect(0);
        assert!(ended.stderr.contains("a column's type was changed under the run"), "{}", ended.stderr);
        assert_eq!((world.unsent(), world.ch_number("SELECT uniqExact(id) FROM {t}")), (0, 60));
        // What was read before the change is a text, what was read after it a document.
        let as_read = "SELECT countIf(note IN (toString(id), concat('\"', toString(id), '\"'))) FROM {t} FINAL";
        assert_eq!(world.ch_number(as_read), 60);
        assert_eq!(world.ch("SELECT note FROM {t} FINAL WHERE id IN (1, 60) ORDER BY id"), "1\n\"60\"");
    }
}

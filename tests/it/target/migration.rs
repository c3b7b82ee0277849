//! A target that is made anew by the statements of `check`: the views behind the old one read the new one afterwards, and see each
//! row once.

use crate::common::World;
use crate::common::findings::{assert_found, carry_out, check, finding};

/// A target with this engine and these columns, made by somebody else, and a view that fills `{t}_seen`.
fn world(name: &str, definition: &str) -> World {
    let world = World::new(name);
    world.ch("DROP TABLE {t}");
    world.ch(&format!("CREATE TABLE {{t}} {definition}"));
    let memory = "SETTINGS non_replicated_deduplication_window = 100";
    world.ch(&format!("CREATE TABLE {{t}}_seen (id Int64) ENGINE = MergeTree ORDER BY id {memory}"));
    world.ch("CREATE MATERIALIZED VIEW {t}_view TO {t}_seen AS SELECT id FROM {t}");
    world
}

fn seen(world: &World) -> String {
    world.ch("SELECT arrayStringConcat(arraySort(groupArray(toString(id))), ',') FROM {t}_seen")
}

/// The statements that make the target anew.
fn migration(world: &World, code: i32) -> String {
    finding(&check(world, code), "engine").unwrap()["fix"].as_str().unwrap().to_owned()
}

/// Runs statements, comments among them, one by one.
fn run(world: &World, statements: &str) {
    statements.split(';').filter(|one| !one.trim().is_empty()).for_each(|statement| drop(world.ch(statement)));
}

const ROWS: &str = "id Int64, user_id Int64, event_type String, event_time DateTime64(6), payload Nullable(String)";
const POSITION: &str = "_partition Int32, _offset Int64, _timestamp DateTime64(3)";
const TOKENS: &str = "SETTINGS non_replicated_deduplication_window = 100";

#[test]
fn a_view_sees_what_comes_after_the_migration_and_nothing_twice() {
    let mut world = world("migrated_view", &format!("({ROWS}, {POSITION}) ENGINE = MergeTree ORDER BY id {TOKENS}"));
    world.insert_rows(2);
    world.once().expect(0);
    carry_out(&world, &assert_found(&world, "engine", 0));
    assert_eq!(seen(&world), "1,2", "it had them");
    world.insert_rows(3);
    world.once().expect(0);
    assert_eq!(seen(&world), "1,2,3,4,5");
    world.assert_exactly_once();
}

#[test]
fn older_versions_are_taken_over_too_and_a_run_among_the_statements_doubles_nothing() {
    let mut world =
        world("migrated_versions", &format!("({ROWS}, {POSITION}) ENGINE = MergeTree ORDER BY id {TOKENS}"));
    world.insert_rows(2);
    world.once().expect(0);
    world.sql("UPDATE {t} SET event_type = 'other', sent_to_kafka = FALSE WHERE id = 1");
    world.once().expect(0);
    let fix = migration(&world, 0);
    assert!(fix.starts_with("-- Let no other run start before the last of these statements"), "{fix}");
    let (before, after) = fix.split_once("INSERT INTO").unwrap();
    run(&world, before);
    let (insert, views) = after.split_once(";\n").unwrap();
    let insert = format!("INSERT INTO{insert}");
    world.ch(&insert);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 3, "each version");
    world.ch("TRUNCATE TABLE {t}");
    world.once().expect(0);
    world.ch(&insert);
    run(&world, views);
    world.once().expect(0);
    assert_eq!((world.ch_number("SELECT count() FROM {t}"), seen(&world).as_str()), (3, "1,1,2"));
    world.assert_exactly_once();
}

#[test]
fn a_view_of_a_table_without_positions_gets_no_record_of_the_topic_again() {
    let mut world = world("migrated_foreign", &format!("({ROWS}) ENGINE = MergeTree ORDER BY id {TOKENS}"));
    world.insert_rows(2);
    world.run(&["produce"]).expect(0);
    let rows = "SELECT number + 1, number, 'login', now(), NULL FROM numbers(2)";
    world.ch(&format!("INSERT INTO {{t}} {rows}"));
    // The topic has forgotten the row 9.
    world.sql(
        "INSERT INTO {t} (id, user_id, event_type, event_time, sent_to_kafka) VALUES (9, 9, 'login', now(), TRUE)",
    );
    world.ch("INSERT INTO {t} VALUES (9, 9, 'login', now(), NULL)");
    let printed = world.run(&["init"]).expect(0).stdout;
    assert!(printed.contains("ATTACH TABLE"), "{printed}");
    let fix = migration(&world, 78);
    let (before, after) = fix.split_once("-- Now `pg2ch consume`").unwrap();
    run(&world, before);
    world.run(&["consume"]).expect(0);
    run(&world, &format!("-- Now{after}"));
    assert_eq!((seen(&world).as_str(), world.ch_number("SELECT count() FROM {t} FINAL")), ("1,2,9", 3));
    world.insert_rows(1);
    world.once().expect(0);
    assert_eq!(seen(&world), "1,2,3,9");
}

#[test]
fn what_is_not_taken_over_is_named_and_a_null_stays_one() {
    let rows = ROWS
        .replace("user_id Int64", "user_id Nullable(Int64)")
        .replace("event_type String", "event_type String CODEC(ZSTD)");
    let world = world(
        "migrated_rest",
        &format!(
            "({rows}, note String, {POSITION}) ENGINE = MergeTree ORDER BY id TTL toDateTime(event_time) + INTERVAL 9 YEAR {TOKENS}"
        ),
    );
    world.ch("INSERT INTO {t} (id, user_id, event_time) VALUES (1, NULL, now())");
    let fix = migration(&world, 78);
    assert!(fix.contains("-- the new table does not get the codecs, TTL of the old one"), "{fix}");
    assert!(fix.contains(": `note`. To keep them"), "{fix}");
    run(&world, &fix);
    assert_eq!(world.ch("SELECT id, user_id FROM {t}"), "1\t\\N");
}

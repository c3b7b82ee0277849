//! Rows that the server refuses, whatever the code: they are told apart from their neighbours, quickly.

use std::time::{Duration, Instant};

use crate::common::World;
use crate::common::findings::{assert_cured, assert_found};

/// Sends logins of which each hundredth is bad, and copies them.
fn copied(name: &str, statement: &str, count: i64, within: Duration) {
    let mut world = World::new(name);
    world.stop_merges();
    world.insert_rows(count);
    world.sql("UPDATE {t} SET event_type = 'bad' WHERE user_id % 100 = 0");
    world.run(&["produce"]).expect(0);
    world.ch(statement);
    let begun = Instant::now();
    let ended = world.run(&["consume", "--json"]).expect(65);
    let took = begun.elapsed();
    assert_eq!(ended.number("consume", "dead_letters"), count / 100, "{}", ended.stderr);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), count - count / 100);
    assert!(took < within, "{took:?}");
    assert!(ended.stderr.lines().count() < 60, "{}", ended.stderr);
    assert_eq!(world.topic_named(&format!("{}.dead", world.name)).len() as i64, count / 100);
    assert_eq!(world.ch("SELECT count() FROM system.tables WHERE name LIKE '\\_pg2ch\\_probe\\_%'"), "0");
}

#[test]
fn rows_that_an_expression_or_a_constraint_refuses_are_told_apart_without_storing_any() {
    // On an idle machine a tenth of it.
    let minute = Duration::from_secs(200);
    copied(
        "bad_default",
        "ALTER TABLE {t} ADD COLUMN m Int64 MATERIALIZED intDiv(1, event_type != 'bad')",
        2_000,
        minute,
    );
    copied(
        "bad_empty",
        "ALTER TABLE {t} ADD COLUMN m Int64 MATERIALIZED toInt64(if(event_type = 'bad', '', '1'))",
        2_000,
        minute,
    );
    copied("bad_constraint", "ALTER TABLE {t} ADD CONSTRAINT c CHECK event_type != 'bad'", 20_000, minute);
}

#[test]
fn a_row_that_only_storing_shows_is_found_too() {
    let mut world = World::new("bad_index");
    world.stop_merges();
    world.insert_rows(200);
    world.sql("UPDATE {t} SET event_type = 'bad' WHERE user_id = 77");
    world.run(&["produce"]).expect(0);
    world.ch("ALTER TABLE {t} ADD INDEX i intDiv(1, event_type != 'bad') TYPE minmax GRANULARITY 1");
    let ended = world.run(&["consume", "--json"]).expect(65);
    assert_eq!(ended.number("consume", "dead_letters"), 1, "{}", ended.stderr);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 199);
}

#[test]
fn what_stands_before_the_limit_of_dead_letters_is_done_with() {
    let mut world = World::new("letters_limit");
    world.stop_merges();
    world.settings.insert("[table]", "max_dead_letters = 2\nallow_lossy = [\"user_id\"]".into());
    world.insert_rows(100);
    world.run(&["produce"]).expect(0);
    // One partition's records in order: 90 and more do not fit.
    world.ch("ALTER TABLE {t} MODIFY COLUMN user_id Enum16('none' = 1000)");
    let ended = world.run(&["consume", "--json"]).expect(65);
    assert_eq!(ended.number("consume", "dead_letters"), 2, "{}", ended.stderr);
    assert_eq!(world.topic_named(&format!("{}.dead", world.name)).len(), 2);
    assert!(ended.stderr.contains("has refused 2 records"), "{}", ended.stderr);
}

#[test]
fn a_table_that_is_read_only_refuses_no_row() {
    let mut world = World::new("read_only_target");
    world.insert_rows(3);
    world.ch("ALTER TABLE {t} MODIFY SETTING table_readonly = 1");
    assert_found(&world, "table-readonly", 78);
    let refused = world.once().expect(78);
    assert!(refused.stderr.contains("readonly") && refused.stderr.contains("hint: let whoever"), "{}", refused.stderr);
    assert!(world.topic_named(&format!("{}.dead", world.name)).is_empty());
    assert_eq!(world.unsent(), 0, "the topic's readers get them");
    assert_cured(&mut world, "table-readonly", 78);
    world.once().expect(0);
    world.assert_exactly_once();
}

//! Rows that were sent and cannot be flagged: they are written down, and the checkpoint waits for none of them.

use super::locks::{free, lock_row};
use super::{copies, recovered_and_sent};
use crate::common::servers::Servers;
use crate::common::{USER_LOGINS, World};

const HELD: &str = "SELECT count(*) FROM pg2ch_held WHERE topic = '{t}'";

/// One partition; six rows sent, of which row 1 is locked.
fn with_row_one_locked(name: &str) -> (World, postgres::Client) {
    let mut world = World::with(name, USER_LOGINS, 1);
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.insert_rows(6);
    let lock = lock_row(&world, 1);
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!((ended.number("produce", "rows_flagged"), ended.number("produce", "rows_locked")), (5, 1));
    assert_eq!(world.sql_number(HELD), 1);
    (world, lock)
}

#[test]
fn a_flag_that_is_set_back_while_another_row_is_locked_has_its_row_sent_again() {
    let (mut world, lock) = with_row_one_locked("held_set_back");
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 5");
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (0, 1));
    assert_eq!((copies(&world, "5"), copies(&world, "1"), world.unsent()), (2, 1, 1));
    free(lock);
    assert_eq!(recovered_and_sent(&world), (1, 0));
    assert_eq!((world.unsent(), world.records(), world.sql_number(HELD)), (0, 7, 0));
}

#[test]
fn a_repair_is_not_forgotten_while_another_row_is_locked() {
    let mut world = World::with("held_repair", USER_LOGINS, 1);
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.insert_rows(6);
    let lock = lock_row(&world, 1);
    world.once().expect(0);
    world.delete_from_target("id = 5");
    world.run(&["verify", "--repair", "--confirm"]).expect(65);
    world.once().expect(0);
    assert_eq!((copies(&world, "5"), world.ch_number("SELECT count() FROM {t} WHERE id = 5")), (2, 1));
    free(lock);
    world.once().expect(0);
    assert_eq!((world.unsent(), world.records()), (0, 7));
}

#[test]
fn a_row_that_leaves_its_table_before_it_is_flagged_is_named() {
    let (mut world, lock) = with_row_one_locked("held_left");
    free(lock);
    world.sql("ALTER TABLE {t} RENAME TO {t}_away");
    world.sql("CREATE TABLE {t} (LIKE {t}_away INCLUDING ALL)");
    let left = world.run(&["produce"]).expect(0).stderr;
    let says = format!("1 row left public.{} after being sent and before being flagged (the first: 1)", world.name);
    assert!(left.contains(&says), "{left}");
    // Back again, it is a row like any other that is not flagged.
    world.sql("DROP TABLE {t}");
    world.sql("ALTER TABLE {t}_away RENAME TO {t}");
    assert_eq!(recovered_and_sent(&world), (0, 1));
    assert_eq!(copies(&world, "1"), 2);
}

#[test]
fn an_entry_whose_row_has_changed_is_gone_or_is_flagged_by_hand_is_dropped() {
    for (change, sent) in [
        ("UPDATE {t} SET event_type = 'other' WHERE id = 1", 1),
        ("DELETE FROM {t} WHERE id = 1", 0),
        ("UPDATE {t} SET sent_to_kafka = TRUE WHERE id = 1", 0),
    ] {
        let (mut world, lock) = with_row_one_locked("held_dropped");
        free(lock);
        world.sql(change);
        assert_eq!(recovered_and_sent(&world), (0, sent), "{change}");
        assert_eq!((world.sql_number(HELD), world.unsent()), (0, 0), "{change}");
    }
}

#[test]
fn an_entry_whose_text_is_no_key_any_more_stops_nobody() {
    let (mut world, lock) = with_row_one_locked("held_no_key");
    free(lock);
    for key in ["x", "1", "y"] {
        world.sql(&format!(
            "INSERT INTO pg2ch_held (source, topic, key, digest) VALUES ('public.{{t}}', '{{t}}', '{key}', '\\x00')"
        ));
    }
    assert_eq!(recovered_and_sent(&world), (1, 0));
    assert_eq!((world.sql_number(HELD), world.unsent(), world.records()), (0, 0, 6));
}

#[test]
fn more_locked_rows_than_are_held_end_the_run_with_69_and_lose_nothing() {
    let mut world = World::new("held_many");
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.settings.insert("retry", "attempts = 1".into());
    world.insert_rows(10_300);
    let mut lock = world.another_session();
    lock.batch_execute(&format!("BEGIN; SELECT FROM {} WHERE id > 200 FOR UPDATE", world.name)).unwrap();
    for _ in 0..2 {
        let ended = world.run(&["produce"]).expect(69);
        assert!(ended.stderr.contains("more than 10000 rows"), "{}", ended.stderr);
    }
    free(lock);
    assert_eq!(recovered_and_sent(&world), (10_100, 0));
    world.assert_sent_exactly_once();
}

#[test]
fn a_row_of_a_key_of_several_columns_is_held_and_recognised() {
    let columns = "id bigint, part text, note text, event_type text DEFAULT 'x', sent_to_kafka boolean NOT NULL DEFAULT FALSE, \
                   PRIMARY KEY (part, id)";
    let mut world = World::unmade(Servers::shared(), "held_key", columns, 1);
    world.settings.insert("[table]", "key = [\"part\", \"id\"]".into());
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.run(&["init"]).expect(0);
    world.sql("INSERT INTO {t} SELECT n, 'a \"quoted\" é', 'ü', 'x' FROM generate_series(1, 3) n");
    let lock = lock_row(&world, 2);
    world.run(&["produce"]).expect(0);
    assert_eq!((world.sql_number(HELD), world.unsent()), (1, 1));
    free(lock);
    assert_eq!(recovered_and_sent(&world), (1, 0));
    assert_eq!((world.unsent(), world.records()), (0, 3));
}

#[test]
fn the_tables_of_an_older_version_are_refused_until_init_has_brought_them_up_to_date() {
    let mut world = World::on(Servers::in_new_database("held_upgrade"), "held_upgrade", USER_LOGINS, 1);
    world.insert_rows(3);
    world.kill_at("kafka.commit.after", &["produce"]);
    world
        .pg
        .batch_execute(
            "DROP TABLE pg2ch_held; ALTER TABLE pg2ch_checkpoint DROP COLUMN protocol, DROP COLUMN record_types",
        )
        .unwrap();
    let ended = world.run(&["produce"]).expect(78);
    assert!(ended.stderr.contains("of an older version of pg2ch"), "{}", ended.stderr);
    let findings = world.run(&["check", "--json"]).expect(78).stdout;
    assert!(findings.contains("checkpoint-outdated") && findings.contains("held-missing"), "{findings}");
    world.run(&["init", "--print"]).expect(0);
    world.run(&["produce"]).expect(78);
    let told = world.run(&["init"]).expect(0).stdout;
    assert!(told.contains("ADD COLUMN IF NOT EXISTS protocol") && told.contains("pg2ch_held"), "{told}");
    assert!(world.run(&["init"]).expect(0).stdout.starts_with("nothing to do"));
    assert_eq!(recovered_and_sent(&world), (3, 0));
    // What an older version does first, before it sends anything.
    let older = "INSERT INTO pg2ch_checkpoint AS c (source, topic, partition, next_offset, epoch) VALUES ($1, $2, -1, 0, 1)
                 ON CONFLICT (source, topic, partition) DO UPDATE SET epoch = c.epoch + 1, updated_at = now() RETURNING epoch";
    let refused = world.pg.query(older, &[&format!("public.{}", world.name), &world.name]).unwrap_err();
    assert_eq!(refused.code().map(postgres::error::SqlState::code), Some("23502"));
}

#[test]
fn a_recovery_that_is_killed_keeps_what_it_has_flagged() {
    let mut world = World::new("held_progress");
    world.batch_rows(1_000);
    world.insert_rows(3_000);
    world.run(&["produce"]).expect(0);
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE");
    world.sql("DELETE FROM pg2ch_checkpoint WHERE source = 'public.{t}'");
    world.kill_at("window.flag.before:3", &["produce"]);
    let left = world.unsent();
    assert!((1..2_900).contains(&left) && world.sql_number(HELD) == 0, "{left}");
    assert_eq!(recovered_and_sent(&world), (left, 0));
    world.assert_sent_exactly_once();
}

#[test]
fn a_flag_set_back_after_a_recovery_that_was_killed_has_its_row_sent_again() {
    let mut world = World::with("held_killed", USER_LOGINS, 1);
    // The first page takes 100 rows.
    world.insert_rows(200);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.kill_at("window.flag.before:2", &["produce"]);
    assert_eq!(world.unsent(), 100);
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE id = (SELECT min(id) FROM {t} WHERE sent_to_kafka)");
    assert_eq!(recovered_and_sent(&world), (100, 1));
    assert_eq!((world.unsent(), world.records()), (0, 201));
}

#[test]
fn a_row_with_several_records_is_recovered_in_the_place_of_the_last_one() {
    let mut world = World::with("held_last", USER_LOGINS, 1);
    world.insert_rows(200);
    world.run(&["produce"]).expect(0);
    let first = world.sql_number("SELECT min(id) FROM {t}");
    world.sql(&format!("UPDATE {{t}} SET event_type = 'changed', sent_to_kafka = FALSE WHERE id = {first}"));
    world.run(&["produce"]).expect(0);
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE");
    world.sql("DELETE FROM pg2ch_checkpoint WHERE source = 'public.{t}'");
    world.kill_at("window.flag.before:2", &["produce"]);
    // Its record is not below the checkpoint yet; were it flagged, nobody could set its flag back.
    assert_eq!((world.unsent(), world.sql_number("SELECT min(id) FROM {t} WHERE NOT sent_to_kafka")), (100, first));
    world.sql(&format!("UPDATE {{t}} SET sent_to_kafka = FALSE WHERE id = {first} + 1"));
    assert_eq!(recovered_and_sent(&world), (100, 1));
    assert_eq!((world.unsent(), world.records()), (0, 202));
}

#[test]
fn a_locked_row_of_the_window_is_held_and_the_checkpoint_passes_it() {
    let mut world = World::with("held_window", USER_LOGINS, 1);
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.insert_rows(6);
    world.kill_at("kafka.commit.after", &["produce"]);
    let lock = lock_row(&world, 1);
    assert_eq!(recovered_and_sent(&world), (5, 0));
    assert_eq!((world.unsent(), world.sql_number(HELD)), (1, 1));
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 5");
    assert_eq!((recovered_and_sent(&world), copies(&world, "5")), ((0, 1), 2));
    free(lock);
    assert_eq!(recovered_and_sent(&world), (1, 0));
    assert_eq!((world.unsent(), world.sql_number(HELD), world.records()), (0, 0, 7));
}

#[test]
fn a_held_row_that_a_backup_brings_back_is_not_taken_for_a_later_record_of_its_key() {
    let (mut world, lock) = with_row_one_locked("held_restored");
    let tables = ["{t}", "pg2ch_checkpoint", "pg2ch_held"];
    for (number, table) in tables.iter().enumerate() {
        world.sql(&format!("CREATE TABLE {{t}}_backup_{number} AS TABLE {table}"));
    }
    free(lock);
    assert_eq!(recovered_and_sent(&world), (1, 0));
    world.sql("UPDATE {t} SET event_type = 'changed', sent_to_kafka = FALSE WHERE id = 1");
    assert_eq!(recovered_and_sent(&world), (0, 1));
    for (number, table) in tables.iter().enumerate() {
        let of_this = if number == 0 { "" } else { " WHERE source = 'public.{t}'" };
        world.sql(&format!("DELETE FROM {table}{of_this}"));
        world.sql(&format!("INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {{t}}_backup_{number}{of_this}"));
    }
    // The topic's last record of the row is the changed one: the row as it was goes out once more.
    assert_eq!((recovered_and_sent(&world), copies(&world, "1")), ((0, 1), 3));
    assert_eq!((world.unsent(), world.sql_number(HELD)), (0, 0));
}

#[test]
fn a_row_that_is_flagged_without_its_checkpoint_is_held_no_more() {
    let again = |world: &mut World| {
        world.sql("DELETE FROM pg2ch_checkpoint WHERE source = 'public.{t}'");
        world.run(&["produce"]).expect(0);
    };
    let (mut world, lock) = with_row_one_locked("held_unchecked");
    again(&mut world);
    assert_eq!((world.sql_number(HELD), world.unsent()), (1, 1), "one entry, however often the row is held");
    free(lock);
    world.sql("DELETE FROM pg2ch_checkpoint WHERE source = 'public.{t}'");
    for point in ["unhold.before", "unhold.after"] {
        world.kill_at(point, &["produce"]);
        assert_eq!((world.sql_number(HELD), world.unsent()), (1, 1), "{point}");
    }
    world.kill_at("window.flag.after", &["produce"]);
    assert_eq!((world.sql_number(HELD), world.unsent()), (0, 0));
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 1");
    assert_eq!((recovered_and_sent(&world), copies(&world, "1")), ((0, 1), 2));
    assert_eq!((world.unsent(), world.records()), (0, 7));
}

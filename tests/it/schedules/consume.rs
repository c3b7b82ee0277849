//! What operators, retention and other programs do to offsets, topic and target: every record still arrives once.

use crate::common::World;
use crate::common::http_proxy::{Act, HttpProxy};
use rdkafka::producer::Producer;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

/// A world with `rows` rows copied, in batches of five records, and no merge to hide a copy.
fn copied(name: &str, rows: i64) -> World {
    let mut world = World::new(name);
    world.settings.insert("batch", "insert_rows = 5\n".into());
    world.stop_merges();
    world.insert_rows(rows);
    world.once().expect(0);
    world
}

/// Some more rows, both legs, and the promise.
fn goes_on(world: &mut World, code: i32) {
    world.insert_rows(4);
    world.once().expect(code);
    world.assert_exactly_once();
    let idle = world.once().expect(0);
    assert_eq!(idle.number("consume", "records_copied"), 0, "nothing is left to do");
}

fn to_all(offset: i64) -> [(i32, i64); 3] {
    [(0, offset), (1, offset), (2, offset)]
}

#[test]
fn offsets_set_to_the_beginning_or_back_copy_nothing_twice() {
    for offset in [0, 2] {
        let mut world = copied("set_back", 20);
        world.set_offsets(&to_all(offset));
        let ended = world.once().expect(0);
        assert_eq!((ended.number("consume", "rows_held"), ended.number("consume", "rows_inserted")), (20, 0));
        goes_on(&mut world, 0);
    }
}

#[test]
fn deleted_offsets_copy_nothing_twice() {
    let mut world = copied("deleted_offsets", 20);
    world.delete_group();
    goes_on(&mut world, 0);
}

#[test]
fn offsets_set_ahead_by_a_stranger_lose_nothing() {
    // Within the log, and beyond its end.
    for ahead in [3, 1000] {
        let mut world = copied("set_ahead", 10);
        world.insert_rows(20);
        world.run(&["produce"]).expect(0);
        let offsets: Vec<(i32, i64)> = world.offsets().iter().map(|(p, offset, _)| (*p, offset + ahead)).collect();
        world.set_offsets(&offsets);
        assert_eq!(world.run(&["consume", "--json"]).expect(0).number("consume", "rows_inserted"), 20);
        goes_on(&mut world, 0);
    }
}

#[test]
fn commits_that_kafka_has_lost_double_nothing() {
    for command in ["--once", "consume"] {
        let mut world = copied("lost_commits", 12);
        let before = world.offsets();
        world.insert_rows(20);
        world.once().expect(0);
        world.restore_offsets(&before);

        let ended = world.run(&[command, "--json"]).expect(0);

        assert_eq!((ended.number("consume", "rows_held"), ended.number("consume", "rows_inserted")), (20, 0));
        assert!(ended.stderr.contains("the target holds records beyond the group's offset"), "{}", ended.stderr);
        goes_on(&mut world, 0);
    }
}

#[test]
fn a_group_that_was_left_and_is_used_again_doubles_nothing() {
    let mut world = copied("groups", 12);
    let groups = [format!("group = \"{}_other\"", world.name), format!("group = \"{}\"", world.name)];
    for group in groups.iter().cycle().take(4) {
        world.settings.insert("[table]", group.clone());
        world.insert_rows(5);
        world.once().expect(0);
        world.assert_exactly_once();
    }
}

#[test]
fn two_targets_that_share_a_group_each_get_everything() {
    let mut world = copied("shared", 10);
    world.ch("CREATE TABLE {t}_b AS {t}");
    let other = format!("target = \"analytics.{}_b\"\n", world.name);
    for round in 1..=2 {
        world.insert_rows(5);
        world.settings.insert("[table]", other.clone());
        world.once().expect(0);
        assert_eq!(world.ch_number("SELECT count() FROM {t}_b"), 10 + 5 * round);
        world.settings.remove("[table]");
        world.once().expect(0);
        world.assert_exactly_once();
    }
}

#[test]
fn a_target_that_was_made_again_gets_everything_again() {
    for by in ["DROP TABLE {t} SYNC", "TRUNCATE TABLE {t} SYNC"] {
        let mut world = copied("remade", 12);
        world.ch(by);
        if by.starts_with("DROP") {
            world.run(&["init"]).expect(0);
            world.stop_merges();
            assert_eq!(world.once().expect(0).number("consume", "rows_inserted"), 12);
        } else {
            // A table that was emptied is the same table: offsets are trusted until somebody sets them back.
            assert_eq!(world.once().expect(0).number("consume", "rows_inserted"), 0);
            world.set_offsets(&to_all(0));
            assert_eq!(world.once().expect(0).number("consume", "rows_inserted"), 12, "in spite of used tokens");
        }
        goes_on(&mut world, 0);
    }
}

/// Deletes the topic and makes it again. The group's offsets are put back: a broker deletes them with the topic, but not
/// where it was down just then, nor where a copy of the offsets is restored.
fn make_topic_again(world: &World) {
    let offsets = world.offsets();
    let partitions = i32::try_from(offsets.len()).unwrap();
    world.delete_topic(&world.name);
    world.create_topic(&world.name, partitions, &[]);
    world.restore_offsets(&offsets);
}

fn send_logins(world: &World, ids: std::ops::Range<i64>) {
    let records: Vec<(String, String)> = ids.map(|id| (id.to_string(), World::login(id, "x"))).collect();
    let records: Vec<_> = records.iter().map(|(key, value)| (0, key.as_str(), Some(value.as_str()))).collect();
    world.send(&records);
}

#[test]
fn a_topic_that_was_made_again_is_read_from_its_beginning() {
    // Shorter than before, as long as before, longer than before.
    for rows in [2, 8, 30] {
        let world = World::with("remade_topic", crate::common::USER_LOGINS, 1);
        world.stop_merges();
        send_logins(&world, 0..8);
        world.run(&["consume"]).expect(0);
        make_topic_again(&world);
        send_logins(&world, 100..100 + rows);

        let ended = world.run(&["consume", "--json"]).expect(65);

        assert_eq!(ended.report()["consume"]["topic_recreated"], true, "{rows}");
        assert_eq!(ended.number("consume", "rows_inserted"), rows);
        assert_eq!(world.ch_number("SELECT count() FROM {t}"), 8 + rows);
        assert_eq!(world.ch_number("SELECT count() FROM {t} WHERE id >= 100"), rows);
        assert_eq!(world.run(&["consume", "--json"]).expect(0).number("consume", "records_copied"), 0, "said once");
    }
}

#[test]
fn a_topic_made_again_is_recognised_also_where_retention_has_deleted_the_place_to_look_at() {
    let world = World::with("remade_retained", crate::common::USER_LOGINS, 2);
    let values: Vec<String> = (0..7).map(|id| World::login(id, "x")).collect();
    let both = |count: usize| -> Vec<(i32, &str, Option<&str>)> {
        values[..count]
            .iter()
            .flat_map(|value| [0, 1].map(|partition| (partition, "k", Some(value.as_str()))))
            .collect()
    };
    world.send(&both(4));
    // An aborted record and its marker: partition 0 is read up to offset 6, and the last record is at 3.
    world.open_transaction(0, "k", "{}").abort_transaction(Duration::from_secs(10)).unwrap();
    world.run(&["consume"]).expect(0);
    make_topic_again(&world);
    world.send(&both(7));
    world.delete_records(0, 4);

    let ended = world.run(&["consume", "--json"]).expect(65);

    assert_eq!(ended.number("consume", "rows_inserted"), 3 + 7);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 8 + 3 + 7);
}

#[test]
fn a_topic_made_again_with_a_marker_where_a_record_was_is_recognised() {
    let mut world = World::with("marker", crate::common::USER_LOGINS, 1);
    send_logins(&world, 1001..1003);
    world.run(&["consume"]).expect(0);
    make_topic_again(&world);
    // A row and its transaction's marker, three times: offset 1, where the last record was, has a marker now.
    for _ in 0..3 {
        world.insert_rows(1);
        world.run(&["produce"]).expect(0);
    }
    // A compacted topic could look the same, so it isn't called lost.
    let ended = world.run(&["consume", "--json"]).expect(0);
    assert_eq!(ended.number("consume", "rows_inserted"), 3);
}

#[test]
fn a_topic_whose_offsets_went_with_it_is_copied_whole() {
    let mut world = copied("offsets_gone", 8);
    world.delete_topic(&world.name.clone());
    world.create_topic(&world.name.clone(), 3, &[]);
    send_logins(&world, 1000..1008);
    assert_eq!(world.run(&["consume", "--json"]).expect(0).number("consume", "rows_inserted"), 8);
    world.insert_rows(1);
    world.once().expect(65);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 17);
}

#[test]
fn records_that_retention_deleted_uncopied_are_reported_with_offsets_and_count() {
    let mut world = World::with("retention", crate::common::USER_LOGINS, 1);
    world.insert_rows(5);
    world.once().expect(0);
    let next = world.offsets()[0].1;
    world.insert_rows(6);
    world.run(&["produce"]).expect(0);
    world.delete_records(0, next + 4);

    let ended = world.run(&["consume", "--json"]).expect(65);

    assert_eq!(
        ended.report()["consume"]["lost"],
        serde_json::json!([{ "partition": 0, "from": next, "to": next + 4 }])
    );
    assert!(ended.stderr.contains(&format!("offsets {next} to {} (4 offsets)", next + 4)), "{}", ended.stderr);
    assert_eq!(ended.number("consume", "rows_inserted"), 2);
    assert_eq!(world.run(&["consume", "--json"]).expect(0).report()["consume"]["lost"], Value::Array(vec![]));
}

#[test]
fn an_intent_that_retention_deleted_is_forgotten() {
    let mut world = World::with("retained_intent", crate::common::USER_LOGINS, 1);
    world.insert_rows(5);
    world.run(&["produce"]).expect(0);
    world.kill_at("intend.after", &["consume"]);
    let end = world.topic().last().unwrap().offset + 1;
    world.delete_records(0, end);
    world.run(&["consume"]).expect(65);
    let metadata = world.offsets()[0].2.clone();
    assert!(!metadata.contains("intent"), "{metadata}");
    world.run(&["consume"]).expect(0);
}

#[test]
fn rows_deleted_from_the_target_come_again_once_after_a_reset() {
    let mut world = copied("deleted_rows", 20);
    world.delete_from_target("user_id % 2 = 0");
    world.set_offsets(&to_all(0));
    let ended = world.once().expect(0);
    assert_eq!((ended.number("consume", "rows_held"), ended.number("consume", "rows_inserted")), (10, 10));
    goes_on(&mut world, 0);
}

#[test]
fn an_insert_reduced_by_what_was_held_may_be_killed_and_finished() {
    // A crash between its intent and its rows must not make the next run send the rows that were held, too.
    for point in ["intend.after", "clickhouse.insert.before", "clickhouse.insert.after", "consume.finish.before"] {
        let mut world = World::with("reduced", crate::common::USER_LOGINS, 1);
        world.stop_merges();
        world.insert_rows(20);
        world.once().expect(0);
        world.delete_from_target("user_id % 2 = 0");
        world.set_offsets(&[(0, 0)]);
        world.kill_at(point, &["consume"]);
        world.run(&["consume"]).expect(0);
        world.assert_exactly_once();
    }
}

#[test]
fn a_distrust_survives_an_interrupted_run() {
    let mut world = copied("distrust", 30);
    world.set_offsets(&to_all(0));
    for nth in [2, 3] {
        // Killed in the middle of the asking: what follows still has to be asked for.
        world.delete_from_target(&format!("user_id = {nth}"));
        world.crash_at(&format!("intend.after:{}", nth - 1), &["consume"]);
    }
    world.run(&["consume"]).expect(0);
    goes_on(&mut world, 0);
}

#[test]
fn a_used_token_whose_rows_were_deleted_does_not_lose_them() {
    let mut world = World::new("used_token");
    world.insert_rows(10);
    world.run(&["produce"]).expect(0);
    world.kill_at("clickhouse.insert.after", &["consume"]);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 10, "the rows have landed, the intent is open");
    world.delete_from_target("user_id > 4");

    let ended = world.run(&["consume", "--json"]).expect(0);

    assert_eq!(ended.number("consume", "rows_inserted"), 6, "the server confirms the used token and stores nothing");
    assert_eq!(ended.number("consume", "inserts"), 2);
    goes_on(&mut world, 0);
}

/// An INSERT of a run that was killed arrives when another run has copied its rows.
fn a_late_insert_is_dropped(mut world: World) {
    world.stop_merges();
    world.insert_rows(12);
    world.run(&["produce"]).expect(0);
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[Act::Hold]);
    world.settings.insert("clickhouse", proxy.setting());
    proxy.kill_with_held(&world);
    world.settings.remove("clickhouse");
    goes_on(&mut world, 0);
    proxy.release();
    world.assert_exactly_once();
}

/// Makes the target, which is empty, anew with partitions.
fn partition_target_by(world: &World, expression: &str) {
    world.ch(&format!("CREATE TABLE {{t}}_new AS {{t}} PARTITION BY {expression}"));
    world.ch("EXCHANGE TABLES {t} AND {t}_new");
}

#[test]
fn an_insert_of_a_dead_run_that_lands_late_is_dropped() {
    let world = World::new("late");
    a_late_insert_is_dropped(world);
}

/// The tokens of the INSERTs that are recorded with the offsets.
fn recorded_tokens(world: &World) -> BTreeSet<String> {
    let texts: String = world.offsets().into_iter().map(|(_, _, text)| text).collect();
    texts.split("\"token\":\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
}

#[test]
fn an_insert_and_the_one_recorded_beside_it_are_finished_whenever_they_land() {
    // The second run is not killed, dies with both INSERTs sent again, or with the first one alone.
    for dies_at in [None, Some("clickhouse.insert.after:2"), Some("clickhouse.insert.after")] {
        let mut world = copied("two_intents", 6);
        world.insert_rows(40);
        world.run(&["produce"]).expect(0);
        let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[Act::Hold]);
        world.settings.insert("clickhouse", proxy.setting());
        // Near servers leave nothing to gain by it.
        let mut run = world.command(&["consume"]).env("PG2CH_MUTANT", "every server is far away").spawn().unwrap();
        proxy.wait_for_held();
        world.wait_for("the next INSERT to be recorded", || recorded_tokens(&world).len() == 2);
        run.kill().unwrap();
        run.wait().unwrap();
        world.settings.remove("clickhouse");
        if let Some(point) = dies_at {
            world.kill_at(point, &["consume"]);
        }
        let ended = world.run(&["consume", "--json"]).expect(0);
        assert!(dies_at.is_some() || ended.number("consume", "rows_inserted") == 40, "{ended:?}");
        proxy.release();
        world.assert_exactly_once();
        assert_eq!(recorded_tokens(&world), BTreeSet::new());
        goes_on(&mut world, 0);
    }
}

#[test]
fn an_insert_that_lands_late_while_its_rows_are_split_over_partitions_is_dropped() {
    let world = World::new("late_split");
    partition_target_by(&world, "id % 4");
    a_late_insert_is_dropped(world);
}

#[test]
fn half_of_a_block_in_a_partitioned_target_is_completed() {
    // Each target partition of a block is stored by itself. What a crash of the server in between leaves is made here from
    // a whole block: all of it lands, and the rows of two partitions vanish together with what is known of their token.
    for keeps_token in [true, false] {
        let mut world = World::new("half");
        partition_target_by(&world, "id % 4");
        world.stop_merges();
        world.insert_rows(12);
        world.run(&["produce"]).expect(0);
        world.kill_at("clickhouse.insert.after", &["consume"]);
        // DROP PARTITION clears the deduplication log of the partition, TRUNCATE by a lightweight delete does not.
        if keeps_token {
            world.delete_from_target("id % 4 > 1");
        } else {
            world.ch("ALTER TABLE {t} DROP PARTITION 2");
            world.ch("ALTER TABLE {t} DROP PARTITION 3");
        }
        assert_eq!(world.ch_number("SELECT count() FROM {t}"), 6);
        world.run(&["consume"]).expect(0);
        goes_on(&mut world, 0);
    }
}

#[test]
fn a_block_may_have_rows_of_130_target_partitions() {
    let mut world = World::new("many_partitions");
    partition_target_by(&world, "id");
    world.insert_rows(130);
    let ended = world.once().expect(0);
    assert_eq!((ended.number("consume", "inserts"), ended.number("consume", "dead_letters")), (1, 0));
    world.assert_exactly_once();
}

#[test]
fn every_run_brings_its_own_last_batch() {
    // 200 runs, 25 in a row in each of eight tables: a run is mostly waiting.
    let worlds: Vec<World> = (0..8).map(|_| World::new("own_batch")).collect();
    std::thread::scope(|scope| {
        for mut world in worlds {
            scope.spawn(move || {
                for run in 1..=25 {
                    world.insert_rows(1);
                    let ended = world.once().expect(0);
                    let counts = (ended.number("produce", "records_sent"), ended.number("consume", "rows_inserted"));
                    assert_eq!(counts, (1, 1), "run {run}");
                }
                world.assert_exactly_once();
            });
        }
    });
}

#[test]
fn an_open_foreign_transaction_is_told_as_incomplete_and_copied_when_it_ends() {
    let mut world = copied("foreign", 6);
    world.settings.insert("timeouts", "stable = \"500ms\"\n".into());
    let stranger = world.open_transaction(0, "1000", &World::login(1000, "foreign"));
    let ended = world.run(&["consume", "--json"]).expect(0);
    assert_eq!(ended.report()["complete"], false);

    world.insert_rows(9);
    let held_up = world.once().expect(69);
    assert!(held_up.stderr.contains("transaction of another producer"), "{}", held_up.stderr);

    stranger.commit_transaction(Duration::from_secs(10)).unwrap();
    let ended = world.once().expect(0);
    assert_eq!(ended.report()["complete"], true);
    world.assert_exactly_once();
}

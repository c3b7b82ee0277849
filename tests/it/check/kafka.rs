//! What `pg2ch check` finds in Kafka is provoked, its own command is carried out, and the finding is gone.

use serde_json::Value;

use crate::common::findings::{assert_cured, assert_found, assert_gone};
use crate::common::{USER_LOGINS, World};

#[test]
fn what_the_topics_lack_is_mended_by_the_commands_told() {
    let mut world = World::new("check_topic");
    let (topic, dead) = (world.name.clone(), format!("{}.dead", world.name));
    for (name, value, id, code) in [
        ("retention.ms", "3600000", "retention", 0),
        ("retention.bytes", "1000000", "retention-bytes", 0),
        ("cleanup.policy", "compact", "compaction", 78),
        ("cleanup.policy", "compact,delete", "compaction", 78),
        ("max.message.bytes", "100000", "message-size", 0),
        ("min.insync.replicas", "2", "min-insync", 0),
        ("message.timestamp.type", "LogAppendTime", "log-append-time", 0),
    ] {
        world.alter_topic(name, value);
        assert_cured(&mut world, id, code);
    }
    world.alter_topic_named(&dead, "max.message.bytes", "5000");
    assert_cured(&mut world, "dead-letters-smaller", 0);
    world.alter_topic_named(&dead, "cleanup.policy", "compact");
    assert_cured(&mut world, "dead-letters-compaction", 78);
    world.alter_topic_named(&dead, "retention.ms", "604800000");
    assert_cured(&mut world, "dead-letters-retention", 0);
    world.alter_topic_named(&dead, "retention.bytes", "1000000");
    assert_cured(&mut world, "dead-letters-retention", 0);
    world.delete_topic(&dead);
    assert_cured(&mut world, "dead-letters-missing", 78);
    world.delete_topic(&topic);
    assert_cured(&mut world, "topic-missing", 78);
}

#[test]
fn the_weaker_promise_without_transactions_is_spelt_out() {
    let mut world = World::new("check_transactions");
    world.settings.insert("kafka", "transactional = false".into());
    let found = assert_found(&world, "not-transactional", 0);
    assert!(found["why"].as_str().unwrap().contains("may see a record twice"));
    world.settings.remove("kafka");
    assert_gone(&world, "not-transactional");
}

#[test]
fn partitions_that_were_added_are_told_until_they_are_copied_too() {
    let mut world = World::with("check_partitions", USER_LOGINS, 2);
    world.add_partitions(3);
    assert_gone(&world, "partitions-added");
    world.insert_rows(5);
    world.once().expect(0);
    assert_gone(&world, "partitions-added");
    world.add_partitions(4);
    let found = assert_found(&world, "partitions-added", 0);
    assert!(found["what"].as_str().unwrap().ends_with(": [3]"), "{found}");
    world.insert_rows(5);
    world.once().expect(0);
    assert_gone(&world, "partitions-added");
    world.assert_exactly_once();
}

#[test]
fn a_topic_with_a_single_copy_is_noted() {
    // One broker holds no second copy, so the command that is told cannot be carried out here.
    let found = assert_found(&World::new("check_copy"), "one-copy", 0);
    assert!(found["fix"].as_str().unwrap().contains("three replicas"), "{found}");
}

/// Types the commands of a finding, and fails unless they end with these codes.
fn type_commands(world: &World, found: &Value, codes: &[i32]) {
    let commands = found["fix"].as_str().unwrap().lines().map(|line| line.split('#').next().unwrap());
    let typed = commands.map(|command| command.split_whitespace().skip(1).collect::<Vec<_>>());
    let ended: Vec<i32> = typed.map(|arguments| world.run(&arguments).code).collect();
    assert_eq!(ended, codes, "{found}");
}

#[test]
fn a_topic_that_no_longer_reaches_what_was_sent_is_told_before_a_run_finds_it() {
    // After `produce` alone only the checkpoint shows it, as where Kafka's copy of the group's offsets is as old as the topic.
    for (name, first) in [("check_shorter", "--once"), ("check_shorter_sent", "produce")] {
        let mut world = World::with(name, USER_LOGINS, 1);
        world.insert_rows(5);
        world.run(&[first]).expect(0);
        world.insert_rows(3);
        world.run(&["produce"]).expect(0);
        assert_gone(&world, "topic-shorter");
        let (topic, silent) = (world.name.clone(), world.run(&["status", "--json"]).expect(0).report());
        assert_eq!(silent["lost"].as_array().unwrap().len(), 0, "{silent}");
        world.delete_topic(&topic);
        world.create_topic(&topic, 1, &[]);

        let found = assert_found(&world, "topic-shorter", 78);
        let status = world.run(&["status"]).expect(0).stdout;
        assert!(status.contains("  lost              partition 0 ends at offset 0, below offset "), "{status}");
        type_commands(&world, &found, &[65, 65, 0]);

        assert_gone(&world, "topic-shorter");
        assert_eq!(world.ch_number("SELECT count() FROM {t} FINAL"), 8);
    }
}

#[test]
fn records_deleted_before_they_were_copied_are_told_before_a_run_finds_it() {
    let mut world = World::with("check_deleted", USER_LOGINS, 1);
    world.insert_rows(5);
    world.once().expect(0);
    world.insert_rows(3);
    world.run(&["produce"]).expect(0);
    assert_gone(&world, "records-deleted");
    let last = world.topic().last().unwrap().offset;
    world.delete_records(0, last);

    let found = assert_found(&world, "records-deleted", 78);
    let status = world.run(&["status"]).expect(0).stdout;
    assert!(status.contains(" were deleted before they were copied; `pg2ch check` says what to do\n"), "{status}");
    type_commands(&world, &found, &[65, 65, 0]);

    assert_gone(&world, "records-deleted");
    assert_eq!(world.ch_number("SELECT count() FROM {t} FINAL"), 8);
}

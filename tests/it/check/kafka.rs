//! What `pg2ch check` finds in Kafka is provoked, its own command is carried out, and the finding is gone.

use crate::common::World;
use crate::common::findings::{assert_cured, assert_found, assert_gone};

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
    let mut world = World::with("check_partitions", crate::common::USER_LOGINS, 2);
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

//! The checkpoint: lost, set back, claimed by another source, ahead of the clock.

use super::{copies, last_of, recovered_and_sent};
use crate::common::{USER_LOGINS, World};

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
    assert!(ended.stderr.contains("already feeds topic"), "{}", ended.stderr);
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
    assert_eq!(recovered_and_sent(&world), (10, 2));
    world.assert_sent_exactly_once();
}

#[test]
fn in_a_long_window_too_the_last_record_of_a_key_counts() {
    let mut world = World::with("long_window", USER_LOGINS, 1);
    // More records than are compared at once, so that A and B of row 3 come in different pieces.
    world.insert_rows(2_500);
    world.run(&["produce"]).expect(0);
    world.sql("UPDATE {t} SET event_type = 'b', sent_to_kafka = FALSE WHERE id IN (3, 4)");
    world.run(&["produce"]).expect(0);
    world.sql("UPDATE {t} SET event_type = 'login', sent_to_kafka = FALSE WHERE id = 3");
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 4");
    world.sql("DELETE FROM pg2ch_checkpoint WHERE source = 'public.{t}'");
    assert_eq!(recovered_and_sent(&world), (1, 1));
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

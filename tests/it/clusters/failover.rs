//! PostgreSQL fails over to a standby that lacks the last transactions, while the old primary lives on.

use crate::common::failover::Pair;
use crate::common::{USER_LOGINS, World};

#[test]
fn a_failover_that_loses_the_last_flags_and_a_run_on_the_old_primary_double_nothing() {
    let pair = Pair::start("failover");
    let mut world = World::on(pair.servers.clone(), "failover", USER_LOGINS, 3);
    world.settings.insert("batch", "rows = 5\ninsert_rows = 10\n".into());
    world.stop_merges();
    world.insert_rows(10);
    world.once().expect(0);
    world.insert_rows(20);
    pair.catch_up();
    pair.cut_off();

    // The tail: flags of rows that the standby has, and a change that it does not have.
    world.run(&["produce", "--max-rows", "10"]).expect(0);
    world.sql("UPDATE {t} SET user_id = 77, sent_to_kafka = FALSE WHERE id = 1");
    let mut zombie = world.start_leg_stopped_at("produce", "kafka.commit.before:2");
    pair.promote(&mut world);
    let ended = world.once().expect(0);
    assert!(ended.number("produce", "rows_recovered") >= 10, "{}", ended.stdout);

    // The old primary's run finds itself fenced off, and so does what it would send next.
    zombie.go_on();
    let ended = zombie.end().expect(75);
    assert!(ended.stderr.contains("another run with the same transactional.id"), "{}", ended.stderr);
    world.insert_rows(5);
    world.once().expect(0);
    let records = world.topic();
    world.assert_target_equals_topic(&records);
    let found = world.compare_with_topic(&records);
    assert!(found.doubled.is_empty() && found.lost.len() == 1, "{}", found.told());
    let ended = world.run(&["verify", "--deep"]).expect(65);
    assert!(ended.stdout.contains("1: column user_id is 1 in PostgreSQL and 77 in ClickHouse"), "{}", ended.stdout);
}

//! Rows that applications have locked when they are to be flagged.

use postgres::Client;

use super::recovered_and_sent;
use crate::common::{Ended, USER_LOGINS, World};

/// An application's session whose transaction locks a row.
fn lock_row(world: &World, id: i64) -> Client {
    let mut session = world.another_session();
    session.batch_execute(&format!("BEGIN; SELECT FROM {} WHERE id = {id} FOR UPDATE", world.name)).unwrap();
    session
}

fn free(mut lock: Client) {
    lock.batch_execute("ROLLBACK").unwrap();
}

#[test]
fn a_locked_row_is_flagged_later_and_never_sent_again() {
    let mut world = World::new("locked");
    world.settings.insert("timeouts", "row_lock = \"200ms\"".into());
    world.insert_rows(10);
    let lock = lock_row(&world, 4);
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!((ended.number("produce", "rows_flagged"), ended.number("produce", "rows_locked")), (9, 1));
    // Another row comes, while the old one stays locked: it neither waits nor drags the checkpoint past the locked one.
    for _ in 0..2 {
        world.insert_rows(1);
        let ended = world.run(&["produce", "--json"]).expect(0);
        assert_eq!((ended.number("produce", "records_sent"), ended.number("produce", "rows_locked")), (1, 1));
    }
    free(lock);
    assert_eq!(recovered_and_sent(&world), (1, 0));
    assert_eq!(world.records(), 12);
    world.assert_sent_exactly_once();
}

#[test]
fn a_locked_row_is_not_sent_again_though_the_run_that_could_not_flag_it_was_killed() {
    let mut world = World::with("locked_killed", USER_LOGINS, 1);
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.insert_rows(10);
    let lock = lock_row(&world, 4);
    world.kill_at("finish.before", &["produce"]);
    assert_eq!(world.unsent(), 1);
    free(lock);
    assert_eq!(recovered_and_sent(&world), (1, 0));
    world.assert_sent_exactly_once();
}

#[test]
fn a_row_locked_by_a_transaction_that_changes_it_goes_out_in_its_new_version() {
    let mut world = World::new("locked_changed");
    world.settings.insert("timeouts", "row_lock = \"200ms\"".into());
    world.insert_rows(10);
    let mut other = world.another_session();
    let mut lock = other.transaction().unwrap();
    lock.execute(&format!("UPDATE {} SET event_type = 'new' WHERE id = 4", world.name), &[]).unwrap();
    world.run(&["produce"]).expect(0);
    lock.commit().unwrap();
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!(ended.number("produce", "records_sent"), 1);
    assert_eq!(world.records(), 11);
    world.assert_sent_exactly_once();
}

#[test]
fn a_row_still_locked_from_an_earlier_run_keeps_the_checkpoint_when_a_later_lock_ends() {
    let mut world = World::with("locked_twice", USER_LOGINS, 1);
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.insert_rows(1);
    let first_lock = lock_row(&world, 1);
    world.run(&["produce"]).expect(0);
    // In the second run another row is locked when it is flagged, and free when it is tried again at the end.
    world.insert_rows(1);
    let second_lock = lock_row(&world, 2);
    let mut run = world.start_stopped_at("finish.before");
    free(second_lock);
    run.go_on();
    run.end().expect(0);
    free(first_lock);
    assert_eq!(recovered_and_sent(&world), (1, 0));
    world.assert_sent_exactly_once();
}

#[test]
fn a_deadlock_with_an_application_ends_and_loses_nothing() {
    let mut world = World::new("deadlock");
    world.settings.insert("timeouts", "row_lock = \"5s\"".into());
    world.insert_rows(10);
    let (mut other, name) = (world.another_session(), world.name.clone());
    let mut lock = other.transaction().unwrap();
    lock.execute(&format!("UPDATE {name} SET user_id = 99, sent_to_kafka = FALSE WHERE id = 9"), &[]).unwrap();
    let run = world.start(&["produce", "--json"]);
    world.wait_until(
        |world| {
            let waiting = format!(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
                world.name
            );
            world.sql_number(&waiting) > 0
        },
        "the run to wait for row 9",
    );
    // The run holds row 1 by now and waits for row 9: one of the two has to give way. If it is the run, it may flag row 1
    // before this update gets it: a change of a flagged row counts only if it takes the flag back.
    let application = lock.execute(&format!("UPDATE {name} SET user_id = 99, sent_to_kafka = FALSE WHERE id = 1"), &[]);
    match application {
        Ok(_) => lock.commit().unwrap(),
        Err(_) => lock.rollback().unwrap(),
    }
    Ended::after(run).expect(0);
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

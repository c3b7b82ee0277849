//! Rows that applications have locked when they are to be flagged.

use postgres::Client;

use super::recovered_and_sent;
use crate::common::{Ended, USER_LOGINS, World};

/// An application's session whose transaction locks a row.
pub fn lock_row(world: &World, id: i64) -> Client {
    let mut session = world.another_session();
    session.batch_execute(&format!("BEGIN; SELECT FROM {} WHERE id = {id} FOR UPDATE", world.name)).unwrap();
    session
}

pub fn free(mut lock: Client) {
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
fn a_row_still_locked_from_an_earlier_run_is_not_forgotten_when_a_later_lock_ends() {
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
fn no_application_waits_for_a_run_that_waits_for_it() {
    let mut world = World::new("no_deadlock");
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.insert_rows(10);
    let (mut other, name) = (world.another_session(), world.name.clone());
    let change = move |id: i64| format!("UPDATE {name} SET user_id = 99, sent_to_kafka = FALSE WHERE id = {id}");
    other.batch_execute(&format!("BEGIN; {}", change(9))).unwrap();
    // The run holds row 1, and the application row 9. It must not wait for that: a deadlock would end either of the two.
    let mut run = world.start_stopped_at("flag.commit.before");
    let application = std::thread::spawn(move || {
        other.batch_execute(&format!("{}; COMMIT", change(1))).unwrap();
    });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE {t} SET user_id = 99%id = 1; COMMIT'";
    world.wait_until(|world| world.sql_number(waiting) > 0, "the application to wait for row 1");
    run.go_on();
    let ended = run.end().expect(0);
    application.join().unwrap();
    assert_eq!(ended.number("produce", "records_sent"), 10);
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 12);
    world.assert_sent_exactly_once();
}

#[test]
fn a_trigger_that_makes_flagging_slow_holds_an_application_up_for_a_moment_only() {
    let mut world = World::new("slow_trigger");
    world.insert_rows(1_500);
    let name = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "CREATE FUNCTION {name}_slow() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF NEW.sent_to_kafka THEN PERFORM pg_sleep(0.005); END IF; RETURN NEW; END $$;
             CREATE TRIGGER slow BEFORE UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_slow()"
        ))
        .unwrap();
    let run = world.start(&["produce", "--json"]);
    let mut longest = std::time::Duration::ZERO;
    while world.sql_number("SELECT count(*) FROM {t} WHERE sent_to_kafka") < 1_000 {
        // Whichever row is under way: the next ones that are unsent.
        let begun = std::time::Instant::now();
        world.sql("UPDATE {t} SET payload = payload WHERE id = (SELECT min(id) + 10 FROM {t} WHERE NOT sent_to_kafka)");
        longest = longest.max(begun.elapsed());
    }
    Ended::after(run).expect(0);
    // All in one transaction would be 7.5 s, at least.
    assert!(longest < std::time::Duration::from_secs(4), "{longest:?}");
    world.run(&["produce"]).expect(0);
    assert_eq!(world.unsent(), 0);
}

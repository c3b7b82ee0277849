//! Another run of the same table, beside this one or while it sleeps.

use crate::common::{Ended, World};

#[test]
fn a_second_run_is_refused_and_names_the_first() {
    let mut world = World::new("second_run");
    world.insert_rows(3);
    let mut run = world.start_stopped_at("kafka.commit.after");
    let ended = world.run(&["produce"]).expect(75);
    assert!(ended.stderr.contains(&format!(":{}", run.pid())), "the holder's process is named: {}", ended.stderr);
    run.go_on();
    run.end().expect(0);
    world.assert_sent_exactly_once();
}

/// A run is stopped at `point`, its sessions are ended as by an administrator, another run does the work, and the first
/// one goes on, with everything it remembers.
fn overtaken_at(world: &mut World, point: &str) {
    world.insert_rows(12);
    let mut run = world.start_stopped_at(point);
    let name = format!("%:{}", run.pid());
    world
        .pg
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE $1", &[&name])
        .unwrap();
    world.sql("UPDATE {t} SET event_type = 'meanwhile' WHERE id % 5 = 0 AND NOT sent_to_kafka");
    world.run(&["produce", "--wait-lock", "5s"]).expect(0);
    world.assert_sent_exactly_once();
    run.go_on();
    let ended = run.end();
    assert!([0, 69, 75].contains(&ended.code), "{point}: {ended:?}");
    world.assert_sent_exactly_once();
    world.insert_rows(1);
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

#[test]
fn a_run_whose_sessions_were_ended_is_overtaken_and_harmless_when_it_wakes_up() {
    let mut world = World::new("overtaken");
    world.batch_rows(5);
    for point in ["epoch.before", "epoch.after", "fence.after", "read.after", "kafka.begin.after"] {
        overtaken_at(&mut world, point);
    }
}

#[test]
fn a_run_overtaken_between_sending_and_flagging_is_harmless_when_it_wakes_up() {
    let mut world = World::new("overtaken_late");
    world.batch_rows(5);
    for point in ["kafka.send.after", "kafka.commit.before", "kafka.commit.after", "flag.before"] {
        overtaken_at(&mut world, point);
    }
}

/// Behind a connection pooler two runs may both believe that they hold the lock: the epoch tells them apart.
#[test]
fn a_run_whose_epoch_is_past_flags_nothing_neither_what_it_sent_nor_what_it_recovers() {
    let mut world = World::new("epoch");
    let next = "UPDATE pg2ch_checkpoint SET epoch = epoch + 1 WHERE source = 'public.{t}' AND partition = -1";
    world.insert_rows(5);
    for point in ["kafka.commit.after", "window.after"] {
        let mut run = world.start_stopped_at(point);
        world.sql(next);
        run.go_on();
        let ended = run.end().expect(75);
        assert!(ended.stderr.contains("a newer run has taken over"), "{}", ended.stderr);
        assert_eq!((world.unsent(), world.records()), (5, 5), "{point}");
    }
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 5);
    world.assert_sent_exactly_once();
}

#[test]
fn a_run_whose_epoch_is_past_when_it_has_fenced_sends_nothing() {
    let mut world = World::new("epoch_past");
    world.insert_rows(5);
    for point in ["epoch.after", "fence.before", "fence.after"] {
        let mut run = world.start_stopped_at(point);
        world.sql("UPDATE pg2ch_checkpoint SET epoch = epoch + 1 WHERE source = 'public.{t}' AND partition = -1");
        run.go_on();
        let ended = run.end().expect(75);
        assert!(ended.stderr.contains("a newer run has taken over"), "{}", ended.stderr);
        assert_eq!((world.unsent(), world.records()), (5, 0), "{point}");
    }
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

#[test]
fn a_lock_lost_under_a_live_run_doubles_nothing() {
    let mut world = World::new("lock_lost");
    world.batch_rows(2);
    for round in 0..4 {
        let sent = world.sql_number("SELECT count(*) FROM {t}") + 4 * round;
        world.insert_rows(60);
        let run = world.start(&["produce"]);
        world.wait_until(
            |world| world.sql_number("SELECT count(*) FROM {t} WHERE sent_to_kafka") > sent,
            "the first flags",
        );
        let name = format!("%:{}", run.id());
        world
            .pg
            .execute(
                "SELECT pg_terminate_backend(a.pid) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                 WHERE l.locktype = 'advisory' AND a.application_name LIKE $1",
                &[&name],
            )
            .unwrap();
        let second = world.run(&["produce", "--wait-lock", "10s"]);
        assert!([0, 75].contains(&second.code), "{second:?}");
        let first = Ended::after(run);
        assert!([0, 69, 75].contains(&first.code), "{first:?}");
        world.run(&["produce"]).expect(0);
        world.assert_sent_exactly_once();
    }
}

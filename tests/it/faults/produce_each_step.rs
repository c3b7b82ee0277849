//! The first leg, step by step: a signal at every point, questions that are cut off, lost, or never answered, requests
//! of a dead run that arrive late, and servers that have reached a limit.

use std::time::{Duration, Instant};

use crate::common::proxy::{Fault, Proxy, commits, has, kafka_request};
use crate::common::{World, signal_process};
use pg2ch::crash;

const FETCH: u8 = 1;
const LIST_OFFSETS: u8 = 2;
const INIT_PRODUCER_ID: u8 = 22;

/// A world whose runs try again at once, and give a server up soon; batches of five rows.
fn impatient(name: &str) -> World {
    let mut world = World::new(name);
    world.settings.insert("retry", "attempts = 3\npause = \"20ms\"\n".into());
    let timeouts = "connect = \"1s\"\npostgres = \"300ms\"\nkafka = \"2s\"\nstable = \"2s\"\n";
    world.settings.insert("timeouts", timeouts.into());
    world.batch_rows(5);
    world
}

/// Twelve more rows, the first five of which a run that was killed has sent without flagging them.
fn with_a_window(world: &mut World) {
    world.insert_rows(12);
    world.kill_at("kafka.commit.after", &["produce"]);
}

// SIGTERM.

/// Stops a run at each point, asks it to finish there, and lets it go on.
fn asked_to_finish_at(name: &str, points: impl Iterator<Item = &'static &'static str>) {
    let mut world = World::new(name);
    world.batch_rows(5);
    for point in points {
        with_a_window(&mut world);
        let mut run = world.start_stopped_at(point);
        signal_process("TERM", run.pid());
        run.go_on();
        let ended = run.end().expect(0);
        assert_eq!(ended.stderr, "", "{point}");
        // What was sent is flagged: nothing is left for a recovery.
        let flagged = world.sql_number("SELECT count(*) FROM {t} WHERE sent_to_kafka");
        let before_recovery =
            ["lock.after", "epoch.before", "epoch.after", "fence.before", "fence.after", "read.after"];
        if !before_recovery.contains(point) {
            assert_eq!(usize::try_from(flagged).unwrap(), world.records(), "{point}");
        }
        world.run(&["produce"]).expect(0);
        world.assert_sent_exactly_once();
    }
}

#[test]
fn a_sigterm_at_any_point_of_the_first_leg_leaves_nothing_sent_and_unflagged() {
    asked_to_finish_at("term", crash::PRODUCE.iter());
}

#[test]
fn a_sigterm_at_any_point_of_the_recovery_is_no_hurry() {
    asked_to_finish_at("term_recovery", crash::PRODUCE_RECOVERY.iter());
}

// What is asked.

/// What a run with a window asks PostgreSQL, in order: words of the statement.
const ASKED: [&str; 7] = [
    "pg_try_advisory_lock",
    "FROM pg2ch_checkpoint WHERE",
    "INSERT INTO pg_temp.pg2ch_window",
    "ANALYZE pg_temp.pg2ch_window",
    "FROM pg_temp.pg2ch_window WHERE n",
    "extract(epoch FROM clock_timestamp())",
    "AS t SET",
];

#[test]
fn a_question_to_postgresql_that_is_cut_off_or_whose_answer_is_lost_is_asked_again() {
    let mut world = impatient("asked");
    let proxy = Proxy::before_postgres(&mut world);
    for words in ASKED {
        for fault in [Fault::Cut, Fault::DropReply] {
            with_a_window(&mut world);
            proxy.hit(1, has(words), fault, || world.run(&["produce", "--wait-lock", "5s"])).expect(0);
            world.assert_sent_exactly_once();
        }
    }
}

#[test]
fn a_question_that_postgresql_never_answers_ends_the_run_with_69() {
    // Each waits for its time limit: side by side.
    std::thread::scope(|scope| {
        for words in ASKED {
            scope.spawn(move || {
                let mut world = impatient("never");
                with_a_window(&mut world);
                let proxy = Proxy::before_postgres(&mut world);
                let begun = Instant::now();
                let ended = proxy.hit(1, has(words), Fault::Stall, || world.run(&["produce"])).expect(69);
                assert!(ended.stderr.contains("no reply within"), "{words}: {}", ended.stderr);
                assert!(begun.elapsed() < Duration::from_secs(20), "{words}: {:?}", begun.elapsed());
                world.run(&["produce", "--wait-lock", "10s"]).expect(0);
                world.assert_sent_exactly_once();
            });
        }
    });
}

#[test]
fn a_question_to_kafka_that_is_cut_off_lost_or_never_answered_doubles_nothing() {
    let mut world = impatient("kafka_asked");
    let proxy = Proxy::before_kafka(&mut world);
    for request in [LIST_OFFSETS, FETCH, INIT_PRODUCER_ID] {
        for fault in [Fault::Cut, Fault::DropReply, Fault::Stall] {
            with_a_window(&mut world);
            let ended = proxy.hit(1, kafka_request(request), fault, || world.run(&["produce"]));
            assert!([0, 69].contains(&ended.code), "{request} {fault:?}: {ended:?}");
            world.run(&["produce", "--wait-lock", "10s"]).expect(0);
            world.assert_sent_exactly_once();
        }
    }
}

// What arrives late.

#[test]
fn a_recovery_of_a_dead_run_that_reaches_postgresql_late_meets_no_other_run() {
    // After the epoch's come the commits of the window, of a look at it, of its flags, of another look, and of the checkpoint.
    for nth in [4, 6] {
        let mut world = impatient("recovery_late");
        with_a_window(&mut world);
        let proxy = Proxy::before_postgres(&mut world);
        proxy.kill_with_held(&world, "produce", nth, commits);
        world.run(&["produce"]).expect(75);
        proxy.pass();
        proxy.wait_for_late_deliveries(1);
        world.run(&["produce", "--wait-lock", "10s"]).expect(0);
        world.assert_sent_exactly_once();
    }
}

#[test]
fn a_fence_of_a_dead_run_that_lands_late_shuts_a_later_run_out_and_doubles_nothing() {
    let mut world = impatient("fence_late");
    let proxy = Proxy::before_kafka(&mut world);
    world.insert_rows(12);
    proxy.kill_with_held(&world, "produce", 1, kafka_request(INIT_PRODUCER_ID));
    let mut later = world.start_command_stopped_at(&["produce", "--wait-lock", "5s"], "kafka.send.after");
    proxy.pass();
    proxy.wait_for_late_deliveries(1);
    later.go_on();
    let ended = later.end();
    assert!([0, 75].contains(&ended.code), "{ended:?}");
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

// Limits.

#[test]
fn a_role_without_a_connection_left_ends_the_run_with_69_at_its_first_session_or_its_second() {
    for limit in [0, 1] {
        let mut world = impatient("no_connection");
        world.insert_rows(12);
        let role = world.become_role(&format!(
            "ALTER ROLE {{role}} CONNECTION LIMIT {limit}; GRANT app TO {{role}}; GRANT ALL ON {{t}} TO {{role}}"
        ));
        let ended = world.run(&["produce"]).expect(69);
        assert!(ended.stderr.contains("53300"), "{limit}: {}", ended.stderr);
        assert_eq!(world.records(), 0);
        world.superuser().batch_execute(&format!("ALTER ROLE {role} CONNECTION LIMIT 5")).unwrap();
        world.run(&["produce", "--wait-lock", "5s"]).expect(0);
        world.assert_sent_exactly_once();
        world.drop_role(&role);
    }
}

#[test]
fn a_statement_that_exceeds_the_servers_time_limits_ends_the_run_with_69_wherever_it_is() {
    // Recovery's reading, its look at the window, its flags, the reading of a later batch, and its flags.
    for point in ["window.before", "window.flag.before", "flag.begin.after", "read.after", "kafka.commit.after:2"] {
        let mut world = impatient("too_slow");
        world.settings.insert("retry", "attempts = 2\npause = \"20ms\"\n".into());
        with_a_window(&mut world);
        let mut run = world.start_stopped_at(point);
        // An application that changes the table's structure lets nobody look at it, for a long time.
        let mut application = world.another_session();
        let mut change = application.transaction().unwrap();
        change.batch_execute(&format!("LOCK TABLE {}", world.name)).unwrap();
        run.go_on();
        let ended = run.end().expect(69);
        assert!(["57014", "55P03"].iter().any(|code| ended.stderr.contains(code)), "{point}: {}", ended.stderr);
        change.rollback().unwrap();
        world.run(&["produce", "--wait-lock", "5s"]).expect(0);
        world.assert_sent_exactly_once();
    }
}

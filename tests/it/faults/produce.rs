//! The first leg and its servers: connections cut, answers lost, requests that arrive late, servers that hang or die.

use std::time::{Duration, Instant};

use crate::common::proxy::{Fault, Proxy, Way, commits, kafka_request};
use crate::common::servers::OwnServers;
use crate::common::{Ended, KILLED, USER_LOGINS, World, signal_process};

const PRODUCE: u8 = 0;
const INIT_PRODUCER_ID: u8 = 22;
const ADD_PARTITIONS: u8 = 24;
const END_TXN: u8 = 26;

/// The longest that a run may take which PostgreSQL does not answer: a statement's limit and 5 s beyond, and 2 s each for the
/// history and for what is left.
const MOST: Duration = Duration::from_secs(14);

/// A world whose runs try again at once, and give a server up after a second or two.
fn impatient(name: &str) -> World {
    let mut world = World::new(name);
    be_impatient(&mut world);
    world
}

fn be_impatient(world: &mut World) {
    world.settings.insert("retry", "attempts = 3\npause = \"20ms\"\n".into());
    world.settings.insert("timeouts", "connect = \"1s\"\npostgres = \"2s\"\nkafka = \"2s\"\nstable = \"2s\"\n".into());
    world.batch_rows(5);
}

/// Runs until a run ends well; the others may say that a server failed, or that their own session still holds the lock.
fn run_until_well(world: &World) -> Ended {
    for _ in 0..20 {
        let ended = world.run(&["produce", "--json", "--wait-lock", "5s"]);
        if ended.code == 0 {
            return ended;
        }
        assert!([69, 75].contains(&ended.code), "{ended:?}");
    }
    panic!("twenty runs, and none ended well");
}

/// Each commit of a run is hit by the fault, and the run ends well.
fn made_good_at_each_commit(name: &str, fault: Fault) {
    let mut world = impatient(name);
    let proxy = Proxy::before_postgres(&mut world);
    // A run over twelve rows commits its epoch, a window now and then, three batches, and the last checkpoint.
    for nth in 1..=5 {
        world.insert_rows(12);
        proxy.hit(nth, commits, fault, || world.run(&["produce"])).expect(0);
        world.assert_sent_exactly_once();
    }
}

#[test]
fn an_answer_of_postgresql_to_a_commit_that_is_lost_doubles_nothing_and_ends_the_run_well() {
    made_good_at_each_commit("pg_answer", Fault::DropReply);
}

#[test]
fn a_commit_that_never_reaches_postgresql_is_made_good() {
    made_good_at_each_commit("pg_request", Fault::Cut);
}

#[test]
fn a_commit_that_reaches_postgresql_late_meets_no_other_run() {
    let mut world = impatient("pg_late");
    for nth in [1, 3, 4] {
        let proxy = Proxy::before_postgres(&mut world);
        world.insert_rows(12);
        proxy.kill_with_held(&world, "produce", nth, commits);
        // The dead run's session is alive as far as PostgreSQL can see: it keeps the lock until the late commit is through.
        world.run(&["produce"]).expect(75);
        proxy.pass();
        proxy.wait_for_late_deliveries(1);
        run_until_well(&world);
        world.assert_sent_exactly_once();
        world.settings.remove("postgres");
    }
}

#[test]
fn an_answer_of_kafka_that_is_lost_doubles_nothing() {
    let mut world = impatient("kafka_answer");
    let proxy = Proxy::before_kafka(&mut world);
    let mut hits = 0;
    for request in [END_TXN, PRODUCE, ADD_PARTITIONS, INIT_PRODUCER_ID] {
        for (nth, fault) in [(1, Fault::DropReply), (2, Fault::DropReply), (2, Fault::Cut)] {
            world.insert_rows(12);
            proxy.on_nth(nth, Way::ToServer, kafka_request(request), fault);
            run_until_well(&world);
            world.assert_sent_exactly_once();
            // Producer ids are asked for once a run.
            if request == INIT_PRODUCER_ID && proxy.hits() == hits {
                proxy.pass();
            } else {
                hits += 1;
                assert_eq!(proxy.hits(), hits, "request {request}, passing {nth}");
            }
        }
    }
}

#[test]
fn the_end_of_a_transaction_that_never_gets_an_answer_ends_the_run_with_69() {
    let mut world = impatient("kafka_silent");
    let proxy = Proxy::before_kafka(&mut world);
    world.insert_rows(12);
    world.settings.insert("retry", "attempts = 1".into());
    let begun = Instant::now();
    let ended = proxy.hit(2, kafka_request(END_TXN), Fault::Stall, || world.run(&["produce"]));
    assert!([0, 69].contains(&ended.code), "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    run_until_well(&world);
    world.assert_sent_exactly_once();
}

#[test]
fn what_a_dead_run_sent_to_kafka_and_arrives_late_is_shut_out() {
    for request in [END_TXN, PRODUCE] {
        let mut world = impatient("kafka_late");
        let proxy = Proxy::before_kafka(&mut world);
        world.insert_rows(12);
        proxy.kill_with_held(&world, "produce", 2, kafka_request(request));
        world.sql("UPDATE {t} SET event_type = 'meanwhile' WHERE id > 5 AND NOT sent_to_kafka");
        // The fence decides what the dead run left open: nothing of it is waited for.
        world.run(&["produce", "--wait-lock", "5s"]).expect(0);
        let before = world.assert_sent_exactly_once().len();
        proxy.pass();
        proxy.wait_for_late_deliveries(1);
        world.insert_rows(1);
        run_until_well(&world);
        assert_eq!(world.assert_sent_exactly_once().len(), before + 1, "request {request}");
    }
}

/// Connections cut after ever more bytes, so that every part of a run is hit.
fn cut_here_and_there(name: &str, before: fn(&mut World) -> Proxy, way: Way, step: u64) {
    let mut world = impatient(name);
    let proxy = before(&mut world);
    for round in 0..12 {
        world.insert_rows(12);
        proxy.after(50 + round * step + fastrand::u64(..step), way, Fault::Cut);
        run_until_well(&world);
        proxy.pass();
        world.assert_sent_exactly_once();
    }
    assert!(proxy.hits() >= 6, "only {} of the connections were cut", proxy.hits());
}

#[test]
fn postgresql_cut_off_here_and_there_on_the_way_to_it() {
    cut_here_and_there("pg_cut_up", Proxy::before_postgres, Way::ToServer, 900);
}

#[test]
fn postgresql_cut_off_here_and_there_on_the_way_back() {
    cut_here_and_there("pg_cut_down", Proxy::before_postgres, Way::ToClient, 600);
}

#[test]
fn kafka_cut_off_here_and_there_on_the_way_to_it() {
    cut_here_and_there("kafka_cut_up", Proxy::before_kafka, Way::ToServer, 500);
}

#[test]
fn kafka_cut_off_here_and_there_on_the_way_back() {
    cut_here_and_there("kafka_cut_down", Proxy::before_kafka, Way::ToClient, 400);
}

#[test]
fn a_postgresql_that_stops_answering_ends_the_run_with_69_within_its_limits() {
    let mut world = impatient("pg_stall");
    world.settings.insert("timeouts", "connect = \"500ms\"\npostgres = \"300ms\"".into());
    let proxy = Proxy::before_postgres(&mut world);
    for nth in [1, 3] {
        world.insert_rows(12);
        let begun = Instant::now();
        let ended = proxy.hit(nth, commits, Fault::Stall, || world.run(&["produce"])).expect(69);
        assert!(ended.stderr.contains("no reply within"), "{}", ended.stderr);
        assert!(begun.elapsed() < MOST, "{:?}", begun.elapsed());
        run_until_well(&world);
        world.assert_sent_exactly_once();
    }
}

/// The servers of one test, broken in turn: they take seconds to start.
#[test]
fn servers_that_hang_are_killed_and_come_back_lose_and_double_nothing() {
    let own = OwnServers::start("produce");
    let mut world = World::on(own.servers.clone(), "broken", USER_LOGINS, 3);
    be_impatient(&mut world);
    postgres_loses_its_last_commits(&own, &mut world);
    postgres_keeps_the_flags_behind_a_later_epoch(&own, &mut world);
    postgres_hangs(&own, &mut world);
    kafka_dies_and_hangs(&own, &mut world);
}

/// Asynchronous commits are written by one process, within a fifth of a second: it is stopped.
fn stop_writing_commits(world: &World) {
    let writer: i32 = world
        .superuser()
        .query_one("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'", &[])
        .unwrap()
        .get(0);
    signal_process("STOP", writer.try_into().unwrap());
}

/// Flags are committed asynchronously: a crash of PostgreSQL takes the last of them back, and the checkpoint with them.
fn postgres_loses_its_last_commits(own: &OwnServers, world: &mut World) {
    let mut lost = 0;
    for _ in 0..2 {
        world.insert_rows(23);
        stop_writing_commits(world);
        // All five batches are sent and flagged; the checkpoint that ends the run is not written yet.
        let mut run = world.start_stopped_at("finish.after");
        own.act("kill", "postgres");
        own.act("start", "postgres");
        run.go_on();
        let ended = run.end();
        assert!([0, 69, 75].contains(&ended.code), "{ended:?}");
        world.pg = world.another_session();
        lost += ended.number("produce", "rows_recovered") + world.unsent();
        run_until_well(world);
        world.assert_sent_exactly_once();
    }
    assert!(lost > 0, "PostgreSQL lost no flags: this test shows nothing");
}

/// The epoch is committed synchronously, and everything before it with it: once a later run has begun, no crash of PostgreSQL
/// takes the flags of an earlier one back.
fn postgres_keeps_the_flags_behind_a_later_epoch(own: &OwnServers, world: &mut World) {
    world.insert_rows(23);
    stop_writing_commits(world);
    assert_eq!(world.crash_at("finish.after", &["produce"]).code, KILLED);
    // Nothing but the later run commits synchronously.
    world.pg.batch_execute("SET synchronous_commit = off").unwrap();
    world.insert_rows(5);
    assert_eq!(world.crash_at("epoch.after", &["produce"]).code, KILLED);
    own.act("kill", "postgres");
    own.act("start", "postgres");
    world.pg = world.another_session();
    assert_eq!(world.unsent(), 5);
    run_until_well(world);
    world.assert_sent_exactly_once();
}

fn postgres_hangs(own: &OwnServers, world: &mut World) {
    world.insert_rows(23);
    world.settings.insert("timeouts", "connect = \"500ms\"\npostgres = \"300ms\"\nkafka = \"2s\"".into());
    let mut run = world.start_stopped_at("kafka.commit.after:2");
    let paused = own.pause("postgres");
    let begun = Instant::now();
    run.go_on();
    let ended = run.end().expect(69);
    assert!(begun.elapsed() < MOST, "{:?}: {}", begun.elapsed(), ended.stderr);
    // A new run cannot even connect.
    let begun = Instant::now();
    world.run(&["produce"]).expect(69);
    assert!(begun.elapsed() < MOST, "{:?}", begun.elapsed());
    drop(paused);
    be_impatient(world);
    run_until_well(world);
    world.assert_sent_exactly_once();
}

fn kafka_dies_and_hangs(own: &OwnServers, world: &mut World) {
    world.insert_rows(23);
    let mut run = world.start_stopped_at("kafka.commit.after:2");
    let paused = own.pause("kafka");
    run.go_on();
    let begun = Instant::now();
    run.end().expect(69);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    drop(paused);
    run_until_well(world);
    world.assert_sent_exactly_once();

    world.insert_rows(23);
    world.kill_at("kafka.commit.after:2", &["produce"]);
    own.act("kill", "kafka");
    world.run(&["produce"]).expect(69);
    own.act("start", "kafka");
    run_until_well(world);
    world.assert_sent_exactly_once();
}

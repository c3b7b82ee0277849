//! No server holds a command for longer than its limits say, whether it refuses or hangs.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::common::{Ended, World};

/// Runs the program to its end, which comes within `limit`; how long it took.
fn ends_within(world: &World, limit: Duration, args: &[&str]) -> (Ended, Duration) {
    let begun = Instant::now();
    let ended = world.run(args);
    let took = begun.elapsed();
    eprintln!("{args:?}: {took:.1?}");
    assert!(took < limit, "{args:?} took {took:?}: {}", ended.stderr);
    (ended, took)
}

/// Accepts connections and never says a word.
fn mute() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Where nobody listens.
fn closed_port() -> u16 {
    let (listener, port) = mute();
    drop(listener);
    port
}

fn postgres_at(world: &mut World, port: u16) {
    let url = format!("url = \"postgres://app:app@127.0.0.1:{port}/app\"");
    world.settings.insert("postgres", url);
}

fn brokers(world: &mut World, brokers: &str) {
    world.settings.insert("kafka", format!("brokers = \"{brokers}\""));
}

#[test]
fn a_command_ends_although_postgres_accepts_and_never_answers() {
    let mut world = World::new("mute_postgres");
    let (_listener, port) = mute();
    world.settings.insert("timeouts", "connect = \"1s\"".into());
    postgres_at(&mut world, port);
    for args in [&["init"][..], &["dead-letters", "replay"], &["verify"], &["--once"], &["check"], &["status"]] {
        let (ended, _) = ends_within(&world, Duration::from_secs(15), args);
        assert_eq!(ended.code, 69, "{args:?}: {}{}", ended.stdout, ended.stderr);
        let told = format!("{}{}", ended.stdout, ended.stderr);
        assert!(told.contains(&format!("cannot connect to PostgreSQL at 127.0.0.1:{port}")), "{told}");
    }
}

#[test]
fn the_other_servers_are_told_of_although_one_hangs() {
    let mut world = World::new("one_hangs");
    let (_listener, port) = mute();
    world.settings.insert("timeouts", "connect = \"1s\"".into());
    postgres_at(&mut world, port);
    let (ended, _) = ends_within(&world, Duration::from_secs(15), &["status"]);
    assert!(
        ended.stdout.contains("unsent            not known") && ended.stdout.contains("uncopied          0 records"),
        "{}",
        ended.stdout
    );
    let (ended, _) = ends_within(&world, Duration::from_secs(15), &["check"]);
    assert!(ended.stdout.contains("ClickHouse 2") && ended.stdout.contains("one-copy"), "{}", ended.stdout);
}

#[test]
fn brokers_that_refuse_are_told_within_seconds() {
    let mut world = World::new("refusing_brokers");
    world.insert_rows(1);
    for address in [format!("127.0.0.1:{}", closed_port()), "no-such-host.invalid:9092".to_owned()] {
        brokers(&mut world, &address);
        for args in [&["--once"][..], &["produce"], &["consume"], &["check"], &["status"], &["dead-letters"]] {
            let (ended, _) = ends_within(&world, Duration::from_secs(20), args);
            assert_eq!(ended.code, 69, "{args:?}: {}{}", ended.stdout, ended.stderr);
        }
    }
}

#[test]
fn brokers_that_never_answer_hold_a_run_for_no_longer_than_is_stated() {
    let mut world = World::new("mute_brokers");
    world.insert_rows(1);
    let (_listener, port) = mute();
    brokers(&mut world, &format!("127.0.0.1:{port}"));
    world.settings.insert("timeouts", "kafka = \"4s\"\ngive_up = \"10s\"".into());
    for args in [&["--once"][..], &["consume"], &["check"]] {
        let (ended, _) = ends_within(&world, Duration::from_secs(15), args);
        assert_eq!(ended.code, 69, "{args:?}: {}{}", ended.stdout, ended.stderr);
    }
}

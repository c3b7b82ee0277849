//! The second leg, step by step: a signal at every point, questions that are cut off, lost, or never answered, requests
//! of a dead run that arrive late, and servers that have reached a limit.

use std::time::{Duration, Instant};

use crate::common::proxy::{Fault, Proxy, Way, has, kafka_request};
use crate::common::{Ended, World, signal_process};
use pg2ch::crash;

const PRODUCE: u8 = 0;
const FETCH: u8 = 1;
const LIST_OFFSETS: u8 = 2;
const FETCH_OFFSETS: u8 = 9;
const INIT_PRODUCER_ID: u8 = 22;
const ADD_OFFSETS: u8 = 25;
const END_TXN: u8 = 26;
const COMMIT_OFFSETS: u8 = 28;

/// What the target is asked with.
const ASKS: &str = "toUnixTimestamp64Milli";
const DESCRIBES: &str = "system.columns";

/// A world whose runs try again at once and give a server up after a second or two; batches of five records.
fn impatient(name: &str) -> World {
    let mut world = World::new(name);
    world.settings.insert("retry", "attempts = 3\npause = \"20ms\"\n".into());
    let timeouts = "connect = \"1s\"\nkafka = \"2s\"\nstable = \"2s\"\nclickhouse = \"1s\"\n";
    world.settings.insert("timeouts", timeouts.into());
    world.settings.insert("batch", "insert_rows = 5\n".into());
    world.stop_merges();
    world
}

/// Some records of which a part is in the target, and nobody knows which: the target has to be asked.
fn unknown_records(world: &World) {
    world.send_logins(14);
    world.set_offsets(&[(0, 0), (1, 0), (2, 0)]);
}

/// Some records, one of which the target does not take.
fn records_with_a_bad_one(world: &World) {
    world.send_logins(6);
    world.send(&[(1, "bad", Some("{}"))]);
}

/// A run that ends well, whether or not it has dead letters to tell of.
fn run_well(world: &World) {
    let ended = world.run(&["consume"]);
    assert!([0, 65].contains(&ended.code), "{ended:?}");
    world.assert_every_record_once();
}

/// A run that gives up in time what is never answered.
#[track_caller]
fn run_in_time(world: &World) -> Ended {
    let begun = Instant::now();
    let ended = world.run(&["consume"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}: {ended:?}", begun.elapsed());
    ended
}

#[test]
fn a_sigterm_at_any_point_of_the_second_leg_commits_what_is_in_hand() {
    let world = impatient("term");
    for point in crash::CONSUME.iter().chain(&[crash::CONSUME_DEAD_LETTER]) {
        if *point == crash::CONSUME_DEAD_LETTER {
            records_with_a_bad_one(&world);
        } else {
            world.send_logins(14);
        }
        let mut run = world.start_leg_stopped_at("consume", point);
        signal_process("TERM", run.pid());
        run.go_on();
        let ended = run.end();
        assert!([0, 65].contains(&ended.code), "{point}: {ended:?}");
        let offsets = world.offsets();
        assert!(offsets.iter().all(|(.., metadata)| !metadata.contains("intent")), "{point}: {offsets:?}");
        run_well(&world);
    }
}

#[test]
fn a_sigterm_while_the_target_is_asked_leaves_the_rest_to_the_next_run() {
    let mut world = impatient("term_asking");
    let proxy = Proxy::before_clickhouse(&mut world);
    unknown_records(&world);
    proxy.on_nth(1, Way::ToServer, has(ASKS), Fault::Hold);
    let run = world.start(&["consume"]);
    proxy.wait_for_hit();
    crate::common::signal("TERM", &run);
    proxy.pass();
    Ended::after(run).expect(0);
    run_well(&world);
}

#[test]
fn a_question_that_is_cut_off_lost_or_never_answered_doubles_nothing() {
    let mut world = impatient("asked");
    let proxy = Proxy::before_kafka(&mut world);
    for request in [LIST_OFFSETS, FETCH_OFFSETS, FETCH, INIT_PRODUCER_ID] {
        for fault in [Fault::Cut, Fault::DropReply, Fault::Stall] {
            unknown_records(&world);
            let ended = proxy.hit(1, kafka_request(request), fault, || world.run(&["consume"]));
            assert!([0, 69].contains(&ended.code), "{request} {fault:?}: {ended:?}");
            run_well(&world);
        }
    }
}

#[test]
fn a_question_to_the_target_that_is_cut_off_lost_or_never_answered_doubles_nothing() {
    let mut world = impatient("target_asked");
    let proxy = Proxy::before_clickhouse(&mut world);
    for words in [DESCRIBES, ASKS] {
        for fault in [Fault::Cut, Fault::DropReply, Fault::Stall] {
            unknown_records(&world);
            let ended = proxy.hit(1, has(words), fault, || run_in_time(&world));
            assert!([0, 69].contains(&ended.code), "{words} {fault:?}: {ended:?}");
            run_well(&world);
        }
    }
}

#[test]
fn dead_letters_that_are_cut_off_lost_or_never_answered_are_there_once() {
    let mut world = impatient("letters");
    let proxy = Proxy::before_kafka(&mut world);
    for request in [PRODUCE, END_TXN] {
        for fault in [Fault::Cut, Fault::DropReply, Fault::Stall] {
            records_with_a_bad_one(&world);
            // The transaction of the recorded intent comes before that of the dead letter.
            let nth = if request == END_TXN { 2 } else { 1 };
            let ended = proxy.hit(nth, kafka_request(request), fault, || world.run(&["consume"]));
            assert!([0, 65, 69].contains(&ended.code), "{request} {fault:?}: {ended:?}");
            run_well(&world);
        }
    }
}

#[test]
fn a_commit_that_is_never_answered_ends_in_time_and_is_made_good() {
    let mut world = impatient("commit_stall");
    let proxy = Proxy::before_kafka(&mut world);
    for request in [ADD_OFFSETS, COMMIT_OFFSETS, END_TXN] {
        world.send_logins(9);
        let ended = proxy.hit(2, kafka_request(request), Fault::Stall, || run_in_time(&world));
        assert!([0, 69].contains(&ended.code), "{request}: {ended:?}");
        run_well(&world);
    }
}

/// A broker that hears a request, and never says a word again, on no connection. librdkafka's own limit of such a call is no limit.
#[test]
fn a_broker_that_falls_silent_under_a_commit_ends_the_run_in_time_or_at_the_second_signal() {
    let mut world = impatient("commit_silent");
    let proxy = Proxy::before_kafka(&mut world);
    for (request, has_signals) in [(COMMIT_OFFSETS, false), (ADD_OFFSETS, true)] {
        world.send_logins(9);
        let hits = proxy.hits();
        proxy.on_nth(2, Way::ToServer, kafka_request(request), Fault::Stall);
        let run = world.start(&["consume"]);
        world.wait_for("the commit", || proxy.hits() > hits);
        proxy.now(Fault::Stall);
        let begun = Instant::now();
        for _ in 0..if has_signals { 2 } else { 0 } {
            std::thread::sleep(Duration::from_millis(700));
            signal_process("TERM", run.id());
        }
        Ended::after(run).expect(if has_signals { 128 + 15 } else { 69 });
        let limit = Duration::from_secs(if has_signals { 4 } else { 20 });
        assert!(begun.elapsed() < limit, "{request}: {:?}", begun.elapsed());
        proxy.pass();
        proxy.cut_open();
        run_well(&world);
    }
}

/// A request that a dead run has sent arrives when the next run has done its work, with the dead letters of both.
#[test]
fn what_a_dead_run_sent_to_kafka_and_arrives_late_moves_no_offset_and_leaves_no_letter() {
    for (request, nth) in
        [(INIT_PRODUCER_ID, 1), (ADD_OFFSETS, 1), (COMMIT_OFFSETS, 1), (END_TXN, 1), (PRODUCE, 1), (END_TXN, 2)]
    {
        let mut world = impatient("late");
        let proxy = Proxy::before_kafka(&mut world);
        records_with_a_bad_one(&world);
        proxy.kill_with_held(&world, "consume", nth, kafka_request(request));
        run_well(&world);
        let offsets = world.offsets();
        proxy.pass();
        proxy.wait_for_late_deliveries(1);
        assert_eq!(world.offsets(), offsets, "{request} {nth}");
        world.assert_every_record_once();
        world.send_logins(3);
        run_well(&world);
    }
}

#[test]
fn a_run_that_was_overtaken_with_a_dead_letter_in_hand_leaves_none() {
    let world = impatient("zombie_letter");
    records_with_a_bad_one(&world);
    let mut zombie = world.start_leg_stopped_at("consume", crash::CONSUME_DEAD_LETTER);
    run_well(&world);
    zombie.go_on();
    zombie.end().expect(75);
    world.assert_every_record_once();
}

#[test]
fn a_target_with_too_many_parts_ends_the_run_with_69_until_it_has_room() {
    let world = impatient("parts");
    world.send_logins(5);
    world.run(&["consume"]).expect(0);
    world.ch("ALTER TABLE {t} MODIFY SETTING parts_to_throw_insert = 1");
    world.send_logins(14);
    let ended = world.run(&["consume"]).expect(69);
    assert!(ended.stderr.contains("Too many parts"), "{}", ended.stderr);
    world.ch("ALTER TABLE {t} RESET SETTING parts_to_throw_insert");
    run_well(&world);
}

#[test]
fn a_dead_letter_too_large_for_its_topic_stops_the_run_in_front_of_it() {
    let world = impatient("large_letter");
    let dead = format!("{}.dead", world.name);
    world.delete_topic(&dead);
    world.create_topic(&dead, 1, &[("max.message.bytes", "400")]);
    world.send_logins(6);
    let bad = format!("{{\"extra\":\"{}\"}}", "x".repeat(2_000));
    world.send(&[(1, "bad", Some(&bad))]);
    let ended = world.run(&["consume"]).expect(78);
    assert!(ended.stderr.contains("too large"), "{}", ended.stderr);
    world.delete_topic(&dead);
    world.create_topic(&dead, 1, &[]);
    run_well(&world);
    assert_eq!(world.topic_named(&dead).len(), 1);
}

//! The second leg and its servers: answers lost, requests late, servers hung and killed, overtaken runs, and records that
//! the target does not take.

use crate::common::http_proxy::{Act, HttpProxy};
use crate::common::proxy::{Fault, Proxy, kafka_request};
use crate::common::{USER_LOGINS, World};

const ADD_OFFSETS: u8 = 25;
const END_TXN: u8 = 26;
const COMMIT_OFFSETS: u8 = 28;

/// A world whose runs try again at once and give a server up after a second or two; batches of five records.
fn impatient(name: &str) -> World {
    let mut world = World::new(name);
    be_impatient(&mut world);
    world.stop_merges();
    world
}

fn be_impatient(world: &mut World) {
    world.settings.insert("retry", "attempts = 3\npause = \"20ms\"\n".into());
    let timeouts = "connect = \"1s\"\nkafka = \"2s\"\nstable = \"2s\"\nclickhouse = \"1s\"\n";
    world.settings.insert("timeouts", timeouts.into());
    world.settings.insert("batch", "insert_rows = 5\n".into());
}

fn behind_proxy(world: &mut World, plan: &[Act]) -> HttpProxy {
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, plan);
    world.settings.insert("clickhouse", proxy.setting());
    proxy
}

#[test]
fn lost_requests_and_lost_answers_of_inserts_are_made_good_within_the_run() {
    let mut world = impatient("answers");
    let plans: [&[Act]; 6] = [
        &[Act::BadGateway],
        &[Act::CutBefore],
        &[Act::CutAfter],
        &[Act::Swallow],
        &[Act::Pass, Act::BadGateway, Act::CutBefore, Act::CutAfter, Act::BadGateway],
        &[Act::CutBefore, Act::CutAfter],
    ];
    for plan in plans {
        world.send_logins(14);
        let proxy = behind_proxy(&mut world, plan);
        world.run(&["consume"]).expect(0);
        // What the server has carried out is found by asking; only what never reached it goes again.
        let lost = plan.iter().filter(|act| **act == Act::CutBefore).count();
        assert_eq!(proxy.inserts(), 3 + lost, "{plan:?}");
        world.assert_every_record_once();
    }
}

#[test]
fn a_server_that_never_answers_an_insert_ends_the_run_and_the_next_one_goes_on() {
    for act in [Act::CutBefore, Act::CutAfter, Act::BadGateway] {
        let mut world = impatient("no_answer");
        world.send_logins(14);
        let _proxy = behind_proxy(&mut world, &[act; 30]);
        // What the server has carried out is found by asking.
        let ended = world.run(&["consume"]).expect(if act == Act::CutBefore { 69 } else { 0 });
        assert!(ended.stderr.contains("cannot insert into"), "{}", ended.stderr);
        world.settings.remove("clickhouse");
        world.run(&["consume"]).expect(0);
        world.assert_every_record_once();
    }
}

#[test]
fn an_insert_held_back_lands_after_its_own_repetition() {
    let mut world = impatient("held_back");
    world.send_logins(14);
    let proxy = behind_proxy(&mut world, &[Act::Hold, Act::Pass, Act::Hold]);
    world.run(&["consume"]).expect(0);
    world.assert_every_record_once();
    proxy.release();
    world.assert_every_record_once();
}

#[test]
fn lost_answers_of_offset_commits_are_made_good() {
    let mut world = impatient("offset_answers");
    let proxy = Proxy::before_kafka(&mut world);
    for api in [ADD_OFFSETS, COMMIT_OFFSETS, END_TXN] {
        for fault in [Fault::DropReply, Fault::Cut] {
            for nth in [1, 3] {
                world.send_logins(9);
                let ended = proxy.hit(nth, kafka_request(api), fault, || world.run(&["consume"]));
                assert!([0, 69].contains(&ended.code), "{api} {fault:?} {nth}: {ended:?}");
                world.run(&["consume"]).expect(0);
                world.assert_every_record_once();
            }
        }
    }
}

#[test]
fn a_run_that_was_overtaken_while_it_slept_changes_nothing() {
    for point in ["intend.before", "intend.after", "clickhouse.insert.before", "clickhouse.insert.after", "fence.after"]
    {
        let world = impatient("zombie");
        world.send_logins(14);
        let mut zombie = world.start_leg_stopped_at("consume", point);
        world.send_logins(7);
        world.run(&["consume"]).expect(0);
        let offsets = places(&world);
        zombie.go_on();
        let ended = zombie.end();
        assert_eq!(ended.code, 75, "{point}: {ended:?}");
        assert_eq!(places(&world), offsets, "{point}: offsets never go back");
        world.assert_every_record_once();
    }
}

fn places(world: &World) -> Vec<(i32, i64)> {
    world.offsets().into_iter().map(|(partition, offset, _)| (partition, offset)).collect()
}

#[test]
fn a_run_that_slept_through_the_copying_of_its_last_batch_is_told_so() {
    let world = impatient("late_zombie");
    world.send_logins(3);
    let mut zombie = world.start_leg_stopped_at("consume", "consume.finish.before");
    world.send_logins(7);
    world.run(&["consume"]).expect(0);
    zombie.go_on();
    zombie.end().expect(75);
    world.assert_every_record_once();
    world.run(&["consume"]).expect(0);
    world.assert_every_record_once();
}

const BAD: [(&str, &str); 4] = [
    (r#"{"id":1,"extra":2}"#, "extra"),
    (
        r#"{"id":99999999999999999999,"user_id":1,"event_type":"x","event_time":"2026-01-01T00:00:00Z","payload":null}"#,
        "id",
    ),
    (r#"{"id":1,"user_id":null,"event_type":"x","event_time":"2026-01-01T00:00:00Z","payload":null}"#, "user_id"),
    ("garbage", "JSON"),
];

fn letters(world: &World) -> Vec<(String, String)> {
    let mut letters: Vec<_> = world
        .topic_named(&format!("{}.dead", world.name))
        .into_iter()
        .map(|letter| (letter.value, letter.headers["pg2ch-reason"].clone()))
        .collect();
    letters.sort();
    letters
}

#[test]
fn bad_records_go_to_the_dead_letters_and_their_neighbours_into_the_target() {
    let world = impatient("bad");
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK event_type != 'refused'");
    for (bad, _) in BAD {
        world.send_logins(3);
        world.send(&[(0, "k", Some(bad))]);
    }
    world.send(&[(1, "tombstone", None)]);
    world.send_logins(9);
    world.send(&[(2, "r", Some(&World::login(-1, "refused"))), (2, "s", Some(&World::login(-2, "refused")))]);
    world.send_logins(3);

    let ended = world.run(&["consume", "--json"]).expect(65);

    assert_eq!(ended.number("consume", "dead_letters"), 7);
    assert_eq!(ended.number("consume", "rows_inserted"), 24);
    world.assert_every_record_once();
    let letters = letters(&world);
    for (bad, reason) in BAD {
        let letter = letters.iter().find(|(value, _)| value == bad).unwrap();
        assert!(letter.1.contains(reason), "{letter:?}");
    }
    assert!(letters.iter().any(|(value, reason)| value.is_empty() && reason.contains("tombstone")));
    assert_eq!(letters.iter().filter(|(_, reason)| reason.contains("picky")).count(), 2);
    assert_eq!(world.run(&["consume", "--json"]).expect(0).number("consume", "dead_letters"), 0, "told once");
}

#[test]
fn a_run_that_is_to_stop_at_a_bad_record_commits_what_lies_before_it() {
    // Refused by the encoder, refused by the server; in the middle of a batch, and as its first record.
    for bad in ["garbage", &World::login(-1, "refused")] {
        for before in [0, 3, 5, 7] {
            let mut world = World::with("stop", USER_LOGINS, 1);
            world.settings.insert("batch", "insert_rows = 5\n".into());
            world.settings.insert("[table]", "on_bad_row = \"stop\"\n".into());
            world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK event_type != 'refused'");
            let good: Vec<String> = (0..before + 3).map(|id| World::login(id, "good")).collect();
            let mut records: Vec<_> = good.iter().map(|value| (0, "k", Some(value.as_str()))).collect();
            records.insert(usize::try_from(before).unwrap(), (0, "k", Some(bad)));
            world.send(&records);
            for _ in 0..2 {
                let ended = world.run(&["consume"]).expect(65);
                assert!(ended.stderr.contains(&format!("before partition 0 offset {before}")), "{}", ended.stderr);
                assert_eq!(world.ch_number("SELECT count() FROM {t}"), before, "{bad}");
                assert_eq!(world.topic_named(&format!("{}.dead", world.name)).len(), 0);
                if before > 0 {
                    assert_eq!(places(&world), [(0, before)]);
                }
            }
            world.settings.remove("[table]");
            world.run(&["consume"]).expect(65);
            world.assert_every_record_once();
        }
    }
}

#[test]
fn too_many_bad_records_stop_the_run() {
    let mut world = impatient("too_many");
    world.settings.insert("[table]", "max_dead_letters = 3\n".into());
    let bad: Vec<_> = (0..5).map(|_| (0, "k", Some("bad"))).collect();
    world.send(&bad[..2]);
    world.run(&["consume"]).expect(65);
    world.send_logins(6);
    world.send(&bad);

    let ended = world.run(&["consume"]).expect(65);

    assert!(ended.stderr.contains("max_dead_letters"), "{}", ended.stderr);
    assert!(letters(&world).len() <= 5, "three in a run");
    world.settings.remove("[table]");
    world.run(&["consume"]).expect(65);
    assert_eq!(letters(&world).len(), 7);
    world.assert_every_record_once();
}

#[test]
fn a_view_that_refuses_what_the_target_has_stored_doubles_nothing() {
    let world = World::new("view");
    world.stop_merges();
    world.ch("CREATE MATERIALIZED VIEW {t}_v ENGINE = MergeTree ORDER BY x AS SELECT toInt32(event_type) x FROM {t}");
    world.send_logins(7);
    let ended = world.run(&["consume", "--json"]).expect(65);
    assert!(ended.stderr.contains("the views behind the target"), "{ended:?}");
    assert_eq!((ended.number("consume", "rows_refused_by_views"), ended.number("consume", "dead_letters")), (7, 0));
    world.assert_every_record_once();
    // It was told once; the rows are dealt with.
    world.run(&["consume"]).expect(0);
    world.ch("DROP VIEW {t}_v");
    world.send_logins(3);
    world.run(&["consume"]).expect(0);
    world.assert_every_record_once();
}

#[test]
fn a_record_in_the_target_that_no_longer_fits_is_not_refused() {
    let world = impatient("no_longer");
    world.send_logins(12);
    world.run(&["consume"]).expect(0);
    world.ch("SYSTEM START MERGES {t}");
    world.ch("ALTER TABLE {t} DROP COLUMN payload");
    world.stop_merges();
    world.set_offsets(&[(0, 0), (1, 0), (2, 0)]);
    let ended = world.run(&["consume", "--json"]).expect(0);
    assert_eq!((ended.number("consume", "rows_held"), ended.number("consume", "dead_letters")), (0, 0));
    world.assert_every_record_once();
}

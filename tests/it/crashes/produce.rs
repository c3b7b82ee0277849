//! The first leg, killed: at every crash point, in late batches, and at random, while the rows change.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{KILLED, World};
use pg2ch::crash;
use postgres::{Client, NoTls};

/// A quarter of the points each, so that they are tried side by side.
fn quarter(points: &[&'static str], number: usize) -> Vec<&'static str> {
    points.iter().copied().skip(number).step_by(4).collect()
}

/// Some rows change for good, some there and back, as an application does while no run is alive.
fn change_some(world: &mut World) {
    world.sql("UPDATE {t} SET user_id = user_id + 100000, sent_to_kafka = FALSE WHERE id % 7 = 0");
    world.sql("UPDATE {t} SET event_type = 'other' WHERE id % 5 = 0 AND NOT sent_to_kafka");
    world.sql("UPDATE {t} SET event_type = 'login' WHERE id % 5 = 0 AND event_type = 'other'");
}

/// One world, killed at each point in turn; every time new rows, and old ones changed.
fn killed_at_each(name: &str, points: Vec<&str>, passing: usize) {
    let mut world = World::new(name);
    world.batch_rows(10);
    for point in points {
        world.insert_rows(25);
        let point = format!("{point}:{passing}");
        let ended = world.crash_at(&point, &["produce"]);
        // A point that a run passes only once is not there a second time: then it has ended well.
        assert!(ended.code == KILLED || (passing > 1 && ended.code == 0), "{point}: {ended:?}");
        change_some(&mut world);
        world.run(&["produce", "--json"]).expect(0);
        world.assert_sent_exactly_once();
    }
}

#[test]
fn killed_at_the_first_quarter_of_the_points() {
    killed_at_each("crash_a", quarter(crash::PRODUCE, 0), 1);
}

#[test]
fn killed_at_the_second_quarter_of_the_points() {
    killed_at_each("crash_b", quarter(crash::PRODUCE, 1), 1);
}

#[test]
fn killed_at_the_third_quarter_of_the_points() {
    killed_at_each("crash_c", quarter(crash::PRODUCE, 2), 1);
}

#[test]
fn killed_at_the_last_quarter_of_the_points() {
    killed_at_each("crash_d", quarter(crash::PRODUCE, 3), 1);
}

#[test]
fn killed_in_the_third_batch() {
    let in_batches = crash::PRODUCE
        .iter()
        .copied()
        .filter(|point| ["read.", "kafka.", "flag."].iter().any(|stage| point.starts_with(stage)));
    killed_at_each("crash_third", in_batches.collect(), 3);
}

#[test]
fn killed_in_the_hundredth_batch() {
    let mut world = World::new("crash_hundredth");
    world.batch_rows(1);
    for point in ["kafka.commit.after:100", "flag.before:100", "kafka.commit.before:100"] {
        world.insert_rows(103);
        world.kill_at(point, &["produce"]);
        let delivered = world.records();
        let unsent = world.unsent();
        change_some(&mut world);
        world.batch_rows(50);
        let ended = world.run(&["produce", "--json"]).expect(0);
        world.assert_sent_exactly_once();
        assert!(delivered >= 98 && unsent < 30, "{point}: it was the hundredth batch");
        assert!(ended.number("produce", "rows_recovered") <= 3, "{point}: the checkpoint went along");
        world.batch_rows(1);
    }
}

#[test]
fn killed_while_it_recovers_from_a_kill() {
    let mut world = World::new("crash_recovery");
    world.batch_rows(10);
    for point in crash::PRODUCE_RECOVERY {
        world.insert_rows(25);
        world.kill_at("kafka.commit.after:2", &["produce"]);
        world.kill_at(point, &["produce"]);
        change_some(&mut world);
        // Behind the only page of the window there is no second one.
        let again = world.crash_at(point, &["produce"]).code;
        assert!(again == KILLED || (*point, again) == ("window.flag.after", 0), "{point}: {again}");
        world.run(&["produce", "--json"]).expect(0);
        world.assert_sent_exactly_once();
    }
}

#[test]
fn killed_where_the_first_run_has_sent_and_not_flagged_anything() {
    let mut world = World::new("crash_first");
    world.insert_rows(30);
    world.kill_at("kafka.commit.after", &["produce"]);
    assert_eq!((world.records(), world.unsent()), (30, 30));
    let ended = world.run(&["produce", "--json"]).expect(0);
    assert_eq!(ended.number("produce", "rows_recovered"), 30);
    assert_eq!(ended.number("produce", "records_sent"), 0);
    world.assert_sent_exactly_once();
}

#[test]
fn killed_around_a_row_that_is_held_and_around_one_that_is_no_longer() {
    let mut world = World::new("crash_held");
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.batch_rows(10);
    let (held, unheld) = (crash::PRODUCE_HELD.iter(), crash::PRODUCE_UNHELD.iter());
    for (point, is_held_first) in held.map(|point| (point, false)).chain(unheld.map(|point| (point, true))) {
        world.insert_rows(25);
        let mut lock = world.another_session();
        let some = format!("SELECT id FROM {} WHERE NOT sent_to_kafka AND id % 4 = 0 FOR UPDATE", world.name);
        lock.batch_execute(&format!("BEGIN; {some}")).unwrap();
        if is_held_first {
            world.run(&["produce"]).expect(0);
            lock.batch_execute("ROLLBACK").unwrap();
        }
        world.kill_at(point, &["produce"]);
        drop(lock);
        change_some(&mut world);
        world.run(&["produce", "--json"]).expect(0);
        world.assert_sent_exactly_once();
        assert_eq!(world.sql_number("SELECT count(*) FROM pg2ch_held WHERE topic = '{t}'"), 0, "{point}");
    }
}

#[test]
fn killed_around_a_record_that_is_too_large() {
    let mut world = World::new("crash_large");
    let topic = world.name.clone();
    world.delete_topic(&topic);
    world.create_topic(&topic, 1, &[("max.message.bytes", "2000")]);
    for (round, point) in crash::PRODUCE_TOO_LARGE.iter().enumerate() {
        world.insert_rows(8);
        world.sql(
            "UPDATE {t} SET payload = to_jsonb(repeat(md5(id::text), 100)) WHERE id = (SELECT max(id) - 3 FROM {t})",
        );
        world.kill_at(point, &["produce"]);
        let ended = world.run(&["produce", "--json"]).expect(65);
        assert_eq!(ended.report()["produce"]["too_large"].as_array().unwrap().len(), round + 1);
        assert_eq!(world.unsent(), i64::try_from(round).unwrap() + 1);
    }
    world.sql("UPDATE {t} SET payload = NULL WHERE NOT sent_to_kafka");
    world.run(&["produce"]).expect(0);
    world.assert_sent_exactly_once();
}

/// An application that updates rows all the time, each version unlike every other.
struct Application {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<u64>>,
}

impl Application {
    fn start(world: &World) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (url, name, stopped) = (world.servers.postgres_url.clone(), world.name.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut pg = Client::connect(&url, NoTls).unwrap();
            // One row at a time: with several, it and the test's own UPDATEs would lock each other out now and then.
            let sql = format!(
                "UPDATE {name} SET user_id = $1, sent_to_kafka = FALSE
                 WHERE id = (SELECT id FROM {name} ORDER BY random() LIMIT 1)"
            );
            let mut version = 1_000_000_i64;
            while !stopped.load(Ordering::Relaxed) {
                version += 1;
                pg.execute(&sql, &[&version]).unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
            u64::try_from(version - 1_000_000).unwrap()
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

/// Runs killed at random moments, while an application updates the rows; then a last run, undisturbed.
fn killed_at_random(name: &str, runs: u64) {
    let mut world = World::new(name);
    world.batch_rows(7);
    world.insert_rows(40);
    let application = Application::start(&world);
    let mut killed = 0;
    for _ in 0..runs {
        world.insert_rows(10);
        let mut run = world.start(&["produce"]);
        std::thread::sleep(Duration::from_millis(fastrand::u64(10..350)));
        run.kill().unwrap();
        killed += u64::from(run.wait().unwrap().code().is_none());
        if fastrand::bool() {
            world.sql("UPDATE {t} SET event_type = 'there and back' WHERE id % 3 = 0 AND NOT sent_to_kafka");
            world.sql("UPDATE {t} SET event_type = 'login' WHERE event_type = 'there and back'");
        }
    }
    let updates = application.end();
    world.run(&["produce"]).expect(0);
    let records = world.assert_sent_exactly_once();
    assert!(updates > runs && records.len() > 40, "{updates} updates, {} records", records.len());
    assert!(killed > runs / 4, "only {killed} of {runs} runs were killed: the others had ended before");
}

#[test]
fn killed_at_random_twenty_five_times_while_rows_change() {
    killed_at_random("kills_a", 25);
}

#[test]
fn killed_at_random_another_twenty_five_times() {
    killed_at_random("kills_b", 25);
}

#[test]
fn every_crash_point_of_the_program_is_in_a_list_and_every_listed_one_in_the_program() {
    fn points_in(dir: &std::path::Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                points_in(&path, found);
            } else if !path.ends_with("crash.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let calls = text.split("crash::point(\"").skip(1);
                found.extend(calls.map(|call| call.split('"').next().unwrap().to_owned()));
            }
        }
    }
    let mut found = BTreeSet::new();
    points_in(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    let lists = [
        crash::PRODUCE,
        crash::PRODUCE_RECOVERY,
        crash::PRODUCE_HELD,
        crash::PRODUCE_UNHELD,
        &[crash::PRODUCE_PASS],
        crash::PRODUCE_TYPES,
        crash::PRODUCE_TOO_LARGE,
        crash::CONSUME,
        &[crash::CONSUME_DEAD_LETTER],
        crash::VERIFY,
        crash::PRUNE,
        &[crash::REPLAY],
    ];
    let listed: BTreeSet<String> = lists.iter().flat_map(|list| list.iter()).map(|&name| name.to_owned()).collect();
    assert_eq!(found, listed);
}

#[test]
fn a_release_build_has_no_crash_points() {
    let release = std::path::Path::new(env!("CARGO_BIN_EXE_pg2ch")).parent().unwrap().with_file_name("release/pg2ch");
    let debug = std::fs::read(env!("CARGO_BIN_EXE_pg2ch")).unwrap();
    let names_it = |program: &[u8]| program.windows(14).any(|window| window == b"PG2CH_CRASH_AT");
    assert_eq!(names_it(&debug), cfg!(debug_assertions), "the program that these tests run has them in a debug build");
    if let Ok(release) = std::fs::read(release) {
        assert!(!names_it(&release), "PG2CH_CRASH_AT is known to a release build");
    }
}

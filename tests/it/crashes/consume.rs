//! The second leg, killed: at every crash point, in late batches, with bad records, while it asks, and at random.

use std::time::{Duration, Instant};

use crate::common::{KILLED, World};
use pg2ch::crash;

/// Batches of four records, no merge to hide a copy.
fn world(name: &str) -> World {
    let mut world = World::new(name);
    world.settings.insert("batch", "insert_rows = 4\n".into());
    world.stop_merges();
    world
}

/// One world, killed at each point in turn, every time with new records; then a run that ends well.
fn killed_at_each(name: &str, points: &[(&str, usize)]) {
    let world = world(name);
    for (point, passing) in points {
        world.send_logins(13);
        let point = format!("{point}:{passing}");
        let ended = world.crash_at(&point, &["consume"]);
        assert_eq!(ended.code, KILLED, "{point}: {ended:?}");
        let begun = Instant::now();
        world.run(&["consume"]).expect(0);
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{point}: the next run waits for the dead run's transaction"
        );
        world.assert_every_record_once();
    }
}

/// A third of the points each, so that they are tried side by side.
fn third(number: usize) -> Vec<(&'static str, usize)> {
    crash::CONSUME.iter().skip(number).step_by(3).map(|point| (*point, 1)).collect()
}

#[test]
fn killed_at_the_first_third_of_the_points() {
    killed_at_each("crash_a", &third(0));
}

#[test]
fn killed_at_the_second_third_of_the_points() {
    killed_at_each("crash_b", &third(1));
}

#[test]
fn killed_at_the_last_third_of_the_points() {
    killed_at_each("crash_c", &third(2));
}

#[test]
fn killed_in_a_later_batch() {
    let points: Vec<(&str, usize)> = crash::CONSUME
        .iter()
        .filter(|point| ["intend.", "kafka.", "offsets.", "clickhouse."].iter().any(|of| point.starts_with(of)))
        .map(|point| (*point, 3))
        .collect();
    killed_at_each("crash_third", &points);
}

#[test]
fn killed_twice_in_the_same_place() {
    let world = world("crash_twice");
    for point in ["intend.after", "clickhouse.insert.after", "kafka.commit.after:2"] {
        world.send_logins(13);
        for _ in 0..2 {
            world.kill_at(point, &["consume"]);
        }
        // An intent that is finished has its own commit, so that the second run dies in another place than the first.
        world.run(&["consume"]).expect(0);
        world.assert_every_record_once();
    }
}

#[test]
fn killed_while_bad_records_are_set_apart_for_the_dead_letters() {
    let world = world("crash_bad");
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK user_id % 5 != 0");
    let points = [
        ("intend.after", 2),
        ("clickhouse.insert.after", 2),
        ("kafka.begin.after", 4),
        (crash::CONSUME_DEAD_LETTER, 1),
        (crash::CONSUME_DEAD_LETTER, 2),
        ("offsets.sent.after", 4),
        ("kafka.commit.after", 4),
        ("clickhouse.insert.after", 5),
    ];
    for (point, passing) in points {
        world.send_logins(13);
        world.send(&[(1, "bad", Some("{}"))]);
        let point = format!("{point}:{passing}");
        world.kill_at(&point, &["consume"]);
        assert!([0, 65].contains(&world.run(&["consume"]).code), "{point}");
        world.assert_every_record_once();
    }
}

#[test]
fn killed_while_the_target_is_asked() {
    let world = world("crash_asking");
    world.send_logins(30);
    world.run(&["consume"]).expect(0);
    for (round, point) in
        ["fence.after", "intend.after", "clickhouse.insert.before:2", "clickhouse.insert.after"].into_iter().enumerate()
    {
        // Rows of every batch are missing, so that every batch is reduced.
        world.delete_from_target(&format!("_offset % 4 = {round}"));
        world.set_offsets(&[(0, 0), (1, 3), (2, 0)]);
        world.kill_at(point, &["consume"]);
        world.run(&["consume"]).expect(0);
        world.assert_every_record_once();
    }
}

/// Ten runs of the second leg, each killed after a random time, while records arrive.
fn killed_at_random(name: &str) {
    let world = world(name);
    for _ in 0..10 {
        world.send_logins(40);
        let mut run = world.start(&["consume"]);
        std::thread::sleep(Duration::from_millis(fastrand::u64(50..1000)));
        let _ = run.kill();
        run.wait().unwrap();
    }
    world.run(&["consume"]).expect(0);
    world.assert_every_record_once();
}

#[test]
fn killed_at_random_ten_times() {
    killed_at_random("random_a");
}

#[test]
fn killed_at_random_ten_more_times() {
    killed_at_random("random_b");
}

#[test]
fn killed_at_random_ten_times_in_a_partitioned_target() {
    let mut world = world("random_c");
    world.ch("CREATE TABLE {t}_new AS {t} PARTITION BY id % 3");
    world.ch("EXCHANGE TABLES {t} AND {t}_new");
    world.stop_merges();
    for _ in 0..10 {
        world.insert_rows(30);
        let mut run = world.start(&["--once", "--wait-lock", "5s"]);
        std::thread::sleep(Duration::from_millis(fastrand::u64(200..1800)));
        let _ = run.kill();
        run.wait().unwrap();
    }
    world.run(&["--once", "--wait-lock", "20s"]).expect(0);
    world.assert_exactly_once();
}

#[test]
fn killed_at_random_ten_times_with_bad_records() {
    let world = world("random_d");
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK user_id % 7 != 0");
    for _ in 0..10 {
        world.send_logins(20);
        let mut run = world.start(&["consume"]);
        std::thread::sleep(Duration::from_millis(fastrand::u64(300..1500)));
        let _ = run.kill();
        run.wait().unwrap();
    }
    assert!([0, 65].contains(&world.run(&["consume"]).code));
    world.assert_every_record_once();
}

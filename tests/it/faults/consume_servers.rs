//! The second leg while its servers are killed, hang, and come back: nothing is lost, nothing is there twice.
use std::time::{Duration, Instant};

use crate::common::servers::OwnServers;
use crate::common::{Ended, USER_LOGINS, World};

/// Runs until a run ends well; the others may say that a server failed.
fn run_until_well(world: &World, leg: &str) {
    for _ in 0..20 {
        let ended = world.run(&[leg, "--json", "--wait-lock", "5s"]);
        if ended.code == 0 {
            return;
        }
        assert!([69, 75].contains(&ended.code), "{ended:?}");
    }
    panic!("twenty runs, and none ended well");
}

/// Sends 23 rows, stops the run that copies them at `point`, does something to a server, lets the run go on, and tells how
/// it ended.
fn meanwhile(world: &mut World, point: &str, act: impl FnOnce()) -> Ended {
    world.insert_rows(23);
    run_until_well(world, "produce");
    let mut run = world.start_leg_stopped_at("consume", point);
    act();
    run.go_on();
    run.end()
}

#[test]
fn servers_that_are_killed_or_hang_under_the_second_leg_lose_and_double_nothing() {
    let own = OwnServers::start("consume");
    let mut world = World::on(own.servers.clone(), "broken", USER_LOGINS, 3);
    world.settings.insert("retry", "attempts = 2\npause = \"20ms\"\n".into());
    world
        .settings
        .insert("timeouts", "connect = \"1s\"\nkafka = \"3s\"\nstable = \"3s\"\nclickhouse = \"1s\"\n".into());
    world.settings.insert("batch", "rows = 5\ninsert_rows = 5\n".into());

    // Killed in front of an INSERT, and behind one whose rows are stored and whose offsets are not committed.
    for point in ["clickhouse.insert.before:2", "clickhouse.insert.after:2"] {
        let ended = meanwhile(&mut world, point, || own.act("kill", "clickhouse"));
        assert_eq!(ended.code, 69, "{point}: {ended:?}");
        own.act("start", "clickhouse");
        run_until_well(&world, "consume");
        world.assert_exactly_once();
    }

    // It hangs with an INSERT in its hands, which it carries out when it is awake again.
    let begun = Instant::now();
    let mut paused = None;
    let ended = meanwhile(&mut world, "clickhouse.insert.before:2", || paused = Some(own.pause("clickhouse")));
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}: {}", begun.elapsed(), ended.stderr);
    drop(paused);
    run_until_well(&world, "consume");
    world.assert_exactly_once();

    // Kafka dies in front of the commit of offsets, and behind the recorded intent.
    for point in ["intend.after:2", "offsets.sent.after:3"] {
        let ended = meanwhile(&mut world, point, || own.act("kill", "kafka"));
        assert!([69, 75].contains(&ended.code), "{point}: {ended:?}");
        own.act("start", "kafka");
        run_until_well(&world, "consume");
        world.assert_exactly_once();
    }
}

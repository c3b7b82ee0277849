//! A Kafka cluster of three brokers under a run: leader, coordinator and controller paused and killed, two brokers down, partitions
//! added. One cluster for all of it: its start takes seconds.

use std::time::{Duration, Instant};

use crate::common::kafka_cluster::{Cluster, Kind};
use crate::common::{USER_LOGINS, World, signal_process};

/// The longest that a run may take with the limits of [`world`], whatever its brokers do.
const MOST: Duration = Duration::from_secs(30);

/// A world on the cluster, whose runs give a broker up after seconds.
fn world(cluster: &Cluster, name: &str) -> World {
    let mut world = World::on(cluster.servers.clone(), name, USER_LOGINS, 3);
    world.settings.insert("retry", "attempts = 3\npause = \"100ms\"\n".into());
    world.settings.insert("timeouts", "connect = \"1s\"\nkafka = \"2s\"\nstable = \"3s\"\ngive_up = \"8s\"\n".into());
    world.settings.insert("batch", "rows = 10\ninsert_rows = 20\n".into());
    world.stop_merges();
    world
}

/// Runs until one ends well; the others may say that a broker is out of reach.
fn run_until_well(world: &World) {
    for _ in 0..5 {
        let begun = Instant::now();
        let ended = world.run(&["--once", "--wait-lock", "5s"]);
        assert!(begun.elapsed() < MOST, "{:?}: {ended:?}", begun.elapsed());
        if ended.code == 0 {
            return;
        }
        assert!([69, 75].contains(&ended.code), "{ended:?}");
    }
    panic!("five runs, and none ended well");
}

/// Brings what is missing, and compares all there is.
fn assert_well(world: &mut World) {
    run_until_well(world);
    world.assert_exactly_once();
}

#[test]
fn a_cluster_whose_brokers_pause_die_and_are_too_few_loses_and_doubles_nothing() {
    let cluster = Cluster::start("brokers");
    the_coordinators_of_group_and_transactions_pause_under_a_commit(&cluster);
    a_leader_pauses_under_a_run(&cluster);
    two_brokers_are_down(&cluster);
    partitions_move_and_are_added_under_a_run(&cluster);
    the_controller_dies_under_a_run(&cluster);
}

/// librdkafka's call ignores its limit if one broker is both and comes back; only the watchdog ends it.
fn the_coordinators_of_group_and_transactions_pause_under_a_commit(cluster: &Cluster) {
    let mut world = world(cluster, "coordinator");
    let coordinators = |group: &str| {
        let id = format!("pg2ch-offsets:{group}/{}", world.name);
        [cluster.coordinator(Kind::Group, group), cluster.coordinator(Kind::Transaction, &id)]
    };
    let groups: Vec<String> = (0..50).map(|number| format!("{}-{number}", world.name)).collect();
    let is_one = |group: &&String| coordinators(group)[0] == coordinators(group)[1];
    let group = groups.iter().find(is_one).unwrap_or(&groups[0]);
    let mut paused = coordinators(group).to_vec();
    paused.dedup();
    let usual = format!("group = \"{}\"", world.name);
    let section = World::table_section(&world.name).replace(&usual, &format!("group = \"{group}\""));
    world.settings.insert("[table]", section);
    for has_signals in [false, true] {
        world.send_logins(9);
        let mut run = world.start_leg_stopped_at("consume", "kafka.begin.after");
        paused.iter().for_each(|broker| cluster.act("pause", *broker));
        let begun = Instant::now();
        run.go_on();
        let signals = if has_signals { 2 } else { 0 };
        for _ in 0..signals {
            std::thread::sleep(Duration::from_millis(700));
            signal_process("TERM", run.pid());
        }
        let ended = run.end();
        let (codes, limit) = if has_signals { (vec![128 + 15], 5) } else { (vec![0, 69], 30) };
        assert!(codes.contains(&ended.code), "{ended:?}");
        assert!(begun.elapsed() < Duration::from_secs(limit), "{:?}: {ended:?}", begun.elapsed());
        paused.iter().for_each(|broker| cluster.act("resume", *broker));
        run_until_well(&world);
        world.assert_every_record_once();
    }
}

fn a_leader_pauses_under_a_run(cluster: &Cluster) {
    let mut world = world(cluster, "paused");
    world.insert_rows(40);
    let mut run = world.start_command_stopped_at(&["--once"], "kafka.send.after");
    let leader = cluster.leader(&world, 0);
    cluster.act("pause", leader);
    let begun = Instant::now();
    run.go_on();
    let ended = run.end();
    assert!([0, 69].contains(&ended.code), "{ended:?}");
    assert!(begun.elapsed() < MOST, "{:?}: {ended:?}", begun.elapsed());
    // Two brokers are enough.
    assert_well(&mut world);
    cluster.act("resume", leader);
    world.insert_rows(5);
    assert_well(&mut world);
}

fn two_brokers_are_down(cluster: &Cluster) {
    let mut world = world(cluster, "outnumbered");
    world.insert_rows(40);
    let mut run = world.start_command_stopped_at(&["--once"], "kafka.send.after:2");
    for broker in [1, 2] {
        cluster.act("pause", broker);
    }
    let begun = Instant::now();
    run.go_on();
    let ended = run.end().expect(69);
    assert!(begun.elapsed() < MOST, "{:?}: {ended:?}", begun.elapsed());
    for broker in [1, 2] {
        cluster.act("resume", broker);
    }
    assert_well(&mut world);
}

fn partitions_move_and_are_added_under_a_run(cluster: &Cluster) {
    let mut world = world(cluster, "partitions");
    world.insert_rows(40);
    let mut run = world.start_command_stopped_at(&["--once"], "kafka.commit.after:2");
    cluster.reassign(&world, &[[2, 3], [3, 1], [1, 2]]);
    world.add_partitions(6);
    run.go_on();
    let ended = run.end();
    assert!([0, 69].contains(&ended.code), "{ended:?}");
    world.insert_rows(40);
    assert_well(&mut world);
}

/// It does not come back.
fn the_controller_dies_under_a_run(cluster: &Cluster) {
    let mut world = world(cluster, "killed");
    world.insert_rows(40);
    let mut run = world.start_command_stopped_at(&["--once"], "kafka.commit.before");
    cluster.act("kill", cluster.controller());
    run.go_on();
    let ended = run.end();
    assert!([0, 69].contains(&ended.code), "{ended:?}");
    assert_well(&mut world);
}

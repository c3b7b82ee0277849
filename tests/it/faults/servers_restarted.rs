//! Servers that are killed at every step of a run, and come back: nothing is lost, nothing is there twice.

use crate::common::servers::OwnServers;
use crate::common::{USER_LOGINS, World};
use pg2ch::crash;

/// A world on servers of its own, whose runs give a server up after a second or two; batches of five.
fn impatient(own: &OwnServers) -> World {
    let mut world = World::on(own.servers.clone(), "restarted", USER_LOGINS, 3);
    world.settings.insert("retry", "attempts = 3\npause = \"100ms\"\n".into());
    let timeouts = "connect = \"2s\"\npostgres = \"2s\"\nkafka = \"4s\"\nstable = \"4s\"\nclickhouse = \"2s\"\n";
    world.settings.insert("timeouts", timeouts.into());
    world.settings.insert("batch", "rows = 5\ninsert_rows = 5\n".into());
    world
}

/// Runs until a run ends well; the others may say that a server failed.
fn run_until_well(world: &World, leg: &str) {
    for _ in 0..20 {
        let ended = world.run(&[leg, "--wait-lock", "5s"]);
        if [0, 65].contains(&ended.code) {
            return;
        }
        assert!([69, 75].contains(&ended.code), "{ended:?}");
    }
    panic!("twenty runs, and none ended well");
}

/// The run stops at `point`, the server is killed and started, and the run goes on.
fn killed_meanwhile(own: &OwnServers, world: &mut World, (leg, point, server): (&str, &str, &str)) {
    let mut run = world.start_leg_stopped_at(leg, point);
    own.act("kill", server);
    own.act("start", server);
    run.go_on();
    let ended = run.end();
    assert!([0, 65, 69, 75].contains(&ended.code), "{point} {server}: {ended:?}");
    if server == "postgres" {
        world.pg = world.another_session();
    }
    run_until_well(world, leg);
}

#[test]
fn a_server_killed_at_each_step_of_the_first_leg_loses_and_doubles_nothing() {
    let own = OwnServers::start("steps-produce");
    let mut world = impatient(&own);
    for (point, server) in [
        ("lock.after", "postgres"),
        ("window.before", "postgres"),
        ("window.flag.before", "postgres"),
        ("window.flag.after", "postgres"),
        ("read.after", "postgres"),
        ("window.before", "kafka"),
    ] {
        world.insert_rows(12);
        world.kill_at("kafka.commit.after", &["produce"]);
        killed_meanwhile(&own, &mut world, ("produce", point, server));
        world.assert_sent_exactly_once();
    }
}

#[test]
fn a_server_killed_at_each_step_of_the_second_leg_loses_and_doubles_nothing() {
    let own = OwnServers::start("steps-consume");
    let mut world = impatient(&own);
    for (point, server) in
        [("fence.after", "clickhouse"), ("fence.before", "kafka"), (crash::CONSUME_DEAD_LETTER, "kafka")]
    {
        world.send_logins(14);
        if point == crash::CONSUME_DEAD_LETTER {
            world.send(&[(1, "bad", Some("{}"))]);
        } else {
            // The target has to be asked.
            world.set_offsets(&[(0, 0), (1, 0), (2, 0)]);
        }
        killed_meanwhile(&own, &mut world, ("consume", point, server));
        world.assert_every_record_once();
    }
}

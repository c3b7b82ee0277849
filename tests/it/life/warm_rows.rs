//! The runs of `--every` share their producers, and whatever others do between two of them, or in the middle of one, loses and
//! doubles nothing.

use std::process::{Child, Stdio};
use std::time::Duration;

use rdkafka::producer::Producer as _;

use crate::common::servers::OwnServers;
use crate::common::{Ended, KILLED, USER_LOGINS, World, signal, signal_process};

/// The process, whose log says how each run begins; more in its environment.
fn start(world: &World, more: &[(&str, &str)]) -> Child {
    let mut command = world.command(&["--every", "1s", "-v"]);
    command.envs(more.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn epoch(world: &mut World) -> i64 {
    world.sql_number("SELECT epoch FROM pg2ch_checkpoint WHERE topic = '{t}' AND partition = -1")
}

/// Has a new row moved; whether the run has gone on under the epoch of the one before.
fn goes_on(world: &mut World) -> bool {
    let before = epoch(world);
    world.insert_rows(1);
    let is_copied =
        |world: &mut World| world.ch_number("SELECT count() FROM {t}") == world.sql_number("SELECT count(*) FROM {t}");
    world.wait_until(is_copied, "the row to be copied");
    world.wait_until(|world| world.unsent() == 0, "the row to be flagged");
    // The run ends a moment later.
    std::thread::sleep(Duration::from_millis(300));
    epoch(world) == before
}

/// Stops the process while it holds no lock: between two of its runs.
fn stop(world: &mut World, run: &Child) {
    let locks = format!(
        "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
         WHERE locktype = 'advisory' AND objsubid = 1 AND application_name LIKE 'pg2ch ledger %:{}'",
        run.id()
    );
    let is_between = |world: &mut World| {
        signal("STOP", run);
        let is_between = world.sql_number(&locks) == 0;
        if !is_between {
            signal("CONT", run);
        }
        is_between
    };
    world.wait_until(is_between, "the pause between two runs");
}

/// Ends the session that has the lock of this process, and no other test's.
fn end_session_of(world: &mut World, process: u32) {
    world.sql(&format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pg2ch ledger %:{process}'"
    ));
}

/// Has rows moved until a run goes on: on a busy machine the history may come too late, and takes the session along.
fn warm_up(world: &mut World) {
    world.insert_rows(1);
    world.wait_until(|world| world.unsent() == 0 && world.ch_number("SELECT count() FROM {t}") > 0, "the first row");
    world.wait_until(goes_on, "a run that goes on");
}

fn ends_well(world: &mut World, run: Child) -> String {
    signal("TERM", &run);
    let ended = Ended::of(&run.wait_with_output().unwrap()).expect(0);
    world.run(&["--once", "--wait-lock", "10s"]).expect(0);
    world.assert_exactly_once();
    ended.stderr
}

#[test]
fn a_run_goes_on_under_the_epoch_of_the_one_before_it() {
    let mut world = World::new("warm_rows");
    let run = start(&world, &[]);
    warm_up(&mut world);
    world.insert_rows(500);
    world.wait_until(|world| world.unsent() == 0, "many rows");
    world.wait_until(goes_on, "a run that goes on");
    assert!(!ends_well(&mut world, run).contains("error:"));
}

#[test]
fn a_run_of_another_host_in_between_makes_the_next_one_fence_anew() {
    let mut world = World::new("warm_others");
    let run = start(&world, &[]);
    for legs in [&[&["--once"][..]][..], &[&["produce"], &["consume"]], &[&["verify", "--repair", "--confirm"]]] {
        warm_up(&mut world);
        stop(&mut world, &run);
        world.insert_rows(3);
        for leg in legs {
            world.run(&[leg, &["--wait-lock", "10s"][..]].concat()).expect(0);
        }
        signal("CONT", &run);
        world.wait_until(|world| world.unsent() == 0, "the rows of either");
        assert!(!goes_on(&mut world) || goes_on(&mut world), "it moves rows");
    }
    let log = ends_well(&mut world, run);
    assert!(!log.contains("error:"), "{log}");
}

#[test]
fn a_committer_that_another_run_has_fenced_is_made_anew() {
    let mut world = World::new("warm_committer");
    let run = start(&world, &[]);
    warm_up(&mut world);
    stop(&mut world, &run);
    // It sends nothing, and has what was copied before to copy once more.
    let offsets = world.offsets();
    world.set_offsets(&offsets.iter().map(|(partition, ..)| (*partition, 0)).collect::<Vec<_>>());
    world.run(&["consume"]).expect(0);
    signal("CONT", &run);

    world.wait_until(goes_on, "a run that goes on with its rows");
    let log = ends_well(&mut world, run);
    assert!(log.contains("this one fences in its turn"), "{log}");
    assert!(!log.contains("error:"), "{log}");
}

#[test]
fn a_producer_that_a_run_has_fenced_which_then_ended_is_made_anew() {
    let mut world = World::new("warm_fenced");
    let other = {
        world.insert_rows(1);
        world.start_stopped_at("epoch.after")
    };
    end_session_of(&mut world, other.pid());
    let run = start(&world, &[]);
    warm_up(&mut world);
    stop(&mut world, &run);
    // It fences, and finds that others have begun since.
    let mut other = other;
    other.go_on();
    assert!([69, 75, 0].contains(&other.end().code));
    signal("CONT", &run);
    goes_on(&mut world);
    let log = ends_well(&mut world, run);
    assert!(!log.contains("error:"), "{log}");
}

/// Each point with the passing that is the first of the second run with a row.
const POINTS: [(&str, u32); 18] = [
    ("read.after", 2),
    ("kafka.begin.after", 4),
    ("kafka.send.after", 2),
    ("kafka.commit.before", 4),
    ("kafka.commit.after", 4),
    ("flag.before", 2),
    ("flag.commit.after", 2),
    ("finish.before", 2),
    ("finish.after", 2),
    ("checkpoint.before", 2),
    ("checkpoint.after", 2),
    ("intend.before", 2),
    ("offsets.sent.after", 3),
    ("intend.after", 2),
    ("clickhouse.insert.before", 2),
    ("clickhouse.insert.after", 2),
    ("consume.finish.before", 2),
    ("consume.finish.after", 2),
];

#[test]
fn a_process_killed_at_each_step_of_its_second_run_loses_and_doubles_nothing() {
    let mut world = World::new("warm_points");
    for (point, passing) in POINTS {
        let rows = world.ch_number("SELECT count() FROM {t}");
        world.insert_rows(1);
        let mut run = start(&world, &[("PG2CH_CRASH_AT", &format!("{point}:{passing}"))]);
        world.wait_until(|world| world.ch_number("SELECT count() FROM {t}") == rows + 1, "the first row");
        std::thread::sleep(Duration::from_millis(1_500));
        world.insert_rows(1);
        world.wait_for(point, || run.try_wait().unwrap().is_some());
        assert_eq!(Ended::after(run).code, KILLED, "{point}");
        world.run(&["--once", "--wait-lock", "10s"]).expect(0);
        world.assert_exactly_once();
        // Moves the checkpoint to the end: the next process passes each point as often as this one.
        world.insert_rows(1);
        world.once().expect(0);
    }
}

#[test]
fn a_process_that_sleeps_in_its_second_run_and_wakes_behind_another_changes_nothing() {
    let mut world = World::new("warm_sleeps");
    let asleep = ["read.after", "kafka.send.after", "kafka.commit.before", "flag.before", "checkpoint.before"];
    let asleep = asleep.into_iter().chain([
        "intend.before",
        "intend.after",
        "clickhouse.insert.before",
        "consume.finish.before",
    ]);
    for point in asleep {
        let (_, passing) = POINTS.into_iter().find(|(name, _)| *name == point).unwrap();
        let rows = world.ch_number("SELECT count() FROM {t}");
        world.insert_rows(1);
        let run = start(&world, &[("PG2CH_STOP_AT", &format!("{point}:{passing}"))]);
        world.wait_until(|world| world.ch_number("SELECT count() FROM {t}") == rows + 1, "the first row");
        std::thread::sleep(Duration::from_millis(1_500));
        world.insert_rows(1);
        world.wait_until_stopped(point, &run);
        end_session_of(&mut world, run.id());
        world.insert_rows(1);
        world.run(&["--once", "--wait-lock", "10s"]).expect(0);
        signal_process("CONT", run.id());
        goes_on(&mut world);
        ends_well(&mut world, run);
    }
}

#[test]
fn a_record_of_another_producer_before_the_marker_of_a_run_is_copied() {
    let mut world = World::with("warm_neighbours", USER_LOGINS, 1);
    world.insert_rows(1);
    let run = start(&world, &[("PG2CH_STOP_AT", "kafka.commit.before:4")]);
    world.wait_until(|world| world.ch_number("SELECT count() FROM {t}") == 1, "the first row");
    std::thread::sleep(Duration::from_millis(1_500));
    world.insert_rows(1);
    world.wait_until_stopped("kafka.commit.before", &run);
    // Behind the run's record, and before its marker: a record, and a transaction that hides all that follows.
    world.send(&[(0, "1001", Some(&World::login(1001, "neighbour")))]);
    let hiding = world.open_transaction(0, "1002", &World::login(1002, "hiding"));
    signal("CONT", &run);
    world.wait_until(|world| world.unsent() == 0, "the second row");
    world.wait_until(|world| world.ch_number("SELECT count() FROM {t}") >= 2, "the second row's copy");
    std::thread::sleep(Duration::from_millis(500));
    hiding.commit_transaction(Duration::from_secs(20)).unwrap();
    world.wait_until(
        |world| world.ch_number("SELECT count() FROM {t} WHERE id = 1002") == 1,
        "the transaction's record",
    );
    signal("TERM", &run);
    Ended::of(&run.wait_with_output().unwrap()).expect(0);
    world.assert_target_equals_topic(&world.topic());
}

#[test]
fn servers_that_are_killed_between_two_runs_lose_and_double_nothing() {
    let own = OwnServers::start("warm-restarted");
    let mut world = World::on(own.servers.clone(), "warm_restarted", USER_LOGINS, 3);
    let run = start(&world, &[]);
    for server in ["postgres", "kafka", "clickhouse"] {
        warm_up(&mut world);
        stop(&mut world, &run);
        own.act("kill", server);
        own.act("start", server);
        if server == "postgres" {
            world.pg = world.another_session();
        }
        signal("CONT", &run);
        goes_on(&mut world);
    }
    ends_well(&mut world, run);
}

#[test]
fn partitions_limits_and_silence_between_two_runs_are_noticed() {
    let mut world = World::new("warm_topic");
    // A transaction may be open for two seconds: none is, between two runs.
    world.settings.insert("timeouts", "kafka = \"1s\"\n".into());
    let run = start(&world, &[]);
    warm_up(&mut world);
    std::thread::sleep(Duration::from_secs(5));
    world.wait_until(goes_on, "a run that goes on after a while");

    world.add_partitions(5);
    world.wait_until(|world| !goes_on(world), "a run that has seen the partitions");
    warm_up(&mut world);

    world.alter_topic("max.message.bytes", "2000000");
    world.wait_until(|world| !goes_on(world), "a run that has seen the limit");
    warm_up(&mut world);

    world.sql("ALTER TABLE {t} ADD COLUMN more text");
    world.ch("ALTER TABLE {t} ADD COLUMN more Nullable(String)");
    goes_on(&mut world);
    ends_well(&mut world, run);
}

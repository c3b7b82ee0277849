//! A run that is told to stop early, by a limit or a signal, stops in order and says that more is left.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Ended, World, signal, signal_process};

/// Small batches, so that a run has many places to stop at.
fn busy_world(name: &str, rows: i64) -> World {
    let mut world = World::new(name);
    world.stop_merges();
    world.settings.insert("batch", "rows = 50".into());
    world.insert_rows(rows);
    world
}

/// The rest goes with a run that has no limits, and nothing is there twice.
fn the_next_run_brings_the_rest(world: &mut World) {
    world.settings.clear();
    assert_eq!(world.once().expect(0).report()["complete"], true);
    world.assert_exactly_once();
}

/// Waits for a run to end, half a minute at most.
fn ended(child: Child, world: &World) -> Ended {
    let mut child = Some(child);
    world.wait_for("the run to end", || child.as_mut().unwrap().try_wait().unwrap().is_some());
    Ended::after(child.take().unwrap())
}

#[test]
fn max_rows_limits_each_leg_and_the_next_run_goes_on() {
    let mut world = World::new("max_rows");
    world.settings.insert("batch", "rows = 10".into());
    world.insert_rows(25);

    let first = world.run(&["--once", "--json", "--max-rows", "12"]).expect(0);

    assert_eq!(first.report()["complete"], false);
    assert_eq!(first.number("produce", "rows_flagged"), 12);
    assert_eq!(first.number("consume", "records_copied"), 12);
    assert_eq!(world.unsent(), 13);
    the_next_run_brings_the_rest(&mut world);
}

#[test]
fn max_seconds_ends_a_long_run_in_order() {
    let rows = 30_000;
    let mut world = busy_world("max_seconds", rows);
    let started = Instant::now();

    let first = world.run(&["--once", "--json", "--max-seconds", "1"]).expect(0);

    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(first.report()["complete"], false);
    let flagged = first.number("produce", "rows_flagged");
    assert!(flagged < rows, "{flagged}");
    assert_eq!(world.unsent(), rows - flagged);
    assert_eq!(world.topic().len(), usize::try_from(flagged).unwrap());
    the_next_run_brings_the_rest(&mut world);
}

#[test]
fn a_sigterm_in_the_middle_finishes_the_batches_in_hand() {
    let rows = 30_000;
    let mut world = busy_world("sigterm", rows);
    let child = world.start(&["--once", "--json"]);
    let mut watcher = world.another_session();
    let unsent = format!("SELECT count(*) FROM {} WHERE NOT sent_to_kafka", world.name);
    world.wait_for("the first flags", || watcher.query_one(&unsent, &[]).unwrap().get::<_, i64>(0) < rows);

    // `timeout` sends its signal to the process, and to its group: one request.
    let twice = format!("kill -TERM {0}; sleep 0.05; kill -TERM {0}", child.id());
    assert!(Command::new("bash").args(["-c", &twice]).status().unwrap().success());

    let ended = ended(child, &world).expect(0);
    assert_eq!(ended.report()["complete"], false);
    assert_eq!(ended.stderr, "");
    let flagged = ended.number("produce", "rows_flagged");
    assert!(0 < flagged && flagged < rows, "{flagged}");
    assert_eq!(world.unsent(), rows - flagged);
    assert_eq!(world.topic().len(), usize::try_from(flagged).unwrap(), "what was sent is flagged");
    the_next_run_brings_the_rest(&mut world);
}

#[test]
fn a_second_signal_ends_a_run_that_waits_at_once() {
    // Given a run that waits for a table which an application has locked
    let mut world = World::new("second_signal");
    world.insert_rows(5);
    let mut application = world.another_session();
    let mut lock = application.transaction().unwrap();
    lock.batch_execute(&format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", world.name)).unwrap();
    let mut child = world.start(&["--once", "--json"]);
    let mut watcher = world.another_session();
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%{}%'",
        world.name
    );
    world.wait_for("the run to wait for the table", || watcher.query_one(&waiting, &[]).unwrap().get::<_, i64>(0) == 1);

    // When signals come, the first of which only asks
    let started = Instant::now();
    world.wait_for("the run to end", || {
        signal("TERM", &child);
        child.try_wait().unwrap().is_some()
    });

    // Then it has not waited for the table
    assert!(started.elapsed() < Duration::from_secs(10));
    assert_eq!(child.wait().unwrap().code(), Some(128 + 15));
    lock.rollback().unwrap();
    the_next_run_brings_the_rest(&mut world);
}

#[test]
fn a_hangup_ends_a_run_as_a_kill_does() {
    let mut world = World::new("hangup");
    world.insert_rows(5);
    let mut run = world.start_stopped_at("kafka.commit.after");

    signal_process("HUP", run.pid());
    run.go_on();

    run.end().expect(-1);
    assert_eq!(world.unsent(), 5, "sent, and not flagged");
    the_next_run_brings_the_rest(&mut world);
}

#[test]
fn the_configuration_is_read_once_and_a_hangup_that_is_ignored_stays_so() {
    // Given a service that was started as nohup does it
    let mut world = World::new("nohup");
    let command = world.command(&["--every", "1s"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    let child = shell.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    world.insert_rows(2);
    world.wait_for("the first rows to be copied", || world.ch_number("SELECT count() FROM {t}") == 2);

    // When its file changes into one that no run could use, and the terminal hangs up
    world.settings.insert("batch", "rows = 0".into());
    world.config();
    signal("HUP", &child);
    world.insert_rows(3);

    // Then it goes on
    world.wait_for("the later rows to be copied", || world.ch_number("SELECT count() FROM {t}") == 5);
    signal("TERM", &child);
    ended(child, &world).expect(0);
    world.once().expect(78);
    world.settings.clear();
    world.assert_exactly_once();
}

#[test]
fn every_runs_again_and_again_until_a_signal() {
    let mut world = World::new("every");
    world.insert_rows(2);
    let child = world.start(&["--every", "1s", "--json"]);
    let mut watcher = world.another_session();
    let unsent = format!("SELECT count(*) FROM {} WHERE NOT sent_to_kafka", world.name);
    let mut none_left = || watcher.query_one(&unsent, &[]).unwrap().get::<_, i64>(0) == 0;
    world.wait_for("the first rows to be flagged", &mut none_left);
    world.insert_rows(3);
    world.wait_for("the later rows to be flagged", &mut none_left);
    world.wait_for("the later rows to be copied", || world.ch_number("SELECT count() FROM {t}") == 5);

    signal("TERM", &child);

    let ended = ended(child, &world).expect(0);
    assert_eq!(ended.stderr, "");
    // Each run's document is one line.
    let runs: Vec<serde_json::Value> = ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(runs.len() >= 2 && runs.iter().all(|run| run["exit_code"] == 0), "{}", ended.stdout);
    world.assert_exactly_once();
}

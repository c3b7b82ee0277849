//! One run at a time for each source table: the second names the first and ends, or waits for it.

use std::process::Child;

use crate::common::{Ended, World, signal};
use postgres::Client;

/// A run that holds the lock, stopped in the middle.
fn stopped_run(world: &mut World) -> Child {
    world.settings.insert("batch", "rows = 50".into());
    world.insert_rows(1_000);
    let child = world.start(&["--once", "--json"]);
    let mut watcher = world.another_session();
    world.wait_for("the run to take the lock", || sessions(&mut watcher, child.id(), "l.granted") == 1);
    signal("STOP", &child);
    child
}

/// How many sources' locks the process holds.
fn sessions(watcher: &mut Client, process: u32, condition: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND {condition} AND a.application_name LIKE 'pg2ch ledger %:{process}'"
    );
    watcher.query_one(&sql, &[]).unwrap().get(0)
}

fn wait_for_the_question(world: &World, run: &Child) {
    let mut watcher = world.another_session();
    let waiting = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg2ch ledger %:{}' AND query LIKE '%advisory%'",
        run.id()
    );
    world.wait_for("the run to ask for the lock", || watcher.query_one(&waiting, &[]).unwrap().get::<_, i64>(0) == 1);
}

#[test]
fn a_second_run_ends_with_75_and_names_the_first() {
    let mut world = World::new("locked");
    let first = stopped_run(&mut world);
    let unsent = world.unsent();

    let second = world.once().expect(75);

    let holder = format!("{}:{}", hostname(), first.id());
    assert!(second.stderr.contains(&holder), "{holder}: {}", second.stderr);
    for told in [", since 2", ", for ", "; it moved ", "--wait-lock"] {
        assert!(second.stderr.contains(told), "{told}: {}", second.stderr);
    }
    let status = world.run(&["status"]).expect(0).stdout;
    let in_progress =
        status.lines().find(|line| line.contains("run in progress")).unwrap_or_else(|| panic!("{status}"));
    assert!(in_progress.contains(&holder), "{in_progress}");
    assert_eq!(world.unsent(), unsent);

    signal("CONT", &first);
    Ended::after(first).expect(0);
    world.assert_exactly_once();
}

#[test]
fn wait_lock_waits_for_the_first_run_to_end() {
    let mut world = World::new("patient");
    let first = stopped_run(&mut world);
    let second = world.start(&["--once", "--json", "--wait-lock", "1m"]);
    wait_for_the_question(&world, &second);

    signal("CONT", &first);

    let first = Ended::after(first).expect(0);
    let second = Ended::after(second).expect(0);
    assert_eq!(first.number("produce", "rows_flagged"), 1_000);
    assert_eq!(second.number("produce", "records_sent"), 0);
    world.assert_exactly_once();
}

#[test]
fn a_run_that_waited_copies_what_the_one_before_it_has_left() {
    let mut world = World::new("patient_copy");
    world.insert_rows(100);
    let mut first = world.start_command_stopped_and_killed_at(&["--once"], "epoch.after", "flag.commit.after");
    let second = world.start(&["--once", "--json", "--wait-lock", "1m"]);
    wait_for_the_question(&world, &second);
    // Whatever else it asks for ahead, it has asked for by now.
    std::thread::sleep(std::time::Duration::from_secs(2));

    first.go_on();

    assert_eq!(Ended::after(second).expect(0).number("consume", "records_copied"), 100);
    drop(first.end());
    world.assert_exactly_once();
}

#[test]
fn a_wait_that_was_too_short_ends_with_75() {
    let mut world = World::new("impatient");
    let first = stopped_run(&mut world);

    world.run(&["--once", "--wait-lock", "1s"]).expect(75);

    signal("CONT", &first);
    Ended::after(first).expect(0);
}

/// The second leg copies records one by one, and makes no statements in PostgreSQL.
#[test]
fn a_run_that_copies_records_tells_whether_it_moves() {
    let mut world = World::new("moving");
    let file = std::env::temp_dir().join(format!("{}.prom", world.name));
    world.settings.insert("metrics", format!("textfile = \"{}\"", file.display()));
    world.settings.insert("batch", "insert_rows = 1".into());
    world.insert_rows(3_000);
    let first = world.start(&["--once", "--json"]);
    let in_progress = |world: &World| world.run(&["status", "--json"]).expect(0).report()["run_in_progress"].clone();
    let copied = |world: &World| in_progress(world)["done"].as_str().map(str::to_owned);
    world.wait_for("a mark in the session", || {
        copied(&world).is_some_and(|done| done.starts_with("3,000 records sent, 3,000 rows flagged, "))
    });
    let moved_at = |file: &std::path::Path| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("pg2ch_run_moved_timestamp_seconds{")?.split(' ').nth(1)?.parse().ok());
        line.map(|seconds: f64| std::time::UNIX_EPOCH + std::time::Duration::from_secs_f64(seconds))
    };
    world.wait_for("a mark in the metrics", || moved_at(&file).is_some());
    signal("STOP", &first);
    std::thread::sleep(std::time::Duration::from_secs(2));

    let second = world.once().expect(75);

    assert!(second.stderr.contains("; it moved ") && second.stderr.contains(" records copied"), "{}", second.stderr);
    let stands = in_progress(&world)["idle_seconds"].as_i64().unwrap();
    assert!(stands >= 2, "{stands}");
    let stands = moved_at(&file).expect("the second run leaves the first one's time").elapsed().unwrap();
    assert!((2..60).contains(&stands.as_secs()), "{stands:?}");

    signal("CONT", &first);
    signal("TERM", &first);
    Ended::after(first).expect(0);
    assert_eq!(moved_at(&file), None, "no run is in progress");
    std::fs::remove_file(file).unwrap();
    world.settings.remove("batch");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn another_role_is_told_that_it_may_not_see_whether_the_run_moves() {
    let mut world = World::new("unseen");
    let first = stopped_run(&mut world);
    let role = world.become_role(
        "GRANT SELECT, UPDATE ON {t} TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held TO {role}",
    );

    let second = world.once().expect(75);

    assert!(second.stderr.contains("this role may not see whether it moves"), "{}", second.stderr);
    signal("CONT", &first);
    Ended::after(first).expect(0);
    world.drop_role(&role);
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned()
}

//! Several `[[table]]` in one run: one after the other, or `--jobs N` at a time.

use std::io::{BufRead as _, BufReader};

use crate::common::{Ended, World, signal, signal_process};
use serde_json::Value;

/// Worlds with some rows each; the first one's configuration has the tables of all.
fn several(name: &str, rows: [i64; 3]) -> [World; 3] {
    let mut worlds = ["a", "b", "c"].map(|letter| World::new(&format!("{name}_{letter}")));
    for (world, rows) in worlds.iter_mut().zip(rows) {
        world.stop_merges();
        world.insert_rows(rows);
    }
    let [first, others @ ..] = &mut worlds;
    others.iter().for_each(|other| first.add_table(other));
    worlds
}

fn document(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {}", ended.stdout))
}

/// What the run did to each table, in the report's order: name, exit code, rows flagged.
fn tables(ended: &Ended) -> Vec<(String, i64, i64)> {
    let document = document(ended);
    let tables = document["tables"].as_array().unwrap();
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    tables
        .iter()
        .map(|table| {
            let name = table["source"].as_str().unwrap().replace("public.", "");
            (name, number(&table["exit_code"]), number(&table["produce"]["rows_flagged"]))
        })
        .collect()
}

#[test]
fn the_report_has_each_table_in_the_files_order() {
    let mut worlds = several("order", [30, 1, 2]);
    for jobs in ["1", "3"] {
        let ended = worlds[0].run(&["--once", "--json", "--jobs", jobs]).expect(0);
        let expected = if jobs == "1" { [30, 1, 2] } else { [0; 3] };
        let expected: Vec<_> = worlds.iter().zip(expected).map(|(world, rows)| (world.name.clone(), 0, rows)).collect();
        assert_eq!(tables(&ended), expected);
    }
    worlds.iter_mut().for_each(World::assert_exactly_once);
}

/// As two hosts with one configuration and tables of their own do.
#[test]
fn runs_of_different_tables_do_not_meet() {
    let mut worlds = several("hosts", [20, 30, 1]);
    let names = worlds.each_ref().map(|world| world.name.clone());
    let mut first = worlds[0].start_command_stopped_at(&["--once", "--table", &names[0]], "flag.before");

    worlds[0].run(&["--once", "--table", &names[1], "--table", &names[2]]).expect(0);
    worlds[1].assert_exactly_once();
    worlds[2].assert_exactly_once();
    worlds[0].run(&["--once", "--table", &names[0]]).expect(75);

    first.go_on();
    first.end().expect(0);
    worlds[0].assert_exactly_once();
}

#[test]
fn one_tables_failure_stops_no_other_and_the_gravest_code_counts() {
    for jobs in [1, 3] {
        let mut worlds = several("failing", [4, 4, 4]);
        // By the configuration instead of the option.
        worlds[0].settings.insert("run", format!("jobs = {jobs}"));
        for guilty in 0..3 {
            worlds[guilty].sql("ALTER TABLE {t} RENAME sent_to_kafka TO hidden");
            let ended = worlds[0].once().expect(78);
            let expected: Vec<_> = (0..3)
                .map(|at| {
                    (worlds[at].name.clone(), if at == guilty { 78 } else { 0 }, if at == guilty { 0 } else { 4 })
                })
                .collect();
            assert_eq!(tables(&ended), expected, "--jobs {jobs}");
            worlds[guilty].sql("ALTER TABLE {t} RENAME hidden TO sent_to_kafka");
            worlds[0].once().expect(0);
            for world in &mut worlds {
                world.assert_exactly_once();
                world.insert_rows(4);
            }
        }
    }
}

#[test]
fn a_tables_sessions_end_with_the_table() {
    let mut worlds: Vec<World> = (0..10).map(|n| World::new(&format!("sessions_{n}"))).collect();
    worlds.iter_mut().for_each(|world| world.insert_rows(1));
    let (first, others) = worlds.split_first_mut().unwrap();
    others.iter().for_each(|other| first.add_table(other));
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pg2ch %:' || $1";
    let (mut run, mut most) = (first.start(&["--once"]), 0);
    let id = run.id().to_string();
    while run.try_wait().unwrap().is_none() {
        most = most.max(first.pg.query_one(sessions, &[&id]).unwrap().get::<_, i64>(0));
    }
    Ended::of(&run.wait_with_output().unwrap()).expect(0);
    // Four of the table that ends and four of the next, while each looks for a pool; and the one for the history.
    assert!((1..=9).contains(&most), "{most} sessions");
    worlds.iter_mut().for_each(World::assert_exactly_once);
}

#[test]
fn one_table_that_cannot_be_looked_at_keeps_no_command_from_the_others() {
    let mut worlds = several("looked_at", [2, 2, 2]);
    worlds[0].once().expect(0);
    worlds[1].delete_from_target("1");
    worlds[2].sql("ALTER TABLE {t} RENAME sent_to_kafka TO hidden");
    let [first, missing, unfit] = &worlds;
    let ended = first.run(&["verify"]).expect(78);
    for (world, verdict) in [(first, "equal"), (missing, "they differ")] {
        let told = format!("public.{0} and analytics.{0}: {verdict}", world.name);
        assert!(ended.stdout.contains(&told), "{}", ended.stdout);
    }
    assert!(
        ended.stderr.contains(&format!("cannot use table public.{} as the source", unfit.name)),
        "{}",
        ended.stderr
    );
    let prune = ["prune", "--older-than", "7d", "--by", "event_time"];
    for command in [&["verify"][..], &prune, &["init"]] {
        let ended = first.run(&[command, &["--json"]].concat()).expect(78);
        let document = document(&ended);
        let tables = document["tables"].as_array().unwrap();
        let why = |table: &Value| table["error"]["why"].as_str().map(str::to_owned);
        assert_eq!(tables.iter().filter_map(why).count(), 1, "{command:?}: {document:#}");
        assert!(why(&tables[2]).unwrap().contains("has no column sent_to_kafka"), "{document:#}");
    }
}

#[test]
fn tables_are_moved_at_the_same_time_and_progress_names_those_under_way() {
    // Given rows of two tables that an application has locked, so that these tables wait
    let mut worlds = several("overlap", [3, 3, 3]);
    worlds[0].settings.insert("timeouts", "row_lock = \"50s\"".into());
    let mut applications: Vec<_> =
        [0, 2].map(|at: usize| (worlds[at].name.clone(), worlds[at].another_session())).into();
    let mut locks = Vec::new();
    for (name, session) in &mut applications {
        let mut lock = session.transaction().unwrap();
        lock.execute(&format!("SELECT FROM {name} WHERE id = 2 FOR UPDATE"), &[]).unwrap();
        locks.push(lock);
    }

    // When they run two at a time
    let mut child = worlds[0].start(&["--once", "--json", "--jobs", "2"]);

    // Then the second comes to its end beside the first, and the third begins
    let mut watcher = worlds[0].another_session();
    let [first, third] = [0, 2].map(|at: usize| worlds[at].name.clone());
    let sent = format!(
        "SELECT (SELECT count(*) FROM {first} WHERE sent_to_kafka) + (SELECT count(*) FROM {third} WHERE sent_to_kafka)"
    );
    worlds[0].wait_for("all but the locked rows of the first and the third table to be flagged", || {
        watcher.query_one(&sent, &[]).unwrap().get::<_, i64>(0) == 4
    });
    assert_eq!(worlds[1].unsent(), 0);
    signal("USR1", &child);
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let lines: Vec<String> = stderr.lines().take(2).map(Result::unwrap).collect();
    for (line, world) in lines.iter().zip([&worlds[0], &worlds[2]]) {
        assert!(line.starts_with(&format!("public.{}, ", world.name)), "{lines:?}");
    }
    drop(locks);
    Ended::after(child).expect(0);
    worlds.iter_mut().for_each(World::assert_exactly_once);
}

#[test]
fn a_run_of_several_tables_that_is_killed_leaves_nothing_that_the_next_one_does_not_mend() {
    let mut worlds = several("killed", [40, 40, 40]);
    worlds[0].batch_rows(10);
    worlds[0].settings.insert("run", "jobs = 3".into());
    for point in ["kafka.commit.after", "flag.before", "flag.commit.after", "checkpoint.before"] {
        worlds[0].kill_at(point, &["--once"]);
        worlds[0].once().expect(0);
        for world in &mut worlds {
            world.assert_exactly_once();
            world.insert_rows(40);
        }
    }
}

#[test]
fn a_signal_leaves_the_tables_that_were_not_begun_and_says_so() {
    let mut worlds = several("signalled", [3, 3, 3]);
    let mut run = worlds[0].start_command_stopped_at(&["--once", "--json"], "kafka.begin.after");
    signal_process("TERM", run.pid());
    run.go_on();
    let ended = run.end().expect(0);

    let document = document(&ended);

    assert_eq!(document["complete"], false);
    let not_begun: Vec<String> = worlds[1..].iter().map(|world| format!("public.{}", world.name)).collect();
    assert_eq!(document["not_begun"], serde_json::json!(not_begun));
    assert_eq!(worlds.each_mut().map(World::unsent), [0, 3, 3]);
    worlds[0].once().expect(0);
    worlds.iter_mut().for_each(World::assert_exactly_once);
}

#[test]
fn every_goes_on_with_the_others_where_one_table_needs_a_person() {
    let mut worlds = several("goes_on", [2, 2, 2]);
    worlds[1].sql("ALTER TABLE {t} RENAME sent_to_kafka TO hidden");
    let child = worlds[0].start(&["--every", "1s", "--jobs", "2"]);
    let none_left = |world: &mut World| world.unsent() == 0;
    worlds[2].wait_until(none_left, "the third table's rows to be flagged");
    worlds[2].insert_rows(2);
    worlds[2].wait_until(none_left, "its later rows to be flagged");
    worlds[1].sql("ALTER TABLE {t} RENAME hidden TO sent_to_kafka");
    worlds[1].wait_until(none_left, "the second table's rows to be flagged");
    signal("TERM", &child);
    let ended = Ended::after(child).expect(0);
    assert!(ended.stderr.contains("has no column sent_to_kafka"), "{}", ended.stderr);
    worlds[0].once().expect(0);
    worlds.iter_mut().for_each(World::assert_exactly_once);
}

//! The textfile of metrics, its documentation, and what is built on it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Ended, World};
use pg2ch::outcome::metrics::METRICS;

fn world_with_metrics(name: &str) -> (World, PathBuf) {
    let mut world = World::new(name);
    let directory = std::env::temp_dir().join(format!("pg2ch-metrics-{}", world.name));
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("pg2ch.prom");
    world.settings.insert("metrics", format!("textfile = \"{}\"", file.display()));
    (world, file)
}

fn values(file: &Path) -> BTreeMap<String, f64> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.split_once('{').unwrap().0.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[test]
fn each_run_leaves_its_figures_also_one_that_fails() {
    let (mut world, file) = world_with_metrics("metrics");
    world.insert_rows(7);
    let (run, mut careful) = (world.command(&["--once"]), Command::new("sh"));
    careful.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(run.get_program()).args(run.get_args());
    Ended::of(&careful.output().unwrap()).expect(0);
    // node_exporter is another user.
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    let first = values(&file);
    for (name, value) in [
        ("pg2ch_rows_read_total", 7.0),
        ("pg2ch_records_sent_total", 7.0),
        ("pg2ch_rows_flagged_total", 7.0),
        ("pg2ch_records_copied_total", 7.0),
        ("pg2ch_rows_inserted_total", 7.0),
        ("pg2ch_dead_letters_total", 0.0),
        ("pg2ch_run_exit_code", 0.0),
        ("pg2ch_run_complete", 1.0),
        ("pg2ch_unsent_rows", 0.0),
        ("pg2ch_uncopied_records", 0.0),
        ("pg2ch_runs_total", 1.0),
    ] {
        assert_eq!(first.get(name), Some(&value), "{name}");
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - first["pg2ch_last_success_timestamp_seconds"]).abs() < 60.0);
    // Whatever is not moved has come since this run started.
    let since = first["pg2ch_last_success_timestamp_seconds"] - first["pg2ch_last_complete_start_timestamp_seconds"];
    assert!(since >= first["pg2ch_run_duration_seconds"], "{first:?}");

    world.settings.insert("clickhouse", "url = \"http://app:app@localhost:1\"".into());
    world.settings.insert("retry", "attempts = 1".into());
    world.insert_rows(2);
    world.once().expect(69);
    let second = values(&file);
    assert_eq!(second["pg2ch_run_exit_code"], 69.0);
    assert_eq!(second["pg2ch_run_complete"], 0.0);
    assert_eq!(second["pg2ch_records_sent_total"], 9.0);
    assert_eq!(second["pg2ch_unsent_rows"], 0.0);
    // Markers of transactions count as well.
    assert!((2.0..=5.0).contains(&second["pg2ch_uncopied_records"]), "{second:?}");
    assert_eq!(second["pg2ch_failed_runs_total"], 1.0);
    for kept in ["pg2ch_last_success_timestamp_seconds", "pg2ch_last_complete_start_timestamp_seconds"] {
        assert_eq!(second[kept], first[kept], "{kept}");
    }
    let files: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["pg2ch.prom"], "no draft is left");
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

#[test]
fn how_far_behind_a_run_is_left_is_told_in_every_form() {
    let (mut world, file) = world_with_metrics("metrics_left");
    world.insert_rows(30);
    world.batch_rows(10);
    let ended = world.run(&["--once", "--json", "--max-rows", "10", "-v"]).expect(0);
    assert_eq!(values(&file)["pg2ch_unsent_rows"], 20.0);
    assert!(!values(&file).contains_key("pg2ch_last_complete_start_timestamp_seconds"));
    assert_eq!(ended.report()["left"]["unsent_rows"], 20);
    assert!(ended.stderr.contains("; remaining: 20 unsent rows"), "{}", ended.stderr);

    // What a leg that does not run has left is not known to this run.
    world.run(&["consume"]).expect(0);
    assert_eq!(values(&file)["pg2ch_unsent_rows"], 20.0);

    // Where nobody answers there is no number, and no old one.
    world.settings.insert("postgres", "url = \"postgres://app:app@localhost:1/app\"".into());
    world.settings.insert("retry", "attempts = 1".into());
    let ended = world.once().expect(69);
    assert!(!values(&file).contains_key("pg2ch_unsent_rows"));
    assert_eq!(ended.report()["left"]["unsent_rows"], serde_json::Value::Null);

    world.settings.remove("postgres");
    world.once().expect(0);
    let left = values(&file);
    assert_eq!((left["pg2ch_unsent_rows"], left["pg2ch_uncopied_records"]), (0.0, 0.0));
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

#[test]
fn records_lost_with_a_topic_are_counted_for_good_although_the_next_run_succeeds() {
    let (mut world, file) = world_with_metrics("metrics_losses");
    world.insert_rows(5);
    world.run(&["produce"]).expect(0);
    let topic = world.name.clone();
    world.delete_topic(&topic);
    world.create_topic(&topic, 1, &[]);
    world.once().expect(65);
    world.once().expect(0);
    assert_eq!(values(&file)["pg2ch_runs_with_losses_total"], 1.0);
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

#[test]
fn a_file_that_cannot_be_written_is_a_warning() {
    let (mut world, file) = world_with_metrics("metrics_unwritable");
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
    world.insert_rows(1);
    let ended = world.once().expect(0);
    assert!(ended.stderr.contains("WARN") && ended.stderr.contains("cannot write the metrics"), "{}", ended.stderr);
    world.assert_exactly_once();
}

#[test]
fn a_limit_on_the_size_of_files_does_not_end_a_run() {
    let (mut world, file) = world_with_metrics("metrics_limited");
    world.insert_rows(1);
    let run = world.command(&["--once"]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 0; exec \"$0\" \"$@\""]).arg(run.get_program()).args(run.get_args());
    let ended = Ended::of(&limited.output().unwrap()).expect(0);
    assert!(
        ended.stderr.contains("cannot write the metrics") && ended.stderr.contains("too large"),
        "{}",
        ended.stderr
    );
    world.assert_exactly_once();
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

/// Every word that looks like a metric.
fn names_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("pg2ch_")).map(str::to_owned).collect()
}

#[test]
fn every_metric_is_documented_and_nothing_is_built_on_another() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let documented = names_in(&fs::read_to_string(root.join("docs/metrics.md")).unwrap());
    for (name, ..) in METRICS {
        assert!(documented.iter().any(|other| other == name), "{name} is not in docs/metrics.md");
    }
    for file in ["docs/metrics.md", "packaging/prometheus/alerts.yml", "packaging/grafana/pg2ch.json"] {
        for name in names_in(&fs::read_to_string(root.join(file)).unwrap()) {
            assert!(METRICS.iter().any(|(other, ..)| *other == name), "{file} names {name}, which there is not");
        }
    }
    let dashboard = fs::read_to_string(root.join("packaging/grafana/pg2ch.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
}

//! `pg2ch check` as a whole. What it finds is in the files beside this one.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::World;
use crate::common::findings::{check, finding};

#[test]
fn a_table_made_as_documented_has_no_errors_and_no_warnings() {
    let mut world = World::new("check_clean");
    world.insert_rows(3);
    let report = check(&world, 0);
    let grave: Vec<_> =
        report["findings"].as_array().unwrap().iter().filter(|finding| finding["severity"] != "note").collect();
    assert!(grave.is_empty(), "{grave:#?}");
    assert_eq!(report["would_move"]["unsent"]["rows"], 3);
    assert_eq!(report["would_move"]["records_at_most"], 0);
}

#[test]
fn a_check_changes_nothing() {
    let mut world = World::new("check_nothing");
    world.insert_rows(3);
    let checkpoints = "SELECT count(*) FROM pg2ch_checkpoint WHERE topic = '{t}'";
    assert_eq!(world.sql_number(checkpoints), 0);
    check(&world, 0);
    assert_eq!((world.unsent(), world.sql_number(checkpoints), world.topic().len()), (3, 0, 0));
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 0);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_server_that_cannot_be_asked_does_not_hide_what_the_others_say() {
    let mut world = World::new("check_dead");
    world.ch("ALTER TABLE {t} MODIFY SETTING non_replicated_deduplication_window = 0");
    world.settings.insert("postgres", "url = \"postgres://app:wrong@localhost:1/app\"".into());
    let ended = world.run(&["check", "--json"]);
    let report = ended.report();
    assert!(report["errors"][0]["what"].as_str().unwrap().contains("cannot connect to PostgreSQL"), "{report:#}");
    assert!(finding(&report, "deduplication-window").is_some());
    assert_eq!(ended.code, 78, "what needs a person counts more than what may pass");
    world.ch("ALTER TABLE {t} MODIFY SETTING non_replicated_deduplication_window = 10");
    assert_eq!(world.run(&["check"]).code, 69);
    let url = world.servers.postgres_url.replace("app:app@", "app:wrong@");
    world.settings.insert("postgres", format!("url = \"{url}\""));
    let ended = world.run(&["check"]).expect(77);
    assert!(ended.stdout.contains("not checked: cannot connect to PostgreSQL"), "{}", ended.stdout);
    assert!(ended.stdout.contains("`pg2ch config show` names the file or variable of each"), "{}", ended.stdout);
}

#[test]
fn every_kind_of_finding_is_provoked_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut kinds = BTreeSet::new();
    let sources = std::fs::read_dir(root.join("src/commands/check")).unwrap().map(|entry| entry.unwrap().path());
    for source in sources.chain([root.join("src/fit/mod.rs")]) {
        let text = std::fs::read_to_string(source).unwrap();
        // A kind is the first text that is handed to what adds it.
        for begin in [".error(", ".warning(", ".note(", ".add(", ".exists(", ".compaction("] {
            for rest in text.split(begin).skip(1) {
                let rest =
                    rest.trim_start_matches(|c: char| c.is_alphabetic() || ",&".contains(c) || c.is_whitespace());
                let quoted = rest.strip_prefix('"').and_then(|rest| rest.split('"').next());
                kinds.extend(
                    quoted.filter(|kind| kind.chars().all(|c| c.is_ascii_lowercase() || c == '-')).map(str::to_owned),
                );
            }
        }
    }
    assert!(kinds.len() > 40, "{kinds:?}");
    let mut folders = vec![root.join("tests/it")];
    let mut tests = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                tests += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    let is_named = |kind: &String| tests.contains(&format!("\"{kind}\"")) || tests.contains(&format!("[{kind}]"));
    kinds.retain(|kind| !is_named(kind));
    assert!(kinds.is_empty(), "no test provokes {kinds:?}");
}

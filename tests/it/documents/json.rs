//! What the commands print with `--json` is what docs/json.md describes.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::World;
use serde_json::Value;

/// The keys that a section of the page describes. A `*` stands for both lists of runs.
fn described(section: &str) -> BTreeSet<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/json.md")).unwrap();
    let start = page.find(section).unwrap_or_else(|| panic!("{section} is not there")) + section.len();
    let lines = page[start..].lines().take_while(|line| !line.starts_with("## "));
    let keys = lines.filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(key, _)| key);
    keys.flat_map(|key| ["last_seen", "runs"].map(|list| key.replace('*', list))).collect()
}

/// Every key of a document, those within it included.
fn keys_of(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) if !path.ends_with("fields_lacking") => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                keys_of(value, &path, found);
                found.insert(path);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys_of(item, &format!("{path}[]"), found)),
        _ => {}
    }
}

/// As [`assert_described`], for a command that has what the page describes for the tables of them all.
#[track_caller]
fn assert_tables_described(section: &str, documents: &[String]) {
    const TABLES: &str = "## the tables of every other command\n";
    assert_keys(section, documents, &(&described(section) | &described(TABLES)), &["tables[].error."]);
}

/// The documents of several ends of a command have the described keys, all of them, and no others.
#[track_caller]
fn assert_described(section: &str, documents: &[String], rare: &[&str]) {
    assert_keys(section, documents, &described(section), rare);
}

#[track_caller]
fn assert_keys(section: &str, documents: &[String], described: &BTreeSet<String>, rare: &[&str]) {
    let mut found = BTreeSet::new();
    for document in documents {
        keys_of(&serde_json::from_str(document).unwrap_or_else(|_| panic!("{document}")), "", &mut found);
    }
    let unknown: Vec<_> = found.difference(described).collect();
    assert!(unknown.is_empty(), "{section}: not described: {unknown:?}");
    let gone: Vec<_> = described.difference(&found).filter(|key| !rare.iter().any(|rare| key.contains(rare))).collect();
    assert!(gone.is_empty(), "{section}: described, and not there: {gone:?}");
}

#[test]
fn every_key_of_every_document_is_described_and_there() {
    let mut world = World::new("json_documents");
    world.settings.insert("[table]", "allow_lossy = [\"user_id\"]".into());
    world.ch("ALTER TABLE {t} MODIFY COLUMN user_id Int8");
    world.insert_rows(130);
    let document = |world: &World, args: &[&str]| world.run(&[args, &["--json"]].concat()).stdout;

    let moved = document(&world, &["--once"]);
    world.ch("ALTER TABLE {t} DELETE WHERE id = 1 SETTINGS mutations_sync = 1");
    world.ch("ALTER TABLE {t} UPDATE event_type = 'other' WHERE id = 2 SETTINGS mutations_sync = 1");
    let verified = document(&world, &["verify", "--deep", "--repair"]);
    let pruned = document(&world, &["prune", "--older-than", "7d", "--by", "event_time"]);
    let letters = [document(&world, &["dead-letters"]), document(&world, &["dead-letters", "replay"])];
    let (told, checked) = (document(&world, &["status"]), document(&world, &["check"]));
    let (shown, made) = (document(&world, &["config", "show"]), document(&world, &["init"]));
    let mut run = world.start_command_stopped_at(&["--once"], "lock.after");
    let told_of_a_run = document(&world, &["status"]);
    run.go_on();
    run.end();
    world.settings.insert("clickhouse", "url = \"http://app:app@localhost:1\"".into());
    world.settings.insert("retry", "attempts = 1".into());
    let failed = document(&world, &["--once"]);
    let (told_less, checked_less) = (document(&world, &["status"]), document(&world, &["check"]));

    assert_described(
        "## run\n",
        &[moved, failed],
        &["too_large[]", "unreadable[]", "window_lost[]", "lost[]", "inserted_while_altered[]", "fields_lacking"],
    );
    assert_tables_described("## verify\n", &[verified]);
    assert_tables_described("## prune\n", &[pruned]);
    assert_tables_described("## dead-letters\n", &letters);
    assert_tables_described("## status\n", &[told, told_of_a_run, told_less]);
    assert_tables_described("## check\n", &[checked, checked_less]);
    assert_described("## config show\n", &[shown], &[]);
    assert_tables_described("## init\n", &[made]);
    world.settings.insert("batch", "rows = 0".into());
    assert_described("# The JSON documents\n", &[document(&world, &["--once"])], &[]);
}

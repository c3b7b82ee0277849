//! What `pg2ch check` finds, and carrying out what it proposes.

use serde_json::Value;

use super::World;

/// What `check --json` says about the world's table.
#[track_caller]
pub fn check(world: &World, code: i32) -> Value {
    world.run(&["check", "--json"]).expect(code).report()
}

/// The finding `id`, if there is one.
pub fn finding(report: &Value, id: &str) -> Option<Value> {
    report["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id).cloned()
}

/// Fails unless `check` finds `id`, ends with `code`, and its own statement makes the finding vanish.
#[track_caller]
pub fn assert_cured(world: &mut World, id: &str, code: i32) {
    let found = assert_found(world, id, code);
    carry_out(world, &found);
    assert_gone(world, id);
}

/// Fails unless `check` finds `id`, with all that a reader needs, and ends with `code`.
#[track_caller]
pub fn assert_found(world: &World, id: &str, code: i32) -> Value {
    let report = check(world, code);
    let found = finding(&report, id).unwrap_or_else(|| panic!("no {id} in {report:#}"));
    for part in ["what", "why", "fix"] {
        assert!(!found[part].as_str().unwrap().is_empty(), "{id} has no {part}");
    }
    let is_error = found["severity"] == "error";
    assert_eq!(is_error, code == 78, "{id} is {}", found["severity"]);
    found
}

/// Fails unless `check` finds `id` no more.
#[track_caller]
pub fn assert_gone(world: &World, id: &str) {
    // A broker's answer may be a moment behind its change.
    let is_gone = |_| {
        let report: Value = serde_json::from_str(&world.run(&["check", "--json"]).stdout).unwrap();
        finding(&report["tables"][0], id).is_none()
    };
    assert!((0..10).any(is_gone), "{id} stays");
}

/// Carries out what a finding says.
pub fn carry_out(world: &World, finding: &Value) {
    let fix = finding["fix"].as_str().unwrap();
    match finding["server"].as_str().unwrap() {
        // Statement by statement: some must not stand in a transaction.
        "PostgreSQL" => {
            let mut session = world.superuser();
            let statements = fix.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
            statements.split_inclusive(";\n").for_each(|statement| session.batch_execute(statement).unwrap());
        }
        "ClickHouse" => fix.split(';').filter(|statement| !statement.trim().is_empty()).for_each(|s| drop(world.ch(s))),
        _ => carry_out_in_kafka(world, fix),
    }
}

fn carry_out_in_kafka(world: &World, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let after = |option: &str| words.iter().position(|word| *word == option).map(|at| words[at + 1]);
    if words[0] == "kafka-topics.sh" {
        let given = words.windows(2).filter(|pair| pair[0] == "--config").map(|pair| pair[1].split_once('=').unwrap());
        return world.create_topic(after("--topic").unwrap(), 1, &given.collect::<Vec<_>>());
    }
    let settings = after("--add-config").unwrap().split(',').map(|setting| setting.split_once('=').unwrap());
    world.alter_topic_settings(after("--entity-name").unwrap(), &settings.collect::<Vec<_>>());
}

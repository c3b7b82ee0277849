//! `pg2ch check`: every finding is provoked, its own statement is carried out, and the finding is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use common::{USER_LOGINS, World};
use postgres::{Client, NoTls};
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use serde_json::Value;

/// What `check --json` says about the world's table.
fn check(world: &World, code: i32) -> Value {
    world.run(&["check", "--json"]).expect(code).report()
}

fn finding(report: &Value, id: &str) -> Option<Value> {
    report["findings"].as_array().unwrap().iter().find(|finding| finding["id"] == id).cloned()
}

/// Carries out what a finding says.
fn carry_out(world: &mut World, finding: &Value) {
    let fix = finding["fix"].as_str().unwrap();
    match finding["server"].as_str().unwrap() {
        "PostgreSQL" => superuser().batch_execute(fix).unwrap(),
        "ClickHouse" => fix.split(';').filter(|statement| !statement.trim().is_empty()).for_each(|s| drop(world.ch(s))),
        _ => carry_out_in_kafka(world, fix),
    }
}

fn superuser() -> Client {
    Client::connect(&std::env::var("SERVERS_POSTGRES_SUPERUSER_URL").unwrap(), NoTls).unwrap()
}

fn carry_out_in_kafka(world: &World, command: &str) {
    let words: Vec<&str> = command.split_whitespace().collect();
    let after = |option: &str| words.iter().position(|word| *word == option).map(|at| words[at + 1]);
    if words[0] == "kafka-topics.sh" {
        return world.create_topic(after("--topic").unwrap(), 1, &[]);
    }
    let (name, value) = after("--add-config").unwrap().split_once('=').unwrap();
    set(world, after("--entity-name").unwrap(), name, value);
}

fn set(world: &World, topic: &str, name: &str, value: &str) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
    let results = pollster::block_on(world.admin().alter_configs([&change], &AdminOptions::new())).unwrap();
    results.into_iter().for_each(|result| drop(result.unwrap()));
}

/// Fails unless `check` finds `id`, ends with `code`, and its own statement makes the finding vanish.
#[track_caller]
fn assert_cured(world: &mut World, id: &str, code: i32) {
    let report = check(world, code);
    let found = finding(&report, id).unwrap_or_else(|| panic!("no {id} in {report:#}"));
    for part in ["what", "why", "fix"] {
        assert!(!found[part].as_str().unwrap().is_empty(), "{id} has no {part}");
    }
    let severity = found["severity"].as_str().unwrap();
    assert_eq!(severity == "error", code == 78, "{id}");
    carry_out(world, &found);
    // A broker's answer may be a moment behind its change.
    let is_gone = |_| {
        let report: Value = serde_json::from_str(&world.run(&["check", "--json"]).stdout).unwrap();
        finding(&report["tables"][0], id).is_none()
    };
    assert!((0..10).any(is_gone), "{id} stays, in spite of {}", found["fix"]);
}

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
fn what_the_source_lacks_is_mended_by_the_statements_told() {
    let mut world = World::new("check_source");
    for (breakage, id, code) in [
        ("ALTER TABLE {t} ALTER COLUMN sent_to_kafka DROP NOT NULL", "flag-nullable", 0),
        ("ALTER TABLE {t} DROP COLUMN sent_to_kafka", "flag-missing", 78),
        ("ALTER TABLE {t} DROP CONSTRAINT {t}_pkey", "key-not-unique", 78),
        ("ALTER TABLE {t} ALTER COLUMN id DROP IDENTITY, ALTER COLUMN id DROP NOT NULL", "key-nullable", 78),
        ("ALTER TABLE {t} SET (fillfactor = 100)", "fillfactor", 0),
        ("ALTER TABLE {t} SET (autovacuum_enabled = false)", "table-autovacuum-off", 0),
    ] {
        world.sql(breakage);
        assert_cured(&mut world, id, code);
    }
    // The flag went with its index, and came back without.
    assert_cured(&mut world, "index-missing", 0);
}

#[test]
fn a_table_that_is_not_there_is_an_error() {
    let mut world = World::new("check_gone");
    world.sql("ALTER TABLE {t} RENAME TO {t}_away");
    assert!(finding(&check(&world, 78), "source-missing").is_some());
    world.sql("CREATE VIEW {t} AS SELECT * FROM {t}_away");
    assert!(finding(&check(&world, 78), "source-kind").is_some());
}

#[test]
fn a_trigger_that_fires_on_flagging_is_narrowed_by_the_statement_told() {
    let mut world = World::new("check_trigger");
    let name = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "CREATE FUNCTION {name}_touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.event_time = now(); RETURN NEW; END';
             CREATE TRIGGER touch BEFORE UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_touch();
             CREATE TRIGGER elsewhere BEFORE UPDATE OF user_id ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_touch()"
        ))
        .unwrap();
    let report = check(&world, 0);
    let triggers = report["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == "update-trigger");
    assert_eq!(triggers.count(), 1, "the one that fires on another column costs nothing");
    assert_cured(&mut world, "update-trigger", 0);
    world.insert_rows(2);
    let before = world.sql_number("SELECT sum(extract(epoch FROM event_time) * 1000000)::bigint FROM {t}");
    world.once().expect(0);
    assert_eq!(world.sql_number("SELECT sum(extract(epoch FROM event_time) * 1000000)::bigint FROM {t}"), before);
}

#[test]
fn a_policy_that_hides_rows_is_an_error() {
    let mut world = World::new("check_policy");
    world.sql("ALTER TABLE {t} ENABLE ROW LEVEL SECURITY");
    assert!(finding(&check(&world, 0), "row-level-security").is_none(), "the owner sees every row");
    let role = role(&mut world, "check_policy_role");
    world.sql(&format!("GRANT SELECT, UPDATE ON {{t}} TO {role}"));
    assert_cured(&mut world, "row-level-security", 78);
    drop_role(&mut world, &role);
}

/// A role without any privilege, which the world's configuration then uses.
fn role(world: &mut World, name: &str) -> String {
    let role = format!("{name}_{}", std::process::id());
    superuser().batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'")).unwrap();
    let url = world.servers.postgres_url.replace("app:app@", &format!("{role}:secret@"));
    world.settings.insert("postgres", format!("url = \"{url}\""));
    role
}

fn drop_role(world: &mut World, role: &str) {
    world.settings.remove("postgres");
    superuser().batch_execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).unwrap();
}

#[test]
fn a_run_needs_exactly_the_grants_that_check_asks_for() {
    let mut world = World::new("check_grants");
    world.insert_rows(5);
    let role = role(&mut world, "check_grants_role");
    let mut asked = Vec::new();
    while let Some(missing) = finding(
        &serde_json::from_str::<Value>(&world.run(&["check", "--json"]).stdout).unwrap()["tables"][0],
        "grant-missing",
    ) {
        world.run(&["--once"]).expect(77);
        asked.push(missing["fix"].as_str().unwrap().replace(&role, "pg2ch").replace(&world.name, "t"));
        carry_out(&mut world, &missing);
        assert!(asked.len() < 10, "{asked:?}");
    }
    assert_eq!(
        asked,
        [
            "GRANT SELECT ON public.t TO pg2ch;",
            "GRANT UPDATE (\"sent_to_kafka\") ON public.t TO pg2ch;",
            "GRANT SELECT ON pg2ch_checkpoint TO pg2ch;",
            "GRANT INSERT ON pg2ch_checkpoint TO pg2ch;",
            "GRANT UPDATE ON pg2ch_checkpoint TO pg2ch;",
        ]
    );
    world.once().expect(0);
    // With a window to recover as well: that takes a temporary table.
    world.insert_rows(5);
    world.crash_at("kafka.send.after", &["produce"]);
    world.once().expect(0);
    world.assert_exactly_once();
    drop_role(&mut world, &role);
}

#[test]
fn what_the_topics_lack_is_mended_by_the_commands_told() {
    let mut world = World::new("check_topic");
    let (topic, dead) = (world.name.clone(), format!("{}.dead", world.name));
    for (name, value, id, code) in [
        ("retention.ms", "3600000", "retention", 0),
        ("retention.bytes", "1000000", "retention-bytes", 0),
        ("cleanup.policy", "compact", "compaction", 78),
        ("cleanup.policy", "compact,delete", "compaction", 78),
        ("max.message.bytes", "100000", "message-size", 0),
        ("min.insync.replicas", "2", "min-insync", 78),
        ("message.timestamp.type", "LogAppendTime", "log-append-time", 0),
    ] {
        set(&world, &topic, name, value);
        assert_cured(&mut world, id, code);
    }
    set(&world, &dead, "max.message.bytes", "5000");
    assert_cured(&mut world, "dead-letters-smaller", 0);
    set(&world, &dead, "cleanup.policy", "compact");
    assert_cured(&mut world, "dead-letters-compaction", 78);
    world.delete_topic(&dead);
    assert_cured(&mut world, "dead-letters-missing", 78);
    world.delete_topic(&topic);
    assert_cured(&mut world, "topic-missing", 78);
}

#[test]
fn the_weaker_promise_without_transactions_is_spelt_out() {
    let mut world = World::new("check_transactions");
    world.settings.insert("kafka", "transactional = false".into());
    let found = finding(&check(&world, 0), "not-transactional").unwrap();
    assert!(found["why"].as_str().unwrap().contains("may see a record twice"));
}

#[test]
fn what_the_target_lacks_is_mended_by_the_statements_told() {
    let mut world = World::new("check_target");
    for (breakage, id, code) in [
        ("ALTER TABLE {t} MODIFY SETTING non_replicated_deduplication_window = 0", "deduplication-window", 78),
        ("ALTER TABLE {t} RESET SETTING fsync_after_insert", "fsync", 0),
        ("ALTER TABLE {t} DROP INDEX _position", "position-index", 0),
        ("ALTER TABLE {t} DROP COLUMN details", "column-missing", 78),
        ("ALTER TABLE {t} ADD COLUMN more Int32", "column-extra", 78),
        ("ALTER TABLE {t} MODIFY COLUMN user_id Int32", "type-lossy", 78),
        ("ALTER TABLE {t} DROP COLUMN details; ALTER TABLE {t} ADD COLUMN details String", "type-lossy", 78),
        ("ALTER TABLE {t} DROP COLUMN details; ALTER TABLE {t} ADD COLUMN details JSON", "type-lossy", 78),
        ("ALTER TABLE {t} DROP COLUMN user_id; ALTER TABLE {t} ADD COLUMN user_id Array(Int64)", "type-impossible", 78),
        ("ALTER TABLE {t} MODIFY COLUMN user_id Variant(Int64, String)", "type-lossy", 78),
    ] {
        breakage.split(';').for_each(|statement| drop(world.ch(statement)));
        assert_cured(&mut world, id, code);
    }
    world.ch("ALTER TABLE {t} ADD COLUMN most Nullable(String)");
    assert!(finding(&check(&world, 0), "column-unfilled").is_some(), "rows have NULL there, which is told");
    world.ch("ALTER TABLE {t} ADD COLUMN place Variant(Int64, String)");
    assert_cured(&mut world, "type-unknown", 0);
    world.ch("ALTER TABLE {t} MODIFY COLUMN more Nullable(Int32)");
    world.insert_rows(3);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_target_of_another_engine_or_order_is_made_anew_with_its_rows() {
    let mut world = World::new("check_engine");
    world.insert_rows(3);
    world.once().expect(0);
    for (definition, id) in
        [("MergeTree ORDER BY id", "engine"), ("ReplacingMergeTree(_timestamp) ORDER BY user_id", "sorting-key")]
    {
        world.ch("DROP TABLE IF EXISTS {t}_old");
        world.ch(&format!(
            "CREATE TABLE {{t}}_made ENGINE = {definition} SETTINGS non_replicated_deduplication_window = 100 AS SELECT * FROM {{t}}"
        ));
        world.ch("DROP TABLE {t}");
        world.ch("RENAME TABLE {t}_made TO {t}");
        assert_cured(&mut world, id, 0);
        world.once().expect(0);
        world.assert_exactly_once();
    }
    world.ch("DROP TABLE {t}");
    assert_cured(&mut world, "target-missing", 78);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_target_without_offsets_is_an_error() {
    let mut world = World::new("check_offsets");
    world.ch("ALTER TABLE {t} DROP INDEX _position");
    world.ch("ALTER TABLE {t} DROP COLUMN _offset");
    assert_cured(&mut world, "position-column", 78);
}

#[test]
fn a_materialized_view_is_told_and_its_table_is_made_to_remember_tokens() {
    let mut world = World::new("check_view");
    world.ch("CREATE TABLE {t}_sums (user_id Int64, logins UInt64) ENGINE = SummingMergeTree ORDER BY user_id");
    world.ch(
        "CREATE MATERIALIZED VIEW {t}_view TO {t}_sums AS SELECT user_id, count() AS logins FROM {t} GROUP BY user_id",
    );
    assert_cured(&mut world, "view-deduplication", 0);
    assert!(finding(&check(&world, 0), "view").is_some());
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
}

#[test]
fn a_checkpoint_that_another_source_keeps_for_the_topic_is_an_error() {
    let mut world = World::new("check_shared");
    world.sql("INSERT INTO pg2ch_checkpoint (source, topic, partition, next_offset, epoch) VALUES ('public.other', '{t}', -1, 0, 1)");
    assert_cured(&mut world, "topic-shared", 78);
}

#[test]
fn a_table_without_a_checkpoint_table_is_an_error() {
    let mut world = World::with("check_checkpoint", USER_LOGINS, 1);
    // Another search path hides the one that all tests share.
    let role = role(&mut world, "check_checkpoint_role");
    superuser()
        .batch_execute(&format!(
            "CREATE SCHEMA {role} AUTHORIZATION {role}; ALTER ROLE {role} SET search_path = {role};
             GRANT SELECT, UPDATE ON public.{} TO {role}",
            world.name
        ))
        .unwrap();
    let found = finding(&check(&world, 78), "checkpoint-missing").unwrap();
    let url = world.servers.postgres_url.replace("app:app@", &format!("{role}:secret@"));
    Client::connect(&url, NoTls).unwrap().batch_execute(found["fix"].as_str().unwrap()).unwrap();
    assert!(finding(&check(&world, 0), "checkpoint-missing").is_none());
    drop_role(&mut world, &role);
}

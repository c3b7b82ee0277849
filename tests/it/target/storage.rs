//! What a target may not be, and columns that nothing fills.

use crate::common::findings::{assert_cured, check, finding};
use crate::common::http_proxy::{Act, HttpProxy};
use crate::common::servers::Servers;
use crate::common::{USER_LOGINS, World};

/// The columns that `init` gives the target.
const COLUMNS: &str = "id Int64, user_id Int64, event_type LowCardinality(String), event_time DateTime64(6, 'UTC'), \
    payload Nullable(String), _partition Int32, _offset Int64, _timestamp DateTime64(3, 'UTC'), \
    _ingested_at DateTime64(3, 'UTC') DEFAULT now64(3)";

/// A world whose target has this engine, and three rows to move.
fn with_engine(name: &str, engine: &str) -> World {
    let mut world = World::unmade(Servers::shared(), name, USER_LOGINS, 1);
    world.ch(&format!("CREATE TABLE {{t}} ({COLUMNS}) ENGINE = {engine}"));
    world.run(&["init"]);
    world.insert_rows(3);
    world
}

#[test]
fn an_engine_that_loses_or_folds_rows_is_refused_with_its_reason() {
    for (engine, reason) in [
        ("Null", "stores nothing"),
        ("Memory", "a restart"),
        ("Log", "remembers no deduplication tokens"),
        ("Set", "remembers no deduplication tokens"),
        ("SummingMergeTree ORDER BY id", "combine"),
        ("CoalescingMergeTree ORDER BY id", "combine"),
        ("ReplacingMergeTree ORDER BY id", "inserted last"),
        ("ReplacingMergeTree(user_id) PARTITION BY toYYYYMM(_timestamp) ORDER BY id", "highest user_id"),
        ("ReplacingMergeTree(_timestamp) ORDER BY (user_id, event_time)", "lacks the key's id"),
    ] {
        let world = with_engine("misfit", engine);
        if engine.contains("MergeTree") {
            world.ch("ALTER TABLE {t} MODIFY SETTING non_replicated_deduplication_window = 1000");
        }
        let ended = world.once().expect(78);
        assert!(ended.stderr.contains(reason), "{engine}: {}", ended.stderr);
        assert_eq!(ended.number("consume", "inserts"), 0, "{engine}");
        let shown = world.run(&["check"]).expect(78).stdout;
        assert!(shown.contains(reason) && !shown.contains("not checked"), "{engine}: {shown}");
    }
}

#[test]
fn an_engine_is_allowed_by_its_name() {
    let mut world = with_engine("allowed", "SummingMergeTree ORDER BY id");
    world.ch("ALTER TABLE {t} MODIFY SETTING non_replicated_deduplication_window = 1000");
    world.settings.insert("[table]", "allow_engine = \"SummingMergeTree\"".into());
    world.once().expect(0);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 3);
}

#[test]
fn a_version_with_a_mark_of_deletion_is_right() {
    let mut world = World::unmade(Servers::shared(), "is_deleted", USER_LOGINS, 1);
    world.ch(&format!(
        "CREATE TABLE {{t}} ({COLUMNS}, is_deleted UInt8 DEFAULT 0) ENGINE = ReplacingMergeTree(_timestamp, is_deleted) ORDER BY id \
         SETTINGS non_replicated_deduplication_window = 1000"
    ));
    world.run(&["init"]).expect(0);
    world.insert_rows(3);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_column_that_nothing_fills_is_left_out_whatever_its_type() {
    let mut world = World::new("unfilled");
    world.ch("ALTER TABLE {t} ADD COLUMN place Point DEFAULT (1, 2), ADD COLUMN any Dynamic, ADD COLUMN small BFloat16 DEFAULT 1");
    world.ch("ALTER TABLE {t} ADD COLUMN factor Int32 EPHEMERAL 3, ADD COLUMN twice Int32 DEFAULT factor * 2");
    world.insert_rows(5);
    assert!(finding(&check(&world, 0), "column-unfilled").is_some());
    world.once().expect(0);
    world.assert_exactly_once();
    assert_eq!(world.ch("SELECT DISTINCT place, twice FROM {t}"), "(1,2)\t6");
}

#[test]
fn a_filled_column_of_an_unknown_type_is_refused_before_anything_is_sent() {
    let mut world = World::with("unknown_type", &format!("{USER_LOGINS}, place text"), 1);
    world.ch("ALTER TABLE {t} DROP COLUMN place");
    world.ch("ALTER TABLE {t} ADD COLUMN place Dynamic");
    world.sql("INSERT INTO {t} (user_id, event_type, event_time, place) VALUES (1, 'login', now(), 'x')");
    let ended = world.once().expect(78);
    assert!(ended.stderr.contains("Dynamic") && ended.stderr.contains("place"), "{}", ended.stderr);
    // The consume leg alone does not know the source: the first record shows it.
    let ended = world.run(&["consume", "--json"]).expect(78);
    assert!(ended.stderr.contains("Dynamic") && ended.stderr.contains("place"), "{}", ended.stderr);
    assert_eq!((ended.number("consume", "dead_letters"), ended.number("consume", "inserts")), (0, 0));
    world.settings.insert("[table]", "ignore = [\"place\"]".into());
    world.once().expect(0);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 1);
}

#[test]
fn a_target_without_the_position_columns_gets_them_from_init() {
    let mut world = World::unmade(Servers::shared(), "plain", USER_LOGINS, 1);
    world.ch(
        "CREATE TABLE {t} (id Int64, user_id Int64, event_type String, event_time DateTime64(6, 'UTC'), payload Nullable(String))
         ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000",
    );
    world.settings.insert("[table]", "metadata_columns = false".into());
    let refused = world.run(&["init"]).expect(78);
    assert!(
        refused.stderr.contains("no longer supported") && refused.stderr.contains("pg2ch init"),
        "{}",
        refused.stderr
    );
    world.settings.remove("[table]");
    world.insert_rows(3);
    let refused = world.once().expect(78);
    assert!(refused.stderr.contains("`pg2ch init`"), "{}", refused.stderr);
    world.run(&["init"]).expect(0);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_position_column_that_takes_no_values_is_refused() {
    let mut world = World::new("computed_position");
    world.ch("ALTER TABLE {t} DROP INDEX _position");
    world.ch("ALTER TABLE {t} DROP COLUMN _offset");
    world.ch("ALTER TABLE {t} ADD COLUMN _offset Int64 MATERIALIZED 0");
    world.insert_rows(3);
    let ended = world.once().expect(78);
    assert!(ended.stderr.contains("_offset") && ended.stderr.contains("MATERIALIZED"), "{}", ended.stderr);
}

#[test]
fn a_position_column_may_be_nullable() {
    for (at, column) in ["_partition Nullable(Int32)", "_offset Nullable(Int64)", "_timestamp Nullable(DateTime64(3))"]
        .into_iter()
        .enumerate()
    {
        let mut positions = ["_partition Int32", "_offset Int64", "_timestamp DateTime64(3, 'UTC')"];
        positions[at] = column;
        let mut world = World::unmade(Servers::shared(), "nullable_position", USER_LOGINS, 1);
        world.ch(&format!(
            "CREATE TABLE {{t}} (id Int64, user_id Int64, event_type String, event_time DateTime64(6, 'UTC'), \
             payload Nullable(String), {}) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 1000",
            positions.join(", ")
        ));
        world.run(&["init"]).expect(0);
        world.stop_merges();
        // An answer of so many rows looks well formed even if it is read wrongly.
        world.insert_rows(100);
        let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[Act::CutAfter]);
        world.settings.insert("clickhouse", proxy.setting());
        world.settings.insert("retry", "attempts = 3\npause = \"20ms\"\n".into());
        world.once().expect(0);
        world.assert_exactly_once();
        world.delete_group();
        world.once().expect(0);
        world.assert_exactly_once();
    }
}

#[test]
fn a_date_is_not_shown_shifted() {
    let mut world = World::with("zoned_date", &format!("{USER_LOGINS}, day date"), 1);
    world.ch("ALTER TABLE {t} MODIFY COLUMN day Nullable(DateTime64(3, 'America/New_York'))");
    world.sql("INSERT INTO {t} (user_id, event_type, event_time, day) VALUES (1, 'login', now(), '2026-01-02')");
    for legs in ["--once", "consume"] {
        let ended = world.run(&[legs]).expect(78);
        assert!(ended.stderr.contains("shows it shifted"), "{legs}: {}", ended.stderr);
        if legs == "--once" {
            world.run(&["produce"]).expect(0);
        }
    }
    world.ch("ALTER TABLE {t} MODIFY COLUMN day Nullable(DateTime64(3, 'UTC'))");
    world.once().expect(0);
    assert_eq!(world.ch("SELECT day FROM {t}"), "2026-01-02 00:00:00.000");
}

#[test]
fn a_wall_clock_is_not_shown_shifted() {
    let mut world = World::with("wall_clock", &format!("{USER_LOGINS}, at timestamp"), 1);
    world.ch("ALTER TABLE {t} MODIFY COLUMN at Nullable(DateTime64(6, 'America/New_York'))");
    world
        .sql("INSERT INTO {t} (user_id, event_type, event_time, at) VALUES (1, 'login', now(), '2026-01-02 03:04:05')");
    let ended = world.once().expect(78);
    assert!(ended.stderr.contains("shows it shifted"), "{}", ended.stderr);
    world.run(&["produce"]).expect(0);
    let ended = world.run(&["consume"]).expect(78);
    assert!(ended.stderr.contains("shows it shifted"), "the consume leg alone: {}", ended.stderr);
    world.settings.insert("[table]", "allow_lossy = [\"at\"]".into());
    world.once().expect(0);
    assert_eq!(world.ch("SELECT at FROM {t}"), "2026-01-01 22:04:05.000000");
}

#[test]
fn a_profile_changes_nothing_in_a_json_column() {
    let mut world = World::with("json_profile", &format!("{USER_LOGINS}, document json"), 1);
    world.ch("ALTER TABLE {t} MODIFY COLUMN document Nullable(JSON)");
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[]);
    proxy.set_profile(
        "input_format_json_try_infer_numbers_from_strings=1&input_format_try_infer_variants=1&type_json_skip_duplicated_paths=1\
         &input_format_json_infer_array_of_dynamic_from_array_of_different_types=0",
    );
    world.settings.insert("clickhouse", proxy.setting());
    world.settings.insert("[table]", "allow_lossy = [\"document\"]".into());
    for document in [r#"{"a":["1","2"]}"#, r#"{"a":1,"a":2}"#, r#"{"a":[1,"2"]}"#] {
        world.sql(&format!(
            "INSERT INTO {{t}} (user_id, event_type, event_time, document) VALUES (1, 'login', now(), '{document}')"
        ));
    }
    world.once().expect(65);
    let stored = "{\"a\":[\"1\",\"2\"]}\n{\"a\":[1,\"2\"]}";
    assert_eq!(world.ch("SELECT document FROM {t} ORDER BY id"), stored, "the other one is a dead letter");
}

#[test]
fn a_column_without_a_time_zone_is_shown_in_the_servers() {
    let mut world = World::with("server_zone", &format!("{USER_LOGINS}, at timestamp, day date"), 1);
    world.ch("ALTER TABLE {t} MODIFY COLUMN at Nullable(DateTime64(6)), MODIFY COLUMN event_time DateTime64(6)");
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[]);
    proxy.set_profile("session_timezone=America/New_York");
    world.settings.insert("clickhouse", proxy.setting());
    world.sql(
        "INSERT INTO {t} (user_id, event_type, event_time, at, day)
         VALUES (1, 'login', '2026-01-02 03:04:05+00', '2026-01-02 03:04:05', '2026-01-02')",
    );
    for words in [["--once"], ["check"]] {
        let ended = world.run(&words).expect(78);
        let told = [ended.stdout, ended.stderr].concat();
        assert!(told.contains("a column in America/New_York shows it shifted"), "{told}");
    }
    let hint = world.once().expect(78).stderr.lines().find_map(|line| Some(line.strip_prefix("hint: ")?.to_owned()));
    world.ch(&hint.unwrap());
    world.once().expect(0);
    assert_eq!(
        world.ch("SELECT at, day, toTimeZone(event_time, 'UTC') FROM {t}"),
        "2026-01-02 03:04:05.000000\t2026-01-02\t2026-01-02 03:04:05.000000"
    );
    world.run(&["verify", "--deep"]).expect(0);
}

#[test]
fn a_column_with_a_ttl_is_named_and_where_rows_would_not_be_recognised_refused() {
    let mut world = World::new("column_ttl");
    world.ch("ALTER TABLE {t} MODIFY COLUMN payload Nullable(String) TTL toDateTime(event_time) + toIntervalDay(30)");
    world.insert_rows(20);
    world.sql("UPDATE {t} SET event_time = event_time - interval '31 days' WHERE id <= 10");
    let told = world.run(&["--once", "-v"]).expect(0).stderr;
    assert!(told.contains("the column payload of") && told.contains("its values are gone"), "{told}");
    world.ch("SYSTEM START MERGES {t}");
    world.ch("OPTIMIZE TABLE {t} FINAL");
    assert_eq!(world.ch_number("SELECT countIf(payload IS NULL) FROM {t}"), 10);
    let verified = world.run(&["verify", "--deep", "--repair", "--json"]).expect(0).report();
    assert_eq!(verified["columns_not_compared"], serde_json::json!(["payload"]));
    world.run(&["check"]).expect(0);
    let pruned = world.run(&["prune", "--older-than", "1d", "--by", "event_time"]).expect(78).stderr;
    assert!(pruned.contains("payload of its records cannot be compared"), "{pruned}");

    world.ch("ALTER TABLE {t} MODIFY COLUMN _offset TTL toDateTime(event_time) + toIntervalDay(30)");
    world.insert_rows(1);
    let refused = world.once().expect(78).stderr;
    assert!(refused.contains("the column _offset") && refused.contains("a crash would duplicate it"), "{refused}");
    world.ch(refused.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap());
    world.once().expect(0);
}

#[test]
fn a_ttl_that_folds_rows_is_refused_with_the_statement_that_removes_it() {
    let mut world = with_engine("ttl_folds", "ReplacingMergeTree(_timestamp) ORDER BY id");
    world.ch("ALTER TABLE {t} MODIFY SETTING non_replicated_deduplication_window = 1000");
    world.ch("ALTER TABLE {t} MODIFY TTL toDateTime(event_time) + toIntervalDay(1) GROUP BY id SET user_id = sum(user_id), _offset = max(_offset)");
    let refused = world.once().expect(78).stderr;
    assert!(refused.contains("has a TTL that folds rows"), "{refused}");
    assert_cured(&mut world, "ttl-folds", 78);
    world.once().expect(0);

    world.ch("ALTER TABLE {t} MODIFY TTL toDateTime(event_time) + toIntervalDay(1)");
    let log = world.run(&["--once", "-v"]).expect(0).stderr;
    assert!(log.contains("has a TTL that deletes rows"), "{log}");
}

#[test]
fn a_window_smaller_than_the_partitions_of_an_insert_doubles_nothing() {
    for partitions in [100, 101, 300] {
        let mut world = World::unmade(Servers::shared(), "partitions", USER_LOGINS, 1);
        world.ch(&format!(
            "CREATE TABLE {{t}} ({COLUMNS}) ENGINE = ReplacingMergeTree(_timestamp) PARTITION BY user_id ORDER BY id
             SETTINGS non_replicated_deduplication_window = 100"
        ));
        world.run(&["init"]).expect(0);
        world.stop_merges();
        world.insert_rows(partitions);
        let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[Act::CutAfter]);
        world.settings.insert("clickhouse", proxy.setting());
        world.settings.insert("retry", "attempts = 3\npause = \"20ms\"\n".into());
        world.once().expect(0);
        world.assert_exactly_once();
    }
}

#[test]
fn records_that_retention_deletes_while_no_offset_is_trusted_are_told() {
    let mut world = World::with("trimmed", USER_LOGINS, 1);
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[]);
    proxy.set_profile("aggregate_functions_null_for_empty=1");
    world.settings.insert("clickhouse", proxy.setting());
    world.insert_rows(20);
    world.run(&["produce"]).expect(0);
    world.delete_records(0, 12);
    let ended = world.run(&["consume", "--json"]).expect(65);
    let lost = &ended.report()["consume"]["lost"][0];
    assert_eq!((&lost["from"], &lost["to"]), (&0.into(), &12.into()), "{}", ended.stderr);
    world.run(&["consume"]).expect(0);
    // What was copied before the offsets were lost is not lost.
    world.insert_rows(20);
    world.run(&["produce"]).expect(0);
    world.run(&["consume"]).expect(0);
    world.delete_group();
    world.delete_records(0, 15);
    world.run(&["consume"]).expect(0);
}

#[test]
fn a_refused_record_larger_than_the_clients_default_becomes_a_letter() {
    let mut world = World::with("large_letter", &format!("{USER_LOGINS}, more text"), 1);
    world.alter_topic("max.message.bytes", "4000000");
    world.run(&["init"]).expect(0);
    world.alter_topic_named(&format!("{}.dead", world.name), "max.message.bytes", "4100000");
    world.ch("ALTER TABLE {t} ADD CONSTRAINT short CHECK ifNull(length(more), 0) < 10");
    world.sql(
        "INSERT INTO {t} (user_id, event_type, event_time, more) VALUES (1, 'login', now(), repeat('x', 2000000))",
    );
    world.insert_rows(3);
    let ended = world.once().expect(65);
    assert_eq!(ended.number("consume", "dead_letters"), 1, "{}", ended.stderr);
    assert_eq!(world.topic_named(&format!("{}.dead", world.name)).len(), 1);
}

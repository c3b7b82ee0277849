//! Materialized views behind the target: none is short or doubled with exit code 0.

use crate::common::World;
use crate::common::findings::{assert_found, assert_gone};
use crate::common::http_proxy::{Act, HttpProxy};

/// A target behind a proxy, with a view that fills the table `{t}_seen`, which remembers this many tokens.
fn world(name: &str, window: u32, condition: &str, plan: &[Act]) -> (World, HttpProxy) {
    partitioned(name, "tuple()", window, condition, plan)
}

fn partitioned(name: &str, by: &str, window: u32, condition: &str, plan: &[Act]) -> (World, HttpProxy) {
    let mut world = World::new(name);
    world.stop_merges();
    world.ch(&format!(
        "CREATE TABLE {{t}}_seen (n Int64) ENGINE = MergeTree PARTITION BY {by} ORDER BY n
         SETTINGS non_replicated_deduplication_window = {window}"
    ));
    world.ch(&format!("CREATE MATERIALIZED VIEW {{t}}_view TO {{t}}_seen AS SELECT {condition} AS n FROM {{t}}"));
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, plan);
    world.settings.insert("clickhouse", proxy.setting());
    world.settings.insert("retry", "attempts = 3\npause = \"20ms\"\n".into());
    world.insert_rows(100);
    (world, proxy)
}

fn seen(world: &World) -> i64 {
    world.ch_number("SELECT count() FROM {t}_seen")
}

#[test]
fn a_lost_answer_doubles_no_view() {
    let (mut remembers, _proxy) = world("view_window", 1000, "user_id", &[Act::CutAfter]);
    remembers.once().expect(0);
    assert_eq!(seen(&remembers), 100);
    remembers.assert_exactly_once();

    let (mut forgets, proxy) = world("view_forgets", 0, "user_id", &[Act::CutAfter]);
    let ended = forgets.once().expect(65);
    assert!(ended.stderr.contains("the reply was lost") && ended.stderr.contains("_view"), "{}", ended.stderr);
    assert_eq!((seen(&forgets), proxy.inserts()), (100, 1), "it is not repeated");
    forgets.assert_exactly_once();
    forgets.once().expect(0);
}

#[test]
fn a_view_into_more_partitions_than_its_table_remembers_is_not_doubled() {
    let (world, proxy) = partitioned("view_partitions", "n % 50", 10, "user_id", &[Act::CutAfter]);
    let checked = world.run(&["check"]).expect(0).stdout;
    let fix = checked.lines().find(|line| line.contains("= 10000;")).unwrap_or_else(|| panic!("{checked}"));
    assert!(checked.contains("too few deduplication tokens"), "{checked}");
    let ended = world.once().expect(65);
    assert!(ended.stderr.contains("the reply was lost"), "{}", ended.stderr);
    assert_eq!((seen(&world), proxy.inserts()), (100, 1), "it is not repeated");
    world.ch(fix.trim().trim_start_matches("fix: "));
    assert!(!world.run(&["check"]).expect(0).stdout.contains("too few"));
}

#[test]
fn an_insert_that_never_arrived_is_repeated_for_views_that_forget_too() {
    let (mut world, _proxy) = world("view_again", 0, "user_id", &[Act::CutBefore]);
    world.once().expect(0);
    assert_eq!(seen(&world), 100);
    world.assert_exactly_once();
}

#[test]
fn a_view_that_refuses_rows_under_any_code_is_told() {
    for (name, expression) in [
        ("view_empty", "toInt64(splitByChar('x', event_type)[9])"),
        ("view_division", "intDiv(user_id, user_id - 50)"),
        ("view_throws", "throwIf(user_id = 50)"),
    ] {
        for window in [0, 1000] {
            let (mut world, _proxy) = world(name, window, expression, &[]);
            let ended = world.once().expect(65);
            assert_eq!(ended.number("consume", "rows_refused_by_views"), 100, "{name}: {}", ended.stderr);
            assert!(ended.stderr.contains("may lack 100 rows"), "{name}: {}", ended.stderr);
            assert_eq!(ended.number("consume", "dead_letters"), 0, "{name}");
            world.assert_exactly_once();
            // It was told once.
            world.once().expect(0);
        }
    }
}

#[test]
fn a_view_that_reads_a_dropped_table_is_told_and_not_taken_for_a_missing_target() {
    let mut world = World::new("view_code_60");
    world.stop_merges();
    world.ch("CREATE TABLE {t}_names (n Int64) ENGINE = MergeTree ORDER BY n");
    world.ch("CREATE MATERIALIZED VIEW {t}_view ENGINE = MergeTree ORDER BY n AS \
         SELECT user_id AS n FROM {t} WHERE user_id NOT IN (SELECT n FROM {t}_names)");
    world.ch("DROP TABLE {t}_names SETTINGS check_table_dependencies = 0, check_referential_table_dependencies = 0");
    world.insert_rows(5);
    let ended = world.once().expect(65);
    assert_eq!(ended.number("consume", "rows_refused_by_views"), 5, "{}", ended.stderr);
    world.assert_exactly_once();
}

#[test]
fn a_run_that_dies_while_a_view_refuses_is_told_by_the_next() {
    let (mut world, _proxy) = world("view_dies", 1000, "throwIf(user_id = 50)", &[]);
    world.kill_at("clickhouse.insert.after", &["--once"]);
    let ended = world.once().expect(65);
    assert_eq!(ended.number("consume", "rows_refused_by_views"), 100, "{}", ended.stderr);
    world.assert_exactly_once();
    world.once().expect(0);
}

#[test]
fn a_healthy_view_beside_a_failing_one_and_one_behind_it_are_doubled_in_no_case() {
    let (mut world, _proxy) = world("view_chain", 1000, "user_id", &[Act::CutAfter]);
    world.ch(
        "CREATE TABLE {t}_far (n Int64) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 0",
    );
    world.ch("CREATE MATERIALIZED VIEW {t}_chain TO {t}_far AS SELECT n FROM {t}_seen");
    world.ch("CREATE MATERIALIZED VIEW {t}_bad ENGINE = Log AS SELECT throwIf(user_id = 50) AS n FROM {t}");
    let ended = world.once().expect(65);
    for view in ["_view", "_chain", "_bad"] {
        assert!(ended.stderr.contains(view), "all dependents are named: {}", ended.stderr);
    }
    assert!(seen(&world) <= 100 && world.ch_number("SELECT count() FROM {t}_far") <= 100);
    world.assert_exactly_once();
}

#[test]
fn init_gives_the_views_tables_a_window() {
    let mut world = World::new("view_init");
    world.ch("CREATE MATERIALIZED VIEW {t}_view ENGINE = SummingMergeTree ORDER BY n AS SELECT user_id AS n, 1 AS c FROM {t}");
    let told = world.run(&["init"]).expect(0);
    assert!(told.stdout.contains("MODIFY SETTING non_replicated_deduplication_window"), "{}", told.stdout);
    assert!(world.run(&["init"]).expect(0).stdout.starts_with("nothing to do"), "it is done");
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[Act::CutAfter]);
    world.settings.insert("clickhouse", proxy.setting());
    world.insert_rows(100);
    world.once().expect(0);
    assert_eq!(world.ch_number("SELECT sum(c) FROM {t}_view"), 100);
    world.assert_exactly_once();
}

#[test]
fn what_a_ttl_deletes_at_once_reaches_a_view_once() {
    let (mut world, _proxy) = world("view_ttl", 1000, "user_id", &[Act::CutAfter]);
    world.ch("ALTER TABLE {t} MODIFY TTL toDateTime(event_time) + INTERVAL 1 DAY");
    world.run(&["init", "--start-at-beginning"]).expect(0);
    world.sql("UPDATE {t} SET event_time = now() - interval '9 days'");
    world.ch("SYSTEM START MERGES {t}");
    world.once().expect(0);
    world.wait_for("the TTL", || world.ch_number("SELECT count() FROM {t}") == 0);
    assert_eq!(seen(&world), 100);
    // Without offsets nothing tells what has expired.
    world.delete_group();
    let refused = world.once().expect(78);
    assert!(refused.stderr.contains("init --start-at-end"), "{}", refused.stderr);
    world.run(&["init", "--start-at-end"]).expect(0);
    world.once().expect(0);
    assert_eq!(seen(&world), 100);
}

#[test]
fn a_view_whose_table_was_dropped_is_named_with_it() {
    let (mut world, _proxy) = world("view_broken", 1000, "user_id", &[]);
    world.once().expect(0);
    world.ch("DROP TABLE {t}_seen SYNC");
    world.insert_rows(1);
    let refused = world.once().expect(78).stderr;
    assert!(refused.contains("hint: run `pg2ch check`, which names the materialized view"), "{refused}");
    let found = assert_found(&world, "view-broken", 78);
    let what = found["what"].as_str().unwrap();
    assert!(
        what.contains(&format!("`{}_seen`", world.name)) && what.contains(&format!("`{}_view`", world.name)),
        "{what}"
    );
    let drop_view = found["fix"].as_str().unwrap().lines().nth(1).unwrap().trim_end_matches(';');
    world.ch(drop_view);
    assert_gone(&world, "view-broken");
    world.once().expect(0);
    world.assert_exactly_once();
}

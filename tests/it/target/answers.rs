//! Answers to an INSERT that are not ClickHouse's, or do not prove that they are.

use std::time::{Duration, Instant};

use crate::common::World;
use crate::common::http_proxy::{Act, HttpProxy};

fn world(name: &str, plan: &[Act]) -> (World, HttpProxy) {
    let mut world = World::new(name);
    world.stop_merges();
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, plan);
    world.settings.insert("clickhouse", proxy.setting());
    world.settings.insert("batch", "insert_rows = 100\n".into());
    world.settings.insert("retry", "attempts = 3\npause = \"20ms\"\n".into());
    world.insert_rows(300);
    (world, proxy)
}

#[test]
fn a_proxys_page_with_status_200_is_no_confirmation() {
    for (name, page) in [("page_html", Act::Page("<html>back soon</html>")), ("page_empty", Act::Page(""))] {
        let (mut world, proxy) = world(name, &[Act::Pass, page, page, Act::Pass, page]);
        world.once().expect(0);
        world.assert_exactly_once();
        assert_eq!(proxy.inserts(), 6, "three INSERTs, and a repetition for each page");
    }
}

#[test]
fn an_answer_without_the_querys_id_is_asked_about_and_not_repeated() {
    for (name, act) in [("id_stripped", Act::StripHeader("X-ClickHouse-Query-Id")), ("id_other", Act::OtherId)] {
        let (mut world, proxy) = world(name, &[act; 3]);
        let ended = world.run(&["--once", "--json", "-v"]).expect(0);
        assert_eq!(ended.stderr.matches("lack the id of their query").count(), 1, "{}", ended.stderr);
        world.assert_exactly_once();
        assert_eq!(proxy.inserts(), 3);
    }
}

#[test]
fn a_proxy_that_drops_settings_is_refused_at_the_start() {
    let (mut world, proxy) = world("dropped_settings", &[]);
    proxy.drop_settings();
    let ended = world.once().expect(78);
    assert!(
        ended.stderr.contains("drops settings") && ended.stderr.contains("insert_deduplication_token"),
        "{}",
        ended.stderr
    );
    assert_eq!(proxy.inserts(), 0);
    world.settings.remove("clickhouse");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn an_insert_that_is_too_large_for_a_proxy_goes_in_smaller_ones() {
    let (mut world, proxy) = world("too_large", &[]);
    proxy.limit_bodies(5_000);
    world.once().expect(0);
    world.assert_exactly_once();
    assert!(proxy.inserts() > 6, "{}", proxy.inserts());
}

#[test]
fn a_recorded_insert_that_became_too_large_is_replaced_by_smaller_ones() {
    let (mut world, proxy) = world("too_large_later", &[]);
    world.kill_at("clickhouse.insert.before", &["--once"]);
    proxy.limit_bodies(5_000);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_single_row_that_a_proxy_does_not_take_names_both_remedies() {
    let (world, proxy) = world("too_large_one", &[]);
    proxy.limit_bodies(100);
    let ended = world.once().expect(78);
    assert!(ended.stderr.contains("client_max_body_size") && ended.stderr.contains("insert_bytes"), "{}", ended.stderr);
}

#[test]
fn settings_of_a_profile_that_would_break_an_insert_are_overridden() {
    for profile in [
        "input_format_with_types_use_header=0&input_format_with_names_use_header=0",
        "input_format_binary_decode_types_in_binary_format=1",
        "parallel_view_processing=1&materialized_views_ignore_errors=1",
        "send_progress_in_http_headers=1&http_write_exception_in_output_format=1",
        "deduplicate_insert=disable&insert_deduplicate=0",
    ] {
        let (mut world, proxy) = world("insert_profile", &[Act::CutAfter]);
        proxy.set_profile(profile);
        world.once().expect(0);
        world.assert_exactly_once();
    }
}

#[test]
fn an_empty_page_with_status_200_does_not_mean_that_the_target_holds_nothing() {
    let (mut world, proxy) = world("held_page", &[Act::Pass, Act::Pass, Act::Pass, Act::CutAfter]);
    world.once().expect(0);
    world.insert_rows(100);
    proxy.answer_empty("toUnixTimestamp64Milli(_timestamp)");
    let ended = world.once().expect(78);
    assert!(ended.stderr.contains("an empty answer"), "{}", ended.stderr);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 400, "nothing is sent again");
    world.settings.remove("clickhouse");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn an_answer_that_is_cut_short_is_no_answer_and_no_bug() {
    let (mut world, proxy) = world("cut_short", &[]);
    world.once().expect(0);
    // One record is left to copy, and nobody knows the offsets of the others: the target is asked about all.
    world.insert_rows(1);
    world.delete_group();
    for (question, command) in
        [("groupArray(tuple(*))", "consume"), ("FROM system.tables", "consume"), ("SELECT toUInt64(count())", "verify")]
    {
        // A half of the rows to the byte, and some of a row.
        for percent in [50, 47] {
            proxy.cut_answers(question, percent);
            let ended = world.run(&[command]).expect(69);
            assert!(ended.stderr.contains("the reply is not what was asked for"), "{question}: {}", ended.stderr);
            assert!(ended.stderr.contains("hint: check the proxy"), "{question}: {}", ended.stderr);
        }
    }
    world.settings.remove("clickhouse");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_profiles_time_limit_that_cuts_an_insert_off_refuses_it() {
    let (mut world, proxy) = world("cut_off", &[]);
    world.ch("ALTER TABLE {t} ADD COLUMN slow UInt8 DEFAULT sleepEachRow(0.02)");
    proxy.set_profile("max_execution_time=1&timeout_overflow_mode=break");
    let ended = world.once();
    let held = world.ch_number("SELECT count() FROM {t}");
    assert!(ended.code == 69 && held == 0, "{held} rows: {ended:?}");
    proxy.set_profile("");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_profiles_filter_leaves_nothing_out_of_a_view() {
    let (mut world, proxy) = world("filtered", &[]);
    world.ch(
        "CREATE TABLE {t}_seen (n Int64) ENGINE = MergeTree ORDER BY n SETTINGS non_replicated_deduplication_window = 1000",
    );
    world.ch("CREATE MATERIALIZED VIEW {t}_view TO {t}_seen AS SELECT user_id AS n FROM {t}");
    proxy.set_profile(&format!("additional_table_filters=%7B'analytics.{}':'user_id%3C5'%7D", world.name));
    world.once().expect(0);
    assert_eq!(world.ch_number("SELECT count() FROM {t}_seen"), 300);
    world.assert_exactly_once();
}

#[test]
fn a_table_with_too_many_parts_is_left_alone_for_longer_each_time_and_given_up_after_three_tries() {
    let (mut world, proxy) = world("too_many_parts", &[Act::TooManyParts; 3]);
    world.settings.insert("retry", "attempts = 5\npause = \"20ms\"\n".into());
    let begun = Instant::now();
    let ended = world.once().expect(69);
    assert!(begun.elapsed() >= Duration::from_secs(6), "pauses of two seconds and of four: {:?}", begun.elapsed());
    assert_eq!(proxy.inserts(), 3);
    let told: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("Too many parts")).collect();
    assert_eq!(told.len(), 3, "a line for each repetition, and the error: {}", ended.stderr);
    assert!(told[..2].iter().all(|line| line.contains("sent again under the same token in")), "{}", ended.stderr);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_proxy_that_asks_for_a_pause_gets_it() {
    let (mut world, proxy) = world("retry_after", &[Act::Busy(1)]);
    let begun = Instant::now();
    world.once().expect(0);
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(proxy.inserts(), 4);
    world.assert_exactly_once();
}

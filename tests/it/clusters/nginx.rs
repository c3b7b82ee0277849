//! nginx in front of ClickHouse: connections that it closes, bodies that it refuses, answers that it does not wait for, a path.

use std::time::Duration;

use crate::common::World;
use crate::common::http_proxy::{Act, HttpProxy};
use crate::common::nginx::Nginx;
use crate::common::pooler::port_of;

/// A world whose runs insert ten records at a time, and whose ClickHouse is asked again at once.
fn world(name: &str) -> World {
    let mut world = World::new(name);
    world.settings.insert("retry", "attempts = 4\npause = \"50ms\"\n".into());
    world.settings.insert("batch", "insert_rows = 10".into());
    world.stop_merges();
    world
}

/// Puts an nginx in front of the world's ClickHouse, with these lines.
fn behind_nginx(world: &mut World, lines: &str) -> Nginx {
    let nginx = Nginx::before_clickhouse(world, lines);
    world.settings.insert("clickhouse", nginx.url(""));
    nginx
}

#[test]
fn kept_connections_that_nginx_closes_are_opened_again() {
    let mut world = world("nginx_kept");
    let lines = "keepalive_timeout 1s; keepalive_requests 3; location / { proxy_pass {upstream}; }";
    let _nginx = behind_nginx(&mut world, lines);
    world.insert_rows(100);
    let mut run = world.start_command_stopped_at(&["--once", "--json"], "intend.after");
    // Its connection is closed meanwhile.
    std::thread::sleep(Duration::from_millis(1_500));
    run.go_on();
    let ended = run.end().expect(0);
    assert_eq!(ended.stderr, "");
    world.assert_exactly_once();
}

#[test]
fn bodies_that_nginx_finds_too_large_get_smaller() {
    let mut world = world("nginx_large");
    let lines = "client_max_body_size 4k; location / { proxy_pass {upstream}; }";
    let _nginx = behind_nginx(&mut world, lines);
    world.settings.insert("batch", "insert_rows = 10000".into());
    world.insert_rows(1_000);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_question_that_nginx_finds_too_large_names_its_limit() {
    let mut world = world("nginx_question");
    let lines = "client_max_body_size 200; location / { proxy_pass {upstream}; }";
    let _nginx = behind_nginx(&mut world, lines);
    world.insert_rows(10);
    let ended = world.once().expect(78);
    assert!(ended.stderr.contains("nginx: client_max_body_size"), "{}", ended.stderr);
    world.settings.remove("clickhouse");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn an_insert_whose_answer_nginx_does_not_wait_for_is_stored_once() {
    let mut world = world("nginx_late");
    let slow = HttpProxy::before(&world.servers.clickhouse_url, &[Act::Pass, Act::Swallow, Act::Pass, Act::Swallow]);
    let lines = "location / { proxy_pass {upstream}; proxy_read_timeout 1s; }";
    let nginx = Nginx::before(&world, port_of(&slow.setting().replace('"', "")), lines);
    world.settings.insert("clickhouse", nginx.url(""));
    world.insert_rows(50);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn clickhouse_below_a_path_is_found_there() {
    let mut world = world("nginx_path");
    let lines = "location /ch/ { proxy_pass {upstream}/; } location / { return 404; }";
    let nginx = Nginx::before_clickhouse(&world, lines);
    world.settings.insert("clickhouse", nginx.url("/ch"));
    world.insert_rows(20);
    world.once().expect(0);
    world.assert_exactly_once();
    world.run(&["check"]).expect(0);
    world.run(&["verify", "--deep"]).expect(0);
    world.settings.insert("clickhouse", nginx.url("/elsewhere"));
    let ended = world.once().expect(78);
    assert!(ended.stderr.contains("a web page, titled \"404 Not Found\""), "{}", ended.stderr);
}

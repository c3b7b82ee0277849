//! Links that are slower than the configured batches allow for: less goes at a time.

use crate::common::World;
use crate::common::proxy::Proxy;

const MEGABYTE: u64 = 1_000_000;

/// A world with unsent rows of 2 kB, whose runs give a server so many seconds for a call.
fn wide_rows(name: &str, rows: u32, seconds: u32) -> World {
    let mut world = World::new(name);
    let limits = ["connect", "kafka", "postgres", "clickhouse"].map(|server| format!("{server} = \"{seconds}s\"\n"));
    world.settings.insert("timeouts", limits.concat());
    world.settings.insert("retry", "attempts = 1\n".into());
    world.sql(&format!(
        "INSERT INTO {{t}} (user_id, event_type, event_time, payload)
         SELECT n, 'login', now(), jsonb_build_object('wide', repeat('x', 2000)) FROM generate_series(1, {rows}) n"
    ));
    world
}

#[test]
fn inserts_that_a_slow_link_takes_too_long_for_get_smaller() {
    // The first INSERT takes one second of the six, whatever else the machine does.
    let mut world = wide_rows("slow_inserts", 4_000, 6);
    world.run(&["produce"]).expect(0);
    let proxy = Proxy::before_clickhouse(&mut world);
    proxy.slow(MEGABYTE);
    let ended = world.run(&["consume", "--json"]).expect(0);
    assert!(ended.number("consume", "inserts") > 3, "{ended:?}");
    world.assert_exactly_once();
}

#[test]
fn batches_that_a_slow_broker_or_a_slow_postgres_takes_too_long_for_get_smaller() {
    for before in [Proxy::before_kafka as fn(&mut World) -> Proxy, Proxy::before_postgres] {
        let mut world = wide_rows("slow_batches", 2_500, 8);
        let proxy = before(&mut world);
        proxy.slow(MEGABYTE / 2);
        world.run(&["produce"]).expect(0);
        proxy.pass();
        drop(proxy);
        world.settings.remove("kafka");
        world.settings.remove("postgres");
        world.once().expect(0);
        world.assert_exactly_once();
    }
}

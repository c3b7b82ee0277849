//! Links that are slower than the configured batches allow for: less goes at a time.

use crate::common::World;
use crate::common::proxy::Proxy;

const MEGABYTE: u64 = 1_000_000;

/// A world with 2,000 unsent rows of 2 kB, whose runs give a server two seconds for a call.
fn wide_rows(name: &str) -> World {
    let mut world = World::new(name);
    let timeouts = "connect = \"2s\"\nkafka = \"2s\"\npostgres = \"2s\"\nclickhouse = \"2s\"\n";
    world.settings.insert("timeouts", timeouts.into());
    world.settings.insert("retry", "attempts = 1\n".into());
    world.sql(
        "INSERT INTO {t} (user_id, event_type, event_time, payload)
         SELECT n, 'login', now(), jsonb_build_object('wide', repeat('x', 2000)) FROM generate_series(1, 2000) n",
    );
    world
}

#[test]
fn inserts_that_a_slow_link_takes_too_long_for_get_smaller() {
    let mut world = wide_rows("slow_inserts");
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
        let mut world = wide_rows("slow_batches");
        let proxy = before(&mut world);
        proxy.slow(MEGABYTE);
        world.run(&["produce"]).expect(0);
        proxy.pass();
        drop(proxy);
        world.settings.remove("kafka");
        world.settings.remove("postgres");
        world.once().expect(0);
        world.assert_exactly_once();
    }
}

//! Targets on several servers. The servers of the tests know neither Keeper nor clusters, so a stand-in tells another engine than
//! the table has, and records what is sent: the statements and settings are those that such a table would get.

use crate::common::World;
use crate::common::http_proxy::HttpProxy;
use serde_json::Value;

/// A world whose target seems to have this engine.
fn world(name: &str, engine: &str) -> (World, HttpProxy) {
    let mut world = World::new(name);
    world.stop_merges();
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[]);
    world.settings.insert("clickhouse", proxy.setting());
    proxy.retell("\"engine\":\"ReplacingMergeTree\"", &format!("\"engine\":\"{engine}\""));
    (world, proxy)
}

fn findings(world: &World) -> Vec<Value> {
    let report: Value = serde_json::from_str(&world.run(&["check", "--json"]).stdout).unwrap();
    report["tables"][0]["findings"].as_array().unwrap().clone()
}

fn found<'a>(findings: &'a [Value], id: &str) -> Option<&'a Value> {
    findings.iter().find(|finding| finding["id"] == id)
}

#[test]
fn an_insert_into_a_table_on_one_server_asks_for_no_quorum() {
    let (mut world, proxy) = world("engine_here", "ReplacingMergeTree");
    world.insert_rows(3);
    world.once().expect(0);
    let seen = proxy.seen();
    assert!(seen.len() == 1 && seen[0].contains("insert_deduplicate=1"), "{seen:?}");
    assert!(!seen[0].contains("quorum") && !seen[0].contains("distributed"), "{seen:?}");
}

#[test]
fn an_insert_into_a_replicated_table_is_answered_by_a_majority_and_asked_for_in_sequence() {
    let (mut world, proxy) = world("engine_replicated", "ReplicatedReplacingMergeTree");
    world.insert_rows(3);
    world.once().expect(0);
    let seen = proxy.seen();
    for setting in
        ["insert_quorum=auto", "insert_quorum_parallel=0", "insert_deduplicate=1", "insert_deduplication_token="]
    {
        assert!(seen[0].contains(setting), "{setting}: {seen:?}");
    }
    world.assert_exactly_once();
    // The other window counts there, and it is on unless somebody has turned it off.
    world.ch("ALTER TABLE {t} MODIFY SETTING non_replicated_deduplication_window = 0");
    world.insert_rows(3);
    world.once().expect(0);
    let all = findings(&world);
    assert!(found(&all, "deduplication-window").is_none() && found(&all, "fsync").is_none(), "{all:#?}");
    world.ch("ALTER TABLE {t} MODIFY SETTING replicated_deduplication_window = 0");
    world.insert_rows(3);
    let refused = world.once().expect(78);
    assert!(refused.stderr.contains("MODIFY SETTING replicated_deduplication_window = 10000"), "{}", refused.stderr);
    let all = findings(&world);
    assert_eq!(found(&all, "deduplication-window").unwrap()["severity"], "error");
}

/// Makes the target seem to have so many replicas, and so many active ones.
fn replicas(proxy: &HttpProxy, total: u32, active: u32) {
    let of = |total, active| format!("{{\"total_replicas\":{total},\"active_replicas\":{active}}}");
    proxy.retell(&of(0, 0), &of(total, active));
}

#[test]
fn an_insert_into_a_replicated_table_with_one_replica_waits_for_no_second_one() {
    let (mut world, proxy) = world("engine_alone", "ReplicatedReplacingMergeTree");
    replicas(&proxy, 1, 1);
    world.insert_rows(3);
    world.once().expect(0);
    let seen = proxy.seen();
    assert!(seen[0].contains("insert_quorum=1&") && !seen[0].contains("insert_quorum=auto"), "{seen:?}");
    assert!(found(&findings(&world), "quorum-missing").is_none());
}

#[test]
fn too_few_active_replicas_are_named_and_a_quorum_is_waited_for_less_long_than_the_reply() {
    let (mut world, proxy) = world("engine_majority", "ReplicatedReplacingMergeTree");
    replicas(&proxy, 3, 1);
    world.settings.insert("timeouts", "clickhouse = \"10s\"".into());
    world.insert_rows(3);
    let all = findings(&world);
    let told = found(&all, "quorum-missing").unwrap_or_else(|| panic!("{all:#?}"));
    assert_eq!(told["severity"], "error");
    assert!(told["what"].as_str().unwrap().starts_with("1 of 3 replicas"), "{told}");
    world.once().expect(0);
    let seen = proxy.seen();
    for setting in ["insert_quorum=auto", "insert_quorum_timeout=8000"] {
        assert!(seen[0].contains(setting), "{setting}: {seen:?}");
    }
}

#[test]
fn an_insert_that_waits_for_its_quorum_is_named() {
    let (world, proxy) = world("engine_stuck", "ReplicatedReplacingMergeTree");
    proxy.answer("system.zookeeper", "{\"seconds\":1000}\n");
    let all = findings(&world);
    let found = found(&all, "quorum-stuck").unwrap_or_else(|| panic!("{all:#?}"));
    assert!(found["what"].as_str().unwrap().ends_with("has waited 1000 s for its quorum"), "{found}");
}

/// A URL whose first server refuses connections.
fn refused_first(proxy: &HttpProxy) -> String {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    proxy.setting().replace("app:app@", &format!("app:app@{unused},"))
}

#[test]
fn of_several_servers_the_first_that_answers_is_used() {
    let (mut world, proxy) = world("engine_servers", "ReplicatedReplacingMergeTree");
    world.settings.insert("clickhouse", refused_first(&proxy));
    world.insert_rows(3);
    let run = world.once().expect(0);
    assert!(run.stderr.contains("does not answer, trying the next server"), "{}", run.stderr);
    assert!(proxy.seen()[0].contains("insert_quorum=auto"));
    world.assert_exactly_once();
}

#[test]
fn several_servers_want_a_replicated_target() {
    let (mut world, proxy) = world("engine_servers_here", "ReplacingMergeTree");
    world.settings.insert("clickhouse", refused_first(&proxy));
    world.insert_rows(3);
    let refused = world.once().expect(78);
    assert!(refused.stderr.contains("[clickhouse] url names 2 servers"), "{}", refused.stderr);
    let all = findings(&world);
    assert_eq!(found(&all, "servers").unwrap()["severity"], "error");
    world.settings.insert("clickhouse", proxy.setting());
    world.once().expect(0);
    world.assert_exactly_once();
}

/// The definition that a Distributed table over `local` has.
fn distributed(proxy: &HttpProxy, world: &World, local: &str, key: &str) {
    let definition = world.ch(
        "SELECT engine_full FROM system.tables WHERE database = 'analytics' AND name = '{t}' FORMAT JSONEachRow"
            .replace("{t}", &world.name)
            .as_str(),
    );
    let definition: Value = serde_json::from_str(&definition).unwrap();
    let definition = definition["engine_full"].to_string();
    proxy.retell(&definition, &format!("\"Distributed('cluster', 'analytics', '{local}', {key})\""));
}

#[test]
fn an_insert_into_a_distributed_table_is_answered_when_the_shards_have_it() {
    let (mut world, proxy) = world("engine_distributed", "Distributed");
    distributed(&proxy, &world, "elsewhere", "cityHash64(id)");
    world.insert_rows(3);
    world.once().expect(0);
    let seen = proxy.seen();
    for setting in ["distributed_foreground_insert=1", "insert_distributed_sync=1", "insert_deduplication_token="] {
        assert!(seen[0].contains(setting), "{setting}: {seen:?}");
    }
    world.assert_exactly_once();
    let all = findings(&world);
    let told = found(&all, "distributed").unwrap();
    assert!(told["what"].as_str().unwrap().contains("analytics.elsewhere"), "{told}");
    assert!(found(&all, "engine").is_none(), "a Distributed table has no rows of its own: {all:#?}");
}

#[test]
fn a_distributed_table_with_a_random_sharding_key_is_refused() {
    let (mut world, proxy) = world("engine_random", "Distributed");
    distributed(&proxy, &world, "elsewhere", "rand()");
    world.insert_rows(3);
    let refused = world.once().expect(78);
    assert!(refused.stderr.contains("cityHash64(id)"), "{}", refused.stderr);
    assert_eq!(found(&findings(&world), "sharding-random").unwrap()["severity"], "error");
    assert_eq!(proxy.inserts(), 0);
}

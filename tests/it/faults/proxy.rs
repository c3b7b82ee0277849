//! The tests' own proxy does what it says: a fault that does not happen would let every test of a fault pass.

use crate::common::World;
use crate::common::proxy::{Fault, Proxy, Way, commits, kafka_request};

#[test]
fn a_whole_run_passes_through_three_proxies() {
    let mut world = World::new("proxied");
    let proxies =
        [Proxy::before_postgres(&mut world), Proxy::before_kafka(&mut world), Proxy::before_clickhouse(&mut world)];
    world.insert_rows(10);
    world.once().expect(0);
    world.assert_exactly_once();
    for proxy in &proxies {
        assert!(proxy.connections() > 0);
        assert!(proxy.bytes(Way::ToServer) > 500 && proxy.bytes(Way::ToClient) > 500);
    }
}

#[test]
fn a_request_that_is_held_back_arrives_after_its_client_is_gone() {
    let mut world = World::new("held");
    let proxy = Proxy::before_postgres(&mut world);
    world.insert_rows(3);
    // The commits of a first run: the epoch, the checkpoint of an empty topic, the types of its records, the flags.
    proxy.on_nth(4, Way::ToServer, commits, Fault::Hold);
    let mut run = world.start(&["produce"]);
    proxy.wait_for_hit();
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!(world.unsent(), 3, "the flags are not committed");
    proxy.pass();
    let name = world.name.clone();
    world.wait_until(|world| world.unsent() == 0, &format!("the late commit on {name}"));
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_kafka_request_is_recognised_and_its_answer_swallowed() {
    let mut world = World::new("swallowed");
    let proxy = Proxy::before_kafka(&mut world);
    world.insert_rows(3);
    proxy.on_nth(1, Way::ToServer, kafka_request(26), Fault::DropReply);
    world.once().expect(0);
    assert_eq!(proxy.hits(), 1, "a transaction ended");
    world.assert_exactly_once();
}

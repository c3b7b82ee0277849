//! A transaction that another producer leaves open in the topic hides every later record from committed readers: ours too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod common;

use std::time::Duration;

use common::World;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const LIMIT: Duration = Duration::from_secs(10);

/// A record of another producer, in a transaction that stays open until the producer ends it.
fn foreign_transaction(world: &World) -> BaseProducer {
    let id = format!("foreign-{}", world.name);
    let producer: BaseProducer = world.client().set("transactional.id", id).create().unwrap();
    producer.init_transactions(LIMIT).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::to(&world.name).partition(0).key("0").payload("{}")).unwrap();
    producer.flush(LIMIT).unwrap();
    producer
}

#[test]
fn a_run_with_nothing_to_send_copies_what_it_sees_and_says_that_more_may_come() {
    let mut world = World::with("foreign_consume", common::USER_LOGINS, 1);
    world.insert_rows(4);
    world.run(&["produce"]).expect(0);
    let foreign = foreign_transaction(&world);

    let ended = world.run(&["consume", "--json"]).expect(0);

    assert_eq!(ended.report()["complete"], false);
    assert_eq!(ended.number("consume", "rows_inserted"), 4);
    foreign.abort_transaction(LIMIT).unwrap();
    world.wait_for("a complete run", || world.run(&["consume", "--json"]).expect(0).report()["complete"] == true);
    world.assert_exactly_once();
}

#[test]
fn a_run_with_rows_to_send_waits_and_names_the_place() {
    let mut world = World::with("foreign_produce", common::USER_LOGINS, 1);
    world.insert_rows(2);
    world.once().expect(0);
    let foreign = foreign_transaction(&world);
    world.insert_rows(3);
    world.settings.insert("timeouts", "stable = \"1s\"".into());
    world.settings.insert("retry", "attempts = 1".into());

    // Whether its own records lie behind the open transaction cannot be told: it must not send.
    let ended = world.once().expect(69);

    assert_eq!(world.unsent(), 3);
    for part in ["partition 0", "transaction of another producer", "hint: "] {
        assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
    }
    foreign.abort_transaction(LIMIT).unwrap();
    world.settings.remove("timeouts");
    assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 3);
    world.assert_exactly_once();
}

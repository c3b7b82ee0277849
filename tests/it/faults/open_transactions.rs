//! A transaction that another producer leaves open in the topic hides every later record from committed readers: ours too.

use std::time::Duration;

use crate::common::World;
use pg2ch::config::{self, Flags};
use pg2ch::kafka::KafkaLog;
use pg2ch::ports::topic::{End, Polled, TopicLog};
use pg2ch::threads::watchdog::Watchdog;
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
    let mut world = World::with("foreign_consume", crate::common::USER_LOGINS, 1);
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
    let mut world = World::with("foreign_produce", crate::common::USER_LOGINS, 1);
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

/// Reads on, for this long at each record, until something else than a record comes.
fn read_on(log: &mut KafkaLog, wait: Duration) -> (usize, Polled) {
    let mut records = 0;
    loop {
        match log.poll(wait, &mut |_| records += 1).unwrap() {
            Polled::Record => {}
            other => return (records, other),
        }
    }
}

fn log_of(world: &World) -> KafkaLog {
    KafkaLog::new(&config::load(&Flags::default()).unwrap(), &world.name, &world.name, &Watchdog::of_nobody()).unwrap()
}

/// A broker that has just become the leader tells a lower end than the one before it, until it knows what is committed. A
/// transaction that is decided late looks like that, too.
#[test]
fn an_end_below_the_known_one_is_none_and_what_lies_behind_it_is_read_once_it_is_decided() {
    let mut world = World::with("lower_end", crate::common::USER_LOGINS, 1);
    world.insert_rows(4);
    world.run(&["produce"]).expect(0);
    let foreign = foreign_transaction(&world);
    let mut log = log_of(&world);
    // Behind the four rows: their marker, and the record that is not decided.
    log.partitions().unwrap();
    log.read_from(&[(0, 0)].into(), &[(0, 6)].into()).unwrap();
    assert_eq!(read_on(&mut log, Duration::from_secs(2)), (4, Polled::Nothing));
    foreign.commit_transaction(LIMIT).unwrap();
    assert_eq!(read_on(&mut log, Duration::from_secs(20)), (1, Polled::End(0)));
}

#[test]
fn aborted_records_below_the_end_of_a_partition_are_not_waited_for() {
    let world = World::with("aborted_end", crate::common::USER_LOGINS, 1);
    let aborted = foreign_transaction(&world);
    let id = format!("open-{}", world.name);
    let open: BaseProducer = world.client().set("transactional.id", id).create().unwrap();
    open.init_transactions(LIMIT).unwrap();
    open.begin_transaction().unwrap();
    open.send(BaseRecord::to(&world.name).partition(0).key("1").payload("{}")).unwrap();
    open.flush(LIMIT).unwrap();
    // Its marker lies behind the other one's record, and the stable end before that.
    aborted.abort_transaction(LIMIT).unwrap();
    let mut log = log_of(&world);
    log.partitions().unwrap();
    world.wait_for("the stable end", || log.ends(End::Stable).unwrap() == [(0, 1)].into());
    log.read_from(&[(0, 0)].into(), &[(0, 1)].into()).unwrap();
    assert_eq!(read_on(&mut log, Duration::from_secs(20)), (0, Polled::End(0)));
    open.abort_transaction(LIMIT).unwrap();
}

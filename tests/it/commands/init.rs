//! `pg2ch init`: creates what is missing, as often as it is called, or only says what.

use std::process::Stdio;
use std::time::Duration;

use crate::common::servers::Servers;
use crate::common::{Ended, USER_LOGINS, World};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

/// A world whose configuration names a topic and a target that are not there.
fn without_topic_and_target(name: &str) -> (World, String) {
    let mut world = World::new(name);
    let other = format!("{}_other", world.name);
    world.settings.insert("[table]", format!("topic = \"{other}\"\ntarget = \"analytics.{other}\""));
    (world, other)
}

fn exists(world: &World, target: &str) -> bool {
    world.ch_number(&format!("SELECT count() FROM system.tables WHERE database = 'analytics' AND name = '{target}'"))
        == 1
}

#[test]
fn a_second_init_finds_nothing_to_do() {
    let world = World::new("twice");
    let again = world.run(&["init"]).expect(0);
    assert_eq!((again.stdout.trim(), again.stderr.as_str()), ("", ""));
}

#[test]
fn several_inits_at_once_in_a_fresh_database_all_succeed_and_make_each_thing_once() {
    let mut world = World::unmade(Servers::in_new_database("init_at_once"), "at_once", USER_LOGINS, 1);

    // Each command writes the configuration anew: all of them are made before the first one starts.
    let mut inits: Vec<_> = (0..6).map(|_| world.command(&["init"])).collect();
    let inits: Vec<_> =
        inits.iter_mut().map(|init| init.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).collect();
    for init in inits {
        Ended::after(init).expect(0);
    }

    assert_eq!(
        world.sql_number("SELECT count(*) FROM pg_index WHERE indrelid = '{t}'::regclass AND indpred IS NOT NULL"),
        1
    );
    world.insert_rows(2);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn print_shows_what_init_would_do_and_does_nothing() {
    let (world, other) = without_topic_and_target("print");

    let shown = world.run(&["init", "--print"]).expect(0).stdout;

    assert!(shown.contains(&format!("`analytics`.`{other}`")) && shown.contains("ReplacingMergeTree"), "{shown}");
    assert!(
        shown.contains(&format!("--topic {other};")) && shown.contains(&format!("--topic {other}.dead;")),
        "{shown}"
    );
    assert!(!exists(&world, &other));
    // A real init still has all of it to do.
    assert_eq!(world.run(&["init"]).expect(0).stdout, shown);
    assert!(exists(&world, &other));
}

#[test]
fn what_init_makes_is_what_a_run_needs() {
    let (mut world, other) = without_topic_and_target("made");
    world.insert_rows(3);
    world.once().expect(78);
    world.run(&["init"]).expect(0);

    world.once().expect(0);

    assert_eq!(world.topic_named(&other).len(), 3);
    assert_eq!(world.ch_number(&format!("SELECT count() FROM analytics.{other}")), 3);
    assert_eq!(world.unsent(), 0);
}

#[test]
fn the_index_of_unsent_rows_is_made_and_used() {
    let mut world = World::new("index");
    world.insert_rows(2_000);
    world.sql("UPDATE {t} SET sent_to_kafka = TRUE WHERE id <> 1000");
    world.pg.batch_execute(&format!("ANALYZE {}", world.name)).unwrap();
    let plan = format!("EXPLAIN SELECT id FROM {} WHERE NOT sent_to_kafka ORDER BY id LIMIT 10", world.name);
    let plan: Vec<String> = world.pg.query(&plan, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    assert!(plan.iter().any(|line| line.contains("Index")), "{plan:?}");
}

#[test]
fn start_at_end_counts_what_is_there_as_done() {
    // Given a topic that another pipeline has filled and copied from
    let mut world = World::new("takeover");
    let producer: BaseProducer = world.client().create().unwrap();
    for key in ["1", "2", "3"] {
        producer.send(BaseRecord::to(&world.name).key(key).payload("not even JSON")).unwrap();
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    world.insert_rows(3);
    world.sql("UPDATE {t} SET sent_to_kafka = TRUE");

    // When pg2ch takes over
    world.run(&["init", "--start-at-end"]).expect(0);

    // Then it moves only what comes now
    world.insert_rows(2);
    let ended = world.once().expect(0);
    assert_eq!(ended.number("produce", "rows_flagged"), 2);
    assert_eq!(ended.number("consume", "rows_inserted"), 2);
    assert_eq!(ended.number("consume", "dead_letters"), 0);
    assert_eq!(world.ch("SELECT id FROM {t} ORDER BY id"), "4\n5");
}

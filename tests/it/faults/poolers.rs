//! Poolers between pg2ch and PostgreSQL: one that shares sessions is recognised before anything is left behind in them.

use std::time::{Duration, Instant};

use crate::common::World;
use crate::common::pooler::Pooler;

#[test]
fn a_transaction_pool_is_refused_before_anything_is_set_locked_or_sent() {
    let mut world = World::new("transaction_pool");
    world.insert_rows(5);
    let pool = Pooler::start(&world, "transaction", 20);
    world.settings.insert("postgres", pool.url());
    for args in [&["--once"][..], &["produce"], &["init"], &["verify"], &["dead-letters", "replay"]] {
        let ended = world.run(args).expect(78);
        assert!(ended.stderr.contains("(transaction pooling)"), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains("pool_mode = session"), "{args:?}: {}", ended.stderr);
    }
    // The pool's sessions are as they were: an application that gets one finds nothing of pg2ch in it.
    let mut application = pool.session();
    for (setting, usual) in [("row_security", "on"), ("statement_timeout", "0"), ("lock_timeout", "0")] {
        let row = application.simple_query(&format!("SHOW {setting}")).unwrap();
        let postgres::SimpleQueryMessage::Row(row) = row.into_iter().find(is_row).unwrap() else { unreachable!() };
        assert_eq!(row.get(0), Some(usual), "{setting}");
    }
    drop(pool);
    world.settings.remove("postgres");
    assert_eq!(world.unsent(), 5);
    world.once().expect(0);
    world.assert_exactly_once();
}

fn is_row(message: &postgres::SimpleQueryMessage) -> bool {
    matches!(message, postgres::SimpleQueryMessage::Row(_))
}

#[test]
fn a_pool_of_one_session_is_named() {
    let mut world = World::new("pool_of_one");
    world.insert_rows(1);
    let pool = Pooler::start(&world, "session", 1);
    world.settings.insert("postgres", pool.url());
    world.settings.insert("timeouts", "connect = \"1s\"".into());
    let begun = Instant::now();
    let ended = world.run(&["--once"]).expect(69);
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    assert!(ended.stderr.contains("cannot open a second session"), "{}", ended.stderr);
    assert!(ended.stderr.contains("as no pool of one connection can"), "{}", ended.stderr);
}

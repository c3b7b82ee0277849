//! Poolers between pg2ch and PostgreSQL: one that shares sessions is recognised before anything is left behind in them.

use std::process::Child;
use std::time::{Duration, Instant};

use crate::common::pooler::Pooler;
use crate::common::{Ended, World};

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
    assert_untouched(&pool);
    drop(pool);
    world.settings.remove("postgres");
    assert_eq!(world.unsent(), 5);
    world.once().expect(0);
    world.assert_exactly_once();
}

/// The pool's sessions are as they were: an application that gets one finds nothing of pg2ch in it.
fn assert_untouched(pool: &Pooler) {
    let mut application = pool.session();
    let usual =
        [("row_security", "on"), ("statement_timeout", "0"), ("lock_timeout", "0"), ("synchronous_commit", "on")];
    for (setting, usual) in usual {
        let row = application.simple_query(&format!("SHOW {setting}")).unwrap();
        let postgres::SimpleQueryMessage::Row(row) = row.into_iter().find(is_row).unwrap() else { unreachable!() };
        assert_eq!(row.get(0), Some(usual), "{setting}");
    }
}

/// The end of a process that repeats its runs, which a transaction pool has to bring about within half a minute.
/// Meanwhile an application may use the pool.
fn ends_for_the_pool(world: &mut World, mut run: Child, mut application: impl FnMut()) {
    let has_ended = |_: &mut World| {
        application();
        run.try_wait().unwrap().is_some()
    };
    world.wait_until(has_ended, "the process to end");
    let ended = Ended::of(&run.wait_with_output().unwrap()).expect(78);
    assert!(ended.stderr.contains("(transaction pooling)"), "{}", ended.stderr);
    assert!(ended.stderr.contains("pool_mode = session"), "{}", ended.stderr);
}

#[test]
fn a_pool_that_comes_back_as_one_of_transactions_is_refused_before_anything_is_set_or_locked() {
    let mut world = World::new("pool_restarted");
    let mut pool = Pooler::start(&world, "session", 21);
    world.settings.insert("postgres", pool.url());
    let run = world.start(&["--every", "1s"]);
    world.insert_rows(5);
    world.wait_until(|world| world.unsent() == 0, "the rows to be flagged");
    pool.restart_as("transaction");
    ends_for_the_pool(&mut world, run, || ());
    assert_untouched(&pool);
    drop(pool);
    world.settings.remove("postgres");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_pool_that_begins_to_share_its_sessions_between_two_runs_is_named() {
    let mut world = World::new("pool_reloaded");
    let pool = Pooler::start(&world, "session", 22);
    world.settings.insert("postgres", pool.url());
    let run = world.start(&["--every", "1s"]);
    world.insert_rows(5);
    world.wait_until(|world| world.unsent() == 0, "the rows to be flagged");
    // Until another session uses the pool, each of pg2ch's comes to the same server process as before.
    let mut application = pool.session();
    pool.reload_as("transaction");
    world.insert_rows(5);
    let use_pool = || application.batch_execute("BEGIN; SELECT pg_sleep(0.4); COMMIT").unwrap();
    ends_for_the_pool(&mut world, run, use_pool);
    drop(pool);
    world.settings.remove("postgres");
    world.run(&["--once", "--wait-lock", "10s"]).expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_pool_that_leaves_sessions_as_they_were_is_no_hindrance() {
    let mut world = World::new("pool_without_reset");
    let pool = Pooler::start_with(&world, "session", 2, "server_reset_query =");
    world.settings.insert("postgres", pool.url());
    // What gets a session after `verify` finds its search path there.
    for args in [&["--once"][..], &["check"], &["init"], &["status"], &["consume"]] {
        world.run(&["verify", "--deep"]).expect(0);
        let ended = world.run(args).expect(0);
        assert!(!ended.stdout.contains("missing]"), "{args:?}: {}", ended.stdout);
    }
    drop(pool);
    world.settings.remove("postgres");
    world.insert_rows(2);
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

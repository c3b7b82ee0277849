//! `pg2ch prune` beside runs and an application: every row that it deletes is one that the target has, as it was then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::common::{Ended, KILLED, World};

const PRUNE: &[&str] = &["prune", "--older-than", "0s", "--by", "event_time", "--held-for", "0s", "--confirm"];

#[test]
fn what_is_deleted_beside_runs_and_writers_was_in_the_target_as_it_was() {
    // Given a table whose deleted rows are written down as they were
    let mut world = World::new("prune_busy");
    world.stop_merges();
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.batch_rows(50);
    let name = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "CREATE TABLE {name}_gone (id bigint PRIMARY KEY, user_id bigint NOT NULL);
             CREATE FUNCTION {name}_note() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN INSERT INTO {name}_gone VALUES (OLD.id, OLD.user_id); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER DELETE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_note()"
        ))
        .unwrap();
    world.insert_rows(400);
    world.once().expect(0);
    // When an application changes and adds rows while runs and prunes overlap, and some are killed
    let stop = Arc::new(AtomicBool::new(false));
    let (mut session, ends) = (world.another_session(), stop.clone());
    let writer = std::thread::spawn(move || {
        let change = format!(
            "UPDATE {name} SET user_id = user_id + 1000, sent_to_kafka = FALSE WHERE id IN (SELECT id FROM {name} ORDER BY random() LIMIT 5);
             INSERT INTO {name} (user_id, event_type, event_time) SELECT n, 'login', now() FROM generate_series(1, 5) n"
        );
        while !ends.load(Ordering::Relaxed) {
            // A deadlock with the flagger would be its fault, and fails the test.
            session.batch_execute(&change).unwrap();
        }
    });
    for round in 0..8 {
        let run = world.start(&["--once"]);
        let prune =
            if round % 3 == 2 { world.crash_at("prune.look.after", PRUNE) } else { Ended::after(world.start(PRUNE)) };
        assert!(matches!(prune.code, 0 | KILLED), "{prune:?}");
        Ended::after(run).expect(0);
    }
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    world.once().expect(0);
    // Then the target has each deleted row as it was last
    let newest = world.ch("SELECT id, argMax(user_id, (_timestamp, _offset)) FROM {t} GROUP BY id");
    let newest: HashMap<i64, i64> = newest
        .lines()
        .map(|line| line.split_once('\t').map(|(id, user)| (id.parse().unwrap(), user.parse().unwrap())).unwrap())
        .collect();
    let gone = world.pg.query(&format!("SELECT id, user_id FROM {}_gone", world.name), &[]).unwrap();
    assert!(gone.len() > 100, "only {} rows were deleted", gone.len());
    for row in &gone {
        let (id, user): (i64, i64) = (row.get(0), row.get(1));
        assert_eq!(newest.get(&id), Some(&user), "row {id}");
    }
    let report = world.run(&["verify", "--json", "--deep"]).expect(0).report();
    assert_eq!(
        (report["pruned"].as_u64(), report["only_in_target"]["count"].as_u64()),
        (Some(gone.len() as u64), Some(0))
    );
}

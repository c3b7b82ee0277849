//! `pg2ch prune` deletes old flagged rows that the target provably holds, and nothing else.

use serde_json::Value;

use crate::common::World;

pub const AGE: &[&str] = &["prune", "--json", "--older-than", "7d", "--by", "event_time", "--held-for", "0s"];

/// Rows of which the first five are old, all of them sent and copied.
pub fn world(name: &str) -> World {
    let mut world = World::new(name);
    world.stop_merges();
    world.insert_rows(8);
    world.sql("UPDATE {t} SET event_time = now() - interval '30 days' WHERE id <= 5");
    world.once().expect(0);
    world
}

pub fn prune(world: &World, more: &[&str], code: i32) -> Value {
    world.run(&[AGE, more].concat()).expect(code).report()
}

pub fn confirmed(world: &World) -> Value {
    prune(world, &["--confirm"], 0)
}

pub fn refused(world: &World, why: &str) {
    for more in [&[][..], &["--confirm"]] {
        let ended = world.run(&[AGE, more].concat()).expect(78);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
    }
}

pub fn ids(world: &mut World) -> String {
    let sql = format!("SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM {}", world.name);
    world.pg.query_one(&sql, &[]).unwrap().get(0)
}

pub fn kept(report: &Value, what: &str) -> i64 {
    report["kept"][what].as_i64().unwrap()
}

#[test]
fn old_rows_that_the_target_holds_are_deleted_and_verify_knows_them() {
    let mut world = world("prune");
    let dry = prune(&world, &[], 0);
    assert_eq!(
        (&dry["deletable"], &dry["deleted"], ids(&mut world).as_str()),
        (&5.into(), &0.into(), "1 2 3 4 5 6 7 8")
    );
    let done = confirmed(&world);
    assert_eq!((&done["deleted"], &done["complete"], ids(&mut world).as_str()), (&5.into(), &true.into(), "6 7 8"));
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 8);
    for deep in [&["verify", "--json"][..], &["verify", "--json", "--deep"]] {
        let report = world.run(deep).expect(0).report();
        assert_eq!((&report["pruned"], &report["only_in_target"]["count"]), (&5.into(), &0.into()), "{report}");
    }
    // A young row that is deleted by hand is none of them.
    world.sql("DELETE FROM {t} WHERE id = 7");
    let report = world.run(&["verify", "--json"]).expect(0).report();
    assert_eq!((&report["pruned"], &report["only_in_target"]["count"]), (&5.into(), &1.into()), "{report}");
    // What was pruned is not asked for again, and a run goes on.
    assert_eq!(confirmed(&world)["rows"], 0);
    world.insert_rows(1);
    world.once().expect(0);
    world.run(&["check"]).expect(0);
}

#[test]
fn pages_are_gone_through_to_the_end_whatever_stays() {
    let mut world = World::new("prune_pages");
    world.insert_rows(2_500);
    world.sql("UPDATE {t} SET event_time = '2020-01-01' WHERE id <= 2300");
    world.once().expect(0);
    world.sql("UPDATE {t} SET user_id = -1 WHERE id % 100 = 0");
    let limited = prune(&world, &["--confirm", "--max-rows", "1100"], 0);
    assert_eq!((&limited["complete"], &limited["rows"]), (&false.into(), &1100.into()), "{limited}");
    let done = confirmed(&world);
    assert_eq!((kept(&done, "different"), &done["complete"]), (23, &true.into()), "{done}");
    assert_eq!(world.sql_number("SELECT count(*) FROM {t} WHERE event_time < '2021-01-01'"), 23);
    world.run(&["verify"]).expect(0);
}

#[test]
fn a_row_that_the_target_does_not_show_unchanged_is_kept() {
    let mut world = world("prune_kept");
    // One has another content in the target, one is gone from it, one is unsent again, one waits in the topic.
    world.sql("UPDATE {t} SET user_id = 1000 WHERE id = 1");
    world.delete_from_target("id = 2");
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 3");
    world.run(&["produce"]).expect(0);
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 4");
    let done = confirmed(&world);
    assert_eq!(ids(&mut world), "1 2 3 4 6 7 8");
    assert_eq!((kept(&done, "different"), kept(&done, "absent"), kept(&done, "in_topic")), (1, 1, 1), "{done}");
    // The record of a row that was read just now.
    world.once().expect(0);
    let young =
        world.run(&["prune", "--json", "--older-than", "7d", "--by", "event_time", "--confirm"]).expect(0).report();
    assert_eq!((&young["deleted"], kept(&young, "too_new")), (&0.into(), 2), "{young}");
    confirmed(&world);
    assert_eq!(ids(&mut world), "1 2 6 7 8");
}

#[test]
fn the_row_of_a_dead_letter_is_kept() {
    let mut world = world("prune_letter");
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK user_id < 100");
    world.sql("UPDATE {t} SET user_id = 500, sent_to_kafka = FALSE WHERE id = 1");
    world.once().expect(65);
    // Even if it is again what the target shows.
    world.sql("UPDATE {t} SET user_id = 1 WHERE id = 1");
    let done = confirmed(&world);
    assert_eq!((kept(&done, "dead_letters"), ids(&mut world).as_str()), (1, "1 6 7 8"), "{done}");
}

#[test]
fn of_two_versions_with_one_timestamp_both_must_be_the_row() {
    let mut world = world("prune_tie");
    world.ch(
        "INSERT INTO {t} SELECT * REPLACE (user_id + 1 AS user_id, _offset + 1000 AS _offset) FROM {t} WHERE id = 2",
    );
    let done = confirmed(&world);
    assert_eq!((kept(&done, "different"), ids(&mut world).as_str()), (1, "2 6 7 8"), "{done}");
}

#[test]
fn a_row_that_is_changed_or_locked_between_proof_and_delete_survives() {
    let mut world = world("prune_changed");
    let mut run = world.start_command_stopped_at(&[AGE, &["--confirm"]].concat(), "prune.delete.before");
    world.sql("UPDATE {t} SET user_id = 77 WHERE id = 1");
    world.sql("UPDATE {t} SET user_id = user_id WHERE id = 2");
    let mut lock = world.another_session();
    lock.batch_execute(&format!("BEGIN; SELECT FROM {} WHERE id = 3 FOR KEY SHARE", world.name)).unwrap();
    run.go_on();
    let report = run.end().expect(0).report();
    assert_eq!(
        (&report["deleted"], &report["changed"], ids(&mut world).as_str()),
        (&2.into(), &3.into(), "1 2 3 6 7 8")
    );
}

#[test]
fn a_kill_before_or_after_each_call_deletes_nothing_that_the_target_lacks() {
    for point in pg2ch::crash::PRUNE {
        let mut world = world("prune_killed");
        world.kill_at(point, &[AGE, &["--confirm"]].concat());
        let is_committed = *point == "prune.commit.after";
        assert_eq!(ids(&mut world), if is_committed { "6 7 8" } else { "1 2 3 4 5 6 7 8" }, "{point}");
        let report = world.run(&["verify", "--json", "--deep"]).expect(0).report();
        assert_eq!(report["only_in_target"]["count"], 0, "{point}: {report}");
        confirmed(&world);
        assert_eq!(ids(&mut world), "6 7 8", "{point}");
        assert_eq!(world.run(&["verify", "--json"]).expect(0).report()["pruned"], 5, "{point}");
    }
}

#[test]
fn the_limit_is_never_lowered_and_belongs_to_one_column() {
    let mut world = World::with(
        "prune_limit",
        &format!("{}, made timestamptz NOT NULL DEFAULT now()", crate::common::USER_LOGINS),
        1,
    );
    world.insert_rows(4);
    world.sql("UPDATE {t} SET event_time = now() - interval '30 days' WHERE id <= 2");
    world.once().expect(0);
    confirmed(&world);
    let limit = |world: &mut World| {
        let sql = "SELECT pruned_below FROM pg2ch_checkpoint WHERE topic = $1 AND partition = -1";
        world.pg.query_one(sql, &[&world.name.clone()]).unwrap().get::<_, String>(0)
    };
    let first = limit(&mut world);
    world.sql("UPDATE {t} SET event_time = now() - interval '60 days', sent_to_kafka = FALSE WHERE id = 3");
    world.once().expect(0);
    world.run(&["prune", "--older-than", "50d", "--by", "event_time", "--held-for", "0s", "--confirm"]).expect(0);
    assert_eq!((limit(&mut world), ids(&mut world).as_str()), (first, "4"));
    let other = ["prune", "--older-than", "1ms", "--by", "made", "--held-for", "0s", "--confirm"];
    let refused = world.run(&other).expect(78);
    assert!(refused.stderr.contains("--by event_time") && refused.stderr.contains("--force"), "{}", refused.stderr);
    world.run(&[&other[..], &["--force"]].concat()).expect(0);
    assert_eq!(ids(&mut world), "");
    assert_eq!(world.run(&["verify", "--json"]).expect(0).report()["pruned"], 4);
}

#[test]
fn a_dry_run_names_the_columns_that_will_be_gone() {
    let mut world = world("prune_gone");
    world.settings.insert("[table]", "exclude = [\"payload\"]".into());
    let told = world.run(&["prune", "--older-than", "7d", "--by", "event_time", "--held-for", "0s"]).expect(0).stdout;
    assert!(told.contains("gone with the rows: payload") && told.contains("5 rows would be deleted"), "{told}");
    assert_eq!(ids(&mut world), "1 2 3 4 5 6 7 8");
}

#[test]
fn keep_prunes_at_the_end_of_a_run_that_came_to_its_end() {
    let mut world = world("prune_keep");
    let keep = |world: &mut World, by: &str| {
        let keep = format!("keep = {{ age = \"7d\", by = \"{by}\", held_for = \"0s\" }}");
        world.settings.insert("[table]", keep);
    };
    keep(&mut world, "event_time");
    world.insert_rows(2);
    // A leg alone that does not copy, and a run that is not complete, prune nothing.
    world.run(&["produce"]).expect(0);
    let part = world.run(&["--once", "--json", "--max-rows", "1"]).expect(0);
    assert_eq!((part.report()["complete"].as_bool(), part.report()["pruned"].as_u64()), (Some(false), Some(0)));
    assert_eq!(ids(&mut world), "1 2 3 4 5 6 7 8 9 10");
    let done = world.once().expect(0).report();
    assert_eq!((done["pruned"].as_u64(), ids(&mut world).as_str()), (Some(5), "6 7 8 9 10"), "{done}");
    assert_eq!(world.once().expect(0).report()["pruned"], 0);
    // Rows that are kept are looked at first, each time: where they are too many, the run says so.
    world.sql("INSERT INTO {t} (user_id, event_type, event_time, sent_to_kafka) SELECT n, 'x', '2020-01-01', TRUE FROM generate_series(1, 10001) n");
    let stuck = world.once().expect(0);
    assert!(stuck.stderr.contains("looked at 10,000 old rows, could delete none"), "{}", stuck.stderr);
    world.sql("DELETE FROM {t} WHERE event_type = 'x'");
    // What prune refuses is reported behind the legs.
    keep(&mut world, "user_id");
    world.insert_rows(1);
    let refused = world.once().expect(78);
    assert!(refused.stderr.contains("user_id is of type bigint"), "{}", refused.stderr);
    assert_eq!((world.unsent(), world.ch_number("SELECT count() FROM {t}")), (0, 11));
    for wrong in
        ["keep = \"7d\"", "keep = { age = \"7d\" }", "keep = { age = \"soon\", by = \"a\" }", "keep = { old = \"7d\" }"]
    {
        world.settings.insert("[table]", wrong.into());
        let refused = world.once().expect(78);
        assert!(refused.stderr.contains("keep"), "{wrong}: {}", refused.stderr);
    }
}

//! Faults planted in prune, on real servers: each deletes what the target does not show, or hides what was deleted.

use super::prune::{AGE, ids, world};
use crate::common::{Ended, World};

fn with(world: &World, fault: &str, args: &[&str]) -> Ended {
    Ended::of(&world.command(args).env("PG2CH_MUTANT", fault).output().unwrap())
}

/// What a fault would do here, and what prune does without it.
fn shows(fault: &str, given: impl Fn(&mut World), harmed: &str, unharmed: &str) {
    for (fault, left) in [(fault, harmed), ("none", unharmed)] {
        let mut world = world("prune_fault");
        given(&mut world);
        with(&world, fault, &[AGE, &["--confirm"]].concat()).expect(0);
        assert_eq!(ids(&mut world), left, "{fault}");
    }
}

#[test]
fn a_planted_fault_deletes_what_the_target_does_not_show() {
    let changes = |world: &mut World| _ = world.sql("UPDATE {t} SET user_id = 99 WHERE id = 1");
    shows("prune: a key in the target is enough", changes, "6 7 8", "1 6 7 8");
    let vanishes = |world: &mut World| world.delete_from_target("id = 2");
    shows("prune: a committed offset is enough", vanishes, "6 7 8", "2 6 7 8");
    let there_and_back = |world: &mut World| {
        for user in ["99", "3"] {
            world.sql(&format!("UPDATE {{t}} SET user_id = {user}, sent_to_kafka = FALSE WHERE id = 3"));
            world.run(&["produce"]).expect(0);
        }
    };
    shows("prune: what waits is not looked for", there_and_back, "6 7 8", "3 6 7 8");
}

#[test]
fn a_row_that_changes_before_the_delete_is_lost_if_any_version_is_deleted() {
    for (fault, left) in [("prune: any version is deleted", "6 7 8"), ("none", "4 6 7 8")] {
        let mut world = world("prune_version");
        let mut command = world.command(&[AGE, &["--confirm"]].concat());
        command.env("PG2CH_MUTANT", fault);
        let mut run = world.stopped(command, "prune.delete.before");
        world.sql("UPDATE {t} SET user_id = 99 WHERE id = 4");
        run.go_on();
        run.end().expect(0);
        assert_eq!(ids(&mut world), left, "{fault}");
    }
}

#[test]
fn a_trigger_that_keeps_rows_is_not_seen_if_nobody_looks_again() {
    for (fault, code, unsent) in [("prune: nobody looks again", 0, 5), ("none", 78, 0)] {
        let mut world = world("prune_look");
        let name = world.name.clone();
        world
            .pg
            .batch_execute(&format!(
                "CREATE FUNCTION {name}_keep() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN UPDATE {name} SET sent_to_kafka = FALSE WHERE id = OLD.id; RETURN NULL; END $$;
                 CREATE TRIGGER keep_it BEFORE DELETE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_keep()"
            ))
            .unwrap();
        with(&world, fault, &[AGE, &["--confirm"]].concat()).expect(code);
        assert_eq!(world.unsent(), unsent, "{fault}");
    }
}

#[test]
fn verify_reports_pruned_rows_if_the_limit_is_not_recorded_or_not_known() {
    for (fault, prunes, pruned, only) in [
        ("prune: no limit is recorded", true, 0, 5),
        ("verify: what was pruned is not known", false, 0, 5),
        ("none", true, 5, 0),
    ] {
        let world = world("prune_unknown");
        with(&world, if prunes { fault } else { "none" }, &[AGE, &["--confirm"]].concat()).expect(0);
        let report = with(&world, fault, &["verify", "--json"]).expect(0).report();
        assert_eq!((&report["pruned"], &report["only_in_target"]["count"]), (&pruned.into(), &only.into()), "{fault}");
    }
}

//! `deleted` in `[[table]]`: a column says that a row is deleted, and `FINAL` hides it. `docs/deletes.md` has the trigger.

use crate::common::findings::{assert_found, assert_gone, carry_out, check, finding};
use crate::common::servers::Servers;
use crate::common::{USER_LOGINS, World};

/// The statements of the page, for the world's table.
fn page(world: &World) -> Vec<String> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deletes.md");
    let page = std::fs::read_to_string(page).unwrap();
    let fences = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    fences.map(|sql| sql.replace("orders", &world.name)).collect()
}

/// A table with a column that says what is deleted, and its target by `init`.
fn world(name: &str, column: &str) -> World {
    let mut world = unmade(name, column);
    world.run(&["init"]).expect(0);
    world.insert_rows(3);
    world
}

fn unmade(name: &str, column: &str) -> World {
    let mut world = World::unmade(Servers::shared(), name, &format!("{USER_LOGINS}, {column}"), 1);
    let (column, _) = column.split_once(' ').unwrap();
    world.settings.insert("[table]", format!("deleted = \"{column}\""));
    world
}

const BOOLEAN: &str = "is_deleted boolean NOT NULL DEFAULT FALSE";

fn shown(world: &World) -> String {
    world.ch("SELECT arrayStringConcat(arraySort(groupArray(toString(id))), ' ') FROM {t} FINAL")
}

#[test]
fn a_deleted_row_is_hidden_and_one_that_is_written_again_is_shown_again() {
    // Given the page's table and trigger
    let mut world = World::unmade(Servers::shared(), "soft_deletes", USER_LOGINS, 1);
    let statements = page(&world);
    let name = world.name.clone();
    world.pg.batch_execute(&format!("DROP TABLE {name}")).unwrap();
    statements.iter().for_each(|sql| world.pg.batch_execute(sql).unwrap());
    world.settings.insert("[table]", "deleted = \"is_deleted\"".into());
    world.run(&["init"]).expect(0);
    world.sql("INSERT INTO {t} (id, status) VALUES (1, 'new'), (2, 'new'), (3, 'new')");
    world.once().expect(0);
    assert_eq!(shown(&world), "1 2 3");
    // When a row is deleted
    assert_eq!(world.sql("DELETE FROM {t} WHERE id = 2"), 0);
    world.once().expect(0);
    // Then the target hides it, and keeps it
    assert_eq!(shown(&world), "1 3");
    world.ch("OPTIMIZE TABLE {t} FINAL");
    assert_eq!((shown(&world), world.ch("SELECT count() FROM {t} WHERE id = 2")), ("1 3".into(), "1".into()));
    world.run(&["verify", "--deep"]).expect(0);
    // When its key is written again, as the page says
    let again =
        "INSERT INTO {t} (id, status) VALUES (2, 'again') ON CONFLICT (id) DO UPDATE SET status = EXCLUDED.status,
        is_deleted = FALSE, sent_to_kafka = FALSE";
    world.sql(again);
    world.once().expect(0);
    assert_eq!(
        (shown(&world), world.ch("SELECT status FROM {t} FINAL WHERE id = 2")),
        ("1 2 3".into(), "again".into())
    );
    // And a session of prune deletes the row itself
    let prune = "BEGIN; SET LOCAL pg2ch.prune = 'on'; DELETE FROM {t} WHERE id = 3; COMMIT";
    world.pg.batch_execute(&prune.replace("{t}", &name)).unwrap();
    assert_eq!(world.sql_number("SELECT count(*) FROM {t}"), 2);
    world.run(&["check"]).expect(0);
    assert_eq!(world.run(&["init"]).expect(0).stdout, "nothing to do: everything that a run needs exists\n");
}

#[test]
fn every_kind_of_column_says_what_is_deleted() {
    for (column, deleted, live) in [
        ("gone boolean", "TRUE", "NULL"),
        (BOOLEAN, "TRUE", "FALSE"),
        ("\"Gone At\" timestamptz", "'epoch'", "NULL"),
        ("deleted_at timestamp(3)", "now()", "NULL"),
    ] {
        let mut world = unmade("kinds", column);
        let name = column.split(" bool").next().unwrap().split(" timestamp").next().unwrap();
        world
            .settings
            .insert("[table]", format!("deleted = {:?}\nrename = {{ {name} = \"gone `x\" }}", name.trim_matches('"')));
        world.run(&["init"]).expect(0);
        world.insert_rows(3);
        world.sql(&format!("UPDATE {{t}} SET {name} = {deleted} WHERE id = 2"));
        world.once().expect(0);
        assert_eq!(shown(&world), "1 3", "{column}");
        world.run(&["verify", "--deep"]).expect(0);
        let report = check(&world, 0);
        assert!(finding(&report, "engine-deleted").is_none(), "{column}: {report:#}");
        world.sql(&format!("UPDATE {{t}} SET {name} = {live}, sent_to_kafka = FALSE WHERE id = 2"));
        world.once().expect(0);
        assert_eq!(shown(&world), "1 2 3", "{column}");
    }
}

#[test]
fn a_target_that_shows_deleted_rows_is_made_anew_by_the_statements_of_init_and_check() {
    for from in ["init", "check"] {
        let mut world = world("anew", BOOLEAN);
        // Given a target of before, with rows
        world.ch("DROP TABLE {t}");
        world.settings.insert("[table]", String::new());
        world.run(&["init"]).expect(0);
        world.once().expect(0);
        // When `deleted` is set
        world.settings.insert("[table]", "deleted = \"is_deleted\"".into());
        world.sql("UPDATE {t} SET is_deleted = TRUE, sent_to_kafka = FALSE WHERE id = 2");
        let refused = world.once().expect(78);
        assert!(refused.stderr.contains("FINAL shows the rows"), "{}", refused.stderr);
        let statements = if from == "init" {
            let shown = world.run(&["init"]).expect(0).stdout;
            assert!(shown.contains("by hand"), "{shown}");
            // What a person is to run is a comment, further in.
            shown.lines().filter_map(|line| line.strip_prefix("--     ")).collect::<Vec<_>>().join("\n")
        } else {
            assert_found(&world, "engine-deleted", 78)["fix"].as_str().unwrap().to_owned()
        };
        statements
            .split(";\n")
            .filter(|sql| !sql.trim().is_empty())
            .for_each(|sql| drop(world.ch(sql.trim_end_matches(';'))));
        // Then its rows are there, and what is deleted is hidden
        assert_eq!(shown(&world), "1 2 3");
        world.once().expect(0);
        assert_eq!(shown(&world), "1 3");
        world.run(&["verify", "--deep"]).expect(0);
        assert_gone(&world, "engine-deleted");
    }
}

#[test]
fn a_deleted_row_stays_hidden_when_its_column_is_retyped_or_renamed() {
    let to_time = "ALTER {c} DROP DEFAULT, ALTER {c} DROP NOT NULL, ALTER {c} TYPE timestamptz USING CASE WHEN {c} THEN now() END";
    let to_boolean =
        "ALTER {c} TYPE boolean USING {c} IS NOT NULL, ALTER {c} SET DEFAULT FALSE, ALTER {c} SET NOT NULL";
    for (column, deleted, alter, now) in [
        (BOOLEAN, "TRUE", to_time, "is_deleted"),
        ("deleted_at timestamptz", "now()", to_boolean, "deleted_at"),
        (BOOLEAN, "TRUE", "RENAME {c} TO gone", "gone"),
        ("deleted_at timestamptz", "now()", "RENAME {c} TO gone", "gone"),
    ] {
        // Its column is added before the other statements, or not.
        for adds in [false, true] {
            let mut world = world("retyped", column);
            let (name, _) = column.split_once(' ').unwrap();
            world.once().expect(0);
            world.sql(&format!("UPDATE {{t}} SET {name} = {deleted}, sent_to_kafka = FALSE WHERE id = 2"));
            world.once().expect(0);
            assert_eq!(shown(&world), "1 3");
            world.sql(&format!("ALTER TABLE {{t}} {}", alter.replace("{c}", name)));
            world.settings.insert("[table]", format!("deleted = \"{now}\""));
            if adds {
                world.run(&["init"]).expect(0);
            }
            let found = assert_found(&world, "engine-deleted", 78);
            let fix = found["fix"].as_str().unwrap();
            assert!(fix.contains("after the next run `pg2ch verify --deep --repair --confirm`"), "{fix}");
            carry_out(&world, &found);
            assert_eq!(shown(&world), "1 3", "{column}: {fix}");
            world.once().expect(0);
            assert!(!world.run(&["check"]).expect(0).stdout.contains("[column-extra]"));
            world.run(&["verify", "--deep", "--repair", "--confirm"]);
            world.once().expect(0);
            world.run(&["verify", "--deep"]).expect(0);
            assert_eq!(shown(&world), "1 3", "{column}");
        }
    }
}

#[test]
fn only_a_column_made_of_the_one_that_is_named_hides_rows() {
    let made = |column: &str, by: &str| {
        format!(
            "CREATE TABLE {{t}} (id Int64, user_id Int64, event_type String, event_time DateTime64(6, 'UTC'), payload Nullable(String),
             {column}, _partition Int32, _offset Int64, _timestamp DateTime64(3, 'UTC')) ENGINE = ReplacingMergeTree(_timestamp, {by})
             ORDER BY id SETTINGS non_replicated_deduplication_window = 1000"
        )
    };
    for (column, by, stops) in [
        // The boolean itself.
        ("is_deleted UInt8", "is_deleted", None),
        ("is_deleted Bool, odd UInt8 MATERIALIZED is_deleted", "odd", None),
        // Another column; one made of more; one that marks what is live.
        ("is_deleted Bool, odd UInt8", "odd", Some(true)),
        ("is_deleted Bool, odd UInt8 MATERIALIZED user_id = 1", "odd", Some(false)),
        ("is_deleted Bool, odd UInt8 MATERIALIZED is_deleted AND user_id = 1", "odd", Some(false)),
        ("is_deleted Bool, odd UInt8 MATERIALIZED NOT is_deleted", "odd", Some(false)),
    ] {
        let mut world = unmade("engine_deleted", BOOLEAN);
        world.ch(&made(column, by));
        world.run(&["init"]).expect(0);
        world.insert_rows(1);
        match stops {
            None => {
                world.once().expect(0);
                let report = check(&world, 0);
                assert!(finding(&report, "engine-deleted").is_none(), "{column}: {report:#}");
            }
            Some(at_once) => {
                assert_found(&world, "engine-deleted", 78);
                assert_eq!(world.once().code == 78, at_once, "{column}");
            }
        }
    }
}

#[test]
fn an_engine_that_hides_rows_is_told_where_no_column_is_named() {
    let mut world = world("unnamed", BOOLEAN);
    world.settings.insert("[table]", String::new());
    let found = assert_found(&world, "engine-deleted", 0);
    assert_eq!(found["severity"], "warning");
    world.once().expect(0);
}

#[test]
fn merges_that_remove_deleted_rows_are_refused() {
    let mut world = world("cleanup", BOOLEAN);
    world.once().expect(0);
    world.ch("ALTER TABLE {t} MODIFY SETTING allow_experimental_replacing_merge_with_cleanup = 1");
    world.insert_rows(1);
    let refused = world.once().expect(78);
    assert!(refused.stderr.contains("allow_experimental_replacing_merge_with_cleanup = 0"), "{}", refused.stderr);
    let found = assert_found(&world, "cleanup-merges", 78);
    world.ch(found["fix"].as_str().unwrap().trim_end_matches(';'));
    assert_gone(&world, "cleanup-merges");
    world.once().expect(0);
}

#[test]
fn a_row_that_is_deleted_in_the_source_and_gone_from_the_target_agrees() {
    let mut world = world("agrees", BOOLEAN);
    world.sql("UPDATE {t} SET is_deleted = TRUE WHERE id = 2");
    world.once().expect(0);
    world.delete_from_target("id IN (1, 2)");
    for deep in [&["verify", "--json"][..], &["verify", "--deep", "--json"]] {
        let report = world.run(deep).expect(65).report();
        assert_eq!(
            (&report["deleted"], &report["missing"]["keys"]),
            (&1.into(), &serde_json::json!(["1"])),
            "{report}"
        );
    }
    let told = world.run(&["verify"]).expect(65).stdout;
    assert!(told.contains("deleted in PostgreSQL, and no longer in the target"), "{told}");
    // Only what is missing is sent again.
    world.run(&["verify", "--repair", "--confirm"]).expect(65);
    assert_eq!(world.unsent(), 1);
}

#[test]
fn a_condition_that_leaves_deleted_rows_out_is_warned_of() {
    let mut world = world("where_deleted", BOOLEAN);
    for (condition, warns) in [("NOT is_deleted", true), ("user_id > 1", false), ("event_type <> 'is_deleted'", false)]
    {
        world.settings.insert("[table]", format!("deleted = \"is_deleted\"\nwhere = \"{condition}\""));
        let report = check(&world, 0);
        assert_eq!(finding(&report, "where-deleted").is_some(), warns, "{condition}: {report:#}");
    }
}

#[test]
fn a_column_that_cannot_say_it_is_refused() {
    for (columns, settings, why) in [
        (BOOLEAN, "deleted = \"gone\"", "has no column gone"),
        (BOOLEAN, "deleted = \"payload\"", "is of type jsonb"),
        ("at timestamptz NOT NULL DEFAULT now()", "deleted = \"at\"", "every row would be deleted"),
        ("_deleted boolean", "deleted = \"_deleted\"", "rename"),
        (BOOLEAN, "deleted = \"sent_to_kafka\"", "it is the flag"),
        (BOOLEAN, "deleted = \"id\"", "column of the key"),
        (BOOLEAN, "deleted = \"is_deleted\"\nexclude = [\"is_deleted\"]", "the column is not sent"),
        (BOOLEAN, "deleted = \"is_deleted\"\ncolumns = [\"user_id\"]", "the column is not sent"),
        (BOOLEAN, "deleted = \"is_deleted\"\nignore = [\"is_deleted\"]", "`ignore` names it"),
    ] {
        let mut world = World::unmade(Servers::shared(), "cannot_say", &format!("{USER_LOGINS}, {columns}"), 1);
        world.settings.insert("[table]", settings.into());
        let refused = world.run(&["init"]).expect(78);
        assert!(refused.stderr.contains(why), "{settings}: {}", refused.stderr);
        world.once().expect(78);
    }
}

//! What a dead letter says about its row, to verify, replay and prune: only the version that it holds, and only while it is the newest.

use serde_json::Value;

use crate::commands::prune;
use crate::common::World;
use crate::common::servers::Servers;

/// A world whose target refuses the rows 3 and 7, which lie in the dead letters.
fn refused(name: &str) -> World {
    let mut world = World::new(name);
    world.stop_merges();
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK user_id != 3 AND user_id != 7");
    world.insert_rows(10);
    world.once().expect(65);
    world
}

/// The report of the only table.
fn report(world: &World, args: &[&str], code: i32) -> Value {
    world.run(&[args, &["--json"]].concat()).expect(code).report()
}

/// What `verify` counts as dead letters, dropped, missing, different, and in the topic.
fn found(world: &World, args: &[&str], code: i32) -> [i64; 5] {
    let report = report(world, &[&["verify"], args].concat(), code);
    let number = |name: &str| report[name].as_i64().or_else(|| report[name]["count"].as_i64()).unwrap();
    ["dead_letters", "dropped", "missing", "different", "in_topic"].map(number)
}

/// Has verify set flags, and a run send those rows; then all is equal.
fn repaired(world: &mut World, rows: i64) {
    let repair = &report(world, &["verify", "--deep", "--repair", "--confirm"], 65)["repair"];
    assert_eq!(repair["unflagged"], rows);
    world.once().expect(0);
    assert_eq!(found(world, &["--deep"], 0)[2..], [0, 0, 0]);
}

/// The place of the letter of a key, as `drop` takes it.
fn place(world: &World, key: &str) -> String {
    let list: Value = serde_json::from_str(&world.run(&["dead-letters", "--json"]).expect(65).stdout).unwrap();
    let letters = list["tables"][0]["letters"].as_array().unwrap();
    let letter = letters.iter().find(|letter| letter["key"] == key).unwrap();
    format!("{}:{}", letter["partition"], letter["offset"])
}

#[test]
fn a_settled_letter_excuses_no_later_version() {
    let mut world = refused("letter_settled");
    world.sql("UPDATE {t} SET user_id = user_id + 100, sent_to_kafka = FALSE WHERE id IN (3, 7)");
    world.once().expect(0);
    assert_eq!(found(&world, &["--deep"], 0), [0; 5]);
    world.sql("UPDATE {t} SET event_type = 'silent' WHERE id IN (2, 3)");
    world.delete_from_target("id = 7");
    assert_eq!(found(&world, &["--deep"], 65), [0, 0, 1, 2, 0]);
    repaired(&mut world, 3);
}

#[test]
fn a_dropped_letter_excuses_the_version_that_it_holds_and_no_later_one() {
    let mut world = refused("letter_dropped");
    world.run(&["dead-letters", "drop", "--confirm"]).expect(0);
    world.sql("UPDATE {t} SET user_id = 33, sent_to_kafka = FALSE WHERE id = 3");
    world.once().expect(0);
    assert_eq!(found(&world, &["--deep"], 0), [0, 1, 0, 0, 0]);
    // To add or retype a column makes no other version, if the values print the same.
    world.sql("ALTER TABLE {t} ADD COLUMN note text, ALTER user_id TYPE text");
    assert_eq!(report(&world, &["verify", "--repair"], 0)["repair"]["wanted"], 0, "what was dropped stays away");
    world.sql("UPDATE {t} SET note = 'x' WHERE id = 7");
    assert_eq!(found(&world, &[], 65), [0, 0, 1, 0, 0], "the letter does not have the note");
    world.sql("ALTER TABLE {t} DROP COLUMN note, ALTER user_id TYPE bigint USING user_id::bigint");

    world.sql("UPDATE {t} SET event_type = 'silent' WHERE id = 3");
    assert_eq!(found(&world, &["--deep"], 65), [0, 1, 0, 1, 0]);
    world.sql("UPDATE {t} SET event_type = 'login' WHERE id = 3");
    world.delete_from_target("id = 3");
    assert_eq!(found(&world, &[], 65), [0, 1, 1, 0, 0]);
    repaired(&mut world, 1);
    // The row is now another one than what was dropped, and no run has sent it.
    world.sql("UPDATE {t} SET user_id = 77 WHERE id = 7");
    assert_eq!(found(&world, &[], 65), [0, 0, 1, 0, 0]);
    repaired(&mut world, 1);
}

#[test]
fn an_older_version_is_not_replayed_where_a_newer_one_was_lost() {
    let mut world = refused("letter_older");
    world.sql("UPDATE {t} SET user_id = 33, sent_to_kafka = FALSE WHERE id = 3");
    world.once().expect(0);
    world.ch("ALTER TABLE {t} DROP CONSTRAINT picky");
    world.delete_from_target("id = 3");
    assert_eq!(found(&world, &[], 65), [1, 0, 1, 0, 0], "the letter of row 3 holds another version");

    let replayed = report(&world, &["dead-letters", "replay"], 65);
    assert_eq!((&replayed["inserted"], &replayed["pending"]), (&1.into(), &1.into()), "{replayed}");
    let reason = replayed["letters"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("another version") && reason.contains("verify --repair"), "{reason}");
    assert_eq!(found(&world, &["--deep"], 65), [0, 0, 1, 0, 0]);

    repaired(&mut world, 1);
    assert_eq!(world.ch("SELECT user_id FROM {t} FINAL WHERE id = 3"), "33");
    assert_eq!(report(&world, &["dead-letters"], 0)["settled"], 1);
    assert_eq!(report(&world, &["dead-letters", "replay"], 0)["inserted"], 1, "beneath the newer version");
    assert_eq!(found(&world, &["--deep"], 0), [0; 5]);
}

/// A world whose target refuses the rows 1 and 2, of three, for an infinite time.
fn infinite(name: &str) -> World {
    let columns = "id int PRIMARY KEY, ts timestamp, v int, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    let mut world = World::with(name, columns, 1);
    world.sql("INSERT INTO {t} VALUES (1, 'infinity', 1), (2, 'infinity', 2), (3, '2020-02-02', 3)");
    world.once().expect(65);
    world
}

#[test]
fn a_dropped_letter_excuses_no_row_that_it_cannot_be_compared_with() {
    let mut world = infinite("letter_incomparable");
    world.run(&["dead-letters", "drop", "--confirm"]).expect(0);
    world.sql("ALTER TABLE {t} ALTER ts TYPE timestamptz");
    assert_eq!(found(&world, &["--deep"], 0), [0, 2, 0, 0, 0], "both print infinity");
    world.sql("UPDATE {t} SET ts = '2020-01-01' WHERE id = 1");
    assert_eq!(found(&world, &["--deep"], 65), [0, 1, 1, 0, 0], "the value is another one");
    for column in ["ts", "v"] {
        world.sql(&format!("ALTER TABLE {{t}} RENAME {column} TO other"));
        assert_eq!(found(&world, &[], 65), [0, 0, 2, 0, 0], "{column} may have been changed since");
        world.sql(&format!("ALTER TABLE {{t}} RENAME other TO {column}"));
    }
    world.sql("ALTER TABLE {t} ALTER ts TYPE date USING CASE WHEN isfinite(ts) THEN ts::date ELSE '2021-01-01' END");
    assert_eq!(found(&world, &[], 65), [0, 0, 2, 0, 0], "the ALTER itself has corrected the value");
    repaired(&mut world, 2);
    assert_eq!(world.ch("SELECT id, toDate(ts) FROM {t} FINAL ORDER BY id LIMIT 2"), "1\t2020-01-01\n2\t2021-01-01");
}

#[test]
fn a_letter_is_not_replayed_for_a_row_that_it_cannot_be_compared_with() {
    let mut world = infinite("letter_retyped");
    world.sql("ALTER TABLE {t} ALTER ts TYPE timestamptz");
    world.sql("UPDATE {t} SET ts = '2020-01-01' WHERE id = 1");
    world.ch("ALTER TABLE {t} MODIFY COLUMN ts Nullable(String)");
    let replayed = report(&world, &["dead-letters", "replay"], 65);
    assert_eq!((&replayed["inserted"], &replayed["pending"]), (&1.into(), &1.into()), "{replayed}");
    assert_eq!(world.ch("SELECT id, ts FROM {t} WHERE id < 3"), "2\tinfinity");
    assert_eq!(found(&world, &[], 65), [0, 0, 1, 0, 0]);
    assert_eq!(report(&world, &["verify", "--repair", "--confirm"], 65)["repair"]["unflagged"], 1);
    world.once().expect(0);
    assert_eq!(world.ch("SELECT id, ts FROM {t} FINAL WHERE id = 1"), "1\t2020-01-01T00:00:00+00:00");
}

#[test]
fn without_the_groups_offsets_verify_sees_what_the_next_run_does_not_copy() {
    let mut world = refused("letter_offsets");
    world.run(&["dead-letters", "drop", &place(&world, "7"), "--confirm"]).expect(65);
    world.delete_from_target("id = 5");
    world.sql("UPDATE {t} SET event_type = 'silent' WHERE id = 2");
    world.delete_group();
    assert_eq!(found(&world, &[], 65), [1, 1, 0, 0, 1]);
    assert_eq!(found(&world, &["--deep"], 65), [1, 1, 0, 1, 1]);
    assert_eq!(report(&world, &["verify", "--deep", "--repair"], 65)["repair"]["wanted"], 1);
    world.once().expect(0);
    assert_eq!(found(&world, &["--deep"], 65), [1, 1, 0, 1, 0], "as verify has said");
}

#[test]
fn prune_keeps_the_row_of_a_pending_letter_and_of_no_other() {
    let mut world = prune::world("prune_letters");
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK user_id < 100");
    world.sql("UPDATE {t} SET user_id = 100 + id, sent_to_kafka = FALSE WHERE id <= 4");
    world.once().expect(65);
    world.run(&["dead-letters", "drop", &place(&world, "1"), &place(&world, "2"), "--confirm"]).expect(65);
    // The letter of row 1 was dropped and that of row 3 not when a newer version came.
    world.sql("UPDATE {t} SET user_id = 50, sent_to_kafka = FALSE WHERE id IN (1, 3)");
    world.once().expect(0);
    let done = prune::confirmed(&world);
    assert_eq!((prune::kept(&done, "different"), prune::kept(&done, "dead_letters")), (1, 1), "{done}");
    assert_eq!(prune::ids(&mut world), "2 4 6 7 8", "row 2 is in the target in an older version, row 4 has a letter");
}

#[test]
fn a_document_that_is_null_is_a_key_like_any_other() {
    for (columns, key) in [("k jsonb PRIMARY KEY", "\"k\""), ("k jsonb, l text, PRIMARY KEY (k, l)", r#"["k", "l"]"#)] {
        let columns = format!("{columns}, n int, sent_to_kafka boolean NOT NULL DEFAULT FALSE");
        let mut world = World::unmade(Servers::shared(), "key_null_document", &columns, 1);
        world.settings.insert("[table]", format!("key = {key}"));
        world.run(&["init"]).expect(0);
        let documents = r#"unnest(ARRAY['null', '"null"', '{"a": null}', '5']::jsonb[])"#;
        let l = if key.contains('l') { "'x', " } else { "" };
        world.sql(&format!("INSERT INTO {{t}} SELECT {documents}, {l}1"));
        world.once().expect(0);
        assert_eq!(found(&world, &["--deep"], 0), [0; 5]);
        assert_eq!(report(&world, &["verify"], 0)["only_in_target"]["count"], 0);
        world.delete_from_target("1");
        repaired(&mut world, 4);
    }
}

#[test]
fn letters_of_two_generations_of_a_topic_are_dropped_one_by_one() {
    let mut world = World::with(
        "letter_generations",
        "id bigint PRIMARY KEY, n numeric(6,2), sent_to_kafka boolean NOT NULL DEFAULT FALSE",
        1,
    );
    world.sql("INSERT INTO {t} VALUES (1, 'NaN'), (2, 'NaN')");
    world.once().expect(65);
    world.delete_topic(&world.name);
    world.create_topic(&world.name, 1, &[]);
    world.sql("INSERT INTO {t} VALUES (11, 'NaN'), (12, 'NaN')");
    world.once().expect(65);
    assert_eq!(place(&world, "2"), place(&world, "12"));

    let both = place(&world, "2");
    let shown = world.run(&["dead-letters", "drop", &both, "--json"]).expect(65);
    let shown_json: Value = serde_json::from_str(&shown.stdout).unwrap();
    let letters = shown_json["tables"][0]["letters"].as_array().unwrap();
    let time = letters.iter().find(|letter| letter["key"] == "12").unwrap()["time"].as_str().unwrap();
    assert_eq!(shown_json["tables"][0]["to_drop"], 2);
    assert!(shown.stderr.contains(&format!("{both}@{time}")), "{}", shown.stderr);

    let one = report(&world, &["dead-letters", "drop", &format!("{both}@{time}"), "--confirm"], 65);
    assert_eq!((&one["dropped"], &one["pending"]), (&1.into(), &3.into()));
    assert_eq!(found(&world, &[], 65)[..2], [3, 1]);
    let last = world.run(&["dead-letters", "drop", &format!("{both}@{time}"), &both, "--confirm"]).expect(65);
    assert!(last.stderr.contains(&format!("{time} is not a pending dead letter")), "{}", last.stderr);
    assert!(last.stdout.ends_with("2 pending, 0 replayed, 2 dropped\n"), "{}", last.stdout);
}

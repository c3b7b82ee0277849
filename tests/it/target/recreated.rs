//! The statements of `check` that make a target anew, typed: no row of the new one has a value that was made up, or changed on the
//! way, and what is not taken over is said, and sent again as the statements say.

use crate::common::World;
use crate::common::findings::check;

const FLAG: &str = "sent_to_kafka boolean NOT NULL DEFAULT FALSE";

/// A table with three rows, which are in its target.
fn world(name: &str, columns: &str, rows: &str) -> World {
    let mut world = World::with(name, &format!("{columns}, {FLAG}"), 1);
    world.sql(&format!("INSERT INTO {{t}} VALUES {rows}"));
    world.once().expect(0);
    world
}

/// Replaces the target by one with these columns, and rows of another program.
fn replace_target(world: &World, columns: &str, engine: &str, rows: &str) {
    world.ch("DROP TABLE {t}");
    let memory = "SETTINGS non_replicated_deduplication_window = 100";
    world.ch(&format!("CREATE TABLE {{t}} ({columns}) ENGINE = {engine} ORDER BY id {memory}"));
    world.ch(&format!("INSERT INTO {{t}} VALUES {rows}"));
}

fn type_in(world: &World, statements: &str) {
    let is_statement = |one: &&str| one.lines().any(|line| !line.is_empty() && !line.starts_with("--"));
    statements.split(";\n").filter(is_statement).for_each(|one| drop(world.ch(one.trim_end_matches(';'))));
}

/// Types the migration that `check` prints, and the commands in it; its text.
#[track_caller]
fn migrate(world: &World) -> String {
    let report: serde_json::Value = serde_json::from_str(&world.run(&["check", "--json"]).stdout).unwrap();
    let findings = report["tables"][0]["findings"].as_array().unwrap();
    let is_migration = |finding: &&serde_json::Value| finding["fix"].as_str().unwrap().contains("RENAME TABLE");
    let found = findings.iter().find(is_migration).unwrap_or_else(|| panic!("no migration in {report:#}"));
    let fix = found["fix"].as_str().unwrap();
    // What stands behind a line of commands is typed when these have run.
    let (first, last) = fix.split_once("\n-- RENAME has cut").unwrap_or((fix, ""));
    type_in(world, first);
    if let Some(line) = first.lines().find(|line| line.starts_with("-- Now `pg2ch init")) {
        run_commands(world, line);
    }
    type_in(world, &format!("-- {last}"));
    fix.to_owned()
}

/// Runs the commands that a line names.
fn run_commands(world: &World, line: &str) {
    for command in line.split('`').filter_map(|piece| piece.strip_prefix("pg2ch ")) {
        let code = if command.contains("--repair") { 65 } else { 0 };
        world.run(&command.split(' ').collect::<Vec<_>>()).expect(code);
    }
}

/// Fails unless the target shows what PostgreSQL has, and pg2ch is content.
#[track_caller]
fn assert_agrees(world: &mut World, fix: &str) {
    world.run(&["check"]).expect(0);
    world.run(&["verify", "--deep"]).expect(0);
    let rows = world.sql_number("SELECT count(*) FROM {t}");
    assert_eq!(world.ch_number("SELECT count() FROM {t} FINAL"), rows, "{fix}");
}

#[test]
fn rows_whose_key_is_not_postgresqls_stay_in_the_old_table_and_the_others_are_sent_again() {
    let by_id = |of: &str| format!("id {of} PRIMARY KEY, a text");
    let integers = "(1, 'a'), (2, 'b'), (3, 'c')";
    let tenant = "ADD tenant int NOT NULL DEFAULT 7, DROP CONSTRAINT {t}_pkey, ADD PRIMARY KEY (tenant, id)";
    let exact = "ALTER id TYPE numeric(10,2)";
    for (adds, of, rows, alter, key, why) in [
        (false, "integer", integers, "RENAME id TO uid", "uid", "it has no column `uid`"),
        (true, "integer", integers, tenant, "tenant\", \"id", "`tenant` belongs to the key"),
        (
            false,
            "numeric(10,2)",
            "(1, 'a'), (2.50, 'b'), (3, 'c')",
            "ALTER id TYPE numeric",
            "id",
            "from Decimal(10, 2)",
        ),
        (false, "float8", "(0.29, 'a'), (1.13, 'b'), (1.14, 'c')", exact, "id", "from Float64"),
    ] {
        let mut world = world("recreated_key", &by_id(of), rows);
        world.sql("DELETE FROM {t} WHERE a = 'a'");
        world.sql(&format!("ALTER TABLE {{t}} {alter}"));
        world.settings.insert("[table]", format!("key = [\"{key}\"]"));
        if adds {
            world.run(&["init"]).expect(0);
        }
        let memory = "SETTINGS non_replicated_deduplication_window = 100";
        world.ch(&format!("CREATE TABLE {{t}}_seen (a Nullable(String)) ENGINE = MergeTree ORDER BY tuple() {memory}"));
        world.ch("CREATE MATERIALIZED VIEW {t}_view TO {t}_seen AS SELECT a FROM {t}");
        world.once().expect(78);
        let fix = migrate(&world);
        assert!(fix.contains("No row of ") && fix.contains(why) && !fix.contains("INSERT"), "{fix}");
        assert_eq!(world.ch_number("SELECT count() FROM {t}_old FINAL"), 3);
        assert_eq!(world.ch_number("SELECT count() FROM {t}_seen"), 0, "{fix}");
        assert_agrees(&mut world, &fix);
        world.sql("UPDATE {t} SET a = 'seen', sent_to_kafka = FALSE WHERE a = 'b'");
        world.once().expect(0);
        assert_eq!(world.ch("SELECT a FROM {t}_seen"), "seen", "{fix}");
        ["old", "view", "seen"].iter().for_each(|rest| drop(world.ch(&format!("DROP TABLE {{t}}_{rest}"))));
    }
}

#[test]
fn a_renamed_key_keeps_its_name_in_the_target_as_the_migration_says() {
    let mut world = world("recreated_rename", "id integer PRIMARY KEY, a text", "(1, 'a'), (2, 'b')");
    world.sql("ALTER TABLE {t} RENAME id TO uid");
    world.settings.insert("[table]", "key = \"uid\"".into());
    let report = check(&world, 78).to_string().replace("\\\"", "\"");
    let (_, rest) = report.split_once("Write `").unwrap();
    let (rename, _) = rest.split_once('`').unwrap();
    assert_eq!(rename, "rename = { \"uid\" = \"id\" }");
    world.settings.insert("[table]", format!("key = \"uid\"\n{rename}"));
    world.sql("UPDATE {t} SET a = 'other', sent_to_kafka = FALSE WHERE uid = 2");
    world.once().expect(0);
    assert_agrees(&mut world, &report);
}

#[test]
fn columns_without_exact_values_are_null_until_they_are_sent_again() {
    let columns = "id integer PRIMARY KEY, a text, gone bool NOT NULL DEFAULT FALSE, y numeric(10,4) NOT NULL, f float8, w numeric(10,2) NOT NULL";
    let mut world =
        world("recreated_null", columns, "(1, 'a', FALSE, 1.2599, 1.13, 1), (2, 'b', TRUE, 7.7777, 1.14, 2)");
    world.sql("DELETE FROM {t} WHERE id = 1");
    world.sql("INSERT INTO {t} VALUES (3, 'c', FALSE, 1, 2, 3)");
    world.run(&["produce"]).expect(0);
    world.sql(
        "ALTER TABLE {t} ADD n int NOT NULL DEFAULT 7, ADD price numeric(10,2) NOT NULL DEFAULT 9.99,
         ALTER y TYPE numeric(10,2), ALTER f TYPE numeric(12,2), ALTER w TYPE numeric(12,4)",
    );
    world.settings.insert("[table]", "deleted = \"gone\"".into());
    world.once().expect(78);
    let fix = migrate(&world);
    for part in ["`n`, `price`: NULL", "`y`, `f`: NULL", "has it sent again"] {
        assert!(fix.contains(part), "{part}: {fix}");
    }
    assert_eq!(world.ch("SELECT a, y, f, w, n, price FROM {t} WHERE id = 1"), "a\t\\N\t\\N\t1\t\\N\t\\N");
    world.once().expect(0);
    world.run(&["verify", "--deep", "--repair", "--confirm"]).expect(65);
    world.once().expect(0);
    world.run(&["verify", "--deep"]).expect(0);
    assert_eq!(world.ch("SELECT id, y, f, w, n, price FROM {t} FINAL WHERE id = 3"), "3\t1\t2\t3\t7\t9.99");
    // A second migration has another name for the table.
    world.sql("ALTER TABLE {t} RENAME gone TO gone_at");
    world.settings.insert("[table]", "deleted = \"gone_at\"".into());
    let fix = migrate(&world);
    assert!(fix.contains("_old_2`"), "{fix}");
    world.once().expect(0);
    assert_eq!(world.ch("SELECT arraySort(groupArray(id)) FROM {t} FINAL"), "[1,3]", "{fix}");
    world.run(&["verify", "--deep", "--repair", "--confirm"]);
    world.once().expect(0);
    world.run(&["verify", "--deep"]).expect(0);
    world.run(&["check"]).expect(0);
    ["{t}_old", "{t}_old_2"].iter().for_each(|old| drop(world.ch(&format!("DROP TABLE {old}"))));
}

#[test]
fn positions_that_are_kept_otherwise_are_converted_and_rows_without_one_stay_in_the_old_table() {
    let millis = "1700000000123";
    let nulls = "_partition Nullable(Int32), _offset Nullable(Int64), _timestamp DateTime('UTC')";
    for (positions, kept, left, shown) in [
        (
            "_partition Int32, _offset Int64, _timestamp Int64",
            format!("7, 0, {millis}"),
            "7, 1, 1700000000".into(),
            "2023-11-14 22:13:20.123",
        ),
        (
            "_partition UInt64, _offset UInt64, _timestamp UInt64",
            format!("7, 0, {millis}"),
            format!("9223372036854775808, 1, {millis}"),
            "2023-11-14 22:13:20.123",
        ),
        (
            "_partition Int32, _offset Int64, _timestamp Nullable(Int64)",
            format!("7, 0, {millis}"),
            "7, 1, NULL".into(),
            "2023-11-14 22:13:20.123",
        ),
        (nulls, "7, 0, 1700000000".into(), "NULL, NULL, 1700000000".into(), "2023-11-14 22:13:20.000"),
    ] {
        let mut world = World::with("recreated_position", &format!("id integer PRIMARY KEY, v integer, {FLAG}"), 1);
        let rows = format!("(1, 101, {kept}), (2, 102, {left})");
        replace_target(&world, &format!("id Int32, v Nullable(Int32), {positions}"), "ReplacingMergeTree", &rows);
        world.sql("INSERT INTO {t} VALUES (1, 1), (2, 2)");
        world.once().expect(78);
        let fix = migrate(&world);
        assert!(fix.contains("are left out that have"), "{fix}");
        assert_eq!(world.ch("SELECT id, v, toString(_timestamp) FROM {t}"), format!("1\t101\t{shown}"), "{fix}");
        world.once().expect(0);
        assert_agrees(&mut world, &fix);
        world.ch("DROP TABLE {t}_old");
    }
}

#[test]
fn positions_whose_meaning_nothing_shows_are_not_taken_over_with_their_rows() {
    let mut world = World::with("recreated_unknown", &format!("id integer PRIMARY KEY, v integer, {FLAG}"), 1);
    let columns =
        "id UInt64, v Nullable(UInt64), _partition Int32, _offset Int64, _timestamp Float64, _ingested_at Int64";
    // The key of one and the value of another are larger than the source's types.
    let rows = "(1, 101, 7, 0, 1.7e9, 5), (2, NULL, 7, 1, 1.7e9, 5), (9223372036854775808, 103, 7, 2, 1.7e9, 5), (4, 5000000000, 7, 3, 1.7e9, 5)";
    replace_target(&world, columns, "ReplacingMergeTree", rows);
    world.sql("INSERT INTO {t} VALUES (1, 1, TRUE), (2, 2, FALSE), (3, 3, FALSE)");
    world.once().expect(78);
    let fix = migrate(&world);
    assert!(fix.contains("`_ingested_at` becomes the time of this INSERT") && fix.contains("any version"), "{fix}");
    assert_eq!(world.ch("SELECT id, v, _offset >= 0 FROM {t} ORDER BY id"), "1\t101\t1\n2\t\\N\t1", "{fix}");
    world.once().expect(0);
    world.run(&["verify", "--deep", "--repair", "--confirm"]).expect(65);
    world.once().expect(0);
    assert_agrees(&mut world, &fix);
    world.ch("DROP TABLE {t}_old");
}

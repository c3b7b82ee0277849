//! `pg2ch verify` tells what differs between PostgreSQL and ClickHouse, and why, and `--repair` brings what is missing.

use std::time::Duration;

use crate::common::servers::Servers;
use crate::common::{Ended, USER_LOGINS, World, signal_process};
use serde_json::Value;

/// The report of the only table.
fn verify(world: &World, args: &[&str], code: i32) -> Value {
    let ended = world.run(&[&["verify", "--json"], args].concat()).expect(code);
    let result: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(result["exit_code"], code);
    result["tables"][0].clone()
}

/// The counts that are not zero, but for the rows and keys themselves.
fn findings(report: &Value) -> Vec<(String, i64)> {
    let number = |value: &Value| value.as_i64().or_else(|| value["count"].as_i64());
    let names = ["unsent", "in_topic", "only_in_target", "dead_letters", "missing", "doubled", "different"];
    let counts = names.iter().map(|name| ((*name).to_owned(), number(&report[*name]).unwrap()));
    counts.filter(|(_, count)| *count != 0).collect()
}

fn assert_equal(world: &World) {
    let report = verify(world, &["--deep"], 0);
    assert_eq!(findings(&report), [], "{report}");
    assert_eq!(report["rows_compared"], report["rows"], "{report}");
    assert_eq!(report["complete"], true);
}

fn found(name: &str, count: i64) -> Vec<(String, i64)> {
    vec![(name.to_owned(), count)]
}

#[test]
fn after_a_run_the_two_are_equal_and_an_empty_table_equals_an_empty_target() {
    let mut world = World::new("equal");
    assert_equal(&world);
    world.insert_rows(1_000);
    world.once().expect(0);
    assert_equal(&world);
    let text = world.run(&["verify"]).expect(0).stdout;
    assert!(text.contains(": equal (1,000 rows, 1,000 keys in the target"), "{text}");
}

#[test]
fn rows_that_wait_for_a_run_are_no_difference() {
    let mut world = World::new("waits");
    world.insert_rows(100);
    world.once().expect(0);

    world.insert_rows(5);
    world.sql("UPDATE {t} SET user_id = 0, sent_to_kafka = FALSE WHERE id <= 3");
    assert_eq!(findings(&verify(&world, &["--deep"], 0)), found("unsent", 8));

    world.run(&["produce"]).expect(0);
    assert_eq!(findings(&verify(&world, &[], 0)), found("in_topic", 5), "by key, an update cannot be seen");
    assert_eq!(findings(&verify(&world, &["--deep"], 0)), found("in_topic", 8));

    world.run(&["consume"]).expect(0);
    assert_equal(&world);
}

#[test]
fn a_refused_row_is_a_dead_letter_until_it_is_replayed() {
    let mut world = World::new("letters");
    world.ch("ALTER TABLE {t} ADD CONSTRAINT picky CHECK user_id != 3 AND user_id != 700");
    world.insert_rows(10);
    world.once().expect(65);
    let report = verify(&world, &[], 65);
    assert_eq!(findings(&report), found("dead_letters", 1));
    assert_eq!(report["dead_letters"]["keys"][0], "3");

    world.sql("UPDATE {t} SET user_id = 700, sent_to_kafka = FALSE WHERE id = 7");
    world.once().expect(65);
    for args in [&[][..], &["--deep"]] {
        let told = findings(&verify(&world, args, 65));
        assert_eq!(told, found("dead_letters", 2), "also where the target has an older version");
    }
    let asked = verify(&world, &["--deep", "--repair", "--confirm"], 65);
    assert_eq!(asked["repair"]["unflagged"], 0, "a refused row would be refused again");

    world.ch("ALTER TABLE {t} DROP CONSTRAINT picky");
    world.run(&["dead-letters", "replay"]).expect(0);
    assert_equal(&world);
}

#[test]
fn a_dead_letter_is_found_where_nothing_differs_that_can_be_compared() {
    let mut world = World::new("letters_of_new_columns");
    world.insert_rows(3);
    world.once().expect(0);
    world.sql("ALTER TABLE {t} ADD COLUMN note text");
    world.sql("UPDATE {t} SET note = 'new', sent_to_kafka = FALSE WHERE id = 2");
    world.once().expect(65);
    // Letters of what is in no row: a key of another type, and a row that was deleted.
    world.send(&[(0, "no number", Some("{}")), (0, "4711", Some("{}"))]);
    world.run(&["consume"]).expect(65);
    for args in [&[][..], &["--deep"]] {
        let report = verify(&world, args, 65);
        assert_eq!(findings(&report), found("dead_letters", 1), "{report}");
        assert_eq!(report["dead_letters"]["keys"], serde_json::json!(["2"]));
    }
    world.sql("UPDATE {t} SET note = NULL, sent_to_kafka = FALSE WHERE id = 2");
    world.run(&["init"]).expect(0);
    assert_eq!(findings(&verify(&world, &[], 0)), found("unsent", 1), "what is sent again waits for a run");
    world.once().expect(0);
    assert_equal(&world);
}

#[test]
fn a_row_that_was_lost_in_the_target_is_missing_until_repair_and_a_run_have_brought_it() {
    let mut world = World::new("lost");
    world.insert_rows(2_000);
    world.once().expect(0);
    world.delete_from_target("id IN (7, 1999)");

    let report = verify(&world, &[], 65);
    assert_eq!(findings(&report), found("missing", 2));
    let mut keys: Vec<&str> = report["missing"]["keys"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["1999", "7"]);

    let asked = verify(&world, &["--repair"], 65);
    assert_eq!((&asked["repair"]["wanted"], &asked["repair"]["confirmed"]), (&2.into(), &false.into()));
    assert_eq!(world.unsent(), 0, "nothing was done without --confirm");

    let repaired = verify(&world, &["--repair", "--confirm"], 65);
    assert_eq!((&repaired["repair"]["unflagged"], &repaired["repair"]["confirmed"]), (&2.into(), &true.into()));
    assert_eq!(findings(&verify(&world, &[], 0)), found("unsent", 2));
    world.once().expect(0);
    assert_equal(&world);
    assert_eq!(world.records(), 2_002, "each went out once more");
}

#[test]
fn repair_keeps_out_while_a_run_holds_the_lock() {
    let mut world = World::new("locked");
    world.insert_rows(20);
    let mut run = world.start_stopped_at("lock.after");

    let busy = world.run(&["verify", "--repair", "--confirm"]).expect(75);
    assert!(busy.stderr.contains("another run holds it"), "{}", busy.stderr);
    assert_eq!(findings(&verify(&world, &["--repair"], 0)), found("unsent", 20), "to look, no lock is needed");

    run.go_on();
    run.end().expect(0);
}

#[test]
fn repair_flags_what_a_dead_run_had_delivered_and_leaves_it_to_the_second_leg() {
    let mut world = World::new("recovers");
    world.insert_rows(20);
    world.kill_at("kafka.commit.after", &["produce"]);
    assert_eq!(world.unsent(), 20);

    let repaired = verify(&world, &["--repair", "--confirm"], 0);

    assert_eq!((&repaired["repair"]["recovered"], &repaired["repair"]["unflagged"]), (&20.into(), &0.into()));
    assert_eq!(findings(&repaired), found("in_topic", 20));
    world.once().expect(0);
    assert_equal(&world);
    world.assert_exactly_once();
}

#[test]
fn a_record_that_is_in_the_target_twice_is_doubled() {
    let mut world = World::new("doubled");
    world.stop_merges();
    world.insert_rows(50);
    world.once().expect(0);
    world.ch("INSERT INTO {t} SELECT * FROM {t} WHERE id IN (4, 5)");
    world.ch("INSERT INTO {t} SELECT * FROM {t} WHERE id = 5 LIMIT 1");

    let report = verify(&world, &["--deep"], 65);

    assert_eq!(findings(&report), found("doubled", 3));
    let mut keys: Vec<&str> = report["doubled"]["keys"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["4", "5"]);
}

#[test]
fn a_row_sent_twice_on_purpose_is_not_doubled() {
    let mut world = World::new("versions");
    world.stop_merges();
    world.insert_rows(50);
    world.once().expect(0);
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE");
    world.once().expect(0);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 100);
    assert_equal(&world);
}

#[test]
fn a_row_that_was_deleted_in_postgresql_is_a_note() {
    let mut world = World::new("deleted");
    world.insert_rows(30);
    world.once().expect(0);
    world.sql("DELETE FROM {t} WHERE id = 9");

    let report = verify(&world, &["--deep"], 0);

    assert_eq!(findings(&report), found("only_in_target", 1));
    assert_eq!(report["only_in_target"]["keys"][0], "9");
}

#[test]
fn only_deep_finds_a_changed_content_and_it_names_the_column() {
    let mut world = World::new("content");
    world.insert_rows(300);
    world.once().expect(0);
    world.ch("ALTER TABLE {t} UPDATE event_type = 'forged' WHERE id = 77 SETTINGS mutations_sync = 2");
    world.sql("UPDATE {t} SET payload = NULL WHERE id = 78");

    assert_eq!(findings(&verify(&world, &[], 0)), []);
    let report = verify(&world, &["--deep"], 65);
    assert_eq!(findings(&report), found("different", 2));
    let told = &report["differences"][0];
    assert_eq!((&told["key"], &told["column"]), (&"77".into(), &"event_type".into()));
    assert_eq!((&told["source"], &told["target"]), (&"\"login\"".into(), &"forged".into()));
    let told = &report["differences"][1];
    assert_eq!((&told["key"], &told["column"], &told["source"]), (&"78".into(), &"payload".into(), &"null".into()));

    let repaired = verify(&world, &["--deep", "--repair", "--confirm"], 65);
    assert_eq!(repaired["repair"]["unflagged"], 2);
    world.once().expect(0);
    assert_equal(&world);
}

/// A table with another key: compared when it is equal, and when rows are gone from the target.
fn other_key(name: &str, columns: &str, key: &str, rows: &str) {
    let mut world =
        World::unmade(Servers::shared(), name, &format!("{columns}, sent_to_kafka boolean DEFAULT FALSE"), 2);
    world.settings.insert("[table]", format!("key = {key}"));
    world.run(&["init"]).expect(0);
    world.sql(&format!("INSERT INTO {{t}} {rows}"));
    world.once().expect(0);
    assert_equal(&world);

    let rows = world.sql_number("SELECT count(*) FROM {t}");
    world.delete_from_target("1");
    let report = verify(&world, &["--deep", "--repair", "--confirm"], 65);
    assert_eq!(findings(&report), found("missing", rows), "{report}");
    assert_eq!(report["repair"]["unflagged"], rows, "{report}");
    world.once().expect(0);
    assert_equal(&world);
}

#[test]
fn keys_of_text_may_hold_any_character() {
    let values = r#"(''), (' '), ('a'), ('A'), ('a '), ('it''s'), ('back\slash'), ('"quoted"'), (E'tab\tline\nend\r'),
        (E'\x01\x1e\x1f\x7f'), ('é'), (E'e\u0301'), ('日本'), ('😀'), ('%_{}[]'), ('NULL'), ('\N')"#;
    other_key("key_text", "k text PRIMARY KEY, n int", "\"k\"", &format!("(k) VALUES {values}"));
}

#[test]
fn keys_are_compared_by_uuid_time_number_date_and_by_padded_text() {
    let numbers = "generate_series(1, 40) n";
    other_key(
        "key_uuid",
        "k uuid PRIMARY KEY, n int",
        "\"k\"",
        &format!("SELECT md5(n::text)::uuid, n FROM {numbers}"),
    );
    other_key(
        "key_time",
        "k timestamptz, l timestamp(3), n int, PRIMARY KEY (k, l)",
        r#"["k", "l"]"#,
        &format!(
            "SELECT '1969-12-31 23:59:50Z'::timestamptz + n * interval '0.5000005 s', '2026-01-01'::timestamp + n * interval '0.25 s', n FROM {numbers}"
        ),
    );
    other_key(
        "key_number",
        "k numeric(12,3), l numeric, m smallint, n int, PRIMARY KEY (k, l, m)",
        r#"["k", "l", "m"]"#,
        &format!("SELECT n * 2.5 - 50, n * 100.10, -n, n FROM {numbers}"),
    );
    other_key(
        "key_date",
        "k date, l char(4), m boolean, n int, PRIMARY KEY (k, l, m)",
        r#"["k", "l", "m"]"#,
        &format!("SELECT '1969-12-20'::date + n, chr(64 + n), n % 2 = 0, n FROM {numbers}"),
    );
}

#[test]
fn the_columns_of_a_key_are_not_run_together() {
    let rows = r"VALUES (E'a\x1fb', 'c', 1), ('a', E'b\x1fc', 2), (E'a\x1e1b', 'c', 3), ('a,b', 'c', 4), ('a', 'b,c', 5), ('', E'\x1f', 6), (E'\x1f', '', 7)";
    other_key("key_pair", "a text, b text, n int, PRIMARY KEY (a, b)", r#"["a", "b"]"#, rows);
}

#[test]
fn a_day_before_our_era_is_another_key_than_the_same_day_of_it() {
    for (kind, day) in [("date", "2044-03-15"), ("timestamptz", "2044-03-15 00:00:00+00")] {
        let columns = format!("k {kind} PRIMARY KEY, n int, sent_to_kafka boolean NOT NULL DEFAULT FALSE");
        let mut world = World::unmade(Servers::shared(), &format!("era_{kind}"), &columns, 1);
        world.settings.insert("[table]", "key = \"k\"".into());
        world.run(&["init"]).expect(0);
        world.ch("INSERT INTO {t} (k, n, _partition, _offset, _timestamp) VALUES ('2044-03-15', 1, 0, 0, 0)");
        world.sql(&format!("INSERT INTO {{t}} VALUES ('{day} BC', 2)"));
        world.once().expect(65);
        let report = verify(&world, &[], 65);
        assert_eq!(findings(&report), [("only_in_target".to_owned(), 1), ("dead_letters".to_owned(), 1)], "{report}");
        assert!(report["dead_letters"]["keys"][0].as_str().unwrap().ends_with(" BC"), "{report}");
    }
}

#[test]
fn a_key_without_a_known_equal_text_is_refused() {
    let columns = "k double precision PRIMARY KEY, sent_to_kafka boolean DEFAULT FALSE";
    let mut world = World::unmade(Servers::shared(), "key_float", columns, 1);
    world.settings.insert("[table]", "key = \"k\"".into());
    world.run(&["init"]).expect(0);
    world.sql("INSERT INTO {t} VALUES (1.5), (1e20), ('NaN')");
    world.once().expect(0);
    let ended = world.run(&["verify"]).expect(78);
    assert!(ended.stderr.contains("is double precision in PostgreSQL"), "{}", ended.stderr);
    // What the hint says.
    let hint = "hint: name a new table as `target` in [[table]]";
    assert!(ended.stderr.contains(hint), "{}", ended.stderr);
    world.settings.insert("[table]", "key = \"k\"\ntarget = \"analytics.{t}_new\"".replace("{t}", &world.name));
    let printed = world.run(&["init", "--print"]).expect(0).stdout;
    let create = printed.split_once("CREATE TABLE").unwrap().1.split_once(';').unwrap().0;
    assert!(create.contains("`k` Float64"), "{printed}");
    world.ch(&format!("CREATE TABLE{}", create.replace("`k` Float64", "`k` String")));
    world.once().expect(0);
    assert_equal(&world);
    world.ch("DROP TABLE {t}_new");
}

#[test]
fn an_extreme_value_keeps_no_table_from_being_compared() {
    let columns = "id int PRIMARY KEY, d date, n numeric, f float8, i interval, c time, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    let mut world = World::unmade(Servers::shared(), "extremes", columns, 1);
    world.sql("CREATE TYPE {t}_pair AS (a json, b int)");
    world.sql(
        "ALTER TABLE {t} ADD ts timestamp, ADD tz timestamptz, ADD j json, ADD js json[], ADD p {t}_pair, ADD ps {t}_pair[] NOT NULL DEFAULT '{}'",
    );
    world.run(&["init"]).expect(0);
    let refused = [
        ("d", "'5874897-12-31'"),
        ("d", "'4713-01-01 BC'"),
        ("d", "'-infinity'"),
        ("ts", "'294276-12-31 23:59:59.999999'"),
        ("ts", "'4713-01-01 BC'"),
        ("ts", "'infinity'"),
        ("tz", "'294276-12-31 23:59:59.999999Z'"),
        ("tz", "'-infinity'"),
    ];
    let stored = [
        ("d", "'2020-01-01'"),
        ("n", "'NaN'"),
        ("n", "1e131071"),
        ("f", "'-infinity'"),
        ("f", "1e308"),
        ("i", "'178000000 years'"),
        ("c", "'24:00'"),
        ("j", r#"'"\u0000"'"#),
        ("js", r#"array['"\u0000"']::json[]"#),
        ("js", r#"'[0:0]={"[\"\\u0000\"]"}'"#),
        ("p", r#"row('"\u0000"', 1)::{t}_pair"#),
        ("ps", r#"array[row('"\u0000"', 1)]::{t}_pair[]"#),
    ];
    for (id, (column, value)) in refused.iter().chain(&stored).enumerate() {
        world.sql(&format!("INSERT INTO {{t}} (id, {column}) VALUES ({id}, {value})"));
    }
    world.once().expect(65);
    let report = verify(&world, &["--deep"], 65);
    assert_eq!(findings(&report), found("dead_letters", 8), "{report:#}");
    assert_eq!(report["rows_compared"], 12, "{report:#}");
    world.sql("ALTER TABLE {t} DROP p, DROP ps");
    world.sql("DROP TYPE {t}_pair");
}

#[test]
fn an_extreme_value_in_a_key_or_in_the_ttl_keeps_no_table_from_being_compared() {
    for (kind, zone) in [("date", ""), ("timestamp(3)", "DateTime"), ("timestamptz", "")] {
        let columns = format!(
            "k {kind} PRIMARY KEY, at {kind} NOT NULL, e date NOT NULL, sent_to_kafka boolean NOT NULL DEFAULT FALSE"
        );
        let mut world = World::unmade(Servers::shared(), "extreme_keys", &columns, 1);
        let lossy = if zone.is_empty() { "" } else { "allow_lossy = [\"at\"]" };
        world.settings.insert("[table]", format!("key = \"k\"\n{lossy}"));
        world.run(&["init"]).expect(0);
        if !zone.is_empty() {
            world.ch(&format!("ALTER TABLE {{t}} MODIFY COLUMN at {zone}"));
        }
        world.ch("ALTER TABLE {t} MODIFY TTL toDateTime(at) + toIntervalYear(20) DELETE WHERE e > '1950-01-01'");
        for values in [
            "'5874-12-31', 'infinity', '2020-01-01'",
            "'infinity', '2020-01-01', '2020-01-01'",
            "'-infinity', '1980-01-01', '5874897-12-31'",
            "'4713-01-01 BC', '2300-01-01', '2020-01-01'",
            "'2001-01-01', '1980-01-01', '2020-01-01'",
            "'2002-01-01', '2020-01-01', '2020-01-01'",
            "'2003-01-01', '2020-01-01', '2020-01-01'",
        ] {
            world.sql(&format!("INSERT INTO {{t}} VALUES ({values})"));
        }
        world.once().expect(65);
        world.delete_from_target("k < toDate32('2003-01-01')");
        let report = verify(&world, &["--deep"], 65);
        assert_eq!(
            findings(&report),
            [("dead_letters".to_owned(), 4), ("missing".to_owned(), 1)],
            "{kind}: {report:#}"
        );
        assert_eq!((&report["expired"], &report["rows_compared"]), (&1.into(), &1.into()), "{kind}: {report:#}");
    }
}

#[test]
fn rows_that_arrive_between_two_looks_are_not_missing() {
    for (args, waits) in [(&["--once"][..], 0), (&["produce"], 20)] {
        let mut world = World::new("arrive");
        world.insert_rows(300);
        world.once().expect(0);
        // So many keys of the target only make every bucket differ.
        world.sql("DELETE FROM {t}");
        world.insert_rows(20);

        let mut looking = world.start_command_stopped_at(&["verify", "--json"], "verify.keys.asked");
        world.run(args).expect(0);
        looking.go_on();

        let report = looking.end().expect(0).report();
        assert_eq!((&report["missing"]["count"], &report["in_topic"]), (&0.into(), &waits.into()), "{report}");
        assert_eq!(report["only_in_target"]["count"], 300);
    }
}

#[test]
fn rows_that_change_between_two_looks_are_not_different() {
    let mut world = World::new("change");
    world.insert_rows(20);
    world.once().expect(0);

    let mut looking = world.start_command_stopped_at(&["verify", "--json", "--deep"], "verify.rows.asked");
    world.sql("UPDATE {t} SET user_id = -id, sent_to_kafka = FALSE");
    world.once().expect(0);
    looking.go_on();

    assert_eq!(findings(&looking.end().expect(0).report()), []);
}

#[test]
fn a_member_that_a_document_lacks_is_null_in_a_tuple_for_the_run_and_for_verify() {
    let columns = format!("{USER_LOGINS}, doc jsonb NOT NULL DEFAULT '{{}}'");
    let mut world = World::with("lacking_members", &columns, 1);
    world.settings.insert("[table]", "allow_lossy = [\"doc\"]".into());
    world.ch("ALTER TABLE {t} DROP COLUMN doc");
    world.ch("ALTER TABLE {t} ADD COLUMN doc Tuple(a Nullable(String), b Nullable(String))");
    world.insert_rows(2);
    world.sql("UPDATE {t} SET doc = '{\"a\": null}' WHERE id = 2");
    let lacking = &world.once().expect(0).report()["consume"]["fields_lacking"];
    assert_eq!(lacking, &serde_json::json!({ "doc.a": 1, "doc.b": 2 }));
    assert_equal(&world);
}

#[test]
fn what_was_not_compared_to_its_end_does_not_count_as_equal() {
    let mut world = World::new("interrupted");
    world.insert_rows(20);
    world.once().expect(0);
    let interrupted = |world: &World, args: &[&str]| {
        let mut looking = world.start_command_stopped_at(&[&["verify", "--deep"], args].concat(), "verify.rows.asked");
        if !args.contains(&"--max-seconds") {
            signal_process("TERM", looking.pid());
        }
        std::thread::sleep(Duration::from_millis(1_100));
        looking.go_on();
        looking.end()
    };
    for args in [&["--quiet"][..], &["--quiet", "--max-seconds", "1"]] {
        let ended = interrupted(&world, args).expect(75);
        assert!(
            ended.stdout.contains("equal as far as they were compared: verify was interrupted"),
            "{}",
            ended.stdout
        );
    }
    let ended = interrupted(&world, &["--json"]).expect(75);
    let result: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&result["exit_code"], &result["tables"][0]["complete"]), (&75.into(), &false.into()));
    // What was found is found.
    world.sql("UPDATE {t} SET user_id = -1 WHERE id = 1");
    interrupted(&world, &[]).expect(65);
}

/// Runs verify to its end; returns the report, and the most memory that it had, in kB.
fn measured(world: &World, args: &[&str], code: i32) -> (Value, u64) {
    let mut child = world.start(&[&["verify", "--json"], args].concat());
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        most = most.max(line.map_or(0, |line| line.trim().trim_end_matches(" kB").parse().unwrap()));
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = Ended::after(child).expect(code);
    (ended.report(), most)
}

#[test]
fn two_hundred_thousand_rows_are_compared_in_little_memory() {
    let mut world = World::new("many");
    world.insert_rows(200_000);
    world.once().expect(0);

    let (report, equal) = measured(&world, &["--deep"], 0);
    assert_eq!((findings(&report), &report["rows_compared"]), (vec![], &200_000.into()));
    world.ch("TRUNCATE TABLE {t}");
    let (report, missing) = measured(&world, &["--repair", "--confirm"], 65);
    assert_eq!((findings(&report), &report["repair"]["unflagged"]), (found("missing", 200_000), &200_000.into()));
    assert_eq!(world.unsent(), 200_000);

    println!("at most {equal} kB where all is equal, {missing} kB where all is missing");
    assert!(equal > 1_000 && equal.max(missing) < 64_000, "{equal} kB, {missing} kB");
}

#[test]
fn what_the_ttl_has_deleted_is_expired_and_repair_leaves_it_alone() {
    let mut world = World::new("expired");
    world.ch("ALTER TABLE {t} MODIFY TTL toDateTime(event_time) + toIntervalDay(30) DELETE WHERE event_type = 'login'");
    world.insert_rows(200);
    world.sql("UPDATE {t} SET event_time = event_time - interval '31 days' WHERE id <= 111");
    world.sql("UPDATE {t} SET event_type = 'kept' WHERE id <= 10");
    world.once().expect(0);
    world.delete_from_target("id IN (5, 150)");

    let report = verify(&world, &["--repair", "--deep"], 65);

    assert_eq!((&report["expired"], &report["missing"]["count"]), (&101.into(), &2.into()), "{report:#}");
    assert_eq!(report["repair"]["wanted"], 2);
    verify(&world, &["--repair", "--confirm"], 65);
    world.once().expect(0);
    let report = verify(&world, &[], 0);
    assert_eq!((&report["expired"], findings(&report)), (&101.into(), vec![]), "sent once: not round and round");
}

#[test]
fn a_ttl_over_what_postgresql_does_not_know_leaves_repair_without_work() {
    let mut world = World::new("expired_unknown");
    world.ch("ALTER TABLE {t} MODIFY TTL toDateTime(_ingested_at) + toIntervalDay(30)");
    world.insert_rows(20);
    world.once().expect(0);
    world.delete_from_target("id <= 3");
    let report = verify(&world, &["--repair"], 65);
    assert_eq!((findings(&report), &report["repair"]["wanted"]), (found("missing", 3), &0.into()));
    assert!(report["expiry_unknown"].as_str().unwrap().contains("_ingested_at"), "{report}");
    let told = world.run(&["verify"]).expect(65).stdout;
    assert!(told.contains("TTL may have deleted what is missing"), "{told}");
}

#[test]
fn a_row_whose_flag_is_null_is_never_sent_and_verify_says_so() {
    let columns =
        USER_LOGINS.replace("sent_to_kafka boolean NOT NULL DEFAULT FALSE", "sent_to_kafka boolean DEFAULT FALSE");
    let mut world = World::with("null_flag", &columns, 1);
    world.insert_rows(10);
    world.sql("UPDATE {t} SET sent_to_kafka = NULL WHERE id <= 3");
    world.once().expect(0);
    let report = verify(&world, &[], 65);
    assert_eq!((&report["never_sent"], &report["unsent"]), (&3.into(), &0.into()), "{report}");
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE WHERE sent_to_kafka IS NULL");
    world.once().expect(0);
    assert_equal(&world);
}

//! `where` in `[[table]]`: rows outside it stay unsent, and nothing that was sent is forgotten for it.

use crate::common::servers::Servers;
use crate::common::{Ended, USER_LOGINS, World};
use serde_json::Value;

fn choose(world: &mut World, condition: &str) {
    world.settings.insert("[table]", format!("where = '''{condition}'''"));
}

/// A table like `user_logins` whose rows are taken by a condition, made before `pg2ch init`.
fn choosing(name: &str, condition: &str) -> World {
    let mut world = World::unmade(Servers::shared(), name, USER_LOGINS, 2);
    choose(&mut world, condition);
    world.run(&["init"]).expect(0);
    world.stop_merges();
    world
}

fn first_table(world: &World, args: &[&str], code: i32) -> Value {
    let ended = world.run(args).expect(code);
    serde_json::from_str::<Value>(&ended.stdout).unwrap()["tables"][0].clone()
}

fn copies(world: &World, key: &str) -> usize {
    world.topic().iter().filter(|record| record.key == key).count()
}

#[test]
fn rows_outside_the_condition_stay_unsent_and_go_when_they_come_within() {
    let mut world = choosing("within", "event_type <> 'draft' -- drafts are nobody's business");
    world.insert_rows(10);
    world.sql("UPDATE {t} SET event_type = 'draft' WHERE id IN (1, 5, 10)");

    let ended = world.once().expect(0);

    assert_eq!((ended.number("produce", "rows_flagged"), world.unsent()), (7, 3));
    assert_eq!(ended.report()["complete"], true);
    assert_eq!(first_table(&world, &["status", "--json"], 0)["unsent"]["rows"], 0);
    let verified = first_table(&world, &["verify", "--deep", "--json"], 0);
    assert_eq!((&verified["rows"], &verified["unsent"]), (&7.into(), &0.into()), "{verified}");
    assert_eq!(world.once().expect(0).number("produce", "rows_read"), 0);

    world.sql("UPDATE {t} SET event_type = 'login' WHERE id = 5");
    assert_eq!(first_table(&world, &["status", "--json"], 0)["unsent"]["lowest_key"], "5");
    assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 1);
    assert_eq!((world.unsent(), world.records()), (2, 8));
}

#[test]
fn a_row_that_leaves_the_condition_after_it_was_sent_is_not_sent_again_until_it_comes_back() {
    let mut world = choosing("leaves", "event_type <> 'draft'");
    world.insert_rows(3);
    let mut run = world.start_stopped_at("kafka.commit.after");
    world.sql("UPDATE {t} SET event_type = 'draft' WHERE id = 2");
    run.go_on();
    let ended = run.end().expect(0);
    assert_eq!((ended.number("produce", "rows_flagged"), ended.number("produce", "rows_changed")), (2, 1));

    // Outside, it is nobody's business any more: the target keeps the version that was sent.
    assert_eq!(world.once().expect(0).number("produce", "rows_read"), 0);
    assert_eq!((copies(&world, "2"), world.unsent()), (1, 1));
    let verified = first_table(&world, &["verify", "--deep", "--json"], 0);
    assert_eq!((&verified["rows"], &verified["only_in_target"]["count"]), (&2.into(), &1.into()), "{verified}");

    world.sql("UPDATE {t} SET event_type = 'logout' WHERE id = 2");
    world.once().expect(0);
    world.assert_exactly_once();
    assert_eq!(copies(&world, "2"), 2);
}

#[test]
fn another_condition_after_a_crash_neither_sends_twice_nor_forgets_what_was_delivered() {
    let mut world = choosing("changed", "id <= 6");
    world.insert_rows(10);
    world.kill_at("kafka.commit.after", &["produce"]);
    assert_eq!(world.unsent(), 10);

    // No row is within the condition now: nothing is done, and nothing is lost by it.
    choose(&mut world, "id > 10");
    assert_eq!(world.run(&["produce", "--json"]).expect(0).number("produce", "rows_recovered"), 0);

    // Recovery looks at every row, whatever the condition takes.
    choose(&mut world, "id > 5");
    let ended = world.once().expect(0);
    assert_eq!((ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent")), (6, 4));
    world.assert_exactly_once();
}

#[test]
fn what_is_not_one_condition_is_refused_before_anything_is_sent() {
    let mut world = World::new("no_condition");
    world.insert_rows(3);
    world.once().expect(0);
    for (condition, why) in [
        // Between parentheses alone it would read flagged rows again.
        ("id = 1) OR (id = 2", "syntax error"),
        ("id = 1] || ARRAY[id = 2", "syntax error"),
        ("TRUE); DROP TABLE pg2ch_checkpoint; SELECT (TRUE", "syntax error"),
        ("TRUE /* and so on", "unterminated /* comment"),
        ("id", "argument of WHERE must be type boolean"),
        ("id = 1, id = 2", "argument of WHERE must be type boolean"),
        ("no_such_column", "column \"no_such_column\" does not exist"),
        ("id = 'one'", "invalid input syntax"),
        ("id = $1", "it has parameters"),
        ("count(*) > 1", "aggregate functions are not allowed in WHERE"),
    ] {
        choose(&mut world, condition);
        let ended = world.once().expect(78);
        assert!(ended.stderr.contains(why), "{condition}: {}", ended.stderr);
        let report = first_table(&world, &["check", "--json"], 78);
        assert!(report["findings"].to_string().contains("source-unfit"), "{condition}: {report}");
    }
    assert_eq!(world.records(), 3);
}

#[test]
fn what_the_role_may_not_use_of_a_condition_is_granted_by_the_statements_told() {
    let mut world = choosing("closed_condition", "TRUE");
    let name = world.name.clone();
    world.insert_rows(3);
    let role = world.become_role(
        "GRANT SELECT, UPDATE ON {t} TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held, pg2ch_runs TO {role};
         CREATE SCHEMA {t}_ext; CREATE TABLE {t}_ext.allowed AS SELECT 1 AS id;
         CREATE FUNCTION {t}_ext.ready(bigint) RETURNS boolean LANGUAGE sql AS 'SELECT $1 > 1';
         CREATE FUNCTION {t}_ext.ready(text) RETURNS boolean LANGUAGE sql AS 'SELECT TRUE';
         REVOKE EXECUTE ON FUNCTION {t}_ext.ready(bigint) FROM PUBLIC",
    );
    choose(&mut world, &format!("{name}_ext.ready(id) AND id > ALL (SELECT id FROM {name}_ext.allowed)"));
    let grants = [
        format!("GRANT USAGE ON SCHEMA {name}_ext TO {role};"),
        format!("GRANT EXECUTE ON FUNCTION {name}_ext.ready(bigint) TO {role};"),
        format!("GRANT SELECT ON {name}_ext.allowed TO {role};"),
    ];
    for (at, grant) in grants.iter().enumerate() {
        let told =
            format!("hint: grant the role what `where` of [[table]] public.{name} needs: {}", grants[at..].join(" "));
        for command in [&["--once"][..], &["status"], &["verify"]] {
            let Ended { stdout, stderr, .. } = world.run(command).expect(77);
            assert!((stdout.clone() + &stderr).contains(&told), "{command:?}: {stdout}\n{stderr}\n{told}");
        }
        let report = first_table(&world, &["check", "--json"], 78);
        let fixes: Vec<&Value> = report["findings"].as_array().unwrap().iter().map(|finding| &finding["fix"]).collect();
        assert!(grants[at..].iter().all(|grant| fixes.contains(&&Value::from(grant.as_str()))), "{report}");
        world.superuser().batch_execute(grant).unwrap();
    }
    world.once().expect(0);
    assert_eq!((world.records(), world.unsent()), (2, 1));
    world.superuser().batch_execute(&format!("DROP SCHEMA {name}_ext CASCADE")).unwrap();
    world.drop_role(&role);
}

#[test]
fn a_condition_that_fails_on_a_row_is_named() {
    let mut world = choosing("failing_condition", "TRUE");
    world.insert_rows(3);
    choose(&mut world, "100 / (id - 2) > 0");
    for command in [&["--once"][..], &["status"], &["verify"], &["check"]] {
        let Ended { stdout, stderr, .. } = world.run(command).expect(78);
        let told = format!("hint: correct `where` of [[table]] public.{} if it fails on a row", world.name);
        assert!((stdout.clone() + &stderr).contains(&told), "{command:?}: {stdout}\n{stderr}");
    }
    choose(&mut world, "100 / nullif(id - 2, 0) > 0");
    world.once().expect(0);
    assert_eq!((world.records(), world.unsent()), (1, 2));
}

#[test]
fn a_condition_that_means_something_else_to_the_role_is_refused_until_its_operators_are_named() {
    let mut world = World::unmade(Servers::shared(), "two_meanings", "id int PRIMARY KEY, kind int", 1);
    world.superuser().batch_execute("CREATE EXTENSION IF NOT EXISTS citext SCHEMA public").unwrap();
    world.sql("DROP TABLE {t}");
    world
        .sql("CREATE TABLE {t} (id int PRIMARY KEY, kind public.citext, sent_to_kafka boolean NOT NULL DEFAULT FALSE)");
    // A column that no record has counts, too.
    let choose = |world: &mut World, condition: &str| {
        world.settings.insert("[table]", format!("exclude = [\"kind\"]\nwhere = '''{condition}'''"));
    };
    choose(&mut world, "id > 0");
    world.run(&["init"]).expect(0);
    world.sql("INSERT INTO {t} VALUES (1, 'Paid'), (2, 'PAID'), (3, 'paid'), (4, 'open')");
    for other in ["kind = 'paid'", "kind IN ('paid')", "kind LIKE 'p%'"] {
        choose(&mut world, other);
        let refused = world.once().expect(78).stderr;
        assert!(refused.contains("with the role's search path it means"), "{other}: {refused}");
        assert!(refused.contains("OPERATOR(public.=)"), "{other}: {refused}");
        let report = first_table(&world, &["check", "--json"], 78);
        assert!(report["findings"].to_string().contains("source-unfit"), "{other}: {report}");
    }
    assert_eq!((world.records(), world.unsent()), (0, 4));
    for (one, flagged) in [
        ("kind::text = 'paid'", 1),
        ("kind OPERATOR(public.=) ANY ('{paid}'::public.citext[]) AND id < 2", 1),
        ("kind OPERATOR(public.=) 'paid'", 1),
        ("kind OPERATOR(public.~~) 'O%'", 1),
    ] {
        choose(&mut world, one);
        assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), flagged, "{one}");
    }
}

#[test]
fn a_condition_may_name_the_system_columns_of_a_row() {
    let condition = "tableoid IS NOT NULL AND ctid IS NOT NULL AND xmin IS NOT NULL";
    let mut world = choosing("system_columns", condition);
    world.insert_rows(5);
    first_table(&world, &["check", "--json"], 0);
    assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 5);
    world.insert_rows(1);
    world.sql("UPDATE {t} SET sent_to_kafka = TRUE WHERE id = 6");
    let verified = first_table(&world, &["verify", "--deep", "--json"], 65);
    assert_eq!(verified["missing"]["count"], 1, "{verified}");
    // The next run sends what is missing.
    world.run(&["verify", "--deep", "--repair", "--confirm"]).expect(65);
    assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 1);
    first_table(&world, &["verify", "--deep", "--json"], 0);
}

#[test]
fn the_index_of_unsent_rows_has_the_condition_where_an_index_can() {
    let definition =
        "SELECT string_agg(indexdef, ';') FROM pg_indexes WHERE tablename = $1 AND indexdef LIKE '%NOT sent%'";
    for (name, condition, has_it) in [
        ("indexed", "event_type = ANY ('{login,logout}') OR user_id > 7", true),
        ("time", "event_time < now() - interval '1 hour'", false),
        ("subquery", "user_id IN (SELECT 7)", false),
    ] {
        let mut world = choosing(name, condition);
        let made: String = world.pg.query_one(definition, &[&world.name]).unwrap().get(0);
        assert_eq!(made.contains("event_type"), has_it, "{made}");
        assert!(world.run(&["init"]).expect(0).stdout.starts_with("nothing to do: "), "a second init");

        world.insert_rows(4);
        let report = first_table(&world, &["check", "--json"], 0);
        let findings = report["findings"].as_array().unwrap();
        assert!(findings.iter().all(|finding| finding["severity"] != "warning"), "{report}");
        let takes = findings.iter().find(|finding| finding["id"] == "where-takes").expect("what the condition takes");
        let taken = if has_it { 4 } else { 0 };
        assert!(takes["what"].as_str().unwrap().contains(&format!("takes {taken} of 4 ")), "{takes}");
    }
}

#[test]
fn an_index_of_all_unsent_rows_serves_and_a_smaller_one_is_proposed() {
    let mut world = World::new("wide");
    choose(&mut world, "user_id > 1");
    let report = first_table(&world, &["check", "--json"], 0);
    assert!(report["findings"].to_string().contains("index-wide"), "{report}");
    world.run(&["init"]).expect(0);
    let report = first_table(&world, &["check", "--json"], 0);
    assert!(!report["findings"].to_string().contains("index-wide"), "{report}");
}

#[test]
fn columns_of_any_name_may_stand_in_the_condition() {
    let columns = "id bigint PRIMARY KEY, key text, n int, t int, w int, \"Odd \"\"name\" int, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    let mut world = World::unmade(Servers::shared(), "names", columns, 1);
    choose(&mut world, "key = 'a' AND n = 1 AND t = 1 AND w = 1 AND \"Odd \"\"name\" = 1");
    world.run(&["init"]).expect(0);
    world.sql(
        "INSERT INTO {t} SELECT n, CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, 1, 1, 1, 1 FROM generate_series(1, 6) n",
    );
    assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 3);
    world.delete_from_target("id = 2");

    let report = first_table(&world, &["verify", "--deep", "--repair", "--confirm", "--json"], 65);

    assert_eq!((&report["missing"]["count"], &report["repair"]["unflagged"]), (&1.into(), &1.into()), "{report}");
    assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 1);
    first_table(&world, &["verify", "--deep", "--json"], 0);
}

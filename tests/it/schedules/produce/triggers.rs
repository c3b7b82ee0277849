//! Triggers that do something to the flag, or beside it.

use crate::common::{USER_LOGINS, World};

/// Runs five times beside a trigger that takes the flag of row 3 back: it is reported each time, and sent once.
fn sent_once_in_spite_of(name: &str, timing: &str, body: &str) {
    let mut world = World::new(name);
    world.insert_rows(6);
    let t = world.name.clone();
    let body = body.replace("{t}", &t);
    world
        .pg
        .batch_execute(&format!(
            "CREATE FUNCTION {t}_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
             CREATE {timing} FOR EACH ROW EXECUTE FUNCTION {t}_back()",
            timing = timing.replace("{t}", &t),
        ))
        .unwrap();
    for run in 1..=5 {
        let ended = world.run(&["produce", "--json"]).expect(65);
        assert_eq!(ended.report()["produce"]["taken_back"], serde_json::json!(["3"]), "run {run}: {}", ended.stdout);
        assert_eq!((world.unsent(), world.records()), (1, 6), "run {run}");
    }
    world.sql("DROP FUNCTION {t}_back CASCADE");
    world.run(&["produce"]).expect(0);
    assert_eq!(world.records(), 6);
    world.assert_sent_exactly_once();
}

#[test]
fn a_trigger_that_takes_the_flag_back_before_the_update_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_before",
        "TRIGGER back BEFORE UPDATE ON {t}",
        "IF NEW.id = 3 THEN NEW.sent_to_kafka := FALSE; END IF; RETURN NEW;",
    );
}

#[test]
fn a_trigger_that_takes_the_flag_back_after_the_update_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_after",
        "TRIGGER back AFTER UPDATE ON {t}",
        "IF NEW.id = 3 AND NEW.sent_to_kafka THEN UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 3; END IF; RETURN NULL;",
    );
}

#[test]
fn a_trigger_that_takes_the_flag_back_at_the_commit_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_deferred",
        "CONSTRAINT TRIGGER back AFTER UPDATE ON {t} DEFERRABLE INITIALLY DEFERRED",
        "IF NEW.id = 3 AND NEW.sent_to_kafka THEN UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 3; END IF; RETURN NULL;",
    );
}

#[test]
fn a_trigger_that_takes_the_flag_back_in_a_transaction_within_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_within",
        "TRIGGER back AFTER UPDATE ON {t}",
        "IF NEW.id = 3 AND NEW.sent_to_kafka THEN
             BEGIN UPDATE {t} SET sent_to_kafka = FALSE WHERE id = 3; EXCEPTION WHEN division_by_zero THEN NULL; END;
         END IF; RETURN NULL;",
    );
}

#[test]
fn a_trigger_that_suppresses_the_update_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_suppressed",
        "TRIGGER back BEFORE UPDATE ON {t}",
        "IF NEW.id = 3 THEN RETURN NULL; END IF; RETURN NEW;",
    );
}

#[test]
fn a_trigger_that_raises_an_error_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_raised",
        "TRIGGER back BEFORE UPDATE ON {t}",
        "IF NEW.id = 3 THEN RAISE EXCEPTION 'not this one' USING ERRCODE = 'ZZ001'; END IF; RETURN NEW;",
    );
}

#[test]
fn a_trigger_that_raises_an_error_at_the_commit_is_reported_and_the_row_sent_once() {
    sent_once_in_spite_of(
        "back_raised_late",
        "CONSTRAINT TRIGGER back AFTER UPDATE ON {t} DEFERRABLE INITIALLY DEFERRED",
        "IF NEW.id = 3 THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NULL;",
    );
}

/// The last digit of a row's id chooses what a trigger makes of its flag; 0 is let through.
const FAILURES: &[&str] = &[
    "RAISE EXCEPTION 'no' USING ERRCODE = 'insufficient_privilege';",
    "INSERT INTO no_such_table VALUES (1);",
    "PERFORM no_such_function();",
    "RAISE EXCEPTION 'no' USING ERRCODE = '55000';",
    "PERFORM FROM {t}_locked FOR UPDATE NOWAIT;",
    "RAISE EXCEPTION 'no' USING ERRCODE = 'XX000';",
    "RAISE EXCEPTION 'no' USING ERRCODE = '40001';",
    "INSERT INTO {t}_closed VALUES (1);",
    "RAISE EXCEPTION 'no' USING ERRCODE = '28000';",
];

#[test]
fn whatever_a_trigger_fails_with_the_row_is_named_and_the_others_go() {
    let mut world = World::new("failing_trigger");
    let t = world.name.clone();
    world
        .pg
        .batch_execute(&format!("CREATE TABLE {t}_locked AS SELECT 1 AS id; CREATE TABLE {t}_closed (id int)"))
        .unwrap();
    let role = world.become_role(
        "GRANT SELECT, UPDATE ON {t} TO {role}; GRANT SELECT, UPDATE ON {t}_locked TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held, pg2ch_runs TO {role}",
    );
    let cases: String = FAILURES.iter().enumerate().map(|(at, body)| format!("WHEN {} THEN {body} ", at + 1)).collect();
    let make = format!(
        "CREATE FUNCTION {t}_fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             CASE NEW.id % 10 {cases} ELSE NULL; END CASE; RETURN NEW; END $$;
         CREATE TRIGGER fail AFTER UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {t}_fail()"
    );
    world.pg.batch_execute(&make.replace("{t}", &t)).unwrap();
    let mut other = world.servers.session();
    let mut lock = other.transaction().unwrap();
    lock.batch_execute(&format!("SELECT FROM {t}_locked FOR UPDATE")).unwrap();
    // Rows that are flagged by the run that has sent them, and rows that the next one recovers.
    for run in [1, 2] {
        world.insert_rows(10);
        if run == 2 {
            world.kill_at("kafka.commit.after", &["produce"]);
        }
        let ended = world.once().expect(65);
        let refused = ended.report()["produce"]["taken_back"].as_array().unwrap().len();
        assert_eq!((refused, world.unsent(), world.records()), (9 * run, 9 * run as i64, 10 * run), "{}", ended.stderr);
        for key in (1..10 * run).filter(|key| key % 10 != 0) {
            let line = format!("PostgreSQL refuses the flag of the row {key}, which was sent: ");
            assert_eq!(ended.stderr.matches(&line).count(), 1, "{}", ended.stderr);
        }
        assert!(ended.stderr.contains(&format!("PL/pgSQL function {t}_fail() line ")), "{}", ended.stderr);
        assert!(ended.stderr.contains("or make that function SECURITY DEFINER"), "{}", ended.stderr);
        assert_eq!(world.ch_number("SELECT count() FROM {t}"), 10 * run as i64);
    }
    drop(lock);
    assert_eq!(world.once().expect(65).report()["produce"]["taken_back"].as_array().unwrap().len(), 16);
    world.sql("DROP FUNCTION {t}_fail CASCADE");
    world.once().expect(0);
    assert_eq!((world.unsent(), world.records()), (0, 20));
    world.assert_exactly_once();
    world.drop_role(&role);
}

#[test]
fn rows_that_violate_a_constraint_which_is_not_valid_are_named_and_stop_no_other() {
    let mut world = World::new("not_valid");
    let (constraint, drop) = (
        "ALTER TABLE {t} ADD CONSTRAINT known CHECK (event_type <> 'bad') NOT VALID",
        "ALTER TABLE {t} DROP CONSTRAINT known",
    );
    world.insert_rows(1_000);
    world.sql("UPDATE {t} SET event_type = 'bad' WHERE id IN (5, 500, 501)");
    world.sql(constraint);
    // The first run dies before it flags anything: recovery meets these rows, too.
    world.kill_at("kafka.commit.after", &["produce"]);
    let ended = world.once().expect(65);
    for key in [5, 500, 501] {
        let line = format!("PostgreSQL refuses the flag of the row {key}, which was sent: ");
        assert_eq!(ended.stderr.matches(&line).count(), 1, "{}", ended.stderr);
    }
    assert!(ended.stderr.contains("\"known\""), "{}", ended.stderr);
    assert_eq!((world.unsent(), world.ch_number("SELECT count() FROM {t}")), (3, 1_000));
    // Others go on.
    world.insert_rows(10);
    assert_eq!(world.once().expect(65).report()["produce"]["taken_back"], serde_json::json!(["5", "500", "501"]));
    assert_eq!((world.unsent(), world.records()), (3, 1_010));
    // A row that was corrected is a new version; one that is free to be flagged is not sent once more.
    world.sql("UPDATE {t} SET event_type = 'good' WHERE id = 5");
    world.once().expect(65);
    assert_eq!((world.unsent(), world.records()), (2, 1_011));
    world.sql(drop);
    world.once().expect(0);
    assert_eq!((world.unsent(), world.records()), (0, 1_011));
    world.assert_exactly_once();
}

#[test]
fn a_trigger_that_sets_the_time_of_the_last_change_is_no_change() {
    let columns = format!("{USER_LOGINS}, updated_at timestamptz");
    let mut world = World::with("touched", &columns, 1);
    world.insert_rows(6);
    let t = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "CREATE FUNCTION {t}_touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
             CREATE TRIGGER touch BEFORE UPDATE ON {t} FOR EACH ROW EXECUTE FUNCTION {t}_touch()"
        ))
        .unwrap();
    world.run(&["produce"]).expect(0);
    world.insert_rows(6);
    world.kill_at("kafka.commit.after", &["produce"]);
    world.run(&["produce"]).expect(0);
    world.run(&["produce"]).expect(0);
    assert_eq!((world.unsent(), world.records()), (0, 12));
}

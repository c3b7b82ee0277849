//! What `pg2ch check` finds in PostgreSQL is provoked, its own statement is carried out, and the finding is gone.

use crate::common::findings::{assert_cured, assert_found, assert_gone, carry_out, check, finding};
use crate::common::servers::Servers;
use crate::common::{USER_LOGINS, World};
use serde_json::Value;

#[test]
fn what_the_source_lacks_is_mended_by_the_statements_told() {
    let mut world = World::new("check_source");
    for (breakage, id, code) in [
        ("ALTER TABLE {t} ALTER COLUMN sent_to_kafka DROP NOT NULL", "flag-nullable", 0),
        ("ALTER TABLE {t} ALTER COLUMN sent_to_kafka DROP DEFAULT", "flag-default", 0),
        ("ALTER TABLE {t} ALTER COLUMN sent_to_kafka SET DEFAULT TRUE", "flag-default", 0),
        ("ALTER TABLE {t} DROP COLUMN sent_to_kafka", "flag-missing", 78),
        ("ALTER TABLE {t} DROP CONSTRAINT {t}_pkey", "key-not-unique", 78),
        ("ALTER TABLE {t} ALTER COLUMN id DROP IDENTITY, ALTER COLUMN id DROP NOT NULL", "key-nullable", 78),
        ("ALTER TABLE {t} SET (fillfactor = 100)", "fillfactor", 0),
        ("ALTER TABLE {t} SET (autovacuum_enabled = false)", "table-autovacuum-off", 0),
    ] {
        world.superuser().batch_execute(&breakage.replace("{t}", &world.name)).unwrap();
        assert_cured(&mut world, id, code);
    }
    // The flag went with its index, and came back without.
    assert_cured(&mut world, "index-missing", 0);
}

#[test]
fn what_the_configuration_names_wrongly_is_mended_by_naming_another() {
    let mut world = World::new("check_names");
    let name = world.name.clone();
    world.sql("ALTER TABLE {t} ADD COLUMN note text");
    world.sql("CREATE VIEW {t}_view AS SELECT * FROM {t}");
    for (line, id, right) in [
        ("key = \"no_such_column\"", "key-missing", "key = \"id\""),
        ("flag = \"note\"", "flag-type", "flag = \"sent_to_kafka\""),
        ("source = \"public.no_such_table\"", "source-missing", "source = \"public.{t}\""),
        ("source = \"public.{t}_view\"", "source-kind", "source = \"public.{t}\""),
    ] {
        world.settings.insert("[table]", line.replace("{t}", &name));
        let found = assert_found(&world, id, 78);
        // The fix names the key of the configuration that has to be corrected.
        let key = line.split(' ').next().unwrap();
        assert!(found["fix"].as_str().unwrap().contains(&format!("`{key}`")), "{found}");
        world.settings.insert("[table]", right.replace("{t}", &name));
        assert_gone(&world, id);
    }
}

#[test]
fn every_grant_that_a_closed_database_lacks_is_told_one_after_the_other() {
    let mut world = World::on(Servers::in_new_database("check_closed"), "check_closed", USER_LOGINS, 1);
    let database = world.servers.database().to_owned();
    let role = world.become_role(&format!(
        "REVOKE ALL ON DATABASE {database} FROM PUBLIC; GRANT CONNECT ON DATABASE {database} TO {{role}};
         CREATE SCHEMA closed AUTHORIZATION app; ALTER TABLE {{t}} SET SCHEMA closed"
    ));
    world.settings.insert("[table]", format!("source = \"closed.{}\"", world.name));
    let mut asked = Vec::new();
    loop {
        let report: Value = serde_json::from_str(&world.run(&["check", "--json"]).stdout).unwrap();
        let found = ["grant-missing", "runs-grant-missing"].iter().find_map(|id| finding(&report["tables"][0], id));
        let Some(missing) = found else { break };
        asked.push(
            missing["fix"].as_str().unwrap().replace(&role, "pg2ch").replace(&world.name, "t").replace(&database, "d"),
        );
        carry_out(&world, &missing);
        assert!(asked.len() < 15, "{asked:?}");
    }
    assert_eq!(
        asked,
        [
            "GRANT USAGE ON SCHEMA \"closed\" TO pg2ch;",
            "GRANT SELECT ON closed.t TO pg2ch;",
            "GRANT UPDATE (\"sent_to_kafka\") ON closed.t TO pg2ch;",
            "GRANT TEMPORARY ON DATABASE d TO pg2ch;",
            "GRANT SELECT ON pg2ch_checkpoint TO pg2ch;",
            "GRANT INSERT ON pg2ch_checkpoint TO pg2ch;",
            "GRANT UPDATE ON pg2ch_checkpoint TO pg2ch;",
            "GRANT SELECT ON pg2ch_held TO pg2ch;",
            "GRANT INSERT ON pg2ch_held TO pg2ch;",
            "GRANT DELETE ON pg2ch_held TO pg2ch;",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_runs TO pg2ch;",
        ]
    );
    check(&world, 0);
}

#[test]
fn the_tables_of_pg2ch_are_made_by_the_statements_told() {
    let mut world = World::on(Servers::in_new_database("check_own"), "check_own", USER_LOGINS, 1);
    world.sql("DROP TABLE pg2ch_runs, pg2ch_checkpoint, pg2ch_held");
    for (id, code) in [("checkpoint-missing", 78), ("held-missing", 78), ("runs-missing", 0)] {
        let found = assert_found(&world, id, code);
        // Whoever makes them owns them.
        world.pg.batch_execute(found["fix"].as_str().unwrap()).unwrap();
        assert_gone(&world, id);
    }
    assert!(world.run(&["init"]).expect(0).stdout.starts_with("nothing to do: "));
    world.insert_rows(2);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_role_without_a_schema_is_given_one_by_the_statement_told() {
    let mut world = World::on(Servers::in_new_database("check_no_schema"), "check_no_schema", USER_LOGINS, 1);
    world.sql("DROP TABLE pg2ch_runs, pg2ch_checkpoint, pg2ch_held");
    let database = world.servers.database().to_owned();
    for path in ["''", "'$user'"] {
        let statement = format!("ALTER ROLE app IN DATABASE {database} SET search_path = {path}");
        world.superuser().batch_execute(&statement).unwrap();
        for args in [&["init"][..], &["init", "--print"]] {
            let refused = world.run(args).expect(78).stderr;
            assert!(refused.contains("the role's search path names no schema"), "{refused}");
            assert!(refused.contains(&format!("ALTER ROLE app IN DATABASE {database} SET search_path = public;")));
        }
        assert_cured(&mut world, "search-path", 78);
    }
    world.run(&["init"]).expect(0);
    world.insert_rows(2);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_role_that_may_not_use_the_schema_of_pg2ch_is_granted_it_by_the_statement_told() {
    let mut world = World::on(Servers::in_new_database("check_hard"), "check_hard", USER_LOGINS, 1);
    world.insert_rows(2);
    let role = world.become_role(
        "CREATE SCHEMA shop AUTHORIZATION app; ALTER TABLE {t} SET SCHEMA shop; REVOKE ALL ON SCHEMA public FROM PUBLIC;
         GRANT USAGE ON SCHEMA shop TO {role}; GRANT SELECT, UPDATE ON shop.{t} TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held, pg2ch_runs TO {role}",
    );
    world.settings.insert("[table]", format!("source = \"shop.{}\"", world.name));
    let (revoke, grant) = ("REVOKE USAGE ON SCHEMA public FROM", format!("GRANT USAGE ON SCHEMA public TO {role};"));
    // The second has a schema that the role may use; public, which has the tables, is in both.
    for path in ["DEFAULT", "shop, public"] {
        world
            .superuser()
            .batch_execute(&format!("{revoke} {role}; ALTER ROLE {role} SET search_path = {path}"))
            .unwrap();
        world.run(&["--once"]).expect(78);
        let refused = world.run(&["init"]).expect(78).stderr;
        assert!(refused.contains(&grant), "{path}: {refused}");
        let found = assert_found(&world, "search-path", 78);
        assert_eq!(found["fix"], grant, "{found}");
        carry_out(&world, &found);
        assert_gone(&world, "search-path");
        world.once().expect(0);
    }
    // A path without any schema: public is named, and granted as well.
    world.superuser().batch_execute(&format!("{revoke} {role}; ALTER ROLE {role} SET search_path = none")).unwrap();
    assert_cured(&mut world, "search-path", 78);
    world.once().expect(0);
}

#[test]
fn init_names_the_setting_under_which_it_may_create_nothing() {
    let mut world = World::on(Servers::in_new_database("init_read_only"), "init_read_only", USER_LOGINS, 1);
    // The index goes with the flag.
    world.sql("ALTER TABLE {t} DROP COLUMN sent_to_kafka");
    world.sql("ALTER TABLE {t} ADD COLUMN sent_to_kafka boolean NOT NULL DEFAULT FALSE");
    let database = world.servers.database().to_owned();
    let read_only = format!("ALTER DATABASE {database} SET default_transaction_read_only = on");
    world.superuser().batch_execute(&read_only).unwrap();
    let refused = world.run(&["init"]).expect(78).stderr;
    assert!(refused.contains("default_transaction_read_only is on"), "{refused}");
    assert_cured(&mut world, "read-only", 78);
    world.run(&["init"]).expect(0);
}

#[test]
fn a_session_that_must_not_write_is_told_where_that_was_said() {
    let mut world = World::on(Servers::in_new_database("check_read_only"), "check_read_only", USER_LOGINS, 1);
    let database = world.servers.database().to_owned();
    let role = world.become_role("GRANT ALL ON {t}, pg2ch_checkpoint, pg2ch_held, pg2ch_runs TO {role}");
    for place in [format!("ROLE {role}"), format!("DATABASE {database}"), format!("ROLE {role} IN DATABASE {database}")]
    {
        world.superuser().batch_execute(&format!("ALTER {place} SET default_transaction_read_only = on")).unwrap();
        let found = assert_found(&world, "read-only", 78);
        let fix = found["fix"].as_str().unwrap();
        assert!(fix.ends_with(&format!("ALTER {place} RESET default_transaction_read_only;")), "{fix}");
        carry_out(&world, &found);
        assert_gone(&world, "read-only");
    }
}

#[test]
fn a_trigger_that_fires_on_flagging_is_narrowed_by_the_statement_told() {
    let mut world = World::new("check_trigger");
    let name = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "CREATE FUNCTION {name}_touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.event_time = now(); RETURN NEW; END';
             CREATE TRIGGER touch BEFORE UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_touch();
             CREATE TRIGGER elsewhere BEFORE UPDATE OF user_id ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_touch()"
        ))
        .unwrap();
    let report = check(&world, 0);
    let triggers = report["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == "update-trigger");
    assert_eq!(triggers.count(), 1, "the one that fires on another column costs nothing");
    assert_cured(&mut world, "update-trigger", 0);
    world.insert_rows(2);
    let before = world.sql_number("SELECT sum(extract(epoch FROM event_time) * 1000000)::bigint FROM {t}");
    world.once().expect(0);
    assert_eq!(world.sql_number("SELECT sum(extract(epoch FROM event_time) * 1000000)::bigint FROM {t}"), before);
    // It is there for the application's updates, which set the flag to FALSE.
    let touched = "SELECT count(*) FROM {t} WHERE event_time > '2001-01-01' AND id = 1";
    world.sql("ALTER TABLE {t} DISABLE TRIGGER USER");
    world.sql("UPDATE {t} SET event_time = '2000-01-01'");
    world.sql("ALTER TABLE {t} ENABLE TRIGGER USER");
    assert_eq!(world.sql_number(touched), 0);
    world.sql("UPDATE {t} SET event_type = 'logout', sent_to_kafka = FALSE WHERE id = 1");
    assert_eq!(world.sql_number(touched), 1);
}

/// A table with nine rows, in two partitions where it has some.
fn nine_rows(name: &str, columns: &str, partition: &str) -> World {
    let mut world = World::unmade(Servers::shared(), name, columns, 1);
    world.sql("DROP TABLE {t}");
    world.sql(&format!("CREATE TABLE {{t}} ({columns}){partition}"));
    if !partition.is_empty() {
        world.sql("CREATE TABLE {t}_a PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 0)");
        world.sql("CREATE TABLE {t}_b PARTITION OF {t} FOR VALUES WITH (MODULUS 2, REMAINDER 1)");
    }
    world.run(&["init"]).expect(0);
    world.sql("INSERT INTO {t} SELECT n, n FROM generate_series(1, 9) n");
    world
}

#[test]
fn a_published_table_without_a_replica_identity_is_given_one_by_the_statements_told() {
    let columns = "id bigint NOT NULL UNIQUE, n int, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    for partition in ["", " PARTITION BY HASH (id)"] {
        let mut world = nine_rows("check_published", columns, partition);
        world.sql("CREATE PUBLICATION {t}_all FOR TABLE {t}");
        let refused = world.once().expect(78).stderr;
        assert!(refused.contains("run `pg2ch check`"), "{refused}");
        let found = assert_found(&world, "source-unfit", 78);
        assert!(found["fix"].as_str().unwrap().contains("REPLICA IDENTITY USING INDEX"), "{found}");
        carry_out(&world, &found);
        assert_gone(&world, "source-unfit");
        assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 9);
    }
}

#[test]
fn a_publication_that_keeps_rows_from_being_updated_is_corrected_by_the_statements_told() {
    let columns = "id bigint, n int, sent_to_kafka boolean NOT NULL DEFAULT FALSE, PRIMARY KEY (id)";
    for (partition, published, part) in [
        ("", "WHERE (NOT sent_to_kafka)", "REPLICA IDENTITY FULL"),
        (
            " PARTITION BY HASH (id)",
            "WHERE (NOT sent_to_kafka) WITH (publish_via_partition_root)",
            "REPLICA IDENTITY FULL",
        ),
        ("", "(n)", "(id, n);"),
    ] {
        let mut world = nine_rows("check_filtered", columns, partition);
        world.sql(&format!("CREATE PUBLICATION {{t}}_some FOR TABLE {{t}} {published}"));
        let refused = world.once().expect(78).stderr;
        assert!(refused.contains("run `pg2ch check`: if a publication"), "{refused}");
        let found = assert_found(&world, "source-unfit", 78);
        assert!(found["fix"].as_str().unwrap().contains(part), "{found}");
        carry_out(&world, &found);
        assert_gone(&world, "source-unfit");
        assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 9);
        world.superuser().batch_execute(&format!("DROP PUBLICATION {}_some", world.name)).unwrap();
    }
}

#[test]
fn a_policy_that_hides_rows_is_an_error() {
    let mut world = World::new("check_policy");
    world.sql("ALTER TABLE {t} ENABLE ROW LEVEL SECURITY");
    assert!(finding(&check(&world, 0), "row-level-security").is_none(), "the owner sees every row");
    let role = world.become_role(
        "GRANT SELECT, UPDATE ON {t} TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held TO {role}",
    );
    let refused = world.once().expect(77).stderr;
    assert!(refused.contains("hint: run `pg2ch check`, which prints the statement"), "{refused}");
    assert_found(&world, "row-level-security", 78);
    let order = "order_by = [\"event_time\"]\nmessage_key = \"user_id\"";
    world.settings.insert("[table]", order.into());
    assert_cured(&mut world, "row-level-security", 78);
    world.drop_role(&role);
}

#[test]
fn a_policy_on_the_tables_of_pg2ch_is_named_and_lifted_by_the_statement_told() {
    let mut world = World::on(Servers::in_new_database("check_own_policy"), "check_own_policy", USER_LOGINS, 1);
    world.insert_rows(2);
    world.become_role(
        "GRANT SELECT, UPDATE ON {t} TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held, pg2ch_runs TO {role}",
    );
    for (table, code, run) in [("pg2ch_checkpoint", 78, 77), ("pg2ch_held", 78, 77), ("pg2ch_runs", 0, 0)] {
        world.superuser().batch_execute(&format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")).unwrap();
        world.once().expect(run);
        let found = assert_found(&world, "own-row-level-security", code);
        assert!(found["fix"].as_str().unwrap().contains(table), "{found}");
        assert_cured(&mut world, "own-row-level-security", code);
    }
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_run_needs_exactly_the_grants_that_check_asks_for() {
    let mut world = World::new("check_grants");
    world.insert_rows(5);
    let role = world.become_role("");
    let mut asked = Vec::new();
    while let Some(missing) = finding(
        &serde_json::from_str::<Value>(&world.run(&["check", "--json"]).stdout).unwrap()["tables"][0],
        "grant-missing",
    ) {
        world.run(&["--once"]).expect(77);
        asked.push(missing["fix"].as_str().unwrap().replace(&role, "pg2ch").replace(&world.name, "t"));
        carry_out(&world, &missing);
        assert!(asked.len() < 15, "{asked:?}");
    }
    assert_eq!(
        asked,
        [
            "GRANT SELECT ON public.t TO pg2ch;",
            "GRANT UPDATE (\"sent_to_kafka\") ON public.t TO pg2ch;",
            "GRANT SELECT ON pg2ch_checkpoint TO pg2ch;",
            "GRANT INSERT ON pg2ch_checkpoint TO pg2ch;",
            "GRANT UPDATE ON pg2ch_checkpoint TO pg2ch;",
            "GRANT SELECT ON pg2ch_held TO pg2ch;",
            "GRANT INSERT ON pg2ch_held TO pg2ch;",
            "GRANT DELETE ON pg2ch_held TO pg2ch;",
        ]
    );
    world.once().expect(0);
    // With a window to recover as well: that takes a temporary table.
    world.insert_rows(5);
    world.crash_at("kafka.send.after", &["produce"]);
    world.once().expect(0);
    world.assert_exactly_once();
    world.drop_role(&role);
}

#[test]
fn a_checkpoint_that_another_source_keeps_for_the_topic_is_an_error() {
    let mut world = World::new("check_shared");
    world.sql("INSERT INTO pg2ch_checkpoint (source, topic, partition, next_offset, epoch, protocol) VALUES ('public.other', '{t}', -1, 0, 1, 2)");
    assert_cured(&mut world, "topic-shared", 78);
}

#[test]
fn a_trigger_on_one_partition_is_found_and_narrowed_there() {
    let mut world = World::unmade(Servers::shared(), "check_part_trigger", USER_LOGINS, 1);
    let name = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "DROP TABLE {name};
             CREATE TABLE {name} (id bigint PRIMARY KEY, n int, sent_to_kafka boolean NOT NULL DEFAULT FALSE) PARTITION BY RANGE (id);
             CREATE TABLE {name}_a PARTITION OF {name} FOR VALUES FROM (0) TO (10);
             CREATE TABLE {name}_b PARTITION OF {name} FOR VALUES FROM (10) TO (20);
             CREATE FUNCTION {name}_f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER whole BEFORE UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_f();
             CREATE TRIGGER statement AFTER UPDATE ON {name} FOR EACH STATEMENT EXECUTE FUNCTION {name}_f();
             CREATE TRIGGER never AFTER UPDATE ON {name}_a FOR EACH STATEMENT EXECUTE FUNCTION {name}_f();
             CREATE TRIGGER part BEFORE UPDATE ON {name}_a FOR EACH ROW EXECUTE FUNCTION {name}_f()"
        ))
        .unwrap();
    world.run(&["init"]).expect(0);
    let named = |world: &World| {
        let report = check(world, 0);
        let findings = report["findings"].as_array().unwrap().clone();
        let mut found: Vec<String> = findings
            .iter()
            .filter(|finding| finding["id"] == "update-trigger")
            .map(|finding| {
                let what = finding["what"].as_str().unwrap().replace(&format!("public.{name}"), "t");
                if what.contains("part ") || what.contains("whole ") {
                    carry_out(world, finding);
                }
                what
            })
            .collect();
        found.sort();
        found
    };
    let statement = "the trigger statement of t fires on every UPDATE by which a batch is flagged";
    let [part, whole] =
        ["part of t_a", "whole of t"].map(|one| format!("the trigger {one} fires on every row that is flagged"));
    assert_eq!(named(&world), [part.as_str(), statement, whole.as_str()]);
    assert_eq!(named(&world), [statement]);
}

#[test]
fn a_narrowed_trigger_fires_where_it_fired_and_keeps_its_comment() {
    let mut world = World::unmade(Servers::shared(), "check_trigger_state", USER_LOGINS, 1);
    let name = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "DROP TABLE {name};
             CREATE TABLE {name} (id bigint PRIMARY KEY, n int, sent_to_kafka boolean NOT NULL DEFAULT FALSE) PARTITION BY RANGE (id);
             CREATE TABLE {name}_a PARTITION OF {name} FOR VALUES FROM (0) TO (10);
             CREATE TABLE {name}_b PARTITION OF {name} FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
             CREATE TABLE {name}_c PARTITION OF {name}_b FOR VALUES FROM (10) TO (15);
             CREATE TABLE {name}_d PARTITION OF {name}_b FOR VALUES FROM (15) TO (20);
             CREATE FUNCTION {name}_f() RETURNS trigger LANGUAGE plpgsql AS
                 'BEGIN IF TG_OP = ''UPDATE'' THEN NEW.sent_to_kafka = FALSE; END IF; RETURN coalesce(NEW, OLD); END';
             CREATE TRIGGER \"a Mark\" BEFORE INSERT OR DELETE OR UPDATE OF n, sent_to_kafka ON {name} FOR EACH ROW
                 EXECUTE FUNCTION {name}_f('x', 'EXECUTE');
             CREATE TRIGGER replica BEFORE UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
             ALTER TABLE {name} ENABLE ALWAYS TRIGGER \"a Mark\";
             ALTER TABLE {name}_a ENABLE TRIGGER \"a Mark\";
             ALTER TABLE {name}_b ENABLE ALWAYS TRIGGER \"a Mark\";
             ALTER TABLE {name}_c DISABLE TRIGGER \"a Mark\";
             ALTER TABLE {name}_d ENABLE ALWAYS TRIGGER \"a Mark\";
             COMMENT ON TRIGGER \"a Mark\" ON {name} IS 'what changes is ''unsent''';
             CREATE TRIGGER \"a Mark_2\" AFTER DELETE ON {name}_a FOR EACH ROW EXECUTE FUNCTION {name}_f();
             ALTER TABLE {name} ENABLE REPLICA TRIGGER replica"
        ))
        .unwrap();
    world.run(&["init"]).expect(0);
    let states = |world: &mut World, trigger: &str| {
        let sql = format!(
            "SELECT string_agg(c.relname || ' ' || t.tgenabled::text || coalesce(' ' || d.description, ''), ', ' ORDER BY c.relname)
             FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid LEFT JOIN pg_description d ON d.objoid = t.oid
             WHERE t.tgname = '{trigger}' AND c.relname LIKE '{name}%'"
        );
        world.pg.query_one(&sql, &[]).unwrap().get::<_, String>(0).replace(&name, "t")
    };
    let before = states(&mut world, "a Mark");
    assert_eq!(before, "t A what changes is 'unsent', t_a O, t_b A, t_c D, t_d A");
    // A trigger that fires in replicas alone does not fire on flagging.
    assert_cured(&mut world, "update-trigger", 0);
    assert_eq!((states(&mut world, "a Mark"), states(&mut world, "a Mark_3")), (before.clone(), before));
    world.sql("INSERT INTO {t} VALUES (1, 1), (11, 1), (16, 1)");
    world.once().expect(0);
    let mut replica = world.superuser();
    let changes =
        format!("SET session_replication_role = replica; UPDATE {name} SET n = 2; DELETE FROM {name} WHERE id = 11");
    replica.batch_execute(&changes).unwrap();
    assert_eq!(world.sql_number("SELECT sum(id)::bigint FROM {t} WHERE NOT sent_to_kafka"), 16);
}

#[test]
fn a_column_made_of_the_flag_is_named_and_left_out() {
    let columns = "id bigint PRIMARY KEY, n int, sent_to_kafka boolean NOT NULL DEFAULT FALSE,
        twice int GENERATED ALWAYS AS (n * 2) STORED, state text GENERATED ALWAYS AS (CASE WHEN sent_to_kafka THEN 'sent' ELSE 'new' END) STORED,
        is_new boolean GENERATED ALWAYS AS (NOT sent_to_kafka) STORED";
    let mut world = World::with("check_of_flag", columns, 1);
    world.sql("INSERT INTO {t} (id, n) VALUES (1, 2)");
    let found = assert_found(&world, "column-of-flag", 0);
    assert!(found["what"].as_str().unwrap().starts_with("is_new, state of public."), "{found}");
    let fix = found["fix"].as_str().unwrap();
    // What is not compared cannot differ.
    world.settings.insert("[table]", "ignore = [\"state\", \"is_new\"]".into());
    assert_gone(&world, "column-of-flag");
    world.settings.insert("[table]", fix.split('`').nth(1).unwrap().to_owned());
    assert_gone(&world, "column-of-flag");
    world.once().expect(0);
    world.run(&["verify", "--deep"]).expect(0);
}

#[test]
fn a_table_and_its_own_partition_are_not_two_sources() {
    let columns = "id bigint PRIMARY KEY, n int, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    for (of, makes) in
        [("PARTITION BY RANGE (id)", "PARTITION OF {whole} FOR VALUES FROM (0) TO (10)"), ("", "() INHERITS ({whole})")]
    {
        let mut whole = World::unmade(Servers::shared(), "check_whole", columns, 1);
        let mut part = World::unmade(Servers::shared(), "check_part", columns, 1);
        part.sql("DROP TABLE {t}");
        whole.sql("DROP TABLE {t}");
        whole.sql(&format!("CREATE TABLE {{t}} ({columns}) {of}"));
        part.sql(&format!("CREATE TABLE {{t}} {}", makes.replace("{whole}", &whole.name)));
        let names = [part.name.clone(), whole.name.clone()].map(|name| format!("public.{name}"));
        assert!(!whole.run(&["check"]).stdout.contains("[source-overlap]"));
        whole.add_table(&part);
        let report: Value = serde_json::from_str(&whole.run(&["check", "--json"]).expect(78).stdout).unwrap();
        for table in [1, 0] {
            let found = finding(&report["tables"][table], "source-overlap");
            // A table with heirs is refused as a source for that alone.
            let Some(found) = found else {
                assert!(of.is_empty() && table == 0, "{report:#}");
                continue;
            };
            let what = format!("{} is a part of {}, and both", names[0], names[1]);
            assert!(found["what"].as_str().unwrap().starts_with(&what), "{found}");
            assert_eq!(found["severity"], "error");
        }
        // The part is refused, also where the other one does not take part.
        for args in [&["--once"][..], &["--once", "--table", &names[0]]] {
            let refused = whole.run(args).expect(78).stderr;
            assert!(refused.contains(&format!("it is a part of {}", names[1])), "{refused}");
        }
        whole.settings.insert("[table]", "where = \"id > 9\"".into());
        let report: Value = serde_json::from_str(&whole.run(&["check", "--json"]).stdout).unwrap();
        assert_eq!(finding(&report["tables"][1], "source-overlap").unwrap()["severity"], "warning");
        assert!(!whole.once().stderr.contains("is a part of"));
    }
}

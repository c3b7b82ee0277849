//! `pg2ch prune` where a trigger does something else on DELETE.

use super::prune::{AGE, confirmed, ids, world};
use crate::common::servers::Servers;
use crate::common::{USER_LOGINS, World};

#[test]
fn a_trigger_that_keeps_rows_rolls_the_page_back_and_is_named() {
    for (when, body) in [
        ("BEFORE", "UPDATE {t} SET payload = NULL, sent_to_kafka = FALSE WHERE id = OLD.id; RETURN NULL"),
        ("BEFORE", "IF OLD.id = 3 THEN RETURN NULL; END IF; RETURN OLD"),
        ("AFTER", "INSERT INTO {t} SELECT OLD.*; RETURN NULL"),
    ] {
        let mut world = world("prune_trigger");
        let name = world.name.clone();
        let body = body.replace("{t}", &name);
        world
            .pg
            .batch_execute(&format!(
                "CREATE FUNCTION {name}_keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$;
                 CREATE {} keep_it {when} DELETE ON {name} {} FOR EACH ROW EXECUTE FUNCTION {name}_keep()",
                if when == "AFTER" { "CONSTRAINT TRIGGER" } else { "TRIGGER" },
                if when == "AFTER" { "DEFERRABLE INITIALLY DEFERRED" } else { "" },
            ))
            .unwrap();
        let ended = world.run(&[AGE, &["--confirm"]].concat()).expect(78);
        assert!(ended.stderr.contains("keep_it") && ended.stderr.contains("pg2ch.prune"), "{}", ended.stderr);
        assert_eq!((ids(&mut world).as_str(), world.unsent()), ("1 2 3 4 5 6 7 8", 0));
        // The hint works.
        world
            .pg
            .batch_execute(&format!(
                "CREATE OR REPLACE FUNCTION {name}_keep() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN IF current_setting('pg2ch.prune', TRUE) = 'on' THEN RETURN OLD; END IF; {body}; END $$"
            ))
            .unwrap();
        confirmed(&world);
        assert_eq!(ids(&mut world), "6 7 8");
    }
}

#[test]
fn a_trigger_that_changes_the_row_or_raises_ends_prune_and_nothing_is_deleted() {
    for (body, says) in [
        ("UPDATE {t} SET payload = NULL WHERE id = OLD.id; RETURN OLD", "let the trigger pass"),
        ("RAISE 'nobody deletes here'", "nobody deletes here"),
    ] {
        let mut world = world("prune_raises");
        let (name, body) = (world.name.clone(), body.replace("{t}", &world.name));
        world
            .pg
            .batch_execute(&format!(
                "CREATE FUNCTION {name}_keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; END $$;
                 CREATE TRIGGER keep_it BEFORE DELETE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_keep()"
            ))
            .unwrap();
        let ended = world.run(&[AGE, &["--confirm"]].concat()).expect(78);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
        assert_eq!((ids(&mut world).as_str(), world.unsent()), ("1 2 3 4 5 6 7 8", 0));
    }
}

#[test]
fn the_documented_soft_delete_trigger_lets_prune_pass_and_without_its_line_prune_deletes_nothing() {
    // Given the table and the trigger of docs/deletes.md, with a column that says how old a row is
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/deletes.md")).unwrap();
    let mut world = World::unmade(Servers::shared(), "prune_page", USER_LOGINS, 1);
    let name = world.name.clone();
    let fences = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap().replace("orders", &name));
    let statements: Vec<String> = fences.collect();
    world.pg.batch_execute(&format!("DROP TABLE {name}")).unwrap();
    statements.iter().for_each(|sql| world.pg.batch_execute(sql).unwrap());
    world.pg.batch_execute(&format!("ALTER TABLE {name} ADD created_at timestamptz NOT NULL DEFAULT now()")).unwrap();
    world.settings.insert("[table]", "deleted = \"is_deleted\"".into());
    world.run(&["init"]).expect(0);
    world.sql("INSERT INTO {t} (id, status, created_at) SELECT n, 'new', now() - interval '8 days' * (n <= 3)::int FROM generate_series(1, 5) n");
    world.once().expect(0);
    world.sql("DELETE FROM {t} WHERE id IN (2, 5)");
    world.once().expect(0);
    let replaces = |function: &str| {
        let function = function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION");
        function.split("CREATE TRIGGER").next().unwrap().to_owned()
    };
    // When the trigger lacks the line for prune
    world.pg.batch_execute(&replaces(&statements[1].replace("pg2ch.prune", "nobody.sets_this"))).unwrap();
    let args = ["prune", "--older-than", "7d", "--by", "created_at", "--held-for", "0s", "--confirm"];
    let ended = world.run(&args).expect(78);
    assert!(ended.stderr.contains("triggers on DELETE are soft_delete"), "{}", ended.stderr);
    assert_eq!((ids(&mut world).as_str(), world.unsent()), ("1 2 3 4 5", 0));
    // And when it has it
    world.pg.batch_execute(&replaces(&statements[1])).unwrap();
    let done = world.run(&args).expect(0).stdout;
    assert!(done.contains("3 rows deleted"), "{done}");
    // Then old rows are gone, deleted or not, and the target still shows what was not deleted
    assert_eq!(ids(&mut world), "4 5");
    world.once().expect(0);
    let shown = world.ch("SELECT arrayStringConcat(arraySort(groupArray(toString(id))), ' ') FROM {t} FINAL");
    assert_eq!(shown, "1 3 4");
    let report = world.run(&["verify", "--json", "--deep"]).expect(0).report();
    assert_eq!((&report["pruned"], &report["only_in_target"]["count"]), (&3.into(), &0.into()), "{report}");
}

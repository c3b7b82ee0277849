//! `pg2ch prune` of tables of all shapes: partitions, keys, ages, conditions, names.

use serde_json::Value;

use super::prune::{ids, kept};
use crate::common::World;
use crate::common::servers::Servers;

#[test]
fn partitions_a_key_of_several_columns_and_a_date_are_no_hindrance() {
    let mut world = World::unmade(
        Servers::shared(),
        "prune_parts",
        "tenant text NOT NULL, id bigint NOT NULL, day date NOT NULL, gone_at timestamptz, sent_to_kafka boolean NOT NULL DEFAULT FALSE,
         PRIMARY KEY (tenant, id, day)) PARTITION BY RANGE (day",
        2,
    );
    let name = world.name.clone();
    for (part, from, to) in [("old", "2020-01-01", "2021-01-01"), ("new", "2021-01-01", "2200-01-01")] {
        let sql = format!("CREATE TABLE {name}_{part} PARTITION OF {name} FOR VALUES FROM ('{from}') TO ('{to}')");
        world.pg.batch_execute(&sql).unwrap();
    }
    world.settings.insert("[table]", "key = [\"tenant\", \"id\", \"day\"]\ndeleted = \"gone_at\"".into());
    world.run(&["init"]).expect(0);
    world.sql(
        "INSERT INTO {t} SELECT CASE n % 3 WHEN 0 THEN 'it''s' ELSE 'b' END, n,
             CASE WHEN n > 3 THEN date '2020-05-05' ELSE current_date END, CASE n % 2 WHEN 0 THEN now() END FROM generate_series(1, 9) n",
    );
    world.once().expect(0);
    let prune = ["prune", "--older-than", "30d", "--by", "day", "--held-for", "0s"];
    let dry = world.run(&prune).expect(0).stdout;
    assert!(dry.contains(&format!("partitions that will be empty: public.{name}_old\n")), "{dry}");
    let done = world.run(&[&prune[..], &["--confirm"]].concat()).expect(0).stdout;
    assert!(done.contains("6 rows deleted") && done.contains(&format!("public.{name}_old is empty")), "{done}");
    assert_eq!(ids(&mut world), "1 2 3");
    // The statement that it prints drops the partition, and refuses once it has a row.
    let drop = done.lines().find(|line| line.trim_start().starts_with("BEGIN;")).unwrap();
    let insert = "INSERT INTO {t} (tenant, id, day, sent_to_kafka) VALUES ('b', 100, '2020-01-01', TRUE)";
    world.sql(insert);
    assert!(world.another_session().batch_execute(drop).is_err());
    world.sql("DELETE FROM {t} WHERE id = 100");
    world.pg.batch_execute(drop).unwrap();
    assert_eq!(world.sql_number("SELECT count(*) FROM pg_inherits WHERE inhparent = '{t}'::regclass"), 1);
    let report = world.run(&["verify", "--json", "--deep"]).expect(0).report();
    assert_eq!((&report["pruned"], &report["only_in_target"]["count"]), (&6.into(), &0.into()), "{report}");
}

/// Prunes what is older than a week by a column.
fn by(world: &World, column: &str) -> Value {
    let args = ["prune", "--json", "--older-than", "7d", "--by", column, "--held-for", "0s", "--confirm"];
    world.run(&args).expect(0).report()
}

#[test]
fn every_kind_of_date_and_time_says_how_old_a_row_is_and_null_is_never_old() {
    for kind in ["date", "timestamp", "timestamp(0)", "timestamptz", "timestamptz(3)"] {
        let columns =
            format!("id bigint PRIMARY KEY, \"Made At\" {kind}, sent_to_kafka boolean NOT NULL DEFAULT FALSE");
        let mut world = World::with("prune_kind", &columns, 1);
        world.settings.insert("[table]", "rename = { \"Made At\" = \"made\" }".into());
        world.ch("DROP TABLE {t}");
        world.run(&["init"]).expect(0);
        // The role's own time zone has no say.
        world.sql(
            "INSERT INTO {t} VALUES (1, now() - interval '8 days 12 hours'), (2, now() - interval '6 days'), (3, NULL), (4, 'infinity'),
                 (5, now() - interval '9 days')",
        );
        // No target takes infinity: a dead letter.
        world.once().expect(65);
        let done = by(&world, "Made At");
        assert_eq!((&done["deleted"], ids(&mut world).as_str()), (&2.into(), "2 3 4"), "{kind}: {done}");
        let report = world.run(&["verify", "--json"]).expect(65).report();
        assert_eq!((&report["pruned"], &report["only_in_target"]["count"]), (&2.into(), &0.into()), "{kind}: {report}");
    }
}

#[test]
fn keys_of_any_type_conditions_names_and_an_outboxs_order_are_no_hindrance() {
    for (key, value) in
        [("uuid", "md5(n::text)::uuid"), ("text", "'it''s ' || n || E' \\n\\t[\"x\"]'"), ("numeric", "n / 7.0")]
    {
        let columns = format!(
            "seq bigint NOT NULL, \"Key\" {key} PRIMARY KEY, aggregate text, trace text, made timestamptz NOT NULL,
             is_draft boolean NOT NULL DEFAULT FALSE, sent_to_kafka boolean NOT NULL DEFAULT FALSE"
        );
        let mut world = World::unmade(Servers::shared(), "prune_keys", &columns, 3);
        world.settings.insert(
            "[table]",
            "key = \"Key\"\norder_by = \"seq\"\nmessage_key = \"aggregate\"\nheaders = { trace = \"trace\" }\n\
             where = \"NOT is_draft\"\nrename = { aggregate = \"of\" }"
                .into(),
        );
        world.run(&["init"]).expect(0);
        world.sql(&format!(
            "INSERT INTO {{t}} SELECT n, {value}, 'a' || n % 3, 't' || n, now() - interval '30 days' * (n <= 20)::int, n % 5 = 0
             FROM generate_series(1, 30) n"
        ));
        world.once().expect(0);
        // A row leaves the condition after it was sent, without a new version; another is changed and waits.
        world.sql("UPDATE {t} SET aggregate = 'changed', sent_to_kafka = FALSE WHERE seq = 1");
        world.sql("UPDATE {t} SET trace = 'changed', sent_to_kafka = FALSE WHERE seq = 2");
        world.run(&["produce"]).expect(0);
        let done = by(&world, "made");
        assert_eq!((&done["deleted"], kept(&done, "in_topic")), (&14.into(), 2), "{key}: {done}");
        world.once().expect(0);
        assert_eq!(by(&world, "made")["deleted"], 2, "{key}");
        assert_eq!(
            world.sql_number("SELECT count(*) FROM {t} WHERE made < now() - interval '7 days' AND NOT is_draft"),
            0
        );
        let report = world.run(&["verify", "--json", "--deep"]).expect(0).report();
        assert_eq!((&report["pruned"], &report["only_in_target"]["count"]), (&16.into(), &0.into()), "{key}: {report}");
    }
}

#[test]
fn verify_tells_rows_below_the_limit_that_are_there_missing_or_changed_from_pruned_ones() {
    let mut world = World::new("prune_below");
    world.stop_merges();
    world.insert_rows(2_000);
    world.sql("UPDATE {t} SET event_time = now() - interval '30 days' WHERE id <= 1500");
    world.once().expect(0);
    // Some stay below the limit: one differs, one is locked out by its content, one is unsent.
    world.sql("UPDATE {t} SET user_id = -1 WHERE id IN (10, 11)");
    assert_eq!(by(&world, "event_time")["deleted"], 1_498);
    let pruned = |world: &World, code| {
        let report = world.run(&["verify", "--json"]).expect(code).report();
        let count = |what: &str| report[what]["count"].as_u64().unwrap();
        (report["pruned"].as_u64().unwrap(), count("only_in_target"), count("missing"))
    };
    assert_eq!(pruned(&world, 0), (1_498, 0, 0));
    // One that the target lacks is missing, one that is written again is there, and a young one that is gone is told.
    world.delete_from_target("id = 10");
    world.sql("INSERT INTO {t} (id, user_id, event_type, event_time, sent_to_kafka) VALUES (20, 20, 'login', '2020-01-01', TRUE)");
    world.sql("DELETE FROM {t} WHERE id = 1900");
    assert_eq!(pruned(&world, 65), (1_497, 1, 1));
    // One that is made old, or young, and not sent yet
    world.sql("UPDATE {t} SET event_time = '2020-01-01', sent_to_kafka = FALSE WHERE id = 1800");
    world.sql("UPDATE {t} SET event_time = now(), sent_to_kafka = FALSE WHERE id = 11");
    assert_eq!(pruned(&world, 65), (1_497, 1, 1));
}

//! What `pg2ch check` finds in ClickHouse is provoked, its own statement is carried out, and the finding is gone.

use crate::common::World;
use crate::common::findings::{assert_cured, assert_found, assert_gone, carry_out, check, finding};
use crate::common::servers::Servers;

#[test]
fn what_the_target_lacks_is_mended_by_the_statements_told() {
    let mut world = World::new("check_target");
    for (breakage, id, code) in [
        ("ALTER TABLE {t} MODIFY SETTING non_replicated_deduplication_window = 0", "deduplication-window", 78),
        ("ALTER TABLE {t} RESET SETTING fsync_after_insert", "fsync", 0),
        ("ALTER TABLE {t} DROP INDEX _position", "position-index", 0),
        ("ALTER TABLE {t} DROP COLUMN payload", "column-missing", 78),
        ("ALTER TABLE {t} ADD COLUMN more Int32", "column-extra", 78),
        ("ALTER TABLE {t} MODIFY COLUMN user_id Int32", "type-lossy", 78),
        ("ALTER TABLE {t} DROP COLUMN payload; ALTER TABLE {t} ADD COLUMN payload String", "type-lossy", 78),
        ("ALTER TABLE {t} DROP COLUMN payload; ALTER TABLE {t} ADD COLUMN payload JSON", "type-lossy", 78),
        ("ALTER TABLE {t} DROP COLUMN user_id; ALTER TABLE {t} ADD COLUMN user_id Array(Int64)", "type-impossible", 78),
        (
            "ALTER TABLE {t} DROP COLUMN user_id; ALTER TABLE {t} ADD COLUMN user_id Variant(Int64, String)",
            "type-impossible",
            78,
        ),
    ] {
        breakage.split(';').for_each(|statement| drop(world.ch(statement)));
        assert_cured(&mut world, id, code);
    }
    world.ch("ALTER TABLE {t} ADD COLUMN most Nullable(String)");
    assert!(finding(&check(&world, 0), "column-unfilled").is_some(), "rows have NULL there, which is told");
    world.ch("ALTER TABLE {t} MODIFY COLUMN more Nullable(Int32)");
    world.insert_rows(3);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_view_as_the_target_is_named_as_one_and_nothing_is_proposed_for_it() {
    let mut world = World::new("check_view");
    world.ch("CREATE TABLE {t}_before AS {t}");
    for (view, remedy) in [
        ("CREATE VIEW {t}_view AS SELECT * FROM {t}", "name the table that it reads as `target`"),
        (
            "CREATE MATERIALIZED VIEW {t}_view TO {t} AS SELECT * FROM {t}_before",
            "name the table that it writes to as `target`",
        ),
    ] {
        world.ch(view);
        let target = format!("target = \"analytics.{}_view\"", world.name);
        world.settings.insert("[table]", target);
        let refused = world.run(&["consume"]).expect(78).stderr;
        assert!(refused.contains("_view is a view: ") && refused.contains(remedy), "{refused}");
        let found = assert_found(&world, "engine-view", 78);
        assert!(found["fix"].as_str().unwrap().contains(remedy), "{found}");
        let report = check(&world, 78);
        let errors = report["findings"].as_array().unwrap().iter().filter(|finding| finding["severity"] == "error");
        assert_eq!(errors.count(), 1, "{report:#}");
        let printed = world.run(&["init"]).expect(0).stdout;
        let proposes = printed.contains("-- do by hand: ") && printed.contains(remedy);
        assert!(proposes && !printed.contains("RENAME"), "{printed}");
        world.ch("DROP VIEW {t}_view");
    }
    world.ch("DROP TABLE {t}_before");
}

#[test]
fn a_table_that_fits_is_not_promised_where_the_source_is_not_known() {
    let mut world = World::new("check_circular");
    world.ch("DROP TABLE {t}");
    world.ch("CREATE TABLE {t} (id Int64, _partition Int32, _offset Int64, _timestamp DateTime64(3, 'UTC')) ENGINE = ReplacingMergeTree ORDER BY id");
    world.settings.insert("[table]", "source = \"public.no_such_table\"".into());
    let found = assert_found(&world, "engine-version", 78);
    let fix = found["fix"].as_str().unwrap();
    assert!(
        fix.starts_with("-- correct first what stands here about PostgreSQL") && fix.contains("allow_engine"),
        "{fix}"
    );
}

#[test]
fn a_target_of_another_engine_or_order_is_made_anew_with_its_rows() {
    let mut world = World::new("check_engine");
    world.insert_rows(3);
    world.once().expect(0);
    for (definition, id, code) in [
        ("MergeTree ORDER BY id", "engine", 0),
        ("ReplacingMergeTree(_timestamp) ORDER BY user_id", "sorting-key", 78),
        ("ReplacingMergeTree(_timestamp) ORDER BY intDiv(id, 100)", "sorting-key", 78),
        ("ReplacingMergeTree(_timestamp) ORDER BY (id, _offset)", "sorting-key", 0),
        ("ReplacingMergeTree(_timestamp) ORDER BY (id, toDate(_ingested_at))", "sorting-key", 0),
        ("ReplacingMergeTree(_timestamp) ORDER BY (id, lower(event_type))", "sorting-key", 0),
        ("ReplacingMergeTree(user_id) PARTITION BY toYYYYMM(_timestamp) ORDER BY id", "engine-version", 78),
        ("SummingMergeTree ORDER BY id", "engine", 78),
    ] {
        world.ch("DROP TABLE IF EXISTS {t}_old");
        world.ch(&format!(
            "CREATE TABLE {{t}}_made ENGINE = {definition} SETTINGS non_replicated_deduplication_window = 100 AS SELECT * FROM {{t}}"
        ));
        world.ch("DROP TABLE {t}");
        world.ch("RENAME TABLE {t}_made TO {t}");
        assert_cured(&mut world, id, code);
        world.once().expect(0);
        world.assert_exactly_once();
    }
    world.ch("DROP TABLE {t}");
    assert_cured(&mut world, "target-missing", 78);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_column_on_which_a_key_rests_is_changed_by_making_the_table_anew() {
    let columns = "id bigint PRIMARY KEY, at timestamptz NOT NULL, n bigint NOT NULL, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    for (at, timestamp, entries, keys, id) in [
        ("DateTime", "DateTime64(3, 'UTC')", "", "PARTITION BY toYYYYMM(at) ORDER BY id", "type-lossy"),
        (
            "DateTime",
            "DateTime64(3, 'UTC')",
            ", PROJECTION p (SELECT at, count() GROUP BY at)",
            "ORDER BY id",
            "type-lossy",
        ),
        // Not to be converted, and an index rests on it.
        ("Array(Int32)", "DateTime64(3, 'UTC')", ", INDEX i length(at) TYPE minmax", "ORDER BY id", "type-impossible"),
        // The engine's own argument.
        ("DateTime64(6, 'UTC')", "DateTime", "", "ORDER BY id", "position-type"),
    ] {
        let mut world = World::with("check_keys", columns, 1);
        world.ch("DROP TABLE {t}");
        world.ch(&format!(
            "CREATE TABLE {{t}} (id Int64, at {at}, n Int64, _partition Int32, _offset Int64, _timestamp {timestamp}{entries}) \
             ENGINE = ReplacingMergeTree(_timestamp) {keys} \
             SETTINGS non_replicated_deduplication_window = 100, deduplicate_merge_projection_mode = 'drop'"
        ));
        world.ch("INSERT INTO {t} (id, n, _partition, _offset, _timestamp) VALUES (1, 7, 9, 0, '2026-01-02 03:04:05')");
        world.sql("INSERT INTO {t} VALUES (2, '2026-01-02 03:04:05.678901Z', 8)");
        let refused = world.once().expect(78).stderr;
        assert!(
            refused.contains("hint: run `pg2ch check`: it prints the statements that recreate"),
            "{keys}: {refused}"
        );
        let printed = world.run(&["init"]).expect(0).stdout;
        assert!(printed.contains("-- do by hand: ") && printed.contains("RENAME TABLE"), "{keys}: {printed}");
        assert_cured(&mut world, id, 78);
        world.once().expect(0);
        let rows = "SELECT id, n, toString(at, 'UTC') FROM {t} ORDER BY id DESC LIMIT 1";
        assert_eq!(world.ch(rows), "2\t8\t2026-01-02 03:04:05.678901");
        assert_eq!(world.ch("SELECT id, n FROM {t} WHERE id = 1"), "1\t7", "{keys}");
        world.ch("DROP TABLE {t}_old");
    }
}

#[test]
fn texts_that_a_target_takes_for_one_value_are_no_key() {
    let columns = "id {type} PRIMARY KEY, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    for (of_source, of_target, values) in [
        (
            "text",
            "DateTime64(3, 'UTC')",
            "('2020-01-01 00:00:00'), ('2020-01-01T00:00:00'), ('2020-01-01T05:00:00+05')",
        ),
        ("varchar(40)", "UUID", "('C0000000-0000-0000-0000-00000000000A'), ('c0000000-0000-0000-0000-00000000000a')"),
        ("text", "Nullable(IPv6)", "('::1'), ('0:0:0:0:0:0:0:1')"),
        ("jsonb", "Date", r#"('"2020-01-01"'), ('"2020-01-01T00:00:00"')"#),
    ] {
        let mut world = World::unmade(Servers::shared(), "check_folded", &columns.replace("{type}", of_source), 1);
        world.ch(&format!(
            "CREATE TABLE {{t}} (id {of_target}, _partition Int32, _offset Int64, _timestamp DateTime64(3)) \
             ENGINE = ReplacingMergeTree(_timestamp) ORDER BY id \
             SETTINGS non_replicated_deduplication_window = 100, allow_nullable_key = 1"
        ));
        world.settings.insert("[table]", "allow_lossy = [\"id\"]".into());
        world.run(&["init"]).expect(0);
        world.sql(&format!("INSERT INTO {{t}} VALUES {values}"));
        let rows = world.sql_number("SELECT count(*) FROM {t}");
        let refused = world.once().expect(78).stderr;
        assert!(refused.contains("become one key") && refused.contains("hint: run `pg2ch check`"), "{refused}");
        assert_cured(&mut world, "type-lossy", 78);
        world.once().expect(0);
        assert_eq!(world.ch_number("SELECT count() FROM {t} FINAL"), rows, "{of_target}");
        world.ch("DROP TABLE {t}_old");
    }
    // What PostgreSQL prints in one form only.
    let mut world = World::unmade(Servers::shared(), "check_address", &columns.replace("{type}", "inet"), 1);
    world.settings.insert("[table]", "allow_lossy = [\"id\"]".into());
    world.ch("CREATE TABLE {t} (id IPv6, _partition Int32, _offset Int64, _timestamp DateTime64(3)) \
         ENGINE = ReplacingMergeTree(_timestamp) ORDER BY id SETTINGS non_replicated_deduplication_window = 100");
    world.run(&["init"]).expect(0);
    world.sql("INSERT INTO {t} VALUES ('::1'), ('::2')");
    world.once().expect(0);
}

#[test]
fn values_that_clickhouse_writes_otherwise_are_sent_again_as_the_fix_says() {
    let columns = "id bigint PRIMARY KEY, m jsonb, p jsonb, a text[], d numeric, n bigint, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    for (engine, id, stored) in [("ReplacingMergeTree(_timestamp)", "type-lossy", "1"), ("MergeTree", "engine", "\\N")]
    {
        let mut world = World::with("check_rewritten", columns, 1);
        world.ch("DROP TABLE {t}");
        world.ch(&format!(
            "CREATE TABLE {{t}} (id Int64, m Map(String, Int64), p Tuple(a Int64, b Nullable(String)), a Array(String), d Decimal(18, 4), \
             n Int32, _partition Int32, _offset Int64, _timestamp DateTime64(3)) ENGINE = {engine} ORDER BY id \
             SETTINGS non_replicated_deduplication_window = 100"
        ));
        world.settings.insert("[table]", "allow_lossy = [\"m\", \"p\", \"a\", \"d\", \"n\"]".into());
        world.sql(r#"INSERT INTO {t} VALUES (1, '{"a": 1}', '{"a": 1}', '{a}', 1.00, 7)"#);
        world.once().expect(0);
        let report = check(&world, 0);
        for found in report["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == id) {
            let fix = found["fix"].as_str().unwrap();
            let is_said = fix.contains("after the next run `pg2ch verify --deep --repair --confirm`");
            assert_eq!(is_said, !fix.contains("COLUMN `n` Nullable(Int64)"), "{fix}");
            carry_out(&world, found);
        }
        assert_gone(&world, id);
        assert_eq!(world.ch("SELECT d FROM {t}"), stored);
        world.once().expect(0);
        world.run(&["verify", "--deep", "--repair", "--confirm"]).expect(65);
        world.once().expect(0);
        assert_eq!(world.ch("SELECT m, p, a, d FROM {t} FINAL"), "{\"a\": 1}\t{\"a\": 1}\t[\"a\"]\t1.00");
        world.run(&["verify", "--deep"]).expect(0);
    }
}

#[test]
fn a_nested_column_is_named_as_one_and_another_name_is_the_way_out() {
    let columns = "id bigint PRIMARY KEY, j jsonb NOT NULL, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    let mut world = World::with("check_nested", columns, 1);
    world.ch("ALTER TABLE {t} DROP COLUMN j");
    world.ch("ALTER TABLE {t} ADD COLUMN j Nested(a Int32, b String)");
    world.sql(r#"INSERT INTO {t} VALUES (1, '{"a": 1}')"#);
    let refused = world.once().expect(78).stderr;
    assert!(refused.contains("is Nested") && refused.contains(r#"`rename = { j = "j_json" }`"#), "{refused}");
    let printed = world.run(&["init"]).expect(0).stdout;
    assert!(printed.contains("-- do by hand: ") && printed.contains("j_json"), "{printed}");
    assert_found(&world, "column-nested", 78);
    world.settings.insert("[table]", r#"rename = { j = "j_json" }"#.into());
    world.run(&["init"]).expect(0);
    for _ in ["j.a", "j.b"] {
        carry_out(&world, &assert_found(&world, "column-extra", 78));
    }
    assert_gone(&world, "column-extra");
    world.once().expect(0);
    assert_eq!(world.ch("SELECT id, j_json, `j.a` FROM {t}"), "1\t{\"a\": 1}\t[]");
}

#[test]
fn a_target_without_offsets_or_with_shorter_ones_is_an_error() {
    let mut world = World::new("check_offsets");
    world.insert_rows(3);
    world.ch("ALTER TABLE {t} DROP INDEX _position");
    for column in ["_partition", "_offset"] {
        world.ch(&format!("ALTER TABLE {{t}} DROP COLUMN {column}"));
        world.once().expect(78);
        assert_cured(&mut world, "position-column", 78);
    }
    for (column, short) in [("_partition", "Int16"), ("_offset", "Int32"), ("_partition", "Decimal(18, 2)")] {
        world.ch(&format!("ALTER TABLE {{t}} MODIFY COLUMN {column} {short}"));
        let ended = world.once().expect(78);
        assert!(ended.stderr.contains(column) && ended.stderr.contains(short), "{}", ended.stderr);
        assert_cured(&mut world, "position-type", 78);
    }
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_column_that_the_target_computes_is_an_error() {
    let mut world = World::new("check_computed");
    for kind in ["MATERIALIZED", "ALIAS"] {
        world.ch("ALTER TABLE {t} DROP COLUMN user_id");
        world.ch(&format!("ALTER TABLE {{t}} ADD COLUMN user_id Int64 {kind} id + 1"));
        assert_cured(&mut world, "column-computed", 78);
    }
    world.ch("ALTER TABLE {t} DROP COLUMN user_id");
    world.ch("ALTER TABLE {t} ADD COLUMN user_id Int64 EPHEMERAL");
    assert_cured(&mut world, "column-ephemeral", 78);
    // What is computed from it keeps it from being dropped.
    world.ch("ALTER TABLE {t} DROP COLUMN user_id");
    world.ch("ALTER TABLE {t} ADD COLUMN user_id Int64 EPHEMERAL, ADD COLUMN twice Int64 DEFAULT user_id * 2");
    assert_cured(&mut world, "column-ephemeral", 78);
    world.ch("ALTER TABLE {t} DROP INDEX _position");
    world.ch("ALTER TABLE {t} DROP COLUMN _offset");
    world.ch("ALTER TABLE {t} ADD COLUMN _offset Int64 MATERIALIZED 0");
    assert_cured(&mut world, "position-kind", 78);
    world.insert_rows(3);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_materialized_view_is_told_and_its_table_is_made_to_remember_tokens() {
    let mut world = World::new("check_view");
    world.ch("CREATE TABLE {t}_sums (user_id Int64, logins UInt64) ENGINE = SummingMergeTree ORDER BY user_id");
    world.ch(
        "CREATE MATERIALIZED VIEW {t}_view TO {t}_sums AS SELECT user_id, count() AS logins FROM {t} GROUP BY user_id",
    );
    assert_cured(&mut world, "view-deduplication", 0);
    assert!(finding(&check(&world, 0), "view").is_some());
}

#[test]
fn a_target_whose_expired_rows_views_would_get_again_is_an_error_before_a_run() {
    let mut world = World::new("check_unproven");
    world.insert_rows(2);
    world.ch("ALTER TABLE {t} MODIFY TTL toDateTime(event_time) + INTERVAL 9 YEAR");
    assert!(finding(&check(&world, 0), "offsets-unproven").is_none(), "no view reads it");
    world.ch(
        "CREATE TABLE {t}_seen (id Int64) ENGINE = MergeTree ORDER BY id SETTINGS non_replicated_deduplication_window = 10000",
    );
    world.ch("CREATE MATERIALIZED VIEW {t}_view TO {t}_seen AS SELECT id FROM {t}");
    assert_found(&world, "offsets-unproven", 78);
    let refused = world.once().expect(78).stderr;
    let found = assert_found(&world, "offsets-unproven", 78);
    for option in ["init --start-at-end", "--start-at-beginning"] {
        assert!(refused.contains(option) && found["fix"].as_str().unwrap().contains(option), "{refused}{found}");
    }
    world.run(&["init", "--start-at-beginning"]).expect(0);
    assert!(finding(&check(&world, 0), "offsets-unproven").is_none());
    world.once().expect(0);
    world.assert_exactly_once();
    assert_eq!(world.ch_number("SELECT count() FROM {t}_seen"), 2);
}

#[test]
fn arrays_that_clickhouse_takes_for_one_nested_column_are_named_before_and_after_it_exists() {
    let columns = r#"id bigint PRIMARY KEY, "a.b" int[] NOT NULL, "a.c" text[] NOT NULL, "b.c" int[] NOT NULL, "b.d" int NOT NULL,
        sent_to_kafka boolean NOT NULL DEFAULT FALSE"#;
    let mut world = World::unmade(Servers::shared(), "check_arrays", columns, 1);
    assert_found(&world, "target-missing", 78);
    let found = finding(&check(&world, 78), "array-nested").unwrap();
    assert!(found["what"].as_str().unwrap().contains("`a.b`, `a.c` for one Nested column `a`"), "{found}");
    let printed = world.run(&["init"]).expect(0).stdout;
    assert!(printed.contains("-- do by hand: ClickHouse takes the arrays"), "{printed}");
    let found = assert_found(&world, "array-nested", 0);
    world.ch("DROP TABLE {t}");
    world.settings.insert("[table]", found["fix"].as_str().unwrap().split('`').nth(1).unwrap().to_owned());
    world.run(&["init"]).expect(0);
    assert_gone(&world, "array-nested");
    world.sql("INSERT INTO {t} VALUES (1, '{1}', '{x,y}', '{}', 1)");
    world.once().expect(0);
    assert_eq!(world.ch("SELECT `a.b`, a_c FROM {t}"), "[1]\t['x','y']");
}

#[test]
fn arrays_of_which_clickhouse_makes_no_table_are_named_with_the_rename_that_helps() {
    let columns = r#"id bigint PRIMARY KEY, x int[] NOT NULL, "x.a" int[] NOT NULL, "y.null" int[] NOT NULL, "y.b" int[] NOT NULL,
        "z.null" int[], sent_to_kafka boolean NOT NULL DEFAULT FALSE"#;
    let mut world = World::unmade(Servers::shared(), "check_arrays_refused", columns, 1);
    let refused = world.run(&["init"]).expect(78).stderr;
    assert!(refused.contains("`x.a`") && refused.contains(r#"`rename = { "x.a" = "x_a" }`"#), "{refused}");
    let found = check(&world, 78);
    let of_arrays = found["findings"].as_array().unwrap().iter().filter(|each| each["id"] == "array-nested");
    let renames: Vec<&str> = of_arrays.map(|each| each["fix"].as_str().unwrap().split('`').nth(1).unwrap()).collect();
    assert_eq!(renames, [r#"rename = { "x.a" = "x_a" }"#, r#"rename = { "y.null" = "y_null" }"#]);
    world.settings.insert("[table]", r#"rename = { "x.a" = "x_a", "y.null" = "y_null" }"#.into());
    world.run(&["init"]).expect(0);
    world.sql("INSERT INTO {t} VALUES (1, '{1}', '{1,2}', '{}', '{3}', '{4,5}')");
    world.once().expect(0);
    assert_eq!(world.ch("SELECT x, x_a, y_null, `y.b`, `z.null` FROM {t}"), "[1]\t[1,2]\t[]\t[3]\t[4,5]");
}

#[test]
fn a_target_that_another_configuration_fills_too_is_an_error() {
    let mut one = World::new("check_shared_one");
    let mut other = World::new("check_shared_other");
    one.insert_rows(1);
    one.once().expect(0);
    // By default all tables have one group.
    other.settings.insert("[table]", format!("target = \"analytics.{0}\"\ngroup = \"{0}\"", one.name));
    other.insert_rows(2);
    other.once().expect(0);
    for (world, told) in [(&one, &other), (&other, &one)] {
        let found = assert_found(world, "target-shared", 78);
        assert!(found["what"].as_str().unwrap().starts_with(&format!("public.{} of another", told.name)), "{found}");
    }
    let fix = assert_found(&one, "target-shared", 78)["fix"].as_str().unwrap().to_owned();
    one.sql(fix.split_once("in PostgreSQL: ").unwrap().1);
    assert_gone(&one, "target-shared");
}

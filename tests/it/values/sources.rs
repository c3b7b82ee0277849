//! What the text of a record does not tell: values that print alike in JSON and differ in PostgreSQL stay different.

use crate::common::World;
use crate::common::servers::Servers;
use serde_json::{Value, json};

const DOCUMENTS: &str = "id bigint PRIMARY KEY, j jsonb, plain json, t text, many jsonb[] NOT NULL DEFAULT '{}', others jsonb[], \
    sent_to_kafka boolean NOT NULL DEFAULT FALSE";

/// Rows whose documents are strings that look like other documents.
fn documents(name: &str) -> World {
    let mut world = World::with(name, DOCUMENTS, 1);
    world.sql(
        r#"INSERT INTO {t} (id, j, plain, t, many, others) VALUES
           (1, '"123"', '"a\u00e9b"', '123', ARRAY['"1"', '1', '"null"', '[1]']::jsonb[], ARRAY['"1"', '1']::jsonb[]),
           (2, '123', '123', '"123"', '{}', NULL), (3, '"null"', '"null"', 'null', '{}', NULL), (4, NULL, NULL, NULL, '{}', NULL),
           (5, '"{\"a\": 1}"', ' "x"', '{"a": 1}', '{}', NULL), (6, '{"a": "1"}', '{"a" : "1"}', '', '{}', NULL)"#,
    );
    world
}

/// The target's rows as JSON.
fn shown(world: &World, columns: &str) -> Vec<Value> {
    let settings = "SETTINGS output_format_json_quote_64bit_integers = 0";
    let rows = world.ch(&format!("SELECT {columns} FROM {{t}} ORDER BY id FORMAT JSONCompactEachRow {settings}"));
    rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn assert_documents(world: &World) {
    let rows = [
        json!([1, "\"123\"", "\"a\\u00e9b\"", "123", ["\"1\"", "1", "\"null\"", "[1]"], "[\"1\",1]"]),
        json!([2, "123", "123", "\"123\"", [], null]),
        json!([3, "\"null\"", "\"null\"", "null", [], null]),
        json!([4, null, null, null, [], null]),
        json!([5, "\"{\\\"a\\\": 1}\"", "\"x\"", "{\"a\": 1}", [], null]),
        json!([6, "{\"a\": \"1\"}", "{\"a\" : \"1\"}", "", [], null]),
    ];
    assert_eq!(shown(world, "id, j, plain, t, many, others"), rows);
    let told = world.run(&["verify", "--deep"]).expect(0).stdout;
    assert!(told.contains("equal"), "{told}");
}

#[test]
fn a_document_that_is_a_string_keeps_its_quotes() {
    let world = documents("quotes");
    world.once().expect(0);
    assert_documents(&world);
}

#[test]
fn a_consume_leg_alone_knows_which_columns_are_documents() {
    let world = documents("quotes_alone");
    world.run(&["produce"]).expect(0);
    world.run(&["consume"]).expect(0);
    assert_documents(&world);
}

#[test]
fn a_string_in_a_document_is_no_number_in_an_array_of_strings() {
    let mut world = World::unmade(
        Servers::shared(),
        "strings",
        "id bigint PRIMARY KEY, j jsonb NOT NULL, sent_to_kafka boolean NOT NULL DEFAULT FALSE",
        1,
    );
    world.settings.insert("[table]", "allow_lossy = [\"j\"]".into());
    world.ch(
        "CREATE TABLE {t} (id Int64, j Array(String), _partition Int32, _offset Int64, _timestamp DateTime64(3, 'UTC'))
         ENGINE = ReplacingMergeTree(_timestamp) ORDER BY id SETTINGS non_replicated_deduplication_window = 1000",
    );
    world.run(&["init"]).expect(0);
    world.sql(r#"INSERT INTO {t} VALUES (1, '["1", "a"]'), (2, '[1]'), (3, '[["1"]]')"#);
    assert_eq!(world.once().expect(65).number("consume", "dead_letters"), 2);
    assert_eq!(world.ch("SELECT id, j FROM {t}"), "1\t['1','a']");
}

const ARRAYS: &str = "id bigint PRIMARY KEY, texts text[][] NOT NULL DEFAULT '{}', numbers int[] NOT NULL DEFAULT '{}', \
    some_numbers int[], documents jsonb[] NOT NULL DEFAULT '{}', sent_to_kafka boolean NOT NULL DEFAULT FALSE";

#[test]
fn an_array_of_other_dimensions_or_bounds_is_refused_or_kept_as_its_text() {
    let mut world = World::with("dimensions", ARRAYS, 1);
    world.sql("INSERT INTO {t} (id, texts) VALUES (1, '{a,NULL}'), (2, '{{a,b},{c,d}}')");
    world.sql("INSERT INTO {t} (id, numbers) VALUES (3, '{1,2}'), (4, '[0:1]={1,2}')");
    world.sql("INSERT INTO {t} (id, some_numbers) VALUES (5, '{{1,2},{3,4}}'), (6, '[1:1][5:6]={{1,2}}'), (7, '{}')");
    world.sql("INSERT INTO {t} (id, documents) VALUES (8, ARRAY['[1]']::jsonb[]), (9, ARRAY[ARRAY['1']]::jsonb[])");

    assert_eq!(world.once().expect(65).number("consume", "dead_letters"), 3);

    let rows = [
        json!([1, ["a", null], [], null, []]),
        json!([3, [], [1, 2], null, []]),
        json!([5, [], [], "[[1,2],[3,4]]", []]),
        json!([6, [], [], "[1:1][5:6]={{1,2}}", []]),
        json!([7, [], [], "[]", []]),
        json!([8, [], [], null, ["[1]"]]),
    ];
    assert_eq!(shown(&world, "id, texts, numbers, some_numbers, documents"), rows);
    let letters = world.topic_named(&format!("{}.dead", world.name));
    let mut refused: Vec<&str> = letters.iter().map(|letter| letter.key.as_str()).collect();
    refused.sort_unstable();
    assert_eq!(refused, ["2", "4", "9"]);
    let report = world.run(&["verify", "--deep", "--json"]).expect(65).report();
    assert_eq!(
        (&report["different"], &report["rows_compared"], &report["rows_shown"]),
        (&0.into(), &6.into(), &9.into())
    );
}

#[test]
fn a_composite_value_with_array_bounds_in_it_is_kept_as_its_text() {
    let columns = "id bigint PRIMARY KEY, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    let mut world = World::unmade(Servers::shared(), "parts", columns, 1);
    world.sql("CREATE TYPE {t}_part AS (n int[], note text)");
    world.sql("ALTER TABLE {t} ADD part {t}_part, ADD parts {t}_part[]");
    world.run(&["init"]).expect(0);
    world.sql(
        "INSERT INTO {t} (id, part, parts) VALUES
         (1, ROW('{1,2}', 'a'), NULL), (2, ROW('[0:1]={1,2}', 'a'), NULL), (3, ROW('[0:0][-1:0]={{1,2}}', NULL), NULL),
         (4, ROW(NULL, 'see [0:1]'), NULL), (5, NULL, ARRAY[ROW('{1}', 'a'), ROW('[2:2]={1}', 'b')]::{t}_part[]),
         (6, NULL, ARRAY[ROW('{1}', NULL)]::{t}_part[])",
    );

    world.once().expect(0);

    let rows = [
        json!([1, "{\"n\":[1,2],\"note\":\"a\"}", null]),
        json!([2, "(\"[0:1]={1,2}\",a)", null]),
        json!([3, "(\"[0:0][-1:0]={{1,2}}\",)", null]),
        json!([4, "{\"n\":null,\"note\":\"see [0:1]\"}", null]),
        json!([5, null, "{\"({1},a)\",\"([2:2]={1},b)\"}"]),
        json!([6, null, "[{\"n\":[1],\"note\":null}]"]),
    ];
    assert_eq!(shown(&world, "id, part, parts"), rows);
    world.run(&["verify", "--deep"]).expect(0);
}

#[test]
fn a_double_that_a_float32_would_round_is_refused_though_both_print_alike() {
    let columns = "id bigint PRIMARY KEY, d double precision NOT NULL, r real NOT NULL DEFAULT 0.1, \
        ds double precision[] NOT NULL DEFAULT '{}', sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    let mut world = World::unmade(Servers::shared(), "doubles", columns, 1);
    world.settings.insert("[table]", "allow_lossy = [\"d\", \"ds\"]".into());
    world.ch(
        "CREATE TABLE {t} (id Int64, d Float32, r Float32, ds Array(Nullable(Float32)), _partition Int32, _offset Int64,
         _timestamp DateTime64(3, 'UTC')) ENGINE = ReplacingMergeTree(_timestamp) ORDER BY id
         SETTINGS non_replicated_deduplication_window = 1000",
    );
    world.run(&["init"]).expect(0);
    world.sql(
        "INSERT INTO {t} (id, d) VALUES (1, 0.5), (2, 0.1), (3, 'NaN'), (4, '-Infinity'), (5, 16777217), (6, '-0')",
    );
    world.sql("INSERT INTO {t} (id, d, ds) VALUES (7, 1, '{0.25}'), (8, 1, '{0.1}')");

    assert_eq!(world.once().expect(65).number("consume", "dead_letters"), 3);

    let shown = "1\t0.5\t[]\n3\tnan\t[]\n4\t-inf\t[]\n6\t-0\t[]\n7\t1\t[0.25]";
    assert_eq!(world.ch("SELECT id, d, ds FROM {t} WHERE r = toFloat32(0.1) ORDER BY id"), shown);
    let report = world.run(&["verify", "--deep", "--json"]).expect(65).report();
    assert_eq!((&report["different"], &report["rows_compared"]), (&0.into(), &5.into()), "{report}");
}

#[test]
fn decimal_keys_that_are_rounded_to_one_float_are_no_version_of_each_other() {
    let columns = "id numeric PRIMARY KEY, n numeric(40,38), j jsonb, ns numeric[] NOT NULL DEFAULT '{}', b bigint, \
        sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    let mut world = World::unmade(Servers::shared(), "decimals", columns, 1);
    world.settings.insert("[table]", "allow_lossy = [\"id\", \"n\", \"j\", \"ns\", \"b\"]".into());
    world.ch(
        "CREATE TABLE {t} (id Float64, n Nullable(Float32), j Nullable(Float64), ns Array(Nullable(Float64)), b Nullable(Float64),
         _partition Int32, _offset Int64, _timestamp DateTime64(3, 'UTC')) ENGINE = ReplacingMergeTree(_timestamp) ORDER BY id
         SETTINGS non_replicated_deduplication_window = 1000",
    );
    world.run(&["init"]).expect(0);
    world.sql("INSERT INTO {t} (id) VALUES (0.1), (0.10000000000000001), (0.1000000000000000055511151231257827)");
    world.sql("INSERT INTO {t} (id, n) VALUES (1, 0.1), (2, 0.100000001490116119384765625)");
    world.sql("INSERT INTO {t} (id, j) VALUES (3, '1e23'), (4, '99999999999999991611392')");
    world.sql("INSERT INTO {t} (id, ns) VALUES (5, '{0.1,NULL}'), (6, '{0.10000000000000001}')");
    world.sql("INSERT INTO {t} (id, b) VALUES (7, 1152921504606847000), (8, 1152921504606846976)");

    assert_eq!(world.once().expect(65).number("consume", "dead_letters"), 6);

    let shown = "0.1\t\\N\t\\N\t[]\t\\N\n1\t0.1\t\\N\t[]\t\\N\n3\t\\N\t1e23\t[]\t\\N\n\
        5\t\\N\t\\N\t[0.1,NULL]\t\\N\n7\t\\N\t\\N\t[]\t1152921504606847000";
    assert_eq!(world.ch("SELECT id, n, j, ns, b FROM {t} ORDER BY id"), shown);
}

#[test]
fn an_array_of_a_domain_over_an_array_is_kept_as_its_json() {
    let columns = "id bigint PRIMARY KEY, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    let mut world = World::unmade(Servers::shared(), "array_domain", columns, 1);
    world.sql("CREATE DOMAIN {t}_row AS int[]");
    world.sql("ALTER TABLE {t} ADD a {t}_row[] NOT NULL, ADD b {t}_row[]");
    world.run(&["init"]).expect(0);
    world.sql("INSERT INTO {t} (id, a, b) VALUES (1, '{\"{1,2}\",\"{3}\",NULL}', NULL), (2, '{}', '{}')");
    world.once().expect(0);
    assert_eq!(shown(&world, "id, a, b"), [json!([1, "[[1,2],[3],null]", null]), json!([2, "[]", "[]"])]);
    world.run(&["verify", "--deep"]).expect(0);
    // An older version has made such a column.
    world.ch("ALTER TABLE {t} DROP COLUMN a");
    world.ch("ALTER TABLE {t} ADD COLUMN a Array(Nullable(String))");
    assert!(world.run(&["check", "--json"]).expect(78).stdout.contains("no Array of String"));
}

#[test]
fn a_fault_of_the_encoder_does_not_hide_behind_itself() {
    let world = documents("faulty");
    let faulty = |args: &[&str]| {
        let mut command = world.command(args);
        crate::common::Ended::of(&command.env("PG2CH_MUTANT", "a document loses its quotes").output().unwrap())
    };
    faulty(&["--once"]).expect(0);
    assert_eq!(world.ch("SELECT j FROM {t} WHERE id = 1"), "123", "the fault is planted");

    let found = faulty(&["verify", "--deep", "--repair", "--json"]).expect(65).report();

    assert_eq!(found["different"], 3, "{found:#}");
    assert_eq!(found["repair"]["wanted"], 0, "sent again it would be the same");
    let first = &found["differences"][0];
    assert_eq!((&first["column"], &first["source"], &first["target"]), (&"j".into(), &"\"123\"".into(), &"123".into()));
    // What an older version stored is repaired by this one.
    world.run(&["verify", "--deep", "--repair", "--confirm"]).expect(65);
    world.once().expect(0);
    assert!(world.run(&["verify", "--deep"]).expect(0).stdout.contains("equal"));
}

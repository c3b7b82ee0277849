//! Source tables as people have them: any type, any name, any shape; and those that cannot be served are refused before
//! anything is sent.

use crate::common::servers::Servers;
use crate::common::{Ended, World};

const FLAG: &str = "sent_to_kafka boolean NOT NULL DEFAULT FALSE";

/// A table with these columns besides `id` and the flag, and the target that `pg2ch init` makes.
fn with_columns(name: &str, columns: &str) -> World {
    World::with(name, &format!("id bigint PRIMARY KEY, {columns}, {FLAG}"), 2)
}

/// After a run every row is sent once, and both tables say the same.
fn moved_whole(world: &mut World) {
    let rows = world.sql_number("SELECT count(*) FROM {t}");
    let ended = world.once().expect(0);
    assert_eq!((ended.number("produce", "rows_flagged"), ended.number("consume", "rows_inserted")), (rows, rows));
    world.run(&["verify", "--deep"]).expect(0);
    assert_eq!(world.once().expect(0).number("produce", "rows_read"), 0);
}

/// A run is refused for this reason, nothing is sent, and `pg2ch check` says so, too.
#[track_caller]
fn refused(world: &World, code: i32, why: &str) -> Ended {
    let ended = world.once().expect(code);
    assert!(ended.stderr.contains(why), "{why}: {}", ended.stderr);
    assert_eq!(world.records(), 0, "{why}");
    let check = world.run(&["check"]).expect(78);
    assert!(check.stdout.contains("error: PostgreSQL"), "{why}: {}", check.stdout);
    ended
}

#[test]
fn every_kind_of_type_arrives_whole() {
    let name = format!("kinds_{}", std::process::id());
    let mut pg = Servers::shared().session();
    pg.batch_execute(&format!(
        "CREATE TYPE {name}_mood AS ENUM ('fine', 'it''s \"so-so\"', '');
         CREATE DOMAIN {name}_percent AS numeric(5,2) CHECK (VALUE <= 100);
         CREATE TYPE {name}_pair AS (a int, \"b \"\"c\" text)"
    ))
    .unwrap();
    let mut world = with_columns(
        "kinds",
        &format!(
            "identity int GENERATED ALWAYS AS IDENTITY, doubled int GENERATED ALWAYS AS (n * 2) STORED, n int,
             s smallint, b boolean, r real, d double precision, money money, num numeric, n38 numeric(38,10), n80 numeric(80,5),
             t text, c char(5), v varchar(9), bytes bytea, u uuid, j json, jb jsonb, x xml, bits bit varying,
             day date, at timestamp, atz timestamptz(3), tod time, todz timetz, lasts interval,
             ip inet, net cidr, mac macaddr, ints int4range, times tstzrange, point point, words tsvector, oid oid, class regclass,
             mood {name}_mood, percent {name}_percent, pair {name}_pair,
             texts text[] NOT NULL DEFAULT '{{}}', numbers numeric(9,2)[], moods {name}_mood[], pairs {name}_pair[]"
        ),
    );
    let columns = "id, n, s, b, r, d, money, num, n38, n80, t, c, v, bytes, u, j, jb, x, bits, day, at, atz, tod, todz, lasts, \
        ip, net, mac, ints, times, point, words, oid, class, mood, percent, pair, texts, numbers, moods, pairs";
    world.sql(&format!(
        r#"INSERT INTO {{t}} ({columns}) VALUES
        (1, 7, -32768, TRUE, 1.1754944e-38, 0.1, 12.5, 123456789012345678901234567890.00001, -1234567890123456789012345678.0123456789,
         1e70, E'tab\t"quote" \\ 日本 😀 \x01', 'ab', '', '\x00ff5c', gen_random_uuid(), '{{"a" :  1}}', '{{"b": 1.50, "a": null}}',
         '<a>&amp;</a>', B'101', '2262-04-11', '1900-01-01 00:00:00.000001', '2024-05-01 10:00:00.123+02', '24:00', '10:00+05:30',
         '1 year -2 days 03:04:05.000006', '10.0.0.1/8', '2001:db8::/32', '08:00:2b:01:02:03', '[1,5)',
         '[2024-01-01,)', '(1.5,-2)', 'a:1 b:2', 4294967295, 'pg_class', 'it''s "so-so"', 99.99, ROW(1, 'x,y"z'),
         ARRAY['a', NULL, 'NULL', ''], ARRAY[1.25, NULL], ARRAY['fine', '']::{name}_mood[], ARRAY[ROW(1, NULL)::{name}_pair]),
        (2, 1073741823, 32767, FALSE, 'NaN', '-Infinity', -0.01, 'NaN', 0, -1e-5, '', '', 'x', '', '00000000-0000-0000-0000-000000000000',
         'null', 'null', '', B'', '1970-01-01', '2261-12-31 23:59:59.999999', '1970-01-01 00:00:00+00', '00:00', '00:00:00.000001-12',
         '-178000000 years', '::1', '0.0.0.0/0', 'ff:ff:ff:ff:ff:ff', 'empty', 'empty', '(NaN,Infinity)', '', 0, 'pg_type', '', -100, ROW(NULL, NULL),
         '{{}}', '{{}}', '{{}}', '{{}}'),
        (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
         NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{{}}', NULL, NULL, NULL)"#
    ));
    moved_whole(&mut world);
    assert_eq!(world.ch("SELECT doubled, identity FROM {t} WHERE id = 1"), "14\t1");
    assert_eq!(
        world.ch("SELECT n80, bytes, ints, class FROM {t} WHERE id = 1 FORMAT TSVRaw"),
        "1\
        0000000000000000000000000000000000000000000000000000000000000000000000.00000\t\\x00ff5c\t[1,5)\tpg_class"
    );
}

#[test]
fn a_value_that_the_target_cannot_hold_is_a_dead_letter_and_its_neighbours_go() {
    let mut world = with_columns("edges", "day date, at timestamptz, num numeric(10,2), a int[] NOT NULL DEFAULT '{}'");
    world.sql(
        "INSERT INTO {t} (id, day, at, num, a) VALUES
         (1, 'infinity', NULL, NULL, '{}'), (2, '0044-03-15 BC', NULL, NULL, '{}'), (3, '1899-12-31', NULL, NULL, '{}'),
         (4, NULL, '-infinity', NULL, '{}'), (5, NULL, '0001-01-01 00:00:00+00 BC', NULL, '{}'), (6, NULL, '9999-12-31', NULL, '{}'),
         (7, NULL, NULL, 'NaN', '{}'), (8, NULL, NULL, NULL, '{{1,2},{3,4}}'), (9, '2024-02-29', '2024-02-29', 1.5, '{1}')",
    );
    let ended = world.once().expect(65);
    let dead = ended.number("consume", "dead_letters");
    assert_eq!((ended.number("produce", "rows_flagged"), ended.number("consume", "rows_inserted")), (9, 9 - dead));
    assert!(world.ch("SELECT id FROM {t} WHERE id IN (1, 2, 4, 5, 7, 8)").is_empty(), "never another value in silence");
    assert_eq!(world.ch("SELECT day, num, a FROM {t} WHERE id = 9"), "2024-02-29\t1.5\t[1]");
    let report = world.run(&["verify", "--deep", "--json"]).expect(65).report();
    assert_eq!((&report["missing"]["count"], &report["different"]), (&0.into(), &0.into()), "{report}");
}

#[test]
fn names_may_hold_anything() {
    let longest = "é".repeat(31) + "x";
    let schema = format!("Sch\"é ma.{}", std::process::id());
    let mut world = World::unmade(Servers::shared(), "hostile", "x int", 2);
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let source = format!("{}.{}", quoted(&schema), quoted("select * from \"Users\"; --"));
    world
        .pg
        .batch_execute(&format!(
            "CREATE SCHEMA {}; CREATE TABLE {source} (\"Order\" int, {} text, \"a'b\\c`d\" int, \"group\" text DEFAULT 'x', \"$1\" int,
                 \"Sent?\" boolean NOT NULL DEFAULT FALSE, PRIMARY KEY (\"Order\", {}));
             INSERT INTO {source} (\"Order\", {}) SELECT n, 'k' || n FROM generate_series(1, 5) n",
            quoted(&schema),
            quoted(&longest),
            quoted(&longest),
            quoted(&longest),
        ))
        .unwrap();
    world.settings.insert(
        "[table]",
        format!(
            "source = '''{source}'''\nkey = [\"Order\", \"{longest}\"]\nflag = \"Sent?\"\nwhere = '''\"group\" = 'x' AND \"a'b\\c`d\" IS NULL'''\n\
             target = 'analytics.\"{} Ta`rg\"\"et\\\"'",
            world.name
        ),
    );
    world.run(&["init"]).expect(0);
    let ended = world.once().expect(0);
    assert_eq!((ended.number("produce", "rows_flagged"), ended.number("consume", "rows_inserted")), (5, 5));
    assert_eq!(world.topic()[0].value.matches(&longest).count(), 1);
    world.run(&["verify", "--deep"]).expect(0);
    world.run(&["check"]).expect(0);
    assert!(world.run(&["init"]).expect(0).stdout.starts_with("nothing to do: "));
    world.pg.batch_execute(&format!("DROP SCHEMA {} CASCADE", quoted(&schema))).unwrap();
}

#[test]
fn rows_that_move_between_partitions_are_rows_of_another_key() {
    let mut world = World::unmade(Servers::shared(), "wanders", "x int", 2);
    let t = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "DROP TABLE {t}; CREATE TABLE {t} (id int, region text, n int, {FLAG}, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE {t}_a PARTITION OF {t} FOR VALUES IN ('a'); CREATE TABLE {t}_b PARTITION OF {t} FOR VALUES IN ('b');
             INSERT INTO {t} SELECT n, 'a', n FROM generate_series(1, 6) n"
        ))
        .unwrap();
    world.settings.insert("[table]", "key = [\"id\", \"region\"]".into());
    world.run(&["init"]).expect(0);
    // One moves after it was sent and before it is flagged, one afterwards; a partition is detached and comes back.
    let mut run = world.start_stopped_at("kafka.commit.after");
    world.sql("UPDATE {t} SET region = 'b' WHERE id = 1");
    run.go_on();
    assert_eq!(run.end().expect(0).number("produce", "rows_flagged"), 5);
    world.sql("UPDATE {t} SET region = 'b', sent_to_kafka = FALSE WHERE id = 2");
    world.sql("ALTER TABLE {t} DETACH PARTITION {t}_a");
    assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 2);
    world.sql("ALTER TABLE {t} ATTACH PARTITION {t}_a FOR VALUES IN ('a')");
    assert_eq!(world.once().expect(0).number("produce", "rows_read"), 0);
    let report = world.run(&["verify", "--deep", "--json"]).expect(0).report();
    assert_eq!((&report["rows"], &report["only_in_target"]["count"]), (&6.into(), &2.into()), "{report}");
}

#[test]
fn one_partition_may_be_a_source_of_its_own() {
    let mut world = World::unmade(Servers::shared(), "part", "x int", 1);
    let t = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "DROP TABLE {t}; CREATE TABLE {t}_all (id int PRIMARY KEY, n int, {FLAG}) PARTITION BY RANGE (id);
             CREATE TABLE {t} PARTITION OF {t}_all FOR VALUES FROM (0) TO (10);
             CREATE TABLE {t}_rest PARTITION OF {t}_all DEFAULT; INSERT INTO {t}_all SELECT n FROM generate_series(1, 20) n"
        ))
        .unwrap();
    world.run(&["init"]).expect(0);
    assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 9);
    world.run(&["verify", "--deep"]).expect(0);
}

#[test]
fn unlogged_tables_and_those_with_a_replica_identity_are_like_others() {
    for (name, change) in
        [("unlogged", "ALTER TABLE {t} SET UNLOGGED"), ("identity_full", "ALTER TABLE {t} REPLICA IDENTITY FULL")]
    {
        let mut world = World::new(name);
        world.sql(change);
        world.insert_rows(20);
        moved_whole(&mut world);
        world.assert_exactly_once();
    }
}

/// Ten rows of a table with this key go out in batches of three, once each, though the first run dies before it can flag what
/// it has sent.
fn go_out_once(name: &str, columns: &str, key: &[&str], rows: &str) -> World {
    let mut world =
        World::unmade(Servers::shared(), name, &format!("{columns}, {FLAG}, PRIMARY KEY ({})", key.join(", ")), 3);
    world.settings.insert("[table]", format!("key = {key:?}"));
    world.batch_rows(3);
    world.run(&["init"]).expect(0);
    world.sql(&format!("INSERT INTO {{t}} SELECT {rows} FROM generate_series(1, 10) n"));
    world.kill_at("kafka.commit.after", &["produce"]);
    let ended = world.once().expect(0);
    assert_eq!(
        (ended.number("produce", "rows_recovered"), ended.number("produce", "rows_flagged")),
        (3, 7),
        "{name}: {}",
        ended.stderr
    );
    assert_eq!((world.records(), world.ch("SELECT count() FROM {t}").as_str()), (10, "10"), "{name}");
    world
}

#[test]
fn a_key_may_be_a_domain_an_enum_or_a_number_in_any_spelling() {
    let name = format!("keyed_{}", std::process::id());
    let mut pg = Servers::shared().session();
    pg.batch_execute(&format!(
        "CREATE TYPE {name}_mood AS ENUM ('z', 'a'); CREATE DOMAIN {name}_code AS varchar(8) CHECK (VALUE <> 'none')"
    ))
    .unwrap();
    let world = go_out_once(
        "keyed",
        &format!("code {name}_code, mood {name}_mood, amount numeric, ip inet, n int"),
        &["code", "mood", "amount", "ip"],
        &format!("'c' || n, (ARRAY['z', 'a'])[1 + n % 2]::{name}_mood, n * 1.10, ('10.0.0.' || n)::inet, n"),
    );
    world.run(&["verify", "--deep"]).expect(0);
}

#[test]
fn a_key_of_an_extensions_type_goes_in_the_order_of_its_own_operators() {
    Servers::shared()
        .superuser()
        .batch_execute("CREATE EXTENSION IF NOT EXISTS citext; CREATE EXTENSION IF NOT EXISTS ltree")
        .unwrap();
    // As text these sort otherwise: upper-case letters first.
    let mixed = "(CASE WHEN n % 2 = 0 THEN chr(96 + n) ELSE chr(64 + n) END)::citext";
    go_out_once("citext_key", "id citext, n int", &["id"], &format!("{mixed}, n"));
    go_out_once("citext_keys", "g int, id citext, n int", &["g", "id"], &format!("n / 4, {mixed}, n"));
    go_out_once("ltree_key", "id ltree, n int", &["id"], "('a.b' || n)::ltree, n");
}

#[test]
fn a_key_may_hold_arrays_and_objects_and_be_as_long_as_an_index_takes() {
    let name = format!("nested_{}", std::process::id());
    Servers::shared().superuser().batch_execute(&format!("CREATE TYPE {name} AS (a int, b text)")).unwrap();
    go_out_once(
        "nested_key",
        &format!("ints int[], pair {name}, doc jsonb, n int"),
        &["ints", "pair", "doc"],
        &format!(r#"ARRAY[n, NULL], ROW(n, 'x "y"')::{name}, '{{"a": [1, "b"]}}', n"#),
    );
    // Random, so that it cannot be compressed; as text it is twice as long.
    let long = "(SELECT decode(string_agg(md5(random()::text || i || n), ''), 'hex') FROM generate_series(1, 150) i)";
    go_out_once("long_key", "id bytea, n int", &["id"], &format!("{long}, n"));
}

#[test]
fn a_row_whose_flag_is_null_is_never_sent_and_check_says_so() {
    let mut world = World::with("null_flag", "id bigint PRIMARY KEY, n int, sent_to_kafka boolean", 1);
    world.sql("INSERT INTO {t} VALUES (1, 1, NULL), (2, 2, FALSE), (3, 3, TRUE)");
    assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 1);
    assert!(world.run(&["check"]).expect(0).stdout.contains("[flag-nullable]"));
}

#[test]
fn what_cannot_name_its_rows_is_refused() {
    for (name, columns, why) in [
        ("no_index", format!("id bigint NOT NULL, {FLAG}"), "no unique index covers exactly its key"),
        ("null_key", format!("id bigint UNIQUE, {FLAG}"), "its key column id may be NULL"),
        (
            "deferrable",
            format!("id bigint NOT NULL UNIQUE DEFERRABLE INITIALLY DEFERRED, {FLAG}"),
            "no unique index covers exactly its key",
        ),
        (
            "wider",
            format!("id bigint NOT NULL, n int NOT NULL DEFAULT 1, UNIQUE (id, n), {FLAG}"),
            "no unique index covers exactly",
        ),
        ("text_flag", "id bigint PRIMARY KEY, sent_to_kafka text".into(), "is of type text"),
        (
            "made_flag",
            "id bigint PRIMARY KEY, sent_to_kafka boolean GENERATED ALWAYS AS (id > 5) STORED".into(),
            "can only be updated to DEFAULT",
        ),
    ] {
        let mut world = World::unmade(Servers::shared(), name, &columns, 1);
        // Everything but the source is as it should be.
        let made = format!("DROP TABLE {0}; CREATE TABLE {0} (id bigint PRIMARY KEY, {FLAG})", world.name);
        let unfit =
            format!("DROP TABLE {0}; CREATE TABLE {0} ({columns}); INSERT INTO {0} (id) VALUES (1)", world.name);
        world.pg.batch_execute(&made).unwrap();
        world.run(&["init"]).expect(0);
        world.pg.batch_execute(&unfit).unwrap();
        refused(&world, 78, why);
    }
}

#[test]
fn a_unique_index_that_tells_apart_what_the_key_takes_for_equal_is_refused() {
    let superuser = |world: &World, sql: &str| world.superuser().batch_execute(sql).unwrap();
    let made = World::new("other_equality");
    superuser(
        &made,
        "CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
         CREATE COLLATION IF NOT EXISTS public.any_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
    );
    for (id, index, fits) in [
        ("text COLLATE public.any_case", "id COLLATE \"C\"", false),
        ("text COLLATE public.any_case", "id", true),
        ("public.citext", "id text_ops", false),
        ("public.citext", "id", true),
        ("text", "id COLLATE \"C\"", true),
        ("text", "id text_pattern_ops", true),
    ] {
        let mut world = World::unmade(Servers::shared(), "other_equality", &format!("id {id} NOT NULL, {FLAG}"), 1);
        let indexed = format!("CREATE UNIQUE INDEX ON {0} ({index}); INSERT INTO {0} (id) VALUES ('a')", world.name);
        world.pg.batch_execute(&indexed).unwrap();
        if fits {
            world.run(&["init"]).expect(0);
            world.run(&["produce"]).expect(0);
            assert_eq!(world.records(), 1, "{id} {index}");
        } else {
            let ended = world.run(&["init"]).expect(78);
            assert!(ended.stderr.contains("no unique index covers exactly its key"), "{}", ended.stderr);
        }
    }
}

#[test]
fn what_is_no_table_of_its_own_rows_is_refused() {
    for (name, made, why) in [
        ("view", "CREATE VIEW {t} AS SELECT * FROM {t}_base", "is a view"),
        ("matview", "CREATE MATERIALIZED VIEW {t} AS SELECT * FROM {t}_base", "is a materialized view"),
        (
            "heirs",
            "CREATE TABLE {t} (LIKE {t}_base INCLUDING ALL); CREATE TABLE {t}_heir () INHERITS ({t})",
            "inherit from",
        ),
        ("temporary", "CREATE TEMPORARY TABLE {t} (LIKE {t}_base INCLUDING ALL)", "the table does not exist"),
        ("sequence", "CREATE SEQUENCE {t}", "is something else, not a table"),
    ] {
        let mut world = World::new(name);
        world.insert_rows(2);
        let made = format!("ALTER TABLE {{t}} RENAME TO {{t}}_base; {made}").replace("{t}", &world.name);
        world.pg.batch_execute(&made).unwrap();
        refused(&world, 78, why);
    }
}

#[test]
fn a_foreign_table_is_refused() {
    let mut world = World::new("foreign");
    world.insert_rows(2);
    let mut superuser = world.superuser();
    let t = world.name.clone();
    superuser
        .batch_execute(&format!(
            "CREATE FOREIGN DATA WRAPPER {t}_w; CREATE SERVER {t}_s FOREIGN DATA WRAPPER {t}_w; ALTER TABLE {t} RENAME TO {t}_base;
             CREATE FOREIGN TABLE {t} (id bigint NOT NULL, {FLAG}) SERVER {t}_s"
        ))
        .unwrap();
    refused(&world, 78, "is a foreign table");
    superuser.batch_execute(&format!("DROP FOREIGN DATA WRAPPER {t}_w CASCADE")).unwrap();
}

#[test]
fn an_heir_is_a_table_like_another() {
    let mut world = World::new("heir");
    world
        .pg
        .batch_execute(&format!("CREATE TABLE {0}_parent (id bigint); ALTER TABLE {0} INHERIT {0}_parent", world.name))
        .unwrap();
    world.insert_rows(3);
    moved_whole(&mut world);
}

#[test]
fn a_table_whose_rows_cannot_be_updated_is_refused_before_anything_is_sent() {
    // Published without a replica identity, every UPDATE of it fails.
    let columns = format!("id bigint NOT NULL UNIQUE, n int, {FLAG}");
    let mut world = World::with("published", &columns, 1);
    world.sql("INSERT INTO {t} VALUES (1, 1)");
    world.sql("CREATE PUBLICATION {t}_all FOR TABLE {t}");
    refused(&world, 78, "does not have a replica identity and publishes updates");
    world.sql("ALTER TABLE {t} REPLICA IDENTITY FULL");
    moved_whole(&mut world);

    let mut world = World::new("ruled");
    world.insert_rows(1);
    world.sql("CREATE RULE no AS ON UPDATE TO {t} DO INSTEAD NOTHING");
    refused(&world, 78, "cannot flag rows");
}

#[test]
fn a_role_that_may_not_flag_or_does_not_see_every_row_is_refused_before_anything_is_sent() {
    let all = "GRANT SELECT, UPDATE ON {t} TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held TO {role};";
    for (name, grants, code, why) in [
        ("may_not", "GRANT SELECT ON {t} TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held TO {role};".into(), 77, "permission denied"),
        (
            "hidden",
            format!("{all} ALTER TABLE {{t}} ENABLE ROW LEVEL SECURITY; CREATE POLICY odd ON {{t}} USING (id % 2 = 1)"),
            77,
            "row-level security",
        ),
        (
            "forced",
            "ALTER TABLE {t} ENABLE ROW LEVEL SECURITY; ALTER TABLE {t} FORCE ROW LEVEL SECURITY; ALTER TABLE {t} OWNER TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held TO {role}; CREATE POLICY odd ON {t} USING (id % 2 = 1)"
                .into(),
            77,
            "row-level security",
        ),
    ] {
        let mut world = World::new(name);
        world.insert_rows(4);
        let role = world.become_role(&grants);
        refused(&world, code, why);
        let mut superuser = world.superuser();
        // Whom no policy concerns may read and flag.
        superuser
            .batch_execute(&format!("ALTER ROLE {role} BYPASSRLS; GRANT UPDATE ON {} TO {role}", world.name))
            .unwrap();
        assert_eq!(world.once().expect(0).number("produce", "rows_flagged"), 4);
        superuser.batch_execute(&format!("REASSIGN OWNED BY {role} TO app")).unwrap();
        world.drop_role(&role);
    }
}

#[test]
fn settings_of_a_role_change_nothing_of_what_is_sent_and_under_which_name() {
    let columns = "at timestamptz, lasts interval, bytes bytea, ratio float8, class regclass";
    let mut world = with_columns("odd_role", columns);
    world.sql("INSERT INTO {t} VALUES (1, '2024-01-01 00:00+05', '1 mon 3 days 04:05:06.7', '\\xdeadbeef', 0.1::float8 / 3, '{t}')");
    world.once().expect(0);
    let known = world.topic().remove(0).value;

    let role = world.become_role(
        "GRANT SELECT, UPDATE ON {t} TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON pg2ch_checkpoint, pg2ch_held TO {role};
         GRANT TEMPORARY ON DATABASE app TO {role}; ALTER ROLE {role} SET DateStyle = 'German, DMY';
         ALTER ROLE {role} SET IntervalStyle = 'iso_8601'; ALTER ROLE {role} SET bytea_output = 'escape';
         ALTER ROLE {role} SET extra_float_digits = -10; ALTER ROLE {role} SET TimeZone = 'Asia/Tokyo';
         ALTER ROLE {role} SET search_path = public; ALTER ROLE {role} SET client_encoding = 'LATIN1';
         ALTER ROLE {role} SET standard_conforming_strings = off; ALTER ROLE {role} SET quote_all_identifiers = on;
         ALTER ROLE {role} SET array_nulls = off; ALTER ROLE {role} SET lock_timeout = '1ms';
         ALTER ROLE {role} SET default_transaction_isolation = 'serializable'",
    );
    world.sql("UPDATE {t} SET sent_to_kafka = FALSE");
    world.kill_at("kafka.commit.after", &["produce"]);
    assert_eq!(world.topic().remove(1).value, known);
    world.drop_role(&role);
    assert_eq!(world.once().expect(0).number("produce", "rows_recovered"), 1, "the same source, and the same text");
}

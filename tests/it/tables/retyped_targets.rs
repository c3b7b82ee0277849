//! A column of the source gets a type that the target's does not take: the statements that `check` prints are typed, and no stored
//! value is changed by them, whatever rows have it: older versions, and rows that PostgreSQL no longer has, among them.

use serde_json::Value;

use crate::common::World;
use crate::common::findings::{carry_out, check, finding};

/// Before, after, and the target's type where it is not that of `init`.
const TYPES: [(&str, &str, &str, &str); 16] = [
    ("a", "numeric(10,4) NOT NULL", "numeric(10,2)", ""),
    ("b", "numeric(10,2)", "numeric(6,4) USING 1.5", ""),
    ("c", "float8", "numeric(12,2)", ""),
    ("d", "numeric(10,2)", "integer", ""),
    ("e", "float8 NOT NULL", "bigint", ""),
    ("f", "real", "integer", ""),
    ("g", "integer", "bigint", ""),
    ("h", "bigint", "numeric(10,2)", ""),
    ("i", "integer NOT NULL", "boolean USING i = 1", ""),
    ("j", "numeric(10,4)[] NOT NULL", "numeric(10,2)[]", ""),
    ("k", "date", "date", "Nullable(DateTime64(3, 'America/New_York'))"),
    ("l", "integer", "text", "Nullable(Int32) CODEC(T64) STATISTICS(tdigest)"),
    ("m", "float8", "text", "Nullable(Float64) CODEC(FPC)"),
    ("n", "date", "timestamptz", ""),
    ("o", "timestamptz NOT NULL", "text", "DateTime64(6, 'Europe/Berlin')"),
    ("p", "uuid", "text", "Nullable(UUID)"),
];

/// What the target shows after the statements of the row that PostgreSQL no longer has, and where.
const KEPT: [(&str, &str); 16] = [
    ("a", "1.2599"),
    ("b", "12345678.25"),
    ("c_old", "nan"),
    ("d", "1.6"),
    ("e_old2", "inf"),
    ("f_old", "2.5"),
    ("g", "7"),
    ("h", "9223372036854775807"),
    ("i_old", "5"),
    ("j", "[1.2599,NULL]"),
    ("k", "2020-07-01 00:00:00.000"),
    ("l", "-8"),
    ("m", "1e100"),
    ("n_old", "2020-07-01"),
    ("o_old", "2020-10-25 02:30:00.000000"),
    ("p", "61f0c404-5cb3-11e7-907b-a6006ad3dba0"),
];

fn columns(of: impl Fn(&(&str, &str, &str, &str)) -> String) -> String {
    TYPES.iter().map(of).collect::<Vec<_>>().join(", ")
}

fn retyped(world: &World) -> Vec<Value> {
    let findings = check(world, 78)["findings"].as_array().unwrap().clone();
    findings.into_iter().filter(|finding| finding["id"].as_str().unwrap().starts_with("type-")).collect()
}

#[test]
fn the_statements_that_retype_a_column_keep_every_stored_value() {
    let definition = columns(|(name, before, ..)| format!("{name} {before}"));
    let definition =
        format!("id bigint PRIMARY KEY, e_old integer, {definition}, sent_to_kafka boolean NOT NULL DEFAULT FALSE");
    let mut world = World::with("retyped_kept", &definition, 1);
    let made = TYPES.iter().filter(|(.., made)| !made.is_empty());
    made.for_each(|(name, .., made)| {
        world.ch(&format!("ALTER TABLE {{t}} DROP COLUMN {name}"));
        world.ch(&format!("ALTER TABLE {{t}} ADD COLUMN {name} {made}"));
    });
    world.ch(
        "ALTER TABLE {t} ADD INDEX i_l l TYPE minmax, ADD INDEX i_i i TYPE set(9), ADD INDEX i_m m TYPE bloom_filter",
    );
    world.ch("ALTER TABLE {t} ADD COLUMN g_twice Nullable(Int64) MATERIALIZED g * 2");
    world.settings.insert("[table]", "allow_lossy = [\"k\"]".into());
    let large = "1.2599, 12345678.25, 'NaN', 1.6, 'Infinity', 2.5, 7, 9223372036854775807, 5, '{1.2599,NULL}', '2020-07-01', -8, \
                 1e100, '2020-07-01', '2020-10-25 01:30:00Z', '61f0c404-5cb3-11e7-907b-a6006ad3dba0'";
    let usual = "2.5, 2.5, 1.13, 1.6, 1.6, 2.5, 7, 8, 1, '{7.7777}', '2020-01-01', 12, 0.1, '2020-01-01', '2020-01-02 03:04:05Z', \
                 '61f0c404-5cb3-11e7-907b-a6006ad3dba0'";
    let names = columns(|(name, ..)| (*name).into());
    world.stop_merges();
    for id in [1, 2, 3] {
        world.sql(&format!("INSERT INTO {{t}} (id, {names}) VALUES ({id}, {large})"));
    }
    world.once().expect(0);
    world.sql(&format!("UPDATE {{t}} SET ({names}, sent_to_kafka) = ({usual}, FALSE) WHERE id < 3"));
    world.once().expect(0);
    world.sql("DELETE FROM {t} WHERE id = 3");
    // Older versions are there when the statements are typed.
    world.ch("SYSTEM START MERGES {t}");
    world.sql("SET TimeZone = 'Europe/Berlin'");
    world.sql(&format!("ALTER TABLE {{t}} {}", columns(|(name, _, after, _)| format!("ALTER {name} TYPE {after}"))));

    world.once().expect(78);
    let found = retyped(&world);
    assert_eq!(found.len(), TYPES.len(), "{found:#?}");
    for finding in &found {
        let fix = finding["fix"].as_str().unwrap();
        assert_eq!(fix.contains("starts empty"), fix.contains("RENAME COLUMN"), "{fix}");
        carry_out(&world, finding);
    }

    let left = "SELECT count() FROM system.mutations WHERE NOT is_done AND table = '{t}'";
    assert_eq!(world.ch_number(&left.replace("{t}", &world.name)), 0);
    let report = check(&world, 0);
    let loud = report["findings"].as_array().unwrap().iter().filter(|finding| finding["severity"] != "note");
    assert_eq!(loud.filter(|finding| finding["server"] == "ClickHouse").count(), 0, "{report:#}");
    let kept = |world: &World, id: i32| -> Vec<String> {
        let names = KEPT.map(|(name, _)| format!("toString({name})")).join(", ");
        let row = world.ch(&format!("SELECT {names} FROM {{t}} FINAL WHERE id = {id}"));
        row.split('\t').map(ToOwned::to_owned).collect()
    };
    assert_eq!(kept(&world, 3), KEPT.map(|(_, value)| value));
    world.once().expect(0);
    world.run(&["verify"]).expect(0);
    world.run(&["verify", "--deep", "--repair", "--confirm"]).expect(65);
    world.once().expect(0);
    world.run(&["verify", "--deep"]).expect(0);
    assert_eq!(kept(&world, 3), KEPT.map(|(_, value)| value), "there is no other copy");
    let shown = "SELECT a, b, c, d, e, f, i, j, k, l, m, n, o FROM {t} FINAL WHERE id = 1";
    assert_eq!(
        world.ch(shown),
        "2.5\t1.5\t1.13\t2\t2\t2\ttrue\t[7.78]\t2020-01-01 00:00:00.000\t12\t0.1\t2019-12-31 23:00:00.000000\t2020-01-02 04:04:05+01"
    );
}

#[test]
fn a_column_on_which_expressions_rest_is_retyped_where_they_take_it_and_otherwise_in_a_new_table() {
    let definition = "id bigint PRIMARY KEY, a integer NOT NULL, b integer NOT NULL, c integer NOT NULL, d text NOT NULL, \
                      e timestamptz NOT NULL, f text, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    let positions = "_partition Int32, _offset Int64, _timestamp DateTime64(3, 'UTC')";
    let window = "SETTINGS non_replicated_deduplication_window = 100";
    for (name, entries, ttl, change) in [
        ("materialized", "a2 Int64 MATERIALIZED a * 2", "", "ALTER a TYPE text"),
        ("alias", "b2 Int64 ALIAS b * 2", "", "ALTER b TYPE text"),
        ("default", "c2 Int64 DEFAULT c * 2", "", "ALTER c TYPE text"),
        ("tokens", "INDEX i_d d TYPE tokenbf_v1(256, 2, 0)", "", "ALTER d DROP NOT NULL"),
        ("expires", "c2 Int8", "TTL e + INTERVAL 50 YEAR", "ALTER e DROP NOT NULL"),
        // The expressions take these.
        ("wider", "a2 Int64 MATERIALIZED a * 2", "TTL e + INTERVAL 50 YEAR", "ALTER a TYPE bigint"),
        ("bloom", "INDEX i_d d TYPE bloom_filter", "", "ALTER d DROP NOT NULL"),
    ] {
        let mut world = World::with(&format!("rests_{name}"), definition, 1);
        world.ch("DROP TABLE {t}");
        world.ch(&format!(
            "CREATE TABLE {{t}} (id Int64, a Int32, b Int32, c Int32, d String, e DateTime64(6, 'UTC'), f Nullable(String), {entries}, \
             {positions}) ENGINE = ReplacingMergeTree(_timestamp) ORDER BY id {ttl} {window}"
        ));
        if name == "expires" {
            world.ch("ALTER TABLE {t} DROP COLUMN c2");
        }
        world.sql("INSERT INTO {t} VALUES (1, 1, 2, 3, 'd', '2026-01-02 03:04:05Z')");
        world.once().expect(0);
        world.sql(&format!("ALTER TABLE {{t}} {change}"));
        let found = retyped(&world);
        let [found] = &found[..] else { panic!("{name}: {found:#?}") };
        let is_recreated = found["fix"].as_str().unwrap().contains("RENAME TABLE");
        assert_eq!(is_recreated, !["wider", "bloom"].contains(&name), "{found}");
        carry_out(&world, found);
        check(&world, 0);
        let column = change.split(' ').nth(1).unwrap();
        world.sql("INSERT INTO {t} SELECT 2, a, b, c, d, e FROM {t}");
        if change.contains("DROP") {
            world.sql(&format!("UPDATE {{t}} SET {column} = NULL WHERE id = 2"));
        }
        world.once().expect(0);
        world.run(&["verify", "--deep"]).expect(0);
        let rows = world.ch(&format!("SELECT id, toString({column}) FROM {{t}} FINAL ORDER BY id"));
        assert_eq!(rows.lines().count(), 2, "{name}: {rows}");
        if name != "default" {
            world.ch("DROP TABLE IF EXISTS {t}_old");
        }
    }
}

#[test]
fn a_column_that_nothing_fills_is_left_out_whatever_its_type_and_what_rests_on_it() {
    let mut world = World::new("left_out");
    world.insert_rows(1);
    world.ch("DROP TABLE {t}");
    world.ch(
        "CREATE TABLE {t} (id Int64, user_id Int64, event_type LowCardinality(String), event_time DateTime64(6, 'UTC'), payload \
         Nullable(String), states AggregateFunction(sum, Int64), day Date, part Int32, twice Int64 MATERIALIZED part * 2, shape Point, \
         words String, INDEX i_w words TYPE tokenbf_v1(256, 2, 0), _partition Int32, _offset Int64, _timestamp DateTime64(3, 'UTC')) \
         ENGINE = ReplacingMergeTree(_timestamp) ORDER BY id TTL day + INTERVAL 10 YEAR SETTINGS non_replicated_deduplication_window = 100",
    );
    world.ch("INSERT INTO {t} (id, day, part, words) VALUES (9, '2026-01-02', 3, 'x')");
    while let Some(found) = check_extra(&world) {
        carry_out(&world, &found);
    }
    world.once().expect(0);
    world.run(&["verify", "--deep"]).expect(0);
    world.ch("OPTIMIZE TABLE {t} FINAL");
    assert_eq!(
        world.ch(
            "SELECT id, finalizeAggregation(states), day = toDate(_timestamp), part, twice, words FROM {t} ORDER BY id"
        ),
        "1\t0\t1\t0\t0\t\n9\t0\t0\t3\t6\tx"
    );
}

fn check_extra(world: &World) -> Option<Value> {
    let report: Value = serde_json::from_str(&world.run(&["check", "--json"]).stdout).unwrap();
    finding(&report["tables"][0], "column-extra")
}

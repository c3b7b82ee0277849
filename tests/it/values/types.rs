//! The map of types: what docs/types.md says is what the program does, and what no type can hold is refused by name.

use crate::common::World;
use crate::common::servers::Servers;
use pg2ch::clickhouse::{Column, ColumnType};
use pg2ch::fit::map::target_type;
use pg2ch::fit::types::{Fit, fit};
use pg2ch::ports::source::SourceColumn;

fn column(base_type: &str, not_null: bool) -> SourceColumn {
    let is_enum = base_type == "an enum";
    let name = if is_enum { "public.mood" } else { base_type };
    SourceColumn {
        name: "c".into(),
        type_name: name.into(),
        base_type: name.into(),
        is_enum,
        not_null,
        ..SourceColumn::default()
    }
}

/// The cells of the document's first table: types of PostgreSQL, for NOT NULL, for the others.
fn documented() -> Vec<(Vec<String>, String, String)> {
    let text = include_str!("../../../docs/types.md");
    let rows =
        text.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let plain = |cell: &str| cell.trim().trim_matches('`').to_owned();
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        let sources = cells[1].split("`, `").map(plain).collect();
        (sources, plain(cells[2]), plain(cells[3]))
    })
    .collect()
}

#[test]
fn the_document_says_what_init_does_and_check_finds_it_lossless() {
    let rows = documented();
    assert!(rows.len() > 15, "{rows:?}");
    for (sources, not_null, nullable) in rows {
        for source in sources {
            for (is_not_null, wanted) in [(true, &not_null), (false, &nullable)] {
                let column = column(&source, is_not_null);
                assert_eq!(&target_type(&column), wanted, "{source}");
                assert_eq!(fit(&column, &Column::new("c", wanted)), Fit::Lossless, "{source}");
                assert!(ColumnType::parse(wanted).is_ok(), "{wanted}");
            }
        }
    }
}

const COLUMNS: &str = "id bigint PRIMARY KEY, money_like numeric(10,2), any_number numeric, fl double precision, d date, \
    ts timestamp, tz timestamptz(3), sent_to_kafka boolean NOT NULL DEFAULT FALSE";

#[test]
fn what_no_type_holds_is_a_dead_letter_that_names_the_column_and_the_rest_goes_in() {
    let mut world = World::with("unheld", COLUMNS, 1);
    let kept = [
        ("money_like", "12345678.90", "12345678.9"),
        ("any_number", "'NaN'", "NaN"),
        ("any_number", "'-Infinity'", "-Infinity"),
        ("any_number", "1e-20", "0.00000000000000000001"),
        ("any_number", "123456789012345678901234567890.5", "123456789012345678901234567890.5"),
        ("fl", "'NaN'", "nan"),
        ("fl", "'-Infinity'", "-inf"),
        ("d", "'1900-01-01'", "1900-01-01"),
        ("d", "'2299-12-31'", "2299-12-31"),
        ("ts", "'1900-01-01 00:00:00.000001'", "1900-01-01 00:00:00.000001"),
        ("ts", "'2299-12-31 23:59:59.999999'", "2299-12-31 23:59:59.999999"),
        ("tz", "'2026-01-02 03:04:05.678+02'", "2026-01-02 01:04:05.678"),
    ];
    let refused = [
        ("money_like", "'NaN'"),
        ("d", "'infinity'"),
        ("d", "'-infinity'"),
        ("d", "'10000-01-01'"),
        ("d", "'0044-03-15 BC'"),
        ("ts", "'infinity'"),
        ("ts", "'10000-01-01 00:00:00'"),
        ("ts", "'0044-03-15 12:00:00 BC'"),
        ("tz", "'-infinity'"),
        ("tz", "'0001-01-01 00:00:00+00 BC'"),
        ("tz", "'294276-12-31 23:59:59+00'"),
    ];
    let all = kept.iter().map(|(column, value, _)| (*column, *value)).chain(refused);
    for (id, (column, value)) in (1..).zip(all) {
        world.sql(&format!("INSERT INTO {{t}} (id, {column}) VALUES ({id}, {value})"));
    }

    let ended = world.once().expect(65);

    assert_eq!(ended.number("consume", "dead_letters"), i64::try_from(refused.len()).unwrap());
    for (id, (column, value, shown)) in (1..).zip(kept) {
        assert_eq!(world.ch(&format!("SELECT {column} FROM {{t}} WHERE id = {id}")), shown, "{column} {value}");
    }
    let letters = world.topic_named(&format!("{}.dead", world.name));
    for (id, (column, value)) in (kept.len() + 1..).zip(refused) {
        let letter = letters.iter().find(|letter| letter.key == id.to_string());
        let reason = &letter.unwrap_or_else(|| panic!("no letter for {column} {value}")).headers["pg2ch-reason"];
        assert!(reason.starts_with(&format!("column \"{column}\" refuses ")), "{column} {value}: {reason}");
    }
    world.assert_every_record_once();
    // The table's own String takes PostgreSQL's text of anything.
    for column in ["d", "ts", "tz"] {
        world.ch(&format!("ALTER TABLE {{t}} MODIFY COLUMN {column} Nullable(String)"));
    }
    world.run(&["dead-letters", "replay"]).expect(65);
    let infinite = format!("SELECT d FROM {{t}} WHERE id = {}", kept.len() + 2);
    assert_eq!(world.ch(&infinite), "infinity");
}

#[test]
fn a_target_that_init_makes_has_the_sources_comments_domains_and_enums() {
    let columns = "id bigint PRIMARY KEY, sent_to_kafka boolean NOT NULL DEFAULT FALSE";
    let mut world = World::unmade(Servers::shared(), "carried", columns, 1);
    let name = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "CREATE TYPE {name}_mood AS ENUM ('sad', 'it''s fine'); CREATE DOMAIN {name}_small AS integer CHECK (VALUE < 100);
             CREATE DOMAIN {name}_smaller AS {name}_small;
             ALTER TABLE {name} ADD COLUMN m {name}_mood NOT NULL, ADD COLUMN n {name}_mood, ADD COLUMN s {name}_smaller NOT NULL;
             COMMENT ON TABLE {name} IS 'whose table it''s, \\ and why'; COMMENT ON COLUMN {name}.m IS 'how ''they'' feel';
             COMMENT ON COLUMN {name}.id IS 'first
second'"
        ))
        .unwrap();

    world.run(&["init"]).expect(0);

    let tables = "SELECT comment FROM system.tables WHERE database = 'analytics' AND name = '{t}' FORMAT TSVRaw";
    assert_eq!(world.ch(&tables.replace("{t}", &name)), "whose table it's, \\ and why");
    let columns = "SELECT name, type, comment FROM system.columns WHERE database = 'analytics' AND table = '{t}'
        AND name NOT LIKE '\\\\_%' ORDER BY position";
    let expected = "id\tInt64\tfirst\\nsecond\nm\tLowCardinality(String)\thow \\'they\\' feel\n\
        n\tLowCardinality(Nullable(String))\t\ns\tInt32\t";
    assert_eq!(world.ch(&columns.replace("{t}", &name)), expected.trim_end());
    world.sql("INSERT INTO {t} VALUES (1, FALSE, 'it''s fine', NULL, 7), (2, FALSE, 'sad', 'sad', -7)");
    world.once().expect(0);
    assert_eq!(world.ch("SELECT m, n, s FROM {t} ORDER BY id"), "it\\'s fine\t\\N\t7\nsad\tsad\t-7");
    let told = world.run(&["verify", "--deep"]).expect(0).stdout;
    assert!(told.contains("equal") && told.contains("contents compared of 2 rows"), "{told}");
    // A label that is added later is no reason to alter the target.
    world.pg.batch_execute(&format!("ALTER TYPE {name}_mood ADD VALUE 'new'")).unwrap();
    world.sql("INSERT INTO {t} VALUES (3, FALSE, 'new', NULL, 8)");
    world.once().expect(0);
    assert_eq!(world.ch("SELECT m FROM {t} WHERE id = 3"), "new");
}

//! The conversions of stored values that count as exact are exact in ClickHouse.

use std::fmt::Write as _;

use pg2ch::clickhouse::Column;
use pg2ch::fit::is_exact;
use pg2ch::ports::source::SourceColumn;

use crate::common::World;

/// Types with the values at their ends.
const ENDS: [(&str, &[&str]); 26] = [
    ("Int8", &["-128", "127"]),
    ("Int16", &["-32768", "32767"]),
    ("Int32", &["-2147483648", "2147483647"]),
    ("Int64", &["-9223372036854775808", "9223372036854775807"]),
    ("Int128", &["-170141183460469231731687303715884105728", "170141183460469231731687303715884105727"]),
    ("UInt8", &["0", "255"]),
    ("UInt16", &["0", "65535"]),
    ("UInt32", &["0", "4294967295"]),
    ("UInt64", &["0", "18446744073709551615"]),
    ("UInt128", &["0", "340282366920938463463374607431768211455"]),
    ("Float32", &["nan", "-inf", "3.4028235e38", "1e-45", "0.1"]),
    ("Float64", &["nan", "inf", "-1.7976931348623157e308", "5e-324", "0.1"]),
    ("Decimal(6, 4)", &["-99.9999", "99.9999"]),
    ("Decimal(10, 2)", &["-99999999.99", "99999999.99"]),
    ("Decimal(12, 4)", &["-99999999.9999", "99999999.9999"]),
    ("Decimal(21, 2)", &["-9999999999999999999.99", "9999999999999999999.99"]),
    ("Decimal(45, 6)", &["-999999999999999999999999999999999999999.999999", "0.000001"]),
    ("Bool", &["true", "false"]),
    ("UUID", &["61f0c404-5cb3-11e7-907b-a6006ad3dba0"]),
    ("Date", &["1970-01-01", "2149-06-06"]),
    ("Date32", &["1900-01-01", "2299-12-31"]),
    ("DateTime", &["1970-01-01 00:00:00", "2106-02-07 06:28:15"]),
    ("DateTime('Europe/Berlin')", &["2020-10-25 02:30:00", "2020-03-29 03:00:00"]),
    ("DateTime64(3, 'UTC')", &["1900-01-01 00:00:00.001", "2299-12-31 23:59:59.999"]),
    ("DateTime64(6, 'UTC')", &["1900-01-01 00:00:00.000001", "2299-12-31 23:59:59.999999"]),
    ("String", &["", "x"]),
];

const SOURCES: [&str; 8] = [
    "text",
    "numeric",
    "bigint",
    "date",
    "timestamp without time zone",
    "timestamp with time zone",
    "double precision",
    "numeric(10,2)",
];

/// No column is given a zone.
fn is_wanted(from: &str, to: &str) -> bool {
    from != to && !to.contains("Berlin")
}

fn is_ever_exact(from: &str, to: &str) -> bool {
    SOURCES.iter().any(|source| {
        let source = SourceColumn { base_type: (*source).into(), ..SourceColumn::default() };
        is_exact(&source, &Column::new("c", from), to)
    })
}

#[test]
fn what_counts_as_an_exact_conversion_keeps_the_values_at_the_ends_of_the_type() {
    let world = World::new("conversions");
    let pairs = || ENDS.iter().flat_map(|(from, values)| ENDS.iter().map(move |(to, _)| (*from, *values, *to)));
    let exact: Vec<_> = pairs().filter(|(from, _, to)| is_wanted(from, to) && is_ever_exact(from, to)).collect();
    assert!(exact.len() > 80, "{}", exact.len());
    let (mut columns, mut alters, mut compared) = (String::new(), Vec::new(), Vec::new());
    let mut rows = vec![String::new(); 5];
    for (at, (from, values, to)) in exact.iter().enumerate() {
        write!(columns, ", c{at} {from}").unwrap();
        alters.push(format!("MODIFY COLUMN c{at} {to}"));
        compared.push(format!("toString(CAST(c{at} AS {from}))"));
        for (row, value) in rows.iter_mut().zip(values.iter().cycle()) {
            write!(row, ", '{value}'").unwrap();
        }
    }
    world.ch(&format!("CREATE TABLE {{t}}_ends (id Int8{columns}) ENGINE = MergeTree ORDER BY id"));
    let rows: Vec<String> = rows.iter().enumerate().map(|(id, row)| format!("({id}{row})")).collect();
    world.ch(&format!("INSERT INTO {{t}}_ends VALUES {}", rows.join(", ")));
    let shown = format!("SELECT {} FROM {{t}}_ends ORDER BY id", compared.join(", "));
    let before = world.ch(&shown);
    for alters in alters.chunks(20) {
        world.ch(&format!("ALTER TABLE {{t}}_ends {}", alters.join(", ")));
    }
    let after = world.ch(&shown);
    for (before, after) in before.lines().zip(after.lines()) {
        let cells = before.split('\t').zip(after.split('\t')).zip(&exact);
        for ((before, after), (from, _, to)) in cells {
            assert_eq!(before, after, "{from} to {to}");
        }
    }
}

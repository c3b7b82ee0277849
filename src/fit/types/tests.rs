//! The encoder itself is asked: what is called lossless it must take, what is called impossible it must refuse.

use super::{Fit, fit, folds};
use crate::clickhouse::column_type::Column;
use crate::clickhouse::encode::{CalendarRange, RowEncoder};
use crate::config::ColumnRules;
use crate::data::RecordId;
use crate::fit::map::target_type;
use crate::ports::source::SourceColumn;

/// PostgreSQL types, and values of them that are far apart, as `row_to_json` prints them.
const SOURCES: &[(&str, &[&str])] = &[
    ("smallint", &["1", "-32768", "32767"]),
    ("integer", &["1", "-2147483648", "2147483647"]),
    ("bigint", &["1", "-9223372036854775808", "9223372036854775807"]),
    // A number to PostgreSQL, and a string in its JSON.
    ("oid", &["\"1\"", "\"4294967295\""]),
    ("real", &["1", "0.1", "3.4e+38", "-1.5"]),
    ("double precision", &["1", "0.1", "1.7976931348623157e+308", "-0.30000000000000004"]),
    ("numeric(10,2)", &["1.00", "-99999999.99"]),
    ("numeric", &["1", "0.000000000000000000000000000000000000000000000000000000000000000000000000000000000001"]),
    ("boolean", &["true", "false"]),
    ("uuid", &["\"00112233-4455-6677-8899-aabbccddeeff\""]),
    ("date", &["\"1965-01-01\"", "\"2024-02-29\""]),
    ("timestamp with time zone", &["\"1965-01-01T00:00:00.000001+00:00\"", "\"2024-02-29T12:00:00+00:00\""]),
    ("timestamp(3) without time zone", &["\"1965-01-01T00:00:00.001\"", "\"2024-02-29T12:00:00\""]),
    ("text", &["\"\"", "\"many words\""]),
    ("inet", &["\"10.0.0.1\"", "\"::1/64\""]),
    ("jsonb", &["{\"a\": [1, null]}", "[1, 2]", "1", "\"text\"", "null"]),
    ("integer[]", &["[1, null, 2147483647]", "[]"]),
    // Of a domain over an array.
    ("integer[][]", &["[[1, null], [2]]"]),
];

const TARGETS: &[&str] = &[
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "Int128",
    "UInt8",
    "UInt32",
    "UInt64",
    "Float32",
    "Float64",
    "Decimal(9, 2)",
    "Decimal(10, 2)",
    "Decimal(38, 4)",
    "Bool",
    "String",
    "FixedString(36)",
    "UUID",
    "Date",
    "Date32",
    "DateTime('UTC')",
    "DateTime64(3, 'UTC')",
    "DateTime64(6, 'UTC')",
    "Enum8('a' = 1)",
    "IPv4",
    "JSON",
    "Array(Nullable(Int32))",
    "Array(Int32)",
    "Array(String)",
    "Tuple(Int32, String)",
    "Map(String, String)",
];

fn column(type_name: &str, not_null: bool) -> SourceColumn {
    SourceColumn {
        name: "c".into(),
        type_name: type_name.into(),
        base_type: type_name.into(),
        not_null,
        ..SourceColumn::default()
    }
}

fn takes(source: &str, target: &str, value: &str) -> bool {
    encoded(source, target, value).is_some()
}

fn encoded(source: &str, target: &str, value: &str) -> Option<Vec<u8>> {
    let (mut bytes, rules) = (Vec::new(), ColumnRules::default());
    let encoder = RowEncoder::with_rules(&[Column::new("c", target)], &rules, &[column(source, true)]).unwrap();
    let mut encoder = encoder.with_calendar_range(CalendarRange::Wide);
    let at = RecordId { partition: 0, offset: 0, timestamp_ms: 0 };
    encoder.encode(at, format!("{{\"c\":{value}}}").as_bytes(), &mut bytes).ok().map(|_| bytes)
}

#[test]
fn a_type_that_takes_two_keys_for_one_is_known() {
    let of_text = [
        ["\"2020-01-01\"", "\"2020-01-01T00:00:00\""],
        ["\"2020-01-01 00:00:00\"", "\"2020-01-01T00:00:00.000Z\""],
        ["\"10:00:00\"", "\"10:00:00.0\""],
        ["\"00112233-4455-6677-8899-aabbccddeeff\"", "\"00112233-4455-6677-8899-AABBCCDDEEFF\""],
        ["\"::1\"", "\"0:0:0:0:0:0:0:1\""],
        ["\"10.0.0.1\"", "\"010.0.0.1\""],
        ["\"a\"", "\"A\""],
        ["\"1\"", "\"01\""],
    ];
    let exact = "0.1000000000000000055511151231257827021181583404541015625";
    let of_numbers = [["0.1", "0.10000000000000001"], ["0.1", exact], ["1e23", "99999999999999991611392"]];
    let of_documents = [["1", "true"], ["{\"a\":1}", "{\"a\":\"1\"}"]];
    let more = ["IPv6", "Time", "Time64(3)", "Nullable(UUID)", "LowCardinality(Nullable(Date))"];
    for target in TARGETS.iter().chain(&more) {
        let is_folded = |source: &str, pair: &[&str; 2]| {
            takes(source, target, pair[0]) && encoded(source, target, pair[0]) == encoded(source, target, pair[1])
        };
        let is_known = |source| folds(&column(source, true), &Column::new("c", target));
        for pair in of_text.iter().filter(|pair| is_folded("text", pair)) {
            assert!(["text", "jsonb", "public.citext"].into_iter().all(is_known), "{target}: {pair:?}");
        }
        for pair in of_documents.iter().chain(&of_numbers).filter(|pair| is_folded("jsonb", pair)) {
            assert!(is_known("jsonb"), "{target}: {pair:?}");
        }
        for source in ["numeric", "numeric(60,58)", "bigint"] {
            let folded = of_numbers.iter().find(|pair| is_folded(source, pair));
            assert!(is_known(source) || folded.is_none(), "{target}: {folded:?}");
        }
    }
    for (source, target) in
        [("text", "String"), ("text", "IPv4"), ("inet", "IPv6"), ("time without time zone", "Time64(6)")]
    {
        assert!(!folds(&column(source, true), &Column::new("c", target)), "{source} → {target}");
    }
    assert!(folds(&column("text[]", true), &Column::new("c", "Array(Nullable(UUID))")));
}

#[test]
fn the_verdict_on_every_pair_is_what_the_encoder_does() {
    for (source, values) in SOURCES {
        for target in TARGETS {
            match fit(&column(source, true), &Column::new("c", target)) {
                Fit::Lossless => {
                    for value in *values {
                        assert!(
                            takes(source, target, value),
                            "{source} → {target} is called lossless, but refuses {value}"
                        );
                    }
                }
                Fit::Impossible(_) => {
                    for value in *values {
                        assert!(
                            !takes(source, target, value),
                            "{source} → {target} is called impossible, but takes {value}"
                        );
                    }
                }
                Fit::Lossy(_) => {}
            }
        }
    }
}

#[test]
fn what_init_makes_takes_everything() {
    for (source, values) in SOURCES {
        for not_null in [true, false] {
            let column = column(source, not_null);
            let target = target_type(&column);
            assert_eq!(fit(&column, &Column::new("c", &target)), Fit::Lossless, "{source} → {target}");
            values.iter().for_each(|value| assert!(takes(source, &target, value), "{source} → {target}: {value}"));
        }
    }
}

#[test]
fn a_narrower_target_is_lossy_and_says_which_values_it_refuses() {
    for (source, not_null, target, refused) in [
        ("bigint", true, "Int32", "outside the range"),
        ("integer", true, "UInt64", "outside the range"),
        ("bigint", true, "Float64", "other digits"),
        ("numeric", true, "Float32", "other digits"),
        ("numeric(12,2)", true, "Decimal(10, 2)", "more digits"),
        ("text", false, "String", "NULL"),
        ("jsonb", true, "String", "only null"),
        ("date", true, "Date", "before 1970"),
        ("timestamp with time zone", true, "DateTime64(3)", "more than 3 digits"),
        ("jsonb", true, "JSON", "String does"),
        ("timestamp without time zone", true, "DateTime64(6, 'America/New_York')", "shows it shifted"),
    ] {
        let Fit::Lossy(why) = fit(&column(source, not_null), &Column::new("c", target)) else {
            panic!("{source} → {target}")
        };
        assert!(why.contains(refused), "{source} → {target}: {why}");
        assert_ne!(fit(&column(source, true), &Column::new("c", "Bool")), Fit::Lossless);
    }
}

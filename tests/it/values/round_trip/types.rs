//! Types that a column may have, and literals of them, at their edges more often than not.

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;

/// A type, and literals of it.
pub type Typed = (String, BoxedStrategy<String>);

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn text(most: usize) -> BoxedStrategy<String> {
    let pieces = select(vec![
        "",
        " ",
        "a",
        "A",
        "é",
        "e\u{301}",
        "日本",
        "😀",
        "'",
        "\"",
        "\\",
        "\\n",
        "\n",
        "\t",
        "\r",
        "\u{1}",
        "\u{1f}",
        "\u{7f}",
        "\u{85}",
        "\u{2028}",
        "null",
        "NULL",
        "\\N",
        "{}",
        "[1]",
        "{\"a\":1}",
        "0",
        "-1",
        "1e5",
        "true",
        "%",
        "_",
        ";--",
        "$$",
        "\u{feff}",
        "\u{ffff}",
    ]);
    let random = any::<char>().prop_filter("no zero byte in PostgreSQL", |c| *c != '\0').prop_map(String::from);
    let piece = prop_oneof![3 => pieces.prop_map(str::to_owned), 1 => random];
    prop::collection::vec(piece, 0..6).prop_map(move |pieces| pieces.concat().chars().take(most).collect()).boxed()
}

fn digits(most: u32) -> BoxedStrategy<String> {
    prop_oneof![
        Just("0".to_owned()),
        Just("9".repeat(most as usize)),
        prop::collection::vec(0..10u8, 1..=most as usize)
            .prop_map(|digits| digits.iter().map(|digit| char::from(b'0' + digit)).collect::<String>()),
    ]
    .boxed()
}

fn decimal(before: u32, behind: u32) -> BoxedStrategy<String> {
    let before = if before == 0 { Just("0".to_owned()).boxed() } else { digits(before) };
    let behind =
        if behind == 0 { Just(String::new()).boxed() } else { digits(behind).prop_map(|d| format!(".{d}")).boxed() };
    (any::<bool>(), before, behind).prop_map(|(minus, a, b)| format!("{}{a}{b}", if minus { "-" } else { "" })).boxed()
}

/// A time between the years 1900 and 2299, its parts at their edges more often than not.
fn time(precision: u32) -> BoxedStrategy<String> {
    let second = prop_oneof![
        select(vec![-2_208_988_800_i64, -1, 0, 1, 10_413_791_999, 4_294_967_296, 2_147_483_647, 951_782_400]),
        -2_208_988_800..10_413_791_999_i64,
    ];
    let fraction = prop_oneof![Just(0), 0..10_u64.pow(precision).max(1)];
    (second, fraction)
        .prop_map(move |(second, fraction)| {
            let whole = format!("timestamp '1970-01-01' + interval '1 second' * {second}");
            if precision == 0 {
                format!("({whole})")
            } else {
                format!("({whole} + interval '0.{fraction:00$} second')", precision as usize)
            }
        })
        .boxed()
}

fn typed(name: &str, literals: BoxedStrategy<String>) -> Just<Typed> {
    Just((name.to_owned(), literals))
}

fn number(name: &str, edges: Vec<i64>, range: std::ops::RangeInclusive<i64>) -> Just<Typed> {
    typed(name, prop_oneof![select(edges), range].prop_map(|number| format!("({number})")).boxed())
}

/// Types that `pg2ch verify` takes for keys, too.
pub fn key_types() -> Union<BoxedStrategy<Typed>> {
    Union::new([
        number("smallint", vec![-32768, -1, 0, 32767], -32768..=32767).boxed(),
        number("integer", vec![i64::from(i32::MIN), 0, i64::from(i32::MAX)], i64::from(i32::MIN)..=i64::from(i32::MAX))
            .boxed(),
        number("bigint", vec![i64::MIN + 1, 1 << 53, (1 << 53) + 1, i64::MAX], i64::MIN + 1..=i64::MAX).boxed(),
        (1..=76_u32, 0..=76_u32)
            .prop_map(|(precision, scale)| {
                let scale = scale.min(precision);
                (format!("numeric({precision},{scale})"), decimal(precision - scale, scale))
            })
            .boxed(),
        typed("numeric", decimal(90, 40)).boxed(),
        typed("text", text(100).prop_map(|text| quoted(&text)).boxed()).boxed(),
        (1..20_usize)
            .prop_map(|most| (format!("varchar({most})"), text(most).prop_map(|text| quoted(&text)).boxed()))
            .boxed(),
        (1..8_usize)
            .prop_map(|most| (format!("char({most})"), text(most).prop_map(|text| quoted(&text)).boxed()))
            .boxed(),
        typed("uuid", any::<u128>().prop_map(|bits| format!("'{bits:032x}'")).boxed()).boxed(),
        typed("boolean", any::<bool>().prop_map(|truth| truth.to_string()).boxed()).boxed(),
        typed("date", time(0).prop_map(|time| format!("{time}::date")).boxed()).boxed(),
        (0..=6_u32, any::<bool>())
            .prop_map(|(precision, has_zone)| {
                let zone = if has_zone { "with" } else { "without" };
                let literals = if has_zone {
                    time(precision).prop_map(|t| format!("{t} AT TIME ZONE 'UTC'")).boxed()
                } else {
                    time(precision)
                };
                (format!("timestamp({precision}) {zone} time zone"), literals)
            })
            .boxed(),
        typed(
            "inet",
            (any::<u32>(), 0..=32_u8)
                .prop_map(|(ip, mask)| format!("'{}/{mask}'", std::net::Ipv4Addr::from(ip)))
                .boxed(),
        )
        .boxed(),
    ])
}

/// Types with hardly more than edges, and these.
const OTHERS: &[(&str, &[&str])] = &[
    ("oid", &["0", "4294967295"]),
    ("money", &["'0'", "'-92233720368547758.08'", "'0.1'"]),
    ("int4range", &["'empty'", "'[1,5)'", "'(,)'"]),
    ("tstzrange", &["'(,2024-01-01)'", "'[2024-01-01 00:00:00.000001+05:30,infinity]'"]),
    ("time with time zone", &["'24:00-12'", "'00:00:00.000001+14'"]),
    ("bit varying(5)", &["''", "'10101'"]),
    ("cidr", &["'0.0.0.0/0'", "'2001:db8::/32'"]),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    ("xml", &["'<a b=\"c\">&amp;</a>'", "''"]),
    ("tsvector", &["''", "'a:1A b:2,3'"]),
    ("point", &["'(1.5,-2)'", "'(NaN,Infinity)'"]),
    ("regclass", &["'pg_class'", "'pg2ch_checkpoint'", "0"]),
    ("boolean[]", &["'{}'", "'{t,f,NULL}'"]),
    ("uuid[]", &["'{00000000-0000-0000-0000-000000000000,NULL}'"]),
    ("date[]", &["'{1900-01-01,2299-12-31}'"]),
    ("real[]", &["'{NaN,-Infinity,1e-45,-0}'"]),
    ("bytea[]", &["'{\"\\\\x00\"}'", "'{}'"]),
    ("jsonb[]", &["ARRAY['null', '{\"a\": [1]}', NULL]::jsonb[]", "'{}'"]),
    ("inet[]", &["'{::1,10.0.0.1/8}'"]),
];

fn any_of(types: &'static [(&str, &[&str])]) -> BoxedStrategy<Typed> {
    select(types)
        .prop_map(|(name, literals)| (name.to_owned(), select(literals).prop_map(str::to_owned).boxed()))
        .boxed()
}

pub fn any_type() -> Union<BoxedStrategy<Typed>> {
    let json = prop_oneof![
        select(vec![
            "null",
            "{}",
            "[]",
            "\"\"",
            "1.50",
            "-0",
            "1e400",
            "{\"a\" : [1, {\"b\":null}], \"a\": 2}",
            "\"\\ud83d\\ude00\"",
            "[[[]]]"
        ])
        .prop_map(str::to_owned),
        text(20).prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    let json = json.prop_map(|json| quoted(&json)).boxed();
    let float = |single: bool| {
        let special = select(vec!["'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "0.1", "1e-30", "16777217", "3.4e38"])
            .prop_map(str::to_owned);
        let random = if single {
            any::<f32>().prop_map(|f| format!("'{f:e}'")).boxed()
        } else {
            any::<f64>().prop_map(|f| format!("'{f:e}'")).boxed()
        };
        prop_oneof![special, random]
            .prop_map(|text| text.replace("'inf'", "'Infinity'").replace("'-inf'", "'-Infinity'"))
            .boxed()
    };
    let list = |element: BoxedStrategy<String>, type_name: &'static str| {
        let element = prop_oneof![4 => element, 1 => Just("NULL".to_owned())];
        prop::collection::vec(element, 0..4).prop_map(move |e| format!("ARRAY[{}]::{type_name}", e.join(","))).boxed()
    };
    Union::new_weighted(vec![
        (10, key_types().boxed()),
        (2, typed("real", float(true)).boxed()),
        (2, typed("double precision", float(false)).boxed()),
        (
            1,
            typed(
                "bytea",
                prop::collection::vec(any::<u8>(), 0..8)
                    .prop_map(|b| format!("'\\x{}'", b.iter().map(|b| format!("{b:02x}")).collect::<String>()))
                    .boxed(),
            )
            .boxed(),
        ),
        (2, typed("json", json.clone()).boxed()),
        (2, typed("jsonb", json).boxed()),
        (
            1,
            typed(
                "interval",
                (-1000..1000_i32, any::<i32>()).prop_map(|(m, s)| format!("interval '{m} months {s} seconds'")).boxed(),
            )
            .boxed(),
        ),
        (
            1,
            typed("time", (0..86_400_i64).prop_map(|s| format!("(time '00:00' + interval '{s} seconds')")).boxed())
                .boxed(),
        ),
        (3, any_of(OTHERS)),
        (2, typed("integer[]", list(any::<i32>().prop_map(|n| n.to_string()).boxed(), "integer[]")).boxed()),
        (2, typed("text[]", list(text(8).prop_map(|t| quoted(&t)).boxed(), "text[]")).boxed()),
        (1, typed("numeric(9,4)[]", list(decimal(5, 4), "numeric(9,4)[]")).boxed()),
        (1, typed("timestamp(3) without time zone[]", list(time(3), "timestamp(3)[]")).boxed()),
    ])
}

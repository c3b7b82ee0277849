//! Whole records against whole tables, and records that are no records.

mod properties;

use super::cases::{Expected, edges, generated};
use super::refusal::MAX_EXCERPT;
use super::*;

const POSITION: RecordId = RecordId { partition: 3, offset: 1_000, timestamp_ms: 1_767_322_800_123 };

fn column(name: &str, type_name: &str, default_kind: DefaultKind) -> Column {
    Column { default_kind, ..Column::new(name, type_name) }
}

fn plain(columns: &[(&str, &str)]) -> RowEncoder {
    let columns: Vec<Column> =
        columns.iter().map(|(name, type_name)| column(name, type_name, DefaultKind::None)).collect();
    RowEncoder::new(&columns).unwrap()
}

fn encoded(encoder: &mut RowEncoder, record: &str) -> Result<Vec<u8>, Refusal> {
    let mut out = b"before".to_vec();
    let result = encoder.encode(POSITION, record.as_bytes(), &mut out);
    let appended = out.strip_prefix(b"before").expect("what was there stays").to_vec();
    assert!(result.is_ok() || appended.is_empty(), "a refused record leaves nothing: {record}");
    result.map(|_| appended)
}

fn rule(encoder: &mut RowEncoder, record: &str) -> String {
    encoded(encoder, record).unwrap_err().to_string()
}

fn logins() -> RowEncoder {
    plain(&[
        ("id", "Int64"),
        ("user_id", "Int64"),
        ("event_type", "LowCardinality(String)"),
        ("event_time", "DateTime64(6, 'UTC')"),
        ("payload", "Nullable(String)"),
        ("_partition", "Int32"),
        ("_offset", "Int64"),
        ("_timestamp", "DateTime64(3, 'UTC')"),
        ("_ingested_at", "DateTime64(3, 'UTC')"),
    ])
}

const LOGIN: &str = r#"{"id":12345,"user_id":77,"event_type":"login","event_time":"2026-01-02T03:04:05.123456+00:00","payload":{"ip": "127.0.0.1"}}"#;

#[test]
fn every_case_of_the_table_is_shown_or_refused() {
    for case in edges().into_iter().chain(generated(1, 5_000)) {
        let mut encoder = plain(&[("v", &case.column_type)]).with_calendar_range(case.range);
        match (&case.expected, encoded(&mut encoder, &case.record())) {
            (Expected::Shown(_), Ok(_)) => {}
            (Expected::Refused(rule), Err(refusal)) if refusal.rule.contains(rule) => {}
            (_, other) => panic!("{case:?}: {other:?}"),
        }
    }
}

#[test]
fn a_row_is_its_columns_and_then_its_position() {
    let mut encoder = logins();
    let columns = ["id", "user_id", "event_type", "event_time", "payload", "_partition", "_offset", "_timestamp"];
    assert!(encoder.insert_columns().eq(columns));
    let mut expected = Vec::new();
    expected.extend_from_slice(&12_345_i64.to_le_bytes());
    expected.extend_from_slice(&77_i64.to_le_bytes());
    expected.extend_from_slice(b"\x05login");
    expected.extend_from_slice(&1_767_323_045_123_456_i64.to_le_bytes());
    expected.extend_from_slice(b"\x00\x13{\"ip\": \"127.0.0.1\"}");
    expected.extend_from_slice(&3_i32.to_le_bytes());
    expected.extend_from_slice(&1_000_i64.to_le_bytes());
    expected.extend_from_slice(&1_767_322_800_123_i64.to_le_bytes());
    assert_eq!(encoded(&mut encoder, LOGIN), Ok(expected));
}

#[test]
fn the_order_of_the_fields_does_not_matter() {
    let mut encoder = plain(&[("a", "Int8"), ("b", "String"), ("c", "Array(Int8)")]);
    let orders = [
        r#"{"a":1,"b":"x","c":[2]}"#,
        r#"{"c":[2],"b":"x","a":1}"#,
        r#"{"b":"x","a":1,"c":[2]}"#,
        r#" { "c" : [ 2 ] , "a" : 1 , "b" : "x" } "#,
        r#"{"\u0061":1,"\u0062":"\u0078","c":[2]}"#,
    ];
    // Twice: once learning each order, once knowing another.
    for record in orders.iter().chain(&orders) {
        assert_eq!(encoded(&mut encoder, record), Ok(b"\x01\x01x\x01\x02".to_vec()), "{record}");
    }
}

#[test]
fn names_may_hold_anything() {
    let names = ["\"quoted\"", "back\\slash", "new\nline", "control\u{1}", "ünï", "", "a b"];
    let mut encoder = plain(&names.map(|name| (name, "Int8")));
    let plainly = r#"{"\"quoted\"":0,"back\\slash":1,"new\nline":2,"control\u0001":3,"ünï":4,"":5,"a b":6}"#;
    let escaped = r#"{"\u0022quoted\u0022":0,"back\u005cslash":1,"new\u000Aline":2,"control\u0001":3,"\u00fcn\u00EF":4,"":5,"a\u0020b":6}"#;
    for record in [plainly, escaped] {
        assert_eq!(encoded(&mut encoder, record), Ok(vec![0, 1, 2, 3, 4, 5, 6]));
    }
}

#[test]
fn unknown_duplicate_and_missing_fields_are_refused() {
    let mut encoder = plain(&[("a", "Int8"), ("b", "Int8")]);
    assert_eq!(
        rule(&mut encoder, r#"{"a":1,"b":2,"other":[1, 2]}"#),
        r#"column "other" refuses [1, 2]: the target has no such column"#
    );
    assert!(rule(&mut encoder, r#"{"a":1,"a":1,"b":2}"#).contains("the field is there twice"));
    assert!(rule(&mut encoder, r#"{"a":1,"\u0061":1,"b":2}"#).contains("the field is there twice"));
    assert!(rule(&mut encoder, r#"{"a":1}"#).starts_with(r#"column "b" refuses {"a":1}: the record lacks"#));
    assert!(rule(&mut encoder, "{}").starts_with(r#"column "a" refuses {}: the record lacks"#));
}

#[test]
fn a_record_of_an_older_shape_may_lack_nullable_columns() {
    let columns = [("a", "Int8"), ("b", "Nullable(Int8)"), ("c", "Tuple(x Int8, y Nullable(Int8))")];
    let mut encoder = plain(&columns);
    assert_eq!(encoded(&mut encoder, r#"{"a":1,"c":{"x":2}}"#), Ok(vec![1, 1, 2, 1]));
    assert!(rule(&mut encoder, r#"{"b":1,"c":{"x":2}}"#).contains("lacks this field"));
    assert!(rule(&mut encoder, r#"{"a":1,"b":1,"c":{"y":2}}"#).starts_with(r#"column "c.x" refuses {"y":2}"#));
}

#[test]
fn a_default_is_left_to_the_server() {
    let columns = [
        column("a", "Int8", DefaultKind::None),
        column("b", "Enum8('x' = 2)", DefaultKind::Default),
        column("_offset", "UInt64", DefaultKind::None),
    ];
    let mut encoder = RowEncoder::new(&columns).unwrap();
    let offset = [0xe8, 3, 0, 0, 0, 0, 0, 0];
    let mut shaped = |record: &str| {
        let mut row = Vec::new();
        encoder.encode(POSITION, record.as_bytes(), &mut row).map(|shape| (shape, row))
    };
    assert_eq!(shaped(r#"{"a":1,"b":"x"}"#), Ok((0, [&[1, 2][..], &offset].concat())));
    assert_eq!(shaped(r#"{"b":"x","a":1}"#), Ok((0, [&[1, 2][..], &offset].concat())));
    assert_eq!(shaped(r#"{"a":1}"#), Ok((1, [&[1][..], &offset].concat())));
    assert!(rule(&mut encoder, r#"{"a":1,"b":null}"#).contains("not Nullable"));
    assert!(rule(&mut encoder, r#"{"b":"x"}"#).contains("lacks this field"));
    let whole = b"\x03\x01a\x01b\x07_offset\x04Int8\x0eEnum8('x' = 2)\x06UInt64";
    let short = b"\x02\x01a\x07_offset\x04Int8\x06UInt64";
    assert_eq!(encoder.headers(), [&whole[..], &short[..]], "the type as the server spells it");
}

#[test]
fn columns_that_take_no_values_say_why() {
    let columns = [
        column("a", "Int8", DefaultKind::None),
        column("m", "Dynamic", DefaultKind::Materialized),
        column("l", "Int8", DefaultKind::Alias),
        column("_ingested_at", "DateTime64(3)", DefaultKind::Default),
        column("_partition", "Int32", DefaultKind::None),
    ];
    let mut encoder = RowEncoder::new(&columns).unwrap();
    assert!(encoder.insert_columns().eq(["a", "_partition"]));
    assert!(rule(&mut encoder, r#"{"a":1,"m":1}"#).contains("MATERIALIZED"));
    assert!(rule(&mut encoder, r#"{"a":1,"l":1}"#).contains("ALIAS"));
    assert!(rule(&mut encoder, r#"{"a":1,"_partition":1}"#).contains("pg2ch's own"));
    assert!(rule(&mut encoder, r#"{"a":1,"_ingested_at":1}"#).contains("pg2ch's own"));
}

#[test]
fn a_column_of_an_unknown_type_is_left_out_unless_a_field_fills_it() {
    let columns = [
        column("a", "Int8", DefaultKind::None),
        column("b", "Array(Dynamic)", DefaultKind::Default),
        column("c", "Variant(Int8, String)", DefaultKind::None),
    ];
    let mut encoder = RowEncoder::new(&columns).unwrap();
    assert!(encoder.insert_columns().eq(["a"]));
    assert_eq!(encoded(&mut encoder, r#"{"a":1}"#), Ok(vec![1]));
    let refusal = encoded(&mut encoder, r#"{"a":1,"b":[]}"#).unwrap_err();
    assert_eq!(refusal.to_string(), r#"column "b" refuses []: pg2ch does not know the type Dynamic"#);
    assert!(encoder.lacks_type_for(&refusal));
    let required = [column("a", "Int8", DefaultKind::None), column("p", "Point", DefaultKind::None)];
    let mut encoder = RowEncoder::new(&required).unwrap();
    assert!(rule(&mut encoder, r#"{"a":1}"#).contains("does not know the type Point"), "nothing is made up");
    let own = [column("_offset", "Int16", DefaultKind::None)];
    assert_eq!(RowEncoder::new(&own).unwrap_err().column.as_deref(), Some("_offset"));
}

#[test]
fn the_position_is_checked_like_any_value() {
    let mut encoder = plain(&[("_offset", "UInt64"), ("_timestamp", "DateTime64(6, 'UTC')")]);
    let mut out = Vec::new();
    encoder.encode(POSITION, b"{}", &mut out).unwrap();
    assert_eq!(out[8..], 1_767_322_800_123_000_i64.to_le_bytes());
    for (position, name) in [
        (RecordId { offset: -1, ..POSITION }, "_offset"),
        (RecordId { timestamp_ms: i64::MAX, ..POSITION }, "_timestamp"),
        (RecordId { timestamp_ms: i64::MIN, ..POSITION }, "_timestamp"),
    ] {
        let refusal = encoder.encode(position, b"{}", &mut out).unwrap_err();
        assert_eq!(refusal.column.as_deref(), Some(name));
        assert_eq!(out.len(), 16);
    }
}

#[test]
fn what_is_no_record_is_refused() {
    let mut encoder = plain(&[("a", "String")]);
    for (record, part) in [
        ("", "a record without a value"),
        (" ", "not valid JSON at byte 1"),
        ("null", "null"),
        ("[]", "an array"),
        ("\"{}\"", "a string"),
        ("{", "not valid JSON"),
        ("{\"a\"", "not valid JSON"),
        ("{\"a\":", "not valid JSON"),
        ("{\"a\":1", "not valid JSON"),
        ("{\"a\":1,", "not valid JSON"),
        ("{\"a\":1,}", "not valid JSON"),
        ("{\"a\":1}}", "not valid JSON at byte 7: expected the record's end, found '}'"),
        ("{\"a\":1} {\"a\":1}", "not valid JSON"),
        ("{a:1}", "not valid JSON"),
        ("{'a':1}", "not valid JSON"),
        ("\u{feff}{\"a\":1}", "not valid JSON"),
    ] {
        let refusal = encoded(&mut encoder, record).unwrap_err();
        assert!(refusal.rule.contains(part), "{record}: {refusal}");
    }
    let refusal = encoder.encode(POSITION, b"{\"a\":\"\xff\"}", &mut Vec::new()).unwrap_err();
    assert_eq!(refusal.rule, "not valid UTF-8 at byte 6");
}

#[test]
fn null_at_the_top_is_no_record() {
    assert_eq!(rule(&mut logins(), "null"), "the record is refused: null, but a record is an object: null");
}

#[test]
fn what_begins_like_a_value_and_is_none_is_not_json() {
    for (record, expected) in [("not json", "a value, found 'n'"), ("1 2", "the record's end, found '2'"), ("", "")] {
        let refused = rule(&mut logins(), record);
        assert!(refused.contains(expected) && !refused.contains("but a record is an object"), "{record}: {refused}");
    }
}

#[test]
fn members_that_tuples_lack_are_counted_by_their_path() {
    let mut encoder = plain(&[("t", "Tuple(a Nullable(Int8), l Array(Tuple(b Nullable(Int8))))")]);
    for record in [r#"{"t":{"l":[{},{"b":1},{}]}}"#, r#"{"t":{"a":1,"l":[]}}"#] {
        encoded(&mut encoder, record).unwrap();
    }
    assert_eq!(encoder.lacking(), [("t.a".to_owned(), 1), ("t.l.b".to_owned(), 2)]);
}

#[test]
fn deep_nesting_is_refused_not_followed() {
    let mut encoder = plain(&[("a", "String")]);
    let nested = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(encoded(&mut encoder, &nested(1_024)).is_ok());
    assert!(rule(&mut encoder, &nested(1_025)).contains("nested more than 1024 levels deep"));
    assert!(rule(&mut encoder, &format!("{{\"a\":{}", "[{\"x\":".repeat(500_000))).contains("levels deep"));
    let mut arrays = plain(&[("a", "Array(Array(Int8))")]);
    assert!(encoded(&mut arrays, &nested(1_000_000)).is_err());
}

#[test]
fn a_refusal_shows_the_value_but_not_all_of_it() {
    let mut encoder = plain(&[("a", "Int8"), ("b", "Array(Tuple(c Int8))")]);
    let long = format!("{{\"a\":\"{}\"}}", "é".repeat(10_000));
    let refusal = encoded(&mut encoder, &long).unwrap_err();
    assert!(refusal.value.len() <= MAX_EXCERPT && refusal.value.starts_with("\"éé"));
    let inner = encoded(&mut encoder, r#"{"a":1,"b":[{"c":1},{"c": 300 }]}"#).unwrap_err();
    assert_eq!((inner.column.as_deref(), inner.value.as_str()), (Some("b.c"), "300"));
}

#[test]
fn of_the_numbers_that_are_one_float_only_the_one_that_it_shows_is_taken() {
    let encoder = |source: &str, target: &str| {
        let source = SourceColumn { name: "v".into(), base_type: source.into(), ..SourceColumn::default() };
        RowEncoder::with_rules(&[Column::new("v", target)], &ColumnRules::default(), &[source]).unwrap()
    };
    let takes = |encoder: &mut RowEncoder, value: &str| encoded(encoder, &format!("{{\"v\":{value}}}")).is_ok();
    let exact = "0.1000000000000000055511151231257827021181583404541015625";
    let shown = [("numeric", "0.1"), ("numeric(40,38)", "0.10"), ("jsonb", "1e23"), ("bigint", "1152921504606847000")];
    let others = ["0.10000000000000001", exact, "99999999999999991611392", "1152921504606846976"];
    for (source, value) in shown {
        let mut encoder = encoder(source, "Nullable(Float64)");
        assert!(takes(&mut encoder, value), "{source}: {value}");
        for other in others {
            assert!(!takes(&mut encoder, other), "{source}: {other}");
        }
    }
    assert!(!takes(&mut encoder("numeric[]", "Array(Nullable(Float64))"), &format!("[0.1, {exact}]")));
    assert!(!takes(&mut encoder("jsonb", "Map(String, Float64)"), &format!("{{\"a\": {exact}}}")));
    assert!(!takes(&mut encoder("numeric", "Float32"), "0.100000001490116119384765625"));
    // PostgreSQL's own text of the double that others show as 1e23.
    assert!(takes(&mut encoder("double precision", "Float64"), "9.999999999999999e+22"));
}

#[test]
fn an_array_of_more_dimensions_is_no_text_of_an_element_whatever_its_type() {
    for source in ["text[]", "double precision[]", "numeric[]", "integer[][]"] {
        let source = SourceColumn { name: "v".into(), base_type: source.into(), ..SourceColumn::default() };
        let target = [Column::new("v", "Array(Nullable(String))")];
        let mut encoder = RowEncoder::with_rules(&target, &ColumnRules::default(), &[source]).unwrap();
        assert!(rule(&mut encoder, r#"{"v":[[1,2]]}"#).contains("more dimensions"));
    }
}

//! What holds for any record, whole or broken.

use proptest::prelude::*;

use super::*;
use crate::clickhouse::encode::text;

/// A table with a column of every kind.
fn every_kind() -> RowEncoder {
    plain(&[
        ("i", "Int32"),
        ("u", "Nullable(UInt256)"),
        ("f", "Float32"),
        ("d", "Decimal(38, 10)"),
        ("b", "Bool"),
        ("s", "String"),
        ("x", "FixedString(3)"),
        ("g", "UUID"),
        ("t", "DateTime64(6)"),
        ("y", "Date"),
        ("z", "Time64(3)"),
        ("e", "Enum8('a' = 1, 'b' = 2)"),
        ("n", "IPv6"),
        ("a", "Array(Nullable(Float64))"),
        ("p", "Tuple(x Int8, y Array(Tuple(Int8, String)))"),
        ("m", "Map(Int16, Map(String, DateTime))"),
        ("j", "JSON"),
    ])
}

const EVERY_KIND: &str = r#"{"i":-5,"u":null,"f":0.1,"d":1.50,"b":true,"s":"a\u00e9\n","x":"abc","g":"00112233-4455-6677-8899-aabbccddeeff","t":"2024-01-02T03:04:05.123456+05:30","y":"2024-02-29","z":"03:04:05.1","e":"b","n":"2001:db8::1","a":[1.5e-7,null,"NaN"],"p":{"y":[[1,"x"],[2,"é"]],"x":7},"m":{"-5":{"k":"2024-01-02"}},"j":{"a":[1,{"b":[true,null]}]}}"#;

/// A piece of JSON, or of what might pass for it.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\\",
            "\\u",
            "\\ud83d",
            "null",
            "true",
            "-",
            "0",
            "1e",
            "1e999999",
            ".",
            "\"i\":",
            "\"a\":",
            "\"p\":",
            "\"infinity\"",
            "\"NaN\"",
            "9999999999999999999999",
            " ",
            "\u{1f600}",
            "\0",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,4}",
        "-?[0-9]{1,40}(\\.[0-9]{0,40})?(e[+-]?[0-9]{1,5})?",
        "\"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{0,12})?([+-][0-9:]{0,8})?\"",
    ]
}

fn refused_or_whole(record: &[u8]) {
    let mut encoder = every_kind();
    let mut out = b"before".to_vec();
    match encoder.encode(POSITION, record, &mut out) {
        Ok(_) => assert!(out.len() > 100),
        Err(refusal) => {
            assert_eq!(out, b"before");
            assert!(refusal.value.len() <= MAX_EXCERPT);
            assert!(!refusal.rule.is_empty());
        }
    }
    // The next record is none the worse for it.
    let mut fresh = Vec::new();
    every_kind().encode(POSITION, EVERY_KIND.as_bytes(), &mut fresh).unwrap();
    let mut after = Vec::new();
    encoder.encode(POSITION, EVERY_KIND.as_bytes(), &mut after).unwrap();
    assert_eq!(after, fresh);
}

proptest! {
    #[test]
    fn bytes_of_any_kind_never_panic(record in prop::collection::vec(any::<u8>(), 0..200)) {
        refused_or_whole(&record);
    }

    #[test]
    fn pieces_of_json_never_panic(pieces in prop::collection::vec(piece(), 0..30)) {
        refused_or_whole(pieces.concat().as_bytes());
    }

    #[test]
    fn a_damaged_record_never_panics(at in 0..EVERY_KIND.len(), length in 0_usize..20, instead in piece()) {
        let mut record = EVERY_KIND.as_bytes().to_vec();
        let end = (at + length).min(record.len());
        record.splice(at..end, instead.bytes());
        refused_or_whole(&record);
    }

    #[test]
    fn any_value_in_any_column_never_panics(
        column_type in prop::sample::select(edges().into_iter().map(|case| case.column_type).collect::<Vec<_>>()),
        value in prop::sample::select(edges().into_iter().map(|case| case.json).collect::<Vec<_>>()),
    ) {
        let mut encoder = plain(&[("v", &column_type)]);
        let _whichever = encoded(&mut encoder, &format!("{{\"v\":{value}}}"));
    }

    #[test]
    fn any_type_name_is_parsed_or_refused(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "Array(", "Tuple(", "Map(", "Nullable(", "Enum8('", "' = ", "DateTime64(", "JSON(", "Decimal(", "String",
                    "Int8", "Nested(", "SimpleAggregateFunction(any, ", ")", ", ", "'", "`", "\\", "-", "1", "max_dynamic_paths=",
                ])
                .prop_map(str::to_owned),
                "\\PC{0,3}",
            ],
            0..12,
        )
    ) {
        let _whichever = ColumnType::parse(&pieces.concat());
    }

    #[test]
    fn a_string_is_stored_as_it_is(text in any::<String>()) {
        let mut record = String::from("{\"v\":\"");
        for character in text.chars() {
            match character {
                '"' | '\\' => record.extend(['\\', character]),
                ..' ' => record.push_str(&format!("\\u{:04x}", u32::from(character))),
                _ => record.push(character),
            }
        }
        record.push_str("\"}");
        let mut expected = Vec::new();
        text::plain_string(&text, &mut expected);
        prop_assert_eq!(encoded(&mut plain(&[("v", "String")]), &record).unwrap(), expected);
    }

    #[test]
    fn an_integer_is_stored_or_out_of_range(value in any::<i64>(), bits in prop::sample::select(vec![8_u32, 16, 32, 64])) {
        let mut encoder = plain(&[("v", &format!("Int{bits}"))]);
        let result = encoded(&mut encoder, &format!("{{\"v\":{value}}}"));
        let fits = value == value << (64 - bits) >> (64 - bits);
        prop_assert_eq!(result.is_ok(), fits);
        if let Ok(bytes) = result {
            prop_assert_eq!(&bytes[..], &value.to_le_bytes()[..bits as usize / 8]);
        }
    }
}

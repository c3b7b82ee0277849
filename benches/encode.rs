//! How fast records become rows: `cargo bench --bench encode`.
#![allow(missing_docs)] // made by the macros

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pg2ch::clickhouse::column_type::{Column, DefaultKind};
use pg2ch::clickhouse::encode::RowEncoder;
use pg2ch::data::RecordId;

/// The columns of a login, and a record of it.
const LOGIN: (&[(&str, &str)], &str) = (
    &[
        ("id", "Int64"),
        ("user_id", "Int64"),
        ("event_type", "LowCardinality(String)"),
        ("event_time", "DateTime64(6, 'UTC')"),
        ("payload", "Nullable(String)"),
    ],
    r#"{"id":12345,"user_id":77,"event_type":"login","event_time":"2026-01-02T03:04:05.123456+00:00","payload":{"ip": "127.0.0.1", "agent": "Mozilla/5.0 (X11; Linux x86_64)"}}"#,
);

/// The same out of the table's order, which the encoder's guess of the next column misses.
const SHUFFLED: &str = r#"{"payload":{"ip": "127.0.0.1", "agent": "Mozilla/5.0 (X11; Linux x86_64)"},"event_time":"2026-01-02T03:04:05.123456+00:00","event_type":"login","user_id":77,"id":12345}"#;

const MANY_TYPES: (&[(&str, &str)], &str) = (
    &[
        ("a", "UUID"),
        ("b", "Decimal(18, 4)"),
        ("c", "Float64"),
        ("d", "Date32"),
        ("e", "Array(Nullable(Int32))"),
        ("f", "Enum8('new' = 1, 'paid' = 2)"),
        ("g", "Bool"),
        ("h", "IPv4"),
    ],
    r#"{"a":"6e6f7420-6120-7265-616c-2075756964aa","b":12345.6789,"c":0.1,"d":"2026-01-02","e":[1,null,3],"f":"paid","g":true,"h":"10.0.0.1"}"#,
);

fn columns(data: &[(&str, &str)]) -> Vec<Column> {
    let position = [("_partition", "Int32"), ("_offset", "Int64"), ("_timestamp", "DateTime64(3, 'UTC')")];
    data.iter()
        .chain(&position)
        .map(|(name, type_name)| Column {
            name: (*name).into(),
            type_name: (*type_name).into(),
            default_kind: DefaultKind::None,
        })
        .collect()
}

fn encode(criterion: &mut Criterion) {
    let cases = [
        ("login", LOGIN.0, LOGIN.1),
        ("login, shuffled", LOGIN.0, SHUFFLED),
        ("many types", MANY_TYPES.0, MANY_TYPES.1),
    ];
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(1000));
    for (name, types, record) in cases {
        let Ok(mut encoder) = RowEncoder::new(&columns(types)) else { continue };
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || Vec::with_capacity(1 << 20),
                |out: &mut Vec<u8>| {
                    for offset in 0..1000 {
                        let at = RecordId { partition: 1, offset, timestamp_ms: 1_767_323_045_123 };
                        assert!(encoder.encode(at, record.as_bytes(), out).is_ok());
                    }
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, encode);
criterion_main!(benches);

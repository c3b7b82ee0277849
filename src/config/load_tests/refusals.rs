//! What is refused, with the place and the reason.

use super::{refused, with_file};
use crate::error::ExitCode;

#[test]
fn the_properties_that_the_promise_rests_on_are_refused_with_the_reason() {
    for name in [
        "acks",
        "enable.idempotence",
        "isolation.level",
        "group.id",
        "transactional.id",
        "enable.auto.commit",
        "queuing.strategy",
        "delivery.report.only.error",
        "test.mock.num.brokers",
    ] {
        let error = refused(&format!("[kafka.properties]\n{name} = \"1\"\n"));
        assert_eq!(error.exit_code(), ExitCode::Config);
        assert!(error.what().contains(name) && error.what().contains(":2"), "{error}");
    }
    with_file("[kafka.properties]\ntransaction.timeout.ms = 60000\n", &[]).unwrap();
}

#[test]
fn a_partitioner_that_scatters_the_records_of_a_key_is_refused() {
    let set = |name: &str| format!("[kafka.properties]\npartitioner = \"{name}\"\n");
    for name in ["random", "consistent_random"] {
        let error = refused(&set(name));
        assert_eq!(error.exit_code(), ExitCode::Config);
        assert!(error.what().contains("partitioner") && error.why().contains("at random"), "{error}");
    }
    for name in ["consistent", "murmur2", "murmur2_random", "fnv1a", "fnv1a_random"] {
        with_file(&set(name), &[]).unwrap();
    }
}

#[test]
fn a_property_that_librdkafka_does_not_take_is_refused_with_its_line_and_without_its_value() {
    let error = refused("[kafka.properties]\nlinger.ms = 5\nsecurity.protocl = \"hunter2\"\n");
    assert_eq!(error.exit_code(), ExitCode::Config);
    assert!(error.what().contains("kafka.properties.security.protocl") && error.what().contains(":3"), "{error}");
    assert!(error.why().contains("no such property"), "{error}");
    // A name of Java's clients.
    assert!(refused("[kafka.properties]\nssl.truststore.location = \"/t\"\n").hint().contains("Java"));
    let error = refused("[kafka.properties]\ncompression.type = \"hunter2\"\n");
    assert!(error.what().contains(":2") && error.why().contains("does not accept it"), "{error}");
    assert!(!error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn an_unknown_key_is_named_with_file_line_and_the_key_that_was_meant() {
    let error = refused("# one\n[batch]\nrwos = 5\n");
    assert!(error.what().contains("`rwos`") && error.what().contains("pg2ch.toml:3"), "{error}");
    assert!(error.hint().contains("`rows`"), "{error}");
    assert!(refused("[batches]\n").hint().contains("[batch]"));
    assert!(refused("[tables]\n").hint().contains("[[table]]"));
    assert!(refused("[table]\nsource = \"a.b\"\n").hint().contains("[[table]]"));
    assert!(refused("brokers = \"h:1\"\n").hint().contains("[kafka]"));
    assert!(refused("[postgres]\nbrokers = \"h:1\"\n").hint().contains("[kafka]"));
}

#[test]
fn values_out_of_range_or_of_the_wrong_kind_are_refused_with_their_place() {
    for (text, place) in [
        ("[batch]\nrows = 0\n", "batch.rows"),
        ("[batch]\nrows = 1000001\n", "batch.rows"),
        ("[batch]\nrows = -1\n", "batch.rows"),
        ("[batch]\nrows = \"10\"\n", "batch.rows"),
        ("[batch]\nbytes = 65535\n", "batch.bytes"),
        ("[batch]\ninsert_bytes = \"4 potatoes\"\n", "batch.insert_bytes"),
        ("[timeouts]\nconnect = 5\n", "timeouts.connect"),
        ("[timeouts]\nconnect = \"5\"\n", "timeouts.connect"),
        ("[timeouts]\nrow_lock = \"0s\"\n", "timeouts.row_lock"),
        ("[timeouts]\nkafka = \"2h\"\n", "timeouts.kafka"),
        ("[retry]\nattempts = 0\n", "retry.attempts"),
        ("[retry]\npause = \"10s\"\n", "retry.pause"),
        ("[retry]\nmax_pause = \"1ms\"\n", "retry.max_pause"),
        ("[kafka]\ntransactional = \"yes\"\n", "kafka.transactional"),
        ("[kafka]\ntransactional_prefix = \"\"\n", "kafka.transactional_prefix"),
        ("[kafka]\nbrokers = \"\"\n", "kafka.brokers"),
        ("[kafka]\nbrokers = \"h:0\"\n", "kafka.brokers"),
        ("[kafka]\nbrokers = \"[::1]x\"\n", "kafka.brokers"),
        ("[clickhouse]\nurl = \"http://h\"\nca_cert = \"/ca\"\n", "clickhouse.ca_cert"),
        ("[clickhouse]\nurl = \"https://h\"\nca_cert = \"/no/such\"\n", "clickhouse.ca_cert"),
        ("[postgres]\nurl = \"postgres://u@h/d?sslrootcert=/no/such\"\n", "postgres.url"),
        ("[metrics]\ntextfile = \"\"\n", "metrics.textfile"),
        ("[metrics]\ntextfile = \"/dev/null\"\n", "metrics.textfile"),
    ] {
        let error = refused(text);
        assert_eq!(error.exit_code(), ExitCode::Config);
        assert!(error.what().contains(&format!("`{place}`")), "{text}: {error}");
        assert!(!error.why().is_empty() && !error.hint().is_empty(), "{text}");
    }
}

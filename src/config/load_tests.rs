//! The defaults, the example, and which value wins.

#[path = "load_tests/oauth.rs"]
mod oauth;
#[path = "load_tests/refusals.rs"]
mod refusals;
#[path = "load_tests/secrets.rs"]
mod secrets;
#[path = "load_tests/tables.rs"]
mod tables;

use std::fs;
use std::path::Path;

use super::*;
use crate::config::{EXAMPLE, OnBadRow, SslMode};
use crate::error::{Error, ExitCode};

/// A directory of its own for a test, taken away with it.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pg2ch-config-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> PathBuf {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn with_file(text: &str, variables: &[(&str, &str)]) -> Result<Explained> {
    let directory = Directory::new();
    let path = directory.write("pg2ch.toml", text, 0o600);
    explain_in(&Flags::default(), Environment::of(variables.iter().copied()), &[path])
}

fn refused(text: &str) -> Error {
    with_file(text, &[]).expect_err(text)
}

fn defaults() -> Explained {
    explain_in(&Flags::default(), Environment::default(), &[]).unwrap()
}

fn origin_of<'e>(explained: &'e Explained, key: &str) -> &'e Origin {
    &explained.settings.iter().find(|setting| setting.key == key).expect(key).origin
}

#[test]
fn the_defaults_fit_the_compose_file() {
    let config = defaults().config;
    assert_eq!(config.postgres.address(), "localhost:5432/app");
    assert_eq!(config.postgres.password.unwrap().take().unwrap().reveal(), "app");
    assert_eq!(config.postgres.ssl_mode, SslMode::Disable);
    assert_eq!(config.kafka.brokers, "localhost:9092");
    assert!(config.kafka.transactional);
    assert_eq!(
        (config.clickhouse.url.to_string().as_str(), config.clickhouse.user.as_str()),
        ("http://localhost:8123", "app")
    );
    assert_eq!(config.clickhouse.password.take().unwrap().reveal(), "app");
    assert_eq!((config.batch.rows, config.batch.bytes), (30_000, 4 << 20));
    assert_eq!((config.batch.insert_rows, config.batch.insert_bytes), (65_536, 8 << 20));
    assert_eq!(config.timeouts.clickhouse, Duration::from_secs(60));
    let [table] = config.tables.as_slice() else { panic!("one table") };
    assert_eq!((table.source.as_str(), table.topic.as_str()), ("public.user_logins", "user_logins"));
    assert_eq!(table.target.to_string(), "analytics.user_logins");
    assert_eq!((table.on_bad_row, table.max_dead_letters), (OnBadRow::DeadLetter, 1000));
}

#[test]
fn the_example_loads_and_says_what_the_defaults_say() {
    let example = with_file(EXAMPLE, &[]).unwrap();
    assert_eq!(format!("{:?}", example.config), format!("{:?}", defaults().config));
}

/// Keys whose value in the example is one, and not the default.
const EXAMPLES: [&str; 5] = ["ca_cert", "ssl.ca.location", "where", "columns", "exclude"];

/// Parts of the keys that have no default.
const EXAMPLE_PARTS: &str = "\
    password properties oauth_ metrics.textfile notify.url rename ignore allow_lossy max_rows_per_second pause_percent \
    max_replication_lag allow_engine headers deleted order_by message_key keep";

/// Keys of which the section has another one that says the same.
const OTHERS: [&str; 3] = ["password_command", "sasl_password_command", "url_file"];

/// How keys begin that go with another way to log in than the example's.
const OTHER_LOGIN: &str = "#oauth_";

#[test]
fn every_commented_key_of_the_example_is_a_key_with_its_default() {
    let directory = Directory::new();
    for name in ["postgres-password", "kafka-password", "clickhouse-password"] {
        directory.write(name, "hunter2\n", 0o600);
    }
    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .filter(|line| !EXAMPLES.iter().chain(&OTHERS).any(|key| line.starts_with(&format!("#{key} = "))))
        .filter(|line| !line.starts_with(OTHER_LOGIN))
        .map(|line| {
            line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#']) && !rest.is_empty()).unwrap_or(line)
        })
        .collect();
    let path = directory.write("pg2ch.toml", &uncommented.join("\n"), 0o600);
    let explained = explain_in(&Flags::default(), Environment::default(), &[path]).unwrap();
    let with_defaults = defaults();
    for setting in &explained.settings {
        let is_example = EXAMPLE_PARTS.split(' ').any(|part| setting.key.contains(part));
        if !is_example {
            assert!(
                matches!(setting.origin, Origin::File { .. })
                    || setting.key == "clickhouse.user"
                    || EXAMPLES.iter().any(|key| setting.key.ends_with(&format!(".{key}"))),
                "{setting:?}"
            );
            let default = with_defaults.settings.iter().find(|other| other.key == setting.key).expect(&setting.key);
            assert_eq!(setting.value, default.value, "{}", setting.key);
        }
    }
    assert_eq!(explained.config.postgres.password.unwrap().take().unwrap().reveal(), "hunter2");
}

#[test]
fn environment_comes_before_file_and_file_before_defaults() {
    let text = "[kafka]\nbrokers = \"file:1\"\n[batch]\nrows = 5\n";
    let explained = with_file(text, &[]).unwrap();
    assert_eq!(explained.config.kafka.brokers, "file:1");
    assert!(matches!(origin_of(&explained, "kafka.brokers"), Origin::File { line: 2, .. }));
    assert_eq!(origin_of(&explained, "batch.bytes"), &Origin::Default);
    let explained = with_file(text, &[("PG2CH_KAFKA_BROKERS", "env:2")]).unwrap();
    assert_eq!(explained.config.kafka.brokers, "env:2");
    assert_eq!(origin_of(&explained, "kafka.brokers"), &Origin::Environment("PG2CH_KAFKA_BROKERS"));
    assert_eq!(with_file(text, &[("PG2CH_KAFKA_BROKERS", "")]).unwrap().config.kafka.brokers, "file:1");
}

#[test]
fn a_named_file_comes_before_those_that_are_looked_for() {
    let directory = Directory::new();
    let [first, second, third] =
        ["a", "b", "c"].map(|name| directory.write(name, &format!("[kafka]\nbrokers = \"{name}:1\"\n"), 0o600));
    let missing = directory.0.join("missing");
    let variable = third.to_str().unwrap();
    let brokers = |flag: Option<&Path>, variables: &[(&str, &str)]| {
        let flags = Flags { config: flag.map(Path::to_owned), ..Flags::default() };
        let searched = [missing.clone(), second.clone(), third.clone()];
        explain_in(&flags, Environment::of(variables.iter().copied()), &searched).map(|e| e.config.kafka.brokers)
    };
    assert_eq!(brokers(None, &[]).unwrap(), "b:1");
    assert_eq!(brokers(None, &[("PG2CH_CONFIG", variable)]).unwrap(), "c:1");
    assert_eq!(brokers(Some(&first), &[("PG2CH_CONFIG", variable)]).unwrap(), "a:1");
    let error = brokers(Some(&missing), &[]).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Config);
    assert!(error.what().contains("missing"), "{error}");
}

#[test]
fn brokers_are_a_list_or_a_text_with_commas() {
    for text in ["[\"a:9092\", \"b:9092\"]", "\"a:9092, b:9092\""] {
        let explained = with_file(&format!("[kafka]\nbrokers = {text}\n"), &[]).unwrap();
        assert_eq!(explained.config.kafka.brokers, "a:9092,b:9092", "{text}");
    }
    for text in ["[]", "[\"a:9092\", \"\"]", "[9092]", "9092"] {
        let error = refused(&format!("[kafka]\nbrokers = {text}\n"));
        assert!(error.what().contains("kafka.brokers") && error.what().contains(":2"), "{text}: {error}");
    }
}

#[test]
fn kafka_properties_are_passed_on_quoted_or_not() {
    let text = "[kafka.properties]\nsecurity.protocol = \"SSL\"\n\"ssl.ca.location\" = \"/ca\"\nlinger.ms = 5\n\
                enable.ssl.certificate.verification = true\nsasl.password = \"hunter2\"\n";
    let explained = with_file(text, &[]).unwrap();
    let shown: Vec<_> =
        explained.settings.iter().filter(|s| s.key.starts_with("kafka.prop")).map(|s| s.value.as_str()).collect();
    assert_eq!(shown, ["true", "5", "****", "SSL", "/ca"]);
    assert_eq!(explained.config.kafka.properties["sasl.password"].reveal(), "hunter2");
    let explained = with_file(text, &[("PG2CH_KAFKA_SASL_PASSWORD", "other")]).unwrap();
    assert_eq!(explained.config.kafka.properties["sasl.password"].reveal(), "other");
}

#[test]
fn the_timeout_of_the_url_counts_unless_the_file_sets_one() {
    let url = ("PG2CH_POSTGRES_URL", "postgres://u@h/d?connect_timeout=7");
    let explained = with_file("", &[url]).unwrap();
    assert_eq!(explained.config.timeouts.connect, Duration::from_secs(7));
    assert_eq!(origin_of(&explained, "timeouts.connect"), &Origin::Environment("PG2CH_POSTGRES_URL"));
    let explained = with_file("[timeouts]\nconnect = \"9s\"\n", &[url]).unwrap();
    assert_eq!(explained.config.timeouts.connect, Duration::from_secs(9));
}

//! Which value wins, what is refused, and that no refusal gives a secret away.

use std::fs;
use std::path::Path;

use super::*;
use crate::config::{ColumnChoice, EXAMPLE, OnBadRow, Secret, SslMode};
use crate::error::Error;
use crate::exit_code::ExitCode;

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
    assert_eq!(config.postgres.password.unwrap().reveal(), "app");
    assert_eq!(config.postgres.ssl_mode, SslMode::Disable);
    assert_eq!(config.kafka.brokers, "localhost:9092");
    assert!(config.kafka.transactional);
    assert_eq!((config.clickhouse.url.as_str(), config.clickhouse.user.as_str()), ("http://localhost:8123", "app"));
    assert_eq!(config.clickhouse.password.reveal(), "app");
    assert_eq!((config.batch.rows, config.batch.bytes), (10_000, 4 << 20));
    assert_eq!((config.batch.insert_rows, config.batch.insert_bytes), (65_536, 8 << 20));
    assert_eq!(config.timeouts.clickhouse, Duration::from_secs(120));
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

#[test]
fn two_tables_are_recognised_as_sharing_something_however_it_is_spelt() {
    let pair = |source: &str, topic: &str, target: &str| {
        let one = "[[table]]\nsource = \"public.Users\"\nkey = \"id\"\ntopic = \"users\"\ntarget = \"x.users\"\n";
        let other = format!("[[table]]\nsource = '{source}'\nkey = \"id\"\ntopic = \"{topic}\"\ntarget = '{target}'\n");
        with_file(&format!("{one}{other}"), &[])
    };
    for (source, topic, target, place) in [
        (r#""public"."users""#, "other", "x.other", "table[1].source"),
        ("PUBLIC.USERS", "other", "x.other", "table[1].source"),
        ("public.other", "users", "x.other", "table[1].topic"),
        ("public.other", "users.dead", "x.other", "table[1].topic"),
        ("public.other", "other", "`x`.`users`", "table[1].target"),
        ("public.other", "other", r#""x"."users""#, "table[1].target"),
    ] {
        let error = pair(source, topic, target).unwrap_err().to_string();
        assert!(error.contains(&format!("`{place}`")), "{source} {topic} {target}: {error}");
    }
    // Quoted, PostgreSQL's name keeps its capitals; ClickHouse's and Kafka's always do.
    assert!(pair(r#"public."Users""#, "Users", "x.Users").is_ok());
}

#[test]
fn rules_for_columns_are_read_and_contradictions_refused() {
    let rules =
        "rename = { mail = \"email\", \"Odd Name\" = \"odd\" }\nignore = \"notes\"\nallow_lossy = [\"amount\"]\n";
    let explained = with_file(&format!("{TABLE}{rules}"), &[]).unwrap();
    let rules = &explained.config.tables[0].column_rules;
    assert_eq!((rules.column_of("mail"), rules.column_of("Odd Name")), (Some("email"), Some("odd")));
    assert!(rules.ignore.contains("notes") && rules.allow_lossy.contains("amount"));
    let shown = explained.settings.iter().find(|setting| setting.key == "table[0].rename").unwrap();
    assert_eq!(shown.value, "Odd Name → odd, mail → email");
    for (rules, told) in [
        ("rename = \"mail\"", "it is a string"),
        ("rename = { mail = 1 }", "more than strings"),
        ("rename = { a = \"c\", b = \"c\" }", "would both become `c`"),
        ("rename = { a = \"_offset\" }", "pg2ch's own"),
        ("rename = { a = \"\" }", "no name"),
        ("ignore = [\"id\"]", "belongs to the key"),
        ("ignore = [\"a\"]\nrename = { a = \"b\" }", "another rule"),
        ("ignore = [\"a\"]\nallow_lossy = [\"a\"]", "another rule"),
        ("allow_lossy = true", "it is true or false"),
    ] {
        let error = with_file(&format!("{TABLE}{rules}\n"), &[]).unwrap_err();
        assert!(error.to_string().contains(told), "{rules}: {error}");
    }
}

#[test]
fn every_commented_key_of_the_example_is_a_key_with_its_default() {
    let directory = Directory::new();
    for name in ["postgres-password", "kafka-password", "clickhouse-password"] {
        directory.write(name, "hunter2\n", 0o600);
    }
    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .filter(|line| !EXAMPLES.iter().any(|key| line.starts_with(&format!("#{key} = "))))
        .map(|line| {
            line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#']) && !rest.is_empty()).unwrap_or(line)
        })
        .collect();
    let path = directory.write("pg2ch.toml", &uncommented.join("\n"), 0o600);
    let explained = explain_in(&Flags::default(), Environment::default(), &[path]).unwrap();
    let with_defaults = defaults();
    for setting in &explained.settings {
        let is_example = ["password", "properties", "metrics.textfile", "rename", "ignore", "allow_lossy"]
            .iter()
            .any(|part| setting.key.contains(part));
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
    assert_eq!(explained.config.postgres.password.unwrap().reveal(), "hunter2");
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
fn the_passwords_that_count_come_from_the_nearest_place() {
    let directory = Directory::new();
    directory.write("secret", "from-file\r\n", 0o600);
    let pgpass = directory.write("pgpass", "h:5432:d:u:from-pgpass\n", 0o600);
    let bare = "[postgres]\nurl = \"postgres://u@h/d\"\n";
    let with_password = "[postgres]\nurl = \"postgres://u:from-url@h/d\"\n";
    let with_password_file = format!("{with_password}password_file = \"secret\"\n");
    let pgpass = ("PGPASSFILE", pgpass.to_str().unwrap());
    let variable = ("PGPASSWORD", "from-variable");
    let url = ("PG2CH_POSTGRES_URL", "postgres://u:from-url-variable@h/d");
    let credentials = ("CREDENTIALS_DIRECTORY", directory.0.to_str().unwrap());
    for (text, variables, password) in [
        (bare, vec![], None),
        (bare, vec![pgpass], Some("from-pgpass")),
        (with_password, vec![pgpass], Some("from-url")),
        (&with_password_file, vec![pgpass, credentials], Some("from-file")),
        (&with_password_file, vec![variable], Some("from-variable")),
        (&with_password_file, vec![variable, url], Some("from-url-variable")),
    ] {
        let config = with_file(text, &variables).unwrap().config;
        assert_eq!(config.postgres.password.as_ref().map(Secret::reveal), password, "{text} {variables:?}");
    }
}

#[test]
fn a_pgpass_that_others_can_read_is_ignored_as_in_libpq() {
    let directory = Directory::new();
    let pgpass = directory.write(".pgpass", "*:*:*:*:x\n", 0o644);
    let text = "[postgres]\nurl = \"postgres://u@h/d\"\n";
    for variable in [("PGPASSFILE", pgpass.to_str().unwrap()), ("HOME", directory.0.to_str().unwrap())] {
        assert!(with_file(text, &[variable]).unwrap().config.postgres.password.is_none());
    }
}

#[test]
fn a_relative_password_file_lies_beside_the_configuration() {
    let directory = Directory::new();
    directory.write("secret", "s", 0o600);
    let path = directory.write("pg2ch.toml", "[clickhouse]\nurl = \"http://h:1\"\npassword_file = \"secret\"\n", 0o600);
    let explained = explain_in(&Flags::default(), Environment::default(), &[path]).unwrap();
    assert_eq!(explained.config.clickhouse.password.reveal(), "s");
    let error = refused("[clickhouse]\npassword_file = \"secret\"\n");
    assert!(error.why().contains("No such file"), "{error}");
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
fn the_properties_that_the_promise_rests_on_are_refused_with_the_reason() {
    for name in ["acks", "enable.idempotence", "isolation.level", "group.id", "transactional.id", "enable.auto.commit"]
    {
        let error = refused(&format!("[kafka.properties]\n{name} = \"1\"\n"));
        assert_eq!(error.exit_code(), ExitCode::Config);
        assert!(error.what().contains(name) && error.what().contains(":2"), "{error}");
    }
    with_file("[kafka.properties]\ntransaction.timeout.ms = 60000\n", &[]).unwrap();
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
    ] {
        let error = refused(text);
        assert_eq!(error.exit_code(), ExitCode::Config);
        assert!(error.what().contains(&format!("`{place}`")), "{text}: {error}");
        assert!(!error.why().is_empty() && !error.hint().is_empty(), "{text}");
    }
}

const TABLE: &str = "[[table]]\nsource = \"public.a\"\nkey = [\"tenant\", \"id\"]\ntopic = \"a\"\ntarget = \"x.a\"\n";

#[test]
fn a_table_is_read_with_its_defaults() {
    let config = with_file(&format!("{TABLE}on_bad_row = \"stop\"\nmax_dead_letters = 0\n"), &[]).unwrap().config;
    let [table] = config.tables.as_slice() else { panic!("one table") };
    assert_eq!(table.key, ["tenant", "id"]);
    assert_eq!((table.flag.as_str(), table.group.as_str()), ("sent_to_kafka", "pg2ch"));
    assert_eq!((table.on_bad_row, table.max_dead_letters), (OnBadRow::Stop, 0));
}

#[test]
fn tables_that_get_in_each_others_way_are_refused() {
    for (other, place) in [
        ("source = \"PUBLIC.A\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].source"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"a\"\ntarget = \"x.b\"\n", "table[1].topic"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"a.dead\"\ntarget = \"x.b\"\n", "table[1].topic"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.a\"\n", "table[1].target"),
        ("source = \"b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].source"),
        ("source = \"public.b\"\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].key"),
        ("source = \"public.b\"\nkey = []\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].key"),
        ("source = \"public.b\"\nkey = [\"i\", \"i\"]\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].key"),
        ("source = \"public.b\"\nkey = \"f\"\nflag = \"f\"\ntopic = \"b\"\ntarget = \"x.b\"\n", "table[1].flag"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"b c\"\ntarget = \"x.b\"\n", "table[1].topic"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"b\"\n", "table[1].target"),
        ("source = \"public.b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.b\"\ngroup = \"\"\n", "table[1].group"),
        (
            "source = \"public.b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.b\"\non_bad_row = \"skip\"\n",
            "table[1].on_bad_row",
        ),
    ] {
        let error = refused(&format!("{TABLE}[[table]]\n{other}"));
        assert!(error.what().contains(&format!("`{place}`")), "{other}: {error}");
    }
}

#[test]
fn the_table_option_chooses_by_any_spelling() {
    let directory = Directory::new();
    let text = format!("{TABLE}[[table]]\nsource = \"s.b\"\nkey = \"id\"\ntopic = \"b\"\ntarget = \"x.b\"\n");
    let path = directory.write("pg2ch.toml", &text, 0o600);
    let load = |names: &[&str]| {
        let flags = Flags { tables: names.iter().map(|n| (*n).to_owned()).collect(), ..Flags::default() };
        let explained = explain_in(&flags, Environment::default(), std::slice::from_ref(&path))?;
        Ok::<_, Error>(explained.config.tables.into_iter().map(|t| t.source).collect::<Vec<_>>())
    };
    assert_eq!(load(&["b"]).unwrap(), ["s.b"]);
    assert_eq!(load(&["S.B", "public.a", "a"]).unwrap(), ["public.a", "s.b"]);
    let error = load(&["c"]).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Usage);
    assert!(error.why().contains("s.b"), "{error}");
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

#[test]
fn no_error_repeats_a_secret() {
    for text in [
        "[postgres]\nurl = \"postgres://app:hunter2@h\n",
        "[postgres]\nurl = postgres://app:hunter2@h\n",
        "[postgres]\nurl = hunter2\n",
        "[postgres]\nurl = 'hunter2\n",
        "[postgres]\nurl = \"\\hunter2\"\n",
        "[postgres]\nurl : hunter2\n",
        "[postgres]\nhunter2\n",
        "[postgres]\nurl = \"x\" hunter2\n",
        "[postgres]\nurl = 2020-13-99hunter2\n",
        "[postgres]\nurl = 12hunter2\n",
        "[postgres]\nurl = [hunter2, 1]\n",
        "[postgres]\nurl = { a = hunter2 }\n",
        "[postgres]\nurl = \"hunter2\"\n",
        "[postgres]\nurl = [\"hunter2\"]\n",
        "[postgres]\nurl = \"postgres://app:hunter2@h:x/d\"\n",
        "[postgres]\npasswrd = \"hunter2\"\n",
        "[postgres]\n\"postgres://app:hunter2@h\" = 1\n",
        "\"postgres://app:hunter2@h\" = 1\n",
        "[kafka.properties]\n\"app:hunter2@h\" = 1\n",
        "[kafka]\nbrokers = \"user:hunter2@h:9092\"\n",
        "[kafka.properties]\nsasl.password = [\"hunter2\"]\n",
        "[kafka.properties]\nsasl.password = \"hunter2\nsasl.username = 1\n",
        "[kafka.properties]\nsasl.password = \"hunter2\"\nsasl.password = \"hunter2\"\n",
        "[clickhouse]\nurl = \"https://app:hunter2@h?x\"\n",
        "[clickhouse]\npassword_file = \"/no/such\"\nurl = \"https://app:hunter2@h\"\n",
    ] {
        let error = refused(text);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}: {error}");
    }
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let text = "[postgres]\nurl = \"postgres://u:hunter2@h/d\"\n[clickhouse]\nurl = \"http://u:hunter2@h\"\n\
                [kafka.properties]\nsasl.password = \"hunter2\"\nssl.key.password = \"hunter2\"\nsome.thing = \"hunter2\"\n";
    let explained = with_file(text, &[]).unwrap();
    assert!(!format!("{explained:?}").contains("hunter2"), "{explained:?}");
}

#[test]
fn where_and_the_choice_of_columns_are_checked_as_far_as_they_can_be_without_a_server() {
    const TABLE: &str = "[[table]]\nsource = \"a.b\"\nkey = [\"k\", \"l\"]\ntopic = \"t\"\ntarget = \"d.t\"\n";
    for (line, why) in [
        ("where = \" \"", "it is empty"),
        ("where = 1", "not a string"),
        ("columns = []", "it names no column"),
        ("columns = [\"a\", \"a\"]", "twice"),
        ("columns = [\"a\", \"sent_to_kafka\"]", "the flag sent_to_kafka is never part of a record"),
        ("exclude = \"sent_to_kafka\"", "the flag sent_to_kafka is never part of a record"),
        ("exclude = [\"a\", \"l\"]", "l is a column of the key"),
        ("columns = \"a\"\nexclude = \"b\"", "`columns` says already"),
    ] {
        let error = refused(&format!("{TABLE}{line}\n"));
        assert!(error.why().contains(why), "{line}: {error}");
    }
    let table = |line: &str| with_file(&format!("{TABLE}{line}\n"), &[]).unwrap().config.tables.remove(0);
    assert_eq!(table("").condition, None);
    assert_eq!(table("where = \" a > 1 \"").condition.as_deref(), Some("a > 1"));
    assert_eq!(table("columns = \"a\"").columns, ColumnChoice::Only(vec!["a".into()]));
    assert_eq!(table("exclude = \"a\"").columns, ColumnChoice::AllBut(vec!["a".into()]));
}

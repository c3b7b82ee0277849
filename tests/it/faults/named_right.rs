//! What is wrong for good is told as what it is, at once, and not as a server that may come back.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::common::findings::check;
use crate::common::servers::Servers;
use crate::common::{USER_LOGINS, World};

/// Runs once, with the default limits; it ends with `code` within seconds, and says each of `told`.
fn ends_at_once(world: &World, code: i32, told: &[&str]) {
    let begun = Instant::now();
    let ended = world.run(&["--once"]).expect(code);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}: {}", begun.elapsed(), ended.stderr);
    for part in told {
        assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
    }
}

#[test]
fn records_whose_timestamps_the_topic_refuses() {
    let mut world = World::new("refused_timestamps");
    world.insert_rows(3);
    world.alter_topic("message.timestamp.before.max.ms", "1");
    ends_at_once(&world, 78, &["synchronise the clocks of PostgreSQL and the brokers"]);
    world.alter_topic("message.timestamp.before.max.ms", "9223372036854775807");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_transaction_timeout_above_the_brokers_maximum() {
    let mut world = World::new("long_transactions");
    world.insert_rows(1);
    // The brokers' maximum is 15 minutes; twice this limit is asked for, up to that.
    world.settings.insert("more tables", "[kafka.properties]\n\"transaction.timeout.ms\" = 901000\n".into());
    ends_at_once(&world, 78, &["transaction.max.timeout.ms", "`transaction.timeout.ms` in [kafka.properties]"]);
    let report = world.run(&["check", "--json"]).expect(78).stdout;
    assert!(report.contains("transaction.max.timeout.ms"), "{report}");
}

#[test]
fn oauthbearer_without_a_source_of_tokens() {
    let mut world = World::new("no_tokens");
    world.insert_rows(1);
    world.settings.insert(
        "more tables",
        "[kafka.properties]\n\"security.protocol\" = \"SASL_PLAINTEXT\"\n\"sasl.mechanism\" = \"OAUTHBEARER\"\n".into(),
    );
    ends_at_once(
        &world,
        78,
        &["kafka.properties.sasl.mechanism", "nothing says where the tokens come from", "oauth_token_url"],
    );
}

#[test]
fn a_role_that_may_only_read() {
    let mut world = World::on(Servers::in_new_database("read_only_role"), "read_only_role", USER_LOGINS, 1);
    let role = world.become_role("GRANT ALL ON {t}, pg2ch_checkpoint, pg2ch_runs TO {role}");
    world.superuser().batch_execute(&format!("ALTER ROLE {role} SET default_transaction_read_only = on")).unwrap();
    ends_at_once(&world, 78, &["default_transaction_read_only is on", "pg2ch check"]);
}

/// Answers every request like this.
fn answering(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let _ = client.read(&mut [0; 1 << 12]);
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
            let _ = client.write_all(answer.as_bytes());
        }
    });
    format!("url = \"http://app:app@127.0.0.1:{port}\"")
}

const PAGE: &str =
    "<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to nginx!</title>\n</head>\n<body>\n<p>long</p>\n</body></html>";

#[test]
fn a_web_server_where_clickhouse_should_be() {
    let mut world = World::new("web_server");
    for status in ["200 OK", "404 Not Found"] {
        world.settings.insert("clickhouse", answering(status, PAGE));
        ends_at_once(&world, 78, &["a web page, titled \"Welcome to nginx!\"", "[clickhouse] url does not lead"]);
        let ended = world.run(&["check"]).expect(78);
        assert!(!ended.stdout.contains("<p>"), "{}", ended.stdout);
    }
    world.settings.insert("clickhouse", answering("502 Bad Gateway", PAGE));
    world.settings.insert("retry", "attempts = 1".into());
    ends_at_once(&world, 69, &["titled \"Welcome to nginx!\""]);
}

#[test]
fn tables_named_by_words_of_sql_are_fed_by_themselves() {
    for name in ["user", "order", "values", "time", "Mixed Case"] {
        let mut world = World::unmade(Servers::shared(), "words", USER_LOGINS, 1);
        let table = format!("{name}_{}", std::process::id());
        let quoted = if name == "Mixed Case" { format!("\"{table}\"") } else { format!("\"{name}\"") };
        let schema = format!("words_{}", world.name);
        world
            .pg
            .batch_execute(&format!(
                "CREATE SCHEMA {schema}; CREATE TABLE {schema}.{quoted} (LIKE {} INCLUDING ALL)",
                world.name
            ))
            .unwrap();
        let written = if name == "Mixed Case" { quoted.clone() } else { name.to_owned() };
        world.settings.insert("[table]", format!("source = '{schema}.{written}'"));
        world.run(&["init"]).expect(0);
        world
            .pg
            .batch_execute(&format!(
                "INSERT INTO {schema}.{quoted} (user_id, event_type, event_time) VALUES (1, 'x', now())"
            ))
            .unwrap();
        world.once().expect(0);
        let report = check(&world, 0);
        assert!(!report.to_string().contains("topic-shared"), "{name}: {report:#}");
        let status = world.run(&["status"]).expect(0).stdout;
        assert!(status.contains("both legs, succeeded"), "{name}: {status}");
    }
}

#[test]
fn the_first_of_several_hosts_that_takes_writes_is_used() {
    let mut world = World::new("several_hosts");
    world.insert_rows(3);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = world.servers.postgres_url.replacen("@localhost", &format!("@127.0.0.1:{closed},localhost"), 1);
    world
        .settings
        .insert("postgres", format!("url = \"{url}?target_session_attrs=read-write&application_name=nightly\""));
    world.once().expect(0);
    world.settings.remove("postgres");
    world.assert_exactly_once();
}

//! The statements that a newcomer types after `docker compose up -d`, as they stand, and what they print.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::common::Ended;
use crate::common::servers::OwnServers;

/// Servers with what `sql/` loads, as docker-compose.yml starts them.
struct Compose(OwnServers);

impl Compose {
    fn type_into(&self, command: &mut Command, text: &str) -> String {
        command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("PGTZ", "UTC");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let ended = Ended::of(&child.wait_with_output().unwrap());
        assert_eq!(ended.code, 0, "{text}: {}", ended.stdout);
        ended.stdout
    }

    fn psql(&self, statement: &str) -> String {
        let options = ["-X", "-v", "ON_ERROR_STOP=1", "-P", "pager=off", &self.0.servers.postgres_url];
        self.type_into(Command::new("psql").args(options), statement)
    }

    fn clickhouse(&self, statement: &str) -> String {
        let options = ["-sS", "--fail-with-body", &self.0.servers.clickhouse_url, "--data-binary", "@-"];
        self.type_into(Command::new("curl").args(options), statement)
    }
}

#[test]
fn the_first_statements_run_as_they_stand_and_print_what_is_expected() {
    let servers = Compose(OwnServers::start("first-hour"));
    let unsent = "SELECT count(*) AS unsent FROM user_logins WHERE sent_to_kafka = FALSE;";
    let latest = "SELECT id, sent_to_kafka FROM user_logins ORDER BY id DESC LIMIT 5;";
    assert_eq!(servers.psql(unsent), " unsent \n--------\n      3\n(1 row)\n\n");

    servers.0.pg2ch(&["--once"]).expect(0);
    assert_eq!(servers.psql(unsent), " unsent \n--------\n      0\n(1 row)\n\n");

    servers.psql("INSERT INTO user_logins (user_id, event_type, event_time, payload, sent_to_kafka) VALUES (1, 'login', now(), '{\"ip\": \"127.0.0.1\"}', FALSE);");
    servers.0.pg2ch(&["--once"]).expect(0);
    let rows = " id | sent_to_kafka \n----+---------------\n  4 | t\n  3 | t\n  2 | t\n  1 | t\n(4 rows)\n\n";
    assert_eq!(servers.psql(latest), rows);

    let copied = servers.clickhouse("SELECT * FROM analytics.user_logins ORDER BY _ingested_at DESC LIMIT 5;");
    let rows: Vec<Vec<&str>> = copied.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows.len(), 4, "{copied}");
    assert_eq!(&rows[0][..3], ["4", "1", "login"], "{copied}");
    assert_eq!(rows[0][4], r#"{"ip": "127.0.0.1"}"#);
}

#[test]
fn compose_opens_the_ports_and_has_the_names_that_clients_expect() {
    let compose = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docker-compose.yml")).unwrap();
    let ports: Vec<&str> = compose.split("127.0.0.1:").skip(1).filter_map(|port| port.split('"').next()).collect();
    // ClickHouse listens twice: HTTP, and the native protocol of clickhouse-client, clickhouse-driver and DBeaver.
    assert_eq!(ports, ["5432:5432", "9092:9092", "8123:8123", "9000:9000"]);
    for line in ["POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB", "CLICKHOUSE_USER", "CLICKHOUSE_PASSWORD"] {
        assert!(compose.contains(&format!("{line}: app\n")), "{line}");
    }
}

//! docs/from-scripts.md, typed: it takes over from a pair of scripts, one of which died at the worst moment, and ends with every
//! row in the target once.

use std::io::Write as _;
use std::process::{Command, Stdio};

use pg2ch::clickhouse::Answer;

use crate::common::servers::OwnServers;
use crate::common::{Ended, KILLED};

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/from-scripts.md"));

/// The pieces in fences below a heading, in order.
fn pieces(heading: &str) -> Vec<&'static str> {
    let (_, rest) = PAGE.split_once(&format!("\n## {heading}\n")).unwrap();
    let part = rest.split("\n## ").next().unwrap();
    part.split("```sh\n").skip(1).map(|piece| piece.split("```").next().unwrap()).collect()
}

/// A machine on which the two scripts have worked.
struct Machine(OwnServers);

impl Machine {
    /// A table with `rows` rows, a topic, and a target as somebody made it who knew nothing of pg2ch.
    fn new(name: &str, rows: u32) -> Self {
        let machine = Self(OwnServers::start(name));
        machine.postgres(&format!(
            "DROP TABLE pg2ch_checkpoint, pg2ch_runs; DROP INDEX user_logins_unsent; DELETE FROM user_logins;
             INSERT INTO user_logins (id, user_id, event_type, event_time, payload)
             SELECT n, n % 7, 'login', timestamptz '2026-01-02 03:04:05Z' + n * interval '1 minute',
                 CASE WHEN n % 5 > 0 THEN jsonb_build_object('ip', '10.0.0.' || n) END FROM generate_series(1, {rows}) n"
        ));
        machine.clickhouse("DROP TABLE analytics.user_logins");
        machine.clickhouse(
            "CREATE TABLE analytics.user_logins (id UInt64, user_id UInt64, event_type String, event_time DateTime, payload String, \
             _ingested_at DateTime DEFAULT now()) ENGINE = MergeTree ORDER BY (event_time, id)",
        );
        machine
    }

    fn postgres(&self, sql: &str) {
        self.0.servers.session().batch_execute(sql).unwrap();
    }

    fn clickhouse(&self, sql: &str) -> String {
        match self.0.servers.clickhouse().send(sql, &[], &[]).unwrap() {
            Answer::Ok(body) => String::from_utf8(body).unwrap().trim_end().to_owned(),
            Answer::Exception(exception) => panic!("{sql}: {exception}"),
        }
    }

    fn command(&self, program: &str) -> Command {
        let (servers, path) = (&self.0.servers, std::env::var("PATH").unwrap());
        let own = std::path::Path::new(env!("CARGO_BIN_EXE_pg2ch")).parent().unwrap();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", format!("{}:{path}", own.display()))
            .env("LANG", "C.UTF-8")
            .env("PGTZ", "UTC")
            .env("PG2CH_POSTGRES_URL", &servers.postgres_url)
            .env("PG2CH_KAFKA_BROKERS", &servers.brokers)
            .env("PG2CH_CLICKHOUSE_URL", &servers.clickhouse_url)
            .current_dir(self.0.dir());
        command
    }

    fn python(&self, script: &str, arguments: &[&str]) -> i32 {
        let path = format!("{}/tests/it/documents/scripts/{script}", env!("CARGO_MANIFEST_DIR"));
        let ended = Ended::of(&self.command("python3").arg(path).args(arguments).output().unwrap());
        assert!([0, KILLED].contains(&ended.code), "{script}: {ended:?}");
        ended.code
    }

    fn produce(&self, batches: &[&str]) -> i32 {
        let servers = &self.0.servers;
        self.python("producer.py", &[&[servers.postgres_url.as_str(), &servers.brokers], batches].concat())
    }

    fn consume(&self, batches: &[&str]) -> i32 {
        let servers = &self.0.servers;
        self.python(
            "consumer.py",
            &[&[servers.brokers.as_str(), &servers.clickhouse_url, "offsets.json"], batches].concat(),
        )
    }

    /// Types a piece of the page into a shell.
    fn type_in(&self, piece: &str) -> Ended {
        let servers = &self.0.servers;
        let piece = piece
            .replace("postgres://app:app@localhost:5432/app", &servers.postgres_url)
            .replace("localhost:9092", &servers.brokers);
        let mut shell = self.command("bash");
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        shell.stdin.take().unwrap().write_all(piece.as_bytes()).unwrap();
        Ended::of(&shell.wait_with_output().unwrap())
    }

    /// The statements that `check` prints under one heading: those to be run before a run of pg2ch, and those after it.
    fn migration(&self) -> (Vec<String>, Vec<String>) {
        let report = self.type_in("pg2ch check --json").expect(78).report();
        let fixes = report["findings"].as_array().unwrap();
        let statements: Vec<&str> = fixes
            .iter()
            .filter(|finding| finding["server"] == "ClickHouse")
            .map(|finding| finding["fix"].as_str().unwrap())
            .filter(|fix| *fix != "-- the migration under [engine]")
            .collect();
        let [migration] = statements[..] else { panic!("more than one fix: {statements:#?}") };
        let (before, after) = migration.split_once("\n-- Now `pg2ch --once`").unwrap();
        let (_, after) = after.split_once('\n').unwrap();
        let split = |text: &str| text.split(";\n").map(|sql| sql.trim_end_matches(';').to_owned()).collect();
        (split(before), split(after))
    }

    fn run_all(&self, statements: &[String]) {
        statements.iter().for_each(|statement| drop(self.clickhouse(statement)));
    }

    fn assert_each_row_once(&self, rows: u32) {
        let counts = self.clickhouse("SELECT count(), uniqExact(id), min(id), max(id) FROM analytics.user_logins");
        assert_eq!(counts, format!("{rows}\t{rows}\t1\t{rows}"));
        let verdict = self.type_in("pg2ch verify").expect(0).stdout;
        assert!(verdict.contains(": equal ("), "{verdict}");
    }
}

#[test]
fn taking_over_from_scripts_that_died_in_the_middle_brings_every_row_once() {
    let machine = Machine::new("from-scripts", 110);
    // Ninety rows are in the topic, sixty of them flagged.
    machine.postgres("UPDATE user_logins SET payload = 'null' WHERE id = 65");
    assert_eq!(machine.produce(&["3"]), KILLED);
    // The consumer dies after each second INSERT, and inserts that one again when it is started again.
    assert_eq!((machine.consume(&["2"]), machine.consume(&["2"])), (KILLED, KILLED));
    let doubled = machine.clickhouse("SELECT count() - uniqExact(id) FROM analytics.user_logins");
    assert_ne!(doubled, "0");
    // The topic has forgotten the row 111, of which the old table has two versions.
    machine.postgres(
        "INSERT INTO user_logins (id, user_id, event_type, event_time, payload, sent_to_kafka)
         VALUES (111, 1, 'logout', '2026-01-03Z', '{\"n\": 1}', TRUE)",
    );
    for (hour, event) in [(1, "login"), (3, "logout"), (2, "refresh")] {
        machine.clickhouse(&format!(
            "INSERT INTO analytics.user_logins (id, user_id, event_type, event_time, payload, _ingested_at)
             VALUES (111, 1, '{event}', '2026-01-03 00:00:00', '{{\"n\": 1}}', '2026-01-03 0{hour}:00:00')"
        ));
    }
    let [check, init, flag, once, verify, repair] = pieces("Take over")[..] else { panic!("{PAGE}") };

    machine.type_in(check).expect(78);
    let told = machine.type_in(init).expect(0).stdout;
    assert!(told.contains("-- do by hand: analytics.user_logins has the engine MergeTree"), "{told}");
    let refused = machine.type_in("pg2ch consume").expect(78).stderr;
    assert!(refused.contains("For one with rows, `pg2ch check` prints the statements"), "{refused}");
    machine.type_in(flag).expect(0);
    let (before, after) = machine.migration();
    machine.run_all(&before);
    let ended = machine.type_in(&once.replace("--once", "--once --json")).expect(0);
    assert_eq!(ended.number("produce", "records_sent"), 20, "the others are in the topic");
    assert!(after[0].contains("ORDER BY `_ingested_at` DESC LIMIT 1 BY"), "{after:?}");
    machine.run_all(&after);
    machine.type_in(verify).expect(0);

    machine.assert_each_row_once(111);
    // What the topic has forgotten came from the old table; a second time it changes nothing.
    machine
        .clickhouse("DELETE FROM analytics.user_logins WHERE id IN (SELECT id FROM analytics.user_logins_old LIMIT 5)");
    machine.run_all(&after);
    machine.run_all(&after);
    machine.assert_each_row_once(111);
    machine.postgres(
        "INSERT INTO user_logins (id, user_id, event_type, event_time) VALUES (112, 1, 'login', '2026-01-03Z')",
    );
    machine.type_in(once).expect(0);
    machine.assert_each_row_once(112);

    // A version that is stale in the target, as a table without `_ingested_at` may give it, is sent again.
    machine.clickhouse(
        "ALTER TABLE analytics.user_logins UPDATE event_type = 'login' WHERE id = 111 SETTINGS mutations_sync = 1",
    );
    machine.type_in(verify).expect(65);
    machine.type_in(repair);
    machine.type_in(verify).expect(0);
}

#[test]
fn starting_at_the_end_leaves_the_records_of_the_scripts_alone() {
    let machine = Machine::new("from-scripts-end", 40);
    assert_eq!((machine.produce(&[]), machine.consume(&[])), (0, 0));
    let [start] = pieces("Start at the end")[..] else { panic!("{PAGE}") };

    machine.type_in("pg2ch init").expect(0);
    let (before, after) = machine.migration();
    machine.run_all(&before);
    machine.run_all(&after);
    machine.type_in(start).expect(0);
    machine.postgres(
        "INSERT INTO user_logins (id, user_id, event_type, event_time) VALUES (41, 1, 'login', '2026-01-03Z')",
    );
    let ended = machine.type_in("pg2ch --once --json").expect(0);

    assert_eq!((ended.number("produce", "records_sent"), ended.number("consume", "records_copied")), (1, 1));
    machine.assert_each_row_once(41);
}

//! A run that nobody watches can be followed: a check is told of it, `--every` shows that it lives, and its name is in its lines and on
//! the servers. Its passwords may change while it runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::http_proxy::HttpProxy;
use crate::common::{Ended, World, signal};
use serde_json::Value;

/// A server of checks: what it was told, each report's path and body.
#[derive(Clone)]
struct Checks {
    url: String,
    told: Arc<Mutex<Vec<(String, String)>>>,
}

impl Checks {
    /// It answers each report with `answer`; with none it keeps silent, the connection open.
    fn start(answer: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/ping/hunter2", listener.local_addr().unwrap());
        let checks = Self { url, told: Arc::default() };
        let told = Arc::clone(&checks.told);
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut head, mut length) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                    head.push_str(&line);
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let path = head.split(' ').nth(1).unwrap().to_owned();
                told.lock().unwrap().push((path, String::from_utf8(body).unwrap()));
                match answer {
                    Some(answer) => {
                        write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
                    }
                    None => silent.push(stream),
                }
            }
        });
        checks
    }

    fn paths(&self) -> Vec<String> {
        self.told.lock().unwrap().iter().map(|(path, _)| path.replace("/ping/hunter2", "")).collect()
    }
}

#[test]
fn a_check_is_told_of_start_and_end() {
    let mut world = World::new("followed_told");
    let checks = Checks::start(Some("200 OK"));
    world.settings.insert("notify", format!("url = \"{}/\"", checks.url));
    world.insert_rows(3);
    world.once().expect(0);
    assert_eq!(checks.paths(), ["/start", "/0"]);
    assert!(checks.told.lock().unwrap()[1].1.contains("3 rows sent"));
    world.settings.insert("clickhouse", "url = \"http://app:wrong@127.0.0.1:1\"".into());
    world.settings.insert("retry", "attempts = 1".into());
    world.insert_rows(1);
    world.once().expect(69);
    assert_eq!(checks.paths(), ["/start", "/0", "/start", "/69"]);
    let said = checks.told.lock().unwrap()[3].1.clone();
    assert!(said.starts_with("error: ") && said.contains("ClickHouse") && !said.contains("wrong"), "{said}");
    // Only runs are told of.
    world.run(&["status"]);
    assert_eq!(checks.paths().len(), 4);
}

#[test]
fn a_run_that_finds_another_one_at_work_changes_nothing_of_the_check() {
    let mut world = World::new("followed_locked");
    world.insert_rows(1);
    let mut first = world.start_stopped_at("flag.before");
    let checks = Checks::start(Some("200 OK"));
    world.settings.insert("notify", format!("url = \"{}\"", checks.url));
    world.once().expect(75);
    assert_eq!(checks.paths(), ["/start", "/log"]);
    first.go_on();
    first.end().expect(0);
}

#[test]
fn no_report_makes_a_run_fail_or_wait_beyond_its_limit() {
    let mut world = World::new("followed_failing");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, why) in [
        (Checks::start(Some("404 Not Found")).url, "404"),
        (Checks::start(Some("500 Internal Server Error")).url, "500"),
        (Checks::start(Some("301 Moved Permanently\r\nLocation: /elsewhere")).url, "301"),
        (Checks::start(None).url, "timeout"),
        (format!("http://{nobody}/hunter2"), "refused"),
        ("https://no-such-host.invalid/hunter2".to_owned(), ""),
    ] {
        world.settings.insert("notify", format!("url = \"{url}\"\ntimeout = \"300ms\""));
        world.insert_rows(1);
        let begun = Instant::now();
        let ended = world.run(&["--once"]).expect(0);
        assert!(begun.elapsed() < Duration::from_secs(8), "{url}: {:?}", begun.elapsed());
        let warned = ended.stderr.contains("cannot report the run") && ended.stderr.contains(why);
        assert!(warned && !ended.stderr.contains("hunter2"), "{url}: {}", ended.stderr);
    }
    world.assert_exactly_once();
}

/// Waits until the program has printed `count` lines on standard error.
fn lines_of(child: &mut Child, count: usize) -> Vec<String> {
    let reader = BufReader::new(child.stderr.take().unwrap());
    reader.lines().take(count).map(Result::unwrap).collect()
}

#[test]
fn every_says_what_moved_and_that_it_lives() {
    let mut world = World::new("followed_every");
    let mut run = world.start(&["--every", "1s"]);
    let first = lines_of(&mut run, 1);
    assert_eq!(first, ["1 run since the last line, nothing to move"]);
    signal("TERM", &run);
    assert!(run.wait().unwrap().success());

    world.insert_rows(2);
    let run = world.start(&["--every", "1s"]);
    let mut other = world.another_session();
    let unsent = format!("SELECT count(*) FROM {} WHERE NOT sent_to_kafka", world.name);
    world.wait_for("the rows to go", || other.query_one(&unsent, &[]).unwrap().get::<_, i64>(0) == 0);
    std::thread::sleep(Duration::from_secs(3));
    signal("TERM", &run);
    let ended = Ended::of(&run.wait_with_output().unwrap()).expect(0);
    // The idle runs since then are silent.
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("2 rows sent"), "{}", ended.stderr);
    assert_eq!(Ended::of(&world.command(&["--once"]).output().unwrap()).expect(0).stderr, "");
}

#[test]
fn a_runs_name_is_in_its_lines_its_history_and_on_the_servers() {
    let mut world = World::new("followed_name");
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[]);
    world.settings.insert("clickhouse", proxy.setting());
    world.insert_rows(5);
    let mut run = world.start_command_stopped_at(&["--once", "--json", "-v"], "flag.before");
    let session: String = world
        .pg
        .query_one(
            "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'pg2ch ledger %' || ':' || $1",
            &[&run.pid().to_string()],
        )
        .unwrap()
        .get(0);
    run.go_on();
    let ended = run.end().expect(0);
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    let name = report["run"].as_str().unwrap();
    assert_eq!(name.len(), 8);
    assert!(session.contains(&format!(" {name} ")), "{session}");
    let line = ended.stderr.lines().find(|line| line.contains(" INFO ")).unwrap();
    assert!(line.contains(&format!(" {name} ")), "{line}");
    let inserts = proxy.seen();
    assert!(
        !inserts.is_empty() && inserts.iter().all(|line| line.contains(&format!("log_comment=pg2ch%20{name}"))),
        "{inserts:?}"
    );
    let kept = world
        .sql_number(&format!("SELECT count(*) FROM pg2ch_runs WHERE topic = '{{t}}' AND run_by LIKE '%run {name}'"));
    assert_eq!(kept, 2);
    assert_ne!(serde_json::from_str::<Value>(&world.once().stdout).unwrap()["run"].as_str().unwrap(), name);
}

#[test]
fn log_lines_can_be_json() {
    let mut world = World::new("followed_json");
    let lines = |ended: &Ended| -> Vec<Value> {
        ended.stderr.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    };
    world.insert_rows(1);
    world.settings.insert("run", "log_format = \"json\"".into());
    let said = lines(&world.run(&["--once", "-v"]).expect(0));
    assert!(said.iter().all(|line| line["time"].is_string() && line["run"] == said[0]["run"]), "{said:?}");
    assert!(
        said.iter().any(|line| line["level"] == "info" && line["message"].as_str().unwrap().contains("1 row sent"))
    );
    world.settings.insert("clickhouse", "url = \"http://app:hunter2@127.0.0.1:1\"".into());
    world.settings.insert("retry", "attempts = 1".into());
    world.insert_rows(1);
    let said = lines(&world.run(&["--once"]).expect(69));
    let error = said.iter().find(|line| line["level"] == "error").unwrap();
    assert_eq!(error["exit_code"], 69);
    assert!(error["error"]["hint"].is_string() && !error.to_string().contains("hunter2"), "{error}");
    // The environment counts before the configuration is read.
    let mut command = world.command(&["--once", "--table", "no.such"]);
    let said = lines(&Ended::of(&command.env("PG2CH_LOG_FORMAT", "json").output().unwrap()).expect(64));
    assert_eq!(said.last().unwrap()["exit_code"], 64);
}

/// A file with a password.
fn password_file(world: &World, password: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("{}-password", world.name));
    std::fs::write(&path, password).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// The URLs of PostgreSQL and ClickHouse without their passwords.
fn without_passwords(world: &mut World, lines: &str) {
    for (section, url) in
        [("postgres", world.servers.postgres_url.clone()), ("clickhouse", world.servers.clickhouse_url.clone())]
    {
        world.settings.insert(section, format!("url = \"{}\"\n{lines}", url.replace("app:app@", "app@")));
    }
}

#[test]
fn a_command_gives_the_passwords() {
    let mut world = World::new("followed_command");
    let path = password_file(&world, "app\n");
    without_passwords(&mut world, &format!("password_command = [\"/bin/cat\", \"{}\"]", path.display()));
    world.insert_rows(2);
    world.once().expect(0);
    world.assert_exactly_once();
    std::fs::write(&path, "hunter2").unwrap();
    let ended = world.run(&["--once", "-vv"]).expect(77);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    world.settings.insert("retry", "attempts = 1".into());
    without_passwords(&mut world, "password_command = [\"/bin/sh\", \"-c\", \"echo hunter2 >&2; exit 1\"]");
    let ended = world.run(&["--once", "-vv"]).expect(69);
    assert!(ended.stderr.contains("/bin/sh: it ended with exit status: 1"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_password_file_is_read_again_for_each_connection() {
    let mut world = World::new("followed_file");
    let path = password_file(&world, "app");
    without_passwords(&mut world, &format!("password_file = \"{}\"", path.display()));
    let mut run = world.start(&["--every", "1s"]);
    lines_of(&mut run, 1);
    assert!(run.try_wait().unwrap().is_none());
    std::fs::write(&path, "changed since").unwrap();
    let begun = Instant::now();
    while run.try_wait().unwrap().is_none() {
        // Runs share their connections for an hour, unless the server ends them.
        let sessions = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'pg2ch %:{}'",
            run.id()
        );
        world.sql(&sessions);
        assert!(begun.elapsed() < Duration::from_secs(30), "the new password is not used");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(run.wait().unwrap().code(), Some(77));
    std::fs::remove_file(path).unwrap();
}

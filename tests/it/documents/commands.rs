//! The documents' commands, typed in their order on servers of the test's own, end as the pages say and print what they show.
//!
//! What a page shows is compared by its shape: any number stands for any other. What cannot be run here is listed, each
//! with the reason, and with the page that has it.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::Ended;
use crate::common::servers::OwnServers;
use pg2ch::clickhouse::Answer;

/// What is not run here: page, how the command begins, why.
const NOT_HERE: &[(&str, &str, &str)] = &[
    ("README.md", "scripts/demo", "it builds and uses the usual ports; docs/demo.md has its commands, which are run"),
    ("README.md", "scripts/test", "it runs this test"),
    ("README.md", "scripts/fresh-machine", "it runs this test, on a system that it makes first"),
    ("README.md", "scripts/install", "tests/it/packaging runs it, in a directory of its own"),
    ("README.md", "scripts/package", "tests/it/packaging runs it"),
    ("README.md", "docker compose", "no Docker engine; scripts/test-compose starts one and runs it"),
    ("README.md", "sudo apt-get install", "scripts/test has installed these, or it could not have built the test"),
    ("README.md", "cargo build --release", ".ci/run does it"),
    ("README.md", "sudo scripts/install", "tests/it/packaging runs it, in a directory of its own"),
    ("README.md", "sudo systemctl", "no systemd; tests/it/packaging has it verify the units"),
    ("README.md", "pg2ch man | man -l -", "man is not everywhere; tests/it/packaging has groff take the page"),
    ("docs/demo.md", "scripts/demo", "it builds and uses the usual ports"),
    (
        "docs/grants.md",
        "CREATE USER pg2ch",
        "the test server has one user; tests/it/check/grants.rs limits it to these grants",
    ),
    ("docs/metrics.md", "sudo ", "it changes the machine; tests/it/packaging/cron.rs has a run write there"),
    ("docs/running.md", "sudo install", "scripts/test-release puts the binary into bare systems"),
    ("docs/running.md", "sudo apt-get install", "scripts/test-release installs the package"),
    ("docs/running.md", "docker run", "no Docker engine; scripts/test-image starts one"),
    ("docs/running.md", "docker compose", "no Docker engine; scripts/test-compose starts one and runs it"),
    ("docs/running.md", "scripts/test-", "they need root, and start an engine of their own"),
    ("docs/running.md", "scripts/release", "scripts/test-release tries what it makes; it takes long"),
    ("docs/running.md", "sudo systemctl", "no systemd"),
];

/// Where a command ends otherwise than with 0: page, command, code.
const CODES: &[(&str, &str, i32)] = &[
    ("docs/verify.md", "pg2ch verify --deep", 65),
    ("docs/verify.md", "pg2ch verify --repair", 65),
    ("docs/verify.md", "pg2ch verify --repair --confirm", 65),
    ("docs/verify.md", "pg2ch dead-letters replay", 65),
    ("docs/verify.md", "pg2ch verify", 65),
    ("docs/verify.md", "pg2ch dead-letters drop", 65),
    ("docs/runbook.md", "pg2ch dead-letters", 65),
    ("docs/runbook.md", "pg2ch dead-letters drop", 65),
    ("docs/runbook.md", "pg2ch dead-letters drop 0:17", 65),
    ("docs/runbook.md", "pg2ch dead-letters replay", 65),
    ("docs/runbook.md", "pg2ch verify", 65),
    ("docs/runbook.md", "pg2ch verify --repair --confirm", 65),
    ("docs/runbook.md", "pg2ch verify --deep", 65),
    ("docs/runbook.md", "pg2ch verify --deep --repair --confirm", 65),
];

/// How a piece of code begins that can be typed.
const BEGINS: &[&str] = &[
    "pg2ch ",
    "./pg2ch ",
    "scripts/",
    "kafka-",
    "sudo ",
    "cargo ",
    "docker ",
    "acls()",
    "UPDATE ",
    "ALTER ",
    "OPTIMIZE ",
    "CREATE ",
    "GRANT ",
];

/// Something to type, and what the page shows behind it.
#[derive(Debug)]
struct Step {
    code: String,
    shown: Vec<String>,
}

impl Step {
    fn new(code: &str) -> Self {
        Self { code: code.to_owned(), shown: Vec::new() }
    }

    fn is_sql(&self) -> bool {
        ["UPDATE ", "DELETE ", "ALTER ", "OPTIMIZE ", "CREATE ", "GRANT ", "VACUUM ", "SELECT "]
            .iter()
            .any(|word| self.code.starts_with(word))
    }
}

/// What a page tells to type, in its order.
fn steps(page: &str) -> Vec<Step> {
    let (mut steps, mut prose, mut fence) = (Vec::new(), String::new(), None::<(&str, Vec<&str>)>);
    for line in page.lines() {
        match (&mut fence, line.strip_prefix("```")) {
            (None, Some(language)) => {
                steps.extend(inline(&std::mem::take(&mut prose)));
                fence = Some((language, Vec::new()));
            }
            (Some((language, lines)), Some(_)) => {
                steps.extend(fenced(language, lines));
                fence = None;
            }
            (Some((_, lines)), None) => lines.push(line),
            (None, None) if line.starts_with("    ") => {
                steps.extend(inline(&std::mem::take(&mut prose)));
                steps.extend(typed(line.split("  #").next().unwrap().trim()));
            }
            (None, None) => prose += &format!("{line}\n"),
        }
    }
    steps.extend(inline(&prose));
    steps
}

fn typed(code: &str) -> Option<Step> {
    BEGINS.iter().any(|begin| code.starts_with(begin)).then(|| Step::new(code))
}

/// The code between a paragraph's backticks.
fn inline(prose: &str) -> Vec<Step> {
    prose.split('`').skip(1).step_by(2).filter_map(|code| typed(&code.replace('\n', " "))).collect()
}

fn fenced(language: &str, lines: &[&str]) -> Vec<Step> {
    match language {
        "console" => {
            let mut steps: Vec<Step> = Vec::new();
            for line in lines {
                match (line.strip_prefix("$ "), steps.last_mut()) {
                    (Some(code), _) => steps.push(Step::new(code)),
                    (None, Some(step)) => step.shown.push((*line).to_owned()),
                    (None, None) => panic!("{line} stands before any command"),
                }
            }
            steps
        }
        "sh" | "sql" => vec![Step::new(lines.join("\n").trim())],
        "toml" => vec![Step::new(&format!("# toml\n{}", lines.join("\n")))],
        // Behind the times and the user stands what cron runs.
        "crontab" => lines.iter().map(|line| Step::new(&line[line.find("/usr/bin/").unwrap()..])).collect(),
        _ => Vec::new(),
    }
}

/// The shape of a line: any number is as good as another, and so are the widths of columns.
fn shape(line: &str) -> String {
    let mut shape = String::new();
    for c in line.trim_end().chars() {
        let c = match c {
            '0'..='9' => '0',
            '─' => '-',
            c => c,
        };
        let is_repeated = matches!(c, '0' | '-' | ' ') && shape.ends_with(c);
        if !is_repeated {
            shape.push(c);
        }
    }
    // A time's fraction may end in zeros, which are not printed.
    shape.replace("0,0", "0").replace("0.0", "0").replace(": 0", ":0").replace("-+-", "+")
}

/// The first line that a page shows and that was not printed, in the page's order.
fn not_printed<'a>(step: &'a Step, printed: &str) -> Option<&'a String> {
    let mut rest = printed.lines();
    let mut lines = step.shown.iter().filter(|line| !matches!(line.trim(), "" | "..."));
    lines.find(|line| !rest.any(|printed| shape(printed) == shape(line)))
}

/// What is told of an address as it was written: its host.
fn host(value: &str) -> &str {
    value.rsplit('@').next().unwrap().split('/').next().unwrap()
}

/// A directory to type in, with the servers of its own.
struct Desk {
    servers: OwnServers,
    dir: PathBuf,
    last_code: i32,
    followed: BTreeSet<String>,
    left_out: BTreeSet<usize>,
    /// What was otherwise than its page says.
    wrong: Vec<String>,
}

impl Desk {
    fn new() -> Self {
        let servers = OwnServers::start_with_tls("documents");
        let dir = servers.dir().join("desk");
        std::fs::create_dir(&dir).unwrap();
        symlink(env!("CARGO_BIN_EXE_pg2ch"), dir.join("pg2ch")).unwrap();
        Self { servers, dir, last_code: 0, followed: BTreeSet::new(), left_out: BTreeSet::new(), wrong: Vec::new() }
    }

    /// With this machine's addresses and names in the place of the page's.
    fn translated(&self, code: &str) -> String {
        let servers = &self.servers.servers;
        code.replace("postgres://app:app@localhost:5432/app", &servers.postgres_url)
            .replace("http://app:app@localhost:8123", &servers.clickhouse_url)
            .replace("localhost:9092", &servers.brokers)
            .replace("/usr/bin/pg2ch", "pg2ch")
            .replace("scripts/demo.toml", root().join("scripts/demo.toml").to_str().unwrap())
            // A run tells what it did only to a terminal; elsewhere it is asked to.
            .replace("./pg2ch --once", "./pg2ch --once -v")
            // A service would go on.
            .replace("pg2ch --every ", "timeout --preserve-status 10 pg2ch --every ")
    }

    fn shell(&self, script: &str) -> Ended {
        let servers = &self.servers.servers;
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{}:{path}", self.dir.display(), self.servers.dir().join("bin").display());
        let output = Command::new("bash")
            .args(["-c", &format!("exec 2>&1\n{script}")])
            .env_clear()
            .env("PATH", path)
            .env("HOME", &self.dir)
            .env("LANG", "C.UTF-8")
            .env("PG2CH_POSTGRES_URL", &servers.postgres_url)
            .env("PG2CH_KAFKA_BROKERS", &servers.brokers)
            .env("PG2CH_CLICKHOUSE_URL", &servers.clickhouse_url)
            .env("PGOPTIONS", "-c client_min_messages=warning")
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Ended::of(&output)
    }

    fn postgres(&self, sql: &str) {
        let done = self.servers.servers.superuser().batch_execute(sql);
        assert!(done.is_ok(), "{sql}: {done:?}");
    }

    fn clickhouse(&self, sql: &str) {
        let answer = self.servers.servers.clickhouse().send(sql, &[], &[]).unwrap();
        assert!(matches!(answer, Answer::Ok(_)), "{sql}: {answer:?}");
    }

    /// pg2ch, for what has to be there before a page is read.
    fn pg2ch(&self, arguments: &str, code: i32) {
        let ended = self.shell(&format!("pg2ch {arguments}"));
        assert_eq!(ended.code, code, "{arguments}: {}", ended.stdout);
    }

    /// Types everything that a page says.
    fn follow(&mut self, page: &str) {
        let steps = steps(&std::fs::read_to_string(root().join(page)).unwrap());
        self.followed.insert(page.to_owned());
        for step in steps {
            let is_listed = |entry: &&(&str, &str, &str)| entry.0 == page && step.code.starts_with(entry.1);
            if let Some(at) = NOT_HERE.iter().position(|entry| is_listed(&entry)) {
                self.left_out.insert(at);
            } else {
                self.take(page, &step);
            }
        }
    }

    fn take(&mut self, page: &str, step: &Step) {
        if step.is_sql() {
            return self.sql(&step.code);
        }
        if step.code.starts_with("# toml") {
            return self.configuration(page, &step.code);
        }
        if step.code == "echo $?" {
            let is_so = step.shown.join("") == self.last_code.to_string();
            return self.expect(is_so, || format!("{page}: the code is {}", step.shown.join("")));
        }
        let ended = self.shell(&self.translated(&step.code));
        let code = CODES.iter().find(|entry| entry.0 == page && entry.1 == step.code).map_or(0, |entry| entry.2);
        let told = |what: &str| format!("{page}: {}: {what}\n{}", step.code, ended.stdout);
        self.expect(ended.code == code, || told(&format!("{} instead of {code}", ended.code)));
        if let Some(line) = not_printed(step, &ended.stdout) {
            self.expect(false, || told(&format!("{line:?} is not printed ({})", shape(line))));
        }
        self.last_code = ended.code;
    }

    fn expect(&mut self, holds: bool, told: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(told());
        }
    }

    /// The program takes a piece of a configuration file, and nothing of it is left out.
    fn configuration(&mut self, page: &str, text: &str) {
        let names = text.lines().filter_map(|line| line.split_once("_file = ")).map(|(_, name)| name.trim_matches('"'));
        names.for_each(|name| std::fs::write(self.dir.join(name), "secret\n").unwrap());
        if text.contains("url_file = \"notify-url\"") {
            std::fs::write(self.dir.join("notify-url"), "https://hc-ping.com/secret\n").unwrap();
        }
        std::fs::write(self.dir.join("page.toml"), text).unwrap();
        let shown = self.shell("unset ${!PG2CH_*}; pg2ch config show --config page.toml");
        self.expect(shown.code == 0, || format!("{page}: {text}\n{}", shown.stdout));
        let values =
            text.lines().filter_map(|line| line.split_once(" = \"")).filter(|(key, _)| !key.contains("password"));
        for (key, value) in values {
            let value = value.split('"').next().unwrap();
            let is_shown = shown.stdout.contains(host(value));
            self.expect(is_shown, || format!("{page}: {key} is not in\n{}", shown.stdout));
        }
    }

    /// Statements, with something where the page has an ellipsis.
    fn sql(&self, sql: &str) {
        let sql = sql.replace("PASSWORD '…'", "PASSWORD 'secret'").replace("(…)", "(1, 2)");
        let sql = sql.replace("source = …", "source = 'public.user_logins'");
        if sql.starts_with("OPTIMIZE") {
            self.clickhouse("SYSTEM START MERGES analytics.user_logins");
            return self.clickhouse(&sql.replace("...", "analytics.user_logins"));
        }
        if sql.starts_with("ALTER TABLE analytics.") {
            return self.clickhouse(&sql);
        }
        self.postgres(&sql);
    }

    fn add_rows(&self, count: u32) {
        self.postgres(&format!(
            "INSERT INTO user_logins (user_id, event_type, event_time) SELECT n, 'login', now() FROM generate_series(1, {count}) n"
        ));
    }

    /// A row that no DateTime64 holds.
    fn refuse_a_row(&self) {
        self.postgres("INSERT INTO user_logins (user_id, event_type, event_time) VALUES (1, 'login', 'infinity')");
        self.pg2ch("--once", 65);
    }

    /// One of each difference that `verify` knows.
    fn spoil(&self) {
        self.add_rows(40);
        self.refuse_a_row();
        let change =
            "ALTER TABLE analytics.user_logins UPDATE event_type = 'logout' WHERE id = 10 SETTINGS mutations_sync = 1";
        self.clickhouse(change);
        self.postgres("DELETE FROM user_logins WHERE id = 11");
        self.clickhouse("DELETE FROM analytics.user_logins WHERE id IN (13, 14)");
        self.clickhouse("SYSTEM STOP MERGES analytics.user_logins");
        self.clickhouse("INSERT INTO analytics.user_logins SELECT * FROM analytics.user_logins WHERE id = 12");
        self.add_rows(3);
        self.pg2ch("produce", 0);
        self.add_rows(2);
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_command_of_the_documents_does_what_its_page_says() {
    let mut desk = Desk::new();
    desk.follow("docs/demo.md");
    desk.add_rows(3);
    desk.follow("README.md");
    desk.follow("docs/configuration.md");
    desk.follow("docs/exit-codes.md");
    desk.follow("docs/grants.md");
    desk.follow("docs/json.md");
    desk.follow("docs/metrics.md");
    desk.follow("docs/outbox.md");
    desk.follow("docs/debezium-outbox.md");
    desk.follow("docs/source.md");
    desk.follow("docs/target.md");
    desk.follow("docs/running.md");
    desk.follow("docs/hosted.md");
    desk.follow("docs/scale.md");
    desk.follow("docs/types.md");
    // Typed by from_scripts.rs, on servers that two scripts have worked on.
    desk.followed.insert("docs/from-scripts.md".into());
    // Typed by tests/it/tables/soft_deletes.rs.
    desk.followed.insert("docs/deletes.md".into());
    desk.spoil();
    desk.follow("docs/verify.md");
    desk.pg2ch("--once", 0);
    desk.follow("docs/runbook.md");
    desk.pg2ch("--once", 0);
    assert!(desk.wrong.is_empty(), "{}", desk.wrong.join("\n\n"));
    let gone: Vec<_> =
        NOT_HERE.iter().enumerate().filter(|(at, _)| !desk.left_out.contains(at)).map(|(_, entry)| entry).collect();
    assert!(gone.is_empty(), "no longer in the documents: {gone:?}");
    let pages = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().file_name());
    let pages = pages.map(|name| format!("docs/{}", name.to_str().unwrap())).filter(|name| name.ends_with(".md"));
    assert_eq!(pages.filter(|page| !desk.followed.contains(page)).collect::<Vec<_>>(), Vec::<String>::new());
}

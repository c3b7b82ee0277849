//! Where the servers are: the shared ones of `scripts/test`, or a set that a test starts for itself to break it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pg2ch::clickhouse::Http;

use super::Ended;

/// The addresses of three servers.
#[derive(Clone, Debug)]
pub struct Servers {
    pub postgres_url: String,
    pub brokers: String,
    pub clickhouse_url: String,
    /// For each proxy that Kafka has a listener for: the port that it tells clients to use, and the one it listens on.
    pub kafka_proxies: Vec<(u16, u16)>,
}

impl Servers {
    /// Whether the brokers are those that `scripts/test` has started.
    pub fn has_shared_brokers(&self) -> bool {
        self.brokers == Self::shared().brokers
    }

    /// The servers that `scripts/test` has started.
    pub fn shared() -> Self {
        Self::of(&|name| std::env::var(name).ok(), "set: run scripts/test")
    }

    /// The shared servers, with a new database in PostgreSQL: what is granted on the other one, other tests rely on.
    pub fn in_new_database(name: &str) -> Self {
        let mut servers = Self::shared();
        let (front, _) = servers.postgres_url.rsplit_once('/').unwrap();
        let database = format!("{name}_{}", std::process::id());
        servers.superuser().batch_execute(&format!("CREATE DATABASE {database} OWNER app")).unwrap();
        servers.postgres_url = format!("{front}/{database}");
        servers
    }

    /// The database that the tables are in.
    pub fn database(&self) -> &str {
        self.postgres_url.rsplit_once('/').unwrap().1
    }

    fn of(find: &dyn Fn(&str) -> Option<String>, missing: &str) -> Self {
        let address = |name: &str| find(name).unwrap_or_else(|| panic!("{name} is not {missing}"));
        let port = |name: String| find(&name)?.parse().ok();
        let pair = |number| {
            let of = |kind| port(format!("SERVERS_KAFKA_{kind}_{number}_PORT"));
            Some((of("PROXY")?, of("PROXIED")?))
        };
        Self {
            postgres_url: address("PG2CH_POSTGRES_URL"),
            brokers: address("PG2CH_KAFKA_BROKERS"),
            clickhouse_url: address("PG2CH_CLICKHOUSE_URL"),
            kafka_proxies: (1..=3).filter_map(pair).collect(),
        }
    }

    pub fn clickhouse(&self) -> Http {
        super::http(&self.clickhouse_url)
    }
}

/// Servers of a test's own, ended with it.
pub struct OwnServers {
    pub servers: Servers,
    dir: PathBuf,
}

impl OwnServers {
    /// Starts PostgreSQL, Kafka and ClickHouse on free ports.
    pub fn start(name: &str) -> Self {
        Self::start_with(name, &[])
    }

    /// The same, which also speak TLS and SASL.
    pub fn start_with_tls(name: &str) -> Self {
        Self::start_with(name, &["--tls"])
    }

    /// A variable of `servers.env`.
    pub fn variable(&self, name: &str) -> String {
        let env = std::fs::read_to_string(self.dir.join("servers.env")).unwrap();
        let line = env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{name} is not in servers.env")).to_owned()
    }

    /// Starts one of the three alone; the others' addresses lead nowhere.
    pub fn start_only(name: &str, server: &str) -> Self {
        Self::start_with(name, &["--only", server])
    }

    /// Runs pg2ch without any configuration but the addresses.
    pub fn pg2ch(&self, arguments: &[&str]) -> Ended {
        let output = Command::new(env!("CARGO_BIN_EXE_pg2ch"))
            .args(arguments)
            .env_clear()
            .env("PG2CH_POSTGRES_URL", &self.servers.postgres_url)
            .env("PG2CH_KAFKA_BROKERS", &self.servers.brokers)
            .env("PG2CH_CLICKHOUSE_URL", &self.servers.clickhouse_url)
            .current_dir(&self.dir)
            .output()
            .unwrap();
        Ended::of(&output)
    }

    /// Where the servers' files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn start_with(name: &str, options: &[&str]) -> Self {
        let dir = std::env::temp_dir().join(format!("pg2ch-servers-{name}-{}", std::process::id()));
        call(&[&["up", "--free-ports", "--dir", &dir.to_string_lossy()], options].concat());
        let env = std::fs::read_to_string(dir.join("servers.env")).unwrap();
        let find =
            |name: &str| Some(env.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?.to_owned());
        Self { servers: Servers::of(&find, "in servers.env"), dir }
    }

    /// `start`, `stop` or `kill` of `postgres`, `kafka` or `clickhouse`.
    pub fn act(&self, action: &str, server: &str) {
        act_in(&self.dir, action, server);
    }

    /// Kills a server, unless it is dead already.
    pub fn kill_if_it_runs(&self, server: &str) {
        let _ = output_of(&["kill", server, "--dir", &self.dir.to_string_lossy()]);
    }

    /// Has a server stop answering until the result is dropped: a test that fails meanwhile does not wait for it for ever.
    pub fn pause(&self, server: &'static str) -> Paused<'_> {
        self.act("pause", server);
        Paused { own: self, server }
    }
}

/// A server that does not answer.
pub struct Paused<'a> {
    own: &'a OwnServers,
    server: &'static str,
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.own.act("resume", self.server);
    }
}

impl Drop for OwnServers {
    fn drop(&mut self) {
        call(&["down", "--dir", &self.dir.to_string_lossy()]);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// `start`, `stop`, `kill`, `pause` or `resume` of one of the servers in a directory.
pub fn act_in(dir: &Path, action: &str, server: &str) {
    call(&[action, server, "--dir", &dir.to_string_lossy()]);
}

fn output_of(args: &[&str]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/servers");
    Command::new(script).args(args).output().unwrap()
}

fn call(args: &[&str]) {
    let output = output_of(args);
    assert!(output.status.success(), "scripts/servers {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

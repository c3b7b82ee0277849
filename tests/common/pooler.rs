//! A pooler in front of PostgreSQL.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::{World, signal};

/// A PgBouncer in front of the shared PostgreSQL, ended with its value.
pub struct Pooler {
    process: Child,
    port: u16,
    dir: PathBuf,
}

impl Pooler {
    /// In `mode`, with at most `size` server connections.
    pub fn start(world: &World, mode: &str, size: u32) -> Self {
        Self::start_with(world, mode, size, "server_reset_query_always = 0")
    }

    /// The same with another `line` in its file.
    pub fn start_with(world: &World, mode: &str, size: u32, line: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("pg2ch-pooler-{mode}-{size}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let port = free_port();
        let server = port_of(&world.servers.postgres_url);
        let text = format!(
            "[databases]\napp = host=127.0.0.1 port={server} user=app password=app\n\
             [pgbouncer]\nlisten_addr = localhost\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n\
             default_pool_size = {size}\n{line}\n"
        );
        std::fs::write(dir.join("pgbouncer.ini"), text).unwrap();
        let process = listening(&dir, port);
        Self { process, port, dir }
    }

    /// Has another mode in its file, which it reads when it is started or asked to.
    fn write_mode(&self, mode: &str) {
        let file = self.dir.join("pgbouncer.ini");
        let text = std::fs::read_to_string(&file).unwrap();
        let line =
            |line: &str| if line.starts_with("pool_mode") { format!("pool_mode = {mode}") } else { line.to_owned() };
        std::fs::write(&file, text.lines().map(|one| line(one) + "\n").collect::<String>()).unwrap();
    }

    /// Ends it, and starts it at the same port in another mode.
    pub fn restart_as(&mut self, mode: &str) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.write_mode(mode);
        self.process = listening(&self.dir, self.port);
    }

    /// Gives it another mode while it runs.
    pub fn reload_as(&self, mode: &str) {
        self.write_mode(mode);
        signal("HUP", &self.process);
    }

    /// A session of an application.
    pub fn session(&self) -> postgres::Client {
        let url = format!("postgres://app:app@localhost:{}/app", self.port);
        postgres::Client::connect(&url, postgres::NoTls).unwrap()
    }

    /// The configuration's line for it.
    pub fn url(&self) -> String {
        format!("url = \"postgres://app:app@localhost:{}/app\"", self.port)
    }
}

/// Starts the one whose file is in `dir`.
fn listening(dir: &Path, port: u16) -> Child {
    let mut command = Command::new(program("PGBOUNCER", "/usr/sbin/pgbouncer"));
    if std::fs::metadata(dir).unwrap().uid() == 0 {
        // It refuses to run as root.
        command.args(["-u", "nobody"]);
    }
    command.arg(dir.join("pgbouncer.ini")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = command.spawn().unwrap();
    wait_until_it_listens(port, || "PgBouncer does not listen".into());
    process
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A program that `scripts/test` gets from Debian.
pub fn program(variable: &str, usual: &str) -> String {
    let found = std::env::var(variable).unwrap_or_else(|_| usual.to_owned());
    assert!(Path::new(&found).exists(), "{found} is not there: run scripts/test, which gets it from Debian");
    found
}

/// Waits until a server listens, ten seconds at most; then `why` says what is wrong.
pub fn wait_until_it_listens(port: u16, why: impl Fn() -> String) {
    let until = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("localhost", port)).is_err() {
        assert!(Instant::now() < until, "{}", why());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Where nobody listens, for now.
pub fn free_port() -> u16 {
    TcpListener::bind("localhost:0").unwrap().local_addr().unwrap().port()
}

/// The port of an address.
pub fn port_of(url: &str) -> u16 {
    url.rsplit_once(':').unwrap().1.split('/').next().unwrap().parse().unwrap()
}

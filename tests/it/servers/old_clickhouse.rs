//! The HTTP client against a server of 2018, Debian's: no exception codes in the headers, other names for other settings.
//! As a target it is refused, because it knows no tokens.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::common::findings::{assert_found, assert_gone};
use crate::common::{World, http};
use pg2ch::clickhouse::{Answer, Exception, Http};
use pg2ch::error::ExitCode;

/// A server of a test's own, ended with it.
struct OldServer {
    process: Child,
    url: String,
    dir: PathBuf,
}

impl OldServer {
    fn start() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("pg2ch-old-clickhouse-{}-{number}", std::process::id()));
        std::fs::create_dir_all(dir.join("data/tmp")).unwrap();
        // Two ports at once, so that they differ.
        let (http, tcp) = (free_port(), free_port());
        let ports = [http, tcp].map(|listener| listener.local_addr().unwrap().port());
        std::fs::write(dir.join("config.xml"), config(&dir, ports)).unwrap();
        std::fs::write(dir.join("users.xml"), USERS).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let process = Command::new(program())
            .arg(format!("--config-file={}", dir.join("config.xml").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let server = Self { process, url: format!("http://app:app@127.0.0.1:{}", ports[0]), dir };
        server.wait();
        server
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while self.http().send("SELECT 1", &[], &[]).is_err() {
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "the old server does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn http(&self) -> Http {
        http(&self.url)
    }

    fn ok(&self, sql: &str, data: &[u8]) -> String {
        match self.http().send(sql, &[], data).unwrap() {
            Answer::Ok(body) => String::from_utf8(body).unwrap(),
            Answer::Exception(exception) => panic!("{sql}: {exception}"),
        }
    }

    fn exception(&self, sql: &str, data: &[u8]) -> Exception {
        match self.http().send(sql, &[], data).unwrap() {
            Answer::Ok(body) => panic!("{sql}: {}", String::from_utf8_lossy(&body)),
            Answer::Exception(exception) => exception,
        }
    }
}

impl Drop for OldServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Where `scripts/test` has put the server's program, or the package has.
fn program() -> String {
    static FOUND: OnceLock<String> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        std::env::var("OLD_CLICKHOUSE_SERVER").unwrap_or_else(|_| "/usr/sbin/clickhouse-server".to_owned())
    });
    assert!(Path::new(found).exists(), "{found} is not there: run scripts/test, which gets it from Debian");
    found.clone()
}

fn free_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn config(dir: &Path, [http, tcp]: [u16; 2]) -> String {
    let mut text = String::from("<yandex><logger><level>warning</level><console>1</console></logger>\n");
    let dir = dir.display();
    for (name, value) in [
        ("listen_host", "127.0.0.1".to_owned()),
        ("http_port", http.to_string()),
        ("tcp_port", tcp.to_string()),
        ("path", format!("{dir}/data/")),
        ("tmp_path", format!("{dir}/data/tmp/")),
        ("users_config", "users.xml".to_owned()),
        ("default_profile", "default".to_owned()),
        ("default_database", "default".to_owned()),
        ("mark_cache_size", "5368709".to_owned()),
    ] {
        writeln!(text, "<{name}>{value}</{name}>").unwrap();
    }
    text + "</yandex>\n"
}

const USERS: &str =
    "<yandex><profiles><default/></profiles><quotas><default/></quotas><users><app><password>app</password>
<profile>default</profile><quota>default</quota><networks><ip>127.0.0.1</ip></networks></app></users></yandex>\n";

const MERGE_TREE: &str = "CREATE TABLE t (d Date DEFAULT today(), n UInt32, s String) ENGINE = MergeTree(d, n, 8192)";

#[test]
fn an_old_server_is_asked_and_filled() {
    let server = OldServer::start();
    assert!(server.ok("SELECT version()", b"").starts_with("18."));
    server.ok(MERGE_TREE, b"");
    server.ok("INSERT INTO t (n, s) FORMAT JSONEachRow", br#"{"n":1,"s":"naive"}{"n":2,"s":"na\u00efve"}"#);
    // UInt32 in four bytes, little-endian; a string after its length.
    server.ok("INSERT INTO t (n, s) FORMAT RowBinary", b"\x03\0\0\0\x05bytes\x04\0\0\0\0");
    assert_eq!(
        server.ok("SELECT n, s FROM t ORDER BY n FORMAT TabSeparated", b""),
        "1\tnaive\n2\tnaïve\n3\tbytes\n4\t\n"
    );
}

#[test]
fn an_old_servers_exception_has_its_code_from_the_text() {
    let server = OldServer::start();
    server.ok(MERGE_TREE, b"");
    // UNKNOWN_IDENTIFIER, UNKNOWN_TABLE, SYNTAX_ERROR, INCORRECT_DATA: this one comes while the data are read.
    for (sql, data, code) in [
        ("SELECT nonsense", &b""[..], 47),
        ("SELECT * FROM absent", b"", 60),
        ("SELEKT 1", b"", 62),
        ("INSERT INTO t (n, s) FORMAT JSONEachRow", br#"{"n":1,"other":2}"#, 117),
    ] {
        let exception = server.exception(sql, data);
        assert_eq!(exception.code, code, "{sql}: {exception}");
        assert_ne!(exception.status, 200);
        assert!(exception.message.starts_with("Code: "), "{exception}");
    }
    assert_eq!(server.ok("SELECT count() FROM t", b""), "0\n");
}

#[test]
fn an_old_servers_word_for_a_wrong_password_is_understood() {
    let server = OldServer::start();
    let stranger = http(&server.url.replace("app:app@", "app:hunter2@"));
    let error = stranger.query("cannot ask", "SELECT 1", &[]).unwrap_err();
    assert_eq!(error.exit_code(), ExitCode::Permission, "{error}");
    assert!(error.why().contains("Wrong password") && !error.to_string().contains("hunter2"), "{error}");
}

#[test]
fn an_old_server_is_refused_as_a_target_before_anything_is_copied() {
    let server = OldServer::start();
    let mut world = World::new("old");
    world.insert_rows(3);
    server.ok("CREATE DATABASE analytics", b"");
    server.ok(
        &format!(
            "CREATE TABLE analytics.{} (id Int64, user_id Int64, event_type String, event_time DateTime, payload String,
             _partition Int32, _offset Int64, _timestamp DateTime) ENGINE = ReplacingMergeTree ORDER BY id",
            world.name
        ),
        b"",
    );
    world.settings.insert("clickhouse", format!("url = \"{}\"", server.url));

    let ended = world.once().expect(78);

    assert!(ended.stderr.contains("insert_deduplication_token") && ended.stderr.contains("22.2"), "{}", ended.stderr);
    let found = assert_found(&world, "clickhouse-version", 78);
    assert!(found["what"].as_str().unwrap().contains("18.16"), "{found}");
    assert_eq!(server.ok(&format!("SELECT count() FROM analytics.{}", world.name), b""), "0\n");
    // With a fit target everything goes on: nothing is lost.
    world.settings.remove("clickhouse");
    assert_gone(&world, "clickhouse-version");
    world.once().expect(0);
    world.assert_exactly_once();
}

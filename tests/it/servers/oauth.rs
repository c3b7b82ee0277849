//! OAUTHBEARER: tokens that a command prints or a server gives, on a broker that checks them and ends a connection with its token.

use std::io::{Read, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::findings::check;
use crate::common::servers::OwnServers;
use crate::common::{Ended, USER_LOGINS, World, signal};

/// How long a token lives in the cases that outlive it.
const SHORT: u32 = 10;

/// The servers, and a program that signs tokens for them.
struct Scene {
    servers: OwnServers,
    world: World,
    ca: String,
    program: PathBuf,
}

impl Scene {
    fn start() -> Self {
        let servers = OwnServers::start_with_tls("oauth");
        let world = World::on(servers.servers.clone(), "oauth", USER_LOGINS, 2);
        let ca = servers.variable("SERVERS_CA");
        let program = Path::new(&ca).with_file_name("sign");
        // Arguments: seconds that the token lives, its audience.
        let script = "#!/bin/sh\n\
             cd \"$(dirname \"$0\")\" && echo >> calls\n\
             coded() { openssl base64 -A | tr '+/' '-_' | tr -d =; }\n\
             now=$(date +%s)\n\
             head=$(printf '{\"alg\":\"RS256\",\"kid\":\"test\"}' | coded)\n\
             claims=$(printf '{\"sub\":\"app\",\"aud\":\"%s\",\"iat\":%s,\"exp\":%s}' \"$2\" $now $((now + $1)) | coded)\n\
             signature=$(printf %s \"$head.$claims\" | openssl dgst -sha256 -sign tokens.key | coded)\n\
             echo \"$head.$claims.$signature\"\n";
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { servers, world, ca, program }
    }

    /// How often a token was signed.
    fn calls(&self) -> usize {
        std::fs::read_to_string(self.program.with_file_name("calls")).map_or(0, |calls| calls.lines().count())
    }

    /// Logs in with what these lines of `[kafka]` give.
    fn log_in(&mut self, source: &str) {
        let lines = format!(
            "brokers = \"localhost:{}\"\n{source}\n[kafka.properties]\nsecurity.protocol = \"SASL_SSL\"\n\
             ssl.ca.location = \"{}\"\nsasl.mechanism = \"OAUTHBEARER\"\ndebug = \"security,protocol,eos\"",
            self.servers.variable("SERVERS_KAFKA_SASL_PORT"),
            self.ca
        );
        self.world.settings.insert("kafka", lines);
    }

    fn log_in_by_command(&mut self, life: u32, audience: &str) {
        let source = format!("sasl_password_command = [\"{}\", \"{life}\", \"{audience}\"]", self.program.display());
        self.log_in(&source);
    }

    fn log_in_by_server(&mut self, server: &TokenServer) {
        let source = format!(
            "oauth_token_url = \"{}\"\noauth_client_id = \"pg2ch\"\noauth_scope = \"kafka\"\n\
             oauth_client_secret_command = [\"/bin/echo\", \"hunter2 &=\"]",
            server.url
        );
        self.log_in(&source);
    }

    /// How often the broker has refused a token so far.
    fn refused_logins(&self) -> usize {
        let log = std::fs::read_to_string(self.servers.dir().join("kafka.log")).unwrap();
        log.matches("Failed authentication").count()
    }

    /// Runs once: it ends with `code` within `limit` seconds, and its messages have each of `says`.
    #[track_caller]
    fn ends(&self, code: i32, limit: u64, says: &[&str]) {
        let begun = Instant::now();
        let ended = self.world.run(&["--once"]).expect(code);
        assert!(begun.elapsed() < Duration::from_secs(limit), "{:?}: {}", begun.elapsed(), ended.stderr);
        for part in says {
            assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("hunter2") && !ended.stderr.contains("the brokers run"), "{}", ended.stderr);
    }
}

/// What a server of tokens does with a request.
#[derive(Clone)]
enum Does {
    /// Gives a token that lives so many seconds.
    Gives(u32),
    /// Answers with this status and body.
    Says(&'static str, &'static str),
    /// Does not answer for a while.
    Sleeps,
}

/// A server that gives out tokens.
struct TokenServer {
    url: String,
    does: Arc<Mutex<Does>>,
    asked: Arc<AtomicU32>,
}

impl TokenServer {
    fn start(program: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/oauth2/token", listener.local_addr().unwrap());
        let (does, asked) = (Arc::new(Mutex::new(Does::Gives(600))), Arc::<AtomicU32>::default());
        let (to_do, count, program) = (does.clone(), asked.clone(), program.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let mut client = client.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let request = request(&mut client);
                let answer = match to_do.lock().unwrap().clone() {
                    Does::Gives(life) => given(&request, &program, life),
                    Does::Says(status, body) => (status.to_owned(), body.to_owned()),
                    Does::Sleeps => {
                        std::thread::spawn(move || {
                            std::thread::sleep(Duration::from_secs(20));
                            drop(client);
                        });
                        continue;
                    }
                };
                let (status, body) = answer;
                let _ = write!(
                    client,
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                );
            }
        });
        Self { url, does, asked }
    }

    fn does(&self, what: Does) {
        *self.does.lock().unwrap() = what;
    }
}

/// Reads a request with its form.
fn request(client: &mut impl Read) -> String {
    let (mut text, mut piece) = (String::new(), [0; 4096]);
    while !text.contains("grant_type") {
        match client.read(&mut piece) {
            Ok(read @ 1..) => text.push_str(&String::from_utf8_lossy(&piece[..read])),
            _ => break,
        }
    }
    text
}

/// A token, for a request as the standard has it.
fn given(request: &str, program: &Path, life: u32) -> (String, String) {
    // `pg2ch` and `hunter2 &=`, each as a form has it.
    let login = openssl::base64::encode_block(b"pg2ch:hunter2%20%26%3D");
    let is_right = request.starts_with("POST /oauth2/token HTTP/1.1\r\n")
        && request.to_lowercase().contains(&format!("authorization: basic {}\r\n", login.to_lowercase()))
        && request.contains("grant_type=client_credentials&scope=kafka");
    if !is_right {
        return ("400 Bad Request".into(), "{\"error\":\"invalid_request\"}".into());
    }
    let printed = Command::new(program).args([&life.to_string(), "kafka"]).output().unwrap().stdout;
    let token = String::from_utf8(printed).unwrap();
    let answer = serde_json::json!({ "access_token": token.trim(), "token_type": "Bearer", "expires_in": life });
    ("200 OK".into(), answer.to_string())
}

#[test]
fn a_run_logs_in_with_tokens_from_either_source_and_outlives_them() {
    let mut scene = Scene::start();
    let server = TokenServer::start(&scene.program);
    both_sources(&mut scene, &server);
    every_command(&mut scene);
    topics_that_are_missing(&mut scene);
    a_smaller_limit_than_usual(&mut scene);
    refused(&mut scene, &server);
    longer_than_a_token(&mut scene, &server);
    a_source_that_fails_under_a_run(&mut scene, &server);
}

fn both_sources(scene: &mut Scene, server: &TokenServer) {
    scene.log_in_by_command(600, "kafka");
    scene.world.insert_rows(20);
    let ended = scene.world.run(&["--once", "--json", "-vv"]).expect(0);
    assert_eq!(ended.number("consume", "rows_inserted"), 20);
    assert!(!ended.stderr.contains("eyJ"), "a token begins so: {}", ended.stderr);
    assert_eq!(scene.calls(), 1, "all clients share a token");
    scene.log_in_by_server(server);
    scene.world.insert_rows(20);
    let ended = scene.world.run(&["--once", "--json", "-vv"]).expect(0);
    assert_eq!(ended.number("consume", "rows_inserted"), 20);
    assert!(!["eyJ", "hunter2"].iter().any(|secret| ended.stderr.contains(secret)), "{}", ended.stderr);
    assert_eq!(server.asked.load(Ordering::Relaxed), 1);
    assert_eq!(scene.world.once().expect(0).stderr, "", "cron sends what is printed");
    scene.world.assert_exactly_once();
}

fn every_command(scene: &mut Scene) {
    scene.log_in_by_command(600, "kafka");
    let report = check(&scene.world, 0);
    let found = report["findings"].as_array().unwrap();
    let hidden = found.iter().filter(|finding| finding["id"] == "settings-hidden").count();
    assert_eq!(hidden, 2, "the topic and that of the dead letters: {report:#}");
    for command in
        [&["status"][..], &["verify"], &["verify", "--deep"], &["dead-letters"], &["init"], &["init", "--print"]]
    {
        scene.world.run(command).expect(0);
    }
    scene.world.insert_rows(5);
    scene.world.run(&["produce"]).expect(0);
    scene.world.run(&["consume"]).expect(0);
    scene.world.assert_exactly_once();
}

fn topics_that_are_missing(scene: &mut Scene) {
    let other = format!("{}_other", scene.world.name);
    scene.world.settings.insert("[table]", format!("topic = \"{other}\""));
    let create = format!("--create --if-not-exists --topic {other}");
    let printed = scene.world.run(&["init", "--print"]).expect(0).stdout;
    assert!(printed.contains(&create), "{printed}");
    let refused = scene.world.run(&["init"]).expect(78).stderr;
    assert!(refused.contains(&create) && refused.contains(&format!("--topic {other}.dead")), "{refused}");
    scene.world.settings.remove("[table]");
}

fn a_smaller_limit_than_usual(scene: &mut Scene) {
    let mut world = World::on(scene.world.servers.clone(), "oauth_small", USER_LOGINS, 1);
    std::mem::swap(&mut world, &mut scene.world);
    scene.log_in_by_command(600, "kafka");
    scene.world.alter_topic("max.message.bytes", "20000");
    scene.world.insert_rows(500);
    scene.world.sql("UPDATE {t} SET payload = to_jsonb(repeat('x', 30000)) WHERE id = 2");
    let ended = scene.world.once().expect(65);
    assert!(ended.stderr.contains("max.message.bytes"), "{}", ended.stderr);
    assert_eq!(scene.world.unsent(), 1);
    // Larger than what brokers take by default, into a topic that takes it.
    scene.world.alter_topic("max.message.bytes", "4000000");
    scene.world.sql("UPDATE {t} SET payload = to_jsonb(repeat('x', 2000000)) WHERE id = 2");
    scene.world.once().expect(0);
    scene.world.assert_exactly_once();
    std::mem::swap(&mut world, &mut scene.world);
}

fn refused(scene: &mut Scene, server: &TokenServer) {
    scene.world.insert_rows(1);
    scene.world.settings.insert("retry", "attempts = 1".into());
    scene.log_in_by_command(600, "another");
    scene.ends(77, 20, &["uthentication", "the token's issuer, audience and scope"]);
    scene.log_in_by_command(0, "kafka");
    scene.ends(77, 20, &["the token has expired", "clock"]);
    scene.log_in("sasl_password_command = [\"/bin/false\"]");
    scene.ends(69, 20, &["/bin/false: it ended with exit status: 1"]);
    scene.log_in("sasl_password_command = [\"/bin/echo\", \"hunter2 hunter2\"]");
    scene.ends(78, 20, &["the token for Kafka from the command /bin/echo", "not a token"]);

    scene.log_in_by_server(server);
    let page = "<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><p>long</p></body></html>";
    for (does, code, says) in [
        (
            Does::Says("401 Unauthorized", "{\"error\":\"invalid_client\",\"error_description\":\"wrong\"}"),
            77,
            "invalid_client wrong",
        ),
        (Does::Says("200 OK", page), 78, "a web page, titled \"Sign in\""),
        (Does::Says("200 OK", "garbage of many words"), 78, "not a token"),
        (Does::Says("200 OK", "{\"token\":\"x\"}"), 78, "without `access_token`"),
        (Does::Says("400 Bad Request", "{\"error\":\"invalid_scope\"}"), 78, "oauth_scope"),
        (Does::Says("302 Found", ""), 78, "status 302"),
        (Does::Says("503 Service Unavailable", page), 69, "titled \"Sign in\""),
        (Does::Sleeps, 69, "timeout"),
    ] {
        server.does(does);
        scene.ends(code, 20, &["cannot get a token for Kafka from http://127.0.0.1", says]);
    }
    let ended = scene.world.run(&["check"]).expect(69);
    assert!(ended.stdout.contains("cannot get a token for Kafka"), "{}", ended.stdout);
    server.does(Does::Gives(600));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    scene.log_in_by_server(&TokenServer {
        url: format!("http://{closed}/"),
        does: server.does.clone(),
        asked: server.asked.clone(),
    });
    scene.ends(69, 20, &["cannot get a token for Kafka", "the token server runs"]);
    scene.world.settings.remove("retry");
    scene.log_in_by_server(server);
    scene.world.once().expect(0);
}

/// Waits for longer than a token lives.
fn happens(mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    false
}

/// The broker ends what is not logged in anew in time; nothing of it is seen.
fn longer_than_a_token(scene: &mut Scene, server: &TokenServer) {
    let (refused, calls) = (scene.refused_logins(), scene.calls());
    assert!(refused > 0, "those of before");
    scene.log_in_by_command(SHORT, "kafka");
    // The clients of the second leg are idle for three lives of a token.
    scene.world.settings.insert("[table]", "max_rows_per_second = 20".into());
    scene.world.insert_rows(20 * 3 * i64::from(SHORT));
    let begun = Instant::now();
    scene.world.once().expect(0);
    assert!(begun.elapsed() > Duration::from_secs(u64::from(2 * SHORT)), "{:?}", begun.elapsed());
    scene.world.settings.remove("[table]");
    assert!(scene.calls() >= calls + 3, "{} calls", scene.calls() - calls);
    scene.world.assert_exactly_once();

    server.does(Does::Gives(SHORT));
    scene.log_in_by_server(server);
    // Its connections are idle for longer than a token lives, and used by the next run.
    let run = scene.world.start(&["--every", "12s"]);
    for _ in 0..3 {
        let rows = scene.world.ch_number("SELECT count() FROM {t}");
        scene.world.insert_rows(10);
        if !happens(|| scene.world.ch_number("SELECT count() FROM {t}") == rows + 10) {
            signal("TERM", &run);
            panic!("the rows have not come: {:?}", Ended::after(run));
        }
    }
    signal("TERM", &run);
    let ended = Ended::of(&run.wait_with_output().unwrap()).expect(0);
    assert!(!ended.stderr.contains("error") && !ended.stderr.contains("warn"), "{}", ended.stderr);
    scene.world.once().expect(0);
    scene.world.assert_exactly_once();
    // A client is refused every second while it has no new token. On a busy machine it may get that some seconds late.
    assert!(scene.refused_logins() < refused + 20, "{}", scene.refused_logins() - refused);
}

fn a_source_that_fails_under_a_run(scene: &mut Scene, server: &TokenServer) {
    server.does(Does::Gives(SHORT));
    scene.log_in_by_server(server);
    scene.world.settings.insert("[table]", "max_rows_per_second = 20".into());
    scene.world.settings.insert("timeouts", "kafka = \"5s\"\ngive_up = \"10s\"".into());
    scene.world.insert_rows(20 * 5 * i64::from(SHORT));
    let run = scene.world.start(&["--once"]);
    let begun = scene.world.unsent();
    scene.world.wait_until(|world| world.unsent() < begun, "the first rows to be sent");
    server.does(Does::Says("500 Internal Server Error", ""));
    let failed = Instant::now();
    let ended = Ended::after(run).expect(69);
    assert!(failed.elapsed() < Duration::from_secs(u64::from(SHORT) + 30), "{:?}", failed.elapsed());
    for says in ["cannot get a token for Kafka from", "status 500", "the present token is still good"] {
        assert!(ended.stderr.contains(says), "{says:?} is not in {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("the brokers run"), "{}", ended.stderr);
    server.does(Does::Gives(600));
    scene.world.settings.remove("[table]");
    scene.world.once().expect(0);
    scene.world.assert_exactly_once();
}

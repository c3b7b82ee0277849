//! TLS and SASL to all three servers: what must be accepted is, and what must be refused is, with a reason.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::servers::OwnServers;
use crate::common::{Ended, USER_LOGINS, World};
use serde_json::Value;

/// A name of this machine that stands in no certificate.
const OTHER_NAME: &str = "127.1";

/// The servers, and the certificates that the cases use.
struct Scene {
    servers: OwnServers,
    world: World,
    ca: String,
    /// An authority that has signed nothing here.
    stranger: PathBuf,
}

impl Scene {
    fn start() -> Self {
        let servers = OwnServers::start_with_tls("tls");
        let world = World::on(servers.servers.clone(), "tls", USER_LOGINS, 1);
        let ca = servers.variable("SERVERS_CA");
        let stranger = Path::new(&ca).with_file_name("stranger.crt");
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=stranger", "-keyout", "/dev/null", "-out"])
            .arg(&stranger)
            .output()
            .unwrap();
        assert!(made.status.success());
        Self { servers, world, ca, stranger }
    }

    fn stranger(&self) -> String {
        self.stranger.display().to_string()
    }

    fn beside_ca(&self, name: &str) -> String {
        Path::new(&self.ca).with_file_name(name).display().to_string()
    }

    /// Checks with a section changed: the exit code and the reason why `server` could not be asked, if it could not.
    fn refused(&mut self, server: &str, section: &'static str, lines: &str) -> Option<(i32, String)> {
        self.world.settings.insert(section, lines.to_owned());
        let started = Instant::now();
        let ended = self.world.run(&["check", "--json"]);
        self.world.settings.remove(section);
        // The default limits are longer: what a person has to mend is not waited for.
        assert!(started.elapsed() < Duration::from_secs(10), "{lines}: {:?}", started.elapsed());
        let report: Value = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{lines}: {}", ended.stderr));
        let errors = report["tables"][0]["errors"].as_array().unwrap().clone();
        let error = errors.iter().find(|error| error["what"].as_str().unwrap().contains(server))?;
        assert!(!error["hint"].as_str().unwrap().is_empty(), "{error}");
        Some((ended.code, format!("{}: {}", error["what"].as_str().unwrap(), error["why"].as_str().unwrap())))
    }

    #[track_caller]
    fn assert_accepted(&mut self, server: &str, section: &'static str, lines: &str) {
        assert_eq!(self.refused(server, section, lines), None, "{lines}");
    }

    #[track_caller]
    fn assert_refused(&mut self, code: i32, server: &str, section: &'static str, lines: &str, reason: &str) {
        let (ended, why) = self.refused(server, section, lines).unwrap_or_else(|| panic!("accepted: {lines}"));
        assert_eq!(ended, code, "{lines}: {why}");
        assert!(why.to_lowercase().contains(reason), "{lines}: {why}");
    }
}

#[test]
fn what_must_be_refused_is_and_what_must_be_accepted_is() {
    let mut scene = Scene::start();
    postgres(&mut scene);
    kafka(&mut scene);
    clickhouse(&mut scene);
    everything_encrypted(&mut scene);
    the_systems_authorities(&mut scene);
}

fn postgres(scene: &mut Scene) {
    let (ca, stranger) = (scene.ca.clone(), scene.stranger());
    let port = scene.servers.variable("SERVERS_POSTGRES_PORT");
    let url = |host: &str, rest: &str| format!("url = \"postgres://app:app@{host}:{port}/app?{rest}\"");
    for accepted in [
        url("localhost", "sslmode=disable"),
        url("localhost", "sslmode=prefer"),
        url("localhost", "sslmode=require"),
        url(OTHER_NAME, "sslmode=require"),
        url("localhost", &format!("sslmode=require&sslrootcert={ca}")),
        url("localhost", &format!("sslmode=verify-ca&sslrootcert={ca}")),
        url(OTHER_NAME, &format!("sslmode=verify-ca&sslrootcert={ca}")),
        url("localhost", &format!("sslmode=verify-full&sslrootcert={ca}")),
        url("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={ca}")),
    ] {
        scene.assert_accepted("PostgreSQL", "postgres", &accepted);
    }
    for refused in [
        url("localhost", &format!("sslmode=require&sslrootcert={stranger}")),
        url("localhost", &format!("sslmode=verify-ca&sslrootcert={stranger}")),
        url("localhost", &format!("sslmode=verify-full&sslrootcert={stranger}")),
        url("localhost", "sslmode=verify-full"),
        url(OTHER_NAME, &format!("sslmode=verify-full&sslrootcert={ca}")),
        // Off this machine's own name the default is verify-full, and the system knows no such authority.
        url(OTHER_NAME, ""),
    ] {
        scene.assert_refused(78, "PostgreSQL", "postgres", &refused, "certificate verify failed");
    }
    let without_password = url("localhost", "sslmode=disable").replace("app:app@", "app@");
    scene.assert_refused(77, "PostgreSQL", "postgres", &without_password, "password");
    let wrong_password = url("localhost", "sslmode=require").replace("app:app@", "app:wrong@");
    scene.assert_refused(77, "PostgreSQL", "postgres", &wrong_password, "password");
}

fn kafka(scene: &mut Scene) {
    let (ca, stranger) = (scene.ca.clone(), scene.stranger());
    let (certificate, key) = (scene.beside_ca("server.crt"), scene.beside_ca("server.key"));
    let (ssl, sasl) =
        (scene.servers.variable("SERVERS_KAFKA_SSL_PORT"), scene.servers.variable("SERVERS_KAFKA_SASL_PORT"));
    let at = |host: &str, port: &str, properties: String| {
        format!("brokers = \"{host}:{port}\"\n[kafka.properties]\n{properties}")
    };
    let with_certificate = |ca: &str| {
        format!(
            "security.protocol = \"SSL\"\nssl.ca.location = \"{ca}\"\nssl.certificate.location = \"{certificate}\"\n\
             ssl.key.location = \"{key}\""
        )
    };
    let without = format!("security.protocol = \"SSL\"\nssl.ca.location = \"{ca}\"");
    let login = |mechanism: &str, password: &str| {
        format!(
            "security.protocol = \"SASL_SSL\"\nssl.ca.location = \"{ca}\"\nsasl.mechanism = \"{mechanism}\"\n\
             sasl.username = \"app\"\nsasl.password = \"{password}\""
        )
    };
    scene.assert_accepted("topic", "kafka", &at("localhost", &ssl, with_certificate(&ca)));
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        scene.assert_accepted("topic", "kafka", &at("localhost", &sasl, login(mechanism, "app")));
        scene.assert_refused(
            77,
            "topic",
            "kafka",
            &at("localhost", &sasl, login(mechanism, "wrong")),
            "authentication failed",
        );
    }
    // A command that prints it.
    let printed = |password: &str| {
        let login = login("SCRAM-SHA-256", "").replace("\nsasl.password = \"\"", "");
        let command = format!("sasl_password_command = [\"/bin/echo\", \"{password}\"]");
        at("localhost", &sasl, login).replace("\n[kafka.properties]", &format!("\n{command}\n[kafka.properties]"))
    };
    scene.assert_accepted("topic", "kafka", &printed("app"));
    scene.assert_refused(77, "topic", "kafka", &printed("wrong"), "authentication failed");
    // Whatever librdkafka is told to tell, and whether the broker takes the password (the first) or not.
    for (user, mechanism, code) in [("careful", "PLAIN", 0), ("app", "PLAIN", 77), ("app", "SCRAM-SHA-512", 77)] {
        let properties = login(mechanism, "hunter2-is-secret").replace("\"app\"", &format!("\"{user}\""));
        scene.world.settings.insert("kafka", at("localhost", &sasl, format!("{properties}\ndebug = \"all\"")));
        let ended = scene.world.run(&["--once", "-vv", "--json"]).expect(code);
        assert!(ended.stderr.contains("SaslHandshake") || ended.stderr.contains("SASL"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("hunter2") && !ended.stdout.contains("hunter2"), "{mechanism}");
        scene.world.settings.remove("kafka");
    }
    scene.assert_refused(78, "topic", "kafka", &at("localhost", &ssl, with_certificate(&stranger)), "certificate");
    scene.assert_refused(78, "topic", "kafka", &at("localhost", &ssl, without), "certificate");
    scene.assert_refused(78, "topic", "kafka", &at(OTHER_NAME, &ssl, with_certificate(&ca)), "certificate");
}

fn clickhouse(scene: &mut Scene) {
    let (ca, stranger) = (scene.ca.clone(), scene.stranger());
    let port = scene.servers.variable("SERVERS_CLICKHOUSE_HTTPS_PORT");
    let url = |host: &str, ca: Option<&str>| {
        let ca = ca.map_or_else(String::new, |ca| format!("\nca_cert = \"{ca}\""));
        format!("url = \"https://app:app@{host}:{port}\"{ca}")
    };
    scene.assert_accepted("ClickHouse", "clickhouse", &url("localhost", Some(&ca)));
    scene.assert_refused(78, "ClickHouse", "clickhouse", &url("localhost", None), "certificate");
    scene.assert_refused(78, "ClickHouse", "clickhouse", &url("localhost", Some(&stranger)), "certificate");
    scene.assert_refused(78, "ClickHouse", "clickhouse", &url(OTHER_NAME, Some(&ca)), "certificate");
}

fn everything_encrypted(scene: &mut Scene) {
    let ca = scene.ca.clone();
    let port = |name: &str| scene.servers.variable(&format!("SERVERS_{name}_PORT"));
    let (postgres, sasl, https) = (port("POSTGRES"), port("KAFKA_SASL"), port("CLICKHOUSE_HTTPS"));
    let world = &mut scene.world;
    world.settings.insert(
        "postgres",
        format!("url = \"postgres://app:app@localhost:{postgres}/app?sslmode=verify-full&sslrootcert={ca}\""),
    );
    world.settings.insert(
        "kafka",
        format!(
            "brokers = \"localhost:{sasl}\"\n[kafka.properties]\nsecurity.protocol = \"SASL_SSL\"\nssl.ca.location = \"{ca}\"\n\
             sasl.mechanism = \"SCRAM-SHA-512\"\nsasl.username = \"app\"\nsasl.password = \"app\""
        ),
    );
    world.settings.insert("clickhouse", format!("url = \"https://app:app@localhost:{https}\"\nca_cert = \"{ca}\""));
    world.insert_rows(1000);
    world.once().expect(0);
    world.assert_exactly_once();
}

/// What the system trusts is trusted by the clients of all three servers alike, where the configuration names no authority.
fn the_systems_authorities(scene: &mut Scene) {
    let (ca, stranger) = (scene.ca.clone(), scene.stranger());
    for lines in scene.world.settings.values_mut() {
        for named in
            [format!("&sslrootcert={ca}"), format!("ssl.ca.location = \"{ca}\"\n"), format!("ca_cert = \"{ca}\"")]
        {
            *lines = lines.replace(&named, "");
        }
    }
    scene.world.insert_rows(10);
    let trusting = |world: &World, authorities: &str, args: &[&str]| {
        Ended::of(&world.command(args).env("SSL_CERT_FILE", authorities).output().unwrap())
    };
    trusting(&scene.world, &ca, &["--once", "--json"]).expect(0);
    scene.world.assert_exactly_once();
    let report: Value = serde_json::from_str(&trusting(&scene.world, &stranger, &["check", "--json"]).stdout).unwrap();
    let errors = report["tables"][0]["errors"].to_string();
    for server in ["PostgreSQL", "topic", "ClickHouse"] {
        assert!(errors.contains(server), "{errors}");
    }
    // An authority that is named is the only one.
    let postgres = &scene.world.settings["postgres"];
    let named = postgres.replace("verify-full", &format!("verify-full&sslrootcert={stranger}"));
    scene.world.settings.insert("postgres", named);
    let ended = trusting(&scene.world, &ca, &["--once"]).expect(78);
    assert!(ended.stderr.contains("certificate verify failed"), "{}", ended.stderr);
}

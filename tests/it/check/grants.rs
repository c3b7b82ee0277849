//! What `docs/grants.md` grants is enough for the whole life of a table, and nothing of it can be left out unseen: `check` or
//! the run that needs it names the statement that is missing, and nothing is lost meanwhile.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use crate::common::findings::{assert_found, assert_gone, carry_out, check, finding};
use crate::common::servers::{OwnServers, Servers};
use crate::common::{Ended, USER_LOGINS, World};

/// The statements of a section of the document, with this world's names.
fn published(world: &World, section: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/grants.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (_, rest) = document.split_once(&format!("\n## {section}\n")).unwrap();
    let statements = rest.split("```").nth(1).unwrap().split_once('\n').unwrap().1;
    let named = statements.replace("user_logins", &world.name).replace('…', "secret");
    named.replace("localhost:9092", &world.servers.brokers)
}

/// The statements of a section that begin so, without their comments.
fn statements(world: &World, section: &str, begin: &str) -> Vec<String> {
    let text = published(world, section);
    let lines = text.lines().map(|line| line.split(" -- ").next().unwrap().trim().to_owned());
    lines.filter(|line| line.starts_with(begin)).collect()
}

/// Servers of the test's own, whose users are as limited as the document has them.
struct Scene {
    servers: OwnServers,
    world: World,
}

impl Scene {
    /// A table made by its owner; then everything is granted, and the world goes on as the user who was granted it.
    fn start() -> Self {
        let servers = OwnServers::start_with_tls("grants");
        let mut world = World::unmade(servers.servers.clone(), "grants", USER_LOGINS, 1);
        world.settings.insert("[table]", "group = \"pg2ch\"".into());
        world.run(&["init"]).expect(0);
        let mut owner = world.superuser();
        owner.batch_execute("REVOKE ALL ON DATABASE app FROM PUBLIC; REVOKE ALL ON SCHEMA public FROM PUBLIC").unwrap();
        owner.batch_execute(&published(&world, "PostgreSQL")).unwrap();
        let scene = Self { servers, world };
        scene.shell(&published(&scene.world, "Kafka"));
        limit_clickhouse(&scene.servers, &statements(&scene.world, "ClickHouse", "GRANT"));
        scene.become_the_user()
    }

    fn become_the_user(mut self) -> Self {
        let url = self.world.servers.postgres_url.replace("app:app@", "pg2ch:secret@");
        self.world.settings.insert("postgres", format!("url = \"{url}\""));
        let (port, ca) = (self.servers.variable("SERVERS_KAFKA_SASL_PORT"), self.servers.variable("SERVERS_CA"));
        let kafka = format!(
            "brokers = \"localhost:{port}\"\n[kafka.properties]\nsecurity.protocol = \"SASL_SSL\"\nssl.ca.location = \"{ca}\"\n\
             sasl.mechanism = \"SCRAM-SHA-512\"\nsasl.username = \"pg2ch\"\nsasl.password = \"pg2ch\""
        );
        self.world.settings.insert("kafka", kafka);
        self
    }

    /// Runs Kafka's own commands, as its administrator: by the way in that asks for no password.
    fn shell(&self, script: &str) {
        let path = format!("{}:{}", self.servers.dir().join("bin").display(), std::env::var("PATH").unwrap());
        let limited = format!("localhost:{}", self.servers.variable("SERVERS_KAFKA_SASL_PORT"));
        let script = script.replace(&limited, &self.world.servers.brokers);
        let ended = Ended::of(&Command::new("sh").args(["-ec", &script]).env("PATH", path).output().unwrap());
        assert_eq!(ended.code, 0, "{script}: {ended:?}");
    }

    /// Takes operations on resources away from the user.
    fn revoke(&self, operation: &str, resources: &str) {
        let brokers = &self.world.servers.brokers;
        self.shell(&format!(
            "kafka-acls.sh --bootstrap-server {brokers} --remove --force --allow-principal User:pg2ch --operation {operation} \
             {resources}"
        ));
    }

    /// What `check` proposes for `id` gives back what was taken away.
    fn mend(&self, id: &str, code: i32) {
        let found = assert_found(&self.world, id, code);
        self.shell(found["fix"].as_str().unwrap());
        assert_gone(&self.world, id);
    }

    /// A run is refused with 77, and what its hint proposes gives back what was taken away.
    #[track_caller]
    fn mend_by_hint(&self, args: &[&str]) {
        let ended = self.world.run(args).expect(77);
        let hint = ended.stderr.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap();
        let command = hint.find("kafka-acls.sh").map(|at| &hint[at..]);
        self.shell(command.unwrap_or_else(|| panic!("no command in {hint}")));
    }
}

/// ClickHouse's engine, which runs in the test server as one user, starts again with just these privileges of it.
fn limit_clickhouse(servers: &OwnServers, grants: &[String]) {
    let queries = grants.iter().map(|grant| format!("<query>{}</query>", grant.split(" TO ").next().unwrap()));
    restart_clickhouse(servers, &format!("<grants>{}</grants>", queries.collect::<String>()));
}

/// Starts it again with this in the definition of the user.
fn restart_clickhouse(servers: &OwnServers, of_user: &str) {
    let users = format!(
        "<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default><password/><networks>\
         <ip>::/0</ip></networks><profile>default</profile><quota>default</quota>{of_user}</default></users></clickhouse>\n"
    );
    servers.act("stop", "clickhouse");
    std::fs::write(servers.dir().join("clickhouse-users.xml"), users).unwrap();
    servers.act("start", "clickhouse");
}

#[test]
fn the_published_privileges_are_enough_and_each_of_postgresqls_and_kafkas_is_missed() {
    let mut scene = Scene::start();
    a_whole_life(&mut scene.world);
    each_acl_is_missed(&mut scene);
    each_grant_of_postgresql_is_missed(&mut scene.world);
    scene.world.once().expect(0);
    a_row_policy_is_refused(&mut scene);
    scene.world.assert_sent_exactly_once();
}

/// Rows that it hides would be inserted again.
fn a_row_policy_is_refused(scene: &mut Scene) {
    let name = scene.world.name.clone();
    let filtered = |filter: &str| {
        format!("<databases><analytics><{name}><filter>{filter}</filter></{name}></analytics></databases>")
    };
    restart_clickhouse(&scene.servers, &filtered("id % 2 = 0"));
    assert_found(&scene.world, "row-policy", 78);
    scene.world.insert_rows(10);
    scene.world.crash_at("clickhouse.insert.after", &["--once"]);
    let refused = scene.world.once().expect(78).stderr;
    assert!(refused.contains("only rows with") && refused.contains("CREATE ROW POLICY pg2ch ON"), "{refused}");
    // What the server makes of both policies.
    restart_clickhouse(&scene.servers, &filtered("(id % 2 = 0) OR 1"));
    assert_gone(&scene.world, "row-policy");
    assert_eq!(scene.world.once().expect(0).number("consume", "rows_held"), 10);
}

/// Rows, dead letters and their replay, a window to recover, an insert to recognise; every command.
fn a_whole_life(world: &mut World) {
    let report = check(world, 0);
    let grave = report["findings"].as_array().unwrap().iter().find(|finding| finding["severity"] != "note");
    assert_eq!(grave, None);
    world.insert_rows(20);
    world.once().expect(0);
    refuse_a_row(world);
    world.once().expect(65);
    // Comparing a window with the table takes a temporary table.
    world.insert_rows(20);
    world.crash_at("kafka.commit.after", &["produce"]);
    world.once().expect(0);
    world.insert_rows(20);
    world.crash_at("clickhouse.insert.after", &["--once"]);
    world.once().expect(0);
    for (command, code) in [
        (&["status"][..], 0),
        (&["check"], 0),
        (&["dead-letters"], 65),
        (&["dead-letters", "replay"], 65),
        (&["verify"], 65),
        (&["verify", "--deep", "--repair", "--confirm"], 65),
        (&["consume"], 0),
    ] {
        let Ended { stdout, stderr, .. } = world.run(command).expect(code);
        assert!(!stderr.contains("denied") && !stdout.contains("not known"), "{command:?}: {stdout}\n{stderr}");
    }
    assert!(world.run(&["status"]).stdout.contains("last run"), "the history of runs is written and read");
    world.sql("DELETE FROM {t} WHERE event_time = 'infinity'");
}

/// No DateTime64 holds this.
fn refuse_a_row(world: &mut World) {
    world.sql("INSERT INTO {t} (user_id, event_type, event_time) VALUES (1, 'login', 'infinity')");
}

fn each_acl_is_missed(scene: &mut Scene) {
    let name = scene.world.name.clone();
    let (topic, dead) = (format!("--topic {name}"), format!("--topic {name}.dead"));
    let transactions = "--transactional-id pg2ch- --resource-pattern-type prefixed";

    // With Kafka's own authorizer this one comes with the others.
    scene.revoke("Describe", &format!("{topic} {dead} --group pg2ch"));
    scene.revoke("Describe", transactions);
    check(&scene.world, 0);
    scene.world.insert_rows(2);
    scene.world.once().expect(0);

    scene.revoke("DescribeConfigs", &format!("{topic} {dead}"));
    scene.world.insert_rows(2);
    scene.world.once().expect(0);
    let report = check(&scene.world, 0);
    let hidden = report["findings"].as_array().unwrap().iter().filter(|found| found["id"] == "settings-hidden");
    let fixes: Vec<&str> = hidden.map(|found| found["fix"].as_str().unwrap()).collect();
    assert_eq!(fixes.len(), 2, "{fixes:?}");
    scene.shell(&fixes.join("\n"));
    assert_gone(&scene.world, "settings-hidden");

    // What can be asked for, `check` tells.
    scene.revoke("Read", &topic);
    scene.world.insert_rows(2);
    scene.world.once().expect(77);
    scene.mend("acl-missing", 78);
    scene.revoke("Read", &dead);
    scene.world.insert_rows(2);
    scene.world.once().expect(0);
    scene.world.run(&["dead-letters"]).expect(77);
    scene.mend("acl-missing", 78);
    scene.revoke("Write", transactions);
    scene.world.insert_rows(2);
    scene.world.once().expect(77);
    scene.mend("acl-missing", 78);

    scene.revoke("Read", "--group pg2ch");
    scene.world.run(&["produce"]).expect(0);
    scene.world.insert_rows(2);
    scene.world.once().expect(77);
    scene.mend("acl-missing", 78);

    // The rest is found out by who does it.
    scene.revoke("Write", &topic);
    scene.world.insert_rows(2);
    scene.mend_by_hint(&["--once"]);
    scene.revoke("Read", "--group pg2ch");
    scene.mend_by_hint(&["--once"]);
    scene.world.once().expect(0);
    scene.revoke("Write", &dead);
    refuse_a_row(&mut scene.world);
    scene.world.insert_rows(2);
    scene.mend_by_hint(&["--once"]);
    scene.world.once().expect(65);
    assert_eq!(scene.world.topic_named(&format!("{name}.dead")).len(), 2);
    scene.world.sql("DELETE FROM {t} WHERE event_time = 'infinity'");
    assert!(finding(&check(&scene.world, 0), "acl-missing").is_none());
}

fn each_grant_of_postgresql_is_missed(world: &mut World) {
    let statements = statements(world, "PostgreSQL", "GRANT");
    let mut seen = 0;
    for statement in &statements {
        let (privileges, rest) = statement["GRANT ".len()..].split_once(" ON ").unwrap();
        for privilege in privileges.split(", ") {
            let rest = rest.replace(" TO ", " FROM ");
            world.superuser().batch_execute(&format!("REVOKE {privilege} ON {rest}")).unwrap();
            seen += 1;
            if rest.starts_with("pg2ch_runs") {
                world.insert_rows(2);
                world.once().expect(0);
                mended(world, "runs-grant-missing", 0);
                continue;
            }
            world.insert_rows(2);
            if privilege == "TEMPORARY" {
                // What a dead run has sent is compared by means of a temporary table.
                world.crash_at("kafka.commit.after", &["produce"]);
            }
            let ended = world.run(&["--once"]).expect(77);
            if privilege == "CONNECT" {
                let grant = "hint: grant the role this: GRANT CONNECT ON DATABASE \"app\" TO \"pg2ch\";";
                assert!(ended.stderr.contains(grant), "{}", ended.stderr);
                assert!(world.run(&["check"]).expect(77).stdout.contains(grant));
                world.superuser().batch_execute(statement).unwrap();
            } else {
                assert!(
                    ended.stderr.contains("hint: run `pg2ch check`: if a run lacks a GRANT"),
                    "{privilege}: {}",
                    ended.stderr
                );
                mended(world, "grant-missing", 78);
            }
            world.once().expect(0);
        }
    }
    assert_eq!(seen, 15, "{statements:?}");
}

fn mended(world: &World, id: &str, code: i32) {
    carry_out(world, &assert_found(world, id, code));
    assert_gone(world, id);
}

#[test]
fn each_of_clickhouses_published_privileges_is_missed() {
    let own = OwnServers::start_only("grants_clickhouse", "clickhouse");
    let servers = Servers { clickhouse_url: own.servers.clickhouse_url.clone(), ..Servers::shared() };
    let mut world = World::on(servers, "grants_ch", USER_LOGINS, 1);
    let all = statements(&world, "ClickHouse", "GRANT");
    for privilege in ["SELECT", "INSERT"] {
        // A run that has died while it inserted leaves something to ask.
        world.insert_rows(3);
        world.crash_at("clickhouse.insert.after", &["--once"]);
        world.insert_rows(3);
        let other = if privilege == "SELECT" { "INSERT" } else { "SELECT" };
        let left: Vec<String> = all.iter().map(|grant| grant.replace("SELECT, INSERT", other)).collect();
        assert_ne!(left, all);
        limit_clickhouse(&own, &left);

        let ended = world.run(&["--once"]).expect(77);
        assert!(ended.stderr.contains("hint: `pg2ch check` prints the GRANT"), "{privilege}: {}", ended.stderr);
        let fix = assert_found(&world, "grant-missing", 78)["fix"].as_str().unwrap().replace('`', "");
        assert_eq!(fix, format!("GRANT {privilege} ON analytics.{} TO app;", world.name));

        limit_clickhouse(&own, &all);
        assert_gone(&world, "grant-missing");
        world.once().expect(0);
        world.assert_exactly_once();
    }
    // Whether a name is free for the old table of a migration is not to be seen.
    world.sql("CREATE UNIQUE INDEX ON {t} (id, user_id)");
    world.settings.insert("[table]", "key = [\"id\", \"user_id\"]".into());
    let fix = assert_found(&world, "sorting-key", 78)["fix"].as_str().unwrap().to_owned();
    assert!(fix.starts_with(&format!("-- Run EXISTS TABLE `analytics`.`{}_old` first", world.name)), "{fix}");
    world.settings.remove("[table]");
    // This engine lets everybody read system.processes: what a stand-in asks instead it does refuse.
    world.settings.insert("clickhouse", format!("url = \"{}\"", asking_otherwise(&world.servers.clickhouse_url)));
    let found = assert_found(&world, "grant-missing", 78);
    assert_eq!(found["fix"], "GRANT SELECT ON system.processes TO `app`;");
    assert!(all.iter().any(|grant| grant == "GRANT SELECT ON system.processes TO pg2ch;"), "{all:?}");
}

/// In front of a ClickHouse: who asks for system.processes is answered as for a table that takes a privilege.
fn asking_otherwise(url: &str) -> String {
    let upstream = url.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    let listener = TcpListener::bind("localhost:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", upstream)).unwrap());
            let (mut answers, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut answers, &mut to_client));
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(count @ 1..) = client.read(&mut buffer) {
                    let text =
                        String::from_utf8_lossy(&buffer[..count]).replace("system.processes", "system.users    ");
                    if server.write_all(text.as_bytes()).is_err() {
                        break;
                    }
                }
            });
        }
    });
    url.replace(&upstream.to_string(), &port.to_string())
}

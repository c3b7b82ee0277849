//! A run spares PostgreSQL: `max_rows_per_second`, `pause_percent`, `max_replication_lag`. While it pauses, nothing is held.

use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};

use crate::common::findings::{assert_found, assert_gone, carry_out};
use crate::common::pooler::port_of;
use crate::common::servers::{OwnServers, Servers};
use crate::common::{Ended, USER_LOGINS, World, signal};

fn gentle(name: &str, order: &str) -> World {
    let mut world = World::new(name);
    world.settings.insert("[table]", format!("max_rows_per_second = 100\n{order}"));
    world.insert_rows(250);
    world
}

/// Batches of 100, 100 and 50 rows, with two pauses at least.
fn assert_paused(ended: &Ended, begun: Instant) {
    assert!(begun.elapsed() > Duration::from_millis(1_900), "{:?}", begun.elapsed());
    let report = &ended.report()["produce"];
    assert_eq!((&report["records_sent"], &report["complete"]), (&250.into(), &true.into()), "{report}");
    assert!(report["paused_seconds"].as_f64().unwrap() > 1.0, "{report}");
}

#[test]
fn a_run_reads_no_more_rows_in_a_second_than_it_may() {
    let mut world = gentle("gentle", "");
    let begun = Instant::now();
    assert_paused(&world.once().expect(0), begun);
    world.assert_exactly_once();
    world.insert_rows(150);
    let told = world.run(&["produce", "-v"]).expect(0);
    assert!(told.stderr.contains(", paused 1."), "{told:?}");
}

#[test]
fn a_pause_ends_at_a_signal() {
    let mut world = World::new("gentle_signal");
    world.settings.insert("[table]", "max_rows_per_second = 1".into());
    world.insert_rows(3);
    let run = world.start(&["produce", "--json"]);
    world.wait_until(|world| world.unsent() == 2, "the first row to be flagged");
    let begun = Instant::now();
    signal("TERM", &run);
    let ended = Ended::after(run).expect(0);
    assert!(begun.elapsed() < Duration::from_millis(900), "{:?}", begun.elapsed());
    assert_eq!(ended.report()["produce"]["complete"], false);
}

#[test]
fn while_a_run_pauses_no_pass_is_open_and_nothing_is_unflagged_that_was_sent() {
    let mut world = gentle("gentle_passes", "order_by = \"user_id\"");
    let begun = Instant::now();
    let run = world.start(&["--once", "--json"]);
    let (mut looker, name) = (world.another_session(), world.name.clone());
    let open = format!(
        "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
         WHERE l.relation = '{name}'::regclass AND a.state = 'idle in transaction' AND now() - a.state_change > '100ms'"
    );
    let mut samples = Vec::new();
    while begun.elapsed() < Duration::from_millis(1_800) {
        samples.push(looker.query_one(&open, &[]).unwrap().get::<_, i64>(0));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_paused(&Ended::after(run), begun);
    world.assert_exactly_once();
    let with_a_pass = samples.iter().filter(|&&open| open > 0).count();
    assert!(with_a_pass * 4 < samples.len(), "{with_a_pass} of {}", samples.len());
}

#[test]
fn a_table_that_is_written_meanwhile_is_read_to_its_end_all_the_same() {
    let mut world = gentle("gentle_written", "order_by = \"user_id\"");
    let run = world.start(&["--once", "--json"]);
    for _ in 0..20 {
        world.insert_rows(1);
        std::thread::sleep(Duration::from_millis(100));
    }
    let report = Ended::after(run).expect(0).report();
    assert_eq!(report["produce"]["complete"], true, "{report}");
}

#[test]
fn the_longer_postgresql_takes_the_longer_is_the_pause() {
    let mut world = World::new("gentle_slow");
    world.batch_rows(100);
    world.settings.insert("postgres", "pause_percent = 200".into());
    let name = world.name.clone();
    world
        .pg
        .batch_execute(&format!(
            "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END';
             CREATE TRIGGER slow BEFORE UPDATE ON {name} FOR EACH ROW EXECUTE FUNCTION {name}()"
        ))
        .unwrap();
    world.insert_rows(300);
    let report = world.run(&["produce", "--json"]).expect(0).report()["produce"].clone();
    assert_eq!((&report["rows_flagged"], &report["complete"]), (&300.into(), &true.into()), "{report}");
    // Of 600 ms of flags, at least.
    assert!(report["paused_seconds"].as_f64().unwrap() > 1.2, "{report}");
}

/// A replica of a server of the test's own.
struct Standby {
    server: Child,
    url: String,
}

impl Standby {
    fn of(own: &OwnServers) -> Self {
        let (primary, copy) = (own.dir().join("postgres"), own.dir().join("standby"));
        let access = std::fs::read_to_string(primary.join("pg_hba.conf")).unwrap();
        std::fs::write(primary.join("pg_hba.conf"), access + "host replication all all scram-sha-256\n").unwrap();
        own.servers.superuser().batch_execute("SELECT pg_reload_conf()").unwrap();
        // The server's program is the first word in what it was started with.
        let options = std::fs::read_to_string(primary.join("postmaster.opts")).unwrap();
        let bin = Path::new(options.split(' ').next().unwrap()).parent().unwrap().to_owned();
        let port = port_of(&own.servers.postgres_url).to_string();
        std::fs::DirBuilder::new().mode(0o700).create(&copy).unwrap();
        let owner = std::fs::metadata(&primary).unwrap();
        std::os::unix::fs::chown(&copy, Some(owner.uid()), Some(owner.gid())).unwrap();
        let backup = ["-h", "localhost", "-p", &port, "-U", "postgres", "-c", "fast", "-R", "-D"];
        let taken = program(&bin, "pg_basebackup", &owner).args(backup).arg(&copy).status().unwrap();
        assert!(taken.success());
        let free = std::net::TcpListener::bind("localhost:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(own.dir().join("standby.log")).unwrap();
        let server = program(&bin, "postgres", &owner)
            .arg("-D")
            .arg(&copy)
            .args(["-p", &free.to_string()])
            .stderr(log)
            .spawn()
            .unwrap();
        let url = format!("postgres://postgres:postgres@localhost:{free}/app");
        Self { server, url }
    }

    fn session(&self) -> Client {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match Client::connect(&self.url, NoTls) {
                Ok(session) => return session,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        // As PostgreSQL's immediate shutdown: it ends its processes.
        signal("QUIT", &self.server);
        let _ = self.server.wait();
    }
}

/// One of PostgreSQL's programs, as the user to whom the server's files belong.
fn program(bin: &Path, name: &str, owner: &std::fs::Metadata) -> Command {
    let mut command = Command::new(bin.join(name));
    command.uid(owner.uid()).gid(owner.gid()).current_dir("/").env("PGPASSWORD", "postgres").stdout(Stdio::null());
    command
}

#[test]
fn a_run_pauses_until_a_replica_has_caught_up_and_says_so() {
    let own = OwnServers::start_only("gentle_replica", "postgres");
    let servers = Servers { postgres_url: own.servers.postgres_url.clone(), ..Servers::shared() };
    let mut world = World::on(servers, "gentle_replica", USER_LOGINS, 3);
    world.settings.insert("postgres", "max_replication_lag = \"256 KiB\"".into());
    world.insert_rows(10);
    // Without the privilege it would spare nobody.
    let refused = world.run(&["produce"]).expect(77);
    assert!(refused.stderr.contains("GRANT pg_read_all_stats TO app"), "{}", refused.stderr);
    carry_out(&world, &assert_found(&world, "grant-missing", 78));
    assert_gone(&world, "grant-missing");
    // No replica is no lag.
    assert_eq!(world.once().expect(0).report()["produce"]["paused_seconds"], 0.0);

    let standby = Standby::of(&own);
    let mut replica = standby.session();
    let paused = |replica: &mut Client| {
        replica.query_one("SELECT pg_get_wal_replay_pause_state()", &[]).unwrap().get::<_, String>(0) == "paused"
    };
    replica.batch_execute("SELECT pg_wal_replay_pause()").unwrap();
    world.insert_rows(5_000);
    world.wait_for("the replay to pause", || paused(&mut replica));
    let run = world.start(&["--once", "--json", "-v"]);
    std::thread::sleep(Duration::from_millis(2_500));
    signal("USR1", &run);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(world.unsent(), 5_000, "nothing is sent while the replica is behind");
    replica.batch_execute("SELECT pg_wal_replay_resume()").unwrap();
    let ended = Ended::after(run).expect(0);
    let report = &ended.report()["produce"];
    assert_eq!((&report["rows_flagged"], &report["complete"]), (&5_000.into(), &true.into()), "{report}");
    assert!(report["paused_for_replication_seconds"].as_f64().unwrap() > 1.0, "{report}");
    for told in [
        "pausing: the replica walreceiver is ",
        "0 rows flagged, 0 records copied, pausing for the replica walreceiver",
    ] {
        assert!(ended.stderr.contains(told), "{told}: {}", ended.stderr);
    }
    world.assert_exactly_once();

    // A signal ends the pause, and the limit of a run.
    replica.batch_execute("SELECT pg_wal_replay_pause()").unwrap();
    world.insert_rows(5_000);
    world.wait_for("the replay to pause", || paused(&mut replica));
    let begun = Instant::now();
    let report = world.run(&["produce", "--json", "--max-seconds", "1"]).expect(0).report();
    assert_eq!(report["produce"]["complete"], false, "{report}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    replica.batch_execute("SELECT pg_wal_replay_resume()").unwrap();
    world.once().expect(0);
    world.assert_exactly_once();
}

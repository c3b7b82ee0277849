//! What `pg2ch check` finds in the servers themselves: how they are reached, what they are, what time they have.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use crate::common::findings::{assert_cured, assert_found, assert_gone};
use crate::common::pooler::{Pooler, port_of};
use crate::common::servers::{OwnServers, Servers};
use crate::common::{USER_LOGINS, World};

#[test]
fn a_pooler_that_shares_a_server_process_is_an_error_and_one_that_keeps_it_is_not() {
    let mut world = World::new("check_pooler");
    let transactions = Pooler::start(&world, "transaction", 20);
    world.settings.insert("postgres", transactions.url());
    let found = assert_found(&world, "transaction-pooling", 78);
    assert!(found["fix"].as_str().unwrap().contains("pool_mode = session"), "{found}");

    let sessions = Pooler::start(&world, "session", 20);
    world.settings.insert("postgres", sessions.url());
    assert_gone(&world, "transaction-pooling");
    world.insert_rows(10);
    world.once().expect(0);
    world.settings.remove("postgres");
    world.assert_exactly_once();
}

/// Passes connections on, and lets `change` at what comes back: a server that says something else about itself.
fn changing(url: &str, change: fn(&mut [u8])) -> String {
    let upstream = port_of(url);
    let listener = TcpListener::bind("localhost:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut server) = (client.unwrap(), TcpStream::connect(("127.0.0.1", upstream)).unwrap());
            let (mut from_client, mut to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                // A small answer comes in one piece.
                while let Ok(count @ 1..) = server.read(&mut buffer) {
                    change(&mut buffer[..count]);
                    if client.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = client.shutdown(Shutdown::Write);
            });
        }
    });
    url.replace(&upstream.to_string(), &port.to_string())
}

/// Where in an answer of PostgreSQL a number of eight bytes stands that `is_meant`.
fn find_float(answer: &[u8], is_meant: impl Fn(f64) -> bool) -> Option<(usize, f64)> {
    answer.windows(12).enumerate().find_map(|(at, bytes)| {
        // Its length, then its bytes.
        let number = f64::from_be_bytes(bytes.strip_prefix(&[0, 0, 0, 8])?.try_into().ok()?);
        is_meant(number).then_some((at + 4, number))
    })
}

#[test]
fn a_clock_that_is_wrong_is_told_with_the_server_that_has_it() {
    // No server's clock can be set here: stand-ins tell another time.
    let mut world = World::new("check_clock");
    let an_hour_ahead = changing(&world.servers.postgres_url, |answer| {
        if let Some((at, seconds)) = find_float(answer, |number| (1.6e9..3e9).contains(&number)) {
            answer[at..at + 8].copy_from_slice(&(seconds + 3600.0).to_be_bytes());
        }
    });
    world.settings.insert("postgres", format!("url = \"{an_hour_ahead}?sslmode=disable\""));
    let found = assert_found(&world, "clock-skew", 0);
    assert_eq!(found["server"], "PostgreSQL");
    let what = found["what"].as_str().unwrap();
    assert!(what.contains("+3600 s") || what.contains("+3599 s"), "{what}");
    world.settings.remove("postgres");
    assert_gone(&world, "clock-skew");

    let years_behind = changing(&world.servers.clickhouse_url, |answer| {
        // The version, a tab, and the seconds since 1970: the first digit of nine or ten.
        let is_time = |line: &[u8]| line.starts_with(b"\t1") && line[1..].iter().all(u8::is_ascii_digit);
        if let Some(at) = answer.windows(11).position(is_time) {
            answer[at + 2] = b'0';
        }
    });
    world.settings.insert("clickhouse", format!("url = \"{years_behind}\""));
    let found = assert_found(&world, "clock-skew", 0);
    assert_eq!(found["server"], "ClickHouse");
    assert!(found["what"].as_str().unwrap().contains(" -"), "{found}");
    world.settings.remove("clickhouse");
    assert_gone(&world, "clock-skew");
}

#[test]
fn an_old_postgresql_is_an_error() {
    // Debian has one version; a server of another one is a stand-in that gives another number for it.
    let mut world = World::new("check_old");
    let old = changing(&world.servers.postgres_url, |answer| {
        let is_version = |bytes: &[u8]| {
            let number = bytes.strip_prefix(&[0, 0, 0, 4]).map(|rest| i32::from_be_bytes(rest.try_into().unwrap()));
            number.is_some_and(|number| (120_000..300_000).contains(&number))
        };
        if let Some(at) = answer.windows(8).position(is_version) {
            answer[at + 4..at + 8].copy_from_slice(&110_022_i32.to_be_bytes());
        }
    });
    world.settings.insert("postgres", format!("url = \"{old}?sslmode=disable\""));
    assert_found(&world, "postgres-version", 78);
    world.settings.remove("postgres");
    assert_gone(&world, "postgres-version");
}

#[test]
fn a_server_that_is_a_standby_read_only_or_never_vacuums_is_told() {
    let own = OwnServers::start_only("check_servers", "postgres");
    let servers = Servers { postgres_url: own.servers.postgres_url.clone(), ..Servers::shared() };
    let mut world = World::on(servers, "check_standby", USER_LOGINS, 1);
    for (setting, id, code) in
        [("autovacuum = off", "autovacuum-off", 0), ("default_transaction_read_only = on", "read-only", 78)]
    {
        let mut session = world.superuser();
        session.batch_execute(&format!("ALTER SYSTEM SET {setting}")).unwrap();
        session.batch_execute("SELECT pg_reload_conf()").unwrap();
        let asked = format!(
            "SELECT (setting = '{}')::int::bigint FROM pg_settings WHERE name = '{}'",
            setting.rsplit(' ').next().unwrap(),
            setting.split(' ').next().unwrap()
        );
        world
            .wait_until(|world| world.another_session().query_one(&asked, &[]).unwrap().get::<_, i64>(0) == 1, setting);
        assert_cured(&mut world, id, code);
    }
    own.act("stop", "postgres");
    let signal = own.dir().join("postgres/standby.signal");
    std::fs::write(&signal, "").unwrap();
    own.act("start", "postgres");
    let found = assert_found(&world, "standby", 78);
    assert!(found["fix"].as_str().unwrap().contains("primary"), "{found}");
    // The other way to mend it: it becomes the primary itself.
    world.superuser().batch_execute("SELECT pg_promote()").unwrap();
    world.pg = world.another_session();
    assert_gone(&world, "standby");
    world.insert_rows(3);
    world.once().expect(0);
    world.assert_exactly_once();
}

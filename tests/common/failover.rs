//! A PostgreSQL with a streaming standby, beside the shared Kafka and ClickHouse.

use std::time::Duration;

use postgres::{Client, NoTls};

use super::World;
use super::servers::{OwnServers, Servers};

/// Primary and standby, ended with this value.
pub struct Pair {
    own: OwnServers,
    /// With the primary.
    pub servers: Servers,
    /// The standby's address.
    pub standby_url: String,
}

impl Pair {
    pub fn start(name: &str) -> Self {
        let own = OwnServers::start_only(name, "postgres,standby");
        let port = own.variable("SERVERS_STANDBY_PORT");
        let standby_url = format!("postgres://app:app@localhost:{port}/app");
        let servers = Servers { postgres_url: own.servers.postgres_url.clone(), ..Servers::shared() };
        Self { own, servers, standby_url }
    }

    pub fn act(&self, action: &str, server: &str) {
        self.own.act(action, server);
    }

    /// Asynchronous commits are written by one process of the primary, within a fifth of a second: it is stopped.
    pub fn stop_writing_commits(&self) {
        let mut session = connect(&as_superuser(&self.servers.postgres_url));
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'";
        let writer: i32 = session.query_one(sql, &[]).unwrap().get(0);
        super::signal_process("STOP", u32::try_from(writer).unwrap());
    }

    /// The standby gets nothing from now on: what is committed is its lost tail.
    pub fn cut_off(&self) {
        let mut session = self.superuser_of_standby();
        session.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").unwrap();
        session.batch_execute("SELECT pg_reload_conf()").unwrap();
        let sql = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        super::wait_for("the standby to be cut off", || session.query_one(sql, &[]).unwrap().get::<_, i64>(0) == 0);
    }

    /// Waits until the standby has what the primary has.
    pub fn catch_up(&self) {
        let mut primary = connect(&as_superuser(&self.servers.postgres_url));
        let lsn: String = primary.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).unwrap().get(0);
        let mut standby = self.superuser_of_standby();
        let sql = "SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, FALSE)";
        super::wait_for("the standby to catch up", || standby.query_one(sql, &[&lsn]).unwrap().get(0));
    }

    /// The standby is the primary from now on, and the one that the world uses.
    pub fn promote(&self, world: &mut World) {
        self.superuser_of_standby().query_one("SELECT pg_promote()", &[]).unwrap();
        self.use_standby(world);
    }

    pub fn use_standby(&self, world: &mut World) {
        world.servers.postgres_url.clone_from(&self.standby_url);
        world.pg = connect(&self.standby_url);
    }

    pub fn use_primary(&self, world: &mut World) {
        world.servers.postgres_url.clone_from(&self.servers.postgres_url);
        world.pg = connect(&self.servers.postgres_url);
    }

    pub fn superuser_of_standby(&self) -> Client {
        connect(&as_superuser(&self.standby_url))
    }
}

fn as_superuser(url: &str) -> String {
    url.replace("app:app", "postgres:postgres")
}

fn connect(url: &str) -> Client {
    for _ in 0..100 {
        if let Ok(client) = Client::connect(url, NoTls) {
            return client;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Client::connect(url, NoTls).unwrap()
}

//! What stands behind a session: PostgreSQL itself or a pooler that shares its sessions, a primary or a standby, and how old.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use postgres::{Client, SimpleQueryRow};

use super::answers::answers_of;
use super::explain::explain;
use crate::config::PostgresConfig;
use crate::error::{Error, Result};

/// The oldest version whose catalogue and statements are known to serve.
pub const OLDEST: i32 = 120_000;

/// Why a pool of transactions is refused.
pub const POOLED: &str = "a pooler shares server processes between sessions (transaction pooling)";

/// What helps against it.
pub const UNPOOL: &str = "name PostgreSQL itself, or a pool with pool_mode = session, in [postgres] url: locks and settings of a \
     session do not outlive a transaction there";

/// How long it is taken for granted that a server is no transaction pool, while no connection to it is lost.
const KNOWN_FOR: Duration = Duration::from_secs(60);

/// The server that was last found to give each session a process of its own, and when.
static UNPOOLED: Mutex<Option<(String, Instant)>> = Mutex::new(None);

/// The server, as a new session finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nature {
    /// The server process behind the session.
    pub process: String,
    version: i32,
    version_name: String,
    is_standby: bool,
    is_read_only: bool,
    /// Whether its search path was that of pg2ch's readers when it was opened: a pooler without a `server_reset_query` hands out what
    /// another session has left.
    pub is_in_catalog: bool,
}

impl Nature {
    /// Asks the server, without a prepared statement: some poolers know none.
    pub fn of(client: &mut Client) -> Result<Self, postgres::Error> {
        let messages = client.simple_query(
            "SELECT pg_catalog.pg_backend_pid(), pg_catalog.current_setting('server_version_num'),
                    pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(),
                    pg_catalog.current_setting('default_transaction_read_only'), pg_catalog.current_setting('search_path')",
        )?;
        let answers = answers_of(messages);
        let row = answers.first().and_then(|rows| rows.first());
        let column = |at| row.and_then(|row| row.get(at)).unwrap_or_default().to_owned();
        Ok(Self {
            process: column(0),
            version: column(1).parse().unwrap_or_default(),
            version_name: column(2),
            is_standby: column(3) == "t",
            is_read_only: column(4) == "on",
            is_in_catalog: column(5) == "pg_catalog",
        })
    }

    /// That another session has a process of its own. Where a pooler gives it away after each transaction, it serves both.
    pub fn require_another(&self, other: &mut Client, config: &PostgresConfig) -> Result<()> {
        let what = format!("cannot use PostgreSQL at {}", config.address());
        let theirs = Self::of(other).map_err(|error| explain(&what, error))?;
        if theirs.process == self.process { Err(pooled(config)) } else { Ok(()) }
    }

    /// That a session, asked once more for its process, still has it: then there are rows in the answer.
    pub fn require_the_same(answer: Option<&Vec<SimpleQueryRow>>, config: &PostgresConfig) -> Result<()> {
        if answer.is_some_and(|rows| !rows.is_empty()) { Ok(()) } else { Err(pooled(config)) }
    }

    /// That a run can flag rows here; `address` is the server's.
    ///
    /// # Errors
    /// 69 for a standby, 78 for a server that is too old, or whose sessions may not write.
    pub fn require_writable(&self, address: &str) -> Result<()> {
        let what = format!("cannot flag rows in PostgreSQL at {address}");
        if self.version < OLDEST {
            return Err(Error::config(
                what,
                format!("the server is PostgreSQL {}", self.version_name),
                "upgrade the server: pg2ch needs PostgreSQL 12 or later",
            ));
        }
        if self.is_standby {
            return Err(Error::unavailable(
                what,
                "the server is a standby",
                "name the primary in [postgres] url; after a failover the next run resumes here once the server is promoted",
            ));
        }
        if self.is_read_only {
            return Err(Error::config(
                what,
                "default_transaction_read_only is on for this role, database or server",
                "run `pg2ch check`: it prints the ALTER ROLE or ALTER DATABASE that resets it",
            ));
        }
        Ok(())
    }
}

/// Whether this server was found to be no transaction pool a moment ago.
pub fn is_known_unpooled(config: &PostgresConfig) -> bool {
    let known = UNPOOLED.lock().unwrap_or_else(PoisonError::into_inner);
    known.as_ref().is_some_and(|(address, at)| *address == config.address() && at.elapsed() < KNOWN_FOR)
}

/// Notes that this server gives each session a process of its own.
pub fn note_unpooled(config: &PostgresConfig) {
    let proven = (config.address(), Instant::now());
    *UNPOOLED.lock().unwrap_or_else(PoisonError::into_inner) = Some(proven);
}

/// Takes nothing for granted any more: the next session is tested. Another server, or the same one with another `pool_mode`, may
/// have taken the address since.
pub fn forget_unpooled() {
    *UNPOOLED.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

fn pooled(config: &PostgresConfig) -> Error {
    Error::config(format!("cannot use PostgreSQL at {}", config.address()), POOLED, UNPOOL)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_be_written_to_is_told_as_what_it_is() {
        let fit = Nature {
            process: "1".into(),
            version: OLDEST,
            version_name: "12.0".into(),
            is_standby: false,
            is_read_only: false,
            is_in_catalog: false,
        };
        fit.require_writable("h:1").unwrap();
        let told = |nature: Nature| nature.require_writable("h:1").unwrap_err().to_string();
        let old = Nature { version: 110_022, version_name: "11.22".into(), ..fit.clone() };
        assert!(told(old).contains("PostgreSQL 11.22\nhint: upgrade the server: pg2ch needs PostgreSQL 12"));
        assert!(told(Nature { is_standby: true, ..fit.clone() }).contains("standby"));
        assert!(told(Nature { is_read_only: true, ..fit }).contains("default_transaction_read_only"));
    }
}

//! The source's advisory lock: one run at a time, held by the session that flags, so that lock and flags end together
//! (<https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS>).

use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::answers::Answers;
use super::catalogue::name_sql;
use super::nature::{POOLED, UNPOOL};
use super::session::Session;
use super::source_table::SourceTable;
use crate::crash;
use crate::error::{Error, ExitCode, Result};
use crate::shutdown::Shutdown;

/// How often a lock that is taken is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// How long the session of an earlier attempt of this very run may take to end, after its connection broke.
const OWN_SESSION: Duration = Duration::from_secs(10);

/// How long the session of a run that has just been killed may take to end.
const DEAD_SESSION: Duration = Duration::from_secs(1);

/// Takes the lock of `table`, and asks `then` behind it in the same message: its answers, none of them if one has failed.
/// `None` if the run was asked to finish while it waited.
///
/// # Errors
/// 75 after `wait`, or a second if that is longer, naming the holder.
pub fn take(
    session: &mut Session,
    table: &SourceTable,
    wait: Duration,
    shutdown: &Shutdown,
    then: &str,
) -> Result<Option<Answers>> {
    let what = format!("cannot take the lock of {}", table.name);
    let key = lock_key(&table.database, &table.name);
    // Behind a pool of transactions the lock would stay behind in another's session.
    let is_ours = format!("pg_catalog.pg_backend_pid()::text = '{}'", session.nature().process());
    let lock = format!("SELECT pg_catalog.pg_try_advisory_lock({key}) WHERE {is_ours}");
    // The lock may be there already.
    let anew = format!("SELECT pg_catalog.pg_advisory_unlock_all() WHERE {is_ours}; {lock}");
    // Asked once: who waits for the lock would ask in vain, again and again.
    let mut asked = match session.transaction_script(&what, &format!("{lock}; {then}")) {
        Err(error) if session.is_closed() => return Err(error),
        asked => asked.ok(),
    };
    let begun = Instant::now();
    loop {
        // Where something of it has failed, whoever needs it asks by itself, and tells why.
        let mut answers = match asked.take() {
            Some(answers) => answers,
            None => session.script(&what, &anew)?.into_iter().skip(1).collect(),
        };
        let then = answers.split_off(1.min(answers.len()));
        let taken = answers.first().and_then(|rows| rows.first());
        let taken = taken.ok_or_else(|| Error::config(&what, POOLED, UNPOOL))?;
        if taken.get(0) == Some("t") {
            crash::point("lock.after");
            return Ok(Some(then));
        }
        let holder = holder(session, &what, key)?;
        let is_ours = holder.as_ref().is_some_and(|holder| holder.is_ours);
        let wait = wait.max(if is_ours { OWN_SESSION } else { DEAD_SESSION });
        if begun.elapsed() >= wait {
            let holder = holder.map_or_else(|| "it has just ended".into(), |holder| holder.to_string());
            return Err(Error::new(
                ExitCode::Locked,
                format!("{what} in database {}", table.database),
                format!("another run holds it: {holder}"),
                "wait for it, or use --wait-lock 5m; if its host died, the lock is freed within about a minute; `pg2ch status` \
                 shows whether it moves",
            ));
        }
        if shutdown.wait(RETRY) {
            return Ok(None);
        }
    }
}

/// Gives the lock of `table` back.
///
/// # Errors
/// PostgreSQL's.
pub fn give_back(session: &mut Session, table: &SourceTable) -> Result<()> {
    let what = format!("cannot give the lock of {} back", table.name);
    session
        .query(&what, "SELECT pg_catalog.pg_advisory_unlock($1)", &[&lock_key(&table.database, &table.name)])
        .map(drop)
}

/// A number for database and table: advisory locks have no names.
fn lock_key(database: &str, table: &str) -> i64 {
    let digest = Sha256::digest(format!("pg2ch lock\0{database}\0{table}"));
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

/// The run that holds a table's lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its session: name, user, host, process.
    pub session: String,
    /// How long the session has been there.
    pub seconds: i64,
    /// How long ago its last statement ended; 0 while one is in progress. A run that copies records makes none.
    pub idle_seconds: i64,
    /// How long its present statement has taken; `None` between two.
    pub statement_seconds: Option<i64>,
    #[serde(skip)]
    is_ours: bool,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |seconds: i64| humantime::format_duration(Duration::from_secs(seconds.max(0).unsigned_abs()));
        write!(f, "{}, for {}", self.session, time(self.seconds))?;
        match self.statement_seconds {
            Some(seconds) => write!(f, "; its present statement has taken {}", time(seconds)),
            None => write!(f, "; its last statement ended {} ago", time(self.idle_seconds)),
        }
    }
}

/// The run in progress of the table `name`, as PostgreSQL quotes it, in this session's database.
///
/// # Errors
/// PostgreSQL's.
pub fn run_in_progress(session: &mut Session, name: &str) -> Result<Option<Holder>> {
    let what = format!("cannot look up the lock of {name}");
    let sql = format!("SELECT current_database()::text, coalesce({}, $1)", name_sql("$1"));
    let Some(row) = session.query_opt(&what, &sql, &[&name])? else { return Ok(None) };
    holder(session, &what, lock_key(row.get(0), row.get(1)))
}

/// Who holds the lock; `None` if it is free again.
fn holder(session: &mut Session, what: &str, key: i64) -> Result<Option<Holder>> {
    // A lock on one bigint shows its halves as classid and objid, with objsubid 1 (pg_locks in PostgreSQL's manual).
    let row = session.query_opt(
        what,
        "SELECT format('%s, user %s, from %s, process %s',
                       coalesce(nullif(a.application_name, ''), 'unnamed'), a.usename,
                       coalesce(a.client_addr::text, 'this machine'), a.pid),
                extract(epoch FROM clock_timestamp() - a.backend_start)::bigint,
                extract(epoch FROM clock_timestamp() - a.state_change)::bigint,
                a.state = 'active',
                a.application_name = current_setting('application_name')
         FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
           AND (l.classid::bigint << 32) | l.objid::bigint = $1",
        &[&key],
    )?;
    Ok(row.map(|row| {
        // A role that may not see the session's activity sees its name only.
        let since_change = row.get::<_, Option<i64>>(2).unwrap_or_default();
        let is_active = row.get::<_, Option<bool>>(3).unwrap_or_default();
        Holder {
            session: row.get(0),
            seconds: row.get::<_, Option<i64>>(1).unwrap_or_default(),
            idle_seconds: if is_active { 0 } else { since_change },
            statement_seconds: is_active.then_some(since_change),
            is_ours: row.get::<_, Option<bool>>(4).unwrap_or_default(),
        }
    }))
}

//! The source's advisory lock: one run at a time, held by the session that flags, so that lock and flags end together.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

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

/// Takes the lock of `table`; `false` if the run was asked to finish while it waited.
///
/// # Errors
/// 75 after `wait`, or a second if that is longer, naming the holder.
pub fn take(session: &mut Session, table: &SourceTable, wait: Duration, shutdown: &Shutdown) -> Result<bool> {
    let what = format!("cannot take the lock of {}", table.name);
    let key = lock_key(table);
    let begun = Instant::now();
    loop {
        let row = session.query_opt(&what, "SELECT pg_catalog.pg_try_advisory_lock($1)", &[&key])?;
        if row.is_some_and(|row| row.get(0)) {
            crash::point("lock.after");
            return Ok(true);
        }
        let (holder, is_ours) = holder(session, &what, key)?;
        let wait = wait.max(if is_ours { OWN_SESSION } else { DEAD_SESSION });
        if begun.elapsed() >= wait {
            return Err(Error::new(
                ExitCode::Locked,
                format!("{what} in database {}", table.database),
                format!("another run holds it: {holder}"),
                "wait for it, or use --wait-lock 5m; if its host died, the lock is freed within about a minute",
            ));
        }
        if shutdown.wait(RETRY) {
            return Ok(false);
        }
    }
}

/// Gives the lock of `table` back.
///
/// # Errors
/// PostgreSQL's.
pub fn give_back(session: &mut Session, table: &SourceTable) -> Result<()> {
    let what = format!("cannot give the lock of {} back", table.name);
    session.query(&what, "SELECT pg_catalog.pg_advisory_unlock($1)", &[&lock_key(table)]).map(drop)
}

/// A number for database and table: advisory locks have no names.
fn lock_key(table: &SourceTable) -> i64 {
    let digest = Sha256::digest(format!("pg2ch lock\0{}\0{}", table.database, table.name));
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

/// Who holds the lock, and whether that is a session of this very process.
fn holder(session: &mut Session, what: &str, key: i64) -> Result<(String, bool)> {
    // A lock on one bigint shows its halves as classid and objid, with objsubid 1 (pg_locks in PostgreSQL's manual).
    let row = session.query_opt(
        what,
        "SELECT format('%s, user %s, from %s, process %s, since %s',
                       coalesce(nullif(a.application_name, ''), 'unnamed'), a.usename,
                       coalesce(a.client_addr::text, 'this machine'), a.pid, a.backend_start::timestamp(0)),
                a.application_name = current_setting('application_name')
         FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid)
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
           AND (l.classid::bigint << 32) | l.objid::bigint = $1",
        &[&key],
    )?;
    Ok(row.map_or_else(|| ("it has just ended".into(), false), |row| (row.get(0), row.get(1))))
}

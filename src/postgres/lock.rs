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
    let is_ours = format!("pg_catalog.pg_backend_pid()::text = '{}'", session.nature.process);
    let lock = format!("SELECT pg_catalog.pg_try_advisory_lock({key}), {} WHERE {is_ours}", stamp_sql());
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
            let shown = holder.as_ref().map_or_else(|| "it has just ended".into(), Holder::to_string);
            return Err(Error::new(
                ExitCode::Locked,
                format!("{what} in database {}", table.database),
                format!("another run holds it: {shown}"),
                what_to_do(holder.as_ref()),
            ));
        }
        if shutdown.wait(RETRY) {
            return Ok(None);
        }
    }
}

pub fn give_back(session: &mut Session, table: &SourceTable) -> Result<()> {
    let what = format!("cannot give the lock of {} back", table.name);
    session.execute_batch(&what, "SELECT pg_catalog.pg_advisory_unlock_all()")
}

/// A number for database and table: advisory locks have no names.
fn lock_key(database: &str, table: &str) -> i64 {
    let digest = Sha256::digest(format!("pg2ch lock\0{database}\0{table}"));
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(first)
}

/// What the stamp is known by: the first half of its number.
const STAMP: i32 = 0x7067_3263;

/// 2020, in seconds since 1970. A time since then is a positive int4 until 2088.
const ORIGIN: i64 = 1_577_836_800;

/// Takes a second lock, which nobody waits for. Its number shows everybody when the first one was taken: the session may be older.
fn stamp_sql() -> String {
    format!(
        "pg_catalog.pg_try_advisory_lock_shared({STAMP}, (extract(epoch FROM pg_catalog.clock_timestamp())::bigint - {ORIGIN})::int4)"
    )
}

/// Seconds after which a run that moves nothing has to be ended: each of its calls has a shorter limit.
const STALLED: i64 = 900;

/// Seconds after which a run that moves nothing is shown as standing still.
const STILL: i64 = 60;

/// What a mark begins with: the statement of a session whose run has copied something since its last statement.
const MARK: &str = "pg2ch has done: ";

/// The statement that leaves a mark.
pub(super) fn mark_sql(done: &str) -> String {
    format!("SELECT '{MARK}{done}'")
}

/// The run that holds a table's lock. What is `None` this role may not see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Its session: name, user, host, process.
    pub session: String,
    /// Since when it holds the lock, UTC.
    pub since: Option<String>,
    /// How long that is.
    pub seconds: Option<i64>,
    /// How long the run has stood still: since its last statement or mark; 0 while a statement is in progress.
    pub idle_seconds: Option<i64>,
    /// How long its present statement has taken; `None` between two.
    pub statement_seconds: Option<i64>,
    /// What it has done, where it copies records.
    pub done: Option<String>,
    #[serde(skip)]
    process: i32,
    #[serde(skip)]
    is_ours: bool,
}

/// What to do about a lock that is taken.
fn what_to_do(holder: Option<&Holder>) -> String {
    match holder.filter(|holder| holder.idle_seconds.is_some_and(|seconds| seconds >= STALLED)) {
        None => {
            "wait for it, or use --wait-lock 5m; if its host died, the lock is freed within about a minute".to_owned()
        }
        Some(stalled) => format!(
            "end that process: a kill is safe, and the next run resumes where it stood. If its host cannot be reached, \
             `SELECT pg_terminate_backend({})` in PostgreSQL frees the lock",
            stalled.process
        ),
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |seconds: i64| humantime::format_duration(Duration::from_secs(seconds.max(0).unsigned_abs()));
        f.write_str(&self.session)?;
        let (Some(since), Some(seconds), Some(idle)) = (&self.since, self.seconds, self.idle_seconds) else {
            return f.write_str("; this role may not see whether it moves (grant it pg_read_all_stats)");
        };
        write!(f, ", since {since}, for {}", time(seconds))?;
        match self.statement_seconds {
            Some(seconds) => write!(f, "; its present statement has taken {}", time(seconds))?,
            None if idle < STILL => write!(f, "; it moved {} ago", time(idle))?,
            None => write!(f, "; it has stood still for {}", time(idle))?,
        }
        self.done.as_ref().map_or(Ok(()), |done| write!(f, "; so far {done}"))
    }
}

/// The run in progress of the table `name`, as PostgreSQL quotes it, in this session's database.
pub fn run_in_progress(session: &mut Session, name: &str) -> Result<Option<Holder>> {
    let what = format!("cannot look up the lock of {name}");
    let sql = format!("SELECT current_database()::text, coalesce({}, $1)", name_sql("$1"));
    let Some(row) = session.query_opt(&what, &sql, &[&name])? else { return Ok(None) };
    holder(session, &what, lock_key(row.get(0), row.get(1)))
}

/// Who holds the lock; `None` if it is free again.
fn holder(session: &mut Session, what: &str, key: i64) -> Result<Option<Holder>> {
    // A lock on one bigint shows its halves as classid and objid, with objsubid 1 (pg_locks in PostgreSQL's manual).
    let sql = format!(
        "SELECT format('%s, user %s, from %s, process %s',
                       coalesce(nullif(a.application_name, ''), 'unnamed'), a.usename,
                       CASE WHEN a.backend_start IS NULL THEN 'a host that this role may not see'
                            ELSE coalesce(a.client_addr::text, 'this machine') END, a.pid),
                extract(epoch FROM clock_timestamp() - began.at)::bigint,
                extract(epoch FROM clock_timestamp() - a.state_change)::bigint,
                a.state = 'active',
                a.application_name = current_setting('application_name'),
                to_char(began.at, 'YYYY-MM-DD HH24:MI:SS\"Z\"'),
                substring(a.query FROM '^SELECT ''{MARK}([^'']*)'), a.pid
         FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid),
              LATERAL (SELECT coalesce(to_timestamp(max(s.objid::bigint) + {ORIGIN}), a.backend_start) AS at
                       FROM pg_catalog.pg_locks s
                       WHERE s.pid = l.pid AND s.locktype = 'advisory' AND s.objsubid = 2 AND s.classid = {STAMP}) AS began
         WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
           AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
           AND (l.classid::bigint << 32) | l.objid::bigint = $1"
    );
    let row = session.query_opt(what, &sql, &[&key])?;
    Ok(row.map(|row| {
        let since_change: Option<i64> = row.get(2);
        let is_active = row.get::<_, Option<bool>>(3).unwrap_or_default();
        Holder {
            session: row.get(0),
            since: row.get(5),
            seconds: row.get(1),
            idle_seconds: if is_active { Some(0) } else { since_change },
            statement_seconds: since_change.filter(|_| is_active),
            done: row.get(6),
            process: row.get(7),
            is_ours: row.get::<_, Option<bool>>(4).unwrap_or_default(),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(seconds: i64, idle: i64) -> Holder {
        Holder {
            session: "pg2ch ledger 0000002a host:7".into(),
            since: Some("2026-01-02 03:04:05Z".into()),
            seconds: Some(seconds),
            idle_seconds: Some(idle),
            statement_seconds: None,
            done: None,
            process: 99,
            is_ours: false,
        }
    }

    #[test]
    fn a_holder_is_told_with_since_when_and_whether_it_moves() {
        let moving = Holder { done: Some("5 records sent".into()), ..holder(61, 2) };
        let front = "pg2ch ledger 0000002a host:7, since 2026-01-02 03:04:05Z, for";
        assert_eq!(moving.to_string(), format!("{front} 1m 1s; it moved 2s ago; so far 5 records sent"));
        assert_eq!(holder(200, 60).to_string(), format!("{front} 3m 20s; it has stood still for 1m"));
        let asking = Holder { statement_seconds: Some(3), ..holder(4, 0) };
        assert_eq!(asking.to_string(), format!("{front} 4s; its present statement has taken 3s"));
        let hidden = Holder { since: None, seconds: None, idle_seconds: None, ..holder(0, 0) };
        assert!(hidden.to_string().contains("may not see whether it moves"), "{hidden}");
        assert!(what_to_do(Some(&hidden)).starts_with("wait"));
    }

    #[test]
    fn a_run_that_stands_still_for_long_is_to_be_ended() {
        assert!(what_to_do(Some(&holder(1_000, 899))).starts_with("wait"));
        assert!(what_to_do(Some(&holder(1_000, 900))).contains("pg_terminate_backend(99)"));
    }
}

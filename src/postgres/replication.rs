//! How far the replicas are behind, for a run that spares them.

use super::session::Session;
use crate::error::{Error, ExitCode, Result};
use crate::ports::source::ReplicationLag;

/// What the role has to be a member of.
pub const SEES_REPLICAS: &str = "pg_read_all_stats";

/// How far the replica is that is furthest behind: WAL that it has not replayed, or, of a subscriber, not confirmed. Bytes, because
/// PostgreSQL's times of lag stand still when a replica replays nothing.
///
/// # Errors
/// 77 if the role may not see it; any PostgreSQL error.
pub fn lag(session: &mut Session) -> Result<Option<ReplicationLag>> {
    const WHAT: &str = "cannot see how far replicas are behind";
    let sql = format!(
        "SELECT pg_catalog.pg_has_role('{SEES_REPLICAS}', 'USAGE'), pg_catalog.quote_ident(current_user), r.application_name, r.behind
         FROM (SELECT) AS one LEFT JOIN LATERAL (
             SELECT application_name, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), replay_lsn)::bigint AS behind
             FROM pg_catalog.pg_stat_replication WHERE replay_lsn IS NOT NULL ORDER BY 2 DESC LIMIT 1) AS r ON TRUE"
    );
    let Some(row) = session.query_opt(WHAT, &sql, &[])? else { return Ok(None) };
    if !row.get::<_, bool>(0) {
        let role: String = row.get(1);
        return Err(Error::new(
            ExitCode::Permission,
            WHAT,
            format!("`max_replication_lag` is set, and {role} is no member of {SEES_REPLICAS}"),
            format!("run `GRANT {SEES_REPLICAS} TO {role}`, or remove `max_replication_lag` from [postgres]"),
        ));
    }
    let (replica, behind): (Option<String>, Option<i64>) = (row.get(2), row.get(3));
    Ok(replica.zip(behind).map(|(replica, behind)| ReplicationLag { replica, bytes: behind.max(0).unsigned_abs() }))
}

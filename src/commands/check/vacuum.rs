//! Dead entries in the index of unsent rows: whether autovacuum removes them in time, and who keeps it from doing so.

use super::finding::Findings;
use super::source::Found;
use crate::error::Result;
use crate::postgres::{SEES_REPLICAS, Session};

/// Fewer dead entries delay a run by a fraction of a second, and only the first one that meets them.
const MANY: f64 = 1_000_000.0;

/// From PostgreSQL 14 on, VACUUM passes over indexes if fewer of the table's pages have dead tuples. Rows that are flagged
/// together lie together.
const WORTH_CLEANING: f64 = 0.02;

/// A transaction as long as this is an old snapshot, in seconds.
const LONG: f64 = 60.0;

/// Where nobody says since when a snapshot is held: a million rows are flagged in as many transactions.
const MANY_TRANSACTIONS: i32 = 100;

/// A table that holds rows: the source, or one of its partitions.
struct Part {
    name: String,
    rows: f64,
    dead: f64,
    /// Autovacuum comes when this many are dead.
    due: f64,
    always_cleans_indexes: bool,
}

/// Looks at the table, or at each of its partitions.
pub fn check(session: &mut Session, found: &Found, findings: &mut Findings) -> Result<()> {
    let parts = parts(session, found)?;
    let late: Vec<&Part> = parts.iter().filter(|part| part.pile() > MANY).collect();
    if let Some(first) = late.first() {
        let others = if late.len() > 1 { format!(" (and {} more partitions)", late.len() - 1) } else { String::new() };
        let fix = |part: &&Part| {
            format!(
                "ALTER TABLE {} SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = {MANY}, \
                 vacuum_index_cleanup = on);",
                part.name
            )
        };
        findings.note(
            "autovacuum-scale",
            format!(
                "autovacuum cleans the indexes of {}{others} only after about {:.0} dead tuples",
                first.name,
                first.pile()
            ),
            "each flagged row leaves a dead entry in the index of unsent rows, and runs visit it until VACUUM removes it",
            late.iter().map(fix).collect::<Vec<_>>().join("\n"),
        );
    }
    let dead: f64 = parts.iter().map(|part| part.dead).sum();
    if dead >= MANY { old_snapshots(session, found, dead, findings) } else { Ok(()) }
}

impl Part {
    /// How many rows can be dead before their entries are removed.
    fn pile(&self) -> f64 {
        if self.always_cleans_indexes { self.due } else { self.due.max(WORTH_CLEANING * self.rows) }
    }
}

fn parts(session: &mut Session, found: &Found) -> Result<Vec<Part>> {
    let what = format!("cannot look up how {} is vacuumed", found.relation.name);
    let setting = |name| format!("coalesce(o.own ->> '{name}', current_setting('{name}', TRUE))::float8");
    let sql = format!(
        "SELECT c.oid::regclass::text, c.reltuples::float8, pg_stat_get_dead_tuples(c.oid)::float8,
                least({threshold} + {scale} * greatest(c.reltuples, 0), nullif({most}, -1)),
                current_setting('server_version_num')::int < 140000
                    OR coalesce(lower(o.own ->> 'vacuum_index_cleanup') IN ('on', 'true', 'yes', '1'), FALSE)
         FROM pg_class c CROSS JOIN LATERAL
              (SELECT jsonb_object_agg(option_name, option_value) AS own FROM pg_options_to_table(c.reloptions)) AS o
         WHERE c.relkind = 'r' AND (c.oid = $1 OR c.oid IN (SELECT relid FROM pg_partition_tree($1::oid::regclass)))
         ORDER BY c.reltuples DESC",
        threshold = setting("autovacuum_vacuum_threshold"),
        scale = setting("autovacuum_vacuum_scale_factor"),
        most = setting("autovacuum_vacuum_max_threshold"),
    );
    let rows = session.in_catalog(&what, |session| session.query(&what, &sql, &[&found.relation.oid]))?;
    let part = |row: &postgres::Row| Part {
        name: row.get(0),
        rows: row.get(1),
        dead: row.get(2),
        due: row.get(3),
        always_cleans_indexes: row.get(4),
    };
    Ok(rows.iter().map(part).collect())
}

/// Names the transactions that were begun before the rows died: neither VACUUM nor a reader may remove what they could see.
fn old_snapshots(session: &mut Session, found: &Found, dead: f64, findings: &mut Findings) -> Result<()> {
    let name = &found.relation.name;
    let what = format!("cannot look up who keeps dead tuples of {name}");
    // VACUUM itself holds nothing back. A role without the privilege sees of others' sessions the snapshot, not the time.
    let sql = format!(
        "SELECT holder, to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'), age, fix FROM (
             SELECT format('session %s of %s (%s)', pid, usename, application_name) AS holder, xact_start AS since,
                    greatest(age(backend_xid), age(backend_xmin)) AS age,
                    CASE WHEN xact_start IS NULL THEN format(E'-- see since when, with\\nGRANT {SEES_REPLICAS} TO %I;', current_user)
                         ELSE format(E'-- end its transaction, or\\nSELECT pg_terminate_backend(%s);', pid) END AS fix
             FROM pg_stat_activity
             WHERE datname = current_database() AND usename IS NOT NULL AND pid <> pg_backend_pid()
               AND coalesce(backend_type, 'client backend') = 'client backend'
               AND pid NOT IN (SELECT pid FROM pg_stat_progress_vacuum)
             UNION ALL
             SELECT format('prepared transaction %s', gid), prepared, age(transaction),
                    format(E'-- COMMIT PREPARED, or\\nROLLBACK PREPARED %L;', gid)
             FROM pg_prepared_xacts WHERE database = current_database()
             UNION ALL
             SELECT format('replication slot %s', slot_name), NULL, age(xmin), CASE
                    WHEN active THEN '-- end the long transaction on its standby, or there: ALTER SYSTEM SET hot_standby_feedback = off;'
                    ELSE format(E'-- start its standby, or if that is gone\\nSELECT pg_drop_replication_slot(%L);', slot_name) END
             FROM pg_replication_slots
             UNION ALL
             SELECT format('standby %s', application_name), NULL, age(backend_xmin),
                    '-- end the long transaction on it, or there: ALTER SYSTEM SET hot_standby_feedback = off;'
             FROM pg_stat_replication
         ) AS s
         WHERE CASE WHEN since IS NULL THEN age >= {MANY_TRANSACTIONS} ELSE extract(epoch FROM now() - since) >= {LONG} AND age >= 0 END
         ORDER BY age DESC LIMIT 3",
    );
    for row in session.in_catalog(&what, |session| session.query(&what, &sql, &[]))? {
        let (holder, since, age, fix): (String, Option<String>, i32, String) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let since = since.map_or_else(|| format!("for {age} transactions"), |since| format!("since {since} UTC"));
        findings.note(
            "old-snapshot",
            format!("{holder} has held a snapshot {since}"),
            format!(
                "{name} has about {dead:.0} dead tuples. VACUUM cannot remove those that are newer than the snapshot, and every \
                 run visits them in the index of unsent rows"
            ),
            fix,
        );
    }
    Ok(())
}

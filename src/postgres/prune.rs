//! Old flagged rows: read page by page, and deleted where each is still the version that was read.
//!
//! As for flagging, rows are locked with SKIP LOCKED first and named by table, place, writer and key.

use std::collections::BTreeMap;
use std::time::Duration;

use postgres::error::SqlState;
use postgres::{Row, Transaction};

use super::flag::Named;
use super::session::{Attempt, Failure, Session};
use super::source_table::{SourceTable, quote};
use super::wire::version_of;
use crate::crash;
use crate::data::Version;
use crate::error::{Error, Result};
use crate::mutant;
use crate::ports::source::SourceColumn;

/// A row of a page.
pub struct OldRow {
    /// The version that was read.
    pub version: Version,
    /// The key's text.
    pub key: String,
    /// When it was read, in milliseconds, by PostgreSQL's clock.
    pub read_ms: i64,
    /// What was selected of it.
    pub selected: Row,
}

/// The rows of one table that are flagged and old.
pub struct PgOldRows {
    reader: Session,
    /// Has the role's own search path: triggers fire in it.
    deleter: Session,
    table: SourceTable,
    topic: String,
    /// The date or timestamp that says how old a row is.
    by: SourceColumn,
    row_lock: Duration,
    /// Rows below it are old.
    pub limit: String,
    /// The last row of the page before.
    after: Option<(String, String)>,
    is_recorded: bool,
}

impl PgOldRows {
    /// Takes the limit: one instant, by PostgreSQL's clock.
    pub fn new(
        mut reader: Session,
        deleter: Session,
        table: SourceTable,
        topic: &str,
        by: SourceColumn,
        older_than: Duration,
        row_lock: Duration,
    ) -> Result<Self> {
        let what = cannot_prune(&table);
        let microseconds = i64::try_from(older_than.as_micros()).unwrap_or(i64::MAX);
        let sql = format!("SELECT (now() - $1::bigint * interval '1 microsecond')::{}::text", age_kind(&by));
        reader.execute_batch(&what, "SET search_path = pg_catalog")?;
        let limit: Option<String> = reader.value(&what, &sql, &[&microseconds])?;
        Ok(Self {
            reader,
            deleter,
            table,
            topic: topic.to_owned(),
            by,
            row_lock,
            limit: limit.unwrap_or_default(),
            after: None,
            is_recorded: false,
        })
    }

    fn by_sql(&self) -> String {
        format!("t.{}", quote(&self.by.name))
    }

    /// The next rows, at most `most`, in the order of their age; of each, `selected` and what names it.
    pub fn page(&mut self, selected: &str, most: usize) -> Result<Vec<OldRow>> {
        let (by, kind, what) = (self.by_sql(), age_kind(&self.by), cannot_prune(&self.table));
        let behind = if self.after.is_some() {
            let later = self.table.key_compares_sql("t", ">", &self.table.key_values_sql("$3::text"));
            format!(" AND {by} >= ($2::text)::{kind} AND ({by} > ($2::text)::{kind} OR {later})")
        } else {
            // The parameters have to be there.
            " AND $2::text IS NULL AND $3::text IS NULL".to_owned()
        };
        let sql = format!(
            "SELECT {selected}, t.tableoid, t.ctid, t.xmin, {key}, {by}::text, (extract(epoch FROM clock_timestamp()) * 1000)::bigint
             FROM {name} AS t WHERE t.{flag} AND {by} < ($1::text)::{kind}{behind} ORDER BY {by}, {order} LIMIT {most}",
            key = self.table.key_text_sql("t"),
            name = self.table.name,
            flag = self.table.flag_sql(),
            order = self.table.key_columns_sql("t").join(", "),
        );
        let (last_by, last_key) = self.after.clone().unzip();
        let found = self.reader.query(&what, sql.as_str(), &[&self.limit, &last_by, &last_key])?;
        let mut rows = Vec::with_capacity(found.len());
        for row in found {
            let own = row.len() - OWN;
            let version = version_of(&row, [own, own + 1, own + 2]);
            let key: String = row.get(own + 3);
            self.after = Some((row.get(own + 4), key.clone()));
            rows.push(OldRow { version, key, read_ms: row.get(own + 5), selected: row });
        }
        Ok(rows)
    }

    /// Records the limit, durably, before the first row below it is deleted. It is never lowered.
    pub fn record_limit(&mut self) -> Result<()> {
        if self.is_recorded {
            return Ok(());
        }
        let (what, kind) = (cannot_prune(&self.table), age_kind(&self.by));
        let sql = format!(
            "UPDATE pg2ch_checkpoint SET pruned_by = $3,
                 pruned_below = CASE WHEN pruned_by = $3 THEN greatest(pruned_below::{kind}, ($4::text)::{kind})::text ELSE $4 END
             WHERE source = $1 AND topic = $2 AND partition = -1"
        );
        let (source, topic, by, limit) = (&self.table.name, &self.topic, &self.by.name, &self.limit);
        crash::point("prune.limit.before");
        let recorded = self.deleter.transaction(&what, |transaction| {
            transaction.batch_execute("SET LOCAL synchronous_commit = on")?;
            Ok(transaction.execute(sql.as_str(), &[source, topic, by, limit])?)
        });
        let recorded = recorded.map_err(|failure| self.deleter.explain(&what, failure))?;
        if recorded != 1 {
            let why = "the row of this table in pg2ch_checkpoint has vanished";
            return Err(Error::unavailable(what, why, "run `pg2ch --once`, and prune again"));
        }
        crash::point("prune.limit.after");
        self.is_recorded = true;
        Ok(())
    }

    /// Deletes those of some rows that are still flagged, old, and the version that was read; returns how many. One that an
    /// application has locked is left alone.
    ///
    /// # Errors
    /// 78 if one is still there afterwards: a trigger or rule keeps it. Nothing is deleted then. Any PostgreSQL error.
    pub fn delete(&mut self, rows: &[&OldRow]) -> Result<u64> {
        let what = cannot_prune(&self.table);
        let sql = self.delete_sql();
        let (name, by_key) = (&self.table.name, self.table.key_equals_sql("t", "b.key"));
        let look = format!("SELECT count(*) FROM unnest($1::text[]) AS b (key) JOIN {name} AS t ON {by_key}");
        let lock_timeout = self.row_lock.as_millis().max(1);
        let (limit, mut is_kept) = (&self.limit, false);
        let deleted = self.deleter.transaction(&what, |transaction| {
            transaction.batch_execute(&format!(
                "SET LOCAL pg2ch.prune = 'on'; SET LOCAL lock_timeout = {lock_timeout}; SET LOCAL synchronous_commit = on"
            ))?;
            crash::point("prune.delete.before");
            let keys = delete_in(transaction, &sql, rows, limit)?;
            crash::point("prune.delete.after");
            // Triggers that are deferred fire now, where they can be seen.
            transaction.batch_execute("SET CONSTRAINTS ALL IMMEDIATE")?;
            let left: i64 = transaction.query_one(&look, &[&keys])?.get(0);
            crash::point("prune.look.after");
            if left > 0 && !mutant::is("prune: nobody looks again") {
                is_kept = true;
                return Err(Error::bug(&what, "rows are there after their DELETE").into());
            }
            Ok(keys.len() as u64)
        });
        // Of a row that a trigger has changed, when it was called to let it go, PostgreSQL itself says so.
        let is_changed = |failure: &Failure| failure.code() == Some(&SqlState::TRIGGERED_DATA_CHANGE_VIOLATION);
        if is_kept || deleted.as_ref().is_err_and(is_changed) {
            return Err(self.kept()?);
        }
        let deleted = deleted.map_err(|failure| self.deleter.explain(&what, failure))?;
        crash::point("prune.commit.after");
        Ok(deleted)
    }

    /// The partitions that have exactly as many rows as given: the number of each, by its OID.
    pub fn partitions_of(&mut self, rows: &BTreeMap<u32, u64>) -> Result<Vec<String>> {
        let (what, mut found) = (cannot_prune(&self.table), Vec::new());
        let named = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class AS c
             JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = $1";
        for (oid, count) in rows.iter().filter(|_| self.table.is_partitioned) {
            let Some(name) = self.reader.value::<String>(&what, named, &[oid])? else { continue };
            let sql = format!("SELECT count(*) FROM (SELECT FROM {name} LIMIT {}) AS s", count + 1);
            let there: Option<i64> = self.reader.value(&what, &sql, &[])?;
            if there.is_some_and(|there| there.unsigned_abs() == *count) {
                found.push(name);
            }
        }
        Ok(found)
    }

    fn delete_sql(&self) -> String {
        format!(
            "WITH l AS MATERIALIZED (
                 SELECT b.key, t.tableoid AS tableoid, t.ctid AS ctid
                 FROM unnest($1::oid[], $2::tid[], $3::xid[], $4::text[]) AS b (tableoid, ctid, xmin, key)
                      JOIN {name} AS t ON {by_version} AND {by_key}
                 WHERE t.{flag} AND {by} < ($5::text)::{kind} FOR UPDATE OF t SKIP LOCKED),
             d AS (DELETE FROM {name} AS t USING l WHERE t.ctid = l.ctid {locked} RETURNING 1)
             SELECT (SELECT array_agg(key) FROM l), (SELECT count(*) FROM d)",
            name = self.table.name,
            by_version = self.by_version_sql(),
            locked = self.table.same_table_sql("l.tableoid"),
            by_key = self.table.key_equals_sql("t", "b.key"),
            flag = self.table.flag_sql(),
            by = self.by_sql(),
            kind = age_kind(&self.by),
        )
    }

    fn by_version_sql(&self) -> String {
        if mutant::is("prune: any version is deleted") {
            return "TRUE".to_owned();
        }
        format!("t.ctid = b.ctid AND t.xmin = b.xmin {}", self.table.same_table_sql("b.tableoid"))
    }

    /// Why rows are there after their DELETE.
    fn kept(&mut self) -> Result<Error> {
        let what = cannot_prune(&self.table);
        // tgtype is a set of bits: 8 is DELETE (pg_trigger in PostgreSQL's sources).
        let sql = "SELECT coalesce(string_agg(DISTINCT tgname, ', '), 'none') FROM pg_catalog.pg_trigger
             WHERE (tgrelid = $1 OR tgrelid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass)))
               AND NOT tgisinternal AND tgenabled <> 'D' AND tgtype & 8 <> 0";
        let triggers: Option<String> = self.deleter.value(&what, sql, &[&self.table.oid])?;
        Ok(Error::config(
            what,
            format!(
                "rows are still there after their DELETE, which is rolled back: triggers on DELETE are {}",
                triggers.unwrap_or_default()
            ),
            "let the trigger pass a session of prune: IF current_setting('pg2ch.prune', TRUE) = 'on' THEN RETURN OLD; END IF",
        ))
    }
}

/// What cannot be done, for a message.
pub fn cannot_prune(table: &SourceTable) -> String {
    format!("cannot prune {}", table.name)
}

/// That rows of the table can be deleted: privileges are asked for when a statement begins.
///
/// # Errors
/// 77 without the privilege, 78 if a rule does something else; any PostgreSQL error.
pub fn require_deletable(session: &mut Session, table: &SourceTable) -> Result<()> {
    let what = cannot_prune(table);
    let rules = "SELECT pg_catalog.string_agg(rulename, ', ') FROM pg_catalog.pg_rewrite
         WHERE ev_class = $1 AND ev_type = '4' AND ev_enabled <> 'D'";
    if let Some(rules) = session.value::<String>(&what, rules, &[&table.oid])? {
        return Err(Error::config(
            what,
            format!("a rule does something else on DELETE, or besides: {rules}"),
            "drop the rule, or make it a trigger that lets prune pass: see docs/deletes.md",
        ));
    }
    let explained = session.query(&what, &format!("EXPLAIN DELETE FROM {} WHERE FALSE", table.name), &[]);
    let Err(refused) = explained else { return Ok(()) };
    let grant = "SELECT pg_catalog.format('GRANT DELETE ON %s TO %I;', $2, current_user)
         WHERE NOT pg_catalog.has_table_privilege($1::oid, 'DELETE')";
    Err(match session.value::<String>(&what, grant, &[&table.oid, &table.name])? {
        Some(grant) => refused.with_hint(format!("grant the role what a run does not need: {grant}")),
        None => refused,
    })
}

/// Whether the checkpoint table is there, and the role may read it.
pub fn reads_checkpoint(session: &mut Session, what: &str) -> Result<bool> {
    let readable = "SELECT 1 WHERE has_table_privilege(to_regclass('pg2ch_checkpoint'), 'SELECT')";
    Ok(session.query_opt(what, readable, &[])?.is_some())
}

/// Whether the limit can be recorded: the checkpoint has a row of the source. It belongs to one column.
///
/// # Errors
/// 78 if another column's limit is recorded, unless `force`; any PostgreSQL error.
pub fn require_limit(session: &mut Session, table: &SourceTable, topic: &str, by: &str, force: bool) -> Result<bool> {
    let what = cannot_prune(table);
    let sql = "SELECT pruned_by FROM pg2ch_checkpoint WHERE source = $1 AND topic = $2 AND partition = -1";
    let row = session.query_opt(&what, sql, &[&table.name, &topic])?;
    match row.as_ref().and_then(|row| row.get::<_, Option<String>>(0)) {
        Some(other) if other != by && !force => Err(Error::config(
            what,
            format!("rows were pruned by {other} before, and `pg2ch verify` knows only one limit"),
            format!(
                "name the same column (`--by {other}`, in `keep` `by = \"{other}\"`), or run `pg2ch prune` with --force once: verify \
                 then counts what was pruned before as only in the target"
            ),
        )),
        _ => Ok(row.is_some()),
    }
}

/// How many columns stand behind what is selected.
const OWN: usize = 6;

/// Returns the keys of the rows that were locked and deleted.
fn delete_in(transaction: &mut Transaction<'_>, sql: &str, rows: &[&OldRow], limit: &String) -> Attempt<Vec<String>> {
    let mut named = Named::default();
    rows.iter().enumerate().for_each(|(place, row)| named.push(place, row.version, &row.key));
    let row = transaction.query_one(sql, &[&named.tables, &named.ctids, &named.xmins, &named.keys, limit])?;
    Ok(row.get::<_, Option<Vec<String>>>(0).unwrap_or_default())
}

/// The type in which ages are compared: whole, whatever the column's precision.
pub fn age_kind(by: &SourceColumn) -> &'static str {
    match by.base_type.as_str() {
        "date" => "date",
        with_zone if with_zone.ends_with("with time zone") => "timestamptz",
        _ => "timestamp",
    }
}

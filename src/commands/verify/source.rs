//! What verify asks of PostgreSQL.

use std::collections::{HashMap, HashSet};

use super::buckets::{Bucketing, SUMMED, SourceSum, Sum};
use super::key::KeyText;
use crate::error::Result;
use crate::postgres::{Session, SourceTable, fields_sql};

/// How many rows are fetched at once.
const FETCH: usize = 10_000;

/// About how many bytes of rows are fetched at once where their contents are compared.
const FETCH_BYTES: usize = 8 << 20;

/// What a server prints of a row; `None` for NULL.
pub type PrintedRow = Vec<Option<String>>;

/// The same of several, by the numbers of their keys.
pub type Printed = HashMap<u64, PrintedRow>;

/// The source table, in two sessions: one holds a cursor, the other asks.
pub struct Source {
    cursor: Session,
    asker: Session,
    pub table: SourceTable,
    key: KeyText,
    what: String,
}

/// A row, as far as its key goes.
#[derive(Clone, Debug)]
pub struct SourceKey {
    pub number: u64,
    pub flagged: bool,
    /// The key's text on both servers.
    pub text: String,
    pub record_key: String,
}

/// A flagged row with what is compared of its content.
#[derive(Clone, Debug)]
pub struct SourceRow {
    pub key: SourceKey,
    /// The compared columns as JSON.
    pub json: String,
}

impl Source {
    /// Takes two sessions; names are then looked up in pg_catalog only, as in the session that reads for sending.
    pub fn new(mut cursor: Session, mut asker: Session, table: SourceTable, key: KeyText) -> Result<Self> {
        let what = format!("cannot read {}", table.name);
        cursor.execute_batch(&what, "SET search_path = pg_catalog")?;
        asker.execute_batch(&what, "SET search_path = pg_catalog")?;
        Ok(Self { cursor, asker, table, key, what })
    }

    /// About how many rows there are, as the planner believes.
    pub fn estimate(&mut self) -> Result<u64> {
        let sql = "SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM pg_class AS c
             WHERE c.oid = $1 OR c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = $1)";
        Ok(self.asker.value(&self.what, sql, &[&self.table.oid])?.map_or(0, i64::unsigned_abs))
    }

    /// Counts and sums by bucket; rows that meet the condition `below` are only counted.
    pub fn sums(&mut self, buckets: Bucketing, below: &str) -> Result<Vec<SourceSum>> {
        let sql = format!(
            "SELECT {bucket}, count(*) FILTER (WHERE NOT below), coalesce(sum(n & {SUMMED}) FILTER (WHERE NOT below), 0)::text,
                    count(*) FILTER (WHERE flag AND NOT below), coalesce(sum(n & {SUMMED}) FILTER (WHERE flag AND NOT below), 0)::text,
                    count(*) FILTER (WHERE flag IS NULL), count(*) FILTER (WHERE below), count(*) FILTER (WHERE flag AND below)
             FROM (SELECT {number} AS n, t.{flag} AS flag, {below} AS below FROM {name} AS t WHERE {taken} OFFSET 0) AS s GROUP BY 1",
            bucket = bucket_sql(buckets),
            number = self.key.source_number_sql(),
            flag = self.table.flag_sql(),
            taken = self.table.taken_sql(),
            name = self.table.name,
        );
        let mut sums = vec![SourceSum::default(); buckets.count()];
        for row in self.asker.query(&self.what, &sql, &[])? {
            let bucket: i64 = row.get(0);
            let sum = |keys: i64, text: &str| Sum { keys: keys.unsigned_abs(), sum: modulo(text) };
            if let Some(place) = usize::try_from(bucket).ok().and_then(|bucket| sums.get_mut(bucket)) {
                *place = SourceSum {
                    all: sum(row.get(1), row.get(2)),
                    flagged: sum(row.get(3), row.get(4)),
                    unset: row.get::<_, i64>(5).unsigned_abs(),
                    below: row.get::<_, i64>(6).unsigned_abs(),
                    below_flagged: row.get::<_, i64>(7).unsigned_abs(),
                };
            }
        }
        Ok(sums)
    }

    /// Begins to read the keys of all rows in some buckets.
    pub fn open_keys(&mut self, buckets: Bucketing, slice: &[usize]) -> Result<()> {
        let list: Vec<String> = slice.iter().map(usize::to_string).collect();
        let sql = format!(
            "SELECT n, flag, k, r FROM ({keys} OFFSET 0) AS s WHERE {bucket} IN (SELECT unnest('{{{list}}}'::bigint[]))",
            keys = self.keys_sql(),
            bucket = bucket_sql(buckets),
            list = list.join(","),
        );
        self.open(&sql)
    }

    /// Begins to read the keys of all rows that meet a condition; a row's alias is `t`.
    pub fn open_keys_where(&mut self, condition: &str) -> Result<()> {
        let sql = format!("{} AND {condition}", self.keys_sql());
        self.open(&sql)
    }

    fn keys_sql(&self) -> String {
        format!(
            "SELECT {number} AS n, t.{flag} IS TRUE AS flag, {text} AS k, {record_key} AS r FROM {name} AS t WHERE {taken}",
            number = self.key.source_number_sql(),
            text = self.key.source_sql(),
            record_key = self.table.key_text_sql("t"),
            flag = self.table.flag_sql(),
            name = self.table.name,
            taken = self.table.taken_sql(),
        )
    }

    /// The next keys; `None` at the end, where the cursor is closed.
    pub fn next_keys(&mut self) -> Result<Option<Vec<SourceKey>>> {
        Ok(self.next(FETCH)?.map(|rows| rows.iter().map(key_of).collect()))
    }

    /// Begins to read the flagged rows in the key's order, with `columns` as JSON.
    pub fn open_rows(&mut self, columns: &[String]) -> Result<()> {
        let order = self.table.key_columns_sql("t").join(", ");
        let sql = format!("{} WHERE {} ORDER BY {order}", self.rows_sql(columns), self.sent_sql());
        self.open(&sql)
    }

    /// The next rows; `None` at the end, where the cursor is closed. `typical` is the size of a row so far.
    pub fn next_rows(&mut self, typical: usize) -> Result<Option<Vec<SourceRow>>> {
        let rows = self.next((FETCH_BYTES / typical.max(1)).clamp(10, FETCH / 2))?;
        Ok(rows.map(|rows| rows.iter().map(row_of).collect()))
    }

    /// The rows of these record keys as they are now, as far as they are flagged.
    pub fn flagged_rows(&mut self, columns: &[String], record_keys: &[&str]) -> Result<Vec<SourceRow>> {
        self.ask(&format!("{}, {}", self.rows_sql(columns), self.named_sql()), record_keys, row_of)
    }

    /// The same with all of their columns. A key may be that of another producer's record, and no value of the key's type: then no row
    /// has it.
    pub fn sent_rows(&mut self, record_keys: &[&str]) -> Result<Vec<SourceRow>> {
        if record_keys.is_empty() {
            return Ok(Vec::new());
        }
        let columns: Vec<String> = self.table.columns.iter().map(|column| column.name.clone()).collect();
        match self.flagged_rows(&columns, record_keys) {
            Err(error) if error.is_transient() => Err(error),
            Err(_) if record_keys.len() > 1 => {
                let (one, other) = record_keys.split_at(record_keys.len() / 2);
                Ok([self.sent_rows(one)?, self.sent_rows(other)?].concat())
            }
            found => Ok(found.unwrap_or_default()),
        }
    }

    /// What PostgreSQL prints of the rows of these record keys, as far as they are flagged: a text for each of the expressions.
    pub fn shown(&mut self, expressions: &str, record_keys: &[&str]) -> Result<Printed> {
        let sql = format!(
            "SELECT {number}, ARRAY[{expressions}]::text[] FROM {name} AS t, {named}",
            number = self.key.source_number_sql(),
            name = self.table.name,
            named = self.named_sql(),
        );
        let shown = |row: &postgres::Row| (row.get::<_, i64>(0).cast_unsigned(), row.get(1));
        self.ask(&sql, record_keys, shown)
    }

    /// Those of these record keys whose rows are there, flagged, and meet a condition; a row's alias is `t`.
    pub fn flagged_where(&mut self, condition: &str, record_keys: &[&str]) -> Result<HashSet<String>> {
        let sql = format!("SELECT w.pg2ch_key FROM {} AS t, {} AND {condition}", self.table.name, self.named_sql());
        self.ask(&sql, record_keys, |row| row.get(0))
    }

    /// Queries about these record keys, some at a time: they are `$1`.
    fn ask<T, C>(&mut self, sql: &str, record_keys: &[&str], read: impl Fn(&postgres::Row) -> T) -> Result<C>
    where
        C: Default + Extend<T>,
    {
        let mut found = C::default();
        for chunk in record_keys.chunks(FETCH) {
            found.extend(self.asker.query(&self.what, sql, &[&chunk])?.iter().map(&read));
        }
        Ok(found)
    }

    /// Takes the flag back from the rows of these record keys that are flagged; returns how many. A row that an
    /// application has locked is left alone.
    pub fn unflag(&mut self, record_keys: &[&str]) -> Result<u64> {
        let (name, flag) = (&self.table.name, self.table.flag_sql());
        let sql = format!(
            "UPDATE {name} AS u SET {flag} = FALSE FROM (
                 SELECT t.tableoid, t.ctid FROM {name} AS t, {named} FOR NO KEY UPDATE OF t SKIP LOCKED) AS s
             WHERE u.tableoid = s.tableoid AND u.ctid = s.ctid AND u.{flag}",
            named = self.named_sql(),
        );
        let what = format!("cannot unflag rows of {name}");
        let mut unflagged = 0;
        for chunk in record_keys.chunks(FETCH) {
            unflagged += self.asker.execute(&what, &sql, &[&chunk])?;
        }
        Ok(unflagged)
    }

    /// Whether a row, its alias `t`, belongs in the target: a flagged one within the condition.
    fn sent_sql(&self) -> String {
        format!("t.{} AND {}", self.table.flag_sql(), self.table.taken_sql())
    }

    /// What reads, of the rows of the alias `t`, those with a record key among `$1` that belong in the target. It stands after a comma:
    /// within a JOIN PostgreSQL does not find system columns, which `where` may name, without their table.
    fn named_sql(&self) -> String {
        let by_key = self.table.key_equals_sql("t", "w.pg2ch_key");
        format!("unnest($1::text[]) AS w (pg2ch_key) WHERE {by_key} AND {}", self.sent_sql())
    }

    fn rows_sql(&self, columns: &[String]) -> String {
        format!("SELECT {} FROM {} AS t", row_sql(&self.table, &self.key, columns), self.table.name)
    }

    fn open(&mut self, sql: &str) -> Result<()> {
        self.cursor.execute_batch(&self.what, &format!("BEGIN READ ONLY; DECLARE c NO SCROLL CURSOR FOR {sql}"))
    }

    fn next(&mut self, rows: usize) -> Result<Option<Vec<postgres::Row>>> {
        let rows = self.cursor.query(&self.what, &format!("FETCH {rows} FROM c"), &[])?;
        if rows.is_empty() {
            return self.stop().map(|()| None);
        }
        Ok(Some(rows))
    }

    /// Gives up what [`open_keys`](Self::open_keys) or [`open_rows`](Self::open_rows) began.
    pub fn stop(&mut self) -> Result<()> {
        self.cursor.execute_batch(&self.what, "CLOSE c; COMMIT")
    }
}

fn bucket_sql(buckets: Bucketing) -> String {
    // The shift keeps the sign, so it has to be masked off.
    format!("((n >> {}) & {})", buckets.shift(), buckets.count() - 1)
}

/// What [`row_of`] needs of a row, its alias `t`; `columns` are those that are compared.
pub fn row_sql(table: &SourceTable, key: &KeyText, columns: &[String]) -> String {
    let compared = table.columns.iter().filter(|column| columns.contains(&column.name));
    format!(
        "{number}, TRUE, {text}, {record_key}, (SELECT row_to_json(pg2ch_record)::text FROM (SELECT {columns}) AS pg2ch_record)",
        number = key.source_number_sql(),
        text = key.source_sql(),
        record_key = table.key_text_sql("t"),
        columns = fields_sql("t", compared),
    )
}

fn key_of(row: &postgres::Row) -> SourceKey {
    SourceKey {
        number: row.get::<_, i64>(0).cast_unsigned(),
        flagged: row.get(1),
        text: row.get(2),
        record_key: row.get(3),
    }
}

/// A row with what is compared of it.
pub fn row_of(row: &postgres::Row) -> SourceRow {
    SourceRow { key: key_of(row), json: row.get(4) }
}

/// A sum modulo 2^64, as ClickHouse adds.
fn modulo(sum: &str) -> u64 {
    sum.parse::<u128>().map_or(0, |sum| u64::try_from(sum & u128::from(u64::MAX)).unwrap_or_default())
}

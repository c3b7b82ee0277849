//! Reads the unsent rows in key order, in bounded batches.
//!
//! Each batch is one statement that starts behind the last key (keyset pagination over the partial index), so that no
//! snapshot is held between batches. Reading changes nothing: a crash here leaves nothing to repair.

use postgres::SimpleQueryRow;
use postgres::fallible_iterator::FallibleIterator;

use super::session::{Param, Session, literal, typed};
use super::source_table::{SourceTable, quote};
use super::unreadable::{self, MOST_UNREADABLE, may_be_a_rows_fault};
use super::wire::{Raw, version_of};
use crate::data::{Headers, Row, RowBatch, push_header};
use crate::error::Result;
use crate::ports::source::{Estimate, FIRST_BYTES, UnsentRows};
use crate::report::UnreadableRow;

/// How many rows the first statement asks for, whose size is not known yet: few enough for wide ones, and enough for most
/// runs of a job that runs often.
const FIRST_ROWS: usize = 200;

/// Unsent rows, read through a session that another reader may have behind this one.
pub trait PgRows: UnsentRows + Send {
    /// The session. Nothing is read any more.
    fn into_session(self: Box<Self>) -> Session;
}

/// The unsent rows of a real PostgreSQL table.
pub struct PgUnsentRows {
    session: Session,
    what: String,
    table: SourceTable,
    first: String,
    rest: String,
    /// The keys of rows that cannot be read, and these rows until somebody asks for them.
    without: Vec<String>,
    unreadable: Vec<UnreadableRow>,
    last: Option<Vec<String>>,
    highest: Vec<String>,
    /// A statement has brought fewer rows than it asked for.
    is_read: bool,
    max_bytes: usize,
    /// The size of a typical row, so that a statement asks for hardly more than fits into a batch.
    typical_row: usize,
    clock_floor: i64,
}

/// What asks for the highest unsent key of a table, its columns as text, in a transaction of its own. Where rows have an order,
/// any row answers, and the last one is nearest: before it lie the dead entries of rows that were flagged.
pub fn highest_unsent_key_sql(table: &SourceTable) -> String {
    let columns = table.key_columns_sql("t");
    let texts: Vec<_> = columns.iter().map(|column| format!("{column}::text")).collect();
    let descending: Vec<_> = table.order_columns().iter().map(|name| format!("t.{} DESC", quote(name))).collect();
    format!(
        "SET LOCAL search_path = pg_catalog; SELECT {} FROM {} AS t WHERE {} ORDER BY {} LIMIT 1",
        texts.join(", "),
        table.name,
        table.unsent_sql(),
        descending.join(", "),
    )
}

/// The key in its answer; `None` if every row is sent.
pub fn highest_unsent_key(answer: Option<&Vec<SimpleQueryRow>>) -> Option<Vec<String>> {
    let row = answer?.first()?;
    Some((0..row.len()).map(|part| row.get(part).unwrap_or_default().to_owned()).collect())
}

/// Unsent rows are counted up to here: a table that was never sent is not read to its end for a number.
pub const COUNTED: i64 = 1_000_000;

/// How many rows are unsent, at least; and whether these are all.
pub fn count_unsent(session: &mut Session, table: &SourceTable) -> Result<(i64, bool)> {
    session.in_catalog(&counting(table), |session| count_in_catalog(session, table))
}

/// The same, in a session that looks names up in pg_catalog already, and goes on doing so.
pub(super) fn count_in_catalog(session: &mut Session, table: &SourceTable) -> Result<(i64, bool)> {
    let (name, unsent) = (&table.name, table.unsent_sql());
    let sql = format!("SELECT count(*) FROM (SELECT FROM {name} AS t WHERE {unsent} LIMIT {}) AS unsent", COUNTED + 1);
    let rows: i64 = session.value(&counting(table), &sql, &[])?.unwrap_or(0);
    Ok((rows.min(COUNTED), rows <= COUNTED))
}

fn counting(table: &SourceTable) -> String {
    format!("cannot count the unsent rows of {}", table.name)
}

/// About how many rows are unsent: counted where they are not too many, otherwise what the planner believes.
pub fn estimate_unsent(session: &mut Session, table: &SourceTable) -> Result<Estimate> {
    let (counted, exact) = count_unsent(session, table)?;
    let number = counted.unsigned_abs();
    if exact {
        return Ok(Estimate { number, exact });
    }
    let what = format!("cannot estimate the unsent rows of {}", table.name);
    let sql = format!("EXPLAIN SELECT FROM {} AS t WHERE {}", table.name, table.unsent_sql());
    let plan = session.in_catalog(&what, |session| session.query(&what, &sql, &[]))?;
    let believed = plan.first().and_then(|row| planned_rows(row.get(0))).unwrap_or(0);
    Ok(Estimate { number: believed.max(number), exact })
}

/// The rows in a line of a plan: `Seq Scan on t  (cost=0.00..1.05 rows=5 width=0)`.
fn planned_rows(line: &str) -> Option<u64> {
    line.rsplit_once(" rows=")?.1.split(' ').next()?.parse().ok()
}

impl PgUnsentRows {
    /// Makes ready to read the rows up to the key `highest`; no batch holds more than `max_bytes`, unless it is one row, nor
    /// bears a timestamp at or below `clock_floor` (milliseconds).
    pub fn new(
        session: Session,
        table: &SourceTable,
        highest: Vec<String>,
        max_bytes: usize,
        clock_floor: i64,
    ) -> Self {
        let what = format!("cannot read unsent rows of {}", table.name);
        Self {
            session,
            what,
            table: table.clone(),
            first: select(table, false, false),
            rest: select(table, true, false),
            without: Vec::new(),
            unreadable: Vec::new(),
            last: None,
            highest,
            is_read: false,
            max_bytes,
            typical_row: (max_bytes.min(FIRST_BYTES) / FIRST_ROWS).max(1),
            clock_floor,
        }
    }

    /// Reads `rows` into a batch until it is full; what the server has sent beyond is left to the next statement.
    fn fill(&mut self, limit: i64) -> Result<RowBatch> {
        let Self { session, what, table, first, rest, without, last, highest, is_read, max_bytes, .. } = self;
        let key_parts = table.key.len();
        let mut params: Vec<&dyn Param> = vec![&limit];
        params.extend(highest.iter().chain(last.iter().flatten()).map(|part| part as &dyn Param));
        params.extend((!without.is_empty()).then_some(without as &dyn Param));
        let sql = if last.is_some() { rest } else { first };
        let mut batch = RowBatch::with_capacity(usize::try_from(limit).unwrap_or_default(), 0);
        let mut parts = None;
        // A key of one column is its own part.
        let (key_at, headers_at) = if key_parts == 1 { (4, 6) } else { (6, 6 + key_parts) };
        let mut filled = Vec::new();
        let is_retyped = session.call(what, |client| {
            let (mut rows, mut is_cut) = (client.query_typed_raw(sql, typed(&params))?, false);
            while let Some(row) = rows.next()? {
                let Some(clock) = row.get(3) else { return Ok(true) };
                let found = row_of(&row, table, headers_at, &mut filled);
                if !batch.is_empty() && batch.bytes() + found.size() > *max_bytes {
                    is_cut = true;
                    break;
                }
                batch.timestamp_ms = clock;
                batch.push(&found);
                parts = Some(row);
            }
            *is_read = !is_cut && i64::try_from(batch.len()).is_ok_and(|rows| rows < limit);
            Ok(false)
        })?;
        if is_retyped {
            return Err(table.retyped());
        }
        if let Some(row) = parts {
            *last = Some((0..key_parts).map(|part| row.get(key_at + part)).collect());
        }
        Ok(batch)
    }

    /// Finds the rows that have failed the statement, and leaves them out from now on; whether there are any.
    fn leave_out_unreadable(&mut self, limit: usize) -> Result<bool> {
        let Self { session, table, without, highest, last, .. } = self;
        let values = |parts: &[String]| -> Vec<String> {
            let columns = table.key.iter().zip(parts);
            columns.map(|(column, part)| format!("{}::{}", literal(part), column.type_name)).collect()
        };
        let mut range = format!("AND {}", table.key_compares_sql("t", "<=", &values(highest)));
        if let Some(last) = last {
            range += &format!(" AND {}", table.key_compares_sql("t", ">", &values(last)));
        }
        let order = table.key_columns_sql("t").join(", ");
        let mut found = unreadable::find(session, table, &range, &order, limit + without.len())?;
        found.retain(|row| !without.contains(&row.key));
        without.extend(found.iter().map(|row| row.key.clone()));
        (self.first, self.rest) = (select(table, false, true), select(table, true, true));
        let is_found = !found.is_empty() && without.len() <= MOST_UNREADABLE;
        self.unreadable.extend(found);
        Ok(is_found)
    }
}

impl PgRows for PgUnsentRows {
    fn into_session(self: Box<Self>) -> Session {
        self.session
    }
}

impl UnsentRows for PgUnsentRows {
    fn next_batch(&mut self, max_rows: usize) -> Result<RowBatch> {
        if self.is_read {
            return Ok(RowBatch::default());
        }
        // One more than typically fits: what is asked for beyond is sent and thrown away. Rows that get smaller make a smaller
        // batch, and the next one larger.
        let limit = max_rows.min(self.max_bytes / self.typical_row + 1);
        let mut batch = loop {
            match self.fill(i64::try_from(limit).unwrap_or(i64::MAX)) {
                Err(error) if may_be_a_rows_fault(&error) && self.leave_out_unreadable(limit).unwrap_or(false) => {}
                filled => break filled?,
            }
        };
        if !batch.is_empty() {
            self.typical_row = (batch.bytes() / batch.len()).max(64);
            // A clock that goes back must not make new versions look older than those that were sent.
            batch.timestamp_ms = batch.timestamp_ms.max(self.clock_floor + 1);
            self.clock_floor = batch.timestamp_ms - 1;
        }
        Ok(batch)
    }

    fn limit_bytes(&mut self, bytes: usize) {
        self.max_bytes = bytes;
    }

    fn is_at_end(&self) -> bool {
        self.is_read
    }

    fn take_unreadable(&mut self) -> Vec<UnreadableRow> {
        std::mem::take(&mut self.unreadable)
    }
}

/// A row as both readers select it: place, writer, table, clock, key, value; from `headers_at` on its headers, which go into
/// `filled`. Its record's key is its own.
pub(super) fn row_of<'a>(
    row: &'a postgres::Row,
    table: &SourceTable,
    headers_at: usize,
    filled: &'a mut Vec<u8>,
) -> Row<'a> {
    let (Raw(key), Raw(value)): (Raw<'_>, Raw<'_>) = (row.get(4), row.get(5));
    filled.clear();
    for (at, (name, _)) in table.headers.iter().enumerate() {
        if let Some(Raw(value)) = row.get(headers_at + at) {
            push_header(filled, name, Some(value));
        }
    }
    Row { headers: Headers::of(filled), ..Row::plain(version_of(row, [2, 0, 1]), key, value) }
}

/// Leaves out the rows whose `text` is in the array that is this parameter. It is looked up in a hash, row by row: a join would sort
/// anew.
pub(super) fn without_sql(text: &str, parameter: usize) -> String {
    format!(" AND (({text}) COLLATE \"C\" IN (SELECT unnest(${parameter}::text[]))) IS NOT TRUE")
}

/// Columns: ctid, xmin, table, clock, key, value, then the parts of a key of several columns as text, then the headers.
/// Parameters: limit, the highest key's parts, the last key's parts if `is_behind`, and the keys that are left out if `is_without`.
fn select(table: &SourceTable, is_behind: bool, is_without: bool) -> String {
    let columns = table.key_columns_sql("t");
    let values = |first: usize| -> Vec<String> {
        let numbered = table.key.iter().enumerate();
        numbered.map(|(index, column)| format!("${}::text::{}", first + index, column.type_name)).collect()
    };
    let compared = |operator, first| table.key_compares_sql("t", operator, &values(first));
    let mut after = if is_behind { format!("AND {}", compared(">", 2 + columns.len())) } else { String::new() };
    if is_without {
        let parameter = 2 + columns.len() * if is_behind { 2 } else { 1 };
        after += &without_sql(&table.key_text_sql("t"), parameter);
    }
    let parts: String = match table.key_columns_sql("s").as_slice() {
        [_] => String::new(),
        several => several.iter().map(|column| format!(", {column}::text")).collect(),
    };
    let headers = table.more_headers_sql("s");
    format!(
        "SELECT s.ctid, s.xmin, s.tableoid,
                {clock} AS clock,
                {key}, row_to_json(pg2ch_record){parts}{headers}
         FROM (SELECT t.ctid, t.xmin, t.tableoid, {inner} FROM {name} AS t
               WHERE {unsent} AND {highest} {after}
               ORDER BY {order} LIMIT $1::bigint) AS s, {record}",
        clock = table.clock_sql(),
        key = table.key_text_sql("s"),
        inner = table.record_columns_sql("t").join(", "),
        name = table.name,
        unsent = table.unsent_sql(),
        highest = compared("<=", 2),
        order = columns.join(", "),
        record = table.record_sql("s"),
    )
}

//! Reads the unsent rows in their order, in passes: a pass is one snapshot, read by one cursor.
//!
//! A keyset would miss what is committed behind the place where it stands, until the next run. A pass shows what was committed
//! when it began, from the lowest on, and the reader begins the next one when every row of this one is settled.
//! Reading changes nothing: a crash here leaves nothing to repair.

use std::collections::HashSet;

use postgres::fallible_iterator::FallibleIterator;

use super::session::{Param, Session, typed};
use super::source_table::SourceTable;
use super::unreadable::{self, MOST_UNREADABLE, may_be_a_rows_fault};
use super::unsent::{PgRows, count_in_catalog, row_of, without_sql};
use super::wire::Raw;
use crate::data::{Row, RowBatch};
use crate::error::Result;
use crate::ports::source::{FIRST_BYTES, LeftOut, UnsentRows};
use crate::report::UnreadableRow;

/// How many rows the first FETCH asks for, whose size nobody knows yet.
const FIRST_ROWS: usize = 200;

/// How many batches' bytes a FETCH may bring, whose rows turn out larger than those before them. What lies beyond waits for
/// the next pass.
const MOST_IN_HAND: usize = 4;

/// The unsent rows of a table that has an order.
pub struct PgPasses {
    session: Session,
    what: String,
    table: SourceTable,
    max_bytes: usize,
    typical_row: usize,
    /// The records' timestamps lie above this.
    clock_floor: i64,
    /// The timestamp of the pass' records.
    newest: i64,
    pass: Option<Pass>,
    rows_read: usize,
    /// How many rows a FETCH may ask for, while a row is looked for that cannot be read.
    most_wanted: usize,
    unreadable: Vec<UnreadableRow>,
    /// The keys of all that were found.
    known: HashSet<String>,
}

/// A cursor, and what FETCH has brought beyond the last batch.
struct Pass {
    in_hand: RowBatch,
    next: usize,
    is_read: bool,
    /// Whether the last FETCH has brought more than is kept: nothing behind that belongs to the pass.
    is_cut: bool,
}

impl PgPasses {
    /// Prepares to read the rows in passes; no batch holds more than `max_bytes`, unless it is one row, nor bears a timestamp
    /// at or below `clock_floor` (milliseconds).
    pub fn new(session: Session, table: &SourceTable, max_bytes: usize, clock_floor: i64) -> Self {
        let what = format!("cannot read unsent rows of {}", table.name);
        let typical_row = (max_bytes.min(FIRST_BYTES) / FIRST_ROWS).max(1);
        Self {
            session,
            what,
            table: table.clone(),
            max_bytes,
            typical_row,
            clock_floor,
            newest: clock_floor,
            pass: None,
            rows_read: 0,
            most_wanted: usize::MAX,
            unreadable: Vec::new(),
            known: HashSet::new(),
        }
    }

    /// Takes the next `wanted` rows from the cursor.
    fn read(&mut self, wanted: usize) -> Result<()> {
        let sql = format!("FETCH {wanted} FROM pg2ch_pass");
        let mut batch = RowBatch::with_capacity(wanted, 0);
        let (table, clock_floor) = (&self.table, self.clock_floor);
        let (mut filled, mut is_cut) = (Vec::new(), false);
        let most_bytes = self.max_bytes.saturating_mul(MOST_IN_HAND);
        let is_retyped = self.session.call(&self.what, |client| {
            let mut rows = client.query_typed_raw(&sql, typed(&[]))?;
            while let Some(row) = rows.next()? {
                if batch.bytes() > most_bytes {
                    is_cut = true;
                    break;
                }
                let Some(clock) = row.get::<_, Option<i64>>(3) else { return Ok(true) };
                let record_key: Option<Raw<'_>> = row.get(6);
                let record_key = record_key.map(|Raw(key)| key);
                batch.push(&Row { record_key, ..row_of(&row, table, 7, &mut filled) });
                // A clock that goes back must not make new versions look older than those that were sent.
                batch.timestamp_ms = clock.max(clock_floor + 1);
            }
            Ok(false)
        })?;
        if is_retyped {
            return Err(self.table.retyped());
        }
        if !batch.is_empty() {
            self.typical_row = (batch.bytes() / batch.len()).max(64);
            self.newest = batch.timestamp_ms;
        }
        self.rows_read += batch.len();
        // What was cut off is read by none but the next pass.
        let is_read = is_cut || batch.len() < wanted;
        self.pass = Some(Pass { in_hand: batch, next: 0, is_read, is_cut });
        Ok(())
    }

    /// Ends a pass whose cursor a row has failed, which is found by asking for fewer and fewer: the rows before it go out first, as
    /// later ones may have to wait for it. Alone, it is left out. Whether there was such a row.
    fn leave_out_unreadable(&mut self, wanted: usize) -> Result<bool> {
        self.session.execute_batch(&self.what, "ROLLBACK")?;
        self.pass = Some(Pass { in_hand: RowBatch::default(), next: 0, is_read: true, is_cut: true });
        self.most_wanted = wanted / 8;
        if self.most_wanted > 0 {
            return Ok(true);
        }
        self.most_wanted = usize::MAX;
        let Self { session, table, known, .. } = self;
        // Others may have written rows before it meanwhile.
        let limit = self.rows_read + known.len() + MOST_UNREADABLE;
        let found = unreadable::find(session, table, "", &table.order_sql("t"), limit)?;
        let new = found.into_iter().find(|row| !known.contains(&row.key)).filter(|_| known.len() < MOST_UNREADABLE);
        known.extend(new.iter().map(|row| row.key.clone()));
        let is_found = new.is_some();
        self.unreadable.extend(new);
        Ok(is_found)
    }
}

impl PgRows for PgPasses {
    fn into_session(self: Box<Self>) -> Session {
        self.session
    }
}

impl UnsentRows for PgPasses {
    fn next_batch(&mut self, max_rows: usize) -> Result<RowBatch> {
        let is_empty = |pass: &Pass| pass.next == pass.in_hand.len() && !pass.is_read;
        if self.pass.as_ref().is_some_and(is_empty) {
            // More than typically fits into a batch stays in hand for the next one.
            let wanted = max_rows.min(self.max_bytes / self.typical_row + 1).min(self.most_wanted);
            match self.read(wanted) {
                Err(error) if may_be_a_rows_fault(&error) && self.leave_out_unreadable(wanted).unwrap_or(false) => {}
                read => read?,
            }
        }
        let Some(pass) = &mut self.pass else { return Ok(RowBatch::default()) };
        let rest = pass.in_hand.len() - pass.next;
        if pass.next == 0 && rest <= max_rows && pass.in_hand.bytes() <= self.max_bytes {
            pass.next = 0;
            return Ok(std::mem::take(&mut pass.in_hand));
        }
        let mut batch = RowBatch::with_capacity(rest.min(max_rows), 0);
        batch.timestamp_ms = pass.in_hand.timestamp_ms;
        while pass.next < pass.in_hand.len() && batch.len() < max_rows {
            let row = pass.in_hand.row(pass.next);
            if !batch.is_empty() && batch.bytes() + row.key.len() + row.size() > self.max_bytes {
                break;
            }
            batch.push(&row);
            pass.next += 1;
        }
        Ok(batch)
    }

    fn begin_pass(&mut self, left_out: &LeftOut) -> Result<()> {
        // A row may have been sent in the pass before, flagged, and changed: its versions' timestamps rise.
        self.clock_floor = self.newest;
        self.session.execute_batch(&self.what, "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")?;
        let keys: Vec<&str> = left_out.keys.iter().filter_map(|key| std::str::from_utf8(key).ok()).collect();
        let stopped: Vec<&str> = left_out.message_keys.iter().filter_map(|key| std::str::from_utf8(key).ok()).collect();
        let sql = declare(&self.table, !keys.is_empty(), !stopped.is_empty());
        let params: Vec<&dyn Param> =
            [&keys, &stopped].into_iter().filter(|texts| !texts.is_empty()).map(|texts| texts as _).collect();
        self.session.execute(&self.what, &sql, &params)?;
        self.pass = Some(Pass { in_hand: RowBatch::default(), next: 0, is_read: false, is_cut: false });
        self.rows_read = 0;
        Ok(())
    }

    fn limit_bytes(&mut self, bytes: usize) {
        self.max_bytes = bytes;
    }

    fn take_unreadable(&mut self) -> Vec<UnreadableRow> {
        std::mem::take(&mut self.unreadable)
    }

    fn is_cut(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.is_cut)
    }

    fn is_at_end(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.is_read && !pass.is_cut && pass.next == pass.in_hand.len())
    }

    fn count(&mut self) -> Result<Option<u64>> {
        let (rows, all) = count_in_catalog(&mut self.session, &self.table)?;
        Ok(all.then_some(rows.unsigned_abs()))
    }

    fn end_pass(&mut self) -> Result<()> {
        if self.pass.take().is_some() {
            self.session.execute_batch(&self.what, "ROLLBACK")?;
        }
        Ok(())
    }
}

/// The cursor of a pass. Columns: ctid, xmin, table, clock, key, value, the record's key, then the headers. The clock is read
/// once: the rows are those of that moment.
fn declare(table: &SourceTable, without_keys: bool, without_message_keys: bool) -> String {
    let mut left_out = String::new();
    let mut parameter = 0;
    let message_key = table.record_key_sql("t");
    for (wanted, text) in [(without_keys, table.key_text_sql("t")), (without_message_keys, message_key)] {
        if wanted {
            parameter += 1;
            left_out += &without_sql(&text, parameter);
        }
    }
    let headers = table.more_headers_sql("s");
    format!(
        "DECLARE pg2ch_pass NO SCROLL CURSOR FOR
         SELECT s.ctid, s.xmin, s.tableoid,
                {clock} AS clock,
                {key}, row_to_json(pg2ch_record), {record_key}{headers}
         FROM (SELECT t.ctid, t.xmin, t.tableoid, {inner} FROM {name} AS t
               WHERE {unsent}{left_out}
               ORDER BY {order}) AS s, {record}",
        clock = table.clock_sql(),
        key = table.key_text_sql("s"),
        record_key = table.record_key_sql("s"),
        inner = table.record_columns_sql("t").join(", "),
        name = table.name,
        unsent = table.unsent_sql(),
        order = table.order_sql("t"),
        record = table.record_sql("s"),
    )
}

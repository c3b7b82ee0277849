//! Turns records into the rows of an INSERT, and tells those apart that the target's columns do not take.
//!
//! It changes nothing: a crash here loses nothing.

use std::collections::BTreeMap;

use super::fetch::BatchSize;
use super::json_rows::JsonRows;
use super::prepared::Prepared;
use super::record_batch::RecordBatch;
use crate::clickhouse::column_type::Column;
use crate::clickhouse::encode::{CalendarRange, RowEncoder};
use crate::config::ColumnRules;
use crate::data::{Record, RecordId};
use crate::error::Result;

/// The size of a small row.
const TYPICAL_ROW: usize = 64;

/// How records become rows of this target.
pub enum RowFormat {
    /// Typed RowBinary: every value is checked here, before anything is sent.
    Typed(Box<RowEncoder>),
    /// JSONEachRow, for tables with a type that the encoder does not know: the server's parser has the last word.
    Json(JsonRows),
}

impl RowFormat {
    /// The best format that serves these columns, on a server that can show these years.
    ///
    /// A record that lacks a column which may be NULL has NULL there, or the column's DEFAULT: it is from before the column was
    /// added, or from after it was dropped.
    #[must_use]
    pub fn of(columns: &[Column], rules: &ColumnRules, calendar: CalendarRange) -> Self {
        match RowEncoder::with_rules(columns, rules) {
            Ok(encoder) => Self::Typed(Box::new(encoder.with_missing_as_null(true).with_calendar_range(calendar))),
            Err(unsupported) => {
                log::warn!("{unsupported}; rows go as JSONEachRow, where the server may silently change values");
                Self::Json(JsonRows::new(columns, rules))
            }
        }
    }

    /// The fields that records lacked, with how many did.
    #[must_use]
    pub fn lacking(&self) -> BTreeMap<String, u64> {
        let owned = |(name, count): (&str, u64)| (name.to_owned(), count);
        match self {
            Self::Typed(encoder) => encoder.lacking().map(owned).collect(),
            Self::Json(rows) => rows.lacking().map(owned).collect(),
        }
    }

    /// Settings that the format asks for.
    #[must_use]
    pub fn settings(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Typed(encoder) => encoder.settings(),
            Self::Json(_) => &[],
        }
    }

    /// ClickHouse's name of the format.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Typed(encoder) => encoder.format(),
            Self::Json(_) => "JSONEachRow",
        }
    }

    /// The columns of the INSERT.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        match self {
            Self::Typed(encoder) => encoder.insert_columns(),
            Self::Json(rows) => rows.columns(),
        }
    }

    /// Appends a record's row; on a refusal, tells why, with `out` as it was.
    ///
    /// # Errors
    /// The reason why the columns do not take it.
    pub fn encode(&mut self, record: &Record<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        let value = record.value.ok_or("a record without a value (a tombstone): deletes are not propagated")?;
        let id = RecordId::of(record);
        match self {
            Self::Typed(encoder) => encoder.encode(id, value, out).map_err(|refusal| refusal.to_string()),
            Self::Json(rows) => rows.encode(id, value, out),
        }
    }
}

/// The second stage of the consume leg.
pub struct Preparer {
    format: RowFormat,
    /// What is not yet large enough for an INSERT.
    open: Option<Prepared>,
}

impl Preparer {
    /// Makes the stage.
    #[must_use]
    pub const fn new(format: RowFormat) -> Self {
        Self { format, open: None }
    }

    /// The fields that records lacked, with how many did.
    #[must_use]
    pub fn lacking(&self) -> BTreeMap<String, u64> {
        self.format.lacking()
    }

    /// Encodes a batch; returns the rows of an INSERT as soon as they have this size, or no more come. `emptied` gives
    /// memory for others.
    #[must_use]
    pub fn step(
        &mut self,
        batch: &RecordBatch,
        size: BatchSize,
        emptied: impl FnOnce() -> Prepared,
    ) -> Option<Prepared> {
        let Self { format, open } = self;
        let prepared = open.get_or_insert_with(|| {
            let mut prepared = emptied();
            if size.bytes < usize::MAX {
                let records = size.records.min(size.bytes / TYPICAL_ROW);
                prepared.reserve(records, size.bytes + 2 * size.hand_over().bytes);
            }
            prepared
        });
        for record in batch.iter() {
            prepared.push(&record, |body| format.encode(&record, body));
        }
        prepared.cover(&batch.ranges);
        let has_room = size.records.saturating_sub(prepared.len()) >= size.hand_over().records;
        if has_room && prepared.bytes() < size.bytes && !batch.is_last {
            return None;
        }
        prepared.sort();
        open.take()
    }
}

//! Turns records into the rows of an INSERT, and tells those apart that the target's columns do not take.
//!
//! It changes nothing: a crash here loses nothing.

use std::collections::BTreeMap;

use super::json_rows::JsonRows;
use super::record_batch::RecordBatch;
use crate::clickhouse::column_type::Column;
use crate::clickhouse::encode::{CalendarRange, Position, RowEncoder};
use crate::config::ColumnRules;
use crate::error::Result;
use crate::kafka::Record;

/// How records become rows of this target.
pub enum RowFormat {
    /// Typed RowBinary: every value is checked here, before anything is sent.
    Typed(Box<RowEncoder>),
    /// JSONEachRow, for tables with a type that the encoder does not know: the server's parser has the last word.
    Json(JsonRows),
}

/// A batch, its rows encoded.
#[derive(Debug)]
pub struct Prepared {
    /// The records.
    pub batch: RecordBatch,
    /// The encoded rows, one behind the other.
    pub body: Vec<u8>,
    /// Which record each row is of, and where it ends in the body.
    pub rows: Vec<EncodedRow>,
    /// Records that the columns do not take, with the reasons, in order.
    pub refused: Vec<(usize, String)>,
}

/// A row in the body.
#[derive(Clone, Copy, Debug)]
pub struct EncodedRow {
    /// The record's index in the batch.
    pub record: usize,
    /// Where the row ends in the body; it begins where the one before ends.
    pub end: usize,
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
                log::warn!("{unsupported}; rows go as JSONEachRow, where the server may change values without a word");
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
        let position =
            Position { partition: record.partition, offset: record.offset, timestamp_ms: record.timestamp_ms };
        match self {
            Self::Typed(encoder) => encoder.encode(position, value, out).map_err(|refusal| refusal.to_string()),
            Self::Json(rows) => rows.encode(position, value, out),
        }
    }
}

/// The second stage of the consume leg.
pub struct Preparer {
    format: RowFormat,
    typical_row: usize,
}

impl Preparer {
    /// Makes the stage.
    #[must_use]
    pub const fn new(format: RowFormat) -> Self {
        Self { format, typical_row: 64 }
    }

    /// The fields that records lacked, with how many did.
    #[must_use]
    pub fn lacking(&self) -> BTreeMap<String, u64> {
        self.format.lacking()
    }

    /// Encodes a batch.
    #[must_use]
    pub fn step(&mut self, batch: RecordBatch) -> Prepared {
        let mut body = Vec::with_capacity(batch.len() * self.typical_row);
        let mut rows = Vec::with_capacity(batch.len());
        let mut refused = Vec::new();
        for index in 0..batch.len() {
            match self.format.encode(&batch.record(index), &mut body) {
                Ok(()) => rows.push(EncodedRow { record: index, end: body.len() }),
                Err(reason) => refused.push((index, reason)),
            }
        }
        if !rows.is_empty() {
            self.typical_row = body.len() / rows.len() + 8;
        }
        Prepared { batch, body, rows, refused }
    }
}

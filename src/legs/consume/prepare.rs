//! Turns records into the rows of an INSERT, and separates those that the target's columns do not take.
//!
//! It changes nothing: a crash here loses nothing.

use std::collections::BTreeMap;

use super::fetch::BatchSize;
use super::prepared::Prepared;
use super::record_batch::RecordBatch;
use crate::clickhouse::column_type::Column;
use crate::clickhouse::encode::{CalendarRange, RowEncoder, Shape};
use crate::config::ColumnRules;
use crate::data::RecordId;
use crate::error::{Error, Result};
use crate::ports::record_types::RecordTypes;
use crate::ports::source::SourceColumn;

/// The size of a small row.
const TYPICAL_ROW: usize = 64;

/// How records become rows of this target: every value is checked here, before anything is sent.
pub struct RowFormat {
    types: RecordTypes,
    /// One for each of their spans, or one for all records.
    encoders: Vec<RowEncoder>,
    /// What an INSERT of rows of each shape begins with.
    headers: Vec<Vec<u8>>,
    /// For each encoder, by the number of a shape of its own: the number of its header.
    shapes: Vec<Vec<Shape>>,
    /// What a record has shown of the target: it has a column that pg2ch cannot fill.
    unfit: Option<String>,
}

impl RowFormat {
    /// The format for these columns, filled from those that records had, on a server that can show these years.
    ///
    /// A record that lacks a column which may be NULL has NULL there, or the column's DEFAULT: it is from before the column was
    /// added, or from after it was dropped.
    ///
    /// # Errors
    /// 78 if a column of the position does not hold every value.
    pub fn of(columns: &[Column], rules: &ColumnRules, types: &RecordTypes, calendar: CalendarRange) -> Result<Self> {
        let encoder = |source: &[SourceColumn]| {
            let encoder = RowEncoder::with_rules(columns, rules, source)
                .map_err(|error| Error::config("cannot fill the target", error, "run `pg2ch check`"))?;
            Ok(encoder.with_calendar_range(calendar))
        };
        let mut encoders: Vec<_> = types.spans().iter().map(|span| encoder(&span.columns())).collect::<Result<_>>()?;
        if encoders.is_empty() {
            encoders.push(encoder(&[])?);
        }
        let (headers, shapes) = (Vec::new(), vec![Vec::new(); encoders.len()]);
        let mut format = Self { types: types.clone(), encoders, headers, shapes, unfit: None };
        format.shape(format.encoders.len() - 1, 0);
        Ok(format)
    }

    /// The fields that records lacked, with how many did.
    #[must_use]
    pub fn lacking(&self) -> BTreeMap<String, u64> {
        let mut lacking = BTreeMap::new();
        for (name, count) in self.encoders.iter().flat_map(RowEncoder::lacking) {
            *lacking.entry(name).or_default() += count;
        }
        lacking
    }

    /// What an INSERT of rows of each shape begins with.
    #[must_use]
    pub fn headers(&self) -> Vec<Vec<u8>> {
        self.headers.clone()
    }

    /// Appends the row of the record of this identity and value; on a refusal, returns why, with `out` unchanged.
    ///
    /// # Errors
    /// The reason why the columns do not take it.
    pub fn encode(&mut self, id: RecordId, value: Option<&[u8]>, out: &mut Vec<u8>) -> Result<Shape, String> {
        let value = value.ok_or("a record without a value (a tombstone): deletes are not propagated")?;
        let mut spans = self.types.spans().iter();
        let at = spans.position(|span| span.has(id.partition, id.offset)).unwrap_or_default();
        let encoder = &mut self.encoders[at];
        let shape = encoder.encode(id, value, out).map_err(|refusal| {
            if encoder.lacks_type_for(&refusal) {
                self.unfit.get_or_insert_with(|| refusal.to_string());
            }
            refusal.to_string()
        })?;
        Ok(self.shape(at, shape))
    }

    /// The number of the header of an encoder's shape: spans that differ in nothing else share theirs.
    fn shape(&mut self, at: usize, shape: Shape) -> Shape {
        let Self { encoders, headers, shapes, .. } = self;
        let (known, shape) = (&mut shapes[at], usize::from(shape));
        if known.len() <= shape {
            for header in encoders[at].headers().into_iter().skip(known.len()) {
                let number = headers.iter().position(|known| *known == header).unwrap_or_else(|| {
                    headers.push(header);
                    headers.len() - 1
                });
                known.push(Shape::try_from(number).unwrap_or(Shape::MAX));
            }
        }
        known[shape]
    }

    /// Refuses to go on where a record has a field whose column has a type that pg2ch does not know.
    ///
    /// # Errors
    /// 78, naming the column.
    pub fn require_known_types(&self) -> Result<()> {
        self.unfit.as_ref().map_or(Ok(()), |why| {
            Err(Error::config(
                "cannot fill a column of the target",
                why,
                "ALTER the column to a type that docs/types.md lists, such as String, or name its field in `ignore` in [[table]]; \
                 `pg2ch check` prints the statement",
            ))
        })
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
    ///
    /// # Errors
    /// 78 if a record has a field whose column pg2ch cannot fill.
    pub fn step(
        &mut self,
        batch: &RecordBatch,
        size: BatchSize,
        emptied: impl FnOnce() -> Prepared,
    ) -> Result<Option<Prepared>> {
        let Self { format, open } = self;
        let prepared = open.get_or_insert_with(|| {
            let mut prepared = emptied();
            prepared.begin(format.headers());
            if size.bytes < usize::MAX {
                let records = size.records.min(size.bytes / TYPICAL_ROW);
                prepared.reserve(records, size.bytes + 2 * size.hand_over().bytes);
            }
            prepared
        });
        for (id, value) in batch.iter() {
            prepared.push(id, value, |body| format.encode(id, value, body));
        }
        format.require_known_types()?;
        prepared.cover(&batch.ranges);
        let has_room = size.records.saturating_sub(prepared.len()) >= size.hand_over().records;
        if has_room && prepared.bytes() < size.bytes && !batch.is_last {
            return Ok(None);
        }
        prepared.sort();
        prepared.set_headers(format.headers());
        Ok(open.take())
    }
}

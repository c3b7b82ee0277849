//! What travels: rows and their batches, records, offsets and ranges of them, dead letters.

mod headers;

use std::collections::BTreeMap;
use std::ops::Range;

use sha2::{Digest, Sha256};

pub use headers::{Headers, push_header};

/// A position in a partition: always the *next* offset to read, one above the last one dealt with.
pub type NextOffset = i64;

/// A next offset for each of some partitions.
pub type Offsets = BTreeMap<i32, NextOffset>;

/// Which version of a row was read: the table (a partition, for a partitioned source), the place in it, and the
/// transaction that wrote it. Together with the key it names one version, and no other, for as long as the table is
/// not rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// The table's OID.
    pub table: u32,
    /// Block and position (PostgreSQL's `ctid`).
    pub ctid: (u32, u16),
    /// The writing transaction (PostgreSQL's `xmin`).
    pub xmin: u32,
}

/// Rows read together, to be sent as one Kafka transaction and flagged as one PostgreSQL transaction.
///
/// All text lies in one buffer, so that a batch costs a few allocations and not a few per row.
#[derive(Clone, Debug, Default)]
pub struct RowBatch {
    /// When the rows were read: PostgreSQL's clock in milliseconds since 1970, above every earlier run's.
    pub timestamp_ms: i64,
    text: Vec<u8>,
    rows: Vec<RowSpan>,
}

/// Where a row's parts end in the text: key, value, headers, and the record's key where that is not the row's.
#[derive(Clone, Debug)]
struct RowSpan {
    version: Version,
    start: usize,
    key_end: usize,
    value_end: usize,
    headers_end: usize,
    end: usize,
    record_key: RecordKey,
}

#[derive(Clone, Copy, Debug)]
enum RecordKey {
    OfRow,
    Other,
    Missing,
}

/// One row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Which version it is.
    pub version: Version,
    /// The row's key, which names it everywhere: the key column's text, or a JSON array for a key of several columns.
    pub key: &'a [u8],
    /// The record's key, which chooses the partition.
    pub record_key: Option<&'a [u8]>,
    /// The record's value: the row as JSON, without the flag.
    pub value: &'a [u8],
    /// The record's headers.
    pub headers: Headers<'a>,
}

impl<'a> Row<'a> {
    /// A row whose record has its key and no headers.
    #[must_use]
    pub fn plain(version: Version, key: &'a [u8], value: &'a [u8]) -> Self {
        Self { version, key, record_key: Some(key), value, headers: Headers::default() }
    }

    /// The size of its record.
    #[must_use]
    pub fn size(&self) -> usize {
        self.record_key.map_or(0, <[u8]>::len) + self.value.len() + self.headers.bytes().len()
    }
}

impl RowBatch {
    /// A batch with room for `rows` rows.
    #[must_use]
    pub fn with_capacity(rows: usize, bytes: usize) -> Self {
        Self { timestamp_ms: 0, text: Vec::with_capacity(bytes), rows: Vec::with_capacity(rows) }
    }

    /// Appends a row.
    pub fn push(&mut self, row: &Row<'_>) {
        let start = self.text.len();
        let mut append = |part: &[u8]| {
            self.text.extend_from_slice(part);
            self.text.len()
        };
        let (key_end, value_end, headers_end) = (append(row.key), append(row.value), append(row.headers.bytes()));
        let (record_key, end) = match row.record_key {
            None => (RecordKey::Missing, headers_end),
            Some(key) if key == row.key => (RecordKey::OfRow, headers_end),
            Some(key) => (RecordKey::Other, append(key)),
        };
        let version = row.version;
        self.rows.push(RowSpan { version, start, key_end, value_end, headers_end, end, record_key });
    }

    /// The number of rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The size of all that it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Row `index`, which must be below [`len`](Self::len).
    #[must_use]
    pub fn row(&self, index: usize) -> Row<'_> {
        let span = &self.rows[index];
        let key = &self.text[span.start..span.key_end];
        let record_key = match span.record_key {
            RecordKey::OfRow => Some(key),
            RecordKey::Other => Some(&self.text[span.headers_end..span.end]),
            RecordKey::Missing => None,
        };
        let value = &self.text[span.key_end..span.value_end];
        let headers = Headers::of(&self.text[span.value_end..span.headers_end]);
        Row { version: span.version, key, record_key, value, headers }
    }

    /// All rows, in the order in which they were read.
    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.rows.len()).map(|index| self.row(index))
    }
}

/// Where a record came to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPosition {
    /// Partition.
    pub partition: i32,
    /// The record's own offset.
    pub offset: i64,
}

/// Rows of a batch whose transaction Kafka has committed: what may be flagged.
#[derive(Clone, Debug)]
pub struct SentBatch {
    /// The rows.
    pub rows: std::sync::Arc<RowBatch>,
    /// Which of them were committed by this transaction, with the places of their records, in the rows' order.
    pub sent: Vec<(usize, RecordPosition)>,
}

/// Raises a partition's offset; never lowers it.
pub fn raise(offsets: &mut Offsets, partition: i32, next: NextOffset) {
    offsets.entry(partition).and_modify(|known| *known = (*known).max(next)).or_insert(next);
}

/// The halves of a range of indices, for a search by bisection; `None` if it has fewer than two.
#[must_use]
pub fn halves(range: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    (range.len() >= 2).then(|| {
        let middle = range.start + range.len() / 2;
        (range.start..middle, middle..range.end)
    })
}

/// A record as it lies in the log.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Partition.
    pub partition: i32,
    /// Its own offset.
    pub offset: i64,
    /// Milliseconds since 1970; -1 if it has none.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Reads its headers: the bytes of [`Headers`]. Even where there are none, librdkafka makes a buffer for them: a third of what
    /// fetching a record takes.
    pub headers: &'a dyn Fn() -> Vec<u8>,
}

/// A record that the target refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Partition.
    pub partition: i32,
    /// Its own offset.
    pub offset: i64,
    /// Its timestamp in milliseconds.
    pub timestamp_ms: i64,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value.
    pub value: Option<Vec<u8>>,
    /// Its own headers: the bytes of [`Headers`].
    pub headers: Vec<u8>,
    /// Why it was refused.
    pub reason: String,
    /// What became of it, where this is a note on a letter that came before.
    pub fate: Fate,
}

/// What became of a dead letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// The target has refused it; nobody has dealt with it.
    #[default]
    Refused,
    /// A replay has brought it into the target.
    Replayed,
    /// Somebody has dismissed it.
    Dropped,
}

impl DeadLetter {
    /// What becomes of `record`, refused for this reason.
    #[must_use]
    pub fn of(record: &Record<'_>, reason: String) -> Self {
        Self {
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(<[u8]>::to_vec),
            value: record.value.map(<[u8]>::to_vec),
            headers: (record.headers)(),
            reason,
            fate: Fate::Refused,
        }
    }
}

/// The SHA-256 of a record: each part with its length in front, a missing one with the length -1; then its headers' bytes.
///
/// `SourceTable::digest_sql` makes the same of a row, so two of them are equal only if the row makes this very record.
#[must_use]
pub fn record_digest(topic: &str, key: Option<&[u8]>, value: Option<&[u8]>, headers: Headers<'_>) -> Vec<u8> {
    let mut digest = Sha256::new();
    for part in [Some(topic.as_bytes()), key, value] {
        let length = part.map_or(-1, |part| i32::try_from(part.len()).unwrap_or(i32::MAX));
        digest.update(length.to_be_bytes());
        digest.update(part.unwrap_or_default());
    }
    digest.update(headers.bytes());
    digest.finalize().to_vec()
}

/// A record's identity in the target: partition, offset and timestamp. The timestamp distinguishes a topic that was deleted and
/// recreated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Partition.
    pub partition: i32,
    /// Its own offset.
    pub offset: i64,
    /// Milliseconds.
    pub timestamp_ms: i64,
}

impl RecordId {
    /// The identity of a record.
    #[must_use]
    pub const fn of(record: &Record<'_>) -> Self {
        Self { partition: record.partition, offset: record.offset, timestamp_ms: record.timestamp_ms }
    }
}

/// A contiguous range of offsets in each of some partitions: partition → (first, next after the last).
pub type Ranges = BTreeMap<i32, (i64, i64)>;

/// The ranges from `from` to `to`, without the empty ones.
#[must_use]
pub fn ranges(from: &Offsets, to: &Offsets) -> Ranges {
    to.iter()
        .filter_map(|(&partition, &end)| {
            let start = from.get(&partition).copied().unwrap_or(0);
            (start < end).then_some((partition, (start, end)))
        })
        .collect()
}

/// The column that the server itself fills in with the time of the INSERT.
pub const INGESTED_AT: &str = "_ingested_at";

/// Whether a column of this name is pg2ch's own: no column of the source fills it.
#[must_use]
pub fn is_own(name: &str) -> bool {
    name == INGESTED_AT || POSITION_COLUMNS.contains(&name)
}

/// The columns that keep a record's position, in the order of their bytes.
pub const POSITION_COLUMNS: [&str; 3] = ["_partition", "_offset", "_timestamp"];

/// One column of the target table as `system.columns` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, unquoted.
    pub name: String,
    /// The type as the server spells it, for instance `LowCardinality(Nullable(String))`.
    pub type_name: String,
    /// What the server does where an INSERT leaves the column out.
    pub default_kind: DefaultKind,
    /// The time zone in which the server shows times whose type names none.
    pub zone: String,
}

impl Column {
    /// A column without a default, on a server in UTC.
    #[must_use]
    pub fn new(name: &str, type_name: &str) -> Self {
        Self { name: name.into(), type_name: type_name.into(), default_kind: DefaultKind::None, zone: "UTC".into() }
    }
}

/// Whether, and how, the server fills a column that an INSERT leaves out (`system.columns.default_kind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultKind {
    /// No expression: a left-out column would get its type's zero, which pg2ch never lets happen.
    None,
    /// An expression that applies where the column is left out.
    Default,
    /// Always computed: an INSERT cannot name the column.
    Materialized,
    /// Computed when read: an INSERT cannot name the column.
    Alias,
    /// Not stored, but other columns' expressions may use what an INSERT gives.
    Ephemeral,
}

/// The type that a LowCardinality keeps in a dictionary; `None` if it is none.
#[must_use]
pub fn in_dictionary(type_name: &str) -> Option<&str> {
    type_name.strip_prefix("LowCardinality(")?.strip_suffix(')')
}

/// Whether a column of this type and without a DEFAULT has NULL where an INSERT leaves it out.
#[must_use]
pub fn takes_null(type_name: &str) -> bool {
    ["Nullable(", "LowCardinality(Nullable(", "Variant(", "Dynamic"].iter().any(|start| type_name.starts_with(start))
}

impl DefaultKind {
    /// The server's word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DefaultKind::None => "",
            DefaultKind::Default => "DEFAULT",
            DefaultKind::Materialized => "MATERIALIZED",
            DefaultKind::Alias => "ALIAS",
            DefaultKind::Ephemeral => "EPHEMERAL",
        }
    }

    /// Reads `system.columns.default_kind`. A kind that is not known is one that an INSERT had better not name.
    #[must_use]
    pub fn parse(kind: &str) -> DefaultKind {
        match kind {
            "" => DefaultKind::None,
            "DEFAULT" => DefaultKind::Default,
            "ALIAS" => DefaultKind::Alias,
            "EPHEMERAL" => DefaultKind::Ephemeral,
            _ => DefaultKind::Materialized,
        }
    }
}

/// The years a target server can show in a `Date32` or `DateTime64`. The bytes are the same, but a server
/// answers with its nearest bound for what lies outside. (The bounds are in UTC. Within hours of them a server
/// may show a column of another time zone at the bound; the instant it keeps is right.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CalendarRange {
    /// 1900 to 2299: every server since 22.9.
    #[default]
    Narrow,
    /// 1 to 9999: servers of the second half of 2026 and later, which answer `1` to [`CalendarRange::PROBE`].
    Wide,
}

impl CalendarRange {
    /// A query that answers `1` where the range is wide and `0` (or an error) where it is narrow.
    pub const PROBE: &str = "SELECT toString(toDate32('1800-01-01')) = '1800-01-01' \
        AND toString(toDateTime64('1800-01-01 00:00:00', 0, 'UTC')) = '1800-01-01 00:00:00'";
}

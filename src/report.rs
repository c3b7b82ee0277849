//! What a run did, for a person (a line) and for a machine (JSON).

mod summary;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::Serialize;

use crate::data::Offsets;
use crate::error::{Error, ExitCode};
use crate::run_id::RunId;

/// Offsets whose records are gone before they could be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lost {
    /// Partition.
    pub partition: i32,
    /// First offset.
    pub from: i64,
    /// Next offset after the last.
    pub to: i64,
}

/// A row that the topic does not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TooLargeRow {
    /// Its key.
    pub key: String,
    /// The size of its record's key, value and headers.
    pub bytes: usize,
    /// The key of its record, where the rows behind it with that key wait for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stops: Option<String>,
}

/// A row of which PostgreSQL cannot make a record: it stays unsent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UnreadableRow {
    /// Its key.
    pub key: String,
    /// PostgreSQL's reason.
    pub reason: String,
    /// The key of its record, where the rows behind it with that key wait for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stops: Option<String>,
}

/// What the produce leg did to one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProduceReport {
    /// Whether it came to the end: no limit, no signal.
    pub complete: bool,
    /// Rows read.
    pub rows_read: u64,
    /// Records committed to the topic.
    pub records_sent: u64,
    /// Rows flagged after their records were committed.
    pub rows_flagged: u64,
    /// Rows flagged because an earlier run had delivered them.
    pub rows_recovered: u64,
    /// Rows that changed between reading and flagging: they go out again.
    pub rows_changed: u64,
    /// Rows that were sent and could not be flagged yet, because they were locked.
    pub rows_locked: u64,
    /// How long it has paused, to be gentle.
    #[serde(rename = "paused_seconds", serialize_with = "as_seconds")]
    pub paused: Duration,
    /// How long of that until replicas had caught up.
    #[serde(rename = "paused_for_replication_seconds", serialize_with = "as_seconds")]
    pub paused_for_replication: Duration,
    /// Keys of rows whose flag a trigger takes back, or PostgreSQL refuses.
    pub taken_back: Vec<String>,
    /// Rows that are too large for the topic, and stay unsent.
    pub too_large: Vec<TooLargeRow>,
    /// Rows of which PostgreSQL cannot make a record, and which stay unsent.
    pub unreadable: Vec<UnreadableRow>,
    /// Parts of the recovery window that retention had deleted.
    pub window_lost: Vec<Lost>,
    /// Records of this run that were lost with a topic that was recreated, or restored, meanwhile.
    pub sent_lost: Vec<Lost>,
    /// Whether the topic was found to be another one: recreated, or restored from an older copy of Kafka.
    pub topic_recreated: bool,
    /// The next offset after the last record sent, by partition.
    #[serde(skip)]
    pub delivered: Offsets,
}

impl Default for ProduceReport {
    fn default() -> Self {
        Self {
            complete: true,
            rows_read: 0,
            records_sent: 0,
            rows_flagged: 0,
            rows_recovered: 0,
            rows_changed: 0,
            rows_locked: 0,
            paused: Duration::ZERO,
            paused_for_replication: Duration::ZERO,
            taken_back: Vec::new(),
            too_large: Vec::new(),
            unreadable: Vec::new(),
            window_lost: Vec::new(),
            sent_lost: Vec::new(),
            topic_recreated: false,
            delivered: Offsets::new(),
        }
    }
}

impl ProduceReport {
    /// Whether it left no row behind that it came across.
    #[must_use]
    pub fn left_nothing(&self) -> bool {
        self.rows_locked == 0 && self.rows_changed == 0 && self.taken_back.is_empty() && self.took_all_rows()
    }

    fn moved_something(&self) -> bool {
        self.records_sent + self.rows_flagged + self.rows_recovered + self.rows_locked > 0 || self.lost_data()
    }

    /// Adds rows that the topic does not take; an earlier attempt of the same run may have met them already.
    pub fn add_too_large(&mut self, rows: Vec<TooLargeRow>) {
        let met: HashSet<&str> = rows.iter().map(|row| row.key.as_str()).collect();
        self.too_large.retain(|row| !met.contains(row.key.as_str()));
        self.too_large.extend(rows);
    }

    /// Adds rows that cannot be read; an earlier attempt of the same run may have met them already.
    pub fn add_unreadable(&mut self, rows: Vec<UnreadableRow>) {
        self.unreadable.retain(|known| rows.iter().all(|row| row.key != known.key));
        self.unreadable.extend(rows);
    }

    fn took_all_rows(&self) -> bool {
        self.too_large.is_empty() && self.unreadable.is_empty()
    }

    /// Whether something is gone that the next run does not find missing.
    pub(crate) fn found_losses(&self) -> bool {
        self.topic_recreated || !self.window_lost.is_empty()
    }

    fn lost_data(&self) -> bool {
        self.found_losses() || !(self.taken_back.is_empty() && self.took_all_rows())
    }
}

/// What the consume leg did to one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConsumeReport {
    /// Whether it came to the end: no limit, no signal, no foreign transaction in the way.
    pub complete: bool,
    /// Records dealt with: inserted, found in the target, or dead letters.
    pub records_copied: u64,
    /// Rows inserted.
    pub rows_inserted: u64,
    /// Rows that the target held already.
    pub rows_held: u64,
    /// INSERT requests sent.
    pub inserts: u64,
    /// Records sent to the dead-letter topic.
    pub dead_letters: u64,
    /// Rows that the target holds though their INSERT was refused: they lack in a view behind it.
    pub rows_refused_by_views: u64,
    /// Fields that records lacked, with how many did: their rows have NULL, or the column's DEFAULT, there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub fields_lacking: BTreeMap<String, u64>,
    /// Offsets that retention deleted before they were copied.
    pub lost: Vec<Lost>,
    /// Offsets whose rows were inserted while a column of the target was dropped, renamed or made another kind: they may lack
    /// its values.
    pub inserted_while_altered: Vec<Lost>,
    /// Whether the topic was found to be another one: recreated, or restored from an older copy of Kafka.
    pub topic_recreated: bool,
}

impl ConsumeReport {
    /// Adds what a stage counted.
    pub fn add(&mut self, other: &Self) {
        self.records_copied += other.records_copied;
        self.rows_inserted += other.rows_inserted;
        self.rows_held += other.rows_held;
        self.inserts += other.inserts;
        self.dead_letters += other.dead_letters;
        self.rows_refused_by_views += other.rows_refused_by_views;
        self.inserted_while_altered.extend(other.inserted_while_altered.iter().cloned());
    }

    fn moved_something(&self) -> bool {
        self.records_copied > 0 || self.lost_data()
    }

    /// Whether something is gone, or may be, that the next run does not find missing.
    pub(crate) fn found_losses(&self) -> bool {
        let is_whole = self.lost.is_empty() && self.inserted_while_altered.is_empty();
        self.topic_recreated || self.rows_refused_by_views > 0 || !is_whole
    }

    fn lost_data(&self) -> bool {
        self.dead_letters > 0 || self.found_losses()
    }
}

/// What a run did to one table.
#[derive(Debug)]
pub struct TableReport {
    /// The source table.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// The target table.
    pub target: String,
    /// The first leg, if it ran.
    pub produce: Option<ProduceReport>,
    /// The second leg, if it ran.
    pub consume: Option<ConsumeReport>,
    /// Rows that `keep` has deleted from the source, behind the legs.
    pub pruned: u64,
    /// Why it did not come to its end.
    pub error: Option<Error>,
    /// What it has left behind.
    pub left: Left,
    /// How long it took.
    pub seconds: f64,
}

impl TableReport {
    /// Whether everything that there was has been moved.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.error.is_none()
            && self.produce.as_ref().is_none_or(|leg| leg.complete)
            && self.consume.as_ref().is_none_or(|leg| leg.complete)
    }

    /// Whether the first leg ran. A run that was given up reports neither leg; it may have been in either.
    #[must_use]
    pub const fn has_produced(&self) -> bool {
        self.produce.is_some() || self.consume.is_none()
    }

    /// Whether the second leg ran.
    #[must_use]
    pub const fn has_consumed(&self) -> bool {
        self.consume.is_some() || self.produce.is_none()
    }

    /// The exit code that this table asks for.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        let lost = self.produce.as_ref().is_some_and(ProduceReport::lost_data)
            || self.consume.as_ref().is_some_and(ConsumeReport::lost_data);
        let data = if lost { ExitCode::Data } else { ExitCode::Done };
        self.error.as_ref().map_or(data, |error| data.graver(error.exit_code()))
    }
}

/// What a run did.
#[derive(Debug, Default)]
pub struct RunReport {
    /// One report for each table, in the configuration's order.
    pub tables: Vec<TableReport>,
    /// The sources that were not begun, because the run was asked to finish.
    pub not_begun: Vec<String>,
    /// How long the run took.
    pub seconds: f64,
}

#[derive(Serialize)]
struct TableJson<'a> {
    source: &'a str,
    topic: &'a str,
    target: &'a str,
    complete: bool,
    exit_code: u8,
    seconds: f64,
    produce: Option<&'a ProduceReport>,
    consume: Option<&'a ConsumeReport>,
    pruned: u64,
    left: Left,
    error: Option<&'a Error>,
}

#[derive(Serialize)]
struct RunJson<'a> {
    run: String,
    complete: bool,
    exit_code: u8,
    seconds: f64,
    tables: Vec<TableJson<'a>>,
    not_begun: &'a [String],
}

impl RunReport {
    /// Whether any row or record was moved.
    #[must_use]
    pub fn moved_something(&self) -> bool {
        self.tables.iter().any(|table| {
            table.produce.as_ref().is_some_and(|leg| leg.records_sent + leg.rows_flagged + leg.rows_recovered > 0)
                || table.consume.as_ref().is_some_and(|leg| leg.records_copied > 0)
        })
    }

    /// The run's exit code: the gravest of its tables'.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        self.tables.iter().map(TableReport::exit_code).fold(ExitCode::Done, ExitCode::graver)
    }

    /// The errors that ended tables, in order.
    #[must_use]
    pub fn errors(&self) -> Vec<&Error> {
        self.tables.iter().filter_map(|table| table.error.as_ref()).collect()
    }

    /// A line for each table, for a person.
    #[must_use]
    pub fn summary(&self) -> String {
        let not_begun = self.not_begun.iter().map(|source| format!("{source}: not started; more remains"));
        self.tables.iter().map(summary::of).chain(not_begun).collect::<Vec<_>>().join("\n")
    }

    /// The whole as JSON, for a machine: the same with every end.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, numbers and lists always have a JSON form.
        serde_json::to_string_pretty(&self.document()).unwrap_or_default()
    }

    /// The same on one line, where one run follows the other.
    #[must_use]
    pub fn to_json_line(&self) -> String {
        serde_json::to_string(&self.document()).unwrap_or_default()
    }

    fn document(&self) -> RunJson<'_> {
        let tables = self.tables.iter().map(table_json).collect();
        RunJson {
            run: RunId::current().to_string(),
            complete: self.not_begun.is_empty() && self.tables.iter().all(TableReport::is_complete),
            exit_code: self.exit_code().code(),
            seconds: millis(self.seconds),
            tables,
            not_begun: &self.not_begun,
        }
    }
}

fn as_seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(millis(time.as_secs_f64()))
}

fn millis(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

fn table_json(table: &TableReport) -> TableJson<'_> {
    TableJson {
        source: &table.source,
        topic: &table.topic,
        target: &table.target,
        complete: table.is_complete(),
        exit_code: table.exit_code().code(),
        seconds: millis(table.seconds),
        produce: table.produce.as_ref(),
        consume: table.consume.as_ref(),
        pruned: table.pruned,
        left: table.left,
        error: table.error.as_ref(),
    }
}

/// Which legs a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legs {
    /// Rows to Kafka, then records to ClickHouse.
    Both,
    /// Rows to Kafka only.
    Produce,
    /// Records to ClickHouse only.
    Consume,
}

/// What is left, as far as it is known; of a leg that did not run, nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Unsent rows; counted up to 1,000,000.
    pub unsent_rows: Option<i64>,
    /// Offsets that are not copied: an upper bound on the records.
    pub uncopied_records: Option<i64>,
}

impl Left {
    /// Whether nothing is known to remain.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.unsent_rows.unwrap_or(0) == 0 && self.uncopied_records.unwrap_or(0) == 0
    }
}

//! What waits to be moved: unsent rows, and records that are not copied yet.

use std::time::Duration;

use serde::Serialize;

use crate::clickhouse::ClickHouseTarget;
use crate::config::{Config, TableConfig};
use crate::error::{Error, ExitCode, Result};
use crate::kafka::KafkaLog;
use crate::legs::consume::Start;
use crate::legs::consume::position::Context;
use crate::numbers::counted;
use crate::ports::target::Target;
use crate::ports::topic::{End, TopicLog};
use crate::postgres::{Session, SourceTable, connect, count_unsent};
use crate::report::{Left, ProduceReport, RunReport, TableReport};
use crate::threads::beside;
use crate::threads::watchdog::Watchdog;

/// The unsent rows of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unsent {
    /// How many there are, 1,000,000 at most.
    pub rows: i64,
    /// Whether there are more than were counted.
    pub or_more: bool,
    /// The lowest unsent key.
    pub lowest_key: Option<String>,
    /// How long the row with the lowest key has been as it is; known only where the server tracks commit timestamps.
    pub seconds: Option<i64>,
}

impl Unsent {
    /// `1 row`, `1,000,000 rows or more`
    #[must_use]
    pub fn counted(&self) -> String {
        format!("{}{}", counted(self.rows.unsigned_abs(), "row"), if self.or_more { " or more" } else { "" })
    }
}

/// One partition's records that are not copied yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionLag {
    /// Partition.
    pub partition: i32,
    /// Where copying resumes.
    pub next: i64,
    /// The end of its committed records.
    pub end: i64,
    /// Whether the offset is one that pg2ch has committed for this target; otherwise copying begins at the log's start,
    /// and the target is asked what it holds already.
    pub trusted: bool,
    /// Offsets between the two; transactions' markers count among them, so it is an upper bound on the records.
    pub behind: i64,
    /// The first offset that the partition still has.
    #[serde(skip)]
    pub first: i64,
    /// The end of all that was written, also by transactions that are undecided.
    #[serde(skip)]
    pub written: i64,
    /// An offset of pg2ch's own that lies beyond the end of the committed records.
    #[serde(skip)]
    pub beyond: Option<i64>,
}

/// What waits to be moved, as far as it could be found out.
#[derive(Debug, Default)]
pub struct Backlog {
    /// In PostgreSQL.
    pub unsent: Option<Unsent>,
    /// In Kafka.
    pub partitions: Option<Vec<PartitionLag>>,
}

impl Backlog {
    /// What the servers have answered; what one of them refuses stays unknown, and the reason is among the errors.
    #[must_use]
    pub fn of(unsent: Result<Unsent>, partitions: Result<(Vec<PartitionLag>, Option<Error>)>) -> (Self, Vec<Error>) {
        let (mut backlog, mut errors) = (Self::default(), Vec::new());
        match unsent {
            Ok(unsent) => backlog.unsent = Some(unsent),
            Err(error) => errors.push(error),
        }
        match partitions {
            Ok((partitions, doubt)) => {
                backlog.partitions = Some(partitions);
                errors.extend(doubt);
            }
            Err(error) => errors.push(error),
        }
        (backlog, errors)
    }

    /// For a person.
    #[must_use]
    pub fn summary(&self) -> String {
        let rows = self.unsent.as_ref().map_or_else(|| "an unknown number of rows".into(), Unsent::counted);
        let records = self.behind().map_or_else(
            || "an unknown number of records".into(),
            |records| format!("at most {}", counted(records.unsigned_abs(), "record")),
        );
        format!("{rows} to Kafka, and {records} from the topic to ClickHouse")
    }

    /// Offsets between the group's and the ends, in all partitions.
    #[must_use]
    pub fn behind(&self) -> Option<i64> {
        self.partitions.as_ref().map(|partitions| partitions.iter().map(|partition| partition.behind).sum())
    }
}

/// Counts the unsent rows.
///
/// # Errors
/// PostgreSQL's.
pub fn unsent(config: &Config, table: &TableConfig, watchdog: &Watchdog) -> Result<Unsent> {
    let mut session = connect(config, "status", watchdog)?;
    let source = SourceTable::find(&mut session, table)?;
    unsent_in(&mut session, &source)
}

fn unsent_in(session: &mut Session, table: &SourceTable) -> Result<Unsent> {
    let what = format!("cannot count the unsent rows of {}", table.name);
    let (rows, all) = count_unsent(session, table)?;
    if rows == 0 {
        // The dead entries of the index are not visited again for nothing.
        return Ok(Unsent { rows, or_more: false, lowest_key: None, seconds: None });
    }
    let tracked = session.query_opt(&what, "SELECT current_setting('track_commit_timestamp') = 'on'", &[])?;
    let age = if tracked.is_some_and(|row| row.get(0)) {
        // Transactions that are frozen, or older than the tracking, have no time.
        "extract(epoch FROM now() - pg_catalog.pg_xact_commit_timestamp(t.xmin))::bigint"
    } else {
        "NULL::bigint"
    };
    let sql = format!(
        "SELECT {}, {age} FROM {} AS t WHERE {} ORDER BY {} LIMIT 1",
        table.key_text_sql("t"),
        table.name,
        table.unsent_sql(),
        table.key_columns_sql("t").join(", ")
    );
    let lowest = session.in_catalog(&what, |session| session.query_opt(&what, &sql, &[]))?;
    Ok(Unsent {
        rows,
        or_more: !all,
        lowest_key: lowest.as_ref().map(|row| row.get(0)),
        seconds: lowest.and_then(|row| row.get(1)),
    })
}

/// Compares the group's offsets with the topic's ends, as a run would. Where ClickHouse does not show which table the target
/// is, the offsets are taken as they stand, and its error is reported alongside.
///
/// # Errors
/// Kafka's.
pub fn partitions(
    config: &Config,
    table: &TableConfig,
    watchdog: &Watchdog,
) -> Result<(Vec<PartitionLag>, Option<Error>)> {
    let mut log = KafkaLog::new(config, &table.topic, &table.group, watchdog)?;
    // First: a run in progress commits offsets up to an end that an earlier answer does not know.
    let committed = log.committed_before()?;
    let (ends, written, starts) = (log.ends(End::Stable)?, log.ends(End::Written)?, log.starts()?);
    // Without the target's identity no offset can be trusted.
    let described = ClickHouseTarget::new(config, table).and_then(|mut target| target.describe());
    let (identity, doubt) = match described {
        Ok(description) => (description.identity, None),
        Err(error) => (String::new(), Some(error)),
    };
    let context = Context { group: &table.group, topic: &table.topic, target: &identity };
    let start = Start::of(&committed, &starts, &ends, context);
    let standing = |partition: i32| committed.get(&partition).filter(|_| doubt.is_some()).map_or(0, |at| at.next);
    let lags = ends
        .iter()
        .map(|(&partition, &end)| {
            let next = start.known.get(&partition).map_or(0, |known| known.next).max(standing(partition));
            let trusted = start.known.get(&partition).is_some_and(|known| known.position.at > 0);
            let first = starts.get(&partition).copied().unwrap_or(0);
            let (behind, beyond) = ((end - next.max(first)).max(0), start.beyond(partition));
            let written = written.get(&partition).copied().unwrap_or(end);
            PartitionLag { partition, next, end, trusted, behind, first, written, beyond }
        })
        .collect();
    Ok((lags, doubt))
}

/// The longest that is waited for the servers.
const LIMIT: Duration = Duration::from_secs(2);

/// Finds out what is left of each table.
pub fn measure(config: &Config, report: &mut RunReport) {
    for table in &mut report.tables {
        // While another run is in progress, what remains is not for this one to report.
        if table.exit_code() != ExitCode::Locked {
            table.left = left_of(config, table);
        }
    }
}

fn left_of(config: &Config, table: &TableReport) -> Left {
    let is_sent = table.produce.as_ref().is_none_or(ProduceReport::left_nothing);
    let known = |ran: bool, number: Option<i64>| if ran { number } else { None };
    let told = |unsent, behind| Left {
        unsent_rows: known(table.has_produced(), unsent),
        uncopied_records: known(table.has_consumed(), behind),
    };
    if table.is_complete() && is_sent {
        return told(Some(0), Some(0));
    }
    let asked = query(config, &table.source).unwrap_or_default();
    told(asked.unsent.as_ref().map(|unsent| unsent.rows), asked.behind())
}

fn query(config: &Config, source: &str) -> Option<Backlog> {
    let table = config.tables.iter().find(|table| table.source == source)?.clone();
    let mut config = config.clone();
    config.timeouts.connect = config.timeouts.connect.min(LIMIT / 3);
    config.timeouts.kafka = config.timeouts.kafka.min(LIMIT / 3);
    config.timeouts.clickhouse = config.timeouts.clickhouse.min(LIMIT / 3);
    let late = || Some(Error::unavailable("cannot count what remains", "no reply in time", "run `pg2ch status`"));
    beside("backlog", LIMIT, late, move || {
        let nobody = Watchdog::of_nobody();
        Ok(Backlog::of(unsent(&config, &table, &nobody), partitions(&config, &table, &nobody)).0)
    })
    .ok()
}

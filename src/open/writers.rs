//! The two producers, of rows and of offsets with dead letters: their names, and what their topics take.

use std::collections::BTreeMap;

use crate::config::{Config, TableConfig};
use crate::error::{Error, Result};
use crate::kafka::admin::Admin;
use crate::kafka::{KafkaLog, KafkaWriter, OffsetsOf};
use crate::ports::LegContext;
use crate::ports::topic::LARGEST_RECORD;
use crate::postgres::PgLedger;
use crate::threads::watchdog::Watchdog;

/// What a topic takes in one batch of records unless it is configured otherwise (`message.max.bytes` of a broker).
const USUAL_LIMIT: usize = 1_048_588;

/// What a topic takes, where that may be asked, and the client that has asked.
pub(super) type Limit = (Option<usize>, Option<Admin>);

/// The producer of the source's rows.
///
/// # Errors
/// 78 if librdkafka refuses a property.
pub fn open_writer(leg: &LegContext<'_>, ledger: &PgLedger) -> Result<KafkaWriter> {
    writer_of(leg, ledger, record_limit(leg.config, leg.table, leg.watchdog, None)?.0)
}

pub(super) fn writer_of(leg: &LegContext<'_>, ledger: &PgLedger, limit: Option<usize>) -> Result<KafkaWriter> {
    KafkaWriter::new(leg.config, &rows_id(leg.config, ledger), &leg.table.topic, limit, None, leg.watchdog)
}

/// The name of that producer, `prefix-rows:database/schema.table`: one for one source in the whole cluster.
fn rows_id(config: &Config, ledger: &PgLedger) -> String {
    let table = ledger.table();
    format!("{}-rows:{}/{}", config.kafka.transactional_prefix, table.database, table.name)
}

/// What the topic's limit is most likely.
pub(super) const fn likely_limit(config: &Config) -> usize {
    if config.kafka.token_source.is_some() { LARGEST_RECORD } else { USUAL_LIMIT }
}

/// The topic's own limit on a batch of records. Where it may not be asked what is too large is found by trying.
///
/// # Errors
/// 78 if the topic does not keep records until they are copied, or does not take those with message keys as they are.
pub(super) fn record_limit(
    config: &Config,
    table: &TableConfig,
    watchdog: &Watchdog,
    kept: Option<Admin>,
) -> Result<Limit> {
    let has_message_key = !table.outbox.message_key.is_empty();
    let admin = match kept {
        Some(kept) => kept,
        None => match Admin::new(config, watchdog)? {
            Some(admin) => admin,
            None => return Ok((Some(LARGEST_RECORD), None)),
        },
    };
    match admin.topic_settings(&table.topic) {
        Ok(settings) => {
            require_plain(table, &settings)?;
            let own = settings.get("max.message.bytes").and_then(|value| value.parse().ok());
            Ok((own.map(|own: usize| own.min(LARGEST_RECORD)), Some(admin)))
        }
        Err(error) if has_message_key && error.is_transient() => Err(error),
        Err(error) => {
            log::debug!("{error}");
            Ok((None, None))
        }
    }
}

/// That a record stays until it is copied, and, if its key is not its row's, with the time that it was given.
fn require_plain(table: &TableConfig, settings: &BTreeMap<String, String>) -> Result<()> {
    let (topic, what) = (&table.topic, format!("cannot send rows of {}", table.source));
    let is = |name: &str, value: &str| settings.get(name).is_some_and(|set| set.contains(value));
    if is("cleanup.policy", "compact") {
        return Err(Error::config(
            what,
            format!(
                "topic {topic} is compacted: of the records with one key, Kafka keeps the last, and others are lost before they are copied"
            ),
            "set `cleanup.policy=delete` on the topic: `pg2ch check` shows the command",
        ));
    }
    if !table.outbox.message_key.is_empty() && is("message.timestamp.type", "LogAppendTime") {
        return Err(Error::config(
            format!("{what} with `message_key`"),
            format!("topic {topic} replaces the records' timestamps, by which a row's versions are told apart"),
            "set `message.timestamp.type=CreateTime` on the topic: `pg2ch check` shows the command",
        ));
    }
    Ok(())
}

/// The producer through which offsets and dead letters go: one name for one group's way through one topic. No topic's name has
/// a slash in it.
///
/// # Errors
/// 78 if librdkafka refuses a property.
pub fn open_fence(leg: &LegContext<'_>, log: &KafkaLog) -> Result<KafkaWriter> {
    let (config, table) = (leg.config, leg.table);
    let id = format!("{}-offsets:{}/{}", config.kafka.transactional_prefix, table.group, table.topic);
    let group = log.group_metadata().ok_or_else(|| {
        Error::bug(format!("cannot commit offsets of group {}", table.group), "the client has no group")
    })?;
    let offsets = OffsetsOf { name: table.group.clone(), group, topic: table.topic.clone() };
    // A letter is as large as its record, however large that is: the topic of the letters decides.
    KafkaWriter::new(config, &id, &table.dead_letter_topic(), Some(usize::MAX), Some(offsets), leg.watchdog)
}

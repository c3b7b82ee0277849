//! Kafka: the topic, and the one for dead letters.

use std::collections::BTreeMap;
use std::time::Duration;

use super::finding::{Finding, Findings, Server, Severity};
use super::postgres::Fed;
use crate::config::{Config, TableConfig};
use crate::error::Result;
use crate::kafka::acl::Uses;
use crate::kafka::admin::{self, Admin};
use crate::kafka::explain::{is_unknown_topic, refusal};
use crate::kafka::{KafkaLog, KafkaWriter};
use crate::outcome::gone::{Cause, Gone};
use crate::ports::LegContext;
use crate::ports::topic::{Committed, End, Fence, Polled, TopicLog};
use crate::threads::watchdog::Watchdog;

/// A job that stands still over the holidays must find its records again.
const WEEK_MS: i64 = 7 * 24 * 3600 * 1000;

/// How long the answer to a read is waited for.
const READING: Duration = Duration::from_secs(5);

/// What brokers take by default: 1 MiB and a batch's head.
const USUAL_BYTES: i64 = 1_048_588;

/// What brings rows whose records are lost: the run first, so that `verify` compares with the topic as it is now.
const SEND_AGAIN: &str = "pg2ch --once\npg2ch verify --repair --confirm    # sets the flag of the rows that ClickHouse lacks to FALSE\npg2ch --once";

/// A topic's, by name.
type Settings = BTreeMap<String, String>;

/// Checks both topics.
pub fn check(leg: &LegContext<'_>) -> Result<Vec<Finding>> {
    let (config, table, watchdog) = (leg.config, leg.table, leg.watchdog);
    let (admin, findings) = (Admin::new(config, watchdog)?, Findings::new(Server::Kafka));
    let mut check = Check { config, table, admin, findings, watchdog };
    let (topic, dead) = (table.topic.as_str(), table.dead_letter_topic());
    let limit = check.topic(topic)?;
    let dead_limit = check.dead_letters(&dead)?;
    if let (Some(limit), Some(dead_limit)) = (limit, dead_limit)
        && dead_limit < limit
    {
        check.findings.warning(
            "dead-letters-smaller",
            format!("topic {dead} accepts records of {dead_limit} bytes, topic {topic} of {limit}"),
            "a refused record that is too large for the dead-letter topic stops the run",
            check.alter(&dead, &format!("max.message.bytes={limit}")),
        );
    }
    if !config.kafka.transactional {
        check.findings.warning(
            "not-transactional",
            "[kafka] transactional is false",
            "after a crash, other consumers of the topic may see a record twice, and an earlier run may still write; the target still gets each version once",
            "set `transactional = true` in [kafka], unless the cluster forbids transactions",
        );
    }
    Ok(check.findings.into_list())
}

/// Where the group stands in the topics that other configurations feed.
pub fn committed(leg: &LegContext<'_>, fed: Vec<Fed>) -> Result<Vec<(String, String, i32, Committed)>> {
    if fed.is_empty() {
        return Ok(Vec::new());
    }
    KafkaLog::new(leg.config, &leg.table.topic, &leg.table.group, leg.watchdog)?.committed_elsewhere(fed)
}

/// What a run would find gone. Kafka's copy of a record is the only one between the row's flag and the target.
pub fn gone(table: &TableConfig, gone: &[Gone]) -> Vec<Finding> {
    let mut findings = Findings::new(Server::Kafka);
    let topic = &table.topic;
    let of = |cause: Cause| {
        let named: Vec<_> = gone.iter().filter(|gone| gone.cause == cause).map(Gone::to_string).collect();
        (!named.is_empty()).then(|| format!("topic {topic}: {}", named.join("; ")))
    };
    if let Some(what) = of(Cause::Shorter) {
        let why = "the topic was recreated, or Kafka was restored from an older copy: records that were not copied before are \
                   lost. The next run starts over in the topic, and exits with 65 once";
        findings.error("topic-shorter", what, why, SEND_AGAIN);
    }
    if let Some(what) = of(Cause::Deleted) {
        let why = "retention, or somebody, has deleted them: ClickHouse lacks these records. The next run resumes after them, and \
                   exits with 65 once";
        findings.error("records-deleted", what, why, SEND_AGAIN);
    }
    findings.into_list()
}

struct Check<'a> {
    config: &'a Config,
    table: &'a TableConfig,
    admin: Option<Admin>,
    findings: Findings,
    watchdog: &'a Watchdog,
}

impl Check<'_> {
    fn alter(&self, topic: &str, setting: &str) -> String {
        format!(
            "kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} --add-config {setting}",
            self.config.kafka.brokers
        )
    }

    /// Whether there is such a topic.
    fn exists(&mut self, topic: &str, id: &'static str, why: &str, settings: &[(&str, &str)]) -> Result<bool> {
        let mut log = KafkaLog::new(self.config, topic, &self.table.group, self.watchdog)?;
        match log.partitions() {
            Ok(partitions) => {
                let read = read(&mut log, &partitions, self.config.timeouts.kafka);
                self.allowed(read, "a run reads the records after the checkpoint, and those to copy")?;
                Ok(true)
            }
            Err(error) if is_unknown_topic(&error) => {
                let fix = admin::create_command(&self.config.kafka.brokers, "", topic, settings);
                let what = format!("topic {topic} does not exist");
                self.findings.error(id, what, why, format!("{fix}    # or: pg2ch init"));
                Ok(false)
            }
            Err(error) => self.allowed::<()>(Err(error), why).map(|found| found.is_some()),
        }
    }

    /// What was answered; `None`, and a finding, if the principal may not ask.
    fn allowed<T>(&mut self, answer: Result<T>, why: &str) -> Result<Option<T>> {
        let error = match answer {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        let topics = [self.table.topic.clone(), self.table.dead_letter_topic()];
        let uses = Uses::topics(self.config, &topics.each_ref().map(String::as_str)).and_group(&self.table.group);
        match refusal(&error).and_then(|code| uses.grant(code)) {
            Some(command) => {
                self.findings.error("acl-missing", format!("{}: {}", error.what(), error.why()), why, command);
                Ok(None)
            }
            None => Err(error),
        }
    }

    /// The settings of a topic, where the principal may see them.
    fn settings(&mut self, topic: &str) -> Result<Option<Settings>> {
        let Some(admin) = &self.admin else {
            let what = format!(
                "the settings of topic {topic} cannot be read: librdkafka's client for this cannot log in with OAUTHBEARER"
            );
            let why = "cleanup policy, retention, limits and replicas are not checked, and a record that is too large is found only by sending it";
            let fix = format!(
                "kafka-configs.sh --bootstrap-server {} --describe --all --entity-type topics --entity-name {topic}",
                self.config.kafka.brokers
            );
            self.findings.note("settings-hidden", what, why, fix);
            return Ok(None);
        };
        let error = match admin.topic_settings(topic) {
            Ok(settings) => return Ok(Some(settings)),
            Err(error) => error,
        };
        let uses = Uses::topics(self.config, &[topic]).only(&["DescribeConfigs"]);
        let Some(command) = refusal(&error).and_then(|code| uses.grant(code)) else { return Err(error) };
        self.findings.note(
            "settings-hidden",
            format!("the settings of topic {topic} may not be read: {}", error.why()),
            "retention and limits are not checked, and a record that is too large is found only by sending it",
            command,
        );
        Ok(None)
    }

    /// Whether the group's offsets may be asked for, and transactions be made. Whether records may be written, and offsets be
    /// committed, is told to those only who do it.
    fn group_and_transactions(&mut self, topic: &str) -> Result<()> {
        let mut log = KafkaLog::new(self.config, topic, &self.table.group, self.watchdog)?;
        let partitions = log.partitions()?;
        if let Some(committed) = self.allowed(log.committed_before(), "copying goes on from the group's offsets")? {
            let added: Vec<_> = partitions.iter().filter(|partition| !committed.contains_key(partition)).collect();
            if !committed.is_empty() && !added.is_empty() {
                let what = format!("topic {topic} has new partitions since records were last copied: {added:?}");
                let why = if self.table.outbox.message_key.is_empty() {
                    "keys may now map to other partitions, so other consumers may read a row's new version before its old one. The target uses the records' timestamps and shows the newest"
                } else {
                    "message keys may now map to other partitions, so other consumers may read a key's new records before its old ones: the order holds within each partition"
                };
                let fix = "warn the topic's consumers; if they need order within a key, switch to a new topic: `topic` in [[table]]";
                self.findings.warning("partitions-added", what, why, fix);
            }
        }
        if self.config.kafka.transactional {
            // Under a name that no run has: no run is fenced off.
            let id = format!("{}-check", self.config.kafka.transactional_prefix);
            let fenced = KafkaWriter::new(self.config, &id, topic, None, None, self.watchdog)?.fence();
            self.allowed(fenced, "a run fences off earlier runs with it, and sends rows and offsets in transactions")?;
        }
        Ok(())
    }

    /// Checks the topic of the rows; the size that it takes.
    fn topic(&mut self, topic: &str) -> Result<Option<i64>> {
        let why = "there is nothing to send rows to";
        if !self.exists(topic, "topic-missing", why, &[])? {
            return Ok(None);
        }
        self.group_and_transactions(topic)?;
        let Some(settings) = self.settings(topic)? else { return Ok(None) };
        self.compaction(
            topic,
            &settings,
            "compaction",
            "older versions of a row are silently removed before they are copied",
        );
        if let Some(retention) = number(&settings, "retention.ms").filter(|&ms| (0..WEEK_MS).contains(&ms)) {
            self.findings.warning(
                "retention",
                format!("topic {topic} keeps records for {} hours", retention / 3_600_000),
                "records not copied within that time are lost; a week is longer than most outages and holidays",
                self.alter(topic, &format!("retention.ms={WEEK_MS}")),
            );
        }
        if let Some(bytes) = number(&settings, "retention.bytes").filter(|&bytes| bytes >= 0) {
            self.findings.warning(
                "retention-bytes",
                format!("a partition of topic {topic} keeps {bytes} bytes"),
                "a large load may delete records before they are copied, however new they are",
                self.alter(topic, "retention.bytes=-1"),
            );
        }
        if settings.get("message.timestamp.type").is_some_and(|kind| kind == "LogAppendTime") {
            // With message keys, versions are distinguished by the timestamps that a run gives, wherever they lie.
            let has_keys = !self.table.outbox.message_key.is_empty();
            let severity = if has_keys { Severity::Error } else { Severity::Warning };
            let what = format!("topic {topic} replaces the records' timestamps by the broker's");
            let why = "the target's newest version of a row has the highest timestamp: it must be PostgreSQL's time of reading, which never goes back";
            let fix = self.alter(topic, "message.timestamp.type=CreateTime");
            self.findings.add(severity, "log-append-time", what, why, fix);
        }
        self.replication(topic, number(&settings, "min.insync.replicas"))?;
        let limit = number(&settings, "max.message.bytes");
        if let Some(bytes) = limit.filter(|&bytes| bytes < USUAL_BYTES) {
            self.findings.warning(
                "message-size",
                format!("topic {topic} accepts records of at most {bytes} bytes"),
                "larger rows stay unsent and end every run with 65; a limit this small also makes batches small",
                self.alter(topic, &format!("max.message.bytes={USUAL_BYTES}")),
            );
        }
        Ok(limit)
    }

    fn compaction(&mut self, topic: &str, settings: &Settings, id: &'static str, why: &str) {
        if settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact")) {
            let fix = self.alter(topic, "cleanup.policy=delete");
            self.findings.error(id, format!("topic {topic} is compacted"), why, fix);
        }
    }

    fn replication(&mut self, topic: &str, in_sync: Option<i64>) -> Result<()> {
        let (Some(admin), Some(in_sync)) = (&self.admin, in_sync) else { return Ok(()) };
        let copies = admin.replication(topic)?;
        if in_sync > copies {
            self.findings.warning(
                "min-insync",
                format!("topic {topic} has min.insync.replicas={in_sync} but {copies} replicas"),
                "brokers before Kafka 4.3 refuse every record",
                self.alter(topic, &format!("min.insync.replicas={copies}")),
            );
        } else if copies == 1 {
            let what = format!("topic {topic} has one replica");
            let why = "if its broker loses the disk, records already flagged but not yet copied are lost";
            let fix = "kafka-reassign-partitions.sh, with three replicas for each partition (a cluster of one broker has no more than one)";
            self.findings.note("one-copy", what, why, fix);
        } else if in_sync == 1 {
            self.findings.warning(
                "min-insync",
                format!("topic {topic} has {copies} replicas but min.insync.replicas=1"),
                "a record may be acknowledged, and its row flagged, while only one broker has it",
                self.alter(topic, "min.insync.replicas=2"),
            );
        }
        Ok(())
    }

    /// Checks the topic of the dead letters; the size that it takes.
    fn dead_letters(&mut self, dead: &str) -> Result<Option<i64>> {
        let why = "a record that the target refuses stops the run";
        if !self.exists(dead, "dead-letters-missing", why, admin::KEPT)? {
            return Ok(None);
        }
        let Some(settings) = self.settings(dead)? else { return Ok(None) };
        let why = "refused records are removed before anyone has looked at them";
        self.compaction(dead, &settings, "dead-letters-compaction", why);
        let limited: Vec<String> = admin::KEPT
            .iter()
            .filter_map(|(name, _)| Some(format!("{name}={}", number(&settings, name).filter(|limit| *limit >= 0)?)))
            .collect();
        if !limited.is_empty() {
            let kept: Vec<String> = admin::KEPT.iter().map(|(name, value)| format!("{name}={value}")).collect();
            self.findings.warning(
                "dead-letters-retention",
                format!("topic {dead} does not keep records forever ({})", limited.join(", ")),
                "refused records are removed silently, even if nobody has replayed or dropped them",
                self.alter(dead, &kept.join(",")),
            );
        }
        Ok(number(&settings, "max.message.bytes"))
    }
}

/// Reads from the end of a partition, where there is nothing: whether one may is answered all the same.
fn read(log: &mut KafkaLog, partitions: &[i32], limit: Duration) -> Result<Polled> {
    let mut ends = log.ends(End::Stable)?;
    ends.retain(|partition, _| partitions.first() == Some(partition));
    log.read_from(&ends, &ends)?;
    log.poll(limit.min(READING), &mut |_| {})
}

/// A topic's setting that is a number.
fn number(settings: &Settings, name: &str) -> Option<i64> {
    settings.get(name)?.parse().ok()
}

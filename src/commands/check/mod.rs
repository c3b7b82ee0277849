//! `pg2ch check`: asks all three servers, with the run's own settings, what would go wrong. It changes nothing.

mod clickhouse;
mod clock;
mod deletes;
mod distributed;
mod finding;
mod grants;
mod kafka;
mod keep;
mod order;
mod postgres;
mod source;
mod storage;
mod vacuum;

use self::finding::TableFindings;
use super::Frame;
use crate::config::TableConfig;
use crate::data::Offsets;
use crate::outcome::backlog;
use crate::outcome::gone::Gone;
use crate::postgres::SourceTable;

/// What the source has, as far as the target has to fit it.
#[derive(Clone, Debug)]
struct Source {
    table: SourceTable,
    comment: Option<String>,
}

/// Checks a table. It ends with 0 where a run would find nothing in its way. One server that cannot be asked, or hangs, does not hide
/// what the others have to say.
pub fn check(frame: &Frame<'_>, table: &TableConfig) -> TableFindings {
    let (mut found, mut source, mut fed, mut settled) = (TableFindings::default(), None, Vec::new(), Offsets::new());
    let checked = frame.on(table, postgres::check);
    if let Some(checked) = found.answered(checked) {
        found.versions.push(("PostgreSQL", checked.version));
        found.findings.extend(checked.findings);
        (source, fed, settled) = (checked.source, checked.fed, checked.settled);
        let unsent = frame.on(table, |leg| backlog::unsent(leg.config, leg.table, leg.watchdog));
        // What it cannot find out is among the findings already.
        found.backlog.unsent = unsent.ok();
    }
    let checked = frame.on(table, kafka::check);
    if let Some(findings) = found.answered(checked) {
        found.findings.extend(findings);
        let partitions = frame.on(table, |leg| backlog::partitions(leg.config, leg.table, leg.watchdog));
        found.backlog.partitions = partitions.ok().map(|(partitions, _)| partitions);
        found.findings.extend(kafka::gone(table, &Gone::of(&found.backlog, &settled)));
    }
    let is_proven = found.backlog.partitions.iter().flatten().all(|partition| partition.trusted);
    // Another group's offsets, or those of a topic that may not be read, stay unknown; a Kafka that is down is not waited for again.
    fed.retain(|_| found.backlog.partitions.is_some());
    let elsewhere = frame.on(table, move |leg| kafka::committed(leg, fed)).unwrap_or_default();
    let checked = frame.on(table, move |leg| clickhouse::check(leg, source.as_ref(), is_proven, &elsewhere));
    if let Some((version, findings)) = found.answered(checked) {
        found.versions.push(("ClickHouse", version));
        found.findings.extend(findings);
    }
    found.findings.sort_by_key(|finding| finding.severity);
    found
}

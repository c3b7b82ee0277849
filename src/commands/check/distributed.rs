//! Targets whose rows lie on several servers, and targets that are the same table under two names.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::clickhouse::{Check, TableRow};
use crate::clickhouse::Replicas;
use crate::config::TargetName;
use crate::error::Result;
use crate::legs::consume::position::{Context, Position};
use crate::ports::layout::Distributed;
use crate::ports::topic::Committed;
use crate::postgres::literal;

/// An INSERT's quorum that takes longer, in seconds, is stuck.
const STUCK: i64 = 60;

#[derive(Deserialize)]
struct DistributedRow {
    database: String,
    name: String,
    engine_full: String,
}

impl Check<'_> {
    /// The table that stores the target's rows, as far as this server has it; for all but a Distributed one that is itself.
    pub(super) fn find_stored(&mut self, row: TableRow) -> Result<Option<TableRow>> {
        let Some(parts) = Distributed::parse(&row.engine_full) else { return Ok(Some(row)) };
        self.stored = TargetName { database: parts.database, table: parts.table };
        let found = self.table_row()?;
        self.findings.note(
            "distributed",
            format!("{} stores its rows in {} on the servers of a cluster", self.table.target, self.stored),
            if found.is_some() {
                "findings about that table are checked on this server only"
            } else {
                "this server has no such table, so nothing of it is checked"
            },
            "-- run `pg2ch check` against each server, with that table as the target",
        );
        Ok(found)
    }

    /// Whether enough replicas work to confirm an INSERT, and whether an earlier one still waits for them.
    pub(super) fn quorum(&mut self) {
        let name = self.stored.clone();
        // A user who may not ask has no finding; the INSERT tells the same.
        let replicas: Vec<Replicas> = self.rows(&Replicas::sql(&name)).unwrap_or_default();
        if let Some(found) = replicas.first().filter(|found| found.active_replicas < found.majority())
            && found.total_replicas > 1
        {
            self.findings.error(
                "quorum-missing",
                format!("{} of {} replicas of {name} are active", found.active_replicas, found.total_replicas),
                format!("{} have to confirm an INSERT: until then a run ends with 69", found.majority()),
                format!(
                    "-- start the other replicas; remove one that is gone for good: SYSTEM DROP REPLICA 'its_name' FROM TABLE {};",
                    self.name()
                ),
            );
        }
        let waiting: Vec<i64> = self
            .column(&format!(
                "SELECT toInt64(now()) - toInt64(ctime) AS seconds FROM system.zookeeper WHERE name = 'status' AND path IN \
                 (SELECT concat(zookeeper_path, '/quorum') FROM system.replicas WHERE {})",
                self.here("table")
            ))
            .unwrap_or_default();
        if let Some(seconds) = waiting.first().filter(|seconds| **seconds > STUCK) {
            self.findings.error(
                "quorum-stuck",
                format!("an INSERT into {name} has waited {seconds} s for its quorum"),
                "no later INSERT with a quorum is taken before it has one",
                "-- start the replicas that are missing; system.replication_queue tells why one does not fetch the part",
            );
        }
    }

    /// Two tables of the configuration that end in one: positions of two topics could not be distinguished there.
    pub(super) fn shared(&mut self) -> Result<()> {
        let sql = "SELECT database, name, engine_full FROM system.tables WHERE engine = 'Distributed'";
        let behind: BTreeMap<(String, String), Distributed> = self
            .rows::<DistributedRow>(sql)?
            .into_iter()
            .filter_map(|row| Some(((row.database, row.name), Distributed::parse(&row.engine_full)?)))
            .collect();
        let mut others = self.config.tables.iter().filter(|other| other.source != self.table.source);
        let own = stored(&self.table.target, &behind);
        if let Some(other) = others.find(|other| stored(&other.target, &behind) == own) {
            let (what, topic) = (format!("{} and {} store", self.table.target, other.target), &other.topic);
            self.findings.error("target-shared", format!("{what} into the same table"), two_topics(topic), OWN_TARGET);
        }
        Ok(())
    }

    /// A source that only another configuration has: its offsets in the same group name this target.
    pub(super) fn fed_elsewhere(&mut self, target: &str) {
        let is_here = |(_, topic, partition, Committed { next, metadata }): &&(String, String, i32, Committed)| {
            let context = Context { group: &self.table.group, topic, target };
            Position::verify(metadata, context, *partition, *next).is_some_and(|position| position.at > 0)
        };
        let Some((source, topic, ..)) = self.elsewhere.iter().find(is_here) else { return };
        let what = format!("{source} of another configuration is copied into {} as well", self.table.target);
        let fix = format!(
            "{OWN_TARGET}. If {source} has moved away for good, in PostgreSQL: DELETE FROM pg2ch_checkpoint WHERE topic = {} AND source = {};",
            literal(topic),
            literal(source)
        );
        self.findings.error("target-shared", what, two_topics(topic), fix);
    }
}

const OWN_TARGET: &str = "-- give each table a target of its own; a view can join them";

fn two_topics(topic: &str) -> String {
    format!("it is filled from the topic {topic} as well: it cannot distinguish partitions and offsets of two topics")
}

/// The database and name of the table in which a target's rows end; `behind` are the Distributed tables, by theirs.
fn stored(target: &TargetName, behind: &BTreeMap<(String, String), Distributed>) -> (String, String) {
    let own = (target.database.clone(), target.table.clone());
    behind.get(&own).map_or(own, |parts| (parts.database.clone(), parts.table.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distributed_table_and_the_one_behind_it_are_the_same() {
        let name = |table: &str| TargetName { database: "d".into(), table: table.into() };
        let parts = Distributed::parse("Distributed('c', 'd', 'local', cityHash64(id))").unwrap();
        let behind = [(("d".to_owned(), "everywhere".to_owned()), parts)].into();
        assert_eq!(stored(&name("everywhere"), &behind), stored(&name("local"), &behind));
        assert_ne!(stored(&name("other"), &behind), stored(&name("local"), &behind));
    }
}

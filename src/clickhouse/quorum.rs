//! How many replicas have to confirm an INSERT into a table whose data lie on several servers, and how long it waits for them.

use serde::Deserialize;

use super::settings::{QUORUM, QUORUM_TIMEOUT};
use super::sql::is_about;
use super::target_table::ClickHouseTarget;
use crate::config::TargetName;
use crate::error::Result;
use crate::ports::layout::Layout;

/// How many replicas a table has, and how many of them work. Zero if the server does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Replicas {
    /// As ZooKeeper or Keeper knows them.
    pub total_replicas: u64,
    /// Those with a session there.
    pub active_replicas: u64,
}

impl Replicas {
    /// The question. It has an answer for every table: one that is not replicated has no replicas.
    pub fn sql(name: &TargetName) -> String {
        format!(
            "SELECT max(total_replicas) AS total_replicas, max(active_replicas) AS active_replicas \
             FROM system.replicas WHERE {}",
            is_about(name, "table")
        )
    }

    /// How many have to confirm an INSERT.
    pub const fn majority(self) -> u64 {
        self.total_replicas / 2 + 1
    }
}

impl ClickHouseTarget {
    /// The settings of an INSERT into a table whose data lie on several servers, besides those of every INSERT.
    pub(super) fn insert_elsewhere(&mut self) -> Result<Vec<(&'static str, String)>> {
        let is_alone = self.layout()? == Layout::Replicated && self.is_alone();
        let limit = self.http().limit();
        let settings = &self.settings()?.insert_elsewhere;
        Ok(settings
            .iter()
            .map(|&(name, value)| match name {
                // A quorum of one replica waits for a second one, which does not exist.
                QUORUM if is_alone => (name, "1".to_owned()),
                // Less than a request may take, so that ClickHouse gives up first and says why.
                QUORUM_TIMEOUT => (name, (limit * 4 / 5).as_millis().to_string()),
                _ => (name, value.to_owned()),
            })
            .collect())
    }

    /// Whether the table has one replica only. A user who may not know is taken to have several.
    pub fn is_alone(&mut self) -> bool {
        let (what, sql) = (format!("cannot count the replicas of {}", self.name()), Replicas::sql(self.name()));
        let replicas = self.replicas.get_or_insert_with(|| {
            let found = self.http.rows(&what, &sql, &[("output_format_json_quote_64bit_integers", "0")]);
            let found: Vec<Replicas> = found.unwrap_or_else(|error| {
                log::debug!("{error}");
                Vec::new()
            });
            found.first().map_or(0, |found| found.total_replicas)
        });
        *replicas == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_more_than_half() {
        let of = |total_replicas| Replicas { total_replicas, active_replicas: 0 }.majority();
        assert_eq!([of(1), of(2), of(3), of(4)], [1, 2, 2, 3]);
    }
}

//! Where a table's data lie, as its engine tells: on the server that is asked, on replicas, or on shards.

use super::engine::split_arguments;

/// Where a table's data lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// On one server.
    Here,
    /// On replicas, which fetch from each other what one of them was given.
    Replicated,
    /// On the servers of a cluster, each with a table of its own.
    Distributed,
}

impl Layout {
    /// The layout of a table with this engine.
    #[must_use]
    pub fn of(engine: &str) -> Self {
        match engine {
            "Distributed" => Self::Distributed,
            _ if engine.starts_with("Replicated") || engine.starts_with("Shared") => Self::Replicated,
            _ => Self::Here,
        }
    }

    /// The setting of the table that says how many tokens it remembers.
    #[must_use]
    pub const fn window_setting(self) -> &'static str {
        match self {
            Self::Replicated => "replicated_deduplication_window",
            Self::Here | Self::Distributed => "non_replicated_deduplication_window",
        }
    }
}

/// What a Distributed table is put together from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distributed {
    /// The table's database on each server.
    pub database: String,
    /// Its name there.
    pub table: String,
    /// The expression that chooses a row's server, if there is one.
    pub sharding_key: Option<String>,
}

impl Distributed {
    /// Reads `Distributed('cluster', 'database', 'table', key, 'policy')`; `None` if it is none.
    #[must_use]
    pub fn parse(engine_full: &str) -> Option<Self> {
        let (arguments, _) = split_arguments(engine_full.strip_prefix("Distributed(")?);
        let name = |at: usize| Some(arguments.get(at)?.trim_matches(['\'', '`']).to_owned());
        let sharding_key = arguments.get(3).cloned();
        Some(Self { database: name(1)?, table: name(2)?, sharding_key })
    }

    /// Whether a row may go to another server when it is sent again: two repetitions are then no repetition.
    #[must_use]
    pub fn is_random(&self) -> bool {
        self.sharding_key.as_ref().is_some_and(|key| {
            let key = key.to_ascii_lowercase();
            ["rand", "generateuuid", "now", "generatesnowflake"].iter().any(|function| key.contains(function))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_distributed_table_are_found() {
        let parsed = |text| Distributed::parse(text).unwrap();
        let plain =
            parsed("Distributed('c', 'db', 'local', sipHash64(id, 'a,b'), 'policy') SETTINGS fsync_after_insert = 1");
        assert_eq!((plain.database.as_str(), plain.table.as_str()), ("db", "local"));
        assert_eq!(plain.sharding_key.as_deref(), Some("sipHash64(id, 'a,b')"));
        assert!(!plain.is_random());
        assert!(parsed("Distributed('c', 'db', 'local', rand())").is_random());
        assert_eq!(parsed("Distributed('c', 'db', 'local')").sharding_key, None);
        assert_eq!(Distributed::parse("MergeTree ORDER BY id"), None);
    }

    #[test]
    fn an_engine_tells_where_the_data_lie() {
        assert_eq!(Layout::of("ReplicatedReplacingMergeTree"), Layout::Replicated);
        assert_eq!(Layout::of("SharedMergeTree"), Layout::Replicated);
        assert_eq!(Layout::of("Distributed"), Layout::Distributed);
        assert_eq!(Layout::of("ReplacingMergeTree"), Layout::Here);
    }
}

//! Where a table's data lie, by its engine: on the server that is asked, on replicas, or on shards.

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

/// Follows a text, and knows whether it is inside quotes or brackets.
#[derive(Default)]
pub(super) struct Outside {
    quote: Option<char>,
    escaped: bool,
    depth: u32,
}

impl Outside {
    pub fn pass(&mut self, character: char) {
        match (self.quote, character) {
            (Some(_), _) if self.escaped => self.escaped = false,
            (Some(_), '\\') => self.escaped = true,
            (Some(open), c) if c == open => self.quote = None,
            (None, '\'' | '`' | '"') => self.quote = Some(character),
            (None, '(' | '[') => self.depth += 1,
            (None, ')' | ']') => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    /// Whether a text is open.
    pub const fn is_within_text(&self) -> bool {
        matches!(self.quote, Some('\''))
    }

    pub const fn is_outside(&self) -> bool {
        self.quote.is_none() && self.depth == 0
    }
}

/// The parts up to the closing bracket, or the end, split at commas outside brackets and quotes; and what comes after it.
pub(super) fn split_arguments(text: &str) -> (Vec<String>, &str) {
    let (mut found, mut start, mut outside) = (Vec::new(), 0, Outside::default());
    for (at, character) in text.char_indices() {
        if outside.is_outside() && matches!(character, ',' | ')') {
            found.push(text[start..at].trim().to_owned());
            start = at + 1;
            if character == ')' {
                return (found, &text[start..]);
            }
            continue;
        }
        outside.pass(character);
    }
    if !text[start..].trim().is_empty() {
        found.push(text[start..].trim().to_owned());
    }
    (found, "")
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

//! The settings pinned on every statement, so that a server's profile cannot change what the promise rests on.

use std::collections::HashSet;

use super::http::{Http, text};
use crate::error::Result;

/// For INSERTs.
const INSERT: &[(&str, &str)] = &[
    // The answer means "stored": newer servers buffer by default.
    ("async_insert", "0"),
    // One body is one block: tokens and fsync work by block.
    ("input_format_parallel_parsing", "0"),
    ("max_insert_block_size", "1048449"),
    ("max_insert_block_size_bytes", "0"),
    ("input_format_max_block_size_bytes", "0"),
    // A token in use is remembered, also by the views behind the table.
    ("insert_deduplicate", "1"),
    ("deduplicate_insert", "enable"),
    ("deduplicate_insert", "enable"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    // Two versions of a key in one block stay two rows until a merge: the target is asked for rows by offset.
    ("optimize_on_insert", "0"),
    // Many target partitions in a block are no bad data; a limit would only mean more parts.
    ("max_partitions_per_insert_block", "0"),
    // Nothing is defaulted, clamped or skipped in silence.
    ("input_format_null_as_default", "0"),
    ("insert_null_as_default", "0"),
    ("input_format_skip_unknown_fields", "0"),
    ("date_time_overflow_behavior", "throw"),
    ("materialized_views_ignore_errors", "0"),
    // How JSONEachRow reads what PostgreSQL prints.
    ("date_time_input_format", "best_effort"),
    ("input_format_json_read_objects_as_strings", "1"),
    ("input_format_json_read_arrays_as_strings", "1"),
    ("input_format_json_read_numbers_as_strings", "1"),
    ("input_format_json_read_bools_as_strings", "1"),
    ("input_format_json_read_bools_as_numbers", "0"),
];

/// For questions whose answer must be whole.
const ASK: &[(&str, &str)] = &[
    ("final", "0"),
    ("use_query_cache", "0"),
    ("max_rows_to_read", "0"),
    ("max_result_rows", "0"),
    ("max_result_bytes", "0"),
    ("read_overflow_mode", "throw"),
    ("result_overflow_mode", "throw"),
    ("timeout_overflow_mode", "throw"),
    ("select_sequential_consistency", "1"),
    ("max_parallel_replicas", "1"),
    ("skip_unavailable_shards", "0"),
    ("additional_table_filters", "{}"),
    ("limit", "0"),
    ("offset", "0"),
];

/// The settings that this server knows.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// For INSERTs, without the token.
    pub insert: Vec<(&'static str, &'static str)>,
    /// For questions.
    pub ask: Vec<(&'static str, &'static str)>,
    /// Whether the server takes deduplication tokens.
    pub knows_tokens: bool,
}

impl Settings {
    /// Asks the server which of the pinned settings it knows: an unknown one would be an error.
    ///
    /// # Errors
    /// ClickHouse's.
    pub fn of(http: &Http) -> Result<Self> {
        let wanted: Vec<String> = INSERT.iter().chain(ASK).map(|(name, _)| text(name)).collect();
        let sql = format!(
            "SELECT name FROM system.settings WHERE name IN ({}, 'insert_deduplication_token') FORMAT TabSeparated",
            wanted.join(", ")
        );
        let answer = http.ask("cannot ask for the server's settings", &sql, &[])?;
        let answer = String::from_utf8_lossy(&answer);
        let known: HashSet<&str> = answer.lines().collect();
        let of = |pinned: &[(&'static str, &'static str)]| {
            pinned.iter().copied().filter(|(name, _)| known.contains(name)).collect::<Vec<_>>()
        };
        Ok(Self { insert: of(INSERT), ask: of(ASK), knows_tokens: known.contains("insert_deduplication_token") })
    }
}

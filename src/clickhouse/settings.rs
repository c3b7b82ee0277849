//! The settings pinned on every statement, so that a server's profile cannot change what the promise rests on.
//! ClickHouse's reference has each of them: <https://clickhouse.com/docs/operations/settings/settings>.

use std::collections::HashSet;

use super::http::PINNED_BY_NEWER;
use super::sql::text;

/// For INSERTs.
const INSERT: &[(&str, &str)] = &[
    // The answer means "stored": newer servers buffer by default.
    ("async_insert", "0"),
    // Should the table have it switched on in between.
    ("wait_for_async_insert", "1"),
    ("async_insert_deduplicate", "1"),
    // One body is one block: tokens and fsync work by block.
    ("input_format_parallel_parsing", "0"),
    ("max_insert_block_size", "1048449"),
    ("max_insert_block_size_bytes", "0"),
    ("input_format_max_block_size_bytes", "0"),
    ("input_format_max_block_wait_ms", "0"),
    // A token in use is remembered, also by the views behind the table.
    ("insert_deduplicate", "1"),
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
    // In parallel a view's refusal may leave the target without the block and another view with it.
    ("parallel_view_processing", "0"),
    // The server compares the header's names and types with the table's: an altered table refuses.
    ("input_format_with_names_use_header", "1"),
    ("input_format_with_types_use_header", "1"),
    ("input_format_binary_decode_types_in_binary_format", "0"),
    // A column that the header leaves out has its DEFAULT, not its type's zero.
    ("input_format_defaults_for_omitted_fields", "1"),
    ("input_format_force_null_for_omitted_fields", "0"),
    ("input_format_binary_read_json_as_string", "1"),
    // Or a JSON column gives "2024-01-02T03:04:05" back as "2024-01-02 03:04:05".
    ("input_format_try_infer_dates", "0"),
    ("input_format_try_infer_datetimes", "0"),
    // Or it turns ["1", "2"] into [1, 2], and leaves out duplicate keys.
    ("input_format_json_try_infer_numbers_from_strings", "0"),
    ("input_format_try_infer_variants", "0"),
    // Or it turns [1, "2"] into ["1", "2"].
    ("input_format_json_infer_array_of_dynamic_from_array_of_different_types", "1"),
    ("type_json_skip_duplicated_paths", "0"),
    // As in `WHOLE`. Questions have these from `PINNED`.
    ("timeout_overflow_mode", "throw"),
    ("read_overflow_mode", "throw"),
    ("result_overflow_mode", "throw"),
    ("join_overflow_mode", "throw"),
    ("transfer_overflow_mode", "throw"),
    ("limit", "0"),
    ("offset", "0"),
    // The answer comes after the end, has its status, and nothing but a late exception in its body.
    ("send_progress_in_http_headers", "0"),
    ("http_write_exception_in_output_format", "0"),
    ("enable_http_compression", "0"),
];

/// For INSERTs into tables whose data lie on several servers, besides.
const INSERT_ELSEWHERE: &[(&str, &str)] = &[
    // The answer means "stored by a majority": a row that one replica alone has is lost with it, its offset committed.
    (QUORUM, "auto"),
    // Its value is a part of the limit of a request.
    (QUORUM_TIMEOUT, ""),
    // One after the other, as select_sequential_consistency needs it: the target is asked what it holds.
    ("insert_quorum_parallel", "0"),
    // The answer means "stored by the shards", not "put into a queue here". The newer name, and the older one.
    ("distributed_foreground_insert", "1"),
    ("insert_distributed_sync", "1"),
    // Or a table without a sharding key sends a repeated row to another shard.
    ("insert_distributed_one_random_shard", "0"),
];

/// For questions whose answer must be whole, besides [`PINNED`](super::http::PINNED).
const ASK: &[(&str, &str)] = &[
    ("final", "0"),
    // Or rows that a lightweight DELETE has removed would seem to be there.
    ("apply_deleted_mask", "1"),
    ("select_sequential_consistency", "1"),
    ("max_parallel_replicas", "1"),
    ("skip_unavailable_shards", "0"),
    // Values are compared as text.
    ("date_time_output_format", "simple"),
    ("date_time_64_output_format_cut_trailing_zeros_align_to_groups_of_thousands", "0"),
    ("output_format_decimal_trailing_zeros", "0"),
    ("bool_true_representation", "true"),
    ("bool_false_representation", "false"),
];

/// For both: a profile's limits refuse, and its filters are off. What they would cut off, an answer, the target or a view behind it
/// would lack silently.
const WHOLE: &[(&str, &str)] = &[
    ("group_by_overflow_mode", "throw"),
    ("distinct_overflow_mode", "throw"),
    ("set_overflow_mode", "throw"),
    ("sort_overflow_mode", "throw"),
    ("read_overflow_mode_leaf", "throw"),
    ("timeout_overflow_mode_leaf", "throw"),
    ("additional_result_filter", ""),
    ("additional_table_filters", "{}"),
];

/// The setting that says how many replicas have to confirm an INSERT.
pub const QUORUM: &str = "insert_quorum";

/// The setting that says how long they may take, in milliseconds.
pub const QUORUM_TIMEOUT: &str = "insert_quorum_timeout";

/// The setting that carries an INSERT's token.
pub const TOKEN: &str = "insert_deduplication_token";

/// The settings that this server knows.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// For INSERTs, without the token.
    pub insert: Vec<(&'static str, &'static str)>,
    /// For INSERTs into tables whose data lie on several servers, besides.
    pub insert_elsewhere: Vec<(&'static str, &'static str)>,
    /// For questions.
    pub ask: Vec<(&'static str, &'static str)>,
}

impl Settings {
    /// The names of all of them, as a list of SQL texts: an unknown one would be an error, so the server is asked.
    pub fn names_sql() -> String {
        let pinned = [INSERT, INSERT_ELSEWHERE, ASK, WHOLE].into_iter().chain(PINNED_BY_NEWER).flatten();
        pinned.map(|(name, _)| text(name)).collect::<Vec<_>>().join(", ")
    }

    /// Those of which the server knows the names.
    pub fn among(known: &[String]) -> Self {
        let known: HashSet<&str> = known.iter().map(String::as_str).collect();
        let of = |pinned: &[&[(&'static str, &'static str)]]| {
            pinned.iter().copied().flatten().copied().filter(|(name, _)| known.contains(name)).collect::<Vec<_>>()
        };
        let [newest, _] = PINNED_BY_NEWER;
        Self { insert: of(&[INSERT, WHOLE, newest]), insert_elsewhere: of(&[INSERT_ELSEWHERE]), ask: of(&[ASK, WHOLE]) }
    }
}

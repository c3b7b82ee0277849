-- The target of pg2ch's default configuration. Safe to run again: it creates what is missing.

CREATE DATABASE IF NOT EXISTS analytics;

-- Columns that begin with an underscore say where a row comes from: the record's partition, offset and timestamp in Kafka, and
-- when it was inserted. ReplacingMergeTree keeps, of rows with the same id, the one with the newest record timestamp.
-- non_replicated_deduplication_window lets the server recognise an INSERT that is sent twice (0, the default, turns that off);
-- the fsync settings put a part on disk before the INSERT is answered, because pg2ch then commits the records' offsets.
CREATE TABLE IF NOT EXISTS analytics.user_logins
(
    id           Int64,
    user_id      Int64,
    event_type   LowCardinality(String),
    event_time   DateTime64(6, 'UTC'),
    payload      Nullable(String),
    _partition   Int32,
    _offset      Int64,
    _timestamp   DateTime64(3, 'UTC'),
    _ingested_at DateTime64(3, 'UTC') DEFAULT now64(3),
    INDEX _position (_partition, _offset) TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(_timestamp)
ORDER BY id
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1,
         min_rows_to_fsync_after_merge = 1;

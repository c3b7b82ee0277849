//! pg2ch moves the unsent rows of a PostgreSQL table through Kafka into ClickHouse, each row version exactly once.
//!
//! `ARCHITECTURE.md` tells how; the data's way through the modules is [`produce`] (PostgreSQL to Kafka), then [`consume`]
//! (Kafka to ClickHouse). The library exists for the program's own tests; its interface is not stable.

pub mod batch;
pub mod cli;
pub mod clickhouse;
pub mod commands;
pub mod config;
pub mod consume;
pub mod crash;
pub mod error;
pub mod exit_code;
pub mod history;
pub mod kafka;
pub mod left;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod mutant;
pub mod postgres;
pub mod produce;
pub mod progress;
pub mod report;
pub mod retry;
pub mod run;
pub mod servers;
pub mod shutdown;
pub mod sync;
pub mod target_fit;
pub mod terminal;
pub mod threads;
pub mod type_fit;
pub mod type_map;
pub mod watchdog;

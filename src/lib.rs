//! pg2ch moves the unsent rows of a PostgreSQL table through Kafka into ClickHouse, each row version exactly once.
//!
//! `ARCHITECTURE.md` shows the floors of the house. The library exists for the program's own tests; its interface is not stable.

pub mod certificates;
pub mod cli;
pub mod clickhouse;
pub mod commands;
pub mod config;
pub mod crash;
pub mod data;
pub mod error;
pub mod fit;
pub mod kafka;
pub mod legs;
pub mod logging;
pub mod mutant;
pub mod numbers;
pub mod open;
pub mod outcome;
pub mod page;
pub mod ports;
mod postgres;
pub mod report;
pub mod run;
pub mod run_id;
pub mod shutdown;
pub mod sync;
pub mod terminal;
pub mod threads;

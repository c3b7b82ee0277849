//! The protocol: the two legs of a run, written against `ports` alone.
//!
//! A row goes through [`produce`] (PostgreSQL to Kafka), then, as a record, through [`consume`] (Kafka to ClickHouse).

pub mod consume;
mod pace;
pub mod produce;
pub mod retry;

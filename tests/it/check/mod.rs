//! `pg2ch check`: each finding, and the grants that leave none.

mod clickhouse;
mod grants;
mod kafka;
mod postgres;
mod servers;
mod vacuum;
mod whole;

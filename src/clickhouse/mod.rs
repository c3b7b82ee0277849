//! What pg2ch asks of ClickHouse, over its HTTP interface.

mod answer;
pub mod column_type;
pub mod encode;
mod http;
mod insert;
mod lookup;
mod probe;
mod quorum;
mod settings;
mod target_table;
mod views;

pub use answer::{Answer, Exception};
pub use http::{Http, quote, text};
pub use quorum::Replicas;
pub use target_table::ClickHouseTarget;

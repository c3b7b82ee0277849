//! What pg2ch asks of ClickHouse, over its HTTP interface.

pub mod column_type;
pub mod encode;
mod http;
mod insert;
pub mod layout;
mod lookup;
mod settings;
mod target_table;

pub use http::{Answer, Exception, Http, quote, text};
pub use target_table::ClickHouseTarget;

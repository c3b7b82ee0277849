//! What pg2ch asks of ClickHouse, over its HTTP interface.

mod answer;
pub(crate) mod column_type;
pub(crate) mod encode;
mod http;
mod insert;
pub(crate) mod lookup;
mod probe;
mod quorum;
pub(crate) mod row_binary;
mod settings;
mod sql;
mod target_table;
mod views;

pub use answer::{Answer, Exception};
pub use column_type::{Column, ColumnType};
pub use encode::{CalendarRange, FORMAT, RowEncoder};
pub use http::Http;
pub(crate) use quorum::Replicas;
pub use sql::quote;
pub(crate) use sql::{is_about, sql_name, text};
pub use target_table::ClickHouseTarget;

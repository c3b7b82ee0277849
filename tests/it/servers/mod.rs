//! Servers as people have them: with TLS, several replicas, old versions, no transactions.

mod engines;
mod oauth;
mod old_clickhouse;
mod tls;
mod without_transactions;

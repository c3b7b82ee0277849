//! Clusters and what stands in front of servers: brokers that are killed, paused and outnumbered, a PostgreSQL that fails over, an
//! nginx. `scripts/soak --only clusters` does the same hundreds of times.

mod brokers;
mod failover;
mod nginx;

//! What follows a run: how much it left behind, its entry in the history, its metrics.

pub mod backlog;
pub mod history;
pub mod metrics;

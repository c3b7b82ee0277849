//! What follows a run: how much it left behind, its entry in the history, its metrics, and its report to a check.

pub mod backlog;
pub mod gone;
pub mod heartbeat;
pub mod history;
pub mod metrics;
pub mod notify;

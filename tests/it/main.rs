//! Everything that is tried on real servers or on the built program, a folder for each promise. `scripts/test` starts the
//! servers; a folder's name is also a filter:
//!
//!     scripts/test --test it crashes::
//!     scripts/test --test it life::ordinary

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "its numbers are small"
)]
#![allow(clippy::unused_self, clippy::struct_excessive_bools, reason = "what a test does reads as what its world does")]
#![allow(clippy::case_sensitive_file_extension_comparisons, reason = "the names are our own")]
#![allow(clippy::float_cmp, reason = "metrics are whole numbers")]

mod check;
mod clusters;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod crashes;
mod documents;
mod faults;
mod life;
mod packaging;
mod schedules;
mod servers;
mod tables;
mod target;
mod values;

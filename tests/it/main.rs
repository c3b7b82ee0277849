//! Everything that is tried on real servers or on the built program, a folder for each promise. `scripts/test` starts the
//! servers; a folder's name is also a filter:
//!
//!     scripts/test --test it crashes::
//!     scripts/test --test it life::ordinary

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

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

//! The plans on the program's own threads and channels.

use std::thread::yield_now as pause;

use crossbeam_channel::TrySendError;
use pg2ch::{sync, threads};

#[path = "channels.rs"]
pub mod channels;
#[path = "jobs.rs"]
pub mod jobs;
#[allow(dead_code, reason = "every schedule there is can only be asked of the stand-ins")]
#[path = "stages.rs"]
pub mod stages;

/// The operating system has threads enough.
fn leave_threads(_: Option<u32>) {}

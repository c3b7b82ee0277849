//! The plans on stand-ins whose scheduler tries one interleaving after another.

use std::sync::mpsc::TrySendError;

use crate::sync::{leave_threads, pause};
use crate::{sync, threads};

#[path = "channels.rs"]
pub mod channels;
#[path = "jobs.rs"]
pub mod jobs;
#[path = "stages.rs"]
pub mod stages;

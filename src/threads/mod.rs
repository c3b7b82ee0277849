//! What runs side by side: the stages of a leg, the tables of a run, work that may not have to be waited for.
//!
//! All threads and channels are those of [`sync`](crate::sync), so that every interleaving of what is written here can be
//! tried (`tests/threads`). A panic in a thread becomes that thread's error, where it happens.

mod jobs;
mod spares;
mod stages;
pub mod watchdog;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use jobs::{Job, Supervisor, at_a_time, beside};
pub use spares::Spares;
pub use stages::{Maker, both, first_error, side_by_side};

use crate::error::{Error, Result};
use crate::mutant;

/// Does `work` of the thread `name`.
///
/// # Errors
/// That of `work`, or 70 if it panics.
fn caught<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if mutant::is("a panic is not caught") {
        return work();
    }
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(ended(name, &*panic)))
}

/// A thread that has panicked.
fn ended(name: &str, panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    Error::bug(format!("the thread {name} ended"), text.unwrap_or_else(|| "it panicked".into()))
}

/// The thread `name`, if it could be started.
///
/// # Errors
/// 69 if the operating system has no thread left.
fn started<H>(name: &str, thread: io::Result<H>) -> Result<H> {
    thread.map_err(|error| {
        Error::unavailable(format!("cannot start the thread {name}"), error, "raise the limit on processes (ulimit -u)")
    })
}

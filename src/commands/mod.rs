//! The commands beside the run itself.

pub mod check;
pub mod completions;
pub mod config;
pub mod dead_letters;
pub mod init;
pub mod manual;
mod migration;
pub mod status;
pub mod verify;

use crate::error::{Error, Result};
use crate::threads::beside;
use crate::threads::watchdog::{LOOK, Watchdog};

/// Does `work` on a thread that is left behind if a call in it exceeds its limit.
///
/// # Errors
/// 69 then; 70 if it panics; what `work` returns.
pub fn watched<T: Send + 'static>(work: impl FnOnce(&Watchdog) -> Result<T> + Send + 'static) -> Result<T> {
    let watchdog = Watchdog::default();
    let watched = watchdog.clone();
    let look = || {
        let overdue = watchdog.overdue()?;
        Some(Error::unavailable(
            overdue.what,
            format!("no answer within {:?}", overdue.limit),
            "the server accepts connections but does not answer: look at its process, its disk and its locks",
        ))
    };
    beside("command", LOOK, look, move || work(&watched))
}

//! The commands beside the run itself.

pub mod backlog;
pub mod check;
pub mod completions;
pub mod config;
pub mod dead_letters;
pub mod init;
pub mod manual;
pub mod status;
mod target_columns;
pub mod verify;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::threads::panic_text;
use crate::watchdog::Watchdog;

/// How often the calls under way are looked at.
const WATCH: Duration = Duration::from_millis(250);

/// Does `work` on a thread that is left behind if a call in it exceeds its limit.
///
/// # Errors
/// 69 then; 70 if it panics; what `work` returns.
pub fn watched<T: Send + 'static>(work: impl FnOnce(&Watchdog) -> Result<T> + Send + 'static) -> Result<T> {
    let watchdog = Watchdog::default();
    let (done, ended) = channel();
    let watching = watchdog.clone();
    let worker = std::thread::Builder::new().name("command".into()).spawn(move || {
        // The receiver is gone only if the main thread has given this one up.
        let _ = done.send(work(&watching));
    });
    let worker = worker.map_err(|error| {
        Error::unavailable("cannot start a thread", error, "raise the limit on processes (ulimit -u)")
    })?;
    loop {
        match ended.recv_timeout(WATCH) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => {
                if let Some(overdue) = watchdog.overdue() {
                    return Err(Error::unavailable(
                        overdue.what,
                        format!("no answer within {:?}", overdue.limit),
                        "the server accepts connections but does not answer: look at its process, its disk and its locks",
                    ));
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                let why = worker.join().err().map_or_else(|| "it vanished".into(), |panic| panic_text(&*panic));
                return Err(Error::bug("a command's thread ended", why));
            }
        }
    }
}

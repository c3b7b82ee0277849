//! Runs the stages of a leg side by side, and joins them: the first error counts, a panic becomes one.

use std::thread::{Scope, ScopedJoinHandle};

use crate::error::{Error, Result};

/// How many batches may wait between two stages: one in each hand and one between keeps everybody busy.
pub const QUEUE: usize = 1;

/// Starts a stage's thread.
///
/// # Errors
/// 70 if the operating system has no thread left.
pub fn spawn<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    stage: impl FnOnce() -> Result<T> + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, Result<T>>> {
    std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, stage).map_err(|error| {
        Error::unavailable(format!("cannot start the thread {name}"), error, "raise the limit on processes (ulimit -u)")
    })
}

/// Waits for a stage.
///
/// # Errors
/// The stage's own, or 70 if it panicked.
pub fn join<T>(name: &str, handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    handle.join().unwrap_or_else(|panic| Err(Error::bug(format!("the thread {name} ended"), panic_text(&*panic))))
}

/// The message of a panic, if it has one.
#[must_use]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it panicked".into())
}

/// The first failure of several stages, in the data's order; the others are logged.
///
/// # Errors
/// That failure.
pub fn first_error<const N: usize>(results: [Result<()>; N]) -> Result<()> {
    let mut first = Ok(());
    for result in results {
        match (&first, result) {
            (Ok(()), result) => first = result,
            (Err(_), Err(also)) => log::warn!("also: {also}"),
            (Err(_), Ok(())) => {}
        }
    }
    first
}

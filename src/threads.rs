//! Runs the stages of a leg side by side, and joins them: the first error counts, a panic becomes one.

use std::thread::{Scope, ScopedJoinHandle};

use crossbeam_channel::bounded;

use crate::error::{Error, Result};

/// How many batches may wait between two stages: none. One in each hand keeps everybody busy, and memory small.
pub const QUEUE: usize = 0;

/// Runs three stages, each on its own thread, until the first has nothing left or one of them fails: `first` makes pieces
/// of work, `second` turns each into others, `third` takes those in.
///
/// A stage that fails stops the one before it at its next hand-over, and lets the one behind it finish what it was given.
///
/// # Errors
/// The first failure, in the data's order.
pub fn side_by_side<A: Send, B: Send>(
    names: [&str; 3],
    mut first: impl FnMut() -> Result<Option<A>> + Send,
    mut second: impl FnMut(A) -> Result<Vec<B>> + Send,
    third: impl FnMut(B) -> Result<()> + Send,
) -> Result<()> {
    let (first_out, second_in) = bounded::<A>(QUEUE);
    let (second_out, third_in) = bounded::<B>(QUEUE);
    std::thread::scope(|scope| {
        let ahead = spawn(scope, names[0], move || {
            while let Some(piece) = first()? {
                // A failed send means that the next stage has ended; its own error tells why.
                if first_out.send(piece).is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        let between = spawn(scope, names[1], move || {
            for piece in second_in {
                if second(piece)?.into_iter().any(|made| second_out.send(made).is_err()) {
                    break;
                }
            }
            Ok(())
        })?;
        let behind = spawn(scope, names[2], move || third_in.iter().try_for_each(third))?;
        first_error([join(names[0], ahead), join(names[1], between), join(names[2], behind)])
    })
}

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

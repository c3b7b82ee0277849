//! Threads and channels: the few names that the program makes them by.
//!
//! What runs side by side is written against these names, in [`threads`](crate::threads). `tests/threads` compiles that
//! module once more with stand-ins for them, whose scheduler tries one interleaving after another.

use std::io;
use std::thread::{Builder, JoinHandle};

pub use std::thread::{Scope, ScopedJoinHandle, scope};

pub use crossbeam_channel::{Receiver, SendTimeoutError, Sender, bounded};

/// Starts a thread of that name.
///
/// # Errors
/// The operating system's, if it has no thread left; `work` is dropped then.
pub fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).spawn(work)
}

/// Starts a thread of that name, which ends before its scope does.
///
/// # Errors
/// The operating system's, if it has no thread left; `work` is dropped then.
pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().name(name.to_owned()).spawn_scoped(scope, work)
}

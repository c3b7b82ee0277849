//! What is opened on a thread of its own, ahead of the moment when it is wanted.

use std::cell::RefCell;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::sync;

/// How old what was opened ahead may be when it is wanted. Later its answers may no longer hold, or its connections.
pub(super) const FRESH: Duration = Duration::from_secs(60);

/// Something that is being opened on a thread of its own, and when it was.
pub(super) struct Ahead<T> {
    opening: JoinHandle<(Result<T>, Instant)>,
}

impl<T: Send + 'static> Ahead<T> {
    /// `None` where no thread can be had.
    pub(super) fn begin(name: &str, open: impl FnOnce() -> Result<T> + Send + 'static) -> Option<Self> {
        let opening = sync::spawn(name, move || (open(), Instant::now())).ok()?;
        Some(Self { opening })
    }

    /// More that is done with it when it is opened, likewise.
    pub(super) fn then(self, name: &str, more: impl FnOnce(T) -> T + Send + 'static) -> Option<Self> {
        let opening = sync::spawn(name, move || {
            let (opened, at) = self.opening.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (opened.map(more), at)
        });
        Some(Self { opening: opening.ok()? })
    }

    /// What was opened, or why it could not be; `None` if it is too old, or was never begun.
    pub(super) fn take(ahead: &RefCell<Option<Self>>) -> Option<Result<T>> {
        ahead.take()?.ended()
    }

    /// The same, of one that was begun.
    pub(super) fn ended(self) -> Option<Result<T>> {
        let (opened, at) = self.opening.join().ok()?;
        (at.elapsed() < FRESH).then_some(opened)
    }
}

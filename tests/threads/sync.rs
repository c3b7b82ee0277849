//! The names of `src/sync.rs` on shuttle's threads, of which one runs at a time: shuttle's scheduler decides which, wherever
//! they meet. `channels.rs` holds these channels and crossbeam's to the same rules.

use std::cell::Cell;
use std::io;
use std::time::Duration;

pub use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};

use shuttle::sync::mpsc;
use shuttle::thread::JoinHandle;
pub use shuttle::thread::{Scope, ScopedJoinHandle, scope};

/// A moment at which any other thread may go on.
pub fn pause() {
    // A thread that unwinds goes on by itself: the others would be told that they panic, too.
    if !std::thread::panicking() {
        shuttle::thread::sleep(Duration::ZERO);
    }
}

thread_local! {
    static PAUSES_AT_ENDS: Cell<bool> = const { Cell::new(true) };
}

/// Whether others may go on between what a thread did last and the end of one of its channels; otherwise the two are one.
pub fn pause_at_ends(wanted: bool) {
    PAUSES_AT_ENDS.set(wanted);
}

fn pause_at_end() {
    if PAUSES_AT_ENDS.get() {
        pause();
    }
}

pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::sync_channel(capacity);
    (Sender(sender), Receiver(receiver))
}

/// A piece that was not taken.
#[derive(Debug)]
pub enum SendTimeoutError<T> {
    Timeout(T),
    Disconnected(T),
}

pub struct Sender<T>(mpsc::SyncSender<T>);

impl<T> Sender<T> {
    pub fn send(&self, piece: T) -> Result<(), SendError<T>> {
        self.0.send(piece)
    }

    /// There is no clock here: the time may be over whenever nobody takes it.
    pub fn send_timeout(&self, piece: T, _: Duration) -> Result<(), SendTimeoutError<T>> {
        shuttle::thread::yield_now();
        self.0.try_send(piece).map_err(|error| match error {
            TrySendError::Full(piece) => SendTimeoutError::Timeout(piece),
            TrySendError::Disconnected(piece) => SendTimeoutError::Disconnected(piece),
        })
    }

    pub fn try_send(&self, piece: T) -> Result<(), TrySendError<T>> {
        self.0.try_send(piece)
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        pause_at_end();
    }
}

pub struct Receiver<T>(mpsc::Receiver<T>);

impl<T> Receiver<T> {
    pub fn recv(&self) -> Result<T, RecvError> {
        self.0.recv()
    }

    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.try_recv()
    }

    /// There is no clock here: the time may be over whenever nothing is there.
    pub fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
        shuttle::thread::yield_now();
        self.0.try_recv().map_err(|error| match error {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        })
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        pause_at_end();
    }
}

thread_local! {
    static THREADS_LEFT: Cell<Option<u32>> = const { Cell::new(None) };
}

/// From now on so many threads can be started; then one cannot.
pub fn leave_threads(number: Option<u32>) {
    THREADS_LEFT.set(number);
}

/// Fails for the one thread that there is not.
fn take_thread() -> io::Result<()> {
    let left = THREADS_LEFT.get();
    THREADS_LEFT.set(left.and_then(|left| left.checked_sub(1)));
    if left == Some(0) { Err(io::Error::other("there is no thread left")) } else { Ok(()) }
}

pub fn spawn<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    take_thread()?;
    shuttle::thread::Builder::new().name(name.to_owned()).spawn(work)
}

pub fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    _: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    take_thread()?;
    Ok(scope.spawn(work))
}

//! The stages of a leg.

use std::time::Duration;

use crate::error::Result;
use crate::mutant;
use crate::sync::{Receiver, Scope, ScopedJoinHandle, SendTimeoutError, Sender, bounded, scope, spawn_scoped};

use super::{caught, ended, started};

/// How many pieces may wait between two stages: none. One in each hand keeps everybody busy, and memory small.
const QUEUE: usize = 0;

/// How long the first stage holds a piece that nobody takes before it is told.
const KEPT_WAITING: Duration = Duration::from_secs(1);

/// The first stage of a leg.
pub trait Maker<A>: Send {
    /// The next piece of work; `None` if there is none left.
    ///
    /// # Errors
    /// Whatever fails.
    fn make(&mut self) -> Result<Option<A>>;

    /// The next stage does not take the last piece for a while: what others wait for must not be held meanwhile.
    fn is_kept_waiting(&mut self) {}
}

impl<A, F: FnMut() -> Result<Option<A>> + Send> Maker<A> for F {
    fn make(&mut self) -> Result<Option<A>> {
        self()
    }
}

/// Runs three stages, each on its own thread, until the first has nothing left or one of them fails: `first` makes pieces
/// of work, `second` turns each into others, `third` takes those in. With a piece it is given what hands over the next one, if that
/// waits already.
///
/// A stage that fails stops the one before it at its next hand-over, and lets the one behind it finish what it was given.
///
/// # Errors
/// The first failure, in the data's order.
pub fn side_by_side<A: Send, B: Send>(
    names: [&str; 3],
    mut first: impl Maker<A>,
    mut second: impl FnMut(A) -> Result<Vec<B>> + Send,
    mut third: impl FnMut(B, &mut dyn FnMut() -> Option<B>) -> Result<()> + Send,
) -> Result<()> {
    let (first_out, second_in) = queue();
    let (second_out, third_in) = queue();
    scope(|scope| {
        let kept = mutant::is("a sender outlives its stage").then(|| second_out.clone());
        let ahead = Stage::begin(scope, names[0], move || {
            while let Some(piece) = first.make()? {
                let taken = match first_out.send_timeout(piece, KEPT_WAITING) {
                    Err(SendTimeoutError::Timeout(piece)) => {
                        first.is_kept_waiting();
                        hand_over(&first_out, piece)
                    }
                    sent => is_taken(sent.is_ok()),
                };
                if !taken {
                    break;
                }
            }
            Ok(())
        })?;
        let between = Stage::begin(scope, names[1], move || {
            while let Ok(piece) = second_in.recv() {
                if !second(piece)?.into_iter().all(|made| hand_over(&second_out, made)) {
                    break;
                }
            }
            Ok(())
        })?;
        let behind = Stage::begin(scope, names[2], move || {
            while let Ok(piece) = third_in.recv() {
                third(piece, &mut || third_in.try_recv().ok())?;
            }
            Ok(())
        })?;
        let ends = [ahead.end(), between.end(), behind.end()];
        drop(kept);
        first_error(ends)
    })
}

/// Does two things of which neither waits for the other: `other` on a thread of that name, and `own` on this one.
///
/// # Errors
/// That of `other`, or of `own`.
pub fn both<A: Send, B>(
    name: &str,
    other: impl FnOnce() -> Result<A> + Send,
    own: impl FnOnce() -> Result<B>,
) -> Result<(A, B)> {
    scope(|scope| {
        let thread = started(name, spawn_scoped(scope, name, move || caught(name, other)))?;
        let own = caught(name, own);
        let other = thread.join().unwrap_or_else(|panic| Err(ended(name, &*panic)));
        Ok((other?, own?))
    })
}

/// What lies between two stages.
fn queue<T>() -> (Sender<T>, Receiver<T>) {
    if mutant::is("queues hold as much as comes") {
        return bounded(1_000);
    }
    bounded(QUEUE)
}

/// Gives a piece to the next stage; `false` if that has ended: its own error says why.
fn hand_over<T>(out: &Sender<T>, piece: T) -> bool {
    if mutant::is("a hand-over does not wait") {
        let _ = out.try_send(piece);
        return true;
    }
    is_taken(out.send(piece).is_ok())
}

/// Whether the next stage is still there.
fn is_taken(sent: bool) -> bool {
    if mutant::is("a stage goes on when the next has ended") {
        return true;
    }
    sent
}

/// A stage under way.
struct Stage<'scope, 'name> {
    name: &'name str,
    thread: ScopedJoinHandle<'scope, Result<()>>,
}

impl<'scope, 'name: 'scope> Stage<'scope, 'name> {
    fn begin(
        scope: &'scope Scope<'scope, '_>,
        name: &'name str,
        work: impl FnOnce() -> Result<()> + Send + 'scope,
    ) -> Result<Self> {
        let thread = spawn_scoped(scope, name, move || caught(name, work));
        Ok(Self { name, thread: started(name, thread)? })
    }

    /// Waits for its end.
    fn end(self) -> Result<()> {
        if mutant::is("a stage's end is not asked for") {
            return Ok(());
        }
        self.thread.join().unwrap_or_else(|panic| Err(ended(self.name, &*panic)))
    }
}

/// The first failure of several stages, in the data's order; the others are logged.
///
/// # Errors
/// That failure.
pub fn first_error<const N: usize>(results: [Result<()>; N]) -> Result<()> {
    if mutant::is("the last error counts") {
        return results.into_iter().rev().find(Result::is_err).unwrap_or(Ok(()));
    }
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

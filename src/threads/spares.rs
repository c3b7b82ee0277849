//! Memory that was filled once and waits to be filled again.

use crate::mutant;
use crate::sync::{Receiver, Sender, bounded};

/// How many of a kind wait.
const SPARE: usize = 1;

/// Emptied things on their way back from the stage that used them to the one that fills them. Nobody waits for them.
pub struct Spares<T> {
    back: Sender<T>,
    waiting: Receiver<T>,
}

impl<T: Default> Default for Spares<T> {
    fn default() -> Self {
        let (back, waiting) = bounded(SPARE);
        Self { back, waiting }
    }
}

impl<T: Default> Spares<T> {
    /// One that was given back, or a new one.
    #[must_use]
    pub fn take(&self) -> T {
        self.waiting.try_recv().unwrap_or_default()
    }

    /// Gives one back. With enough of them waiting it is simply freed.
    pub fn give_back(&self, emptied: T) {
        if mutant::is("a spare waits for room") {
            let _ = self.back.send(emptied);
            return;
        }
        let _ = self.back.try_send(emptied);
    }
}

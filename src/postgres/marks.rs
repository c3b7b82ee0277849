//! Marks of a run's progress, left in the session that holds its lock while the run makes no statements there: who finds the lock
//! taken sees in `pg_stat_activity` whether that run moves, and what it has done.

use std::time::{Duration, Instant};

use super::ledger::PgLedger;
use crate::ports::progress::Progress;
use crate::ports::source::{Checkpoint, Ledger as _};
use crate::sync::{Receiver, Sender, bounded, spawn};

/// How often a mark is left, if something was moved. Most runs have ended by then.
const EVERY: Duration = Duration::from_secs(5);

/// The longest that a run waits for a mark that is being left.
const LIMIT: Duration = Duration::from_secs(2);

/// A ledger that is kept, with its lock, on a thread that marks the run's progress in it.
pub struct Marks {
    end: Sender<()>,
    ledger: Receiver<PgLedger>,
}

impl Marks {
    /// Takes the ledger into keeping, and moves the checkpoint `to` first, where that is left to do.
    ///
    /// # Errors
    /// The ledger, if no thread can be had.
    pub fn begin(ledger: PgLedger, to: Option<Checkpoint>, progress: &Progress) -> Result<Self, Box<PgLedger>> {
        let (give, given) = bounded::<PgLedger>(1);
        let (give_back, returned) = bounded(1);
        let (end, ended) = bounded(0);
        let progress = progress.clone();
        let keep = move || {
            let Ok(mut ledger) = given.recv() else { return };
            to.iter().for_each(|to| ledger.move_checkpoint_for_next(to));
            mark_until(&ended, &mut ledger, &progress);
            // Nobody is there any more if this took too long: the lock ends with the session.
            let _ = give_back.send(ledger);
        };
        if let Err(error) = spawn("marks", keep) {
            log::debug!("cannot mark the run's progress: {error}");
            return Err(Box::new(ledger));
        }
        match give.send(ledger) {
            Ok(()) => Ok(Self { end, ledger: returned }),
            Err(unsent) => Err(Box::new(unsent.into_inner())),
        }
    }

    /// The ledger; `None` if PostgreSQL hangs: the end of its session gives the lock back then.
    pub fn end(self) -> Option<PgLedger> {
        drop(self.end);
        self.ledger.recv_timeout(LIMIT).ok()
    }
}

/// Leaves a mark now and then, until the other side of `ended` is gone. A session that breaks is left alone.
fn mark_until(ended: &Receiver<()>, ledger: &mut PgLedger, progress: &Progress) {
    let mut marked = None;
    let mut next = Instant::now() + EVERY;
    while ended.recv_deadline(next).is_err_and(|error| error.is_timeout()) {
        next = Instant::now() + EVERY;
        let moved = progress.moved_at();
        if moved == marked {
            continue;
        }
        marked = moved;
        if let Err(error) = ledger.mark(&progress.counts()) {
            log::debug!("{error}");
            return;
        }
    }
}

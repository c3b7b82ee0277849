//! Jobs on threads that are left behind if they take too long: a call that hangs cannot be interrupted.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::mutant;
use crate::sync::{Sender, bounded, spawn};

use super::{caught, started};

/// Something to be done on a thread of its own.
pub struct Job<W, T> {
    /// The thread's name.
    pub name: String,
    /// What the supervisor keeps of the job while it is under way.
    pub handle: W,
    /// What the thread does.
    pub work: Box<dyn FnOnce() -> Result<T> + Send>,
}

/// Who gives out jobs, and takes down how they end.
pub trait Supervisor {
    /// What is kept of a job while it is under way.
    type Handle;
    /// What a job makes.
    type Output: Send + 'static;

    /// The next job; `None` if there is none, or none is to be begun any more. It is asked as soon as there is room for one,
    /// also after it had none.
    fn next(&mut self) -> Option<Job<Self::Handle, Self::Output>>;

    /// Nothing has ended for a while: each job under way is looked at now.
    fn tick(&mut self) {}

    /// Looks at a job under way; why it is lost, if it is.
    fn check(&mut self, handle: &Self::Handle) -> Option<Error>;

    /// A job has ended: with what its work returned, with 70 if that panicked, with 69 if no thread could be had, or lost.
    fn ended(&mut self, handle: Self::Handle, end: Result<Self::Output>);
}

/// Does the supervisor's jobs, `at_once` of them at a time, begun in the order in which they are given out, until there is none
/// left and none under way. Each job that is given out ends once.
///
/// A lost job's thread is left behind, and what becomes of it does not count any more.
pub fn at_a_time<F: Supervisor>(at_once: usize, tick: Duration, supervisor: &mut F) {
    // A thread that has ended waits until its end is noted here, or until this run has left.
    let (out, ends) = bounded(0);
    let mut under_way: Vec<(u64, F::Handle)> = Vec::new();
    let mut begun = 0;
    loop {
        while has_room(under_way.len(), at_once)
            && let Some(job) = supervisor.next()
        {
            begun += 1;
            match begin(begun, &job.name, job.work, &out) {
                Ok(()) => under_way.push((begun, job.handle)),
                Err(error) => supervisor.ended(job.handle, Err(error)),
            }
        }
        if under_way.is_empty() {
            break;
        }
        match ends.recv_timeout(tick) {
            // That of a lost job has no place any more.
            Ok((number, end)) => {
                if let Some(at) = place_of(number, &under_way) {
                    supervisor.ended(under_way.remove(at).1, end);
                }
            }
            Err(_) => {
                supervisor.tick();
                for (number, handle) in std::mem::take(&mut under_way) {
                    match why_lost(supervisor, &handle) {
                        Some(why) => supervisor.ended(handle, Err(why)),
                        None => under_way.push((number, handle)),
                    }
                }
            }
        }
    }
}

fn has_room(under_way: usize, at_once: usize) -> bool {
    if mutant::is("one job more than is allowed") {
        return under_way <= at_once;
    }
    under_way < at_once
}

fn why_lost<F: Supervisor>(supervisor: &mut F, handle: &F::Handle) -> Option<Error> {
    if mutant::is("a lost job is waited for") {
        return None;
    }
    supervisor.check(handle)
}

fn place_of<W>(number: u64, under_way: &[(u64, W)]) -> Option<usize> {
    if mutant::is("a lost job's end is taken for another's") {
        return Some(0);
    }
    under_way.iter().position(|(of, _)| *of == number)
}

/// Starts a job's thread, which hands over how it ends.
fn begin<T: Send + 'static>(
    number: u64,
    name: &str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    out: &Sender<(u64, Result<T>)>,
) -> Result<()> {
    let (out, own_name) = (out.clone(), name.to_owned());
    let thread = spawn(name, move || {
        // Nobody is there any more only if this one was given up.
        let _ = out.send((number, caught(&own_name, work)));
    });
    started(name, thread).map(drop)
}

/// Does `work` on a thread of its own, which is left behind with the error that `check` returns: it is asked after each `tick`.
///
/// # Errors
/// That error; that of `work`, or 70 if it panics; 69 if no thread can be had.
pub fn beside<T: Send + 'static>(
    name: &str,
    tick: Duration,
    check: impl FnMut() -> Option<Error>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let mut one = One {
        job: Some(Job { name: name.to_owned(), handle: (), work: Box::new(work) }),
        check,
        end: Err(Error::bug(format!("the thread {name} ended"), "it ended without a result")),
    };
    at_a_time(1, tick, &mut one);
    one.end
}

/// The supervisor of a single job.
struct One<T, L> {
    job: Option<Job<(), T>>,
    check: L,
    end: Result<T>,
}

impl<T: Send + 'static, L: FnMut() -> Option<Error>> Supervisor for One<T, L> {
    type Handle = ();
    type Output = T;

    fn next(&mut self) -> Option<Job<(), T>> {
        self.job.take()
    }

    fn check(&mut self, (): &()) -> Option<Error> {
        (self.check)()
    }

    fn ended(&mut self, (): (), end: Result<T>) {
        self.end = end;
    }
}

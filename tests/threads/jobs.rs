//! Jobs on threads of their own, some of which hang, fail, or come back too late.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use pg2ch::error::{Error, Result};

use super::sync::{Sender, bounded};
use super::threads::{Job, Supervisor, at_a_time, beside};
use super::{leave_threads, pause};

/// Where there is no clock, any moment will do.
const TICK: Duration = Duration::from_micros(50);

/// How a job ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Done,
    Error,
    Panic,
    /// It hangs until it is lost, and comes back at once.
    Late,
    /// It hangs until everybody else has ended.
    Never,
}

#[derive(Clone, Debug)]
pub struct Plan {
    /// What becomes of each job, and how often it lets the others go on before.
    pub jobs: Vec<(End, u32)>,
    pub at_once: usize,
    /// After how many ends no further job is begun.
    pub stop: Option<usize>,
    /// How many threads there are before one cannot be had.
    pub threads: Option<u32>,
}

impl Plan {
    /// One of those that may happen.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        const ENDS: [End; 6] = [End::Done, End::Done, End::Error, End::Panic, End::Late, End::Never];
        let jobs = rng.usize(0..5);
        Self {
            jobs: (0..jobs).map(|_| (ENDS[rng.usize(..ENDS.len())], rng.u32(0..6))).collect(),
            at_once: rng.usize(1..4),
            stop: (rng.u8(..4) == 0).then(|| rng.usize(0..3)),
            threads: (rng.u8(..4) == 0).then(|| rng.u32(0..4)),
        }
    }

    /// Does the jobs, and looks at how each ended.
    pub fn check(&self) {
        let mut board =
            Board { plan: self, begun: 0, under_way: BTreeMap::new(), ends: BTreeMap::new(), hanging: vec![] };
        leave_threads(self.threads);
        at_a_time(self.at_once, TICK, &mut board);
        leave_threads(None);
        assert_eq!(board.under_way.keys().next(), None, "a job is left");
        let all = board.begun == self.jobs.len();
        assert!(all || self.stop.is_some_and(|stop| board.ends.len() >= stop), "jobs were not begun: {:?}", board.ends);
        for (number, end) in &board.ends {
            let no_thread = self.threads.is_some_and(|left| left as usize == *number);
            assert_eq!(*end, if no_thread { no_thread_for(*number) } else { expected(*number, self.jobs[*number].0) });
        }
        if let Some(&(end, pauses)) = self.jobs.first() {
            alone(end, pauses);
        }
    }
}

/// A job that stands alone.
fn alone(end: End, pauses: u32) {
    let (under, work) = job(0, end, pauses);
    let made = beside(&name(0), TICK, || under.lost(0), work);
    assert_eq!(told(made), expected(0, end));
}

fn name(number: usize) -> String {
    format!("job {number}")
}

fn expected(number: usize, end: End) -> String {
    match end {
        End::Done => format!("done {number}"),
        End::Error => format!("failed {number}"),
        End::Panic => format!("the thread {} ended", name(number)),
        End::Late | End::Never => format!("lost {number}"),
    }
}

fn no_thread_for(number: usize) -> String {
    format!("cannot start the thread {}", name(number))
}

fn told(end: Result<usize>) -> String {
    end.map_or_else(|error| error.what().to_owned(), |made| format!("done {made}"))
}

/// What a job does, once its thread runs: the same for those of a supervisor and for one that stands alone.
fn job(number: usize, end: End, pauses: u32) -> (Under, impl FnOnce() -> Result<usize> + Send + 'static) {
    let (release, released) = bounded::<()>(0);
    let hangs = Arc::new(AtomicBool::new(false));
    let under = Under { hangs: Arc::clone(&hangs), _release: release };
    let work = move || {
        (0..pauses).for_each(|_| pause());
        match end {
            End::Done => {}
            End::Error => return Err(Error::unavailable(format!("failed {number}"), "it was told to", "none")),
            End::Panic => std::panic::resume_unwind(Box::new("it was told to panic")),
            End::Late | End::Never => {
                hangs.store(true, SeqCst);
                let _ = released.recv();
            }
        }
        Ok(number)
    };
    (under, work)
}

/// A job that is under way, as the tests see it.
struct Under {
    hangs: Arc<AtomicBool>,
    /// Dropped, it lets a hanging job come back.
    _release: Sender<()>,
}

impl Under {
    fn lost(&self, number: usize) -> Option<Error> {
        self.hangs.load(SeqCst).then(|| Error::unavailable(format!("lost {number}"), "it hangs", "none"))
    }
}

/// The supervisor of a plan.
struct Board<'a> {
    plan: &'a Plan,
    begun: usize,
    under_way: BTreeMap<usize, Under>,
    ends: BTreeMap<usize, String>,
    /// They come back when the supervisor has gone.
    hanging: Vec<Under>,
}

impl Supervisor for Board<'_> {
    type Handle = usize;
    type Output = usize;

    fn next(&mut self) -> Option<Job<usize, usize>> {
        if self.plan.stop.is_some_and(|stop| self.ends.len() >= stop) {
            return None;
        }
        let number = self.begun;
        let &(end, pauses) = self.plan.jobs.get(number)?;
        self.begun += 1;
        assert!(self.under_way.len() < self.plan.at_once, "too many jobs at once");
        let (under, work) = job(number, end, pauses);
        self.under_way.insert(number, under);
        Some(Job { name: name(number), handle: number, work: Box::new(work) })
    }

    fn check(&mut self, number: &usize) -> Option<Error> {
        self.under_way[number].lost(*number)
    }

    fn ended(&mut self, number: usize, end: Result<usize>) {
        let under = self.under_way.remove(&number).unwrap_or_else(|| panic!("job {number} has ended before"));
        self.ends.insert(number, told(end));
        if self.plan.jobs[number].0 == End::Never {
            self.hanging.push(under);
        }
    }
}

//! Runs killed at random moments of their whole course, while an application works.

use std::process::Child;
use std::time::{Duration, Instant};

use super::common::Ended;
use super::subject::{KILLED, Subject};

/// How many faults lie between two comparisons.
const BETWEEN: u64 = 20;

/// How long a run takes that nobody kills.
pub struct Course {
    seconds: f64,
    /// How many have been killed since one ended by itself.
    killed: u32,
}

impl Course {
    pub fn new() -> Self {
        Self { seconds: 0.3, killed: 0 }
    }

    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    pub fn took(&mut self, seconds: f64) {
        self.seconds = 0.6 * self.seconds + 0.4 * seconds;
        self.killed = 0;
    }

    /// What dead runs leave behind makes the next ones longer.
    pub fn was_killed(&mut self) {
        self.killed += 1;
        if self.killed > 10 {
            self.seconds = (self.seconds * 1.3).min(10.0);
            self.killed = 0;
        }
    }
}

pub fn kill(subject: &mut Subject<'_>, times: u64) {
    let (mut course, mut killed) = (Course::new(), 0);
    subject.start_application();
    for _ in 0..times * 4 {
        if killed == times {
            return;
        }
        subject.expect_trouble("");
        let rows = subject.rng.i64(1..20);
        subject.world.insert_rows(rows);
        if subject.rng.u8(..4) == 0 {
            subject.change_some();
        }
        if kill_one(subject, &mut course) {
            killed += 1;
            if killed % BETWEEN == 0 {
                subject.check();
            }
        }
    }
    panic!("only {killed} of {times} runs were killed: the others had ended before");
}

fn kill_one(subject: &mut Subject<'_>, course: &mut Course) -> bool {
    let args: &[&str] = match subject.rng.u8(..10) {
        0 => &["produce", "--wait-lock", "20s"],
        1 => &["consume", "--wait-lock", "20s"],
        _ => &["--once", "--wait-lock", "20s"],
    };
    let at = subject.rng.f64() * 1.1;
    let moment = Duration::from_secs_f64(course.seconds() * at);
    let begun = Instant::now();
    let mut run = subject.start(args);
    let ended_after = kill_at(&mut run, moment);
    let ended = Ended::after(run);
    let killed = subject.ended(ended, &[0, KILLED]).code == KILLED;
    if killed {
        subject.tally.faults += 1;
        subject.tally.tenths[((at * 10.0) as usize).min(9)] += 1;
        course.was_killed();
    } else if args.len() == 3 && args[0] == "--once" {
        course.took(ended_after.unwrap_or_else(|| begun.elapsed()).as_secs_f64());
    }
    killed
}

/// Kills a run at a moment of its life; if it has ended before, after what time.
pub fn kill_at(run: &mut Child, moment: Duration) -> Option<Duration> {
    let begun = Instant::now();
    let mut ended_after = None;
    while begun.elapsed() < moment && ended_after.is_none() {
        ended_after = run.try_wait().unwrap().map(|_| begun.elapsed());
        std::thread::sleep(Duration::from_millis(1).min(moment.saturating_sub(begun.elapsed())));
    }
    let _ = run.kill();
    ended_after
}

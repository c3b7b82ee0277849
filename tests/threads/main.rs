//! Explores the threads: what `src/threads` says, compiled once more on threads and channels of which a scheduler decides who
//! goes on, one interleaving after another.
//!
//! A plan says what the stages of a leg, or the jobs of a run, do: who dies at which piece, by an error or a panic, who is
//! slow, who hangs, when there is no thread left. However the threads take turns, it has to end, and as it does when they
//! come one after the other. A failing plan prints how to explore it again.
//!
//!     PG2CH_THREADS_SEED=17 cargo test --test threads one_seed -- --nocapture    one random plan
//!     PG2CH_THREADS_SEEDS=0..1000000 cargo test --test threads random            more of them, from a seed on
//!
//! On two cores, a debug build: 40,000 random schedules, and 208,000 that are all the schedules of 18 small legs, take 10 s
//! together.

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::unwrap_used)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "its numbers are small"
)]
#![allow(clippy::unused_self, clippy::struct_excessive_bools, reason = "what a test does reads as what its world does")]
#![allow(clippy::duplicate_mod, reason = "the plans are compiled for the real threads and for their stand-ins")]

mod explored;
mod real;
#[path = "../common/seeds.rs"]
mod seeds;
mod sync;
#[allow(dead_code, unused_imports, unreachable_pub, reason = "the legs are not compiled again")]
#[path = "../../src/threads/mod.rs"]
mod threads;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pg2ch::{error, mutant};
use seeds::{number, numbers, side_by_side};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

/// Random plans, if nobody asks for more.
const PLANS: u64 = 4_000;

/// Schedules for each.
const SCHEDULES: usize = 10;

/// Schedules at most for a plan of which all are wanted.
const ALL: usize = 300_000;

/// Runs `check` under so many schedules as the scheduler has; says how many, or what broke.
fn explore(
    scheduler: impl Scheduler + 'static,
    check: impl Fn() + Send + Sync + 'static,
) -> Result<usize, Box<dyn Any + Send>> {
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    // A plan of a few pieces takes hundreds of steps: this one goes round in circles.
    config.max_steps = MaxSteps::FailAfter(50_000);
    config.failure_persistence = FailurePersistence::None;
    catch_unwind(AssertUnwindSafe(|| Runner::new(scheduler, config).run(check)))
}

/// With a thread that does nothing: this scheduler refuses what has but one.
fn beside_nobody(check: impl Fn() + Send + Sync) -> impl Fn() + Send + Sync {
    move || {
        let nobody = shuttle::thread::spawn(|| ());
        check();
        nobody.join().unwrap();
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "it panicked".into())
}

/// Explores the plan that a seed draws.
fn explore_seed(seed: u64) -> Result<usize, String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (plan, check): (String, Box<dyn Fn() + Send + Sync>) = if rng.u8(..3) > 0 {
        let plan = explored::stages::Plan::random(&mut rng);
        let named = format!("{plan:?}");
        let check = move || {
            plan.check();
            plan.check_both();
        };
        (named, Box::new(check))
    } else {
        let plan = explored::jobs::Plan::random(&mut rng);
        (format!("{plan:?}"), Box::new(move || plan.check()))
    };
    let schedules = rng.u64(..);
    let ended = if rng.bool() {
        explore(RandomScheduler::new_from_seed(schedules, SCHEDULES), check)
    } else {
        explore(PctScheduler::new_from_seed(schedules, rng.usize(1..4), SCHEDULES), beside_nobody(check))
    };
    ended.map_err(|panic| {
        format!(
            "{}\n{plan}\nagain: PG2CH_THREADS_SEED={seed} cargo test --test threads one_seed -- --nocapture",
            text(&*panic)
        )
    })
}

#[test]
fn one_seed_is_explored_if_it_is_asked_for() {
    if let Some(seed) = number("PG2CH_THREADS_SEED") {
        println!("{} schedules", explore_seed(seed).unwrap_or_else(|why| panic!("{why}")));
    }
}

#[test]
fn random_plans_end_as_they_should_under_random_schedules() {
    let (from, to) = numbers("PG2CH_THREADS_SEEDS", "..").unwrap_or((0, PLANS));
    let schedules = AtomicUsize::new(0);
    side_by_side(2, from..to, |seed| {
        schedules.fetch_add(explore_seed(seed)?, Relaxed);
        Ok(())
    });
    println!("{} plans, {} schedules", to - from, schedules.into_inner());
}

#[test]
fn small_legs_end_as_they_should_under_every_schedule() {
    // With as many pauses, a single piece has millions of schedules.
    let plans: Vec<_> = [(0, true), (1, false)]
        .into_iter()
        .flat_map(|(pieces, pauses)| explored::stages::Plan::small(pieces).into_iter().map(move |plan| (plan, pauses)))
        .collect();
    let schedules = AtomicUsize::new(0);
    side_by_side(2, 0..plans.len() as u64, |index| {
        let (plan, pauses) = plans[index as usize].clone();
        let named = format!("{plan:?}");
        sync::pause_at_ends(pauses);
        let explored = explore(DfsScheduler::new(Some(ALL), false), move || plan.check());
        let number = explored.map_err(|panic| format!("{}\n{named}", text(&*panic)))?;
        println!("{number}: {named}");
        schedules.fetch_add(number, Relaxed);
        if number < ALL { Ok(()) } else { Err(format!("there are more than {ALL} schedules of {named}")) }
    });
    println!("{} plans, {} schedules", plans.len(), schedules.into_inner());
}

#[test]
fn the_plans_end_as_they_should_on_real_threads_too() {
    side_by_side(4, 0..500, |seed| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let stages = real::stages::Plan { threads: None, ..real::stages::Plan::random(&mut rng) };
        let jobs = real::jobs::Plan { threads: None, ..real::jobs::Plan::random(&mut rng) };
        let plans = format!("{stages:?}\n{jobs:?}");
        let checked = catch_unwind(|| {
            stages.check();
            stages.check_both();
            jobs.check();
        });
        checked.map_err(|panic| format!("{}\n{plans}", text(&*panic)))
    });
}

#[test]
fn crossbeams_channels_and_their_stand_ins_keep_the_same_rules() {
    for (rule, check) in real::channels::RULES {
        println!("{rule}: on real threads");
        (0..200).for_each(|_| check());
    }
    for (rule, check) in explored::channels::RULES {
        println!("{rule}: on stand-ins");
        explore(RandomScheduler::new_from_seed(1, 2_000), check).unwrap_or_else(|why| panic!("{}", text(&*why)));
        explore(PctScheduler::new_from_seed(1, 2, 2_000), beside_nobody(check))
            .unwrap_or_else(|why| panic!("{}", text(&*why)));
    }
}

/// Faults planted in `src/threads` (those that `grep mutant::is src/threads` finds).
const MUTANTS: [&str; 11] = [
    "a panic is not caught",
    "a sender outlives its stage",
    "queues hold as much as comes",
    "a hand-over does not wait",
    "a stage goes on when the next has ended",
    "a stage's end is not asked for",
    "the last error counts",
    "a spare waits for room",
    "one job more than is allowed",
    "a lost job is waited for",
    "a lost job's end is taken for another's",
];

#[test]
fn every_fault_planted_in_the_threads_is_found() {
    for fault in MUTANTS {
        mutant::plant(Some(fault));
        let found = (0..PLANS).find_map(|seed| explore_seed(seed).err().map(|why| (seed, why)));
        mutant::plant(None);
        let Some((seed, why)) = found else { panic!("not found: {fault}") };
        println!("{fault}: found by seed {seed}: {}", why.lines().next().unwrap_or_default());
    }
}

#[test]
fn threads_and_channels_are_made_in_one_place() {
    let mut left = vec![std::path::PathBuf::from("src")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path != std::path::Path::new("src/sync.rs") {
            let source = std::fs::read_to_string(&path).unwrap();
            let program = source.split("#[cfg(test)]").next().unwrap_or_default();
            for other in ["mpsc", "crossbeam", "thread::spawn", "thread::scope", "thread::Builder"] {
                assert!(!program.contains(other), "{}: {other}, which nobody explores", path.display());
            }
        }
    }
}

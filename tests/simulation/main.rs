//! Explores every crash, in memory: the legs and their stages as they are, on simulated servers.
//!
//! A life is some runs with faults, then clean ones. After every call the promise is checked, at the end that everything
//! has arrived once. A failing life prints how to live it again.
//!
//!     PG2CH_SIM_SEED=17 cargo test --test simulation one_seed -- --nocapture     one random life, with its trace
//!     PG2CH_SIM_WARM=17 cargo test --test simulation one_seed -- --nocapture     the same of a process that runs on
//!     PG2CH_SIM_SEEDS=0..1000000 cargo test --test simulation random                 more of them, from a seed on
//!     PG2CH_SIM_PAIRS=0/1 cargo test --test simulation two_faults                    all pairs of faults
//!     PG2CH_SIM_PLANTED="blind retry" PG2CH_SIM_SEEDS=0..1000 cargo test --test simulation planted -- --nocapture    which seeds show it
//!     PG2CH_SIM_SCOREBOARD=docs/dev/scoreboard.md cargo test --test simulation random    which fault hit which call, how often

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::unwrap_used)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "its numbers are small"
)]
#![allow(clippy::unused_self, clippy::struct_excessive_bools, reason = "what a test does reads as what its world does")]

mod clickhouse;
mod faults;
mod invariants;
mod kafka;
mod life;
#[path = "../common/page.rs"]
mod page;
mod postgres;
mod prune;
mod scoreboard;
#[path = "../common/seeds.rs"]
mod seeds;
mod servers;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use faults::{FAULTS, Fault, Hits, Plan};
use life::{Life, Outcome};
use seeds::{number, numbers, side_by_side};

/// Random lives, if nobody asks for more.
const LIVES: u64 = 20_000;

/// How many lives are lived at a time: one waits, now and then, for a transaction that hides records.
const THREADS: usize = 8;

/// Lives it; returns how it went, or what broke, with the trace of a second time.
fn live(life: &Life, again: &str) -> Result<Outcome, String> {
    let outcome = life.live(false);
    let Some(broken) = outcome.broken else { return Ok(outcome) };
    let trace = life.live(true).trace;
    Err(format!("{trace}\n\n{broken}\n{life:?}\n\nagain: {again}"))
}

#[test]
fn one_seed_is_lived_with_a_trace_if_it_is_asked_for() {
    if let Some(seed) = number("PG2CH_SIM_SEED") {
        let outcome = Life::random(seed).live(true);
        println!("{}", outcome.trace);
        assert_eq!(outcome.broken, None);
    }
    if let Some(seed) = number("PG2CH_SIM_WARM") {
        let outcome = Life::warm(seed).live(true);
        println!("{}", outcome.trace);
        assert_eq!(outcome.broken, None);
    }
}

#[test]
fn every_single_fault_at_every_call_is_survived() {
    const AGAIN: &str = "cargo test --test simulation every_single_fault";
    let warm = |busy, ordered| Life { busy, ordered, warm: true, ..Life::quiet(1, 4) };
    let cold = |busy, ordered, prune| Life { busy, ordered, prune, ..Life::quiet(1, 1) };
    let lives = [cold(0, false, false), cold(9, false, true), cold(0, true, true), cold(9, true, false)];
    for quiet in lives.into_iter().chain([warm(5, false), warm(5, true)]) {
        let calls = live(&quiet, AGAIN).unwrap().calls;
        side_by_side(THREADS, 1..calls as u64 + 1, |call| {
            FAULTS.iter().try_for_each(|&fault| {
                let plan = Plan::At(vec![(call as usize, fault)]);
                live(&Life { plan, ..quiet.clone() }, AGAIN).map(drop)
            })
        });
    }
}

/// The faults that can happen in a life, each with its call, after another call.
fn faults_in(outcome: &Outcome, after: usize) -> impl Iterator<Item = (usize, Fault)> {
    let calls = outcome.open_to_faults.iter().filter(move |(call, ..)| *call > after);
    calls.flat_map(|&(call, writes, _)| {
        FAULTS.into_iter().filter(move |fault| fault.can_hit(writes)).map(move |fault| (call, fault))
    })
}

#[test]
fn two_faults_the_second_in_what_follows_from_the_first_are_survived() {
    // Every first fault, and behind it every second one in what is then a different life: a tenth of them, or all.
    const AGAIN: &str = "PG2CH_SIM_PAIRS=0/1 cargo test --test simulation two_faults";
    let (part, parts) = numbers("PG2CH_SIM_PAIRS", "/").unwrap_or((0, 10));
    let pairs = AtomicU64::new(0);
    for (busy, ordered) in [(0, false), (9, true)] {
        let quiet = Life { busy, ordered, ..Life::quiet(2, 2) };
        let firsts: Vec<_> = faults_in(&live(&quiet, AGAIN).unwrap(), 0).collect();
        side_by_side(THREADS, 0..firsts.len() as u64, |index| {
            let life = |plan| Life { plan: Plan::At(plan), ..quiet.clone() };
            let first = firsts[index as usize];
            let then = live(&life(vec![first]), AGAIN)?;
            for (place, second) in faults_in(&then, first.0).enumerate() {
                // Neighbours go to different parts, so that each part is a sample of everything.
                if (index * 7_919 + place as u64) % parts == part {
                    live(&life(vec![first, second]), AGAIN)?;
                    pairs.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        });
    }
    let pairs = pairs.into_inner();
    println!("{pairs} pairs");
    assert!(pairs > 1_000, "{pairs} pairs are no sample");
}

#[test]
fn random_faults_in_lives_of_a_process_that_runs_on_are_survived() {
    let (from, to) = numbers("PG2CH_SIM_SEEDS", "..").unwrap_or((0, LIVES));
    let went_on = AtomicU64::new(0);
    side_by_side(THREADS, from..to, |seed| {
        let again = format!("PG2CH_SIM_WARM={seed} cargo test --test simulation one_seed");
        let outcome = live(&Life::warm(seed), &again)?;
        let hits = outcome.hits.iter().filter(|((_, call, _), _)| *call == "postgres: go on under the epoch");
        went_on.fetch_add(hits.map(|(_, times)| times).sum(), Ordering::Relaxed);
        Ok(())
    });
    let went_on = went_on.into_inner();
    println!("{went_on} runs went on where the one before had ended");
    assert!(went_on > (to - from) / 4, "{went_on} runs are no sample");
}

#[test]
fn random_faults_in_random_lives_are_survived() {
    let hits = Mutex::new(Hits::new());
    let (from, to) = numbers("PG2CH_SIM_SEEDS", "..").unwrap_or((0, LIVES));
    side_by_side(THREADS, from..to, |seed| {
        let again = format!("PG2CH_SIM_SEED={seed} cargo test --test simulation one_seed");
        let outcome = live(&Life::random(seed), &again)?;
        let mut hits = hits.lock().unwrap();
        outcome.hits.into_iter().for_each(|(hit, times)| *hits.entry(hit).or_default() += times);
        Ok(())
    });
    let mut hits = hits.into_inner().unwrap();
    if to - from >= LIVES {
        for (leg, call, fault) in scoreboard::not_hit(&hits) {
            let outcome = live_with(call, fault);
            *hits.entry((leg, call, fault)).or_default() += outcome.hits.get(&(leg, call, fault)).copied().unwrap_or(0);
        }
    }
    let table = scoreboard::table(&hits);
    println!("{table}\n{} lives", to - from);
    if let Ok(file) = std::env::var("PG2CH_SIM_SCOREBOARD") {
        let page = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, page::with_part(&page, "simulated", &table)).unwrap();
    }
    if to - from >= LIVES {
        assert_eq!(scoreboard::not_hit(&hits), [], "a fault that never happened was not survived");
    }
}

/// A life in which the fault hits the call, without any other: for calls that few lives make.
fn live_with(call: &str, fault: Fault) -> Outcome {
    let quiet = |seed, plan| Life { plan, ..Life::random(seed) };
    let at = |seed| {
        let outcome = quiet(seed, Plan::At(vec![])).live(false);
        outcome.open_to_faults.into_iter().find(|(_, _, name)| *name == call).map(|(at, ..)| at)
    };
    let (seed, at) = (0..LIVES).find_map(|seed| Some((seed, at(seed)?))).expect("some life makes the call");
    live(&quiet(seed, Plan::At(vec![(at, fault)])), &format!("seed {seed} with {fault:?} at call {at}")).unwrap()
}

/// Faults planted in the protocol (those that `grep mutant::is` finds), each of which breaks the promise.
const MUTANTS: [&str; 52] = [
    "flag before the acknowledgement",
    "flag any version of the row",
    "the first record of a key counts",
    "equality by value only",
    "window by record key",
    "keyset instead of a pass",
    "a pass begins before the one before is flagged",
    "innocents first",
    "a stopped key is not stopped",
    "no fence",
    "what dead runs delivered is not looked for",
    "the high watermark is taken for the last stable offset",
    "a locked row is not held",
    "the checkpoint waits for locked rows",
    "held rows are read",
    "a held row is flagged whatever it holds",
    "an entry is deleted before its row is flagged",
    "an entry outlives its row's flag",
    "what a window shows is flagged before the checkpoint has passed it",
    "the checkpoint moves before the flags",
    "a checkpoint moved alone is not durable",
    "the clock's floor is ignored",
    "commit before insert",
    "inserts are not recorded",
    "blind retry under a new token",
    "a token names several sets",
    "the reduced set keeps its token",
    "no asking after a repeat",
    "a recorded insert is sent again whole",
    "offsets are trusted without a signature",
    "dead letters outside the offsets' transaction",
    "the epoch of a flag transaction is unchecked",
    "the window is read before the fence",
    "rows that were read before the window are sent",
    "the epoch is not compared",
    "the stable end is taken at once",
    "offsets are not read again behind the fence",
    "lost commits of offsets are not noticed",
    "an idle run takes the topic for the old one",
    "ends older than the offsets are believed",
    "an end behind a record is its marker",
    "a run that is shut out finishes inserts of a later one",
    "a recorded insert is finished in other ranges",
    "recorded inserts are finished in any order",
    "the offset passes over what lies before a recorded insert",
    "an insert is sent though it could not be recorded",
    "prune: a key in the target is enough",
    "prune: a committed offset is enough",
    "prune: what waits is not looked for",
    "prune: any version is deleted",
    "prune: nobody looks again",
    "prune: no limit is recorded",
];

/// Those that only rows with an order bring to light.
const TAKE_ORDER: [&str; 6] = [
    "ends older than the offsets are believed",
    "window by record key",
    "keyset instead of a pass",
    "a pass begins before the one before is flagged",
    "innocents first",
    "a stopped key is not stopped",
];

/// Those that only a process brings to light that runs on.
const TAKE_WARM: [&str; 1] = ["the epoch is not compared"];

/// Those that two runs bring to light, in a life that is not hard in other ways.
const TAKE_TWO: [&str; 1] = ["a run that is shut out finishes inserts of a later one"];

/// Those that few lives show, and the seed by which each was found last: the search begins there, and takes others if that no longer
/// shows it.
const RARE: [(&str, u64); 11] = [
    ("an entry is deleted before its row is flagged", 9_985),
    ("what a window shows is flagged before the checkpoint has passed it", 26_338),
    ("a checkpoint moved alone is not durable", 107_948),
    ("offsets are not read again behind the fence", 2_092),
    ("ends older than the offsets are believed", 63_951),
    ("a run that is shut out finishes inserts of a later one", 6_595),
    ("a recorded insert is finished in other ranges", 240_720),
    ("the offset passes over what lies before a recorded insert", 64_548),
    ("an insert is sent though it could not be recorded", 27_129),
    ("prune: what waits is not looked for", 15_748),
    ("prune: any version is deleted", 84_193),
];

/// A life in which a planted fault is looked for. Three of four are hard: their runs often meet a second one, rows change all the
/// time, two have odd things happen besides, and some faults show only there.
fn life_with(mutant: &'static str, seed: u64) -> Life {
    if TAKE_TWO.contains(&mutant) {
        return Life { mutant: Some(mutant), two: true, hasty: true, ..Life::random(seed) };
    }
    let life = Life {
        mutant: Some(mutant),
        ordered: TAKE_ORDER.contains(&mutant),
        prune: mutant.starts_with("prune: "),
        hasty: mutant.starts_with("ends older"),
        ..if TAKE_WARM.contains(&mutant) { Life::warm(seed) } else { Life::random(seed) }
    };
    match seed % 4 {
        0 => life,
        kind => Life { two: true, busy: 3, odd: kind > 1, troubled_runs: 4, ..life },
    }
}

/// Prints the seeds that show the planted fault whose name begins so.
#[test]
fn one_planted_fault_is_looked_for_if_it_is_asked_for() {
    let Ok(name) = std::env::var("PG2CH_SIM_PLANTED") else { return };
    let mutant = MUTANTS.iter().find(|mutant| mutant.starts_with(&name)).expect("a planted fault");
    let (from, to) = numbers("PG2CH_SIM_SEEDS", "..").unwrap_or((0, LIVES));
    side_by_side(THREADS, from..to, |seed| {
        if life_with(mutant, seed).live(false).broken.is_some() {
            println!("{mutant}: shown by seed {seed}");
        }
        Ok(())
    });
}

#[test]
fn every_fault_planted_in_the_protocol_is_found() {
    side_by_side(THREADS, 0..MUTANTS.len() as u64, |index| {
        let mutant = MUTANTS[index as usize];
        let from = RARE.iter().find(|(rare, _)| *rare == mutant).map_or(0, |(_, seed)| *seed);
        let found = (from..from + 3 * LIVES).find(|&seed| life_with(mutant, seed).live(false).broken.is_some());
        println!("{mutant}: found by seed {found:?}");
        found.map(drop).ok_or_else(|| format!("not found: {mutant}"))
    });
}

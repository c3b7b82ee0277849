//! Explores every crash, in memory: the legs and their stages as they are, on simulated servers.
//!
//! A life is some runs with faults, then clean ones. After every call the promise is checked, at the end that everything
//! has arrived once. A failing life prints how to live it again.
//!
//!     PG2CH_SIM_SEED=17 cargo test --test simulation one_seed
//!     PG2CH_SIM_SEEDS=1000000 cargo test --test simulation random

#![allow(missing_docs, clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "simulation/clickhouse.rs"]
mod clickhouse;
#[path = "simulation/invariants.rs"]
mod invariants;
#[path = "simulation/kafka.rs"]
mod kafka;
#[path = "simulation/life.rs"]
mod life;
#[path = "simulation/postgres.rs"]
mod postgres;
#[path = "simulation/servers.rs"]
mod servers;
#[path = "simulation/world.rs"]
mod world;

use life::Life;
use world::{FAULTS, Plan};

/// Lives it; on a failure, again with a trace.
fn live(life: &Life) -> usize {
    let outcome = life.live(false);
    if let Some(broken) = outcome.broken {
        let trace = life.live(true).trace;
        panic!(
            "{trace}\n\n{broken}\n{life:?}\n\nagain: PG2CH_SIM_SEED={} cargo test --test simulation one_seed",
            life.seed
        );
    }
    outcome.calls
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn one_seed_is_lived_with_a_trace_if_it_is_asked_for() {
    if let Some(seed) = number("PG2CH_SIM_SEED") {
        let outcome = Life::random(seed).live(true);
        println!("{}", outcome.trace);
        assert_eq!(outcome.broken, None);
    }
}

#[test]
fn every_single_fault_at_every_call_is_survived() {
    for busy in [0, 9] {
        let quiet = Life { seed: 1, plan: Plan::At(vec![]), troubled_runs: 1, busy, odd: false, mutant: None };
        for call in 1..=live(&quiet) {
            for fault in FAULTS {
                live(&Life { plan: Plan::At(vec![(call, fault)]), ..quiet.clone() });
            }
        }
    }
}

#[test]
fn random_faults_in_random_lives_are_survived() {
    let lives = number("PG2CH_SIM_SEEDS").unwrap_or(20_000);
    for seed in 0..lives {
        live(&Life::random(seed));
    }
}

//! Which fault hit which call, how often.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::faults::{FAULTS, Fault, Hits, Leg};

/// Calls, and whether they change something.
fn calls(hits: &Hits) -> Vec<(Leg, &'static str, bool)> {
    let names: BTreeSet<(Leg, &'static str)> = hits.keys().map(|(leg, call, _)| (*leg, *call)).collect();
    let writes = |leg, call| hits.contains_key(&(leg, call, Fault::CrashAfter));
    names.into_iter().map(|(leg, call)| (leg, call, writes(leg, call))).collect()
}

/// Calls and faults that can happen, but never did.
pub fn not_hit(hits: &Hits) -> Vec<(Leg, &'static str, Fault)> {
    let possible = |(leg, call, writes): (Leg, &'static str, bool)| {
        let faults = FAULTS.iter().filter(move |fault| fault.can_hit(writes));
        faults.map(move |&fault| (leg, call, fault))
    };
    calls(hits).into_iter().flat_map(possible).filter(|hit| !hits.contains_key(hit)).collect()
}

/// As Markdown.
pub fn table(hits: &Hits) -> String {
    let mut table = String::from("| leg | call | calls |");
    for fault in FAULTS {
        let _ = write!(table, " {fault:?} |");
    }
    table.push_str(" Strange |\n|---|---|--:|--:|");
    table.push_str(&"--:|".repeat(FAULTS.len()));
    for (leg, call, writes) in calls(hits) {
        let all: u64 = hits
            .iter()
            .filter(|((of, name, fault), _)| (*of, *name) == (leg, call) && *fault != Fault::Strange)
            .map(|(_, times)| times)
            .sum();
        let _ = write!(table, "\n| {leg:?} | {call} | {all} |");
        for fault in FAULTS {
            let times = hits.get(&(leg, call, fault)).copied().unwrap_or(0);
            let _ = if fault.can_hit(writes) { write!(table, " {times} |") } else { write!(table, " – |") };
        }
        let strange = hits.get(&(leg, call, Fault::Strange));
        let strange = strange.map_or_else(|| "–".to_owned(), u64::to_string);
        let _ = write!(table, " {strange} |");
    }
    table.push('\n');
    table
}

//! Which fault hit which call, how often.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::world::{FAULTS, Fault, Hits};

/// Calls, and whether they change something; the faults of the others are a refusal and a crash.
fn calls(hits: &Hits) -> Vec<(&'static str, bool)> {
    let names: BTreeSet<&'static str> = hits.keys().map(|(call, _)| *call).collect();
    names.into_iter().map(|call| (call, hits.contains_key(&(call, Fault::CrashAfter)))).collect()
}

/// Calls and faults that can happen, but never did.
pub fn not_hit(hits: &Hits) -> Vec<(&'static str, Fault)> {
    let possible = |(call, writes): (&'static str, bool)| {
        let faults = FAULTS.iter().filter(move |fault| fault.can_hit(writes));
        faults.map(move |&fault| (call, fault))
    };
    calls(hits).into_iter().flat_map(possible).filter(|hit| !hits.contains_key(hit)).collect()
}

/// As Markdown.
pub fn table(hits: &Hits) -> String {
    let mut table = String::from("| call | calls |");
    for fault in FAULTS {
        let _ = write!(table, " {fault:?} |");
    }
    table.push_str("\n|---|--:|");
    table.push_str(&"--:|".repeat(FAULTS.len()));
    for (call, writes) in calls(hits) {
        let all: u64 = hits.iter().filter(|((name, _), _)| *name == call).map(|(_, times)| times).sum();
        let _ = write!(table, "\n| {call} | {all} |");
        for fault in FAULTS {
            let possible = fault.can_hit(writes);
            let times = hits.get(&(call, fault)).copied().unwrap_or(0);
            let _ = if possible { write!(table, " {times} |") } else { write!(table, " – |") };
        }
    }
    table.push('\n');
    table
}

//! docs/dev/scoreboard.md: every step of a run with every fault, each with the tests that bring it about, and their number in
//! the simulation. This test fails if a cell is empty, names a test that there is not, or the page is out of date.
//!
//!     PG2CH_SIM_SCOREBOARD=docs/dev/scoreboard.md cargo test --test simulation random     the simulation's numbers anew
//!     PG2CH_SCOREBOARD=write cargo test --test it scoreboard                          then the matrix

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::common::page;
use pg2ch::numbers::grouped;

const PRODUCE: [&str; 6] = ["lock", "recover-read", "recover-flag", "read", "send", "flag"];
const CONSUME: [&str; 6] = ["ends", "committed", "ask", "insert", "commit", "dead-letter"];

/// Each fault's key, what it is, and what the simulation calls it.
const FAULTS: [(&str, &str, &[&str]); 10] = [
    ("kill", "SIGKILL", &["CrashBefore", "CrashAfter", "CrashLate"]),
    ("term", "SIGTERM", &["Sigterm"]),
    ("refused", "refused or cut before the effect", &["Refused", "Half"]),
    ("lost", "reply lost after the effect", &["LostReply", "CrashAfter"]),
    ("late", "landing late, after the next run has begun", &["Late", "CrashLate"]),
    ("restart", "server killed and restarted", &["Restart"]),
    ("stall", "stall beyond the time limit", &["Stall"]),
    ("limit", "a limit hit", &["Limit"]),
    ("change", "a change meanwhile", &["Change"]),
    ("target", "the target changes or answers strangely", &["Strange"]),
];

#[derive(Deserialize)]
struct Step {
    /// The simulation's calls of this step.
    calls: Vec<String>,
    #[serde(flatten)]
    cells: BTreeMap<String, Cell>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Cell {
    /// On real servers.
    Tests(Vec<String>),
    /// `never: …` or `simulated: …`.
    Why(String),
}

/// Leg and call → fault → how often; `None` where it cannot happen.
type Simulated = BTreeMap<(&'static str, String), BTreeMap<String, u64>>;

struct Board {
    steps: BTreeMap<String, Step>,
    /// Test → the modules that it is in.
    tests: BTreeMap<String, Vec<String>>,
    simulated: Simulated,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> PathBuf {
    root().join("docs/dev/scoreboard.md")
}

/// The names of all tests in tests/it, with their modules: what `cargo test --test it` takes.
fn tests() -> BTreeMap<String, Vec<String>> {
    let top = root().join("tests/it");
    let mut tests: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut paths = vec![top.clone()];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let module = path.strip_prefix(&top).unwrap().with_extension("").to_string_lossy().replace('/', "::");
        let module = module.strip_suffix("::mod").unwrap_or(&module);
        for after in fs::read_to_string(&path).unwrap().split("#[test]\n").skip(1) {
            let name = after.split_once("fn ").and_then(|(_, rest)| rest.split_once('(')).unwrap().0;
            tests.entry(name.to_owned()).or_default().push(module.to_owned());
        }
    }
    tests
}

/// The simulation's table, as it stands on the page. `prune` is no step of a run.
fn simulated(page: &str) -> Simulated {
    let mut rows = page::part(page, "simulated").lines().filter(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let heads = cells(rows.next().expect("a heading"));
    rows.skip(1)
        .map(cells)
        .filter(|row| row[0] != "Prune")
        .map(|row| {
            let leg = if row[0] == "Produce" { "produce" } else { "consume" };
            let numbers = heads.iter().zip(&row).skip(3);
            let numbers = numbers.filter_map(|(head, cell)| Some((head.clone(), cell.parse().ok()?)));
            ((leg, row[1].clone()), numbers.collect())
        })
        .collect()
}

impl Board {
    fn read(page: &str) -> Self {
        let text = fs::read_to_string(root().join("tests/it/documents/scoreboard.toml")).unwrap();
        let steps = toml::from_str(&text).expect("tests/it/documents/scoreboard.toml");
        Self { steps, tests: tests(), simulated: simulated(page) }
    }

    fn legs() -> impl Iterator<Item = (&'static str, &'static str)> {
        PRODUCE.into_iter().map(|step| ("produce", step)).chain(CONSUME.into_iter().map(|step| ("consume", step)))
    }

    fn cell(&self, step: &str, fault: &str) -> &Cell {
        self.steps[step].cells.get(fault).unwrap_or_else(|| panic!("{step} × {fault} is empty"))
    }

    /// How often the simulation brought it about.
    fn times(&self, (leg, step): (&'static str, &str), names: &[&str]) -> u64 {
        let calls = self.steps[step].calls.iter();
        let of_call = |call: &String| {
            let row = self.simulated.get(&(leg, call.clone())).unwrap_or_else(|| panic!("no call {leg} {call}"));
            names.iter().filter_map(|name| row.get(*name)).sum::<u64>()
        };
        calls.map(of_call).sum()
    }

    fn matrix(&self) -> String {
        let mut text = String::from("| step |");
        FAULTS.iter().for_each(|(_, what, _)| write!(text, " {what} |").unwrap());
        write!(text, "\n|---|{}", "---|".repeat(FAULTS.len())).unwrap();
        for (leg, step) in Self::legs() {
            write!(text, "\n| {leg}: **{step}** |").unwrap();
            for (fault, _, names) in FAULTS {
                let times = grouped(self.times((leg, step), names));
                match self.cell(step, fault) {
                    Cell::Tests(tests) => write!(text, " {} · {times} |", tests.len()).unwrap(),
                    Cell::Why(why) if why.starts_with("never: ") => text.push_str(" never |"),
                    Cell::Why(_) => write!(text, " · {times} |").unwrap(),
                }
            }
        }
        text + "\n"
    }

    fn lists(&self) -> String {
        let mut text = String::new();
        for (leg, step) in Self::legs() {
            write!(text, "\n### {leg}: {step}\n\n").unwrap();
            for (fault, what, names) in FAULTS {
                let times = grouped(self.times((leg, step), names));
                match self.cell(step, fault) {
                    Cell::Why(why) => match why.split_once(": ") {
                        Some(("never", why)) => writeln!(text, "- *{what}* cannot happen: {why}.").unwrap(),
                        _ => writeln!(text, "- *{what}*, {times} times in the simulation alone: {}.", &why[11..])
                            .unwrap(),
                    },
                    Cell::Tests(tests) => {
                        let place = |name: &String| format!("`{}::{name}`", self.tests[name][0]);
                        let places: Vec<String> = tests.iter().map(place).collect();
                        writeln!(text, "- *{what}*, {times} times in the simulation: {}", places.join(", ")).unwrap();
                    }
                }
            }
        }
        text + "\n"
    }
}

fn page() -> String {
    fs::read_to_string(document()).unwrap()
}

#[test]
fn every_step_meets_every_fault_in_a_test_that_there_is_or_says_why_it_cannot() {
    let board = Board::read(&page());
    assert_eq!(board.steps.len(), PRODUCE.len() + CONSUME.len());
    for (leg, step) in Board::legs() {
        assert_eq!(board.steps[step].cells.len(), FAULTS.len(), "{step}");
        for (fault, _, names) in FAULTS {
            match board.cell(step, fault) {
                Cell::Tests(tests) => {
                    assert!(!tests.is_empty(), "{step} × {fault} is empty");
                    for name in tests {
                        let files = board.tests.get(name).map_or(0, Vec::len);
                        assert_eq!(files, 1, "{step} × {fault}: tests named {name}");
                    }
                }
                Cell::Why(why) => {
                    let (kind, why) = why.split_once(": ").expect("never: or simulated:");
                    assert!(why.len() > 20, "{step} × {fault}: {why}");
                    let times = board.times((leg, step), names);
                    assert!(kind == "never" || kind == "simulated" && times > 0, "{step} × {fault}: {kind}, {times}");
                    assert!(kind == "simulated" || times == 0, "{step} × {fault} happened {times} times");
                }
            }
        }
    }
}

#[test]
fn every_call_of_the_simulation_belongs_to_one_step() {
    let board = Board::read(&page());
    for (leg, call) in board.simulated.keys() {
        let owners = Board::legs().filter(|(of, step)| of == leg && board.steps[*step].calls.contains(call));
        assert_eq!(owners.count(), 1, "{leg}: {call}");
    }
}

#[test]
fn the_page_is_up_to_date() {
    let page = page();
    let board = Board::read(&page);
    let made = page::with_part(&page, "matrix", &board.matrix());
    let made = page::with_part(&made, "tests", &board.lists());
    if std::env::var_os("PG2CH_SCOREBOARD").is_some() {
        fs::write(document(), made).unwrap();
    } else {
        assert!(
            made == page,
            "docs/dev/scoreboard.md is out of date: PG2CH_SCOREBOARD=write cargo test --test it scoreboard"
        );
    }
}

//! What has been done, a line of JSON for each chunk: whoever is killed goes on behind the last line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::plan::{Chunk, Plan};

/// What happened in a chunk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    pub chunk: String,
    pub kind: String,
    /// The kind's place in the table.
    pub place: usize,
    pub times: u64,
    pub table: String,
    pub seconds: f64,
    /// Faults that hit.
    pub faults: u64,
    /// Exit code, or signal with a minus → runs.
    pub codes: BTreeMap<i32, u64>,
    /// Requests that a dead run had sent and that were answered after the next run had begun.
    pub late: u64,
    /// In which tenth of a run's usual time it was killed.
    pub tenths: [u64; 10],
    /// How often everything was compared, and how many records there were at the last time.
    pub checks: u64,
    pub records: u64,
    pub lost: u64,
    pub doubled: u64,
    pub wrong_codes: u64,
    /// Why it could not go on.
    pub failed: Option<String>,
}

impl Tally {
    pub fn of(chunk: &Chunk) -> Self {
        Self { chunk: chunk.name(), kind: chunk.kind.name(), place: chunk.place, times: chunk.times, ..Self::default() }
    }
}

pub struct Journal {
    file: Option<File>,
    done: BTreeSet<(String, u64)>,
    tallies: Vec<Tally>,
    begun: Instant,
}

impl Journal {
    /// Reads what is there. A last line that was cut off is no line.
    pub fn open(path: Option<&Path>) -> Self {
        let mut journal = Self { file: None, done: BTreeSet::new(), tallies: Vec::new(), begun: Instant::now() };
        if let Some(path) = path {
            for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
                if let Ok(tally) = serde_json::from_str(line) {
                    journal.take(tally);
                }
            }
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            writeln!(file).unwrap();
            journal.file = Some(file);
        }
        journal
    }

    fn take(&mut self, tally: Tally) {
        if tally.failed.is_none() {
            self.done.insert((tally.chunk.clone(), tally.times));
        }
        self.tallies.push(tally);
    }

    pub fn has(&self, chunk: &Chunk) -> bool {
        self.done.contains(&(chunk.name(), chunk.times))
    }

    pub fn write(&mut self, tally: Tally) {
        self.append(&json!(tally));
        self.take(tally);
    }

    /// What `pg2ch verify` said in the end.
    pub fn write_verdict(&mut self, code: i32, stdout: &str) {
        let report: Value = serde_json::from_str(stdout).unwrap_or(Value::Null);
        self.append(&json!({"verify": {"code": code, "report": report}}));
    }

    /// What was done to the outbox.
    pub fn write_outbox(&mut self, told: &impl Serialize) {
        self.append(&json!({"outbox": told}));
    }

    fn append(&mut self, line: &Value) {
        if let Some(file) = &mut self.file {
            writeln!(file, "{line}").unwrap();
            file.sync_data().unwrap();
        }
    }

    /// The tables of the chunks that are done.
    pub fn tables(&self) -> Vec<String> {
        self.tallies.iter().filter(|tally| tally.failed.is_none()).map(|tally| tally.table.clone()).collect()
    }

    /// A line that tells how far it is.
    pub fn progress(&self, plan: &Plan) -> String {
        let sum = |of: fn(&Tally) -> u64| self.tallies.iter().map(of).sum::<u64>();
        let chunks = plan.chunks();
        format!(
            "soak {:4} s: {} of {} chunks, {} faults, {} runs, {} records compared; {} lost, {} doubled, {} wrong codes",
            self.begun.elapsed().as_secs(),
            chunks.iter().filter(|chunk| self.has(chunk)).count(),
            chunks.len(),
            sum(|tally| tally.faults),
            sum(|tally| tally.codes.values().sum()),
            sum(|tally| tally.records),
            sum(|tally| tally.lost),
            sum(|tally| tally.doubled),
            sum(|tally| tally.wrong_codes),
        )
    }
}

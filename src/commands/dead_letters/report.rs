//! The letters as they are shown: for a person, and for a machine.

use std::time::{Duration, UNIX_EPOCH};

use serde::Serialize;

use crate::commands::Outcome;
use crate::config::TableConfig;
use crate::error::ExitCode;
use crate::kafka::{Letter, Letters};
use crate::numbers::{counted, grouped};

/// How many letters are shown of one table; all are counted.
const MOST_SHOWN: usize = 10_000;

/// What was found out about a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The target does not hold its record.
    Pending,
    /// The target holds it.
    Replayed,
    /// The target has a newer version of the row.
    Settled,
    /// Somebody has dismissed it.
    Dropped,
}

/// A letter, as it is shown.
#[derive(Debug, Serialize)]
pub struct Shown {
    partition: i32,
    offset: i64,
    time: String,
    key: Option<String>,
    state: State,
    reason: String,
}

#[derive(Debug, Default, Serialize)]
pub struct TableLetters {
    pub dead_letter_topic: String,
    /// Letters whose records the target does not hold.
    pub pending: u64,
    /// Letters whose records it holds.
    pub replayed: u64,
    /// Letters whose rows it has in a newer version.
    pub settled: u64,
    pub dropped: u64,
    pub to_drop: u64,
    /// Rows that this replay has inserted.
    pub inserted: u64,
    /// Records of the topic that are no letters of this table.
    pub foreign: u64,
    /// Whether all letters were looked at: no limit, no signal.
    pub complete: bool,
    pub letters: Vec<Shown>,
    /// Letters that are counted and not shown.
    pub omitted: u64,
}

impl TableLetters {
    pub fn of(table: &TableConfig) -> Self {
        Self { dead_letter_topic: table.dead_letter_topic(), ..Self::default() }
    }

    pub fn count(&mut self, table: &TableConfig, letter: &Letter, state: State) {
        match state {
            State::Pending => self.pending += 1,
            State::Replayed => self.replayed += 1,
            State::Settled => self.settled += 1,
            State::Dropped => self.dropped += 1,
        }
        self.show(table, letter, state, &letter.record.reason);
    }

    /// Adds what the reading of the letters has shown.
    pub fn add(&mut self, letters: &Letters) {
        self.foreign += letters.foreign();
        self.complete = letters.is_complete();
    }

    pub fn show(&mut self, table: &TableConfig, letter: &Letter, state: State, reason: &str) {
        if self.letters.len() >= MOST_SHOWN {
            self.omitted += 1;
            return;
        }
        let record = &letter.record;
        let key = table.row_key(record.key.as_deref(), record.value.as_deref());
        self.letters.push(Shown {
            partition: record.partition,
            offset: record.offset,
            time: time(record.timestamp_ms),
            key: (record.key.is_some() || !key.is_empty()).then(|| String::from_utf8_lossy(&key).into_owned()),
            state,
            reason: reason.to_owned(),
        });
    }
}

/// `2026-11-22T18:00:00.123Z`; a record without a time has `-`.
pub(super) fn time(timestamp_ms: i64) -> String {
    let since = u64::try_from(timestamp_ms).ok().map(Duration::from_millis);
    let at = since.and_then(|since| UNIX_EPOCH.checked_add(since));
    // Beyond the year 9999 there is no such form.
    let at = at.filter(|_| timestamp_ms < 253_402_300_800_000);
    at.map_or_else(|| "-".to_owned(), |at| humantime::format_rfc3339_millis(at).to_string())
}

impl Outcome for TableLetters {
    /// 65 while a letter is pending.
    fn exit_code(&self) -> ExitCode {
        if self.pending > 0 { ExitCode::Data } else { ExitCode::Done }
    }

    fn text(&self, _table: &TableConfig) -> String {
        let mut text = String::new();
        if !self.letters.is_empty() {
            text += "partition\toffset\ttime\tkey\tstate\treason\n";
        }
        for Shown { partition, offset, time, key, state, reason } in &self.letters {
            let key = key.as_deref().map_or_else(|| "-".to_owned(), plain);
            let state = match state {
                State::Pending => "pending",
                State::Replayed => "replayed",
                State::Settled => "settled",
                State::Dropped => "dropped",
            };
            text += &format!("{partition}\t{offset}\t{time}\t{key}\t{state}\t{}\n", plain(reason));
        }
        text + &summary(self) + "\n"
    }
}

/// `user_logins.dead: 3 pending, 1 replayed`
fn summary(table: &TableLetters) -> String {
    let mut parts =
        vec![format!("{} pending", grouped(table.pending)), format!("{} replayed", grouped(table.replayed))];
    let mut note = |number: u64, what: String| {
        if number > 0 {
            parts.push(what);
        }
    };
    note(table.settled, format!("{} settled by newer versions", grouped(table.settled)));
    note(table.dropped, format!("{} dropped", grouped(table.dropped)));
    note(table.to_drop, format!("{} to be dropped: add --confirm to do it", grouped(table.to_drop)));
    note(table.inserted, format!("{} of them inserted now", grouped(table.inserted)));
    note(table.foreign, format!("{} not from this table", counted(table.foreign, "record")));
    note(table.omitted, format!("{} not shown", grouped(table.omitted)));
    let left = if table.complete { "" } else { "; more remains" };
    format!("{}: {}{left}", table.dead_letter_topic, parts.join(", "))
}

/// On one line, and without what a terminal would obey.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_shown_where_there_is_one() {
        assert_eq!(time(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(time(-1), "-");
        assert_eq!(time(i64::MAX), "-");
    }

    #[test]
    fn a_key_cannot_draw_on_the_terminal() {
        assert_eq!(plain("a\u{1b}[2J\nb"), "a [2J b");
    }
}

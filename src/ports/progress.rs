//! How far a table has come in a run, for whoever watches: the line that SIGUSR1 asks for, and the one at the bottom of a
//! terminal. Nothing is decided by it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::source::Estimate;
use crate::config::TableConfig;

/// One table's way through one run. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    sent: u64,
    flagged: u64,
    copied: u64,
    unsent: Option<Estimate>,
    leg: Option<Leg>,
}

/// A leg under way.
#[derive(Clone, Copy, Debug)]
struct Leg {
    begun: Instant,
    /// What the run had moved before this leg, or this attempt at it, began.
    before: u64,
    /// None for the first leg, whose rows are counted beside it.
    records: Option<u64>,
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how many rows were unsent when the run began.
    pub fn expect_rows(&self, unsent: Estimate) {
        self.state().unsent = Some(unsent);
    }

    /// The first leg begins to move rows.
    pub fn begin_rows(&self) {
        let mut state = self.state();
        state.leg = Some(Leg { begun: Instant::now(), before: state.flagged, records: None });
    }

    /// The second leg begins to copy so many records.
    pub fn begin_records(&self, records: u64) {
        let mut state = self.state();
        state.leg = Some(Leg { begun: Instant::now(), before: state.copied, records: Some(records) });
    }

    /// Counts records that were committed to the topic.
    pub fn sent(&self, records: usize) {
        self.state().sent += records as u64;
    }

    /// Counts rows that were flagged.
    pub fn flagged(&self, rows: u64) {
        self.state().flagged += rows;
    }

    /// Counts records that are dealt with.
    pub fn copied(&self, records: u64) {
        self.state().copied += records;
    }

    /// A line for a person who asks: what was done, `elapsed` into the run.
    #[must_use]
    pub fn line(&self, source: &str, elapsed: Duration) -> String {
        let State { sent, flagged, copied, .. } = *self.state();
        let seconds = elapsed.as_secs_f64();
        format!(
            "{source}, {seconds:.1} s into the run: {sent} records sent, {flagged} rows flagged, {copied} records copied"
        )
    }

    /// A line for a person who watches: how much of the present leg is done, how fast, and how long the rest takes. `None`
    /// before the first leg has something to move.
    #[must_use]
    pub fn bar(&self, table: &TableConfig, max_rows: Option<u64>) -> Option<String> {
        let state = self.state();
        let leg = state.leg?;
        let (way, noun, done, goal) = match leg.records {
            None => (format!("{} → {}", table.source, table.topic), "rows", state.flagged, state.unsent),
            Some(records) => {
                let goal = Estimate { number: leg.before + records, exact: true };
                (format!("{} → {}", table.topic, table.target), "records", state.copied, Some(goal))
            }
        };
        let goal =
            goal.map(|goal| Estimate { number: max_rows.map_or(goal.number, |most| goal.number.min(most)), ..goal });
        Some(format!("{way}: {}", of_goal(noun, done, done - leg.before, goal, leg.begun.elapsed())))
    }
}

/// `120,000 of 500,000 rows (24 %), 85,000/s, 5 s left`
fn of_goal(noun: &str, done: u64, since: u64, goal: Option<Estimate>, elapsed: Duration) -> String {
    // What was expected too low says nothing any more.
    let goal = goal.filter(|goal| goal.number > 0 && done <= goal.number);
    let mut text = match goal {
        Some(Estimate { number, exact }) => {
            let about = if exact { "" } else { "about " };
            format!("{} of {about}{} {noun} ({} %)", grouped(done), grouped(number), 100 * done / number)
        }
        None => format!("{} {noun}", grouped(done)),
    };
    let rate = since as f64 / elapsed.as_secs_f64().max(0.001);
    if since > 0 {
        text.push_str(&format!(", {}/s", grouped(rate as u64)));
        if let Some(goal) = goal {
            text.push_str(&format!(", {} left", in_words((goal.number - done) as f64 / rate)));
        }
    }
    text
}

/// `1,234,567`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `5 s`, `3 min 20 s`, `2 h 5 min`
fn in_words(seconds: f64) -> String {
    let seconds = seconds.ceil() as u64;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds} s"),
        (0, _) => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(done: u64, since: u64, goal: Option<(u64, bool)>, seconds: u64) -> String {
        let goal = goal.map(|(number, exact)| Estimate { number, exact });
        of_goal("rows", done, since, goal, Duration::from_secs(seconds))
    }

    #[test]
    fn share_rate_and_time_left_are_told_as_far_as_they_are_known() {
        assert_eq!(
            told(120_000, 120_000, Some((500_000, true)), 2),
            "120,000 of 500,000 rows (24 %), 60,000/s, 7 s left"
        );
        assert_eq!(told(0, 0, Some((5, false)), 1), "0 of about 5 rows (0 %)");
        assert_eq!(told(1_234_567, 1_234_567, None, 1), "1,234,567 rows, 1,234,567/s");
        // What an attempt before this one did counts for the share and not for the rate.
        assert_eq!(told(900, 100, Some((1_000, true)), 10), "900 of 1,000 rows (90 %), 10/s, 10 s left");
    }

    #[test]
    fn a_goal_that_is_passed_is_no_goal() {
        assert_eq!(told(11, 11, Some((10, false)), 1), "11 rows, 11/s");
        assert_eq!(told(10, 10, Some((10, false)), 1), "10 of about 10 rows (100 %), 10/s, 0 s left");
        assert_eq!(told(0, 0, Some((0, true)), 1), "0 rows");
    }

    #[test]
    fn long_times_are_told_in_larger_units() {
        let told = [4.2, 60.0, 200.0, 7_500.0].map(in_words);
        assert_eq!(told, ["5 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]);
    }

    #[test]
    fn each_leg_has_its_own_line_and_the_first_says_nothing_before_it_moves_rows() {
        let config =
            crate::config::load(&crate::config::Flags { config: Some("/dev/null".into()), ..Default::default() })
                .unwrap();
        let (table, progress) = (&config.tables[0], Progress::default());
        progress.expect_rows(Estimate { number: 10, exact: true });
        assert_eq!(progress.bar(table, None), None);
        progress.begin_rows();
        progress.flagged(5);
        let line = progress.bar(table, None).unwrap();
        assert!(line.starts_with("public.user_logins → user_logins: 5 of 10 rows (50 %), "), "{line}");
        let line = progress.bar(table, Some(8)).unwrap();
        assert!(line.contains("5 of 8 rows"), "{line}");
        progress.begin_records(20);
        progress.copied(15);
        let line = progress.bar(table, None).unwrap();
        assert!(line.starts_with("user_logins → analytics.user_logins: 15 of 20 records (75 %), "), "{line}");
    }
}

//! How far a table has come in a run: the line that SIGUSR1 asks for, and the one at the bottom of a
//! terminal. Nothing is decided by it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::source::Estimate;
use crate::config::TableConfig;
use crate::numbers::{counted, grouped, whole};

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
    /// The replica that is waited for.
    pauses_for: Option<String>,
    begun_at: Option<Instant>,
    moved_at: Option<Instant>,
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

impl State {
    fn counts(&self) -> String {
        let (sent, flagged, copied) = (self.sent, self.flagged, self.copied);
        let [sent, flagged, copied] =
            [(sent, "record"), (flagged, "row"), (copied, "record")].map(|(n, noun)| counted(n, noun));
        format!("{sent} sent, {flagged} flagged, {copied} copied")
    }

    fn pausing(&self) -> String {
        self.pauses_for.as_ref().map_or_else(String::new, |replica| format!(", pausing for the replica {replica}"))
    }
}

impl Progress {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The run may move something from now on: it holds the lock, or needs none.
    pub fn begin(&self) {
        self.state().begun_at.get_or_insert_with(Instant::now);
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

    /// The consume leg starts to copy this many records.
    pub fn begin_records(&self, records: u64) {
        let mut state = self.state();
        state.leg = Some(Leg { begun: Instant::now(), before: state.copied, records: Some(records) });
    }

    /// Counts records that were committed to the topic.
    pub fn sent(&self, records: usize) {
        let mut state = self.state();
        state.sent += records as u64;
        state.moved_at = Some(Instant::now());
    }

    /// Counts rows that were flagged.
    pub fn flagged(&self, rows: u64) {
        let mut state = self.state();
        state.flagged += rows;
        state.moved_at = Some(Instant::now());
    }

    /// The run pauses until a replica has caught up.
    pub fn pauses_for(&self, replica: &str) {
        self.state().pauses_for = Some(replica.to_owned());
    }

    /// A pause is over, in which nothing was to be moved.
    pub fn paused(&self) {
        let mut state = self.state();
        state.pauses_for = None;
        state.moved_at = Some(Instant::now());
    }

    /// Counts records that are dealt with.
    pub fn copied(&self, records: u64) {
        let mut state = self.state();
        state.copied += records;
        state.moved_at = Some(Instant::now());
    }

    /// When something was last moved, if anything was.
    #[must_use]
    pub fn moved_at(&self) -> Option<Instant> {
        self.state().moved_at
    }

    /// When the run last moved something, or began to; `None` while it waits for its lock.
    #[must_use]
    pub fn last_step(&self) -> Option<Instant> {
        let state = self.state();
        state.begun_at.max(state.moved_at)
    }

    /// What was done so far: `5 records sent, 5 rows flagged, 0 records copied`.
    #[must_use]
    pub fn counts(&self) -> String {
        self.state().counts()
    }

    /// A line for a person who asks: what was done, `elapsed` into the run.
    #[must_use]
    pub fn line(&self, source: &str, elapsed: Duration) -> String {
        let state = self.state();
        let seconds = elapsed.as_secs_f64();
        format!("{source}, {seconds:.1} s into the run: {}{}", state.counts(), state.pausing())
    }

    /// A line for a person who watches: how much of the present leg is done, how fast, and how long the rest takes; the
    /// longest that has fewer than `width` columns. `None` before the first leg has something to move.
    #[must_use]
    pub fn bar(&self, table: &TableConfig, max_rows: Option<u64>, width: usize) -> Option<String> {
        let state = self.state();
        let leg = state.leg?;
        let target = table.target.to_string();
        let (from, to, noun, done, goal) = match leg.records {
            None => (&table.source, &table.topic, "row", state.flagged, state.unsent),
            Some(records) => {
                let goal = Estimate { number: leg.before + records, exact: true };
                (&table.topic, &target, "record", state.copied, Some(goal))
            }
        };
        let most = max_rows.unwrap_or(u64::MAX);
        let goal = goal.map(|goal| Estimate { number: goal.number.min(most), ..goal });
        let told = Told::of(noun, done, done - leg.before, goal, leg.begun.elapsed());
        let forms = [
            format!("{from} → {to}: {}{}", told.whole, state.pausing()),
            format!("{from} → {to}: {}", told.share_and_rest),
            format!("→ {to}: {}", told.share_and_rest),
            told.share_and_rest,
            told.share,
        ];
        let fits = |form: &String| form.chars().count() < width;
        let shortest = forms.last().map(|form| form.chars().take(width.saturating_sub(1)).collect());
        forms.into_iter().find(fits).or(shortest)
    }
}

/// What is done, in forms of different length.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// `120,000 of 500,000 rows (24 %), 85,000/s, 5 s left`
    whole: String,
    /// `24 %, 5 s left`
    share_and_rest: String,
    /// `24 %`
    share: String,
}

impl Told {
    fn of(noun: &str, done: u64, since: u64, goal: Option<Estimate>, elapsed: Duration) -> Self {
        // What was expected too low says nothing any more.
        let goal = goal.filter(|goal| goal.number > 0 && done <= goal.number);
        let rate = since as f64 / elapsed.as_secs_f64().max(0.001);
        let speed = if since > 0 { format!(", {}/s", grouped(whole(rate))) } else { String::new() };
        let Some(Estimate { number, exact }) = goal else {
            let counted = counted(done, noun);
            return Self {
                whole: format!("{counted}{speed}"),
                share_and_rest: format!("{counted}{speed}"),
                share: counted,
            };
        };
        let about = if exact { "" } else { "about " };
        let share = format!("{} %", 100 * done / number);
        let rest =
            if since > 0 { format!(", {} left", in_words((number - done) as f64 / rate)) } else { String::new() };
        Self {
            whole: format!("{} of {about}{} ({share}){speed}{rest}", grouped(done), counted(number, noun)),
            share_and_rest: format!("{share}{rest}"),
            share,
        }
    }
}

/// `5 s`, `3 min 20 s`, `2 h 5 min`
fn in_words(seconds: f64) -> String {
    let seconds = whole(seconds.ceil());
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
        Told::of("row", done, since, goal, Duration::from_secs(seconds)).whole
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
    fn a_narrow_terminal_loses_names_and_numbers_before_the_share_and_the_time_left() {
        let config =
            crate::config::load(&crate::config::Flags { config: Some("/dev/null".into()), ..Default::default() })
                .unwrap();
        let (table, progress) = (&config.tables[0], Progress::default());
        progress.expect_rows(Estimate { number: 1_000_000_000, exact: true });
        progress.begin_rows();
        progress.flagged(250_000_000);
        for width in 1..120 {
            let line = progress.bar(table, None, width).unwrap();
            assert!(line.chars().count() < width, "{width}: {line}");
            assert!(width < 17 || line.contains("25 %") && line.ends_with(" s left"), "{width}: {line}");
        }
        assert!(progress.bar(table, None, 40).unwrap().starts_with("→ user_logins: 25 %, "));
        assert_eq!(progress.bar(table, None, 6).unwrap(), "25 %");
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
        assert_eq!(progress.bar(table, None, 200), None);
        progress.begin_rows();
        progress.flagged(5);
        let line = progress.bar(table, None, 200).unwrap();
        assert!(line.starts_with("public.user_logins → user_logins: 5 of 10 rows (50 %), "), "{line}");
        let line = progress.bar(table, Some(8), 200).unwrap();
        assert!(line.contains("5 of 8 rows"), "{line}");
        progress.begin_records(20);
        progress.copied(15);
        let line = progress.bar(table, None, 200).unwrap();
        assert!(line.starts_with("user_logins → analytics.user_logins: 15 of 20 records (75 %), "), "{line}");
    }
}

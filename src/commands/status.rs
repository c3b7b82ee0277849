//! `pg2ch status`: what remains to be moved, and what the last runs did. It takes no lock, so it works while a run is in progress.

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::json;

use super::{Frame, Outcome, dead_letters};
use crate::config::TableConfig;
use crate::data::Offsets;
use crate::error::{Error, ExitCode, Result};
use crate::numbers::{counted, grouped};
use crate::outcome::backlog::{self, Backlog, PartitionLag};
use crate::outcome::gone::Gone;
use crate::ports::LegContext;
use crate::postgres::{Holder, Session, connect, name_sql, run_in_progress, settled_offsets};

/// How many of the last runs are shown.
const RUNS: i64 = 10;

/// A run, as it was written down.
#[derive(Debug, Serialize)]
struct Run {
    started: String,
    seconds_ago: i64,
    seconds: f64,
    legs: String,
    exit_code: i32,
    complete: bool,
    records_sent: i64,
    rows_flagged: i64,
    records_copied: i64,
    inserts: i64,
    dead_letters: i64,
    #[expect(clippy::struct_field_names, reason = "as the table has it")]
    run_by: String,
    error: Option<String>,
}

/// What is known about one table.
pub struct TableStatus {
    backlog: Backlog,
    dead_letters: Option<u64>,
    /// What the last runs did; none if that could not be read.
    history: Option<History>,
    failures: Vec<Error>,
}

/// What the last runs did, as they have written it down.
#[derive(Debug, Default)]
struct History {
    in_progress: Option<Holder>,
    last_seen: Vec<Run>,
    runs: Vec<Run>,
    /// No row that is unsent now has been there for longer: a run that began so long ago has sent all that there were.
    unsent_seconds_at_most: Option<i64>,
    /// The checkpoint that they left.
    settled: Offsets,
}

/// What is known about a table. It ends with 0, or with the code of the most severe failure to ask a server: one that cannot be asked,
/// or hangs, does not hide what the others have to say.
pub fn status(frame: &Frame<'_>, table: &TableConfig) -> TableStatus {
    let unsent = frame.on(table, |leg| backlog::unsent(leg.config, leg.table, leg.watchdog));
    let answers = unsent.as_ref().err().is_none_or(|error| error.exit_code() != ExitCode::Unavailable);
    // Before the topic's ends: a run in progress moves the checkpoint up to ends that an earlier answer does not know.
    let history = if answers { read_history(frame, table) } else { None };
    let partitions = frame.on(table, |leg| backlog::partitions(leg.config, leg.table, leg.watchdog));
    let (backlog, failures) = Backlog::of(unsent, partitions);
    let mut status = TableStatus { dead_letters: None, history, backlog, failures };
    if status.failures.is_empty() {
        match frame.on(table, dead_letters::pending) {
            Ok(pending) => status.dead_letters = Some(pending),
            Err(error) => status.failures.push(error),
        }
    }
    status
}

/// Without a history there is nothing to show, and nothing wrong.
fn read_history(frame: &Frame<'_>, table: &TableConfig) -> Option<History> {
    let history = |leg: &LegContext<'_>| history(&mut connect(leg.config, "status", leg.watchdog)?, leg.table);
    frame.on(table, history).inspect_err(|error| log::debug!("{error}")).ok()
}

fn history(session: &mut Session, table: &TableConfig) -> Result<History> {
    const WHAT: &str = "cannot read the run history";
    let mut history = History {
        in_progress: run_in_progress(session, &table.source)?,
        settled: settled_offsets(session, &table.source, &table.topic)?,
        ..History::default()
    };
    let source = format!("coalesce({}, $1)", name_sql("$1"));
    if session.query_opt(WHAT, "SELECT 1 WHERE to_regclass('pg2ch_runs') IS NOT NULL", &[])?.is_none() {
        return Ok(history);
    }
    for (last_seen, runs) in [(true, &mut history.last_seen), (false, &mut history.runs)] {
        let rows = session.query(
            WHAT,
            &format!("SELECT to_char(started_at, 'YYYY-MM-DD HH24:MI:SS\"Z\"'), extract(epoch FROM now() - started_at)::bigint, seconds,
                legs, exit_code, complete, records_sent, rows_flagged, records_copied, inserts, dead_letters, run_by, error
             FROM pg2ch_runs WHERE source = {source} AND topic = $2 AND last_seen = $3 ORDER BY started_at DESC, id DESC LIMIT $4"),
            &[&table.source, &table.topic, &last_seen, &RUNS],
        )?;
        *runs = rows
            .iter()
            .map(|row| Run {
                started: row.get(0),
                seconds_ago: row.get(1),
                seconds: row.get(2),
                legs: row.get(3),
                exit_code: row.get(4),
                complete: row.get(5),
                records_sent: row.get(6),
                rows_flagged: row.get(7),
                records_copied: row.get(8),
                inserts: row.get(9),
                dead_letters: row.get(10),
                run_by: row.get(11),
                error: row.get(12),
            })
            .collect();
    }
    history.unsent_seconds_at_most = session.value(
        WHAT,
        &format!(
            "SELECT extract(epoch FROM now() - max(started_at))::bigint FROM pg2ch_runs
             WHERE source = {source} AND topic = $2 AND all_sent"
        ),
        &[&table.source, &table.topic],
    )?;
    Ok(history)
}

impl Outcome for TableStatus {
    fn exit_code(&self) -> ExitCode {
        self.failures.iter().map(Error::exit_code).fold(ExitCode::Done, ExitCode::graver)
    }

    fn text(&self, table: &TableConfig) -> String {
        format!("{} → {} → {}\n{}", table.source, table.topic, table.target, self.body())
    }
}

impl TableStatus {
    fn body(&self) -> String {
        let mut text = String::new();
        for failure in &self.failures {
            let (what, why, hint) = (failure.what(), failure.why(), failure.hint());
            text += &format!("  not known: {what}: {why}\n    hint: {hint}\n");
        }
        let uncopied = self.backlog.behind().map_or_else(not_known, |records| at_most(records, "record"));
        text += &format!("  unsent            {}\n  uncopied          {uncopied}\n", self.unsent_text());
        for lag in self.backlog.partitions.iter().flatten().filter(|lag| lag.behind > 0) {
            let PartitionLag { partition, next, end, trusted, behind, .. } = lag;
            let note = if *trusted { "" } else { " (no offset of pg2ch: a run first checks what the target has)" };
            let behind = at_most(*behind, "record");
            text += &format!("    partition {partition:<5} {behind}, from offset {next} to {end}{note}\n");
        }
        for gone in self.gone() {
            text += &format!("  lost              {gone}; `pg2ch check` says what to do\n");
        }
        let dead = self.dead_letters.map_or_else(not_known, |count| format!("{} pending", grouped(count)));
        text + &format!("  dead letters      {dead}\n") + &self.history_text()
    }

    /// What a run would find missing in the topic.
    fn gone(&self) -> Vec<Gone> {
        let nothing = Offsets::new();
        Gone::of(&self.backlog, self.history.as_ref().map_or(&nothing, |history| &history.settled))
    }

    fn history_text(&self) -> String {
        let Some(history) = &self.history else { return "  last runs         not known\n\n".to_owned() };
        let mut text = String::new();
        if let Some(holder) = &history.in_progress {
            text += &format!("  run in progress   {holder}\n");
        }
        for run in &history.last_seen {
            let end = if run.exit_code == 0 { "succeeded".into() } else { format!("ended with {}", run.exit_code) };
            let (legs, ago) = (legs_in_words(&run.legs), duration(run.seconds_ago));
            text += &format!("  last run          {ago} ago, {legs}, {end}, by {}\n", run.run_by);
        }
        if history.runs.is_empty() {
            return text + "  no recorded run has moved data or failed\n\n";
        }
        text +=
            "\n  started               seconds  legs     exit        sent     flagged      copied  inserts   dead\n";
        text + &history.runs.iter().map(Run::line).collect::<String>() + "\n"
    }

    /// There is no timestamp in a row: its age is shown as far as it can be known.
    fn unsent_text(&self) -> String {
        let Some(unsent) = &self.backlog.unsent else { return not_known() };
        let Some(key) = &unsent.lowest_key else { return unsent.counted() };
        let at_most = self.history.as_ref().and_then(|history| history.unsent_seconds_at_most);
        let since = match (unsent.seconds, at_most) {
            (Some(seconds), _) => format!("committed {} ago", duration(seconds)),
            (None, Some(seconds)) => format!("unsent for at most {} (an earlier run sent all)", duration(seconds)),
            (None, None) => "unsent since an unknown time".to_owned(),
        };
        format!("{}, lowest key {key}, {since}", unsent.counted())
    }
}

impl Serialize for TableStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let empty = History::default();
        let history = self.history.as_ref().unwrap_or(&empty);
        json!({
            "unsent": self.backlog.unsent,
            "unsent_seconds_at_most": history.unsent_seconds_at_most,
            "partitions": self.backlog.partitions,
            "records_behind_at_most": self.backlog.behind(),
            "lost": self.gone().iter().map(Gone::to_string).collect::<Vec<_>>(),
            "dead_letters_pending": self.dead_letters,
            "run_in_progress": history.in_progress,
            "last_seen": history.last_seen,
            "runs": history.runs,
            "errors": self.failures,
        })
        .serialize(serializer)
    }
}

impl Run {
    fn line(&self) -> String {
        let Self { started, seconds, legs, exit_code, .. } = self;
        let [sent, flagged, copied, inserts, dead] =
            [self.records_sent, self.rows_flagged, self.records_copied, self.inserts, self.dead_letters]
                .map(|count| grouped(count.unsigned_abs()));
        let more = if self.complete { "" } else { "  more remained" };
        let error = self.error.as_ref().map_or_else(String::new, |error| format!("    {error}\n"));
        format!(
            "  {started:<20} {seconds:>8.2}  {legs:<7} {exit_code:>5} {sent:>11} {flagged:>11} {copied:>11} {inserts:>8} {dead:>6}{more}\n{error}"
        )
    }
}

fn not_known() -> String {
    "not known".into()
}

/// `0 records`, `at most 1 record`: the markers of transactions count among the offsets.
fn at_most(number: i64, noun: &str) -> String {
    let counted = counted(number.unsigned_abs(), noun);
    if number > 0 { format!("at most {counted}") } else { counted }
}

fn legs_in_words(legs: &str) -> &str {
    match legs {
        "both" => "both legs",
        "produce" => "produce leg",
        "consume" => "consume leg",
        other => other,
    }
}

fn duration(seconds: i64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.max(0).unsigned_abs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::backlog::Unsent;

    fn status() -> TableStatus {
        let lag = PartitionLag {
            partition: 0,
            next: 5,
            end: 1_006,
            trusted: true,
            behind: 1_001,
            first: 0,
            written: 1_006,
            beyond: None,
        };
        TableStatus {
            backlog: Backlog {
                unsent: Some(Unsent { rows: 1, or_more: false, lowest_key: Some("7".into()), seconds: None }),
                partitions: Some(vec![lag]),
            },
            dead_letters: Some(0),
            history: Some(History::default()),
            failures: Vec::new(),
        }
    }

    fn text_of(status: &TableStatus) -> String {
        format!("public.t → t → a.t\n{}", status.body())
    }

    fn run(legs: &str) -> Run {
        Run {
            started: "2026-01-02 03:04:05Z".into(),
            seconds_ago: 61,
            seconds: 1.0,
            legs: legs.into(),
            exit_code: 0,
            complete: true,
            records_sent: 1_000_000,
            rows_flagged: 1_000_000,
            records_copied: 0,
            inserts: 0,
            dead_letters: 0,
            run_by: "host 1".into(),
            error: None,
        }
    }

    #[test]
    fn numbers_nouns_and_legs_are_written_out() {
        let mut status = status();
        let text = text_of(&status);
        assert!(text.contains("\n  unsent            1 row, lowest key 7, unsent since an unknown time\n"), "{text}");
        assert!(text.contains("\n  uncopied          at most 1,001 records\n"), "{text}");
        assert!(text.contains("\n    partition 0     at most 1,001 records, from offset 5 to 1006\n"), "{text}");
        assert!(text.contains("\n  no recorded run has moved data or failed\n"), "{text}");
        let history = History { last_seen: vec![run("both")], runs: vec![run("produce")], ..History::default() };
        status.history = Some(history);
        let text = text_of(&status);
        assert!(text.contains("\n  last run          1m 1s ago, both legs, succeeded, by host 1\n"), "{text}");
        assert!(text.contains("  produce     0   1,000,000   1,000,000           0        0      0\n"), "{text}");
    }

    #[test]
    fn a_history_that_cannot_be_read_is_not_one_without_runs() {
        let text = text_of(&TableStatus { history: None, ..status() });
        assert!(text.contains("\n  last runs         not known\n") && !text.contains("no recorded run"), "{text}");
    }
}

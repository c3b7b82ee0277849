//! What a run did to a table, in one line for a person.

use super::{ConsumeReport, ProduceReport, TableReport};
use crate::numbers::{counted, grouped, whole};

/// `public.t → t → analytics.t: 5 rows sent, 5 flagged, 5 records copied in 1 insert, 0.21 s (24 rows/s)`
pub fn of(table: &TableReport) -> String {
    let mut parts = Vec::new();
    parts.extend(table.produce.as_ref().filter(|leg| leg.moved_something()).map(produced));
    parts.extend(table.consume.as_ref().filter(|leg| leg.moved_something()).map(copied));
    parts.extend((table.pruned > 0).then(|| format!("{} pruned", counted(table.pruned, "row"))));
    if parts.is_empty() {
        // Where something was left, or failed, nothing moved although there was something to do.
        let is_done = table.is_complete() && table.left.is_nothing();
        parts.push(if is_done { "nothing to do" } else { "nothing moved" }.to_owned());
    }
    let rows = table.produce.as_ref().map_or(0, |leg| leg.records_sent);
    let rows = rows.max(table.consume.as_ref().map_or(0, |leg| leg.records_copied));
    let rate = whole((rows as f64 / table.seconds.max(0.001)).round());
    let rate = if rows > 0 { format!(" ({} rows/s)", grouped(rate)) } else { String::new() };
    let left = left_of(table);
    format!(
        "{} → {} → {}: {}, {:.2} s{rate}{left}",
        table.source,
        table.topic,
        table.target,
        parts.join(", "),
        table.seconds
    )
}

fn paused(leg: &ProduceReport) -> Option<String> {
    if leg.paused.is_zero() {
        return None;
    }
    let for_replication = match leg.paused_for_replication.as_secs_f64() {
        0.0 => String::new(),
        seconds => format!(" ({seconds:.2} s for replicas)"),
    };
    Some(format!("paused {:.2} s{for_replication}", leg.paused.as_secs_f64()))
}

fn produced(leg: &ProduceReport) -> String {
    let flagged = grouped(leg.rows_flagged + leg.rows_recovered);
    let mut parts = vec![format!("{} sent, {flagged} flagged", counted(leg.records_sent, "row"))];
    parts.extend(some(leg.rows_recovered, "delivered by an earlier run"));
    parts.extend(some(leg.rows_changed, "changed meanwhile"));
    parts.extend(some(leg.rows_locked, "locked"));
    parts.extend(some(leg.taken_back.len() as u64, "kept FALSE by a trigger or constraint"));
    parts.extend(some(leg.too_large.len() as u64, "too large"));
    parts.extend(some(leg.unreadable.len() as u64, "unreadable"));
    parts.extend(paused(leg));
    parts.join(", ")
}

fn copied(leg: &ConsumeReport) -> String {
    let mut parts =
        vec![format!("{} copied in {}", counted(leg.records_copied, "record"), counted(leg.inserts, "insert"))];
    parts.extend(some(leg.rows_held, "already in the target"));
    parts.extend((leg.dead_letters > 0).then(|| counted(leg.dead_letters, "dead letter")));
    parts.extend(some(leg.lost.iter().map(|lost| (lost.to - lost.from).unsigned_abs()).sum(), "lost to retention"));
    parts.join(", ")
}

/// What remains to be moved.
fn left_of(table: &TableReport) -> String {
    let rows = table.left.unsent_rows.filter(|&rows| rows > 0).map(|rows| counted(rows.unsigned_abs(), "unsent row"));
    let records = table.left.uncopied_records.filter(|&records| records > 0);
    let records = records.map(|records| format!("at most {}", counted(records.unsigned_abs(), "uncopied record")));
    let known: Vec<String> = rows.into_iter().chain(records).collect();
    match (known.is_empty(), table.is_complete()) {
        (false, _) => format!("; remaining: {}", known.join(", ")),
        (true, false) => "; more remains".into(),
        (true, true) => String::new(),
    }
}

fn some(number: u64, what: &str) -> Option<String> {
    (number > 0).then(|| format!("{} {what}", grouped(number)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::report::Left;

    fn table(produce: Option<ProduceReport>, consume: Option<ConsumeReport>) -> TableReport {
        TableReport {
            source: "public.t".into(),
            topic: "t".into(),
            target: "a.t".into(),
            produce,
            consume,
            pruned: 0,
            error: None,
            left: Left::default(),
            seconds: 2.0,
        }
    }

    #[test]
    fn a_summary_counts_rows_in_words_and_groups_their_digits() {
        let produce = ProduceReport { records_sent: 1_234_567, rows_flagged: 1_234_567, ..ProduceReport::default() };
        let consume = ConsumeReport {
            complete: true,
            records_copied: 1,
            inserts: 1,
            dead_letters: 1,
            ..ConsumeReport::default()
        };
        assert_eq!(
            of(&table(Some(produce), Some(consume))),
            "public.t → t → a.t: 1,234,567 rows sent, 1,234,567 flagged, 1 record copied in 1 insert, 1 dead letter, 2.00 s \
             (617,284 rows/s)"
        );
    }

    #[test]
    fn a_run_without_work_and_one_that_was_given_up_say_so() {
        let done = ConsumeReport { complete: true, ..ConsumeReport::default() };
        let idle = table(Some(ProduceReport::default()), Some(done));
        assert_eq!(of(&idle), "public.t → t → a.t: nothing to do, 2.00 s");
        let given_up = TableReport { error: Some(Error::bug("a", "b")), ..table(None, None) };
        assert_eq!(of(&given_up), "public.t → t → a.t: nothing moved, 2.00 s; more remains");
        let left = Left { unsent_rows: Some(1), uncopied_records: Some(2_000) };
        let stopped = ProduceReport { complete: false, ..ProduceReport::default() };
        assert_eq!(
            of(&TableReport { left, ..table(Some(stopped), None) }),
            "public.t → t → a.t: nothing moved, 2.00 s; remaining: 1 unsent row, at most 2,000 uncopied records"
        );
    }
}

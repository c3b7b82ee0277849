//! Metrics for the textfile collector of Prometheus' node_exporter, written after each run, however it ended.
//!
//! The file is also where counters and the time of the last success are kept from run to run. It is replaced by a rename,
//! so that no reader sees half of it. `docs/metrics.md` describes every name.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::{Config, TableConfig};
use crate::error::ExitCode;
use crate::report::{ConsumeReport, ProduceReport, RunReport, TableReport};

/// What a run did to a table; to a leg that did not run, nothing.
#[derive(Debug)]
pub struct Ended<'a> {
    table: &'a TableReport,
    produce: ProduceReport,
    consume: ConsumeReport,
}

/// A metric: name, type, help; of a counter, what a run adds to it.
type Metric = (&'static str, &'static str, &'static str, Option<fn(&Ended<'_>) -> u64>);

const fn gauge(name: &'static str, help: &'static str) -> Metric {
    (name, "gauge", help, None)
}

const fn counter(name: &'static str, help: &'static str, added: fn(&Ended<'_>) -> u64) -> Metric {
    (name, "counter", help, Some(added))
}

const RUN_MOVED: &str = "pg2ch_run_moved_timestamp_seconds";

/// Every metric, in the file's order.
pub const METRICS: &[Metric] = &[
    gauge("pg2ch_last_success_timestamp_seconds", "When a run of this table last ended with exit code 0, Unix time."),
    gauge("pg2ch_last_run_timestamp_seconds", "When a run of this table last ended, Unix time."),
    gauge(
        "pg2ch_last_complete_start_timestamp_seconds",
        "Unix time at which the last run of both legs started that moved everything and ended with 0: nothing unmoved is older.",
    ),
    gauge(
        RUN_MOVED,
        "When the run in progress last moved something, or began to, Unix time; missing between runs and in a run's first seconds.",
    ),
    gauge("pg2ch_run_exit_code", "The last run's exit code for this table."),
    gauge("pg2ch_run_complete", "1 if the last run moved everything it found, otherwise 0."),
    gauge("pg2ch_run_duration_seconds", "How long the last run took for this table."),
    gauge("pg2ch_run_paused_seconds", "How long of that it paused, to spare PostgreSQL and its replicas."),
    gauge(
        "pg2ch_unsent_rows",
        "Rows that the last run left unsent, counted up to 1,000,000; missing if it is unknown.",
    ),
    gauge("pg2ch_uncopied_records", "Records that the last run left uncopied, at most; missing if it is unknown."),
    counter("pg2ch_runs_total", "Runs.", |_| 1),
    counter(
        "pg2ch_failed_runs_total",
        "Runs with an exit code other than 0 and 75 (another run holds the lock).",
        |of| u64::from(!matches!(of.table.exit_code().code(), 0 | 75)),
    ),
    counter("pg2ch_rows_read_total", "Rows read from PostgreSQL.", |of| of.produce.rows_read),
    counter("pg2ch_records_sent_total", "Records committed to the topic.", |of| of.produce.records_sent),
    counter("pg2ch_rows_flagged_total", "Rows flagged as sent, including those delivered by an earlier run.", |of| {
        of.produce.rows_flagged + of.produce.rows_recovered
    }),
    counter(
        "pg2ch_rows_locked_total",
        "Rows that were sent and could not be flagged at once: an application had locked them.",
        |of| of.produce.rows_locked,
    ),
    counter(
        "pg2ch_rows_too_large_total",
        "Rows found too large for the topic: they stay unsent, and count again in each run.",
        |of| of.produce.too_large.len() as u64,
    ),
    counter(
        "pg2ch_rows_unreadable_total",
        "Rows that PostgreSQL cannot turn into JSON in UTF-8: they stay unsent, and count again in each run.",
        |of| of.produce.unreadable.len() as u64,
    ),
    counter("pg2ch_records_copied_total", "Records inserted, already in the target, or dead letters.", |of| {
        of.consume.records_copied
    }),
    counter("pg2ch_rows_inserted_total", "Rows inserted into ClickHouse.", |of| of.consume.rows_inserted),
    counter("pg2ch_inserts_total", "INSERT requests sent to ClickHouse.", |of| of.consume.inserts),
    counter("pg2ch_dead_letters_total", "Records that the target refused.", |of| of.consume.dead_letters),
    counter("pg2ch_rows_pruned_total", "Rows that `keep` has deleted from the source.", |of| of.table.pruned),
    counter("pg2ch_offsets_lost_total", "Offsets that retention deleted before they were copied.", |of| {
        of.consume.lost.iter().map(|lost| (lost.to - lost.from).unsigned_abs()).sum()
    }),
    counter(
        "pg2ch_runs_with_losses_total",
        "Runs that found records lost with a topic or by retention, or rows that views or altered columns may lack.",
        |of| u64::from(of.produce.found_losses() || of.consume.found_losses()),
    ),
];

/// Writes the file, if one is configured. A failure is a warning: the run itself is done.
pub fn write(config: &Config, report: &RunReport) {
    let Some(file) = &config.metrics.textfile else { return };
    let before = std::fs::read_to_string(file).unwrap_or_default();
    if let Err(error) = replace(file, &render(&before, report, &Writer::of(config), now())) {
        log::warn!(
            "cannot write the metrics to {}: {error}; check [metrics] textfile, and that the directory may be written to",
            file.display()
        );
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// How often a long run writes when it last moved something.
const EVERY: Duration = Duration::from_secs(5);

/// When each table of the present run last moved: what a run that hangs can no longer report at its end.
#[derive(Debug)]
pub struct Marks {
    file: Option<PathBuf>,
    next: Instant,
    /// By the labels; `None` once the table's part of the run has ended.
    moved: BTreeMap<String, Option<Instant>>,
}

impl Marks {
    /// For a run that begins now.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self { file: config.metrics.textfile.clone(), next: Instant::now() + EVERY, moved: BTreeMap::new() }
    }

    /// Notes when a table under way last moved. A run that waits for another one's lock has no figure.
    pub fn note(&mut self, table: &TableConfig, last_step: Option<Instant>) {
        if last_step.is_some() && self.file.is_some() {
            self.moved.insert(labels_of(table), last_step);
        }
    }

    /// A table's part of the run has ended.
    pub fn ended(&mut self, table: &TableConfig, code: ExitCode) {
        let labels = labels_of(table);
        if code == ExitCode::Locked {
            self.moved.remove(&labels);
        } else if let Some(moved) = self.moved.get_mut(&labels) {
            *moved = None;
        }
    }

    /// Writes what was noted, every few seconds. A failure is a warning at the run's end only.
    pub fn write(&mut self) {
        let Some(file) = self.file.as_ref().filter(|_| !self.moved.is_empty() && Instant::now() >= self.next) else {
            return;
        };
        self.next = Instant::now() + EVERY;
        let mut series = Series::parse(&std::fs::read_to_string(file).unwrap_or_default());
        let values = &mut series.values;
        for (labels, moved) in &self.moved {
            let name = (RUN_MOVED.to_owned(), labels.clone());
            match moved {
                Some(moved) => drop(values.insert(name, now() - moved.elapsed().as_secs_f64())),
                None => drop(values.remove(&name)),
            }
        }
        if let Err(error) = replace(file, &series.text()) {
            log::debug!("cannot write the metrics to {}: {error}", file.display());
        }
    }
}

fn replace(file: &Path, text: &str) -> std::io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    // The collector reads files that end in .prom; two runs at once must not share a draft.
    let draft = file.with_file_name(format!(".{name}.{}.draft", std::process::id()));
    // node_exporter is another user, whatever this one's umask is.
    let readable = Permissions::from_mode(0o644);
    let written = std::fs::write(&draft, text)
        .and_then(|()| std::fs::set_permissions(&draft, readable))
        .and_then(|()| std::fs::rename(&draft, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written
}

/// The file's new text, from its text before and what a run did.
fn render(before: &str, report: &RunReport, writer: &Writer, now: f64) -> String {
    let mut series = Series::parse(before);
    series.drop_left_out(writer);
    let values = &mut series.values;
    for table in &report.tables {
        series.origins.insert(labels(table), writer.origin.clone());
        update(values, table, now);
        if table.produce.is_some() && table.consume.is_some() && table.is_complete() && table.exit_code().code() == 0 {
            let name = "pg2ch_last_complete_start_timestamp_seconds".to_owned();
            values.insert((name, labels(table)), now - report.seconds);
        }
    }
    series.text()
}

/// Whose run writes the file.
struct Writer {
    /// The configuration file.
    origin: String,
    /// The labels of all its tables; `None` if the run was for some of them only.
    tables: Option<BTreeSet<String>>,
}

impl Writer {
    fn of(config: &Config) -> Self {
        let all = || config.tables.iter().map(labels_of).collect();
        Self { origin: config.metrics.origin.display().to_string(), tables: config.metrics.has_all_tables.then(all) }
    }
}

/// Name and labels → value.
type Values = BTreeMap<(String, String), f64>;

/// What a file holds.
#[derive(Default)]
struct Series {
    values: Values,
    /// Labels → the configuration file that had this table last. Another one may write into the same file.
    origins: BTreeMap<String, String>,
}

/// A comment of ours: labels and configuration file follow, with a tab in between.
const ORIGIN: &str = "# configuration ";

impl Series {
    fn parse(text: &str) -> Self {
        let mut series = Self::default();
        for line in text.lines() {
            if let Some((labels, origin)) = line.strip_prefix(ORIGIN).and_then(|rest| rest.rsplit_once('\t')) {
                series.origins.insert(labels.to_owned(), origin.to_owned());
            } else if let Some((name, value)) = value_in(line) {
                series.values.insert(name, value);
            }
        }
        series
    }

    /// A table that left the configuration, or has another name there, would always look like one that is no longer moved.
    fn drop_left_out(&mut self, writer: &Writer) {
        let Some(tables) = &writer.tables else { return };
        let Self { values, origins } = self;
        values.retain(|(_, labels), _| tables.contains(labels) || origins.get(labels) != Some(&writer.origin));
        origins.retain(|labels, origin| tables.contains(labels) || *origin != writer.origin);
    }

    fn text(&self) -> String {
        let mut text = String::new();
        // A string takes everything.
        for (labels, origin) in &self.origins {
            let _ = writeln!(text, "{ORIGIN}{labels}\t{origin}");
        }
        for (name, kind, help, _) in METRICS {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for ((_, labels), value) in self.values.iter().filter(|((other, _), _)| other == name) {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        }
        text
    }
}

fn value_in(line: &str) -> Option<((String, String), f64)> {
    let (series, value) = line.strip_prefix('#').is_none().then(|| line.rsplit_once(' '))??;
    let (name, labels) = series.split_at(series.find('{')?);
    Some(((name.to_owned(), labels.to_owned()), value.parse().ok()?))
}

fn update(values: &mut Values, table: &TableReport, now: f64) {
    let labels = labels(table);
    let code = table.exit_code().code();
    if code != 75 {
        values.remove(&(RUN_MOVED.to_owned(), labels.clone()));
    }
    let mut set = |name: &str, value: f64| {
        values.insert((name.to_owned(), labels.clone()), value);
    };
    set("pg2ch_last_run_timestamp_seconds", now);
    if code == 0 {
        set("pg2ch_last_success_timestamp_seconds", now);
    }
    set("pg2ch_run_exit_code", code.into());
    set("pg2ch_run_complete", if table.is_complete() { 1.0 } else { 0.0 });
    set("pg2ch_run_duration_seconds", table.seconds);
    set("pg2ch_run_paused_seconds", table.produce.as_ref().map_or(0.0, |leg| leg.paused.as_secs_f64()));
    let gauges = [
        ("pg2ch_unsent_rows", table.has_produced(), table.left.unsent_rows),
        ("pg2ch_uncopied_records", table.has_consumed(), table.left.uncopied_records),
    ];
    // Of a leg that did not run nothing new is known; of one that did, an old number would be a lie.
    for (name, _, number) in gauges.into_iter().filter(|(_, ran, _)| *ran && code != 75) {
        match number {
            Some(number) => drop(values.insert((name.to_owned(), labels.clone()), number as f64)),
            None => drop(values.remove(&(name.to_owned(), labels.clone()))),
        }
    }
    let (produce, consume) = (table.produce.clone().unwrap_or_default(), table.consume.clone().unwrap_or_default());
    let ended = Ended { table, produce, consume };
    for (name, added) in METRICS.iter().filter_map(|(name, .., added)| Some((name, (*added)?))) {
        *values.entry(((*name).to_owned(), labels.clone())).or_default() += added(&ended) as f64;
    }
}

fn labels(table: &TableReport) -> String {
    labels_from([&table.source, &table.topic, &table.target])
}

fn labels_of(table: &TableConfig) -> String {
    labels_from([&table.source, &table.topic, &table.target.to_string()])
}

fn labels_from(names: [&str; 3]) -> String {
    let [source, topic, target] = names.map(escape);
    format!("{{source=\"{source}\",topic=\"{topic}\",target=\"{target}\"}}")
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::report::Left;

    fn run(sent: u64, error: Option<Error>) -> RunReport {
        let produce = ProduceReport { records_sent: sent, ..ProduceReport::default() };
        let table = TableReport {
            source: "public.\"a \\ \"\"b\"".into(),
            topic: "t".into(),
            target: "d.t".into(),
            produce: Some(produce),
            consume: None,
            pruned: 0,
            error,
            left: Left::default(),
            seconds: 1.5,
        };
        RunReport { tables: vec![table], seconds: 1.5, ..RunReport::default() }
    }

    fn value(text: &str, name: &str) -> Option<f64> {
        Series::parse(text).values.iter().find(|((other, _), _)| other == name).map(|(_, value)| *value)
    }

    /// A configuration with the table of [`run`], and no other; or a run for that table alone.
    fn writer(origin: &str, has_all_tables: bool) -> Writer {
        let tables = run(0, None).tables.iter().map(labels).collect();
        Writer { origin: origin.into(), tables: has_all_tables.then_some(tables) }
    }

    fn render(before: &str, report: &RunReport, now: f64) -> String {
        super::render(before, report, &writer("a.toml", true), now)
    }

    #[test]
    fn a_table_that_left_its_configuration_leaves_the_file_and_that_of_another_stays() {
        let mut old = run(1, None);
        old.tables[0].source = "public.renamed".into();
        let by =
            |origin: &str, before: &str, report: &RunReport| super::render(before, report, &writer(origin, true), 1.0);
        let before = by("a.toml", "", &old);
        let is_there = |text: &str| text.contains("public.renamed");
        assert!(is_there(&before));
        assert!(is_there(&by("b.toml", &before, &run(1, None))), "it is another configuration's");
        let chosen = super::render(&before, &run(1, None), &writer("a.toml", false), 1.0);
        assert!(is_there(&chosen), "the run was not for all tables");
        for text in [&before, &chosen] {
            assert!(!is_there(&by("a.toml", text, &run(1, None))), "{text}");
        }
    }

    #[test]
    fn counters_and_the_last_success_outlive_a_run_that_fails() {
        let first = render("", &run(5, None), 100.0);
        let second = render(&first, &run(2, Some(Error::unavailable("a", "b", "c"))), 200.0);
        assert_eq!(value(&second, "pg2ch_records_sent_total"), Some(7.0));
        assert_eq!(value(&second, "pg2ch_last_success_timestamp_seconds"), Some(100.0));
        assert_eq!(value(&second, "pg2ch_last_run_timestamp_seconds"), Some(200.0));
        assert_eq!(value(&second, "pg2ch_run_exit_code"), Some(69.0));
        assert_eq!(value(&second, "pg2ch_run_complete"), Some(0.0));
        assert_eq!(value(&second, "pg2ch_failed_runs_total"), Some(1.0));
    }

    #[test]
    fn a_table_that_did_not_run_keeps_its_lines_and_another_programs_are_dropped() {
        let before = "pg2ch_runs_total{source=\"other\"} 3\nnode_load1 0.5\nelse{a=\"b\"} 1\n";
        let text = render(before, &run(1, None), 1.0);
        assert!(text.contains("pg2ch_runs_total{source=\"other\"} 3\n"), "{text}");
        assert!(!text.contains("node_load1") && !text.contains("else{"), "{text}");
    }

    #[test]
    fn a_strange_name_is_escaped() {
        let text = render("", &run(1, None), 1.0);
        assert!(text.contains(r#"source="public.\"a \\ \"\"b\"","#), "{text}");
    }
}

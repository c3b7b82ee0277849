//! Puts the effective configuration together: flags over environment over file over defaults.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::environment::{Environment, LOG_FORMAT};
use super::origin::{Explained, Given, Origin};
use super::reader::{Reader, show_duration};
use super::{BatchConfig, Config, MetricsConfig, RetryConfig, Timeouts, file, kafka, notify, servers, tables};
use crate::error::{Error, Result};

/// What the command line says about the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// `--table NAME`, as often as given: only these tables, by their source's name with or without the schema.
    pub tables: Vec<String>,
    /// `--jobs N`.
    pub jobs: Option<u64>,
}

/// How many tables may be moved at a time: each takes some ten connections.
pub const JOBS: RangeInclusive<u64> = 1..=64;

/// The shortest time limit.
const SHORTEST: Duration = Duration::from_millis(1);

/// Loads the effective configuration. No connection is made; files that it names are opened.
///
/// # Errors
/// 78 if the file cannot be read or any value is refused; 64 if a `--table` is not configured. No error holds a secret.
pub fn load(flags: &Flags) -> Result<Config> {
    explain(flags).map(|explained| explained.config)
}

/// Loads the effective configuration as [`load`] does, with the origin of each value.
///
/// # Errors
/// As [`load`].
pub fn explain(flags: &Flags) -> Result<Explained> {
    let searched: Vec<PathBuf> = file::SEARCHED.iter().map(PathBuf::from).collect();
    explain_in(flags, Environment::of_this_process(), &searched)
}

/// [`explain`] with surroundings of the caller's choice.
pub(super) fn explain_in(flags: &Flags, environment: Environment, searched: &[PathBuf]) -> Result<Explained> {
    environment.warn_about_slips();
    let (file, source) = file::find(flags.config.as_deref(), &environment, searched)?.unzip();
    let mut reader = Reader { file: file.unwrap_or_default(), environment, ..Reader::default() };
    let (postgres, connect) = servers::postgres(&mut reader)?;
    let kafka = kafka::read(&mut reader)?;
    let clickhouse = servers::clickhouse(&mut reader)?;
    let batch = batch(&mut reader)?;
    let timeouts = timeouts(&mut reader, connect)?;
    let retry = retry(&mut reader)?;
    let metrics = metrics(&mut reader, flags)?;
    let notify = notify::read(&mut reader)?;
    let jobs = jobs(&mut reader, flags)?;
    let log_json = log_json(&mut reader)?;
    let tables = tables::read(&mut reader, &flags.tables)?;
    if let Some(table) = tables.iter().find(|table| !kafka.transactional && table.outbox.has_order()) {
        return Err(Error::config(
            format!("cannot send the rows of {} in their order", table.source),
            "`transactional = false` in [kafka]: what is sent twice after a crash, or comes late, is out of order",
            "set `transactional = true` in [kafka], or remove `order_by` and `message_key` from [[table]]",
        ));
    }
    warn_about_permissions(&reader);
    Ok(Explained {
        config: Config { postgres, kafka, clickhouse, batch, timeouts, retry, metrics, notify, log_json, jobs, tables },
        file: source.map(|source| (reader.file.path, source)),
        settings: reader.settings,
    })
}

fn batch(reader: &mut Reader) -> Result<BatchConfig> {
    const ROWS: RangeInclusive<u64> = 1..=1_000_000;
    const BYTES: RangeInclusive<u64> = (64 << 10)..=(1 << 30);
    let mut section = reader.section("batch");
    Ok(BatchConfig {
        rows: size(section.whole("rows", ROWS, 30_000)?),
        bytes: size(section.bytes("bytes", BYTES, 4 << 20)?),
        insert_rows: size(section.whole("insert_rows", ROWS, 65_536)?),
        insert_bytes: size(section.bytes("insert_bytes", BYTES, 8 << 20)?),
    })
}

/// The ranges above fit any machine's word.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn timeouts(reader: &mut Reader, from_url: Option<Given<Duration>>) -> Result<Timeouts> {
    let mut section = reader.section("timeouts");
    let mut limit = |key, default| section.duration(key, SHORTEST, default);
    let connect = limit("connect", Duration::from_secs(5))?;
    let timeouts = Timeouts {
        connect: connect.value,
        postgres: limit("postgres", Duration::from_secs(60))?.value,
        row_lock: limit("row_lock", Duration::from_millis(500))?.value,
        kafka: limit("kafka", Duration::from_secs(30))?.value,
        stable: limit("stable", Duration::from_secs(30))?.value,
        clickhouse: limit("clickhouse", Duration::from_secs(60))?.value,
    };
    // The URL's connect_timeout counts where `connect` is not set.
    match from_url {
        Some(given) if connect.origin == Origin::Default => {
            section.note_instead("connect", show_duration(given.value), given.origin);
            Ok(Timeouts { connect: given.value, ..timeouts })
        }
        _ => Ok(timeouts),
    }
}

fn retry(reader: &mut Reader) -> Result<RetryConfig> {
    let mut section = reader.section("retry");
    let attempts = section.whole("attempts", 1..=1000, 5)?;
    let pause = section.duration("pause", Duration::ZERO, Duration::from_millis(200))?;
    let max_pause = section.duration("max_pause", Duration::ZERO, Duration::from_secs(5))?;
    if max_pause.value < pause.value {
        let (longest, first) = (show_duration(max_pause.value), show_duration(pause.value));
        let wrong = if max_pause.origin == Origin::Default { pause } else { max_pause };
        let why = format!("`max_pause` ({longest}) is below `pause` ({first})");
        return Err(wrong.refuse(why, "make `max_pause` at least as long as `pause`"));
    }
    Ok(RetryConfig {
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        pause: pause.value,
        max_pause: max_pause.value,
        give_up: reader.section("timeouts").duration("give_up", SHORTEST, Duration::from_secs(60))?.value,
    })
}

fn metrics(reader: &mut Reader, flags: &Flags) -> Result<MetricsConfig> {
    let textfile = reader.section("metrics").path("textfile")?;
    // A FIFO would keep a run waiting at its end.
    if let Some(given) = &textfile
        && given.value.metadata().is_ok_and(|found| !found.is_file())
    {
        let why = format!("{} is not a regular file", given.value.display());
        return Err(given.refuse(why, "name a file that pg2ch may replace, or one that does not exist yet"));
    }
    let file = &reader.file.path;
    let origin = || file.canonicalize().unwrap_or_else(|_| file.clone());
    Ok(MetricsConfig {
        origin: textfile.as_ref().map(|_| origin()).unwrap_or_default(),
        textfile: textfile.map(|given| given.value),
        has_all_tables: flags.tables.is_empty(),
    })
}

fn jobs(reader: &mut Reader, flags: &Flags) -> Result<usize> {
    let mut section = reader.section("run");
    let in_file = section.whole("jobs", JOBS, 1)?;
    if let Some(jobs) = flags.jobs {
        section.note_instead("jobs", jobs.to_string(), Origin::Flag("--jobs"));
    }
    Ok(size(flags.jobs.unwrap_or(in_file)))
}

fn log_json(reader: &mut Reader) -> Result<bool> {
    let mut section = reader.section("run");
    let given = section.text_or("log_format", LOG_FORMAT, "text")?;
    let is_json = match given.value.as_str() {
        "text" => false,
        "json" => true,
        other => return Err(given.refuse(format!("{other:?} is neither of the two"), "write \"text\" or \"json\"")),
    };
    section.note("log_format", &given.value, &given.origin);
    Ok(is_json)
}

fn warn_about_permissions(reader: &Reader) {
    if reader.file.is_world_readable && reader.file_holds_secret {
        log::warn!(
            "the configuration file {} holds a password and may be read by every user of this machine: `chmod 640` it, or move \
             the password to a `password_file`",
            reader.file.path.display()
        );
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;

//! Puts the effective configuration together: flags over environment over file over defaults.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::environment::{Environment, LOG_FORMAT};
use super::origin::{Explained, Origin};
use super::reader::{Given, Reader, show_duration, whole};
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
    let mut reader = Reader { file, environment, settings: Vec::new(), file_holds_secret: false };
    let (postgres, connect) = servers::postgres(&mut reader)?;
    let kafka = kafka::read(&mut reader)?;
    let clickhouse = servers::clickhouse(&mut reader)?;
    let batch = batch(&mut reader)?;
    let timeouts = timeouts(&mut reader, connect)?;
    let retry = retry(&mut reader)?;
    let metrics = MetricsConfig { textfile: reader.file_to_replace("metrics", "textfile")? };
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
        file: reader.file.map(|file| file.path).zip(source),
        settings: reader.settings,
    })
}

fn batch(reader: &mut Reader) -> Result<BatchConfig> {
    const ROWS: RangeInclusive<u64> = 1..=1_000_000;
    const BYTES: RangeInclusive<u64> = (64 << 10)..=(1 << 30);
    Ok(BatchConfig {
        rows: size(reader.whole("batch", "rows", ROWS, 30_000)?),
        bytes: size(reader.bytes("batch", "bytes", BYTES, 4 << 20)?),
        insert_rows: size(reader.whole("batch", "insert_rows", ROWS, 65_536)?),
        insert_bytes: size(reader.bytes("batch", "insert_bytes", BYTES, 8 << 20)?),
    })
}

/// The ranges above fit any machine's word.
fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn jobs(reader: &mut Reader, flags: &Flags) -> Result<usize> {
    let in_file = whole("run.jobs", reader.entry("run", "jobs"), JOBS, 1)?;
    let (jobs, origin) = flags.jobs.map_or(in_file, |jobs| (jobs, Origin::Flag("--jobs")));
    reader.note("run.jobs", jobs.to_string(), &origin);
    Ok(size(jobs))
}

fn log_json(reader: &mut Reader) -> Result<bool> {
    let given = reader.given_text("run", "log_format", Some(LOG_FORMAT))?;
    let given = given.unwrap_or(Given { value: "text".to_owned(), origin: Origin::Default });
    let json = match given.value.as_str() {
        "text" => false,
        "json" => true,
        other => {
            let why = format!("{other:?} is neither of the two");
            return Err(super::reader::refuse("run.log_format", &given.origin, why, "write \"text\" or \"json\""));
        }
    };
    reader.note("run.log_format", given.value, &given.origin);
    Ok(json)
}

fn timeouts(reader: &mut Reader, from_url: Option<Given<Duration>>) -> Result<Timeouts> {
    let mut limit = |key, default| reader.duration("timeouts", key, Duration::from_millis(1), default);
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
            if let Some(setting) = reader.settings.iter_mut().find(|setting| setting.key == "timeouts.connect") {
                setting.value = show_duration(given.value);
                setting.origin = given.origin;
            }
            Ok(Timeouts { connect: given.value, ..timeouts })
        }
        _ => Ok(timeouts),
    }
}

fn retry(reader: &mut Reader) -> Result<RetryConfig> {
    let attempts = reader.whole("retry", "attempts", 1..=1000, 5)?;
    let pause = reader.duration("retry", "pause", Duration::ZERO, Duration::from_millis(200))?;
    let max_pause = reader.duration("retry", "max_pause", Duration::ZERO, Duration::from_secs(5))?;
    if max_pause.value < pause.value {
        let (place, origin) = match &max_pause.origin {
            Origin::Default => ("retry.pause", &pause.origin),
            origin => ("retry.max_pause", origin),
        };
        let why = format!(
            "`max_pause` ({}) is below `pause` ({})",
            show_duration(max_pause.value),
            show_duration(pause.value)
        );
        return Err(super::reader::refuse(place, origin, why, "make `max_pause` at least as long as `pause`"));
    }
    Ok(RetryConfig {
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        pause: pause.value,
        max_pause: max_pause.value,
        give_up: reader.duration("timeouts", "give_up", Duration::from_millis(1), Duration::from_secs(60))?.value,
    })
}

fn warn_about_permissions(reader: &Reader) {
    if let Some(file) = &reader.file
        && file.is_world_readable
        && reader.file_holds_secret
    {
        log::warn!(
            "the configuration file {} holds a password and may be read by every user of this machine: `chmod 640` it, or move \
             the password to a `password_file`",
            file.path.display()
        );
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;

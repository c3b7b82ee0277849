//! Log lines and errors on standard error: with time and level for people, with priorities for systemd's journal, or as JSON for a
//! collector (`PG2CH_LOG_FORMAT`, `log_format` in `[run]`).

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use env_logger::{Builder, Target, WriteStyle};
use log::Level;

use crate::error::Error;
use crate::run_id::RunId;
use crate::terminal;

/// Starts logging to standard error.
///
/// `RUST_LOG` counts unless the command line says `--quiet` or `-v`. Other crates' lines below warnings are shown only if
/// `RUST_LOG` asks for them: they may hold what was sent to a server. librdkafka's hold nothing of the kind.
pub fn start(verbosity: Verbosity) {
    let mut builder = Builder::new();
    match (verbosity, std::env::var("RUST_LOG")) {
        (Verbosity::Quiet, _) => builder.parse_filters("error"),
        (Verbosity::Verbose, _) => builder.parse_filters("warn,pg2ch=info,librdkafka=info"),
        (Verbosity::Debug, _) => builder.parse_filters("warn,pg2ch=debug,librdkafka=debug"),
        (Verbosity::Normal, Ok(filters)) => builder.parse_filters(&filters),
        (Verbosity::Normal, Err(_)) => builder.parse_filters("warn"),
    };
    if terminal::is_watched() {
        // The logger knows standard error's habits only where it writes there itself.
        let has_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        builder.write_style(if has_colour { WriteStyle::Always } else { WriteStyle::Never });
        builder.target(Target::Pipe(Box::new(terminal::Above)));
    } else {
        builder.target(Target::Stderr);
    }
    // Asked anew for each line: the configuration, whose loading has something to say already, may set another form.
    builder.format(|out, record| {
        let (level, text) = (record.level(), record.args().to_string());
        match form() {
            Form::Json => write_json(out, level, &text, None),
            Form::Journal => write_for_journal(out, level, &text),
            Form::Text => {
                let (time, style) = (out.timestamp_millis(), out.default_level_style(level));
                writeln!(out, "{time} {style}{level:<5}{style:#} {} {text}", RunId::current())
            }
        }
    });
    // Only a second start can fail, and the first logger stays in place.
    let _ = builder.try_init();
}

/// What log lines are to look like from now on.
pub fn use_json(json: bool) {
    JSON.store(json, Ordering::Relaxed);
}

/// Prints an error on standard error: `error: what: why`, and its hint on a line of its own.
pub fn print_error(error: &Error) {
    print(Level::Error, &format!("error: {error}"), Some(error));
}

/// Prints a line for a person on standard error.
pub fn print_line(text: &str) {
    print(Level::Info, text, None);
}

fn print(level: Level, text: &str, error: Option<&Error>) {
    let mut out = Vec::new();
    // Memory takes everything.
    let _ = match form() {
        Form::Json => write_json(&mut out, level, text, error),
        Form::Journal => write_for_journal(&mut out, level, text),
        Form::Text => writeln!(out, "{text}"),
    };
    terminal::print(&out);
}

/// Whether the configuration or the environment asks for JSON.
static JSON: AtomicBool = AtomicBool::new(false);

enum Form {
    Text,
    Journal,
    Json,
}

fn form() -> Form {
    match JSON.load(Ordering::Relaxed) {
        true => Form::Json,
        false if goes_to_journal() => Form::Journal,
        false => Form::Text,
    }
}

/// A line for a collector; an error also in its parts.
fn write_json(out: &mut impl Write, level: Level, text: &str, error: Option<&Error>) -> std::io::Result<()> {
    let mut line = serde_json::json!({
        "time": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        "level": level.as_str().to_lowercase(),
        "run": RunId::current().to_string(),
        "message": text,
    });
    if let Some(error) = error {
        line["message"] = format!("{}: {}", error.what(), error.why()).into();
        line["error"] = serde_json::json!(error);
        line["exit_code"] = error.exit_code().code().into();
    }
    writeln!(out, "{line}")
}

/// Whether standard error is the stream that systemd connected to the journal, and not one that was redirected since.
fn goes_to_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map(File::from).and_then(|file| file.metadata());
    stderr.is_ok_and(|metadata| is_stream(&stream, metadata.dev(), metadata.ino()))
}

fn is_stream(stream: &str, device: u64, inode: u64) -> bool {
    stream.split_once(':').is_some_and(|(d, i)| d.parse() == Ok(device) && i.parse() == Ok(inode))
}

/// Each line with its priority in front, as sd-daemon(3) has it; the journal adds the time.
fn write_for_journal(out: &mut impl Write, level: Level, text: &str) -> std::io::Result<()> {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    for line in text.lines() {
        writeln!(out, "<{priority}>{line}")?;
    }
    Ok(())
}

/// How much goes to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Errors only: `--quiet`.
    Quiet,
    /// Warnings too, and on a terminal the summary of a run.
    Normal,
    /// What is done: `-v`.
    Verbose,
    /// Every step: `-vv`.
    Debug,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_for_the_journal_carries_its_priority() {
        let mut out = Vec::new();
        write_for_journal(&mut out, Level::Error, "error: a: b\nhint: c").unwrap();
        write_for_journal(&mut out, Level::Info, "done").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "<3>error: a: b\n<3>hint: c\n<6>done\n");
    }

    #[test]
    fn the_journal_is_recognised_by_device_and_inode() {
        assert!(is_stream("9:1234", 9, 1234));
        for other in ["9:1235", "8:1234", "1234", "", "9:1234:5"] {
            assert!(!is_stream(other, 9, 1234), "{other}");
        }
    }
}

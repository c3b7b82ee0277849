//! What the arguments mean: their values within their ranges, and no two that contradict each other.

use std::time::Duration;

use super::raw::{
    RawArguments, RawCommand, RawCompletions, RawConfig, RawConfigAction, RawDeadLetters, RawDeadLettersAction,
    RawPrune, RawVerify,
};
use super::{Command, Invocation, usage};
use crate::commands::completions::Shell;
use crate::commands::init::StartAt;
use crate::commands::{dead_letters, prune, verify};
use crate::config::{self, Flags, HELD_FOR};
use crate::error::Result;
use crate::logging::Verbosity;
use crate::ports::limits::Limits;
use crate::report::Legs;

/// The shortest and the longest pause between the runs of `--every`, and the longest wait for the lock.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(7 * 24 * 3600));

pub(super) fn validate(raw: RawArguments) -> Result<Invocation> {
    let limits = Limits {
        max_rows: raw.max_rows.as_deref().map(|text| count("--max-rows", text)).transpose()?,
        max_seconds: raw.max_seconds.as_deref().map(|text| count("--max-seconds", text)).transpose()?,
        wait_lock: raw.wait_lock.as_deref().map_or(Ok(Duration::ZERO), |text| interval("--wait-lock", text))?,
    };
    let every = raw.every.as_deref().map(|text| interval("--every", text)).transpose()?;
    let verbosity = match (raw.quiet, raw.verbose) {
        (true, 0) => Verbosity::Quiet,
        (true, _) => return Err(usage("--quiet and -v contradict each other", "choose one of the two")),
        (false, 0) => Verbosity::Normal,
        (false, 1) => Verbosity::Verbose,
        (false, _) => Verbosity::Debug,
    };
    Ok(Invocation {
        command: command(raw.command, raw.once, every)?,
        flags: Flags { config: raw.config, tables: raw.table, jobs: raw.jobs.as_deref().map(jobs).transpose()? },
        limits,
        json: raw.json,
        verbosity,
    })
}

fn command(raw: Option<RawCommand>, once: bool, every: Option<Duration>) -> Result<Command> {
    if once && every.is_some() {
        return Err(usage("--once and --every contradict each other", "choose one of the two"));
    }
    let legs = match raw {
        None if once || every.is_some() => Legs::Both,
        None => {
            return Err(usage("no command is given", "type `pg2ch --once` for one run, or see `pg2ch --help`"));
        }
        Some(RawCommand::Produce(_)) => Legs::Produce,
        Some(RawCommand::Consume(_)) => Legs::Consume,
        Some(RawCommand::Init(init)) => {
            let start = match (init.start_at_beginning, init.start_at_end) {
                (false, false) => None,
                (true, false) => Some(StartAt::Beginning),
                (false, true) => Some(StartAt::End),
                (true, true) => {
                    return Err(usage(
                        "--start-at-beginning and --start-at-end contradict each other",
                        "choose one of the two",
                    ));
                }
            };
            return Ok(Command::Init { print: init.print, start });
        }
        Some(RawCommand::Check(_)) => return Ok(Command::Check),
        Some(RawCommand::Status(_)) => return Ok(Command::Status),
        Some(RawCommand::Verify(RawVerify { repair, confirm, deep })) => {
            if confirm && !repair {
                return Err(usage("--confirm requires --repair", "type `pg2ch verify --repair --confirm`"));
            }
            return Ok(Command::Verify(verify::Options { deep, repair, confirm }));
        }
        Some(RawCommand::Prune(RawPrune { older_than, by, held_for, confirm, force })) => {
            let older_than = age("--older-than", &older_than)?;
            let held_for = held_for.map_or(Ok(HELD_FOR), |text| age("--held-for", &text))?;
            return Ok(Command::Prune(prune::Options { older_than, by, held_for, confirm, force }));
        }
        Some(RawCommand::DeadLetters(RawDeadLetters { action: None })) => return Ok(Command::DeadLetters),
        Some(RawCommand::DeadLetters(RawDeadLetters { action: Some(RawDeadLettersAction::Replay(_)) })) => {
            return Ok(Command::ReplayDeadLetters);
        }
        Some(RawCommand::DeadLetters(RawDeadLetters { action: Some(RawDeadLettersAction::Drop(drop)) })) => {
            let records = drop.records.iter().map(|text| named(text)).collect::<Result<_>>()?;
            return Ok(Command::DropDeadLetters(dead_letters::Choice { records, confirm: drop.confirm }));
        }
        Some(RawCommand::Config(RawConfig { action: Some(RawConfigAction::Show(_)) })) => {
            return Ok(Command::ShowConfig);
        }
        Some(RawCommand::Config(RawConfig { action: Some(RawConfigAction::Generate(_)) })) => {
            return Ok(Command::GenerateConfig);
        }
        Some(RawCommand::Completions(RawCompletions { shell })) => {
            let known = Shell::ALL.into_iter().find(|known| known.name() == shell);
            let why = format!("{shell:?} is not a shell that pg2ch has completions for");
            return known.map(Command::Completions).ok_or_else(|| usage(&why, "name bash, zsh or fish"));
        }
        Some(RawCommand::Man(_)) => return Ok(Command::Man),
        Some(RawCommand::Version(_) | RawCommand::Config(RawConfig { action: None })) => {
            return Err(usage("`config` needs one more word", "type `pg2ch config show` or `pg2ch config generate`"));
        }
    };
    Ok(Command::Run { legs, every })
}

/// `0:17`, a record's partition and offset, or `0:17@2026-11-22T18:00:00.123Z` with its time.
fn named(text: &str) -> Result<dead_letters::Named> {
    let (place, time) = text.split_once('@').map_or((text, None), |(place, time)| (place, Some(time.to_owned())));
    let parsed = place.split_once(':').and_then(|(partition, offset)| {
        Some(dead_letters::Named { partition: partition.parse().ok()?, offset: offset.parse().ok()?, time })
    });
    parsed.ok_or_else(|| {
        usage(&format!("{text:?} is no partition and offset"), "write them as in `pg2ch dead-letters drop 0:17`")
    })
}

fn count(option: &str, text: &str) -> Result<u64> {
    match text.parse() {
        Ok(number @ 1..) => Ok(number),
        _ => Err(usage(&format!("{option} {text:?} is not a whole number of at least 1"), "leave it out for no limit")),
    }
}

fn jobs(text: &str) -> Result<u64> {
    text.parse().ok().filter(|jobs| config::JOBS.contains(jobs)).ok_or_else(|| {
        let (least, most) = config::JOBS.into_inner();
        usage(&format!("--jobs {text:?} is not a whole number from {least} to {most}"), "such as `--jobs 4`")
    })
}

/// `7d`, at most a century.
fn age(option: &str, text: &str) -> Result<Duration> {
    match config::duration(text) {
        Ok(age) if age <= Duration::from_secs(100 * 366 * 24 * 3600) => Ok(age),
        Ok(_) => Err(usage(&format!("{option} {text:?} is more than 100 years"), &format!("such as `{option} 7d`"))),
        Err(why) => Err(usage(&format!("{option} {text:?} {why}"), &format!("write its unit, such as `{option} 7d`"))),
    }
}

fn interval(option: &str, text: &str) -> Result<Duration> {
    let (shortest, longest) = INTERVALS;
    match config::duration(text) {
        Ok(duration) if (shortest..=longest).contains(&duration) => Ok(duration),
        Ok(_) => Err(usage(&format!("{option} {text:?} is not from 1s to 7days"), &format!("such as `{option} 30s`"))),
        Err(why) => Err(usage(&format!("{option} {text:?} {why}"), &format!("write its unit, such as `{option} 30s`"))),
    }
}

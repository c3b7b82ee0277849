//! The command line: what may be written ([`RawArguments`]), and what it means once it is checked ([`Invocation`]).
//!
//! argh takes an option only in front of the subcommand that follows it. pg2ch's common options may stand anywhere, so
//! they are moved to the front before argh sees them.

mod accepts;
mod checked;
pub mod help;
mod raw;

use std::ffi::OsString;
use std::time::Duration;

use argh::{ArgsInfo as _, CommandInfoWithArgs, EarlyExit, FlagInfoKind, FromArgs as _};

pub use accepts::{accepts, common_options};
pub use raw::RawArguments;
use raw::{RawCommand, RawConfig, RawConfigAction, RawDeadLetters, RawDeadLettersAction};

use crate::commands::completions::Shell;
use crate::commands::init::StartAt;
use crate::commands::{dead_letters, prune, verify};
use crate::config::{self, Flags};
use crate::error::{Error, ExitCode, Result};
use crate::logging::Verbosity;
use crate::ports::limits::Limits;
use crate::report::Legs;

/// What pg2ch is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Move rows: `--once`, `--every`, `produce`, `consume`.
    Run {
        /// Which legs.
        legs: Legs,
        /// The pause before the next run; none for a single one. 1 second to 7 days.
        every: Option<Duration>,
    },
    /// Create what is missing.
    Init {
        /// Print it instead.
        print: bool,
        /// Where copying is to begin, if that is to be set.
        start: Option<StartAt>,
    },
    /// Look for what would go wrong.
    Check,
    /// Show what remains to be moved, and what the last runs did.
    Status,
    /// Compare PostgreSQL with ClickHouse.
    Verify(verify::Options),
    /// Delete old rows that the target holds.
    Prune(prune::Options),
    /// List the dead letters.
    DeadLetters,
    /// Insert the dead letters into the target again.
    ReplayDeadLetters,
    /// Dismiss dead letters.
    DropDeadLetters(dead_letters::Choice),
    /// Show the effective configuration.
    ShowConfig,
    /// Print an example configuration.
    GenerateConfig,
    /// Print the completions of a shell.
    Completions(Shell),
    /// Print the manual page.
    Man,
}

/// A command line that is understood.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// What it says about the configuration.
    pub flags: Flags,
    /// How much one run may do.
    pub limits: Limits,
    /// Whether the result is printed as JSON.
    pub json: bool,
    /// How much goes to standard error.
    pub verbosity: Verbosity,
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// To do something.
    Invocation(Box<Invocation>),
    /// To print this text and be done: help, or the version.
    Text(String),
}

/// Whether the result is wanted as JSON, for when the rest of the command line cannot be understood.
#[must_use]
pub fn wants_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json")
}

/// What may be written: commands, options and their descriptions.
#[must_use]
pub fn definitions() -> CommandInfoWithArgs {
    RawArguments::get_args_info()
}

/// Understands the arguments, without the program's name.
///
/// # Errors
/// 64 if they make no sense.
pub fn parse(arguments: &[OsString]) -> Result<Parsed> {
    let arguments: Option<Vec<&str>> = arguments.iter().map(|argument| argument.to_str()).collect();
    let arguments = arguments.ok_or_else(|| usage("an argument is not UTF-8", "write it in UTF-8"))?;
    let (common, rest) = hoist(&arguments)?;
    if rest.iter().take_while(|word| *word != "--").any(|word| matches!(word.as_str(), "-h" | "--help")) {
        return help_of(&rest.iter().map(String::as_str).filter(|word| !word.starts_with('-')).collect::<Vec<_>>());
    }
    // argh knows no command of this name.
    if let [help, words @ ..] = &rest[..]
        && help == "help"
    {
        return match common.first() {
            Some(option) => Err(not_taken("help", option)),
            None => help_of(&words.iter().map(String::as_str).collect::<Vec<_>>()),
        };
    }
    let all: Vec<&str> = common.iter().chain(&rest).map(String::as_str).collect();
    match RawArguments::from_args(&["pg2ch"], &all) {
        Ok(raw) if raw.version => Ok(Parsed::Text(VERSION.to_owned())),
        Ok(raw) => understood(raw),
        Err(EarlyExit { output, status: Ok(()) }) => Ok(Parsed::Text(output)),
        Err(EarlyExit { output, status: Err(()) }) => Err(usage(&presentable(&output), &hint_for(&rest))),
    }
}

const VERSION: &str = concat!("pg2ch ", env!("CARGO_PKG_VERSION"), "\n");

const SEE_HELP: &str = "see `pg2ch --help`";

/// The help of pg2ch, or of the command that these words name.
fn help_of(words: &[&str]) -> Result<Parsed> {
    // What stands behind a command is an argument of its.
    let known = (0..=words.len()).rev().find_map(|count| help::help(&words[..count]).map(|text| (count, text)));
    match known {
        Some((count, text)) if count > 0 || words.is_empty() => Ok(Parsed::Text(text)),
        _ => Err(usage(&presentable(&format!("there is no command {}", words.join(" "))), &hint_for(&owned(words)))),
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn understood(raw: RawArguments) -> Result<Parsed> {
    let name = name_of(raw.command.as_ref());
    if let Some(option) = given(&raw).into_iter().find(|option| !accepts(name, option)) {
        return Err(not_taken(name, option));
    }
    match raw.command {
        Some(RawCommand::Version(_)) => Ok(Parsed::Text(VERSION.to_owned())),
        _ => Ok(Parsed::Invocation(Box::new(checked::validate(raw)?))),
    }
}

/// The common options that were given.
fn given(raw: &RawArguments) -> Vec<&'static str> {
    let given = [
        ("--once", raw.once),
        ("--every", raw.every.is_some()),
        ("--config", raw.config.is_some()),
        ("--table", !raw.table.is_empty()),
        ("--jobs", raw.jobs.is_some()),
        ("--max-rows", raw.max_rows.is_some()),
        ("--max-seconds", raw.max_seconds.is_some()),
        ("--wait-lock", raw.wait_lock.is_some()),
        ("--json", raw.json),
        ("--quiet", raw.quiet),
        ("--verbose", raw.verbose > 0),
    ];
    given.into_iter().filter(|(_, is_given)| *is_given).map(|(option, _)| option).collect()
}

fn not_taken(command: &str, option: &str) -> Error {
    let takers = accepts::accepting(option).join(", ");
    let hint = match option {
        "--once" | "--every" => "leave it out: it is for a run, alone or with produce or consume".to_owned(),
        _ => format!("leave it out; it is for a run and for {takers}"),
    };
    usage(&format!("`pg2ch {command}` does not take {option}"), &hint)
}

fn name_of(command: Option<&RawCommand>) -> &'static str {
    match command {
        None => "",
        Some(RawCommand::Produce(_)) => "produce",
        Some(RawCommand::Consume(_)) => "consume",
        Some(RawCommand::Init(_)) => "init",
        Some(RawCommand::Check(_)) => "check",
        Some(RawCommand::Status(_)) => "status",
        Some(RawCommand::Verify(_)) => "verify",
        Some(RawCommand::Prune(_)) => "prune",
        Some(RawCommand::DeadLetters(RawDeadLetters { action: None })) => "dead-letters",
        Some(RawCommand::DeadLetters(RawDeadLetters { action: Some(RawDeadLettersAction::Replay(_)) })) => {
            "dead-letters replay"
        }
        Some(RawCommand::DeadLetters(RawDeadLetters { action: Some(RawDeadLettersAction::Drop(_)) })) => {
            "dead-letters drop"
        }
        Some(RawCommand::Config(RawConfig { action: None })) => "config",
        Some(RawCommand::Config(RawConfig { action: Some(RawConfigAction::Show(_)) })) => "config show",
        Some(RawCommand::Config(RawConfig { action: Some(RawConfigAction::Generate(_)) })) => "config generate",
        Some(RawCommand::Completions(_)) => "completions",
        Some(RawCommand::Man(_)) => "man",
        Some(RawCommand::Version(_)) => "version",
    }
}

fn usage(why: &str, hint: &str) -> Error {
    Error::new(ExitCode::Usage, "cannot understand the command line", why, hint)
}

/// argh's message on one line, without a word that may be a URL with a password in it.
fn presentable(message: &str) -> String {
    let words =
        message.split_whitespace().map(|word| if word.contains("://") || word.contains('@') { "****" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

/// What was meant by the first unknown word, if one comes close.
fn hint_for(rest: &[String]) -> String {
    let mut known = vec!["--help", "help"];
    let mut commands = vec![RawArguments::get_args_info()];
    while let Some(command) = commands.pop() {
        known.extend(command.flags.iter().map(|flag| flag.long));
        known.extend(command.commands.iter().map(|sub| sub.name));
        commands.extend(command.commands.into_iter().map(|sub| sub.command));
    }
    let stranger = rest.iter().find(|word| !known.contains(&word.as_str()));
    match stranger.and_then(|word| config::nearest(word, known)) {
        Some(near) => format!("did you mean `{near}`? {SEE_HELP}"),
        None => SEE_HELP.to_owned(),
    }
}

/// Takes the common options out of the rest, splits `--option=value`, and spells `-vv` as `-v -v`.
fn hoist(arguments: &[&str]) -> Result<(Vec<String>, Vec<String>)> {
    let common = RawArguments::get_args_info().flags;
    let (mut front, mut rest) = (Vec::new(), Vec::new());
    let mut arguments = arguments.iter();
    while let Some(&argument) = arguments.next() {
        if argument == "--" {
            rest.push(argument.to_owned());
            rest.extend(arguments.by_ref().map(|a| (*a).to_owned()));
            break;
        }
        if argument.len() > 2 && argument.strip_prefix('-').is_some_and(|letters| letters.chars().all(|c| c == 'v')) {
            front.extend((1..argument.len()).map(|_| "-v".to_owned()));
            continue;
        }
        let (name, joined) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value)),
            _ => (argument, None),
        };
        let is_help = matches!(name, "-h" | "--help");
        let flag = common.iter().find(|flag| !is_help && (flag.long == name || is_short(name, flag.short)));
        match flag.map(|flag| &flag.kind) {
            Some(FlagInfoKind::Option { .. }) => {
                let value = joined.or_else(|| arguments.next().copied());
                let value = value.ok_or_else(|| usage(&format!("{name} needs a value"), SEE_HELP))?;
                front.extend([name.to_owned(), value.to_owned()]);
            }
            Some(FlagInfoKind::Switch) if joined.is_some() => {
                return Err(usage(&format!("{name} takes no value"), SEE_HELP));
            }
            Some(FlagInfoKind::Switch) => front.push(name.to_owned()),
            None => rest.extend([Some(name), joined].into_iter().flatten().map(str::to_owned)),
        }
    }
    Ok((front, rest))
}

fn is_short(name: &str, short: Option<char>) -> bool {
    short.is_some_and(|short| name.strip_prefix('-').is_some_and(|rest| rest.chars().eq([short])))
}

#[cfg(test)]
mod tests;

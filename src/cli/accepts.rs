//! Which of the common options each command takes. What it does not take is refused: an option without effect would pass for
//! one that has been obeyed.

use argh::{CommandInfoWithArgs, FlagInfo};

use super::definitions;

const RUN: &[&str] = &[
    "--once",
    "--every",
    "--config",
    "--table",
    "--jobs",
    "--max-rows",
    "--max-seconds",
    "--wait-lock",
    "--json",
    "--quiet",
    "--verbose",
];

/// The common options by command, `""` being a run without one. `--help` goes with each, `--version` with none.
const ACCEPTED: &[(&str, &[&str])] = &[
    ("", RUN),
    ("produce", RUN),
    ("consume", RUN),
    ("init", &["--config", "--table", "--json", "--quiet", "--verbose"]),
    ("check", &["--config", "--table", "--json", "--quiet", "--verbose"]),
    // Without its result nothing would be left of it.
    ("status", &["--config", "--table", "--json", "--verbose"]),
    ("verify", &["--config", "--table", "--max-seconds", "--wait-lock", "--json", "--quiet", "--verbose"]),
    ("prune", &["--config", "--table", "--max-rows", "--max-seconds", "--json", "--quiet", "--verbose"]),
    ("dead-letters", &["--config", "--table", "--json", "--quiet", "--verbose"]),
    (
        "dead-letters replay",
        &["--config", "--table", "--max-rows", "--max-seconds", "--wait-lock", "--json", "--quiet", "--verbose"],
    ),
    ("dead-letters drop", &["--config", "--table", "--wait-lock", "--json", "--quiet", "--verbose"]),
    ("config show", &["--config", "--table", "--jobs", "--json", "--verbose"]),
    // These print one text, whatever else there is.
    ("config", &[]),
    ("config generate", &[]),
    ("completions", &[]),
    ("man", &[]),
    ("version", &[]),
];

/// Whether a command, `dead-letters replay`, takes a common option, `--json`.
#[must_use]
pub fn accepts(command: &str, option: &str) -> bool {
    ACCEPTED.iter().any(|(name, options)| *name == command && options.contains(&option))
}

/// The commands that take a common option, for a hint.
pub(super) fn accepting(option: &str) -> Vec<&'static str> {
    ACCEPTED
        .iter()
        .filter(|(name, options)| !name.is_empty() && options.contains(&option))
        .map(|(name, _)| *name)
        .collect()
}

/// The common options that a command takes, as they are defined.
#[must_use]
pub fn common_options(command: &str) -> Vec<&'static FlagInfo<'static>> {
    definitions().flags.iter().filter(|flag| accepts(command, flag.long)).collect()
}

/// The command of these words, `dead-letters replay`, if there is one.
#[must_use]
pub fn find(words: &[&str]) -> Option<CommandInfoWithArgs> {
    let mut found = definitions();
    for word in words {
        found = found.commands.into_iter().find(|sub| sub.name == *word)?.command;
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_says_which_options_it_takes_and_every_option_is_taken_by_one() {
        let mut waiting = vec![(String::new(), definitions())];
        while let Some((name, command)) = waiting.pop() {
            assert!(ACCEPTED.iter().any(|(known, _)| *known == name), "{name}");
            let path = |sub: &str| format!("{name} {sub}").trim().to_owned();
            waiting.extend(command.commands.into_iter().map(|sub| (path(sub.name), sub.command)));
        }
        let known = definitions().flags;
        for option in ACCEPTED.iter().flat_map(|(_, options)| *options) {
            assert!(known.iter().any(|flag| flag.long == *option), "{option}");
        }
        for flag in known.iter().filter(|flag| !["--help", "--version"].contains(&flag.long)) {
            assert!(accepts("", flag.long), "{}", flag.long);
        }
    }
}

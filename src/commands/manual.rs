//! `pg2ch man`: the manual page, from the command line's own definitions and those of the environment.

use std::fmt::Write as _;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind};

use super::completions::CommonOptions;
use crate::config;

const SIGNALS: &[(&str, &str)] = &[
    (
        "SIGTERM, SIGINT",
        "The first lets the batches in progress finish. The second exits at once; like a kill, this is safe.",
    ),
    ("SIGUSR1", "Prints the run's progress to standard error."),
];

const FILES: &[(&str, &str)] = &[
    (
        "/etc/pg2ch/pg2ch.toml",
        "The configuration, unless one is named or there is a pg2ch.toml in the working directory.",
    ),
    ("~/.pgpass", "Passwords of PostgreSQL, as libpq reads them."),
    ("/usr/lib/systemd/system/pg2ch.service, pg2ch.timer", "A run every minute, once the timer is enabled."),
    ("/usr/share/doc/pg2ch/", "Every setting, exit code, privilege and metric, and a runbook."),
];

/// The page, in the language of man(7).
pub fn page(definitions: &CommandInfoWithArgs, common: CommonOptions) -> String {
    let mut page = Page(String::new());
    page.line(&format!(".TH PG2CH 1 \"\" \"pg2ch {}\" \"User Commands\"", env!("CARGO_PKG_VERSION")));
    page.section("NAME");
    page.line("pg2ch \\- copy unsent PostgreSQL rows to Kafka and ClickHouse, exactly once");
    page.section("SYNOPSIS");
    page.line(".B pg2ch\n.RI ( \\-\\-once | \\-\\-every \" PAUSE\" ) \" \" [ options ]\n.br\n.B pg2ch\n.IR command \" \" [ options ]");
    page.section("DESCRIPTION");
    page.text(definitions.description);
    definitions.notes.iter().for_each(|note| page.paragraph(note));
    page.section("OPTIONS");
    definitions.flags.iter().for_each(|flag| page.option(flag));
    page.section("COMMANDS");
    definitions.commands.iter().for_each(|command| page.command("", &command.command, common));
    page.section("EXIT STATUS");
    definitions.error_codes.iter().for_each(|code| page.item(&code.code.to_string(), code.description));
    for (title, items) in [("ENVIRONMENT", config::VARIABLES), ("FILES", FILES), ("SIGNALS", SIGNALS)] {
        page.section(title);
        items.iter().for_each(|(term, meaning)| page.item(term, meaning));
    }
    page.section("EXAMPLES");
    definitions.examples.iter().flat_map(|example| example.lines()).for_each(|example| page.example(example));
    page.section("SEE ALSO");
    page.line(".BR psql (1),\n.BR systemd.timer (5),\n.BR crontab (5)");
    page.0
}

struct Page(String);

impl Page {
    fn line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    fn section(&mut self, title: &str) {
        self.line(&format!(".SH {title}"));
    }

    /// Text as it is, safe from being read as a request.
    fn text(&mut self, text: &str) {
        text.lines().for_each(|line| self.line(&escaped(line.trim())));
    }

    fn paragraph(&mut self, text: &str) {
        self.line(".PP");
        self.text(text);
    }

    fn item(&mut self, term: &str, meaning: &str) {
        self.line(&format!(".TP\n.B {}", escaped(term)));
        self.text(meaning);
    }

    fn option(&mut self, flag: &FlagInfo<'_>) {
        let mut term = flag.short.map_or_else(String::new, |short| format!("-{short}, "));
        term.push_str(flag.long);
        if let FlagInfoKind::Option { arg_name } = flag.kind {
            let _ = write!(term, " {arg_name}");
        }
        self.item(&term, flag.description);
    }

    fn command(&mut self, before: &str, command: &CommandInfoWithArgs, common: CommonOptions) {
        let typed = format!("{before} {}", command.name).trim_start().to_owned();
        let name = format!("pg2ch {typed}");
        let arguments: String = command.positionals.iter().map(|positional| format!(" {}", positional.name)).collect();
        self.line(&format!(".SS {}", escaped(&format!("{name}{arguments}"))));
        self.text(command.description);
        command.positionals.iter().for_each(|positional| self.item(positional.name, positional.description));
        command.flags.iter().filter(|flag| flag.long != "--help").for_each(|flag| self.option(flag));
        let taken: Vec<&str> = common(&typed).into_iter().map(|flag| flag.long).collect();
        if !taken.is_empty() {
            self.paragraph(&format!("Common options: {}.", taken.join(", ")));
        }
        command.commands.iter().for_each(|sub| self.command(&typed, &sub.command, common));
    }

    fn example(&mut self, line: &str) {
        self.line(&format!(".PP\n.RS\n.nf\n{}\n.fi\n.RE", escaped(line)));
    }
}

/// A line of text for roff: hyphens that can be copied, no requests, no escapes.
fn escaped(line: &str) -> String {
    let text =
        line.replace('\\', "\\e").replace('-', "\\-").replace('~', "\\(ti").replace('`', "\\(ga").replace('→', "\\(->");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    #[test]
    fn every_command_option_code_and_variable_is_in_the_page() {
        let (page, definitions) = (page(&cli::definitions(), cli::common_options), cli::definitions());
        let mut commands = vec![("pg2ch".to_owned(), definitions.clone())];
        while let Some((name, command)) = commands.pop() {
            assert!(page.contains(&escaped(&name)), "{name}");
            for flag in command.flags {
                assert!(page.contains(&escaped(flag.long)), "{name} {}", flag.long);
            }
            commands.extend(command.commands.into_iter().map(|sub| (format!("{name} {}", sub.name), sub.command)));
        }
        for code in definitions.error_codes {
            assert!(page.contains(&format!(".B {}\n", code.code)), "{}", code.code);
        }
        for (name, _) in config::VARIABLES {
            assert!(page.contains(name), "{name}");
        }
    }

    #[test]
    fn text_is_never_a_request_or_an_escape() {
        assert_eq!(escaped(".TH \\fB -x"), "\\&.TH \\efB \\-x");
        assert_eq!(escaped("'so"), "\\&'so");
    }
}

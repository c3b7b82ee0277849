//! `--help`: the definitions as a page of eighty columns. argh's own page leaves out the names of the options' values, and which
//! of the common options a command takes.

use std::fmt::Write as _;

use argh::{CommandInfoWithArgs, FlagInfo, FlagInfoKind, Optionality, PositionalInfo};

use super::accepts::{common_options, find};

const WIDTH: usize = 80;
/// Where descriptions begin.
const COLUMN: usize = 22;

/// The help of a command by its words, none for pg2ch as a whole; `None` if there is no such command.
#[must_use]
pub fn help(words: &[&str]) -> Option<String> {
    let command = find(words)?;
    let name = words.join(" ");
    let mut page = String::new();
    line(&mut page, &format!("Usage: {}", synopsis(&name, &command)));
    page.push('\n');
    paragraph(&mut page, command.description, 0);
    let terms: Vec<_> = command.positionals.iter().map(|at| (at.name.to_owned(), at.description)).collect();
    section(&mut page, "Arguments", &terms);
    let terms: Vec<_> = command.commands.iter().map(|sub| (sub.name.to_owned(), sub.command.description)).collect();
    section(&mut page, "Commands", &terms);
    let own = command.flags.iter().filter(|flag| flag.long != "--help" || !words.is_empty());
    // pg2ch alone has the common options for its own.
    let common = if words.is_empty() { Vec::new() } else { common_options(&name) };
    let terms: Vec<_> = own.chain(common).map(|flag| (term(flag), flag.description)).collect();
    section(&mut page, "Options", &terms);
    section(&mut page, "Exit codes", &exit_codes(&command));
    for (title, texts) in [("Examples", command.examples), ("Notes", command.notes)] {
        if !texts.is_empty() {
            let _ = writeln!(page, "\n{title}:");
        }
        for text in texts.iter().flat_map(|text| text.lines()) {
            if title == "Examples" { line(&mut page, &format!("  {text}")) } else { paragraph(&mut page, text, 2) }
        }
    }
    Some(page)
}

fn synopsis(name: &str, command: &CommandInfoWithArgs) -> String {
    if name.is_empty() {
        return "pg2ch --once | --every PAUSE | COMMAND [OPTIONS]".to_owned();
    }
    let subs: Vec<&str> = command.commands.iter().map(|sub| sub.name).collect();
    let subs = match (subs.is_empty(), name) {
        (true, _) => String::new(),
        // Alone it does nothing.
        (false, "config") => format!(" {}", subs.join(" | ")),
        (false, _) => format!(" [{}]", subs.join(" | ")),
    };
    let arguments: String = command.positionals.iter().map(argument).collect();
    format!("pg2ch {name}{subs}{arguments} [OPTIONS]")
}

fn argument(positional: &PositionalInfo<'_>) -> String {
    match positional.optionality {
        Optionality::Required => format!(" {}", positional.name),
        Optionality::Optional => format!(" [{}]", positional.name),
        Optionality::Repeating | Optionality::Greedy => format!(" [{}...]", positional.name),
    }
}

/// `-q, --quiet`, `    --max-rows N`
pub(crate) fn term(flag: &FlagInfo<'_>) -> String {
    let short = flag.short.map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
    match flag.kind {
        FlagInfoKind::Option { arg_name } => format!("{short}{} {arg_name}", flag.long),
        FlagInfoKind::Switch => format!("{short}{}", flag.long),
    }
}

fn exit_codes(command: &CommandInfoWithArgs) -> Vec<(String, &'static str)> {
    command.error_codes.iter().map(|code| (code.code.to_string(), code.description)).collect()
}

fn section(page: &mut String, title: &str, terms: &[(String, &str)]) {
    if terms.is_empty() {
        return;
    }
    let _ = writeln!(page, "\n{title}:");
    for (term, meaning) in terms {
        let start = page.len();
        paragraph(page, meaning, COLUMN);
        let room = COLUMN - 2;
        if term.chars().count() < room {
            page.replace_range(start..start + COLUMN, &format!("  {term:room$}"));
        } else {
            page.insert_str(start, &format!("  {term}\n"));
        }
    }
}

/// Words, wrapped, each line after `indent` spaces.
fn paragraph(page: &mut String, text: &str, indent: usize) {
    let mut current = String::new();
    for word in text.split_whitespace() {
        if !current.is_empty() && indent + current.chars().count() + 1 + word.chars().count() > WIDTH {
            line(page, &format!("{:indent$}{current}", ""));
            current.clear();
        }
        if !current.is_empty() {
            current.push(' ');
        }
        current.push_str(word);
    }
    line(page, &format!("{:indent$}{current}", ""));
}

fn line(page: &mut String, text: &str) {
    page.push_str(text);
    page.push('\n');
}

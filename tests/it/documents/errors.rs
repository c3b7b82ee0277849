//! Every error that the program can make says what to do next. `Error::new` sees to it in debug builds that no part is empty;
//! this looks at each place in the sources that makes one.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The calls that make an error; the hint is the last argument of each.
const MAKERS: &[&str] = &[
    "Error::new(",
    "Error::config(",
    "Error::unavailable(",
    "refuse(",
    "usage(",
    "unfit(",
    "self.wrong(",
    "self.names(",
];

/// A hint has one of these: something to do, or that nothing is to be done.
const STEPS: &[&str] = &[
    "add",
    "allow",
    "call",
    "check",
    "choose",
    "connect",
    "correct",
    "create",
    "delete",
    "drop",
    "find",
    "fix",
    "give",
    "goes",
    "grant",
    "insert",
    "is safe",
    "keep",
    "leave",
    "let",
    "list",
    "look",
    "make",
    "mend",
    "move",
    "name",
    "put",
    "quote",
    "raise",
    "run",
    "say",
    "see",
    "set",
    "such as",
    "take",
    "upgrade",
    "wait",
    "write",
    "`pg2ch",
    "are known",
    "stop",
    "did you mean",
    "ALTER",
];

struct Source {
    path: PathBuf,
    /// Without the tests at its end.
    text: String,
}

fn sources() -> Vec<Source> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod").next().unwrap().to_owned();
                found.push(Source { path, text });
            }
        }
    }
    found
}

/// The arguments of a call that begins behind its bracket.
fn arguments(text: &str) -> Vec<&str> {
    let (mut depth, mut in_string, mut is_escaped, mut start) = (0, false, false, 0);
    let mut found = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if in_string => is_escaped = true,
            '"' => in_string = !in_string,
            _ if in_string => {}
            '(' | '[' | '{' => depth += 1,
            ')' if depth == 0 => {
                found.push(text[start..at].trim());
                break;
            }
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                found.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    found.retain(|argument| !argument.is_empty());
    found
}

/// The texts in a piece of source.
fn literals(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some((_, behind)) = rest.split_once('"') {
        let mut escaped = false;
        let end = behind.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.unwrap_or(behind.len());
        found.push(behind[..end].to_owned());
        rest = behind.get(end + 1..).unwrap_or_default();
    }
    found
}

/// The texts that an expression may stand for: its own; those of a `let` or `match` before it, of a constant, of a function.
fn hints(expression: &str, source: &Source, at: usize, all: &[Source]) -> Vec<String> {
    let own = literals(expression);
    if !own.is_empty() {
        // With the constants that stand in it.
        let named = own.iter().flat_map(|text| text.split('{').skip(1).filter_map(|rest| rest.split('}').next()));
        let constants =
            named.filter(|name| name.chars().all(|c| c.is_ascii_uppercase())).flat_map(|name| defined(name, all));
        return constants.chain(own.clone()).collect();
    }
    let name = expression.trim_start_matches('&').split(['(', '.']).next().unwrap().trim();
    let before = &source.text[..at];
    let bound = [format!("let {name} ="), format!(", {name}) =")];
    if let Some(start) = bound.iter().filter_map(|bound| before.rfind(bound)).max() {
        let value = &source.text[start..at];
        // Up to the end of the statement, or what a function that is called there says.
        let texts = literals(value);
        if !texts.is_empty() {
            return texts;
        }
        let called: Vec<&str> = ["sort", "UNAVAILABLE"].into_iter().filter(|called| value.contains(called)).collect();
        return called.iter().flat_map(|called| defined(called, std::slice::from_ref(source))).collect();
    }
    defined(name, all)
}

/// The texts of a constant or a function.
fn defined(name: &str, all: &[Source]) -> Vec<String> {
    let starts = |source: &Source| {
        let constant = source.text.find(&format!("const {name}: &str = "));
        constant.map(|at| (at, ";\n")).or_else(|| source.text.find(&format!("fn {name}(")).map(|at| (at, "\n}\n")))
    };
    let found = all.iter().find_map(|source| starts(source).map(|(at, end)| (source, at, end)));
    found.map_or_else(Vec::new, |(source, at, end)| {
        let body = &source.text[at..];
        literals(&body[..body.find(end).unwrap_or(body.len())])
    })
}

/// Whether the place is within a function that is given its hint: then its callers are looked at.
fn is_given_its_hint(before: &str) -> bool {
    let signature = &before[before.rfind("fn ").unwrap_or(0)..];
    let closure = before.rfind("let ").and_then(|at| before[at..].split_once('|'));
    signature.split('{').next().unwrap().contains("hint: ")
        || closure.is_some_and(|(_, parameters)| parameters.trim_end().ends_with("hint: &str|"))
}

fn says_what_to_do(hint: &str) -> bool {
    let words: BTreeSet<&str> = hint.split(|c: char| !c.is_alphabetic()).collect();
    STEPS.iter().any(|step| if step.contains([' ', '`']) { hint.contains(step) } else { words.contains(step) })
}

#[test]
fn every_error_says_what_to_do_next() {
    let sources = sources();
    let (mut places, mut wrong) = (0, Vec::new());
    for source in &sources {
        for maker in MAKERS {
            for (at, _) in source.text.match_indices(maker) {
                let before = &source.text[..at];
                let is_other = before.ends_with("fn ") || before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
                if is_other || source.path.ends_with("src/error.rs") || is_given_its_hint(before) {
                    continue;
                }
                let arguments = arguments(&source.text[at + maker.len()..]);
                // Another function of the same name.
                let Some(hint) = arguments.last() else { continue };
                let texts = hints(hint, source, at, &sources);
                places += 1;
                let line = before.matches('\n').count() + 1;
                let place = format!("{}:{line}", source.path.display());
                if texts.is_empty() {
                    wrong.push(format!("{place}: no text is found for {hint}"));
                } else if !texts.iter().any(|text| says_what_to_do(text)) {
                    wrong.push(format!("{place}: {texts:?}"));
                }
            }
        }
    }
    assert!(places > 90, "{places}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

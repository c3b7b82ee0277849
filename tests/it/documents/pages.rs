//! What is written for operators agrees with the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The keys of the example, by section: `batch` → `rows`, its default.
fn example_keys() -> Vec<(String, String, String)> {
    let (mut section, mut keys) = (String::new(), Vec::new());
    for line in pg2ch::config::EXAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_matches(['[', ']']).clone_into(&mut section);
            continue;
        }
        // A comment begins with `# `, a key that is commented out with `#key`.
        if let Some((key, value)) = line.strip_prefix('#').unwrap_or(line).split_once(" = ")
            && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
        {
            keys.push((section.clone(), key.to_owned(), value.trim_matches('"').to_owned()));
        }
    }
    keys
}

#[test]
fn every_key_of_the_example_is_documented_in_its_section_with_its_default() {
    let document = read("docs/configuration.md");
    let keys = example_keys();
    assert!(keys.len() > 30, "{keys:?}");
    for (section, key, value) in keys {
        let heading = if section == "table" { "## `[[table]]`".into() } else { format!("## `[{section}]`") };
        let heading = heading.replace("kafka.properties", "kafka");
        let (_, rest) = document.split_once(&heading).unwrap_or_else(|| panic!("no heading {heading}"));
        let part = rest.split("\n## ").next().unwrap();
        let row = part.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{key}`")));
        let row = row.unwrap_or_else(|| panic!("[{section}] {key} is not in docs/configuration.md"));
        let examples = [
            "ca_cert",
            "textfile",
            "where",
            "columns",
            "exclude",
            "allow_engine",
            "headers",
            "order_by",
            "message_key",
            "deleted",
            "keep",
            "max_rows_per_second",
            "pause_percent",
            "max_replication_lag",
        ];
        let is_example = key.ends_with("_file") || key.ends_with("_command") || examples.contains(&key.as_str());
        assert!(is_example || row.contains(&format!("`{value}`")), "[{section}] {key} = {value}: {row}");
    }
}

#[test]
fn every_exit_code_is_explained() {
    let document = read("docs/exit-codes.md");
    for code in [64, 65, 69, 70, 75, 77, 78] {
        assert!(document.contains(&format!("\n## {code}: ")) && document.contains(&format!("\n| {code} | ")), "{code}");
    }
}

/// The documents that tell people what to type.
fn documents() -> Vec<(String, String)> {
    let pages = ["docs", "docs/dev"].into_iter().flat_map(|folder| {
        let names = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        names.map(move |name| format!("{folder}/{}", name.into_string().unwrap()))
    });
    let pages = pages.filter(|name| name.ends_with(".md"));
    ["README.md", "README.ru.md", "CONTRIBUTING.md", "SECURITY.md"]
        .map(str::to_owned)
        .into_iter()
        .chain(pages)
        .map(|name| (name.clone(), read(&name)))
        .collect()
}

/// The lines of code: in fences, and those that are indented.
fn code_lines(text: &str) -> Vec<&str> {
    let mut in_fence = false;
    text.lines()
        .filter(|line| {
            let is_fence = line.starts_with("```");
            in_fence ^= is_fence;
            !is_fence && (in_fence || line.starts_with("    "))
        })
        .collect()
}

/// What a line or a word of code says without its comment.
fn without_comment(code: &str) -> &str {
    code.split(" #").next().unwrap().trim()
}

#[test]
fn every_command_in_the_documents_is_one_that_there_is() {
    let mut commands = BTreeSet::new();
    for (_, text) in documents() {
        let words = text.split('`').skip(1).step_by(2).filter(|word| !word.contains('\n'));
        for code in words.chain(code_lines(&text)).map(without_comment) {
            // `$ ./pg2ch --once`, `sudo pg2ch …`, cron's line, a pipe behind it.
            let call = code.split("pg2ch ").nth(1).filter(|_| {
                let before = code.split("pg2ch ").next().unwrap();
                ["", "$ ", "$ ./"].contains(&before)
            });
            let call = call.or_else(|| code.split_once("/usr/bin/pg2ch ").map(|(_, rest)| rest));
            commands
                .extend(call.and_then(|call| call.split(['|', '>', '&']).next()).map(|call| call.trim().to_owned()));
        }
    }
    for known in
        ["check", "--once", "dead-letters replay", "init --start-at-end", "--every 30s", "verify --repair --confirm"]
    {
        assert!(commands.contains(known), "{known} is not among {commands:?}");
    }
    for command in commands {
        // Asked for its help, a command that there is does nothing else.
        let words = command.split_whitespace().chain(["--help"]);
        let output = Command::new(env!("CARGO_BIN_EXE_pg2ch")).args(words).env_clear().output().unwrap();
        assert!(output.status.success(), "pg2ch {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_file_that_the_documents_tell_people_to_use_is_there() {
    let mut found = 0;
    for (name, text) in documents() {
        for word in text.split(|c: char| c.is_whitespace() || "`()[]\"',;".contains(c)) {
            let word = word.trim_start_matches("./").trim_end_matches(['.', ':']);
            if ["scripts/", "packaging/", "sql/", "examples/"].iter().any(|folder| word.starts_with(folder)) {
                assert!(root().join(word).exists(), "{name}: {word}");
                found += 1;
            }
        }
    }
    assert!(found > 10, "{found}");
}

#[test]
fn the_russian_readme_has_the_commands_of_the_english_one() {
    let (english, russian) = (read("README.md"), read("README.ru.md"));
    let english: Vec<_> = code_lines(&english).into_iter().map(without_comment).collect();
    let russian: Vec<_> = code_lines(&russian).into_iter().map(without_comment).collect();
    let strangers: Vec<_> = russian.iter().filter(|line| !english.contains(line)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    let missing: Vec<_> = english.iter().filter(|line| !russian.contains(line)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// What a link to a heading says behind its `#`.
fn anchor(heading: &str) -> String {
    let words = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
    words.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for (name, text) in documents() {
        let path = root().join(name);
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let page = if file.is_empty() { path.clone() } else { path.with_file_name(file) };
            assert!(page.exists(), "{}: {target}", path.display());
            let headings = fs::read_to_string(&page).unwrap_or_default();
            let is_there = headings.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
            assert!(heading.is_empty() || is_there, "{}: {target}", path.display());
        }
    }
}

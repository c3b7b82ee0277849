//! What is written for operators agrees with the program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

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
            section = name.trim_matches(['[', ']']).to_owned();
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
        let examples = ["ca_cert", "textfile", "where", "columns", "exclude"];
        let is_example = key.ends_with("_file") || examples.contains(&key.as_str());
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

#[test]
fn every_command_in_the_documents_is_one_that_there_is() {
    let documents = ["exit-codes", "runbook", "grants", "configuration", "metrics"];
    let mut commands = BTreeSet::new();
    for name in documents {
        let text = read(&format!("docs/{name}.md"));
        commands.extend(text.split('`').filter_map(|part| part.strip_prefix("pg2ch ")).map(str::to_owned));
    }
    assert!(commands.contains("check"), "{commands:?}");
    for command in commands {
        // Asked for its help, a command that there is does nothing else.
        let words = command.split_whitespace().chain(["--help"]);
        let output = Command::new(env!("CARGO_BIN_EXE_pg2ch")).args(words).env_clear().output().unwrap();
        assert!(output.status.success(), "pg2ch {command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let is_outside = target.contains("://") || target.starts_with('#');
            let file = target.split('#').next().unwrap_or(target);
            assert!(is_outside || path.with_file_name(file).exists(), "{}: {target}", path.display());
        }
    }
}

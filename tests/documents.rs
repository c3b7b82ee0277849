//! What is written for operators agrees with the program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
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

#[test]
fn the_units_say_what_the_program_takes() {
    let service = read("packaging/systemd/pg2ch.service");
    let start = service.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/pg2ch ")).unwrap();
    let words = start.split_whitespace().chain(["--help"]);
    assert!(Command::new(env!("CARGO_BIN_EXE_pg2ch")).args(words).output().unwrap().status.success(), "{start}");
    assert!(service.contains("\nSuccessExitStatus=75\n"));
    // Only systemd itself can say whether it understands the rest.
    let Some(analyze) =
        ["/usr/bin/systemd-analyze", "/bin/systemd-analyze"].into_iter().find(|p| Path::new(p).exists())
    else {
        return;
    };
    let directory: PathBuf = std::env::temp_dir().join(format!("pg2ch-units-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let service = service.replace("/usr/bin/pg2ch", env!("CARGO_BIN_EXE_pg2ch"));
    fs::write(directory.join("pg2ch.service"), service).unwrap();
    fs::write(directory.join("pg2ch.timer"), read("packaging/systemd/pg2ch.timer")).unwrap();
    let units = [directory.join("pg2ch.service"), directory.join("pg2ch.timer")];
    let output = Command::new(analyze).args(["verify", "--man=no"]).args(&units).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    fs::remove_dir_all(&directory).unwrap();
    assert!(output.status.success() && !told.contains("pg2ch"), "{told}");
}

#[test]
fn the_installer_puts_everything_in_place_and_takes_it_away_again_but_the_configuration() {
    let directory = std::env::temp_dir().join(format!("pg2ch-install-{}", std::process::id()));
    let install = |argument: &str| {
        let output =
            Command::new(root().join("scripts/install")).arg(argument).env("DESTDIR", &directory).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let files = ["usr/bin/pg2ch", "usr/lib/systemd/system/pg2ch.service", "usr/lib/systemd/system/pg2ch.timer"];
    let configuration = directory.join("etc/pg2ch/pg2ch.toml");
    install(env!("CARGO_BIN_EXE_pg2ch"));
    assert!(files.iter().all(|file| directory.join(file).exists()));
    let output = Command::new(directory.join("usr/bin/pg2ch"))
        .args(["config", "show", "--config"])
        .arg(&configuration)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(&configuration, "# mine\n").unwrap();
    install(env!("CARGO_BIN_EXE_pg2ch"));
    install("--uninstall");
    assert!(!files.iter().any(|file| directory.join(file).exists()));
    assert_eq!(fs::read_to_string(&configuration).unwrap(), "# mine\n");
    fs::remove_dir_all(&directory).unwrap();
}

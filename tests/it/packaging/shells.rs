//! Completions complete in a real shell, and the manual page is one.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use argh::CommandInfoWithArgs;
use pg2ch::cli;

fn printed(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_pg2ch")).args(arguments).env_clear().output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A program that takes `script` on standard input, if it is there: what it printed, and what it complained of.
fn fed(program: &str, arguments: &[&str], script: &str) -> Option<(String, String)> {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.ok()?;
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{program}: {stderr}");
    Some((stdout, stderr))
}

/// Every command with its words, and its own options.
fn commands() -> Vec<(Vec<&'static str>, CommandInfoWithArgs)> {
    let (mut waiting, mut commands) = (vec![(Vec::new(), cli::definitions())], Vec::new());
    while let Some((words, command)) = waiting.pop() {
        let sub = |word: &'static str| words.iter().copied().chain([word]).collect();
        waiting.extend(command.commands.iter().map(|known| (sub(known.name), known.command.clone())));
        commands.push((words, command));
    }
    commands
}

/// What bash offers where these words have been typed.
fn offered_by_bash(words: &[&str]) -> BTreeSet<String> {
    let script = format!(
        "{}\nCOMP_WORDS=({}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _pg2ch; printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        printed(&["completions", "bash"]),
        words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" "),
    );
    let (offered, complaints) = fed("bash", &["--norc", "-u"], &script).expect("bash");
    assert_eq!(complaints, "");
    offered.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn bash_offers_after_each_command_what_it_takes_and_nothing_else() {
    let common: Vec<&str> = cli::definitions().flags.iter().map(|flag| flag.long).collect();
    assert!(common.contains(&"--max-rows"));
    for (words, command) in commands() {
        let line: Vec<&str> = ["pg2ch"].into_iter().chain(words.iter().copied()).chain([""]).collect();
        let offered = offered_by_bash(&line);
        let own: Vec<&str> =
            command.flags.iter().map(|flag| flag.long).chain(command.commands.iter().map(|sub| sub.name)).collect();
        for expected in &own {
            assert!(offered.contains(*expected), "{line:?}: {expected} is not among {offered:?}");
        }
        for option in common.iter().filter(|option| !own.contains(option)) {
            let is_taken = cli::accepts(&words.join(" "), option);
            assert_eq!(offered.contains(*option), is_taken, "{line:?}: {option}");
        }
    }
}

#[test]
fn bash_completes_what_was_begun_and_offers_file_names_only_where_one_belongs() {
    assert_eq!(offered_by_bash(&["pg2ch", "dead-letters", "re"]), BTreeSet::from(["replay".to_owned()]));
    assert_eq!(offered_by_bash(&["pg2ch", "--max-r"]), BTreeSet::from(["--max-rows".to_owned()]));
    assert_eq!(
        offered_by_bash(&["pg2ch", "check", "--config", "/etc/hostn"]),
        BTreeSet::from(["/etc/hostname".to_owned()])
    );
    assert_eq!(offered_by_bash(&["pg2ch", "produce", "--max-rows", ""]), BTreeSet::new());
    assert_eq!(offered_by_bash(&["pg2ch", "completions", "z"]), BTreeSet::from(["zsh".to_owned()]));
    // The value of an option is no command.
    let behind_a_table = offered_by_bash(&["pg2ch", "--table", "verify", "--de"]);
    assert!(behind_a_table.is_empty(), "{behind_a_table:?}");
}

#[test]
fn zsh_and_fish_get_every_option_and_understand_the_script() {
    for (shell, check) in [("zsh", "-fn"), ("fish", "-Nn")] {
        let script = printed(&["completions", shell]);
        for (words, command) in commands() {
            for flag in command.flags {
                let name = flag.long.trim_start_matches("--");
                assert!(script.contains(name), "{shell}: {words:?} {name}");
            }
            assert!(words.iter().all(|word| script.contains(word)), "{shell}: {words:?}");
        }
        // Where the shell is installed it says itself whether it understands.
        if let Some((_, complaints)) = fed(shell, &[check], &script) {
            assert_eq!(complaints, "", "{shell}");
        }
    }
}

#[test]
fn fish_completes_what_was_begun() {
    for (begun, expected) in [
        ("pg2ch dead-letters re", "replay"),
        ("pg2ch verify --de", "--deep"),
        ("pg2ch --table check verify --max-s", "--max-seconds"),
    ] {
        let script = format!("{}\ncomplete --do-complete '{begun}'", printed(&["completions", "fish"]));
        let Some((offered, complaints)) = fed("fish", &["-N"], &script) else { return };
        assert_eq!(complaints, "");
        let words: Vec<_> = offered.lines().filter_map(|line| line.split('\t').next()).collect();
        assert_eq!(words, [expected], "{begun}");
    }
}

#[test]
fn the_manual_page_is_one_that_groff_takes_without_a_warning() {
    let page = printed(&["man"]);
    let Some((shown, complaints)) = fed("groff", &["-man", "-Tutf8", "-ww", "-z"], &page) else {
        return;
    };
    assert_eq!((shown.as_str(), complaints.as_str()), ("", ""));
    let (shown, _) = fed("groff", &["-man", "-Tascii", "-P-c", "-P-b", "-P-u"], &page).unwrap();
    for (words, command) in commands() {
        assert!(shown.contains(&["pg2ch"].into_iter().chain(words).collect::<Vec<_>>().join(" ")), "{shown}");
        command.flags.iter().for_each(|flag| assert!(shown.contains(flag.long), "{}: {shown}", flag.long));
    }
}

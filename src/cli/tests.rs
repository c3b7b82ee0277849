//! What the command line takes, in which order, and what it refuses.

use std::path::PathBuf;

use super::*;

fn parsed(line: &str) -> Result<Parsed> {
    let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    parse(&arguments)
}

fn invocation(line: &str) -> Invocation {
    match parsed(line) {
        Ok(Parsed::Invocation(invocation)) => *invocation,
        other => panic!("{line}: {other:?}"),
    }
}

fn text(line: &str) -> String {
    match parsed(line) {
        Ok(Parsed::Text(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn each_command_has_its_words() {
    let seconds = |s| Some(Duration::from_secs(s));
    for (line, command) in [
        ("--once", Command::Run { legs: Legs::Both, every: None }),
        ("--every 30s", Command::Run { legs: Legs::Both, every: seconds(30) }),
        ("--every=5m", Command::Run { legs: Legs::Both, every: seconds(300) }),
        ("produce", Command::Run { legs: Legs::Produce, every: None }),
        ("consume --every 30s", Command::Run { legs: Legs::Consume, every: seconds(30) }),
        ("init", Command::Init { print: false, start: None }),
        ("init --print --start-at-end", Command::Init { print: true, start: Some(StartAt::End) }),
        ("init --start-at-beginning", Command::Init { print: false, start: Some(StartAt::Beginning) }),
        ("verify", Command::Verify(verify::Options::default())),
        (
            "verify --repair --confirm --deep",
            Command::Verify(verify::Options { deep: true, repair: true, confirm: true }),
        ),
        ("dead-letters", Command::DeadLetters),
        ("dead-letters replay", Command::ReplayDeadLetters),
        ("config show", Command::ShowConfig),
        ("config generate", Command::GenerateConfig),
        ("completions zsh", Command::Completions(Shell::Zsh)),
        ("man", Command::Man),
    ] {
        assert_eq!(invocation(line).command, command, "{line}");
    }
}

#[test]
fn common_options_may_stand_anywhere() {
    for line in [
        "--json --config c.toml --table a --table b --max-rows 5 --max-seconds 6 --wait-lock 5m -v dead-letters replay",
        "dead-letters --json --config=c.toml --table=a replay --table b --max-rows=5 --max-seconds 6 --wait-lock=5m --verbose",
        "dead-letters replay -v --table a --table b --wait-lock 300s --max-seconds 6 --max-rows 5 --config c.toml --json",
    ] {
        let invocation = invocation(line);
        assert_eq!(invocation.command, Command::ReplayDeadLetters, "{line}");
        assert_eq!(invocation.flags.config, Some(PathBuf::from("c.toml")), "{line}");
        assert_eq!(invocation.flags.tables, ["a", "b"], "{line}");
        assert_eq!((invocation.limits.max_rows, invocation.limits.max_seconds), (Some(5), Some(6)), "{line}");
        assert_eq!(invocation.limits.wait_lock, Duration::from_secs(300), "{line}");
        assert!(invocation.json, "{line}");
        assert_eq!(invocation.verbosity, Verbosity::Verbose, "{line}");
    }
}

#[test]
fn verbosity_adds_up() {
    for (line, verbosity) in [
        ("--once", Verbosity::Normal),
        ("--once -q", Verbosity::Quiet),
        ("--once -v", Verbosity::Verbose),
        ("-v --once -v", Verbosity::Debug),
        ("--once -vv", Verbosity::Debug),
    ] {
        assert_eq!(invocation(line).verbosity, verbosity, "{line}");
    }
}

#[test]
fn help_and_version_are_there_in_every_way_that_people_type_them() {
    assert!(text("--help").starts_with("Usage: pg2ch --once"));
    assert!(text("--json --help").contains("dead-letters"));
    assert!(text("--help --json").contains("--wait-lock"));
    assert!(text("init --help").contains("--start-at-end"));
    assert!(text("-h").contains("--max-rows"));
    assert!(text("config generate --json -h").contains("pg2ch config generate"));
    assert!(text("completions bash --help").contains("pg2ch completions SHELL"));
    assert_eq!(text("help"), text("--help"));
    assert_eq!(text("help dead-letters replay"), text("dead-letters replay --help"));
    for line in ["--version", "-V", "version"] {
        assert_eq!(text(line), concat!("pg2ch ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    for line in ["help prodcue", "prodcue --help"] {
        assert!(parsed(line).expect_err(line).hint().contains("`produce`"), "{line}");
    }
}

#[test]
fn help_names_the_values_fits_a_terminal_and_lists_what_the_command_takes() {
    let all = text("--help");
    for option in ["--max-rows N ", "--every PAUSE ", "--config FILE ", "-q, --quiet ", "-V, --version "] {
        assert!(all.contains(option), "{option}: {all}");
    }
    let mut commands = vec![(String::new(), definitions())];
    while let Some((name, command)) = commands.pop() {
        let page = text(&format!("help {name}"));
        let long: Vec<&str> = page.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{long:?}");
        for flag in definitions().flags.iter().filter(|flag| !name.is_empty() && flag.long != "--help") {
            let is_listed = page.lines().any(|line| line.split_whitespace().any(|word| word == flag.long));
            assert_eq!(is_listed, accepts(&name, flag.long), "{name} {}: {page}", flag.long);
        }
        let path = |sub: &str| format!("{name} {sub}").trim().to_owned();
        commands.extend(command.commands.into_iter().map(|sub| (path(sub.name), sub.command)));
    }
}

#[test]
fn an_option_that_a_command_does_not_take_is_refused_and_never_ignored() {
    for (line, option) in [
        ("check --max-rows 5", "--max-rows"),
        ("status --quiet", "--quiet"),
        ("config generate --json", "--json"),
        ("completions bash --json", "--json"),
        ("man -q", "--quiet"),
        ("version --json", "--json"),
        ("help --json", "--json"),
        ("init --wait-lock 5m", "--wait-lock"),
        ("verify --jobs 2", "--jobs"),
        ("check --once", "--once"),
    ] {
        let error = parsed(line).expect_err(line);
        assert_eq!(error.exit_code(), ExitCode::Usage, "{line}");
        assert!(error.why().contains(&format!("does not take {option}")), "{line}: {error}");
    }
    assert!(parsed("status -q").expect_err("-q").hint().contains("verify"));
}

#[test]
fn what_makes_no_sense_is_a_usage_error_with_a_hint() {
    for line in [
        "--json",
        "--once --every 30s",
        "init --once",
        "config show --every 5s",
        "config",
        "--every",
        "--every 30",
        "--every 0s",
        "--every 30d",
        "--once --max-rows 0",
        "--once --max-rows -1",
        "--once --max-seconds x",
        "--once --wait-lock x",
        "--once --quiet -v",
        "--once --json=yes",
        "--once --colour",
        "--twice",
        "produce consume",
        "dead-letters reply",
        "completions",
        "completions tcsh",
    ] {
        let error = parsed(line).expect_err(line);
        assert_eq!(error.exit_code(), ExitCode::Usage, "{line}");
        assert!(!error.why().contains('\n') && !error.hint().is_empty(), "{line}: {error}");
    }
}

#[test]
fn a_slip_of_the_keyboard_is_answered_with_the_word_that_was_meant() {
    for (line, near) in
        [("--onec", "--once"), ("prodcue --json", "produce"), ("init --pritn", "--print"), ("config shwo", "show")]
    {
        let error = parsed(line).expect_err(line);
        assert!(error.hint().contains(&format!("`{near}`")), "{line}: {error}");
    }
}

#[test]
fn a_url_that_strays_onto_the_command_line_is_not_repeated() {
    for line in ["postgres://app:hunter2@h/d", "--once --url=postgres://app:hunter2@h", "produce http://app:hunter2@h"]
    {
        let error = parsed(line).expect_err(line);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn json_is_recognised_even_where_the_rest_is_not() {
    let arguments = ["--nonsense", "--json"].map(OsString::from);
    assert!(wants_json(&arguments));
    assert!(!wants_json(&["--", "--json"].map(OsString::from)));
}

//! The command as a user meets it, as far as it needs no server: usage, configuration, secrets, exit codes.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// An empty directory to run in, taken away with it.
struct Scene {
    directory: PathBuf,
}

/// How a command ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Scene {
    fn new(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("pg2ch-cli-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        Self { directory }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// Runs pg2ch here with these arguments and no environment variables but these.
    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Ended {
        let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_pg2ch"))
            .args(arguments)
            .env_clear()
            .envs(variables.iter().copied())
            .current_dir(&self.directory)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// What `config show` calls the value and the origin of `key`.
    fn setting(&self, key: &str, arguments: &[&str], variables: &[(&str, &str)]) -> (String, String) {
        let ended = self.run(&[&["config", "show", "--json"], arguments].concat(), variables);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let shown: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        let setting = shown["settings"].as_array().unwrap().iter().find(|s| s["key"] == key).expect(key);
        let field = |name: &str| setting[name].as_str().unwrap().to_owned();
        (field("value"), field("origin"))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// An error of three parts on standard error: `error: what: why` and `hint: what to do`.
fn assert_error(ended: &Ended, code: i32) {
    assert_eq!(ended.code, Some(code), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("error: ") && line.matches(": ").count() >= 2), "{lines:?}");
    assert!(lines.iter().any(|line| line.len() > "hint: ".len() && line.starts_with("hint: ")), "{lines:?}");
}

#[test]
fn without_arguments_the_help_is_a_usage_error() {
    let ended = Scene::new("bare").run(&[], &[]);
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(64), ""));
    assert!(ended.stderr.starts_with("Usage: pg2ch"), "{}", ended.stderr);
}

#[test]
fn help_and_version_go_to_standard_output() {
    let scene = Scene::new("help");
    for arguments in [&["--help"][..], &["produce", "--help"], &["dead-letters", "replay", "-h"], &["-V"], &["help"]] {
        let ended = scene.run(arguments, &[]);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(ended.stdout.contains("pg2ch"), "{arguments:?}");
    }
}

#[test]
fn usage_errors_end_with_64_and_a_hint() {
    let scene = Scene::new("usage");
    for arguments in
        [&["--twice"][..], &["--once", "--every", "5s"], &["--once", "--max-rows", "many"], &["config"], &["ship"]]
    {
        let ended = scene.run(arguments, &[]);
        assert_error(&ended, 64);
        assert_eq!(ended.stdout, "", "{arguments:?}");
    }
}

#[test]
fn a_failure_is_json_too_where_json_is_wanted() {
    let scene = Scene::new("json");
    scene.write("pg2ch.toml", "[batch]\nrwos = 1\n");
    for (arguments, code) in [(&["--once", "--json"][..], 78), (&["--json", "--twice"], 64), (&["init", "--json"], 78)]
    {
        let ended = scene.run(arguments, &[]);
        assert_error(&ended, code);
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        assert_eq!(report["exit_code"], code);
        for part in ["what", "why", "hint"] {
            assert!(!report["error"][part].as_str().unwrap().is_empty(), "{part}");
        }
    }
}

#[test]
fn an_unknown_key_is_a_configuration_error_that_names_the_place_and_the_likely_key() {
    let scene = Scene::new("unknown");
    scene.write("pg2ch.toml", "[kafka]\nbrokers = \"h:1\"\n\n[batch]\ninsert_row = 5\n");
    let ended = scene.run(&["--once"], &[]);
    assert_error(&ended, 78);
    assert!(ended.stderr.contains("`insert_row` (pg2ch.toml:5)"), "{}", ended.stderr);
    assert!(ended.stderr.contains("`insert_rows`"), "{}", ended.stderr);
}

#[test]
fn a_property_that_librdkafka_does_not_know_is_an_error_of_config_show_and_check_with_its_line() {
    let scene = Scene::new("property");
    scene.write("pg2ch.toml", "[kafka.properties]\nsecurity.protocl = \"SSL\"\n");
    for command in [&["config", "show"][..], &["check"]] {
        let ended = scene.run(command, &[]);
        assert_error(&ended, 78);
        assert!(ended.stderr.contains("`kafka.properties.security.protocl` (pg2ch.toml:2)"), "{}", ended.stderr);
    }
}

#[test]
fn a_wrong_value_is_a_configuration_error_wherever_it_comes_from() {
    let scene = Scene::new("wrong");
    let file = scene.write("other.toml", "[timeouts]\nkafka = \"soon\"\n");
    assert_error(&scene.run(&["--once", "--config", file.to_str().unwrap()], &[]), 78);
    assert_error(&scene.run(&["produce"], &[("PG2CH_CONFIG", file.to_str().unwrap())]), 78);
    assert_error(&scene.run(&["consume"], &[("PG2CH_KAFKA_BROKERS", "kafka:port")]), 78);
    assert_error(&scene.run(&["init", "--print"], &[("PG2CH_POSTGRES_URL", "mysql://u@h/d")]), 78);
    assert_error(&scene.run(&["dead-letters"], &[("PG2CH_CLICKHOUSE_URL", "http://h/?database=d")]), 78);
    assert_error(&scene.run(&["--every", "5s", "--config", "missing.toml"], &[]), 78);
    assert_error(&scene.run(&["--once", "--table", "nonsense"], &[]), 64);
}

#[test]
fn flags_come_before_environment_before_file_before_defaults() {
    let scene = Scene::new("priority");
    scene.write("pg2ch.toml", "[kafka]\nbrokers = \"here:1\"\n");
    let flag = scene.write("flag.toml", "[kafka]\nbrokers = \"flag:1\"\n");
    let variable = scene.write("variable.toml", "[kafka]\nbrokers = \"variable:1\"\n");
    let (flag, variable) = (flag.to_str().unwrap(), ("PG2CH_CONFIG", variable.to_str().unwrap()));
    let brokers =
        |arguments: &[&str], variables: &[(&str, &str)]| scene.setting("kafka.brokers", arguments, variables).0;
    assert_eq!(brokers(&[], &[]), "here:1");
    assert_eq!(brokers(&[], &[variable]), "variable:1");
    assert_eq!(brokers(&["--config", flag], &[variable]), "flag:1");
    assert_eq!(brokers(&["--config", flag], &[variable, ("PG2CH_KAFKA_BROKERS", "env:1")]), "env:1");
    let setting = scene.setting("kafka.brokers", &[], &[("PG2CH_KAFKA_BROKERS", "env:1")]);
    assert_eq!(setting, ("env:1".to_owned(), "$PG2CH_KAFKA_BROKERS".to_owned()));
    assert_eq!(scene.setting("batch.rows", &[], &[]), ("30000".to_owned(), "default".to_owned()));
    assert_eq!(scene.setting("kafka.brokers", &[], &[]).1, "pg2ch.toml:2");
}

#[test]
fn config_show_masks_every_secret_in_both_forms() {
    let scene = Scene::new("masked");
    scene.write(
        "pg2ch.toml",
        "[postgres]\nurl = \"postgres://u:hunter2@h/d\"\n[clickhouse]\nurl = \"https://u:hunter2@h\"\n\
         [kafka.properties]\nsasl.password = \"hunter2\"\nssl.key.pem = \"hunter2\"\n",
    );
    for variables in [&[][..], &[("PGPASSWORD", "hunter2"), ("PG2CH_CLICKHOUSE_PASSWORD", "hunter2")]] {
        for arguments in [&["config", "show"][..], &["config", "show", "--json", "-vv"]] {
            let ended = scene.run(arguments, variables);
            assert_eq!(ended.code, Some(0), "{}", ended.stderr);
            assert!(
                ended.stdout.contains("****") && ended.stdout.contains("postgres://u@h:5432/d?sslmode=verify-full")
            );
            assert!(!ended.stdout.contains("hunter2") && !ended.stderr.contains("hunter2"), "{}", ended.stdout);
        }
    }
}

#[test]
fn no_error_shows_a_secret() {
    let scene = Scene::new("secrets");
    for (at, text) in [
        "[postgres]\nurl = \"postgres://app:hunter2@h\n",
        "[postgres]\nurl = postgres://app:hunter2@h\n",
        "[postgres]\nurl = \"postgres://app:a/hunter2@h/d\"\n",
        "[clickhouse]\nurl = \"http://app:hunter2@h:hunter2\"\n",
        "[kafka.properties]\nsasl.password = hunter2\n",
    ]
    .into_iter()
    .enumerate()
    {
        let file = scene.write(&format!("{at}.toml"), text);
        let ended =
            scene.run(&["--once", "--json", "-vv", "--config", file.to_str().unwrap()], &[("RUST_LOG", "trace")]);
        assert_error(&ended, 78);
        assert!(!ended.stderr.contains("hunter2") && !ended.stdout.contains("hunter2"), "{text}: {}", ended.stderr);
    }
    let ended = scene.run(&["--once"], &[("PG2CH_POSTGRES_URL", "postgres://app:a?hunter2=1@h/d")]);
    assert_error(&ended, 78);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
    let ended = scene.run(&["postgres://app:hunter2@h/d"], &[]);
    assert_error(&ended, 64);
    assert!(!ended.stderr.contains("hunter2"), "{}", ended.stderr);
}

#[test]
fn what_config_generate_prints_loads_in_silence_and_changes_nothing() {
    let scene = Scene::new("generate");
    let before = scene.run(&["config", "show", "--config", "/dev/null"], &[]).stdout;
    let ended = scene.run(&["config", "generate"], &[]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let path = scene.write("pg2ch.toml", &ended.stdout);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let after = scene.run(&["config", "show"], &[]);
    assert_eq!((after.code, after.stderr.as_str()), (Some(0), ""));
    let values = |text: &str| -> Vec<String> {
        let settings = text.lines().skip(2);
        settings.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")).collect()
    };
    assert_eq!(values(&before), values(&after.stdout));
}

#[test]
fn a_password_that_everybody_can_read_is_warned_about_and_works() {
    let scene = Scene::new("readable");
    let path = scene.write("pg2ch.toml", "[postgres]\nurl = \"postgres://u:hunter2@h/d\"\n");
    assert_eq!(scene.run(&["config", "show"], &[]).stderr, "");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let ended = scene.run(&["config", "show"], &[]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("WARN") && ended.stderr.contains("chmod 640"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("hunter2"));
    assert_error(&scene.run(&["config", "show", "--quiet"], &[]), 64);
}

#[test]
fn passwords_come_from_files_and_systemd_credentials() {
    let scene = Scene::new("files");
    scene.write("pg2ch.toml", "[postgres]\nurl = \"postgres://u@h/d\"\npassword_file = \"secret\"\n");
    assert_error(&scene.run(&["config", "show"], &[]), 78);
    scene.write("secret", "hunter2\n");
    let beside = scene.setting("postgres.password", &[], &[]);
    assert_eq!(beside, ("****".to_owned(), "secret".to_owned()));
    let credentials = scene.directory.join("credentials");
    fs::create_dir(&credentials).unwrap();
    fs::write(credentials.join("secret"), "other").unwrap();
    let variable = ("CREDENTIALS_DIRECTORY", credentials.to_str().unwrap());
    let origin = scene.setting("postgres.password", &[], &[variable]).1;
    assert_eq!(Path::new(&origin), credentials.join("secret"));
}

#[test]
fn a_slip_in_a_variables_name_is_warned_about() {
    let scene = Scene::new("slip");
    scene.write("pg2ch.toml", "");
    let ended = scene.run(&["config", "show"], &[("PG2CH_KAFKA_BROKER", "h:1"), ("PG2CH_TEST_PORT", "1")]);
    assert_eq!(ended.code, Some(0));
    assert!(ended.stderr.contains("did you mean PG2CH_KAFKA_BROKERS?"), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}

#[test]
fn under_systemd_every_line_carries_its_priority_and_no_time() {
    let scene = Scene::new("journal");
    scene.write("pg2ch.toml", "[batch]\nrows = 0\n");
    let journal = scene.write("journal", "");
    let stderr = File::options().append(true).open(&journal).unwrap();
    let metadata = stderr.metadata().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_pg2ch"))
        .arg("--once")
        .env_clear()
        .env("JOURNAL_STREAM", format!("{}:{}", metadata.dev(), metadata.ino()))
        .env("PG2CH_KAFKA_BROKER", "h:1")
        .current_dir(&scene.directory)
        .stderr(Stdio::from(stderr))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(78));
    let text = fs::read_to_string(journal).unwrap();
    let starts: Vec<&str> = text.lines().map(|line| line.get(..8).unwrap_or(line)).collect();
    assert_eq!(starts, ["<4>the e", "<3>error", "<3>hint:"], "{text}");
}

#[test]
fn a_result_that_cannot_be_written_is_a_failure() {
    let scene = Scene::new("full");
    scene.write("pg2ch.toml", "[batch]\nrows = 1000\n");
    let commands =
        ["config generate", "config show", "config show --json", "completions bash", "man", "--help", "--version"];
    for (arguments, code) in commands.map(|command| (command, 69)).into_iter().chain([("--once --jobs 0 --json", 64)]) {
        let Output { status, stderr, .. } = Command::new(env!("CARGO_BIN_EXE_pg2ch"))
            .args(arguments.split(' '))
            .env_clear()
            .current_dir(&scene.directory)
            .stdout(File::options().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        let ended = Ended { code: status.code(), stdout: String::new(), stderr: String::from_utf8(stderr).unwrap() };
        assert_error(&ended, code);
        assert!(ended.stderr.contains("error: cannot write to standard output: No space left"), "{}", ended.stderr);
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let script = "\"$0\" config generate | true; \"$0\" --help >&-";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_pg2ch")]).output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
    // The pipe is closed before anything is written.
    let script = "{ sleep 0.2; \"$0\" config generate; echo $? >&2; } | true";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_pg2ch")]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "0\n");
}

//! Runs that cannot do their work end in time, with the exit code and the message that their reader needs, and never
//! show a password.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::http_proxy::HttpProxy;
use crate::common::{Ended, USER_LOGINS, World};

const SECRET: &str = "hunter2-is-secret";

/// Runs with every form of output there is, checks the code, the parts of the message, and that no password is shown.
fn refused(world: &World, code: i32, told: &[&str]) -> Ended {
    let mut last = None;
    for args in [&["--once"][..], &["--once", "--json", "-vv"]] {
        let ended = Ended::of(&world.command(args).env("RUST_LOG", "trace").output().unwrap()).expect(code);
        assert_three_parts(&ended);
        for part in told {
            assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
        }
        assert!(!ended.stderr.contains(SECRET) && !ended.stdout.contains(SECRET), "{}{}", ended.stderr, ended.stdout);
        last = Some(ended);
    }
    let json: serde_json::Value = serde_json::from_str(&last.as_ref().unwrap().stdout).unwrap();
    assert_eq!(json["exit_code"], code);
    last.unwrap()
}

/// One error, on a line that names what failed and on what, and why; its hint behind it; the same in JSON.
fn assert_three_parts(ended: &Ended) {
    let lines: Vec<&str> = ended.stderr.lines().collect();
    let errors: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].starts_with("error: ")).collect();
    assert!(errors.len() == 1 && lines[errors[0] + 1].starts_with("hint: "), "{}", ended.stderr);
    let Ok(json) = serde_json::from_str::<serde_json::Value>(&ended.stdout) else { return };
    // A run that has begun tells it for its table.
    let error = [&json["error"], &json["tables"][0]["error"]].into_iter().find(|error| error.is_object()).unwrap();
    let part = |name: &str| error[name].as_str().unwrap().to_owned();
    let told = format!("error: {}: {}\nhint: {}", part("what"), part("why"), part("hint"));
    assert!(ended.stderr.contains(&told), "{told} is not in {}", ended.stderr);
}

/// A world with rows to move, little patience, and passwords that can be recognised.
fn impatient(name: &str) -> World {
    let mut world = World::new(name);
    world.insert_rows(3);
    world
        .settings
        .insert("timeouts", "connect = \"1s\"\npostgres = \"2s\"\nkafka = \"2s\"\nclickhouse = \"2s\"".into());
    world.settings.insert("retry", "attempts = 2\npause = \"50ms\"".into());
    world
}

/// Replaces host and port of a server's address.
fn at(url: &str, port: u16) -> String {
    let (front, rest) = url.rsplit_once(':').unwrap();
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    format!("{front}:{port}{path}").replace("app:app@", &format!("app:{SECRET}@"))
}

/// Where a server does not answer: the section of the configuration, and the port.
fn each_server_at(world: &mut World, port: u16, what_happens: &str) {
    let (postgres, clickhouse) = (at(&world.servers.postgres_url, port), at(&world.servers.clickhouse_url, port));
    for (section, line, name) in [
        ("postgres", format!("url = \"{postgres}\""), "PostgreSQL"),
        ("kafka", format!("brokers = \"localhost:{port}\""), ""),
        ("clickhouse", format!("url = \"{clickhouse}\""), "ClickHouse"),
    ] {
        world.settings.insert(section, line);
        let started = Instant::now();
        refused(world, 69, &[&format!("localhost:{port}"), name]);
        // Two runs of two attempts, each within the limits of its calls.
        assert!(started.elapsed() < Duration::from_secs(24), "{section} {what_happens}: {:?}", started.elapsed());
        world.settings.remove(section);
    }
}

#[test]
fn a_server_that_is_down_is_named_and_the_next_run_goes_on() {
    let mut world = impatient("down");
    let port = TcpListener::bind("localhost:0").unwrap().local_addr().unwrap().port();
    each_server_at(&mut world, port, "is down");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_server_that_accepts_and_never_answers_is_given_up_in_time() {
    let mut world = impatient("silent");
    let listener = TcpListener::bind("localhost:0").unwrap();
    each_server_at(&mut world, listener.local_addr().unwrap().port(), "is silent");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_wrong_password_is_a_permission_error() {
    let mut world = impatient("password");
    for (section, url, name) in [
        ("postgres", world.servers.postgres_url.clone(), "PostgreSQL"),
        ("clickhouse", world.servers.clickhouse_url.clone(), "ClickHouse"),
    ] {
        let url = url.replace("app:app@", &format!("app:{SECRET}@"));
        world.settings.insert(section, format!("url = \"{url}\""));
        refused(&world, 77, &[name, "password"]);
        world.settings.remove(section);
    }
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_password_for_kafka_is_shown_by_no_failure() {
    let mut world = impatient("sasl");
    // The broker's port takes no passwords: the handshake fails.
    let properties = format!(
        "security.protocol = \"SASL_PLAINTEXT\"\nsasl.mechanism = \"PLAIN\"\nsasl.username = \"app\"\nsasl.password = \"{SECRET}\""
    );
    world.settings.insert("kafka", format!("[kafka.properties]\n{properties}"));
    let ended = Ended::of(&world.command(&["--once", "--json", "-vv"]).env("RUST_LOG", "trace").output().unwrap());
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains("error: "), "{}", ended.stderr);
    assert!(!ended.stderr.contains(SECRET) && !ended.stdout.contains(SECRET), "{}{}", ended.stderr, ended.stdout);
}

#[test]
fn a_configuration_that_names_what_is_not_there_is_refused() {
    let mut world = impatient("absent");
    for (line, told) in [
        ("source = \"public.no_such_table\"", "no_such_table"),
        ("key = \"no_such_column\"", "no_such_column"),
        ("key = \"user_id\"", "no unique index"),
        ("flag = \"no_such_flag\"", "no_such_flag"),
        ("flag = \"event_type\"", "boolean"),
        ("topic = \"no_such_topic\"", "no_such_topic"),
        ("target = \"analytics.no_such_target\"", "no_such_target"),
        ("target = \"no_such_database.t\"", "no_such_database"),
        ("topics = \"a slip\"", "topics"),
    ] {
        world.settings.insert("[table]", line.into());
        refused(&world, 78, &[told]);
    }
    world.settings.remove("[table]");
    world.once().expect(0);
    world.assert_exactly_once();
}

/// A target with this setting is refused, and the hint is the statement that mends it.
fn refused_until_the_hint_is_followed(name: &str, setting: &str, value: u32) {
    let mut world = impatient(name);
    world.ch(&format!("ALTER TABLE {{t}} MODIFY SETTING {setting} = {value}"));
    let told = refused(&world, 78, &[setting]);
    let statement = told.stderr.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap();
    world.ch(statement);
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_target_that_forgets_tokens_is_refused() {
    refused_until_the_hint_is_followed("forgetful", "non_replicated_deduplication_window", 0);
}

#[test]
fn a_target_that_lacks_a_position_column_is_refused() {
    let mut world = impatient("positionless");
    world.ch("ALTER TABLE {t} DROP INDEX _position");
    world.ch("ALTER TABLE {t} DROP COLUMN _offset");
    refused(&world, 78, &["_offset"]);
    world.ch("ALTER TABLE {t} ADD COLUMN _offset Int64");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_field_that_the_target_has_no_column_for_is_put_aside_not_dropped() {
    let mut world = World::with("column_more", &format!("{USER_LOGINS}, added text"), 1);
    world.sql("INSERT INTO {t} (user_id, event_type, event_time, added) VALUES (1, 'login', now(), 'kept')");
    world.ch("ALTER TABLE {t} DROP COLUMN added");

    let ended = world.once().expect(65);

    assert_eq!(ended.number("consume", "dead_letters"), 1);
    assert_eq!(world.ch_number("SELECT count() FROM {t}"), 0);
    let letters = world.topic_named(&format!("{}.dead", world.name));
    assert_eq!(letters.len(), 1);
    assert!(letters[0].value.contains(r#""added":"kept""#), "{letters:?}");
}

#[test]
fn settings_of_the_users_profile_change_no_answer() {
    for profile in [
        "extremes=1",
        "empty_result_for_aggregation_by_empty_set=1",
        "output_format_json_array_of_rows=1",
        "output_format_json_named_tuples_as_objects=1&enable_named_columns_in_function_tuple=1",
        "force_primary_key=1",
        "session_timezone=America/New_York",
        "final=1&limit=1&max_result_rows=1&result_overflow_mode=break",
        "aggregate_functions_null_for_empty=1&cast_keep_nullable=1&join_use_nulls=1&transform_null_in=1",
        "enable_positional_arguments=0&prefer_column_name_to_alias=1&output_format_tsv_crlf_end_of_line=1",
        "date_time_output_format=iso&date_time_64_output_format_cut_trailing_zeros_align_to_groups_of_thousands=1",
        "bool_true_representation=yes&output_format_decimal_trailing_zeros=1",
        "use_query_cache=1",
        "output_format=JSON&input_format=JSONEachRow&format=CSV&default_format=JSON",
        "filter=0&select=1&order=nonsense&sort=nonsense&page=2&database=nonsense&dialect=prql",
        "max_query_size=1500",
    ] {
        let mut world = World::new("profile");
        world.insert_rows(3);
        let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[]);
        proxy.set_profile(profile);
        world.settings.insert("clickhouse", proxy.setting());
        world.kill_at("clickhouse.insert.after", &["--once"]);
        // Without offsets, and with an INSERT under way, everything is asked.
        let ended = world.once().expect(0);
        assert!(ended.number("consume", "rows_held") > 0, "{profile}: {}", ended.stderr);
        world.run(&["check"]).expect(0);
        world.run(&["verify", "--deep"]).expect(0);
        world.assert_exactly_once();
    }
}

#[test]
fn a_limit_of_the_users_profile_is_named_as_what_to_raise() {
    let mut world = impatient("profile_limit");
    world.insert_rows(3);
    let proxy = HttpProxy::before(&world.servers.clickhouse_url, &[]);
    world.settings.insert("clickhouse", proxy.setting());
    for (name, value, command) in [
        ("max_ast_elements", 60, "consume"),
        ("max_ast_depth", 12, "consume"),
        ("max_parser_depth", 30, "consume"),
        ("max_parser_backtracks", 10, "consume"),
        ("max_columns_to_read", 1, "consume"),
        ("max_temporary_columns", 1, "consume"),
        ("max_temporary_non_const_columns", 1, "consume"),
        ("max_expanded_ast_elements", 60, "verify"),
    ] {
        proxy.set_profile(&format!("{name}={value}"));
        let ended = world.run(&[command]).expect(78);
        assert!(ended.stderr.contains(&format!("hint: raise {name} in the profile")), "{name}: {}", ended.stderr);
    }
    proxy.set_profile("");
    world.once().expect(0);
    world.assert_exactly_once();
}

#[test]
fn a_target_that_buffers_inserts_is_refused() {
    refused_until_the_hint_is_followed("buffering", "async_insert", 1);
}

#[test]
fn too_few_open_files_are_no_bug() {
    let world = impatient("few_files");
    let own = world.command(&["produce"]);
    let with_at_most = |files: u32| {
        let mut command = Command::new("sh");
        let limited = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        command.args(["-c", &limited]).arg(own.get_program()).args(own.get_args()).env_clear();
        Ended::of(&command.output().unwrap()).expect(69)
    };
    // The connection to PostgreSQL is the first that a run opens.
    let ended = with_at_most(10);
    assert!(ended.stderr.contains("ulimit -n"), "{}", ended.stderr);
    // With some more it depends on the moment which socket is refused, and Kafka's client does not say why.
    for files in [16, 20] {
        let ended = with_at_most(files);
        assert!(ended.stderr.contains("hint: "), "{files}: {}", ended.stderr);
    }
}

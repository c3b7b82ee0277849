//! Passwords: where they come from, and that nothing shows them.

use super::{Directory, explain_in, refused, with_file};
use crate::config::environment::Environment;
use crate::config::{Flags, Secret};

#[test]
fn the_passwords_that_count_come_from_the_nearest_place() {
    let directory = Directory::new();
    directory.write("secret", "from-file\r\n", 0o600);
    let pgpass = directory.write("pgpass", "h:5432:d:u:from-pgpass\n", 0o600);
    let bare = "[postgres]\nurl = \"postgres://u@h/d\"\n";
    let with_password = "[postgres]\nurl = \"postgres://u:from-url@h/d\"\n";
    let with_password_file = format!("{with_password}password_file = \"secret\"\n");
    let pgpass = ("PGPASSFILE", pgpass.to_str().unwrap());
    let variable = ("PGPASSWORD", "from-variable");
    let url = ("PG2CH_POSTGRES_URL", "postgres://u:from-url-variable@h/d");
    let credentials = ("CREDENTIALS_DIRECTORY", directory.0.to_str().unwrap());
    for (text, variables, password) in [
        (bare, vec![], None),
        (bare, vec![pgpass], Some("from-pgpass")),
        (with_password, vec![pgpass], Some("from-url")),
        (&with_password_file, vec![pgpass, credentials], Some("from-file")),
        (&with_password_file, vec![variable], Some("from-variable")),
        (&with_password_file, vec![variable, url], Some("from-url-variable")),
    ] {
        let config = with_file(text, &variables).unwrap().config;
        let taken = config.postgres.password.map(|kept| kept.take().unwrap());
        assert_eq!(taken.as_ref().map(Secret::reveal), password, "{text} {variables:?}");
    }
}

#[test]
fn a_pgpass_that_others_can_read_is_ignored_as_in_libpq() {
    let directory = Directory::new();
    let pgpass = directory.write(".pgpass", "*:*:*:*:x\n", 0o644);
    let text = "[postgres]\nurl = \"postgres://u@h/d\"\n";
    for variable in [("PGPASSFILE", pgpass.to_str().unwrap()), ("HOME", directory.0.to_str().unwrap())] {
        assert!(with_file(text, &[variable]).unwrap().config.postgres.password.is_none());
    }
}

#[test]
fn a_relative_password_file_lies_beside_the_configuration() {
    let directory = Directory::new();
    directory.write("secret", "s", 0o600);
    let path = directory.write("pg2ch.toml", "[clickhouse]\nurl = \"http://h:1\"\npassword_file = \"secret\"\n", 0o600);
    let explained = explain_in(&Flags::default(), Environment::default(), &[path]).unwrap();
    assert_eq!(explained.config.clickhouse.password.take().unwrap().reveal(), "s");
    let error = refused("[clickhouse]\npassword_file = \"secret\"\n");
    assert!(error.why().contains("No such file"), "{error}");
}

#[test]
fn a_file_that_would_keep_the_program_waiting_is_refused() {
    let directory = Directory::new();
    let fifo = directory.0.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    for (text, secret) in [
        ("[postgres]\npassword_file = \"{}\"\n", "the password"),
        ("[kafka]\nsasl_password_file = \"{}\"\n", "the password"),
        ("[notify]\nurl_file = \"{}\"\n", "the URL"),
        ("[clickhouse]\nurl = \"https://h\"\nca_cert = \"{}\"\n", "PEM"),
    ] {
        let error = refused(&text.replace("{}", fifo.to_str().unwrap()));
        assert!(error.why().contains("it is not a regular file") && error.hint().contains(secret), "{error}");
    }
    // libpq passes over such a file as well.
    let pgpass = ("PGPASSFILE", fifo.to_str().unwrap());
    let config = with_file("[postgres]\nurl = \"postgres://u@h/d\"\n", &[pgpass]).unwrap().config;
    assert!(config.postgres.password.is_none());
}

#[test]
fn no_error_repeats_a_secret() {
    for text in [
        "[postgres]\nurl = \"postgres://app:hunter2@h\n",
        "[postgres]\nurl = postgres://app:hunter2@h\n",
        "[postgres]\nurl = hunter2\n",
        "[postgres]\nurl = 'hunter2\n",
        "[postgres]\nurl = \"\\hunter2\"\n",
        "[postgres]\nurl : hunter2\n",
        "[postgres]\nhunter2\n",
        "[postgres]\nurl = \"x\" hunter2\n",
        "[postgres]\nurl = 2020-13-99hunter2\n",
        "[postgres]\nurl = 12hunter2\n",
        "[postgres]\nurl = [hunter2, 1]\n",
        "[postgres]\nurl = { a = hunter2 }\n",
        "[postgres]\nurl = \"hunter2\"\n",
        "[postgres]\nurl = [\"hunter2\"]\n",
        "[postgres]\nurl = \"postgres://app:hunter2@h:x/d\"\n",
        "[postgres]\npasswrd = \"hunter2\"\n",
        "[postgres]\n\"postgres://app:hunter2@h\" = 1\n",
        "\"postgres://app:hunter2@h\" = 1\n",
        "[kafka.properties]\n\"app:hunter2@h\" = 1\n",
        "[kafka]\nbrokers = \"user:hunter2@h:9092\"\n",
        "[kafka.properties]\nsasl.password = [\"hunter2\"]\n",
        "[kafka.properties]\nsasl.password = \"hunter2\nsasl.username = 1\n",
        "[kafka.properties]\nsasl.password = \"hunter2\"\nsasl.password = \"hunter2\"\n",
        "[clickhouse]\nurl = \"https://app:hunter2@h?x\"\n",
        "[clickhouse]\npassword_file = \"/no/such\"\nurl = \"https://app:hunter2@h\"\n",
    ] {
        let error = refused(text);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{text}: {error}");
    }
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let text = "[postgres]\nurl = \"postgres://u:hunter2@h/d\"\n[clickhouse]\nurl = \"http://u:hunter2@h\"\n\
                [kafka.properties]\nsasl.password = \"hunter2\"\nssl.key.password = \"hunter2\"\nssl.sigalgs.list = \"hunter2\"\n";
    let explained = with_file(text, &[]).unwrap();
    assert!(!format!("{explained:?}").contains("hunter2"), "{explained:?}");
}

#[test]
fn a_command_is_named_by_its_words_and_excludes_a_file() {
    let directory = Directory::new();
    directory.write("secret", "from-file", 0o600);
    let credentials = ("CREDENTIALS_DIRECTORY", directory.0.to_str().unwrap());
    let text = "[postgres]\npassword_command = [\"/bin/echo\", \"one\"]\n[clickhouse]\npassword_command = [\"/bin/echo\", \"two\"]\n\
                [kafka]\nsasl_password_command = [\"/bin/echo\", \"three\"]\n";
    let explained = with_file(text, &[]).unwrap();
    let config = &explained.config;
    let kept =
        [config.postgres.password.as_ref(), Some(&config.clickhouse.password), config.kafka.sasl_password.as_ref()];
    let taken = kept.map(|kept| kept.unwrap().take().unwrap());
    assert_eq!(taken.each_ref().map(Secret::reveal), ["one", "two", "three"]);
    let shown = |key: &str| explained.settings.iter().find(|setting| setting.key == key).unwrap().value.clone();
    for key in ["postgres.password", "kafka.properties.sasl.password", "clickhouse.password"] {
        assert_eq!(shown(key), "****", "{key}");
    }
    for (refusal, why) in [
        ("[postgres]\npassword_command = \"/bin/echo one\"\n", "not a list"),
        ("[postgres]\npassword_command = []\n", "names no program"),
        ("[postgres]\npassword_command = [\"/bin/echo\"]\npassword_file = \"secret\"\n", "is set as well"),
        ("[kafka]\nsasl_password_file = \"secret\"\n[kafka.properties]\nsasl.password = \"x\"\n", "is set as well"),
    ] {
        let error = with_file(refusal, &[credentials]).unwrap_err();
        assert!(error.why().contains(why), "{error}");
    }
}

#[test]
fn the_url_that_is_told_of_a_run_is_a_secret_and_a_url() {
    let explained = with_file("[notify]\nurl = \"https://hc-ping.com/hunter2\"\n", &[]).unwrap();
    assert_eq!(explained.config.notify.url.as_ref().unwrap().take().unwrap().reveal(), "https://hc-ping.com/hunter2");
    assert!(!format!("{explained:?}").contains("hunter2"), "{explained:?}");
    for url in
        ["hunter2", "ftp://h/hunter2", "https://", "https://h/hunter2?a", "https://h/hunter2#a", "https://h/ hunter2"]
    {
        let error = refused(&format!("[notify]\nurl = \"{url}\"\n"));
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{url}: {error}");
    }
}

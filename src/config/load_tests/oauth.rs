//! OAUTHBEARER: from where the tokens come, and what contradicts itself.

use super::{Directory, refused, with_file};
use crate::config::{Credential, TokenSource};

const PROPERTIES: &str = "[kafka.properties]\nsecurity.protocol = \"SASL_SSL\"\nsasl.mechanism = \"OAUTHBEARER\"\n";

const SERVER: &str = "oauth_token_url = \"https://h/token\"\noauth_client_id = \"pg2ch\"\n";

fn source(text: &str, variables: &[(&str, &str)]) -> TokenSource {
    with_file(text, variables).unwrap().config.kafka.token_source.expect(text)
}

#[test]
fn a_token_comes_from_where_a_password_would_be_or_from_a_server() {
    let directory = Directory::new();
    let file = directory.write("token", "hunter2\n", 0o600);
    for (kafka, variables, token) in [
        ("sasl_password_command = [\"/bin/echo\", \"printed\"]\n", vec![], "printed"),
        (&*format!("sasl_password_file = \"{}\"\n", file.display()), vec![], "hunter2"),
        ("", vec![("PG2CH_KAFKA_SASL_PASSWORD", "from-variable")], "from-variable"),
    ] {
        let TokenSource::Kept(kept) = source(&format!("[kafka]\n{kafka}{PROPERTIES}"), &variables) else {
            panic!("{kafka}")
        };
        assert_eq!(kept.take().unwrap().reveal(), token);
    }
    let written = with_file(&format!("{PROPERTIES}sasl.password = \"hunter2\"\n"), &[]).unwrap();
    assert!(!written.config.kafka.properties.contains_key("sasl.password"), "librdkafka has no use for it");

    let text = format!("[kafka]\n{SERVER}oauth_scope = \"kafka\"\n{PROPERTIES}");
    let explained = with_file(&text, &[("PG2CH_KAFKA_OAUTH_CLIENT_SECRET", "hunter2")]).unwrap();
    let Some(TokenSource::Server(server)) = &explained.config.kafka.token_source else { panic!("no server") };
    let found = (&*server.url, &*server.client_id, server.scope.as_deref());
    assert_eq!(found, ("https://h/token", "pg2ch", Some("kafka")));
    assert_eq!(server.client_secret.take().unwrap().reveal(), "hunter2");
    assert!(!format!("{explained:?}").contains("hunter2"));
    let secret = explained.settings.iter().find(|setting| setting.key == "kafka.oauth_client_secret").unwrap();
    assert_eq!(secret.value, "****");

    let text = format!("[kafka]\n{SERVER}oauth_client_secret_command = [\"/bin/secret\"]\n{PROPERTIES}");
    let TokenSource::Server(server) = source(&text, &[]) else { panic!("no server") };
    assert!(matches!(server.client_secret, Credential::Command { .. }));
}

#[test]
fn what_contradicts_itself_is_refused_with_its_line_and_what_to_do() {
    let secret = "oauth_client_secret_command = [\"/bin/secret\"]\n";
    let command = "sasl_password_command = [\"/bin/token\"]\n";
    let plain = PROPERTIES.replace("OAUTHBEARER", "PLAIN");
    let open = PROPERTIES.replace("SASL_SSL", "SSL");
    for (text, line, why, hint) in [
        (PROPERTIES.to_owned(), 3, "nothing says where the tokens come from", "sasl_password_command"),
        (format!("[kafka]\n{command}{SERVER}{secret}{PROPERTIES}"), 3, "what would be the password", "keep one"),
        (format!("[kafka]\n{SERVER}{secret}{plain}"), 2, "is not OAUTHBEARER", "OAUTHBEARER"),
        (format!("[kafka]\n{secret}"), 2, "`oauth_token_url` is not set", "set `oauth_token_url`"),
        (format!("[kafka]\n{SERVER}{PROPERTIES}"), 2, "`oauth_client_secret_file` is not set", "OAUTH_CLIENT_SECRET"),
        (format!("[kafka]\n{command}{open}"), 5, "so nothing logs in", "SASL_SSL"),
        (
            format!("[kafka]\noauth_token_url = \"h/token\"\noauth_client_id = \"a\"\n{secret}{PROPERTIES}"),
            2,
            "https://",
            "token endpoint",
        ),
        (
            format!(
                "[kafka]\noauth_token_url = \"https://a:hunter2@h\"\noauth_client_id = \"a\"\n{secret}{PROPERTIES}"
            ),
            2,
            "a password",
            "token endpoint",
        ),
        (format!("[kafka]\noauth_client_id = \"\"\n{PROPERTIES}"), 2, "it is empty", "leave the key out"),
        (
            format!("{PROPERTIES}sasl.oauthbearer.method = \"oidc\"\n"),
            4,
            "pg2ch gets the tokens itself",
            "oauth_token_url",
        ),
        (
            format!("{PROPERTIES}enable.sasl.oauthbearer.unsecure.jwt = true\n"),
            4,
            "pg2ch gets the tokens itself",
            "oauth_token_url",
        ),
    ] {
        let error = refused(&text);
        assert!(error.what().contains(&format!(":{line})")), "{text}: {error}");
        assert!(error.why().contains(why) && error.hint().contains(hint), "{text}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let lonely = with_file("", &[("PG2CH_KAFKA_OAUTH_CLIENT_SECRET", "hunter2")]).unwrap();
    assert_eq!(lonely.config.kafka.token_source, None, "it may be meant for another configuration");
}

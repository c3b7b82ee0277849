//! Asks a server for a token: OAuth 2.0's client credentials, as OpenID Connect providers have them (RFC 6749, section 4.4).

use std::time::Duration;

use serde::Deserialize;
use ureq::Agent;

use crate::certificates;
use crate::config::TokenServer;
use crate::error::{Error, ExitCode, Result};
use crate::page;

/// The most of an answer that is read: a token has a few KiB.
const MAX_ANSWER: u64 = 256 << 10;

/// The most of the server's own words that is shown.
const MAX_SHOWN: usize = 300;

const URL: &str = "check that `oauth_token_url` in [kafka] is the token endpoint";

/// What the server says of a refusal (RFC 6749, section 5.2).
#[derive(Default, Deserialize)]
struct Refusal {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// What cannot be done if it fails.
pub(super) fn what(server: &TokenServer) -> String {
    format!("cannot get a token for Kafka from {}", server.url)
}

/// The server's answer, with a token in it if it is one.
///
/// # Errors
/// 69 if the server does not answer within `limit`, or says that it cannot now; 77 if it refuses the client; 78 if it is no such
/// server, or its certificate is not trusted.
pub(super) fn request(server: &TokenServer, limit: Duration) -> Result<String> {
    let secret = server.client_secret.take()?;
    let login = format!("{}:{}", encoded(&server.client_id), encoded(secret.reveal()));
    let login = format!("Basic {}", openssl::base64::encode_block(login.as_bytes()));
    let mut form = vec![("grant_type", "client_credentials")];
    form.extend(server.scope.as_deref().map(|scope| ("scope", scope)));
    let agent: Agent = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_connect(Some(limit))
        .timeout_global(Some(limit))
        .tls_config(certificates::system_tls())
        .user_agent(concat!("pg2ch/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent();
    let request = agent.post(&server.url).header("Authorization", login).header("Accept", "application/json");
    let mut answer = request.send_form(form).map_err(|error| unreachable(server, &error))?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
    let body = body.map_err(|error| unreachable(server, &error))?;
    if status == 200 && page::title(&body).is_none() {
        return String::from_utf8(body).map_err(|_| Error::config(what(server), "its answer is not UTF-8", URL));
    }
    Err(refused(server, status, &body))
}

fn unreachable(server: &TokenServer, error: &ureq::Error) -> Error {
    let certificate =
        "check the server's certificate, and that this system trusts its authority (SSL_CERT_FILE names others)";
    match error {
        ureq::Error::Tls(_) | ureq::Error::NativeTls(_) => Error::config(what(server), error, certificate),
        ureq::Error::BodyExceedsLimit(_) => Error::config(what(server), "its answer is too long for a token", URL),
        _ => {
            let hint = "check that the token server runs and that this machine reaches it; the next run resumes here";
            Error::unavailable(what(server), error, hint)
        }
    }
}

/// What an answer without a token means.
fn refused(server: &TokenServer, status: u16, body: &[u8]) -> Error {
    let page = page::title(body);
    let refusal = serde_json::from_slice::<Refusal>(body).unwrap_or_default();
    let described: String = format!("{} {}", refusal.error, refusal.error_description)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_SHOWN)
        .collect();
    let words = page.as_deref().unwrap_or(described.trim());
    let why = if words.is_empty() {
        format!("it answers with status {status}")
    } else {
        format!("it answers with status {status}: {words}")
    };
    if status == 429 || status >= 500 {
        return Error::unavailable(what(server), why, "look at the token server's own log; the next run resumes here");
    }
    let is_client = matches!(&*refusal.error, "invalid_client" | "unauthorized_client" | "access_denied");
    if is_client || (page.is_none() && matches!(status, 401 | 403)) {
        let hint = "check `oauth_client_id` in [kafka] and its secret (PG2CH_KAFKA_OAUTH_CLIENT_SECRET), and let the server allow this \
                    client the grant type client_credentials";
        return Error::new(ExitCode::Permission, what(server), why, hint);
    }
    if matches!(&*refusal.error, "invalid_scope" | "invalid_target") {
        return Error::config(what(server), why, "correct `oauth_scope` in [kafka]");
    }
    Error::config(what(server), why, URL)
}

/// As a form has it, which is how user and password are put together here (RFC 6749, section 2.3.1).
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn what_the_server_says_decides_who_has_to_do_something() {
        let server = TokenServer {
            url: "https://login.example.org/token".into(),
            client_id: "pg2ch".into(),
            client_secret: Secret::new("hunter2").into(),
            scope: None,
        };
        for (status, body, exit, why) in [
            (
                401,
                "{\"error\":\"invalid_client\",\"error_description\":\"bad\\nsecret\"}",
                ExitCode::Permission,
                "invalid_client bad secret",
            ),
            (400, "{\"error\":\"unauthorized_client\"}", ExitCode::Permission, "status 400: unauthorized_client"),
            (401, "", ExitCode::Permission, "status 401"),
            (400, "{\"error\":\"invalid_scope\"}", ExitCode::Config, "invalid_scope"),
            (404, "not found", ExitCode::Config, "status 404"),
            (302, "", ExitCode::Config, "status 302"),
            (200, "<html><title>Sign in</title>", ExitCode::Config, "titled \"Sign in\""),
            (403, "<html><title>Sign in</title>", ExitCode::Config, "titled \"Sign in\""),
            (503, "<html><title>Busy</title>", ExitCode::Unavailable, "titled \"Busy\""),
            (429, "{\"error\":\"slow_down\"}", ExitCode::Unavailable, "slow_down"),
        ] {
            let error = refused(&server, status, body.as_bytes());
            assert_eq!(error.exit_code(), exit, "{error}");
            assert!(error.why().contains(why) && !error.why().contains('\n'), "{error}");
        }
    }

    #[test]
    fn user_and_password_are_written_as_in_a_form() {
        assert_eq!(encoded("a-b_c.d~e"), "a-b_c.d~e");
        assert_eq!(encoded("a:b+c é"), "a%3Ab%2Bc%20%C3%A9");
    }
}

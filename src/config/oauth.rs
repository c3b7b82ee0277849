//! `[kafka]` with `sasl.mechanism = "OAUTHBEARER"`: where the tokens come from. Either a password's place holds one (a command prints
//! it), or a server gives it to a client.

use std::collections::BTreeMap;

use super::environment::KAFKA_OAUTH_CLIENT_SECRET;
use super::origin::Origin;
use super::reader::{Given, Reader, refuse};
use super::url::http_authority;
use super::{Credential, Secret, TokenServer, TokenSource, password};
use crate::error::Result;

/// The properties by which a client is told to log in, and how.
pub type Properties = BTreeMap<String, (Secret, Origin)>;

const MECHANISMS: [&str; 2] = ["sasl.mechanism", "sasl.mechanisms"];

/// The two ways to get a token.
const SOURCES: &str = "set `sasl_password_command` in [kafka], or `oauth_token_url` with a client's id and secret";

/// Refuses what librdkafka offers by itself: that needs libcurl, or makes tokens that nobody has signed.
///
/// # Errors
/// 78 if `name` is such a property.
pub fn refuse_librdkafkas_own(place: &str, name: &str, origin: &Origin) -> Result<()> {
    if !name.contains("sasl.oauthbearer") {
        return Ok(());
    }
    let why = "pg2ch gets the tokens itself, and not through librdkafka";
    Err(refuse(place, origin, why, &format!("take it out of [kafka.properties] and {SOURCES}")))
}

/// Reads the keys of a server that gives out tokens, if there are any.
///
/// # Errors
/// 78 if one is missing or refused.
pub fn server(reader: &mut Reader) -> Result<Option<Given<TokenServer>>> {
    let url = text(reader, "oauth_token_url")?;
    let client_id = text(reader, "oauth_client_id")?;
    let client_secret = secret(reader)?;
    let scope = text(reader, "oauth_scope")?;
    let texts = [&url, &client_id, &scope].into_iter().flatten().map(|given| &given.origin);
    // The variable alone may be meant for another configuration.
    let secrets = client_secret.iter().map(|given| &given.origin);
    let in_file = secrets.filter(|origin| !matches!(origin, Origin::Environment(_)));
    let Some(origin) = texts.chain(in_file).next().cloned() else { return Ok(None) };
    let (url, client_id, client_secret) = match (url, client_id, client_secret) {
        (Some(url), Some(id), Some(secret)) => (url, id, secret),
        (url, id, _) => {
            let missing = if url.is_none() {
                "oauth_token_url"
            } else if id.is_none() {
                "oauth_client_id"
            } else {
                "oauth_client_secret_file"
            };
            let hint = format!(
                "set `{missing}` in [kafka]; the secret may also be in {KAFKA_OAUTH_CLIENT_SECRET}, or come from \
                 `oauth_client_secret_command`"
            );
            return Err(refuse("kafka.oauth_token_url", &origin, format!("`{missing}` is not set"), &hint));
        }
    };
    check(&url.value).map_err(|why| {
        let hint = "write the address of the token endpoint, such as \"https://login.example.org/oauth2/token\", without user and password";
        refuse("kafka.oauth_token_url", &url.origin, why, hint)
    })?;
    let value = TokenServer {
        url: url.value,
        client_id: client_id.value,
        client_secret: client_secret.value,
        scope: scope.map(|given| given.value),
    };
    Ok(Some(Given { value, origin }))
}

/// Chooses where the tokens come from; with one of them `password` is not a password, and is taken.
///
/// # Errors
/// 78 if there is none although the mechanism wants one, if there are two, or one that nothing uses.
pub fn source(
    properties: &Properties,
    server: Option<Given<TokenServer>>,
    password: &mut Option<Given<Credential>>,
) -> Result<Option<TokenSource>> {
    let wanted = MECHANISMS.iter().find_map(|name| {
        let (value, origin) = properties.get(*name)?;
        value.reveal().eq_ignore_ascii_case("OAUTHBEARER").then_some((format!("kafka.properties.{name}"), origin))
    });
    let Some((mechanism, origin)) = wanted else {
        let Some(server) = server else { return Ok(None) };
        let why = "`sasl.mechanism` is not OAUTHBEARER, so no token is asked for";
        let hint = "set `sasl.mechanism = \"OAUTHBEARER\"` in [kafka.properties], or take the `oauth_` keys out";
        return Err(refuse("kafka.oauth_token_url", &server.origin, why, hint));
    };
    let protocol = properties.get("security.protocol").map(|(value, _)| value.reveal().to_ascii_uppercase());
    if !protocol.is_some_and(|protocol| protocol.starts_with("SASL")) {
        let why = "`security.protocol` is neither SASL_SSL nor SASL_PLAINTEXT, so nothing logs in";
        return Err(refuse(&mechanism, origin, why, "set `security.protocol = \"SASL_SSL\"` in [kafka.properties]"));
    }
    let written = properties.get("sasl.password");
    let kept = password.take().or_else(|| {
        let (token, origin) = written?;
        Some(Given { value: Credential::from(token.clone()), origin: origin.clone() })
    });
    match (kept, server) {
        (None, None) => Err(refuse(&mechanism, origin, "nothing says where the tokens come from", SOURCES)),
        (Some(kept), Some(server)) => {
            let why = format!("the token is also given by what would be the password ({})", kept.origin);
            let hint = "keep one of the two: the `oauth_` keys, or `sasl_password_command` and its like";
            Err(refuse("kafka.oauth_token_url", &server.origin, why, hint))
        }
        (Some(kept), None) => Ok(Some(TokenSource::Kept(kept.value))),
        (None, Some(server)) => Ok(Some(TokenSource::Server(server.value))),
    }
}

/// A text that is shown, and not empty.
fn text(reader: &mut Reader, key: &str) -> Result<Option<Given<String>>> {
    let place = format!("kafka.{key}");
    let Some(given) = reader.given_text("kafka", key, None)? else {
        reader.note(place, "", &Origin::Default);
        return Ok(None);
    };
    if given.value.is_empty() || given.value.contains(char::is_control) {
        let why = "it is empty, or holds a control character";
        return Err(refuse(&place, &given.origin, why, "give it a value, or leave the key out"));
    }
    reader.note(place, &given.value, &given.origin);
    Ok(Some(given))
}

fn secret(reader: &mut Reader) -> Result<Option<Given<Credential>>> {
    let kept = password::kept(reader, "kafka", "oauth_client_secret_file", "oauth_client_secret_command")?;
    let variable = reader.environment.text(KAFKA_OAUTH_CLIENT_SECRET)?.map(|secret| Given {
        value: Credential::from(Secret::new(secret)),
        origin: Origin::Environment(KAFKA_OAUTH_CLIENT_SECRET),
    });
    let given = variable.or(kept);
    let shown = given.as_ref().map_or_else(String::new, |_| Secret::default().to_string());
    let origin = given.as_ref().map_or(Origin::Default, |given| given.origin.clone());
    reader.note("kafka.oauth_client_secret", shown, &origin);
    Ok(given)
}

/// Whether this can be asked for a token. The URL itself is in no message: a password may be written in it.
fn check(url: &str) -> Result<(), &'static str> {
    let authority = http_authority(url)?;
    if authority.as_str().contains('@') {
        return Err("a user or a password is in it");
    }
    Ok(())
}

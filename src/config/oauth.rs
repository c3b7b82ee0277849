//! `[kafka]` with `sasl.mechanism = "OAUTHBEARER"`: where the tokens come from. Either a password's place holds one (a command prints
//! it), or a server gives it to a client.

use std::collections::BTreeMap;

use super::environment::KAFKA_OAUTH_CLIENT_SECRET;
use super::origin::{Given, Origin};
use super::reader::Section;
use super::url::http_authority;
use super::{Credential, Secret, TokenServer, TokenSource, password};
use crate::error::Result;

/// The properties by which a client is told to log in, and how.
pub type Properties = BTreeMap<String, Given<Secret>>;

const MECHANISMS: [&str; 2] = ["sasl.mechanism", "sasl.mechanisms"];

/// The two ways to get a token.
const SOURCES: &str = "set `sasl_password_command` in [kafka], or `oauth_token_url` with a client's id and secret";

/// Refuses what librdkafka offers by itself: that needs libcurl, or makes tokens that nobody has signed.
///
/// # Errors
/// 78 if `name` is such a property.
pub fn refuse_librdkafkas_own<T>(name: &str, given: &Given<T>) -> Result<()> {
    if !name.contains("sasl.oauthbearer") {
        return Ok(());
    }
    let why = "pg2ch gets the tokens itself, and not through librdkafka";
    Err(given.refuse(why, &format!("take it out of [kafka.properties] and {SOURCES}")))
}

/// Reads the keys of a server that gives out tokens, if there are any.
///
/// # Errors
/// 78 if one is missing or refused.
pub fn server(section: &mut Section<'_>) -> Result<Option<Given<TokenServer>>> {
    let url = text(section, "oauth_token_url")?;
    let client_id = text(section, "oauth_client_id")?;
    let client_secret = secret(section)?;
    let scope = text(section, "oauth_scope")?;
    let texts = [&url, &client_id, &scope].into_iter().flatten().map(|given| &given.origin);
    // The variable alone may be meant for another configuration.
    let secrets = client_secret.iter().map(|given| &given.origin);
    let in_file = secrets.filter(|origin| !matches!(origin, Origin::Environment(_)));
    let Some(origin) = texts.chain(in_file).next().cloned() else { return Ok(None) };
    let place = section.place("oauth_token_url");
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
            return Err(origin.refuse(&place, format!("`{missing}` is not set"), &hint));
        }
    };
    check(&url.value).map_err(|why| {
        let hint = "write the address of the token endpoint, such as \"https://login.example.org/oauth2/token\", without user and password";
        url.refuse(why, hint)
    })?;
    let value = TokenServer {
        url: url.value,
        client_id: client_id.value,
        client_secret: client_secret.value,
        scope: scope.map(|given| given.value),
    };
    Ok(Some(Given { value, place, origin }))
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
    let is_wanted = |given: &&Given<Secret>| given.value.reveal().eq_ignore_ascii_case("OAUTHBEARER");
    let Some(mechanism) = MECHANISMS.iter().find_map(|name| properties.get(*name).filter(is_wanted)) else {
        let Some(server) = server else { return Ok(None) };
        let why = "`sasl.mechanism` is not OAUTHBEARER, so no token is asked for";
        let hint = "set `sasl.mechanism = \"OAUTHBEARER\"` in [kafka.properties], or take the `oauth_` keys out";
        return Err(server.refuse(why, hint));
    };
    let protocol = properties.get("security.protocol").map(|given| given.value.reveal().to_ascii_uppercase());
    if !protocol.is_some_and(|protocol| protocol.starts_with("SASL")) {
        let why = "`security.protocol` is neither SASL_SSL nor SASL_PLAINTEXT, so nothing logs in";
        return Err(mechanism.refuse(why, "set `security.protocol = \"SASL_SSL\"` in [kafka.properties]"));
    }
    let written = properties.get("sasl.password").cloned().map(|given| given.map(Credential::from));
    match (password.take().or(written), server) {
        (None, None) => Err(mechanism.refuse("nothing says where the tokens come from", SOURCES)),
        (Some(kept), Some(server)) => {
            let why = format!("the token is also given by what would be the password ({})", kept.origin);
            let hint = "keep one of the two: the `oauth_` keys, or `sasl_password_command` and its like";
            Err(server.refuse(why, hint))
        }
        (Some(kept), None) => Ok(Some(TokenSource::Kept(kept.value))),
        (None, Some(server)) => Ok(Some(TokenSource::Server(server.value))),
    }
}

/// A text that is shown, and not empty.
fn text(section: &mut Section<'_>, key: &str) -> Result<Option<Given<String>>> {
    section.optional(key, |section, key| {
        section.parsed(key, None, "give it a value, or leave the key out", |text| {
            if text.is_empty() || text.contains(char::is_control) {
                return Err("it is empty, or holds a control character".to_owned());
            }
            Ok(text.to_owned())
        })
    })
}

fn secret(section: &mut Section<'_>) -> Result<Option<Given<Credential>>> {
    let kept = password::kept(section, "oauth_client_secret_file", "oauth_client_secret_command")?;
    let variable = section.variable("oauth_client_secret", KAFKA_OAUTH_CLIENT_SECRET)?;
    let given = variable.map(|given| given.map(Credential::known)).or(kept);
    section.note_secret("oauth_client_secret", given.as_ref());
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

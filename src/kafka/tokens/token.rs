//! What a source of tokens hands out: the token, and when it ends.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::config::Secret;
use crate::page;

/// How long a token is taken to live that does not say so.
const USUAL_LIFE: Duration = Duration::from_secs(300);

/// What is left of a token's life when it counts as over: it has to reach the broker.
const MARGIN: Duration = Duration::from_secs(1);

/// A token, as librdkafka wants to know it.
#[derive(Clone, Debug)]
pub struct Token {
    /// What the brokers are shown.
    pub value: Secret,
    /// Whose it is, for librdkafka's log lines.
    pub principal: String,
    /// When it ends.
    pub expires: SystemTime,
}

impl Token {
    /// Reads a token that stands alone, or the answer of a token server (RFC 6749, section 5.1). Of several ends of its life the first
    /// counts.
    ///
    /// # Errors
    /// Why `text` is neither. Nothing of it is in the error.
    pub fn read(text: &str, now: SystemTime) -> Result<Self, String> {
        let text = text.trim();
        if let Some(page) = page::title(text.as_bytes()) {
            return Err(format!("it is {page}"));
        }
        let (value, life) = if text.starts_with('{') { answer(text)? } else { (text.to_owned(), None) };
        if value.is_empty() || !value.chars().all(|c| c.is_ascii_alphanumeric() || "-._~+/=".contains(c)) {
            return Err("it is not a token: it holds other characters than A-Z a-z 0-9 - . _ ~ + / =".into());
        }
        let claims = claims(&value);
        let claimed = claims.as_ref().and_then(|claims| Some(Duration::from_secs_f64(seconds(claims.get("exp")?)?)));
        let signed = presigned(&value);
        let stated = life.map(|life| now + life);
        let ends = [claimed, signed].map(|end| end.and_then(|end| SystemTime::UNIX_EPOCH.checked_add(end)));
        let expires = ends.into_iter().chain([stated]).flatten().min().unwrap_or(now + USUAL_LIFE);
        let subject = claims.as_ref().and_then(|claims| claims.get("sub")?.as_str());
        let principal = subject.filter(|sub| !sub.is_empty() && !sub.contains('\0')).unwrap_or("pg2ch").to_owned();
        Ok(Self { value: Secret::new(value), principal, expires })
    }

    /// Whether it is good for a while.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.expires > SystemTime::now() + MARGIN
    }
}

/// The token in a server's answer, and how long it lives. Azure's command has another name for it.
fn answer(text: &str) -> Result<(String, Option<Duration>), String> {
    let answer: Value = serde_json::from_str(text).map_err(|_| "it is not JSON")?;
    let token = ["access_token", "accessToken"].iter().find_map(|name| answer.get(name)?.as_str());
    let token = token.ok_or("it is a JSON object without `access_token`")?;
    let life = answer.get("expires_in").and_then(seconds).map(Duration::from_secs_f64);
    Ok((token.to_owned(), life))
}

/// A number of seconds, which some servers write as a string. Beyond a century it is none.
fn seconds(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    (0.0..1e10).contains(&number).then_some(number)
}

/// What a JWT says of itself (RFC 7519). Whether that is true the brokers know.
fn claims(token: &str) -> Option<Value> {
    let mut parts = token.split('.');
    let claims = (parts.next()?, parts.next()?, parts.next()?).1;
    serde_json::from_slice(&base64url(claims)?).ok()
}

/// When a signed request ends that stands in a token, as those of Amazon MSK have it: seconds since 1970.
fn presigned(token: &str) -> Option<Duration> {
    let url = String::from_utf8(base64url(token)?).ok()?;
    let query = url.strip_prefix("https://")?.split_once('?')?.1;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let date = pairs.clone().find(|(name, _)| *name == "X-Amz-Date")?.1;
    let life = pairs.find(|(name, _)| *name == "X-Amz-Expires")?.1;
    let signed = openssl::asn1::Asn1Time::from_str(&date.replace('T', "")).ok()?;
    let since = openssl::asn1::Asn1Time::from_unix(0).ok()?.diff(&signed).ok()?;
    let seconds = i64::from(since.days) * 86_400 + i64::from(since.secs);
    Some(Duration::from_secs(u64::try_from(seconds).ok()?) + Duration::from_secs(life.parse::<u32>().ok()?.into()))
}

/// Base64 in the alphabet for URLs, with its padding or without.
fn base64url(text: &str) -> Option<Vec<u8>> {
    let mut text = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    openssl::base64::decode_block(&text).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + NOW
    }

    fn encoded(text: &str) -> String {
        openssl::base64::encode_block(text.as_bytes()).replace('+', "-").replace('/', "_").replace('=', "")
    }

    /// The seconds that a token is taken to live, and its principal.
    fn read(text: &str) -> (u64, String) {
        let token = Token::read(text, now()).unwrap();
        (token.expires.duration_since(now()).unwrap().as_secs(), token.principal)
    }

    #[test]
    fn a_tokens_life_is_read_from_what_it_says_and_from_what_is_said_of_it() {
        let jwt = |claims: &str| format!("{}.{}.c2ln", encoded("{\"alg\":\"RS256\"}"), encoded(claims));
        let of_app = jwt("{\"sub\":\"app\",\"exp\":1700000600}");
        assert_eq!(read(&format!("{of_app}\n")), (600, "app".into()));
        assert_eq!(read(&jwt("{\"exp\":1700000600.5}")), (600, "pg2ch".into()));
        assert_eq!(read("opaque"), (300, "pg2ch".into()));
        assert_eq!(read(&jwt("{\"exp\":1e300}")), (300, "pg2ch".into()));
        assert_eq!(read("{\n \"access_token\": \"opaque\",\n \"expires_in\": 3599\n}"), (3599, "pg2ch".into()));
        assert_eq!(read("{\"accessToken\": \"opaque\", \"expires_in\": \"60\"}").0, 60);
        assert_eq!(read(&format!("{{\"access_token\": \"{of_app}\", \"expires_in\": 60}}")), (60, "app".into()));
        assert_eq!(read(&format!("{{\"access_token\": \"{of_app}\", \"expires_in\": 6000}}")), (600, "app".into()));
    }

    #[test]
    fn the_life_of_a_signed_request_is_read_from_its_date() {
        let url = |date: &str| {
            format!(
                "https://kafka.eu-central-1.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256&\
                 X-Amz-Date={date}&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=ab&User-Agent=x"
            )
        };
        // 1,700,000,000 is 22:13:20.
        assert_eq!(read(&encoded(&url("20231114T221320Z"))).0, 900);
        assert_eq!(read(&encoded(&url("20231114T221220Z"))).0, 840);
        assert_eq!(read(&encoded(&url("yesterday"))).0, 300);
    }

    #[test]
    fn what_is_no_token_is_reported_without_being_shown() {
        for (text, why) in [
            ("<!DOCTYPE html><html><head><title>Sign in</title></head>hunter2", "a web page, titled \"Sign in\""),
            ("hunter2 hunter2", "not a token"),
            ("hunter2\nhunter2", "not a token"),
            ("('hunter2', 1700000000000)", "not a token"),
            ("", "not a token"),
            ("{hunter2", "not JSON"),
            ("{\"token\": \"hunter2\"}", "without `access_token`"),
            ("{\"access_token\": \"\"}", "not a token"),
        ] {
            let error = Token::read(text, now()).unwrap_err();
            assert!(error.contains(why) && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}

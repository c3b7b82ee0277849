//! The URLs of PostgreSQL and ClickHouse, taken apart without ever showing one: a password that was not
//! percent-encoded may stand in any part of a malformed URL, so a refusal names the part and never quotes it.

mod clickhouse;
mod postgres;

use std::net::Ipv6Addr;

use ureq::http::Uri;
use ureq::http::uri::Authority;

pub use clickhouse::ClickHouseUrl;

/// The host, and what stands with it, of a URL of the web.
///
/// # Errors
/// Why it is none.
pub fn http_authority(url: &str) -> Result<Authority, &'static str> {
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err("it does not start with https:// or http://");
    }
    let uri: Uri = url.parse().map_err(|_| "it is not a URL")?;
    uri.into_parts().authority.filter(|authority| !authority.host().is_empty()).ok_or("it names no host")
}

/// What stands between `scheme://` and the end of a URL; all but path and query percent-decoded.
struct Parts<'a> {
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<(String, Option<u16>)>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// The hosts are separated by commas.
    fn split(rest: &'a str) -> Result<Self, String> {
        let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        // An @ further on means that a password with a / or ? in it has been cut in two: nothing below could be trusted.
        if tail.contains('@') || authority.matches('@').count() > 1 {
            return Err(
                "it has an `@` too many: in user and password, `@` is written %40, `/` %2F, `?` %3F and `#` %23"
                    .to_owned(),
            );
        }
        if tail.contains('#') {
            return Err("it has a `#`, which is written %23".to_owned());
        }
        let (path, query) = match tail.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (tail, None),
        };
        let (login, address) = match authority.split_once('@') {
            Some((login, address)) => (Some(login), address),
            None => (None, authority),
        };
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (Some(decode(user, "the user")?), Some(decode(password, "the password")?)),
            None => (None, None),
        };
        let hosts = address.split(',').map(host_and_port).collect::<Result<_, _>>()?;
        Ok(Self { user, password: password.filter(|p| !p.is_empty()), hosts, path, query })
    }
}

fn host_and_port(address: &str) -> Result<(String, Option<u16>), String> {
    let (host, port_text) = if let Some(rest) = address.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("a `[` is not closed")?;
        host.parse::<Ipv6Addr>().map_err(|_| "the brackets do not hold an IPv6 address")?;
        (host.to_owned(), after)
    } else {
        let (host, port) = address.split_at(address.find(':').unwrap_or(address.len()));
        if port.matches(':').count() > 1 {
            return Err("write an IPv6 address in brackets".to_owned());
        }
        (decode(host, "the host")?, port)
    };
    match port_text.strip_prefix(':') {
        None if port_text.is_empty() => Ok((host, None)),
        Some("") => Ok((host, None)),
        Some(text) => Ok((host, Some(port(text)?))),
        None => Err("something other than a port follows the closing bracket".to_owned()),
    }
}

/// A port's number.
///
/// # Errors
/// The reason, if it is none.
pub fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err("the port is not a number from 1 to 65535".to_owned()),
    }
}

/// Whether it is a host's name or address, or the path of a Unix socket where that may be.
///
/// # Errors
/// The reason, if it is not.
pub fn check_host(host: &str, may_be_socket: bool) -> Result<(), String> {
    if may_be_socket && host.starts_with('/') {
        return Ok(());
    }
    let is_name = host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if is_name || host.parse::<Ipv6Addr>().is_ok() {
        Ok(())
    } else {
        Err("the host is neither a name nor an address".to_owned())
    }
}

fn strip_scheme<'t>(text: &'t str, schemes: &[&'static str]) -> Option<(&'static str, &'t str)> {
    let (scheme, rest) = text.split_once("://")?;
    schemes.iter().find(|known| scheme.eq_ignore_ascii_case(known)).map(|known| (*known, rest))
}

fn decode(text: &str, part: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (Some(high), Some(low)) = (hex(rest.first()), hex(rest.get(1))) else {
            return Err(format!(
                "in {part}, a `%` is not followed by two hexadecimal digits (a `%` itself is written %25)"
            ));
        };
        bytes.push(high << 4 | low);
        rest = &rest[2..];
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{part} is not UTF-8 once it is percent-decoded"))?;
    if text.contains('\0') { Err(format!("{part} holds a NUL")) } else { Ok(text) }
}

fn hex(digit: Option<&u8>) -> Option<u8> {
    digit.and_then(|d| char::from(*d).to_digit(16)).and_then(|d| u8::try_from(d).ok())
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;

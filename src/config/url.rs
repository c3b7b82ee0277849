//! The URLs of PostgreSQL and ClickHouse, taken apart without ever showing one: a password that was not
//! percent-encoded may stand in any part of a malformed URL, so a refusal names the part and never quotes it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::{Secret, SessionOptions, SslMode};

/// What a PostgreSQL URL says.
#[derive(Debug)]
pub struct PostgresUrl {
    /// In the order in which they are tried. Never empty.
    pub hosts: Vec<(String, u16)>,
    pub session: SessionOptions,
    pub user: String,
    pub password: Option<Secret>,
    pub dbname: String,
    /// As given; [`SslMode`]'s default depends on the host and is applied already.
    pub ssl_mode: SslMode,
    /// Relative paths are still relative.
    pub ssl_root_cert: Option<PathBuf>,
    pub ssl_client: Option<(PathBuf, PathBuf)>,
    pub connect_timeout: Option<Duration>,
}

/// Where ClickHouse answers. It prints as one URL, with all its hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClickHouseUrl {
    /// `http` or `https`.
    scheme: &'static str,
    /// Each with its port, as URLs write them; at least one.
    pub hosts: Vec<String>,
    /// Without a slash at the end.
    path: String,
}

impl PostgresUrl {
    /// Takes `text` apart as libpq does.
    ///
    /// # Errors
    /// The reason, without any part of the URL except the name of a parameter.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = strip_scheme(text, &["postgres", "postgresql"])
            .ok_or("it does not begin with postgres:// or postgresql://")?
            .1;
        let parts = Parts::split(rest)?;
        let dbname = decode(parts.path.strip_prefix('/').unwrap_or(parts.path), "the database")?;
        let mut fields = Fields {
            hosts: parts.hosts,
            user: parts.user,
            password: parts.password,
            dbname: Some(dbname),
            ..Fields::default()
        };
        fields.read_parameters(parts.query.unwrap_or(""))?;
        fields.finish()
    }

    /// The URL without its password, as it takes effect.
    #[must_use]
    pub fn masked(&self) -> String {
        let shown = |host: &str| if host.contains(':') { format!("[{host}]") } else { encode(host) };
        let hosts: Vec<_> = self.hosts.iter().map(|(host, port)| format!("{}:{port}", shown(host))).collect();
        let mode = self.ssl_mode.name();
        let (user, dbname) = (encode(&self.user), encode(&self.dbname));
        let mut url = format!("postgres://{user}@{}/{dbname}?sslmode={mode}", hosts.join(","));
        let client = self.ssl_client.as_ref();
        for (name, path) in [
            ("sslrootcert", self.ssl_root_cert.as_ref()),
            ("sslcert", client.map(|(certificate, _)| certificate)),
            ("sslkey", client.map(|(_, key)| key)),
        ] {
            if let Some(path) = path {
                url.push_str(&format!("&{name}={}", encode(&path.to_string_lossy())));
            }
        }
        for (name, value) in self.session.parameters() {
            url.push_str(&format!("&{name}={}", encode(&value)));
        }
        url
    }
}

/// The pieces of a PostgreSQL URL while its parameters are read.
#[derive(Default)]
struct Fields {
    hosts: Vec<(String, Option<u16>)>,
    /// Those of the parameter, one for all hosts or one for each.
    ports: Vec<u16>,
    session: SessionOptions,
    user: Option<String>,
    password: Option<String>,
    dbname: Option<String>,
    ssl_mode: Option<String>,
    ssl_root_cert: Option<String>,
    ssl_cert: Option<String>,
    ssl_key: Option<String>,
    connect_timeout: Option<Duration>,
}

impl Fields {
    fn read_parameters(&mut self, query: &str) -> Result<(), String> {
        let mut seen = Vec::new();
        for parameter in query.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or("a parameter has no `=` after its name")?;
            let value = decode(value, "a parameter")?;
            if seen.contains(&name) {
                return Err(format!("the parameter `{}` is set twice", presentable(name)));
            }
            seen.push(name);
            match name {
                "host" => self.hosts = value.split(',').map(|host| (host.to_owned(), None)).collect(),
                "port" => self.ports = value.split(',').map(port).collect::<Result<_, _>>()?,
                "user" => self.user = Some(value),
                "password" => self.password = Some(value),
                "dbname" => self.dbname = Some(value),
                "sslmode" => self.ssl_mode = Some(value),
                "sslrootcert" => self.ssl_root_cert = Some(value).filter(|v| !v.is_empty()),
                "sslcert" => self.ssl_cert = Some(value).filter(|v| !v.is_empty()),
                "sslkey" => self.ssl_key = Some(value).filter(|v| !v.is_empty()),
                "connect_timeout" => self.connect_timeout = Some(connect_timeout(&value)?),
                other if self.session.read(other, &value)? => {}
                other => {
                    return Err(format!(
                        "unknown parameter `{}`; pg2ch takes sslmode, sslrootcert, sslcert, sslkey, \
                         connect_timeout, host, port, user, password, dbname, target_session_attrs, channel_binding, options, \
                         application_name, keepalives, keepalives_idle, keepalives_interval and keepalives_count",
                        presentable(other)
                    ));
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<PostgresUrl, String> {
        let user = self.user.filter(|u| !u.is_empty()).ok_or("it names no user")?;
        if self.ports.len() > 1 && self.ports.len() != self.hosts.len() {
            return Err("the numbers of hosts and ports differ".to_owned());
        }
        let mut hosts = Vec::new();
        for (at, (host, port)) in self.hosts.into_iter().enumerate() {
            let host = if host.is_empty() { "localhost".to_owned() } else { host };
            hosts.push((host, self.ports.get(at).or(self.ports.first()).copied().or(port).unwrap_or(5432)));
        }
        for (host, _) in &hosts {
            check_host(host, true)?;
        }
        let is_socket = hosts.iter().all(|(host, _)| host.starts_with('/'));
        let mode = match self.ssl_mode.as_deref().filter(|m| !m.is_empty()) {
            Some(mode) => Some(ssl_mode(mode)?),
            None => None,
        };
        let ssl_client = match (self.ssl_cert, self.ssl_key) {
            (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
            (None, None) => None,
            _ => return Err("sslcert and sslkey need each other".to_owned()),
        };
        let from_system = self.ssl_root_cert.as_deref() == Some("system");
        if from_system && mode.is_some_and(|m| m != SslMode::VerifyFull) {
            return Err("sslrootcert=system requires sslmode=verify-full: any authority would do otherwise".to_owned());
        }
        let is_here = hosts.iter().all(|(host, _)| host.starts_with('/') || is_loopback(host));
        let by_default = if is_here && !from_system { SslMode::Disable } else { SslMode::VerifyFull };
        Ok(PostgresUrl {
            // As in libpq: no TLS on a Unix socket, whatever sslmode says.
            ssl_mode: if is_socket { SslMode::Disable } else { mode.unwrap_or(by_default) },
            session: self.session,
            password: self.password.filter(|p| !p.is_empty()).map(Secret::new),
            dbname: self.dbname.filter(|d| !d.is_empty()).unwrap_or_else(|| user.clone()),
            ssl_root_cert: self.ssl_root_cert.filter(|_| !from_system).map(PathBuf::from),
            ssl_client,
            connect_timeout: self.connect_timeout,
            hosts,
            user,
        })
    }
}

impl SessionOptions {
    /// Takes a parameter; `false` if it is none of these.
    fn read(&mut self, name: &str, value: &str) -> Result<bool, String> {
        let number = || value.parse::<u32>().map_err(|_| format!("{name} is not a whole number"));
        match (name, value) {
            ("target_session_attrs", "any") => self.read_write = false,
            ("target_session_attrs", "read-write" | "primary") => self.read_write = true,
            ("target_session_attrs", _) => {
                return Err("target_session_attrs must be any, read-write or primary: a run writes".to_owned());
            }
            ("channel_binding", "prefer") => self.channel_binding = None,
            ("channel_binding", "require") => self.channel_binding = Some(true),
            ("channel_binding", "disable") => self.channel_binding = Some(false),
            ("channel_binding", _) => return Err("channel_binding is one of prefer, require and disable".to_owned()),
            ("options", _) => self.options = Some(value.to_owned()),
            ("application_name", _) => self.application_name = Some(value.to_owned()),
            ("keepalives", _) => self.no_keepalives = number()? == 0,
            ("keepalives_idle", _) => self.keepalives_idle = Some(number()?),
            ("keepalives_interval", _) => self.keepalives_interval = Some(number()?),
            ("keepalives_count", _) => self.keepalives_count = Some(number()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The parameters that say the same.
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let text = |name, value: Option<String>| value.map(|value| (name, value));
        let binding = |required| if required { "require" } else { "disable" };
        [
            text("target_session_attrs", self.read_write.then(|| "read-write".into())),
            text("channel_binding", self.channel_binding.map(|required| binding(required).into())),
            text("options", self.options.clone()),
            text("application_name", self.application_name.clone()),
            text("keepalives", self.no_keepalives.then(|| "0".into())),
            text("keepalives_idle", self.keepalives_idle.map(|seconds| seconds.to_string())),
            text("keepalives_interval", self.keepalives_interval.map(|seconds| seconds.to_string())),
            text("keepalives_count", self.keepalives_count.map(|count| count.to_string())),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl SslMode {
    /// The word that libpq uses for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

fn ssl_mode(word: &str) -> Result<SslMode, String> {
    [SslMode::Disable, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull]
        .into_iter()
        .find(|mode| mode.name() == word)
        .ok_or_else(|| "sslmode is one of disable, prefer, require, verify-ca and verify-full".to_owned())
}

fn connect_timeout(value: &str) -> Result<Duration, String> {
    match value.parse() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        // libpq takes 0 as "for ever"; every call of pg2ch has a limit.
        _ => Err("connect_timeout is a whole number of seconds from 1 to 3600".to_owned()),
    }
}

impl ClickHouseUrl {
    /// Takes `text` apart; also gives the user and the password in it.
    ///
    /// # Errors
    /// The reason, without any part of the URL.
    pub fn parse(text: &str) -> Result<(Self, String, Option<Secret>), String> {
        let (scheme, rest) =
            strip_scheme(text, &["http", "https"]).ok_or("it does not begin with http:// or https://")?;
        let parts = Parts::split(rest)?;
        if let Some(query) = parts.query {
            return Err(if query.split('&').any(|p| p.starts_with("database=")) {
                "it names a database, which belongs in the table's `target = \"database.table\"`".to_owned()
            } else {
                "it has parameters after a `?`, and pg2ch sets every one itself".to_owned()
            });
        }
        if parts.path.chars().any(|c| !c.is_ascii_graphic()) {
            return Err("its path has a character that needs percent-encoding".to_owned());
        }
        let controls = |text: &Option<String>| text.iter().any(|t| t.chars().any(char::is_control));
        if controls(&parts.user) || controls(&parts.password) {
            return Err("the user or the password has a control character".to_owned());
        }
        let hosts = parts.hosts.into_iter().map(shown_host).collect::<Result<_, _>>()?;
        let user = parts.user.filter(|u| !u.is_empty()).unwrap_or_else(|| "default".to_owned());
        let path = parts.path.trim_end_matches('/').to_owned();
        Ok((Self { scheme, hosts, path }, user, parts.password.map(Secret::new)))
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    /// A URL for each host, in their order.
    pub fn each(&self) -> impl Iterator<Item = String> {
        self.hosts.iter().map(|host| format!("{}://{host}{}", self.scheme, self.path))
    }
}

impl fmt::Display for ClickHouseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.hosts.join(","), self.path)
    }
}

/// A host as a URL of ClickHouse writes it.
fn shown_host((name, port): (String, Option<u16>)) -> Result<String, String> {
    if name.is_empty() {
        return Err("it names no host".to_owned());
    }
    check_host(&name, false)?;
    let port = port.map(|p| format!(":{p}")).unwrap_or_default();
    Ok(if name.contains(':') { format!("[{name}]{port}") } else { format!("{name}{port}") })
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

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port @ 1..) => Ok(port),
        _ => Err("the port is not a number from 1 to 65535".to_owned()),
    }
}

fn check_host(host: &str, may_be_socket: bool) -> Result<(), String> {
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

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn strip_scheme<'t>(text: &'t str, schemes: &[&'static str]) -> Option<(&'static str, &'t str)> {
    let (scheme, rest) = text.split_once("://")?;
    schemes.iter().find(|known| scheme.eq_ignore_ascii_case(known)).map(|known| (*known, rest))
}

/// A parameter's name, if it looks like one and not like a piece of a password.
fn presentable(name: &str) -> &str {
    if name.len() <= 32 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') { name } else { "…" }
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

fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;

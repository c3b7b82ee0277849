//! PostgreSQL's URL, as libpq reads it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{Parts, check_host, decode, port, strip_scheme};
use crate::config::{Credential, PostgresConfig, SessionOptions, SslMode};

impl PostgresConfig {
    /// Takes a URL apart as libpq does; also gives its `connect_timeout`. Relative paths are still relative.
    ///
    /// # Errors
    /// The reason, without any part of the URL except the name of a parameter.
    pub(in crate::config) fn of_url(text: &str) -> Result<(Self, Option<Duration>), String> {
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
    pub(in crate::config) fn masked(&self) -> String {
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

    fn finish(self) -> Result<(PostgresConfig, Option<Duration>), String> {
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
        let mode = self.ssl_mode.as_deref().filter(|m| !m.is_empty()).map(ssl_mode).transpose()?;
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
        let config = PostgresConfig {
            // As in libpq: no TLS on a Unix socket, whatever sslmode says.
            ssl_mode: if is_socket { SslMode::Disable } else { mode.unwrap_or(by_default) },
            session: self.session,
            password: self.password.filter(|p| !p.is_empty()).map(Credential::known),
            dbname: self.dbname.filter(|d| !d.is_empty()).unwrap_or_else(|| user.clone()),
            ssl_root_cert: self.ssl_root_cert.filter(|_| !from_system).map(PathBuf::from),
            ssl_client,
            hosts,
            user,
            pause_percent: None,
            max_replication_lag: None,
        };
        Ok((config, self.connect_timeout))
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

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A parameter's name, if it looks like one and not like a piece of a password.
fn presentable(name: &str) -> &str {
    if name.len() <= 32 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') { name } else { "…" }
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

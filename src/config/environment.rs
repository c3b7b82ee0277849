//! The environment variables that pg2ch reads, taken once, so that a test can give its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use super::value;
use crate::error::{Error, Result};

/// The URL of PostgreSQL, maybe with a password.
pub const POSTGRES_URL: &str = "PG2CH_POSTGRES_URL";
/// Kafka's bootstrap servers.
pub const KAFKA_BROKERS: &str = "PG2CH_KAFKA_BROKERS";
/// The password of SASL.
pub const KAFKA_SASL_PASSWORD: &str = "PG2CH_KAFKA_SASL_PASSWORD";
/// The secret with which pg2ch asks for tokens of OAUTHBEARER.
pub const KAFKA_OAUTH_CLIENT_SECRET: &str = "PG2CH_KAFKA_OAUTH_CLIENT_SECRET";
/// The URL of ClickHouse, maybe with a password.
pub const CLICKHOUSE_URL: &str = "PG2CH_CLICKHOUSE_URL";
/// The password of ClickHouse.
pub const CLICKHOUSE_PASSWORD: &str = "PG2CH_CLICKHOUSE_PASSWORD";
/// The configuration file.
pub const CONFIG: &str = "PG2CH_CONFIG";
/// What log lines look like.
pub const LOG_FORMAT: &str = "PG2CH_LOG_FORMAT";
/// libpq's variable with the password of PostgreSQL.
pub const PGPASSWORD: &str = "PGPASSWORD";
/// libpq's variable with the path of `.pgpass`.
pub const PGPASSFILE: &str = "PGPASSFILE";
/// Where systemd puts the credentials of a unit.
pub const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// Where `.pgpass` is.
pub const HOME: &str = "HOME";

/// What each of them says.
pub const VARIABLES: &[(&str, &str)] = &[
    (CONFIG, "The configuration file, unless --config names one."),
    (POSTGRES_URL, "The URL of PostgreSQL, instead of `url` in [postgres]."),
    (PGPASSWORD, "The password of PostgreSQL."),
    (PGPASSFILE, "The file with passwords of PostgreSQL, instead of ~/.pgpass."),
    (KAFKA_BROKERS, "Kafka's brokers, instead of `brokers` in [kafka]."),
    (KAFKA_SASL_PASSWORD, "The password of SASL."),
    (KAFKA_OAUTH_CLIENT_SECRET, "The secret of `oauth_client_id`."),
    (CLICKHOUSE_URL, "The URL of ClickHouse, instead of `url` in [clickhouse]."),
    (CLICKHOUSE_PASSWORD, "The password of ClickHouse."),
    (CREDENTIALS_DIRECTORY, "The directory of relative password files; systemd sets it."),
    (LOG_FORMAT, "What log lines look like, text or json, instead of `log_format` in [run]."),
    (HOME, "Where .pgpass is."),
];

/// Those that only pg2ch reads.
fn ours() -> impl Iterator<Item = &'static str> {
    VARIABLES.iter().map(|(name, _)| *name).filter(|name| name.starts_with("PG2CH_"))
}

/// Whether log lines are to be JSON from the first one on, before any configuration is read.
#[must_use]
pub fn wants_json_log() -> bool {
    std::env::var(LOG_FORMAT).is_ok_and(|format| format == "json")
}

/// The variables of a process. An empty one counts as not set, as in libpq and in compose files.
#[derive(Default)]
pub struct Environment {
    variables: BTreeMap<String, OsString>,
}

impl Environment {
    /// The variables of this process.
    pub fn of_this_process() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
        Self { variables: variables.collect() }
    }

    /// These variables and no others.
    #[cfg(test)]
    pub fn of<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
        Self { variables: variables.collect() }
    }

    /// The value of a variable as text.
    ///
    /// # Errors
    /// 78 if it is not UTF-8.
    pub fn text(&self, name: &'static str) -> Result<Option<String>> {
        let Some(value) = self.variables.get(name).filter(|v| !v.is_empty()) else { return Ok(None) };
        match value.to_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => Err(Error::config(
                format!("cannot read the environment variable {name}"),
                "its value is not UTF-8",
                format!("set {name} again, in UTF-8, or unset it"),
            )),
        }
    }

    /// The value of a variable as a path.
    pub fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.variables.get(name).filter(|v| !v.is_empty()).map(PathBuf::from)
    }

    /// Warns about a variable that looks like a slip for one of ours: it would do nothing, in silence.
    pub fn warn_about_slips(&self) {
        for name in self.variables.keys().filter(|n| n.starts_with("PG2CH_") && !ours().any(|known| known == *n)) {
            let close = value::nearest(name, ours()).filter(|known| name.len().abs_diff(known.len()) <= 2);
            if let Some(known) = close {
                log::warn!("the environment variable {name} is not used by pg2ch; did you mean {known}?");
            }
        }
    }
}

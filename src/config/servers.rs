//! `[postgres]` and `[clickhouse]`: a URL each, and the password from wherever it stands.
//!
//! Of several passwords the first of these counts: the one in the URL that the environment gives, the password variable,
//! `password_file` or `password_command`, the one in the URL of the file or the default; for PostgreSQL, and where there is none,
//! `.pgpass`.

use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::credential::open;
use super::environment::{CLICKHOUSE_PASSWORD, CLICKHOUSE_URL, PGPASSWORD, POSTGRES_URL};
use super::origin::{Given, Origin};
use super::reader::{Reader, Section};
use super::url::ClickHouseUrl;
use super::{ClickHouseConfig, Credential, PostgresConfig, Secret, password};
use crate::error::Result;

const POSTGRES_DEFAULT: &str = "postgres://app:app@localhost:5432/app";
const CLICKHOUSE_DEFAULT: &str = "http://app:app@localhost:8123";

const PAUSE_PERCENT: RangeInclusive<u64> = 1..=10_000;
const REPLICATION_LAG: RangeInclusive<u64> = (64 << 10)..=(1 << 40);

/// What helps against a certificate that cannot be read.
const PEM_HINT: &str = "name a PEM file that exists and that pg2ch's user may read";

/// Reads `[postgres]`; also gives the URL's `connect_timeout`, if it has one.
///
/// # Errors
/// 78 if a value is refused, or a file that it names cannot be read.
pub fn postgres(reader: &mut Reader) -> Result<(PostgresConfig, Option<Given<Duration>>)> {
    let mut section = reader.section("postgres");
    let hint = "write postgres://user@host:5432/database?sslmode=verify-full, with `@`, `:`, `/`, `?`, `#` and `%` in user \
                and password percent-encoded, and the password better in `password_file` or PGPASSWORD";
    let given = section.text_or("url", POSTGRES_URL, POSTGRES_DEFAULT)?;
    let given = given.read(|url| PostgresConfig::of_url(&url), hint)?;
    let Given { value: (mut config, timeout), place, origin } = given;
    let base = origin.directory();
    let client = config.ssl_client.iter_mut().flat_map(|(certificate, key)| [certificate, key]);
    for path in config.ssl_root_cert.iter_mut().chain(client) {
        *path = base.join(&*path);
        check_readable(path).map_err(|why| origin.refuse(&place, why, PEM_HINT))?;
    }
    section.note("url", config.masked(), &origin);
    let in_url = config.password.take();
    let password = match choose_password(&mut section, PGPASSWORD, in_url, &origin)? {
        Some(password) => Some(password),
        None => password::from_pgpass(&section, &config)?,
    };
    section.note_secret("password", password.as_ref());
    config.password = password.map(|given| given.value);
    config.pause_percent = section.optional("pause_percent", |section, key| section.whole(key, PAUSE_PERCENT, 100))?;
    config.max_replication_lag =
        section.optional("max_replication_lag", |section, key| section.bytes(key, REPLICATION_LAG, 64 << 20))?;
    Ok((config, timeout.map(|value| Given { value, place, origin })))
}

/// Reads `[clickhouse]`.
///
/// # Errors
/// 78 if a value is refused, or a file that it names cannot be read.
pub fn clickhouse(reader: &mut Reader) -> Result<ClickHouseConfig> {
    let mut section = reader.section("clickhouse");
    let hint = "write http://user@host:8123 or https://user@host:8443, with `@`, `:`, `/`, `?`, `#` and `%` in user and \
                password percent-encoded, and the password better in `password_file` or PG2CH_CLICKHOUSE_PASSWORD";
    let given = section.text_or("url", CLICKHOUSE_URL, CLICKHOUSE_DEFAULT)?;
    let Given { value: (url, user, in_url), origin, .. } = given.read(|url| ClickHouseUrl::parse(&url), hint)?;
    section.note("url", url.to_string(), &origin);
    section.note("user", &user, &origin);
    let password = choose_password(&mut section, CLICKHOUSE_PASSWORD, in_url.map(Credential::from), &origin)?;
    section.note_secret("password", password.as_ref());
    let ca_cert = section.path("ca_cert")?;
    if let Some(given) = &ca_cert {
        if !url.is_https() {
            let why = "the connection is not encrypted: the URL begins with http://";
            return Err(given.refuse(why, "make the URL https://…, or take `ca_cert` out"));
        }
        check_readable(&given.value).map_err(|why| given.refuse(why, PEM_HINT))?;
    }
    let password = password.map_or_else(|| Secret::default().into(), |given| given.value);
    Ok(ClickHouseConfig { url, user, password, ca_cert: ca_cert.map(|given| given.value) })
}

fn choose_password(
    section: &mut Section<'_>,
    variable: &'static str,
    in_url: Option<Credential>,
    url_origin: &Origin,
) -> Result<Option<Given<Credential>>> {
    section.reader.file_holds_secret |= in_url.is_some() && matches!(url_origin, Origin::File { .. });
    let place = section.place("url");
    let in_url = in_url.map(|value| Given { value, place, origin: url_origin.clone() });
    if in_url.is_some() && matches!(url_origin, Origin::Environment(_)) {
        return Ok(in_url);
    }
    if let Some(given) = section.variable("password", variable)? {
        return Ok(Some(given.map(Credential::known)));
    }
    Ok(password::kept(section, "password_file", "password_command")?.or(in_url))
}

fn check_readable(path: &Path) -> Result<(), String> {
    open(path).map(drop).map_err(|why| format!("{}: {why}", path.display()))
}

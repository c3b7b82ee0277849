//! `[postgres]` and `[clickhouse]`: a URL each, and the password from wherever it stands.
//!
//! Of several passwords the first of these counts: the one in the URL that the environment gives, the password variable,
//! `password_file` or `password_command`, the one in the URL of the file or the default; for PostgreSQL, and where there is none,
//! `.pgpass`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::credential::open;
use super::environment::{CLICKHOUSE_PASSWORD, CLICKHOUSE_URL, PGPASSWORD, POSTGRES_URL};
use super::origin::Origin;
use super::reader::{Given, Reader, refuse};
use super::url::{ClickHouseUrl, PostgresUrl};
use super::{ClickHouseConfig, Credential, PostgresConfig, Secret, password};
use crate::error::{Error, Result};

const POSTGRES_DEFAULT: &str = "postgres://app:app@localhost:5432/app";
const CLICKHOUSE_DEFAULT: &str = "http://app:app@localhost:8123";

const PAUSE_PERCENT: RangeInclusive<u64> = 1..=10_000;
const REPLICATION_LAG: RangeInclusive<u64> = (64 << 10)..=(1 << 40);

/// Reads `[postgres]`; also gives the URL's `connect_timeout`, if it has one.
///
/// # Errors
/// 78 if a value is refused, or a file that it names cannot be read.
pub fn postgres(reader: &mut Reader) -> Result<(PostgresConfig, Option<Given<Duration>>)> {
    let given = given_url(reader, "postgres", POSTGRES_URL, POSTGRES_DEFAULT)?;
    let mut url = PostgresUrl::parse(&given.value).map_err(|why| {
        let hint = "write postgres://user@host:5432/database?sslmode=verify-full, with `@`, `:`, `/`, `?`, `#` and `%` in user \
                    and password percent-encoded, and the password better in `password_file` or PGPASSWORD";
        refuse("postgres.url", &given.origin, why, hint)
    })?;
    let base = given.origin.directory();
    let absolute = |path: PathBuf| base.join(path);
    url.ssl_root_cert = url.ssl_root_cert.map(absolute);
    url.ssl_client = url.ssl_client.map(|(certificate, key)| (absolute(certificate), absolute(key)));
    let client = url.ssl_client.iter().flat_map(|(certificate, key)| [certificate, key]);
    for path in url.ssl_root_cert.iter().chain(client) {
        check_readable("postgres.url", &given.origin, path)?;
    }
    reader.note("postgres.url", url.masked(), &given.origin);
    let password = match choose_password(reader, "postgres", PGPASSWORD, url.password.take(), &given.origin)? {
        Some(password) => Some(password),
        None => {
            // As in libpq a password may be listed by host; one is asked for, the first.
            let (host, port) = &url.hosts[0];
            password::from_pgpass(&reader.environment, host, *port, &url.dbname, &url.user)?.map(known)
        }
    };
    note_password(reader, "postgres.password", password.as_ref());
    let timeout = url.connect_timeout.map(|value| Given { value, origin: given.origin });
    let config = PostgresConfig {
        hosts: url.hosts,
        session: url.session,
        user: url.user,
        password: password.map(|p| p.value),
        dbname: url.dbname,
        ssl_mode: url.ssl_mode,
        ssl_root_cert: url.ssl_root_cert,
        ssl_client: url.ssl_client,
        pause_percent: reader.optional("postgres", "pause_percent", |reader, section, key| {
            reader.whole(section, key, PAUSE_PERCENT, 100)
        })?,
        max_replication_lag: reader.optional("postgres", "max_replication_lag", |reader, section, key| {
            reader.bytes(section, key, REPLICATION_LAG, 64 << 20)
        })?,
    };
    Ok((config, timeout))
}

/// Reads `[clickhouse]`.
///
/// # Errors
/// 78 if a value is refused, or a file that it names cannot be read.
pub fn clickhouse(reader: &mut Reader) -> Result<ClickHouseConfig> {
    let given = given_url(reader, "clickhouse", CLICKHOUSE_URL, CLICKHOUSE_DEFAULT)?;
    let (url, user, in_url) = ClickHouseUrl::parse(&given.value).map_err(|why| {
        let hint = "write http://user@host:8123 or https://user@host:8443, with `@`, `:`, `/`, `?`, `#` and `%` in user and \
                    password percent-encoded, and the password better in `password_file` or PG2CH_CLICKHOUSE_PASSWORD";
        refuse("clickhouse.url", &given.origin, why, hint)
    })?;
    reader.note("clickhouse.url", url.to_string(), &given.origin);
    reader.note("clickhouse.user", &user, &given.origin);
    let password = choose_password(reader, "clickhouse", CLICKHOUSE_PASSWORD, in_url, &given.origin)?;
    note_password(reader, "clickhouse.password", password.as_ref());
    let ca_cert = reader.path("clickhouse", "ca_cert")?.map(|given| given.value);
    if let Some(path) = &ca_cert {
        let origin = reader.settings.last().map_or(Origin::Default, |setting| setting.origin.clone());
        if !url.is_https() {
            let hint = "make the URL https://…, or take `ca_cert` out";
            return Err(refuse(
                "clickhouse.ca_cert",
                &origin,
                "the connection is not encrypted: the URL begins with http://",
                hint,
            ));
        }
        check_readable("clickhouse.ca_cert", &origin, path)?;
    }
    let password = password.map_or_else(|| Secret::default().into(), |p| p.value);
    Ok(ClickHouseConfig { url, user, password, ca_cert })
}

fn given_url(reader: &mut Reader, section: &str, variable: &'static str, default: &str) -> Result<Given<String>> {
    let given = reader.given_text(section, "url", Some(variable))?;
    Ok(given.unwrap_or_else(|| Given { value: default.to_owned(), origin: Origin::Default }))
}

fn choose_password(
    reader: &mut Reader,
    section: &str,
    variable: &'static str,
    in_url: Option<Secret>,
    url_origin: &Origin,
) -> Result<Option<Given<Credential>>> {
    reader.file_holds_secret |= in_url.is_some() && matches!(url_origin, Origin::File { .. });
    let in_url = in_url.map(|value| Given { value, origin: url_origin.clone() });
    let in_url = in_url.map(known);
    if in_url.is_some() && matches!(url_origin, Origin::Environment(_)) {
        return Ok(in_url);
    }
    if let Some(text) = reader.environment.text(variable)? {
        return Ok(Some(known(Given { value: Secret::new(text), origin: Origin::Environment(variable) })));
    }
    Ok(password::kept(reader, section, "password_file", "password_command")?.or(in_url))
}

fn known(given: Given<Secret>) -> Given<Credential> {
    Given { value: given.value.into(), origin: given.origin }
}

fn note_password(reader: &mut Reader, key: &str, password: Option<&Given<Credential>>) {
    match password {
        Some(given) => reader.note(key, Secret::default().to_string(), &given.origin),
        None => reader.note(key, "", &Origin::Default),
    }
}

fn check_readable(place: &str, origin: &Origin, path: &Path) -> Result<()> {
    let fail = |why: String| -> Error {
        refuse(
            place,
            origin,
            format!("{}: {why}", path.display()),
            "name a PEM file that exists and that pg2ch's user may read",
        )
    };
    open(path).map(drop).map_err(fail)
}

//! Opens sessions: TLS as libpq's `sslmode` means it, and every setting that shapes a value's text pinned.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
use openssl::x509::store::X509StoreBuilder;
use postgres::config::{ChannelBinding, SslMode as WireMode, TargetSessionAttrs};
use postgres::error::{DbError, SqlState};
use postgres::{Client, NoTls};
use postgres_openssl::MakeTlsConnector;

use super::answers::{Answers, answers_of};
use super::explain::{chain, explain};
use super::nature::{self, Nature};
use super::session::Session;
use super::source_table::quote;
use crate::certificates;
use crate::config::{Config, Credential, PostgresConfig, Secret, SslMode};
use crate::error::{Error, ExitCode, Result};
use crate::run_id::RunId;
use crate::sync;
use crate::threads::watchdog::Watchdog;

/// Settings that change how a value or a name looks as text, how long a session may work, or how long a dead host keeps its
/// lock; a role or a database may have any of them set otherwise.
///
/// The server's keepalives are set here because only they free the advisory lock of a host that has vanished: about a
/// minute instead of the kernel's two hours. `row_security = off` turns a policy that would silently hide rows into an error.
const PINNED: &[(&str, &str)] = &[
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("lc_monetary", "C"),
    ("xmlbinary", "base64"),
    ("xmloption", "content"),
    ("quote_all_identifiers", "off"),
    ("array_nulls", "on"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("client_min_messages", "error"),
    ("row_security", "off"),
    ("idle_in_transaction_session_timeout", "0"),
    ("tcp_keepalives_idle", "20"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
];

/// Opens a session, named `role` among pg2ch's sessions in `pg_stat_activity`.
///
/// # Errors
/// 69 if the server cannot be reached in time, 77 if it refuses the user or the password, 78 if the database does not
/// exist, a certificate file cannot be read, the certificate of either side is refused, or a pooler shares sessions.
pub fn connect(config: &Config, role: &str, watchdog: &Watchdog) -> Result<Session> {
    connect_and_query(None, config, role, &[], "", watchdog).map(|(session, _)| session)
}

/// Opens the session that reads rows.
pub fn connect_reader(config: &Config, watchdog: &Watchdog) -> Result<Session> {
    connect_and_query(None, config, READER, READS, "", watchdog).map(|(session, _)| session)
}

/// A reader's session of an earlier run of this process for this one; `None` if it does not answer any more.
pub fn renew_reader(kept: Session, config: &Config, watchdog: &Watchdog) -> Option<Session> {
    renew(kept, config, READER, READS, "", watchdog).map(|(session, _)| session)
}

/// The role of the session that reads rows.
const READER: &str = "reader";

/// A value's text must not depend on the role's search path (the type names that `regclass` and the like print). Of a cursor the
/// first rows count, not the last.
const READS: &[(&str, &str)] = &[("search_path", "pg_catalog"), ("cursor_tuple_fraction", "0.01")];

/// As [`connect`], through a session that an earlier run of this process has `kept`, if it still answers; with more `settings`. The
/// queries in `then` go out in the same message. Their answers are missing if one has failed: the caller then sends them again by
/// themselves, and reports why.
pub(super) fn connect_and_query(
    kept: Option<Session>,
    config: &Config,
    role: &str,
    settings: &[(&str, &str)],
    then: &str,
    watchdog: &Watchdog,
) -> Result<(Session, Option<Answers>)> {
    if let Some(renewed) = kept.and_then(|session| renew(session, config, role, settings, then, watchdog)) {
        return Ok(renewed);
    }
    let postgres = &config.postgres;
    let what = format!("cannot connect to PostgreSQL at {}", postgres.address());
    // The name resolution and the handshake together get the limit of one connection attempt more.
    let limit = config.timeouts.connect * (1 + u32::try_from(postgres.hosts.len()).unwrap_or(u32::MAX));
    let password = postgres.password.as_ref().map(Credential::take).transpose()?;
    // A pool shows itself by two sessions only: the second is opened beside the first.
    let second =
        (!nature::is_known_unpooled(postgres)).then(|| open_beside(config, password.clone(), role)).transpose()?;
    let mut client =
        watchdog.watch(&what, limit, || open(postgres, password.as_ref(), config.timeouts.connect, role))?;
    // Asked before anything is set or locked: it would be left behind in the sessions of others.
    let nature = watchdog.watch(&what, limit, || Nature::of(&mut client)).map_err(|error| explain(&what, error))?;
    let has_second = second.is_some();
    if let Some(second) = second {
        let second_what = format!("cannot open a second session in PostgreSQL at {}", postgres.address());
        watchdog.watch(&format!("{second_what}, as no pool of one connection can"), limit, || {
            let mut other = second.join().map_err(|_| Error::bug(&second_what, "its thread has ended"))??;
            nature.require_another(&mut other, postgres)
        })?;
    }
    let answers = pin_and_query(&nature, config, settings, then, |sql| {
        let answers = watchdog.watch(&what, limit, || client.simple_query(sql));
        answers.map(answers_of).map_err(|error| explain(&what, error))
    })?;
    if has_second {
        nature::note_unpooled(postgres);
    }
    Ok((Session::new(client, postgres.address(), config.timeouts.postgres, watchdog.clone(), nature), answers))
}

/// A session of an earlier run as if it had just been opened; `None` if it does not answer any more.
fn renew(
    kept: Session,
    config: &Config,
    role: &str,
    settings: &[(&str, &str)],
    then: &str,
    watchdog: &Watchdog,
) -> Option<(Session, Option<Answers>)> {
    let mut session = kept.watched_by(watchdog);
    let name = application_name(&config.postgres, role);
    let settings = [settings, &[("application_name", &name)]].concat();
    let nature = session.nature.clone();
    let what = format!("cannot use the session of the last run in PostgreSQL at {}", config.postgres.address());
    match pin_and_query(&nature, config, &settings, then, |sql| session.script(&what, sql)) {
        Ok(answers) => Some((session, answers)),
        Err(error) => {
            log::debug!("{error}");
            nature::forget_unpooled();
            None
        }
    }
}

/// Pins every setting, and asks `then` behind it in the same message.
fn pin_and_query(
    nature: &Nature,
    config: &Config,
    settings: &[(&str, &str)],
    then: &str,
    mut ask: impl FnMut(&str) -> Result<Answers>,
) -> Result<Option<Answers>> {
    let pinned = pinned_sql(nature, config.timeouts.postgres.as_millis(), settings);
    let (set, answers) = match ask(&format!("{pinned}; {then}")) {
        Ok(mut answers) => {
            let then = answers.split_off(1.min(answers.len()));
            (answers, Some(then))
        }
        Err(error) if then.is_empty() || error.is_transient() => return Err(error),
        Err(_) => (ask(&pinned)?, None),
    };
    Nature::require_the_same(set.first(), &config.postgres)?;
    Ok(answers)
}

/// Begins to open a session on a thread of its own.
fn open_beside(config: &Config, password: Option<Secret>, role: &str) -> Result<JoinHandle<Result<Client>>> {
    let (postgres, timeout, role) = (config.postgres.clone(), config.timeouts.connect, role.to_owned());
    let what = format!("cannot open a second session in PostgreSQL at {}", postgres.address());
    sync::spawn("second session", move || open(&postgres, password.as_ref(), timeout, &role)).map_err(|error| {
        Error::unavailable(what, error, "raise the limit on threads (ulimit -u), or lower `jobs` in [run]")
    })
}

/// Sets everything, if the statement comes to the process that the session had before, and gives no row otherwise.
fn pinned_sql(nature: &Nature, limit: u128, more: &[(&str, &str)]) -> String {
    let limit = limit.to_string();
    let mut settings = BTreeMap::from([("statement_timeout", limit.as_str()), ("lock_timeout", limit.as_str())]);
    settings.extend(PINNED.iter().chain(more).copied());
    let settings: Vec<String> = settings.iter().map(|(name, value)| format!("('{name}', '{value}')")).collect();
    let role_path = if nature.is_in_catalog && more.iter().all(|(name, _)| *name != "search_path") {
        "UNION ALL SELECT name, reset_val FROM pg_catalog.pg_settings WHERE name = 'search_path'"
    } else {
        ""
    };
    format!(
        "SELECT pg_catalog.set_config(name, value, false) FROM (
             VALUES {} UNION ALL SELECT name, '0' FROM (VALUES ('idle_session_timeout'), ('transaction_timeout')) AS later (name)
             WHERE pg_catalog.current_setting(name, true) IS NOT NULL {role_path}) AS pinned (name, value)
         WHERE pg_catalog.pg_backend_pid() = {}",
        settings.join(", "),
        nature.process
    )
}

/// How many pairs of descriptors must be free: the client library panics where it finds none for its event loop.
const SPARE_PAIRS: usize = 8;

fn open(config: &PostgresConfig, password: Option<&Secret>, timeout: Duration, role: &str) -> Result<Client> {
    let what = || format!("cannot connect to PostgreSQL at {}", config.address());
    let too_few = |why: String| {
        let hint =
            "raise the limit on open files (ulimit -n; LimitNOFILE= of a systemd unit), or lower `jobs` in [run]";
        Error::unavailable(what(), why, hint)
    };
    let spare: Result<Vec<_>, _> = (0..SPARE_PAIRS).map(|_| UnixStream::pair()).collect();
    spare.map(drop).map_err(|error| too_few(error.to_string()))?;
    let session = &config.session;
    let seconds = |given: Option<u32>, usual| Duration::from_secs(given.map_or(usual, u64::from));
    let mut wire = postgres::Config::new();
    wire.user(&config.user)
        .dbname(&config.dbname)
        .application_name(&application_name(config, role))
        .connect_timeout(timeout)
        .tcp_user_timeout(timeout.max(Duration::from_secs(30)))
        .keepalives(!session.no_keepalives)
        .keepalives_idle(seconds(session.keepalives_idle, 20))
        .keepalives_interval(seconds(session.keepalives_interval, 10))
        .keepalives_retries(session.keepalives_count.unwrap_or(3));
    for (host, port) in &config.hosts {
        wire.host(host).port(*port);
    }
    if session.read_write {
        wire.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if let Some(required) = session.channel_binding {
        wire.channel_binding(if required { ChannelBinding::Require } else { ChannelBinding::Disable });
    }
    if let Some(options) = &session.options {
        wire.options(options);
    }
    if let Some(password) = password {
        wire.password(password.reveal());
    }
    let connect = || match config.ssl_mode {
        SslMode::Disable => Ok(wire.ssl_mode(WireMode::Disable).connect(NoTls)),
        mode => {
            wire.ssl_mode(if mode == SslMode::Prefer { WireMode::Prefer } else { WireMode::Require });
            Ok(wire.connect(tls(config)?))
        }
    };
    // The library panics where it gets no descriptors for its own loop: other threads may have taken those that were spare.
    let client = std::panic::catch_unwind(std::panic::AssertUnwindSafe(connect))
        .map_err(|_| too_few("too few files may be open".into()))??;
    client.map_err(|error| refused(config, &what(), error))
}

/// Tells why no session came about. What the client itself refused is no server out of reach: trying again is of no use.
fn refused(config: &PostgresConfig, what: &str, error: postgres::Error) -> Error {
    let is_io = causes(&error).any(<dyn std::error::Error>::is::<std::io::Error>);
    if causes(&error).any(is_tls_refusal) {
        let hint = format!(
            "check sslmode and sslrootcert in [postgres] url: the authority that signed the server's certificate, which must \
             name the host of {} where sslmode is verify-full",
            config.address()
        );
        Error::config(what, chain(&error), hint).with_source(error)
    } else if error.as_db_error().and_then(DbError::routine) == Some("CheckMyDatabase")
        && error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    {
        let (database, user) = (quote(&config.dbname), quote(&config.user));
        explain(what, error).with_hint(format!("grant the role this: GRANT CONNECT ON DATABASE {database} TO {user};"))
    } else if error.code().is_some() || is_io || error.is_closed() {
        explain(what, error)
    } else if config.password.is_none() {
        let hint = "give the password: PGPASSWORD, password_file or password_command in [postgres], or ~/.pgpass";
        Error::new(ExitCode::Permission, what, chain(&error), hint).with_source(error)
    } else {
        let hint = "check sslmode in [postgres] url, and the server's `ssl` and pg_hba.conf: the two do not agree";
        Error::config(what, chain(&error), hint).with_source(error)
    }
}

/// What lies below an error, one after the other.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |cause| cause.source())
}

/// Whether one of the two sides did not take the other's certificate or protocol. A connection that broke is none.
fn is_tls_refusal(cause: &(dyn std::error::Error + 'static)) -> bool {
    use openssl::ssl;
    // An error of reading keeps the other one inside, and not as its cause.
    let inside = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let found = cause.downcast_ref::<ssl::Error>().or_else(|| inside?.downcast_ref::<ssl::Error>());
    found.is_some_and(|error| error.code() == ssl::ErrorCode::SSL)
}

/// Shows a run that finds the lock taken which run and which process hold it. PostgreSQL cuts the name at 63 bytes.
fn application_name(config: &PostgresConfig, role: &str) -> String {
    let front = config.session.application_name.as_deref().unwrap_or("pg2ch");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{front} {role} {} {}:{}", RunId::current(), host.trim(), std::process::id())
}

fn tls(config: &PostgresConfig) -> Result<MakeTlsConnector> {
    let fail = |file: &str, error: openssl::error::ErrorStack| {
        Error::config(
            format!("cannot set up TLS to PostgreSQL at {}", config.address()),
            format!("{file}: {error}"),
            "check that the certificate files named by sslrootcert, sslcert and sslkey exist, are PEM and may be read",
        )
    };
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(|e| fail("OpenSSL", e))?;
    let verifies = match config.ssl_mode {
        SslMode::VerifyCa | SslMode::VerifyFull => true,
        // As libpq does: a root certificate makes `require` check the chain.
        SslMode::Require => config.ssl_root_cert.is_some(),
        SslMode::Disable | SslMode::Prefer => false,
    };
    match &config.ssl_root_cert {
        // As libpq does: this authority, and none that the system trusts besides.
        Some(file) => X509StoreBuilder::new()
            .map(|none| builder.set_cert_store(none.build()))
            .and_then(|()| builder.set_ca_file(file))
            .map_err(|e| fail(&file.display().to_string(), e))?,
        None => certificates::trust_system(&mut builder).map_err(|e| fail("the system's certificates", e))?,
    }
    builder.set_verify(if verifies { SslVerifyMode::PEER } else { SslVerifyMode::NONE });
    if let Some((certificate, key)) = &config.ssl_client {
        builder.set_certificate_chain_file(certificate).map_err(|e| fail(&certificate.display().to_string(), e))?;
        builder.set_private_key_file(key, SslFiletype::PEM).map_err(|e| fail(&key.display().to_string(), e))?;
    }
    let mut connector = MakeTlsConnector::new(builder.build());
    let checks_name = config.ssl_mode == SslMode::VerifyFull;
    connector.set_callback(move |connection, _| {
        connection.set_verify_hostname(checks_name);
        Ok(())
    });
    Ok(connector)
}

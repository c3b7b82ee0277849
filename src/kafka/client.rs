//! What every librdkafka client of pg2ch has in common: addresses, limits, and the reasons that its threads report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use log::{Level, log};
use rdkafka::client::{ClientContext, OAuthToken};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::acl::Uses;
use super::explain::{code_of, decisive, explain, is_refused, is_vague};
use super::login::Login;
use super::tokens::Tokens;
use crate::certificates;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sync;

/// How long librdkafka may take beyond the limit that a call was given, before the watchdog takes it for stuck.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long a client's next report is waited for. With no time at all the first log line among them would end the polling.
pub const REPORT_WAIT: Duration = Duration::from_millis(20);

/// How long the first answer is waited for, before the client's reports are polled.
const FIRST_TURN: Duration = Duration::from_millis(500);

/// The settings that every client shares.
#[must_use]
pub fn base(config: &Config) -> ClientConfig {
    let mut client = ClientConfig::new();
    let connect = config.timeouts.connect.as_millis().clamp(1000, 300_000);
    client
        .set("bootstrap.servers", &config.kafka.brokers)
        .set("client.id", "pg2ch")
        .set("allow.auto.create.topics", "false")
        .set("socket.timeout.ms", config.timeouts.kafka.as_millis().clamp(10, 300_000).to_string())
        .set("socket.connection.setup.timeout.ms", connect.to_string())
        .set("socket.nagle.disable", "true")
        // librdkafka looks for a first broker every half of this, but not sooner than 11 ms.
        .set("reconnect.backoff.ms", "20")
        .set("reconnect.backoff.max.ms", "1000")
        .set_log_level(RDKafkaLogLevel::Warning);
    client
}

/// Makes a client, with the user's own properties on top. None of these is one on which the promise rests: such a one is
/// refused when the configuration is loaded. With OAUTHBEARER there is a token for it, which it [has to be given](has_token).
///
/// # Errors
/// 78 if librdkafka refuses a property; those of the place where password or token come from.
pub fn make<C: ClientContext, T: FromClientConfigAndContext<C>>(
    client: &mut ClientConfig,
    config: &Config,
    context: C,
) -> Result<T> {
    // librdkafka's own look-up knows the places of the system that OpenSSL was built for.
    if let Some(location) = certificates::location().filter(|_| uses_tls(config)) {
        client.set("ssl.ca.location", location.to_string_lossy());
    }
    for (name, value) in &config.kafka.properties {
        client.set(name, value.reveal());
    }
    if let Some(password) = &config.kafka.sasl_password {
        client.set("sasl.password", password.take()?.reveal());
    }
    let what = format!("cannot make a Kafka client for {}", config.kafka.brokers);
    if let Some(tokens) = Tokens::of(config) {
        // librdkafka would only say that it has none.
        tokens.take().map_err(|error| error.behind(&what))?;
    }
    client.create_with_context(context).map_err(|error| {
        let why = match error {
            // The property's value may be a secret: only its name is shown.
            KafkaError::ClientConfig(_, reason, name, _) => format!("{name}: {reason}"),
            other => other.to_string(),
        };
        Error::config(what, why, "correct [kafka] and [kafka.properties]")
    })
}

/// Has a new client ask for its token, if it logs in with one: librdkafka connects to no broker before.
pub fn has_token(context: &Context, poll: impl Fn(Duration)) {
    let until = Instant::now() + GRACE;
    while context.login.awaits_token() && Instant::now() < until {
        poll(REPORT_WAIT);
    }
}

/// Whether connections are encrypted, and no authority is named to be trusted.
fn uses_tls(config: &Config) -> bool {
    let properties = &config.kafka.properties;
    let protocol = properties.get("security.protocol").map(|value| value.reveal().to_ascii_uppercase());
    protocol.is_some_and(|name| name.contains("SSL"))
        && !properties.contains_key("ssl.ca.location")
        && !properties.contains_key("ssl.ca.pem")
}

/// A client that is closed beside what follows: librdkafka takes up to a tenth of a second for it, and nothing that matters
/// is left to do by then.
pub struct Detached<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> Detached<T> {
    /// Takes charge of closing `client`.
    pub const fn new(client: T) -> Self {
        Self(Some(client))
    }
}

impl<T: Send + 'static> std::ops::Deref for Detached<T> {
    type Target = T;

    #[allow(clippy::expect_used)] // taken out by `drop` only
    fn deref(&self) -> &T {
        self.0.as_ref().expect("a client that is not dropped")
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        let client = self.0.take();
        // Where no thread can be had the client is closed here.
        let _ = sync::spawn("closing", move || drop(client));
    }
}

/// Keeps what the client's threads report, and passes their log lines on.
#[derive(Debug, Default)]
pub struct Context {
    /// The client's token, if it has one.
    pub login: Login,
    reported: Mutex<Option<(Code, String)>>,
    is_nobody_there: AtomicBool,
}

impl Context {
    /// That of a client of this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self { login: Login::of(config), ..Self::default() }
    }

    /// Tells a failure of a call, with the reason that was reported behind it.
    pub fn explain(&self, what: &str, error: &KafkaError, uses: &Uses) -> Error {
        let code = code_of(error);
        let reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_refused = decisive(code, reported.as_ref()) == Some(Code::Authentication);
        let is_login = is_refused || code.is_none_or(is_vague);
        if let Some(without_token) = self.login.failure(is_refused).filter(|_| is_login) {
            return without_token.behind(what);
        }
        explain(what, error, reported, uses)
    }

    /// Forgets what was reported: a call has succeeded since.
    pub fn forget(&self) {
        *self.reported.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.is_nobody_there.store(false, Ordering::Relaxed);
    }

    /// What was reported last.
    pub fn last_reported(&self) -> Option<Code> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(code, _)| *code)
    }

    /// Whether an error that a poll has given is over by itself: a login with a token that was over, and has been replaced since.
    pub fn is_past(&self, error: &KafkaError) -> bool {
        error.rdkafka_error_code() == Some(Code::Authentication)
            && self.login.tokens().is_some()
            && !self.login.has_failed()
            && self.last_reported() != Some(Code::Authentication)
    }

    /// Asks in turns that grow, calling `poll_reports` in between. A refused password, certificate, group or connection, or an
    /// unknown host, ends the waiting early; a slow broker has half of `limit` for its answer.
    ///
    /// # Errors
    /// The last answer.
    pub fn in_turns<T>(
        &self,
        limit: Duration,
        ask: impl Fn(Duration) -> Result<T, KafkaError>,
        poll_reports: impl Fn(),
    ) -> Result<T, KafkaError> {
        let until = Instant::now() + limit;
        let (mut turn, mut is_suspect) = (FIRST_TURN, false);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let answer = ask(turn.min(left));
            let code = answer.as_ref().err().and_then(KafkaError::rdkafka_error_code);
            if !code.is_some_and(is_vague) || left <= turn {
                return answer;
            }
            poll_reports();
            match self.last_reported() {
                Some(Code::Authentication) => return answer,
                Some(code) if is_refused(code) => return answer,
                _ if self.login.has_failed() => return answer,
                // A single failed handshake or refused connection may be a broker that has just ended; librdkafka reports it
                // once, however often it fails again.
                Some(Code::SSL) if is_suspect => return answer,
                _ if is_suspect && self.is_nobody_there() => return answer,
                reported => is_suspect = reported == Some(Code::SSL) || self.is_nobody_there(),
            }
            turn *= 2;
        }
    }

    /// Whether every broker refuses connections, or cannot be found, since something was answered last.
    fn is_nobody_there(&self) -> bool {
        self.is_nobody_there.load(Ordering::Relaxed)
    }

    fn note_report(&self, code: Code, reason: &str) {
        if self.login.is_past(code, reason) {
            return;
        }
        if code == Code::AllBrokersDown {
            self.is_nobody_there.store(true, Ordering::Relaxed);
        }
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        // A refused password or certificate is the reason for everything that follows it.
        let decided = matches!(*reported, Some((Code::Authentication | Code::SSL, _)));
        if !decided && code != Code::AllBrokersDown {
            *reported = Some((sharpened(code, reason), reason.to_owned()));
        }
    }
}

/// librdkafka has one code for a refused certificate and for a connection that ended within a handshake, and another one
/// where the broker refuses the client's certificate behind it; its text distinguishes them (`rdkafka_ssl.c`).
fn sharpened(code: Code, reason: &str) -> Code {
    let is_cut = ["Disconnected", "transport error"].iter().any(|words| reason.contains(words));
    match code {
        Code::BrokerTransportFailure if reason.contains("SSL alert number") => Code::SSL,
        Code::SSL if is_cut => Code::BrokerTransportFailure,
        _ => code,
    }
}

impl ClientContext for Context {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        // The library panics, or logs, where a NUL is in an error's text.
        self.login.give().map_err(|error| format!("{}: {}", error.what(), error.why()).replace('\0', " ").into())
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes back as an error of a call, with its explanation; these lines are for -v. Remarks on settings are mostly on
        // those that pg2ch makes.
        let level = match level {
            _ if facility == "CONFWARN" => Level::Debug,
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                Level::Info
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => Level::Info,
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => Level::Debug,
        };
        log!(target: "librdkafka", level, "{facility}: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.note_report(code, reason);
        }
        log::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ConsumerContext for Context {}

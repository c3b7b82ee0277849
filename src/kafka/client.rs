//! What every librdkafka client of pg2ch has in common: addresses, limits, and the reasons that its threads report.

use std::sync::{Mutex, PoisonError};

use log::{Level, log};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::acl::Uses;
use super::explain::explain;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sync;

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
/// refused when the configuration is loaded.
///
/// # Errors
/// 78 if librdkafka refuses a property.
pub fn make<C: ClientContext, T: FromClientConfigAndContext<C>>(
    client: &mut ClientConfig,
    config: &Config,
    context: C,
) -> Result<T> {
    for (name, value) in &config.kafka.properties {
        client.set(name, value.reveal());
    }
    client.create_with_context(context).map_err(|error| {
        let why = match error {
            // The property's value may be a secret: only its name is told.
            KafkaError::ClientConfig(_, reason, name, _) => format!("{name}: {reason}"),
            other => other.to_string(),
        };
        let what = format!("cannot make a Kafka client for {}", config.kafka.brokers);
        Error::config(what, why, "correct [kafka] and [kafka.properties]")
    })
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
    heard: Mutex<Option<(Code, String)>>,
}

impl Context {
    /// Tells a failure of a call, with the reason that was reported behind it.
    pub fn explain(&self, what: &str, error: &KafkaError, uses: &Uses) -> Error {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        explain(what, error, heard, uses)
    }

    /// Forgets what was reported: a call has succeeded since.
    pub fn forget(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// What was reported last.
    pub fn last_heard(&self) -> Option<Code> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(code, _)| *code)
    }

    fn hear(&self, code: Code, reason: &str) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        // A refused password or certificate is the reason for everything that follows it.
        let decided = matches!(*heard, Some((Code::Authentication | Code::SSL, _)));
        if !decided && code != Code::AllBrokersDown {
            *heard = Some((sharpened(code, reason), reason.to_owned()));
        }
    }
}

/// librdkafka has one code for a refused certificate and for a connection that ended within a handshake, and another one
/// where the broker refuses the client's certificate behind it; its words tell them apart (`rdkafka_ssl.c`).
fn sharpened(code: Code, reason: &str) -> Code {
    let is_cut = ["Disconnected", "transport error"].iter().any(|words| reason.contains(words));
    match code {
        Code::BrokerTransportFailure if reason.contains("SSL alert number") => Code::SSL,
        Code::SSL if is_cut => Code::BrokerTransportFailure,
        _ => code,
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes back as an error of a call, told properly; these lines are for -v.
        let level = match level {
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
            self.hear(code, reason);
        }
        log::debug!(target: "librdkafka", "{error}: {reason}");
    }
}

impl ConsumerContext for Context {}

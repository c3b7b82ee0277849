//! A client's login with a token of OAUTHBEARER: gives it the token when it asks for one, and knows why it has none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rdkafka::client::OAuthToken;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::tokens::Tokens;
use crate::config::Config;
use crate::error::Error;

/// How long after a new token a refusal may still be one of the last token, which the broker was shown when it was as good as over.
/// A refusal of the new one shows as well where the next client begins with it.
const LATE: Duration = Duration::from_secs(5);

/// How librdkafka's report begins of a token that it was not given: why, is known here better.
const NOT_GIVEN: &str = "Failed to acquire SASL OAUTHBEARER token";

/// A client's token. Without OAUTHBEARER it never has one.
#[derive(Debug, Default)]
pub struct Login {
    tokens: Option<Arc<Tokens>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the client's token ends.
    expires: Option<SystemTime>,
    /// Until when refusals are those of the last one.
    late_until: Option<Instant>,
    failed: Option<Arc<Error>>,
}

impl State {
    fn is_over(&self) -> bool {
        self.expires.is_none_or(|expires| expires <= SystemTime::now())
    }
}

impl Login {
    /// That of a client of this configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self { tokens: Tokens::of(config), ..Self::default() }
    }

    /// Where the tokens come from.
    #[must_use]
    pub const fn tokens(&self) -> Option<&Arc<Tokens>> {
        self.tokens.as_ref()
    }

    /// A token for librdkafka.
    ///
    /// # Errors
    /// Any of the source's.
    pub fn give(&self) -> Result<OAuthToken, Arc<Error>> {
        let tokens = self.tokens.as_ref();
        let given = tokens.map_or_else(
            || Err(Arc::new(Error::bug("cannot log in to Kafka", "no token was to be asked for"))),
            |tokens| tokens.take(),
        );
        let mut state = self.lock();
        match given {
            Ok(token) => {
                let is_renewed = state.expires.is_some();
                *state = State {
                    expires: Some(token.expires),
                    late_until: is_renewed.then(|| Instant::now() + LATE),
                    failed: None,
                };
                let since = token.expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                Ok(OAuthToken {
                    token: token.value.reveal().to_owned(),
                    principal_name: token.principal,
                    lifetime_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
                })
            }
            Err(error) => {
                state.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Whether the client waits for its first token.
    #[must_use]
    pub fn awaits_token(&self) -> bool {
        let state = self.lock();
        self.tokens.is_some() && state.expires.is_none() && state.failed.is_none()
    }

    /// Whether the client has no token that is good, and gets none.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failure(false).is_some()
    }

    /// Why the client has no token that is good, and gets none. A broker that has refused the login has the last word on whether the
    /// token is good: its clock may be ahead.
    #[must_use]
    pub fn failure(&self, is_refused: bool) -> Option<Arc<Error>> {
        let state = self.lock();
        // A client that has had a token may not have asked for the next one when another client was given none.
        let of_source = || self.tokens.as_ref().filter(|_| state.expires.is_some())?.failure();
        (is_refused || state.is_over()).then(|| state.failed.clone().or_else(of_source)).flatten()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a report is about a token that was over, or was not given, and says nothing of the one that the client has, or gets.
    #[must_use]
    pub fn is_past(&self, code: Code, reason: &str) -> bool {
        if self.tokens.is_none() || code != Code::Authentication {
            return false;
        }
        let state = self.lock();
        reason.starts_with(NOT_GIVEN) || state.is_over() || state.late_until.is_some_and(|until| Instant::now() < until)
    }
}

//! Tokens of OAUTHBEARER: all clients of a process share one, which is renewed before it ends.

mod server;
mod token;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use self::token::Token;
use crate::config::{Config, TokenSource};
use crate::error::{Error, ExitCode, Result};

/// How long a source that has failed is left alone: while its last token is still good, and by idle clients.
pub(super) const PAUSE: Duration = Duration::from_secs(10);

/// Those of the sources that this process has asked: one.
static SHARED: Mutex<Vec<Arc<Tokens>>> = Mutex::new(Vec::new());

/// The token of a source as it is now.
#[derive(Debug)]
pub struct Tokens {
    source: TokenSource,
    /// How long its server may take.
    limit: Duration,
    /// The token, and until when it counts as new.
    held: Mutex<Option<(Token, Instant)>>,
    /// When the source failed, if it has given nothing since, and why.
    failed: Mutex<Option<(Instant, Arc<Error>)>>,
}

impl Tokens {
    /// The ones that clients of this configuration log in with; `None` if they log in otherwise.
    #[must_use]
    pub fn of(config: &Config) -> Option<Arc<Self>> {
        let source = config.kafka.token_source.as_ref()?;
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shared.iter().find(|known| known.source == *source) {
            return Some(known.clone());
        }
        let tokens = Arc::new(Self {
            source: source.clone(),
            limit: config.timeouts.connect,
            held: Mutex::default(),
            failed: Mutex::default(),
        });
        shared.push(tokens.clone());
        Some(tokens)
    }

    /// A token that is good. A new one is asked for when three quarters of its life are over: librdkafka wants the next one after
    /// four fifths. Who comes while another one asks gets the same answer.
    ///
    /// # Errors
    /// What the source fails with, if the last token is over.
    pub fn take(&self) -> Result<Token, Arc<Error>> {
        let begun = Instant::now();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let good = match &*held {
            Some((token, new_until)) if Instant::now() < *new_until => return Ok(token.clone()),
            Some((token, _)) => Some(token.clone()).filter(Token::is_good),
            None => None,
        };
        if let Some((when, error)) = &*self.failed() {
            match good {
                Some(token) if when.elapsed() < PAUSE => return Ok(token),
                None if *when > begun => return Err(error.clone()),
                _ => {}
            }
        }
        let asked = self.ask().map_err(Arc::new);
        *self.failed() = asked.as_ref().err().map(|error| (Instant::now(), error.clone()));
        match (asked, good) {
            (Ok(token), _) => {
                let life = token.expires.duration_since(SystemTime::now()).unwrap_or_default();
                log::debug!("Kafka: a new token, good for {} s", life.as_secs());
                *held = Some((token.clone(), Instant::now() + life * 3 / 4));
                Ok(token)
            }
            (Err(error), Some(token)) => {
                log::warn!("{}: {}; the present token is still good", error.what(), error.why());
                Ok(token)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Why the source gave no token, if it gave none when it was asked last.
    pub fn failure(&self) -> Option<Arc<Error>> {
        self.failed().as_ref().map(|(_, error)| error.clone())
    }

    fn failed(&self) -> MutexGuard<'_, Option<(Instant, Arc<Error>)>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) -> Result<Token> {
        let now = SystemTime::now();
        let (token, hint) = match &self.source {
            TokenSource::Kept(kept) => (
                Token::read(kept.take_text()?.reveal(), now)
                    .map_err(|why| (format!("cannot use the token for Kafka from {kept}"), why)),
                "let the command print, or the file hold, the token alone or a JSON object with `access_token`",
            ),
            TokenSource::Server(server) => (
                Token::read(&server::request(server, self.limit)?, now).map_err(|why| (server::what(server), why)),
                "check that `oauth_token_url` in [kafka] is the token endpoint",
            ),
        };
        let token = token.map_err(|(what, why)| Error::config(what, why, hint))?;
        if token.is_good() {
            return Ok(token);
        }
        let past = now.duration_since(token.expires).unwrap_or_default().as_secs();
        Err(Error::new(
            ExitCode::Permission,
            "cannot log in to Kafka",
            format!("the token has expired {past} s ago"),
            "let its source give a new one, and check this machine's clock",
        ))
    }
}

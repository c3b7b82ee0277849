//! What went wrong, for the person who is woken by it: what failed and on what, why, and what to do next.

use std::fmt;
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// The result of anything that can fail in pg2ch.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure that ends a command, or, if it [may pass](Error::is_transient), the present attempt of a leg.
///
/// It has the three parts that every message of pg2ch has. None of them ever holds a password: the servers are named by
/// their masked addresses.
#[derive(Debug)]
pub struct Error {
    exit: ExitCode,
    what: String,
    why: String,
    hint: String,
    is_final: bool,
    pause: Option<Duration>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// A failure that ends with `exit`: `what` failed (on what), `why`, and a `hint` at what to do next.
    #[must_use]
    pub fn new(exit: ExitCode, what: impl Into<String>, why: impl fmt::Display, hint: impl Into<String>) -> Self {
        let (what, why, hint) = (what.into(), why.to_string(), hint.into());
        debug_assert!(exit != ExitCode::Done, "{what}: an error that ends with 0");
        debug_assert!(
            ![&what, &why, &hint].iter().any(|part| part.trim().is_empty()),
            "{what}: {why}: an error lacks a part"
        );
        Self { exit, what, why, hint, is_final: false, pause: None, source: None }
    }

    /// The configuration, or what it names, does not fit (78).
    #[must_use]
    pub fn config(what: impl Into<String>, why: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self::new(ExitCode::Config, what, why, hint)
    }

    /// A server did not answer, or answered that it cannot now (69).
    #[must_use]
    pub fn unavailable(what: impl Into<String>, why: impl fmt::Display, hint: impl Into<String>) -> Self {
        Self::new(ExitCode::Unavailable, what, why, hint)
    }

    /// Something that cannot happen did (70).
    #[must_use]
    pub fn bug(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::new(
            ExitCode::Bug,
            what,
            why,
            "this is a bug in pg2ch: please report it with this message; a new run is safe",
        )
    }

    /// Keeps the error of the library below.
    #[must_use]
    pub fn with_source(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// The same failure, where it ends another call as well: `what` is that call.
    #[must_use]
    pub fn behind(&self, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            why: format!("{}: {}", self.what, self.why),
            hint: self.hint.clone(),
            source: None,
            ..*self
        }
    }

    /// The exit code that this failure asks for.
    #[must_use]
    pub const fn exit_code(&self) -> ExitCode {
        self.exit
    }

    /// What failed, and on what.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Why it failed, in the server's own words where there are any.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// The same failure with another hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Marks a failure that was waited out already: this run does not wait for it once more.
    #[must_use]
    pub fn waited_out(mut self) -> Self {
        self.is_final = true;
        self
    }

    /// Marks a server that has too much to do: it is left alone for so long before the next attempt, and then for longer.
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = Some(pause);
        self
    }

    /// How long the server is to be left alone, if it has too much to do.
    #[must_use]
    pub const fn pause(&self) -> Option<Duration> {
        self.pause
    }

    /// Whether the same attempt may succeed a moment later: the servers were out of reach, nothing was wrong.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        self.exit == ExitCode::Unavailable && !self.is_final
    }
}

impl fmt::Display for Error {
    /// `what: why`, then the hint on a line of its own.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\nhint: {}", self.what, self.why, self.hint)
    }
}

/// The three parts, as every JSON document of pg2ch has them.
impl Serialize for Error {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut parts = serializer.serialize_struct("Error", 3)?;
        parts.serialize_field("what", &self.what)?;
        parts.serialize_field("why", &self.why)?;
        parts.serialize_field("hint", &self.hint)?;
        parts.end()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// How a run, or another command, ended.
///
/// The numbers are part of the contract with the job's scheduler; `docs/exit-codes.md` says what to do on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitCode {
    /// 0: done, or nothing to do.
    Done,
    /// 64: the command line cannot be understood.
    Usage,
    /// 65: finished, but some data was refused, was lost before it was copied, or differs.
    Data,
    /// 69: a server could not be reached, or stopped answering, in spite of retries; or standard output could not be written.
    Unavailable,
    /// 70: a bug in pg2ch.
    Bug,
    /// 75: another run holds the lock, or has shut this one out; or `verify` was interrupted, and nobody knows about the rest.
    Locked,
    /// 77: a server refused the password, or the user lacks a privilege.
    Permission,
    /// 78: the configuration, or something it names, does not fit.
    Config,
}

impl ExitCode {
    /// The number handed to the operating system.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Bug => 70,
            Self::Locked => 75,
            Self::Permission => 77,
            Self::Config => 78,
        }
    }

    /// The graver of two ends, for a run over several tables: what needs a person comes before what passes by itself.
    #[must_use]
    pub fn graver(self, other: Self) -> Self {
        if self.gravity() >= other.gravity() { self } else { other }
    }

    const fn gravity(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Locked => 1,
            Self::Unavailable => 2,
            Self::Data => 3,
            Self::Permission => 4,
            Self::Config => 5,
            Self::Usage => 6,
            Self::Bug => 7,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_of_several_tables_decides() {
        let ends = [ExitCode::Done, ExitCode::Unavailable, ExitCode::Locked];
        let gravest = ends.into_iter().fold(ExitCode::Done, ExitCode::graver);
        assert_eq!(gravest, ExitCode::Unavailable);
    }
}

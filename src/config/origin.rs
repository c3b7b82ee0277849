//! Where an effective value came from, for `config show` and for every message about a value.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Config;
use crate::error::{Error, Result};

/// Where an effective value came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    #[default]
    Default,
    /// The configuration file, at this line.
    File {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(&'static str),
    /// An option of the command line.
    Flag(&'static str),
    /// A file that holds one password, or `.pgpass`.
    PasswordFile(PathBuf),
    /// One of the places where a configuration file is looked for when none is named.
    Found,
}

impl Origin {
    /// Where relative paths start: beside the file for those in it, here for others.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        match self {
            Self::File { path, .. } => path.parent().map(Path::to_owned).unwrap_or_default(),
            _ => PathBuf::new(),
        }
    }

    /// The refusal of what `place` has from here.
    pub(super) fn refuse(&self, place: &str, why: impl fmt::Display, hint: &str) -> Error {
        Error::config(format!("cannot accept `{place}` ({self})"), why, hint)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "${name}"),
            Self::Flag(name) => f.write_str(name),
            Self::PasswordFile(path) => write!(f, "{}", path.display()),
            Self::Found => f.write_str("found"),
        }
    }
}

/// A value, the key that gave it, and where that stands.
#[derive(Clone)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// The key: `batch.rows`, `table[0].topic`.
    pub place: String,
    /// Where it came from.
    pub origin: Origin,
}

impl<T> Given<T> {
    /// The refusal of this value.
    pub fn refuse(&self, why: impl fmt::Display, hint: &str) -> Error {
        self.origin.refuse(&self.place, why, hint)
    }

    /// What `read` makes of the value.
    ///
    /// # Errors
    /// 78 with the reason that `read` gives, and with `hint`.
    pub fn read<U, E: fmt::Display>(self, read: impl FnOnce(T) -> Result<U, E>, hint: &str) -> Result<Given<U>> {
        let Self { value, place, origin } = self;
        match read(value) {
            Ok(value) => Ok(Given { value, place, origin }),
            Err(why) => Err(origin.refuse(&place, why, hint)),
        }
    }

    /// What `change` makes of the value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Given<U> {
        Given { value: change(self.value), place: self.place, origin: self.origin }
    }
}

/// One effective value as `config show` prints it. Secrets are masked already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The key: `batch.rows`, `kafka.properties.security.protocol`, `table[0].topic`.
    pub key: String,
    /// The value, or `****` for a secret, or nothing where nothing is set.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// The effective configuration together with where each of its values came from.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The configuration.
    pub config: Config,
    /// The configuration file that was read, if there is one, and what made pg2ch read it.
    pub file: Option<(PathBuf, Origin)>,
    /// Every value, in the order of the example that `config generate` prints.
    pub settings: Vec<Setting>,
}

//! The name of the present run: in log lines, in the three servers' own lists of sessions and statements, and in the history, so that one
//! run can be followed through all of them.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

/// 0 before the first run.
static CURRENT: AtomicU32 = AtomicU32::new(0);

/// A run's name: eight hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunId(u32);

impl RunId {
    /// Names the run that begins now.
    pub fn begin() {
        CURRENT.store(fastrand::u32(1..), Ordering::Relaxed);
    }

    /// The present run's.
    #[must_use]
    pub fn current() -> Self {
        Self(CURRENT.load(Ordering::Relaxed))
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

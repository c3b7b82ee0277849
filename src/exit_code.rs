//! The process's exit codes: sysexits.h, as cron, systemd and monitoring know them.

/// How a run, or another command, ended.
///
/// The numbers are part of the contract with whoever schedules pg2ch; `docs/exit-codes.md` says what to do on each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitCode {
    /// 0: done, or nothing to do.
    Done,
    /// 64: the command line cannot be understood.
    Usage,
    /// 65: finished, but some data was refused, was lost before it was copied, or differs.
    Data,
    /// 69: a server could not be reached, or stopped answering, in spite of retries.
    Unavailable,
    /// 70: a bug in pg2ch.
    Bug,
    /// 75: another run holds the lock, or has shut this one out.
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

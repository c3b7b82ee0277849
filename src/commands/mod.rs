//! The commands beside the run itself, and the one frame in which each of them works.

pub mod check;
pub mod completions;
pub mod config;
pub mod dead_letters;
pub mod init;
pub mod manual;
mod migration;
pub mod prune;
pub mod status;
pub mod verify;

use std::time::Instant;

use crate::config::{Config, TableConfig};
use crate::error::{ExitCode, Result};
use crate::ports::LegContext;
use crate::ports::limits::Limits;
use crate::ports::progress::Progress;
use crate::shutdown::Shutdown;
use crate::threads::watchdog::watched;

/// A command that reaches servers: what it does for one table, and how it reports the outcome.
pub trait Command {
    /// What it found out or did about one table.
    type Outcome;

    /// Runs for one table. Servers are reached only through [`Frame::on`].
    ///
    /// # Errors
    /// What ends the command; what it can do without belongs in [`Outcome`](Self::Outcome).
    fn run(&self, frame: &Frame<'_>, table: &TableConfig) -> Result<Self::Outcome>;

    /// The text to print, JSON or for a person, and the exit code.
    fn render(&self, outcomes: &[Self::Outcome], json: bool) -> (String, ExitCode);
}

/// What every command is given.
pub struct Frame<'a> {
    config: &'a Config,
    limits: &'a Limits,
    shutdown: Shutdown,
    started: Instant,
    json: bool,
}

impl<'a> Frame<'a> {
    /// A command that starts now; `json` says how it reports its result.
    #[must_use]
    pub fn new(config: &'a Config, limits: &'a Limits, shutdown: Shutdown, json: bool) -> Self {
        Self { config, limits, shutdown, started: Instant::now(), json }
    }

    /// Runs for every table, one after the other; the text to print, and the exit code.
    ///
    /// # Errors
    /// The first of a table.
    pub fn run(&self, command: &impl Command) -> Result<(String, ExitCode)> {
        let outcomes: Result<Vec<_>> = self.config.tables.iter().map(|table| command.run(self, table)).collect();
        Ok(command.render(&outcomes?, self.json))
    }

    /// Whether only one table is meant.
    #[must_use]
    pub fn has_one_table(&self) -> bool {
        self.config.tables.len() == 1
    }

    /// Does `work` for `table` on a thread that is left behind if a call in it exceeds its limit.
    ///
    /// # Errors
    /// 69 then; 70 if it panics; what `work` returns.
    pub fn on<T: Send + 'static>(
        &self,
        table: &TableConfig,
        work: impl FnOnce(&LegContext<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (config, table, shutdown) = (self.config.clone(), table.clone(), self.shutdown.clone());
        let (limits, started) = (*self.limits, self.started);
        watched("command", move |watchdog| {
            work(&LegContext {
                config: &config,
                table: &table,
                limits,
                started,
                shutdown: &shutdown,
                watchdog,
                progress: Progress::default(),
            })
        })
    }
}

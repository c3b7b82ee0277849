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

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::{Config, TableConfig};
use crate::error::{ExitCode, Result};
use crate::logging;
use crate::ports::LegContext;
use crate::ports::limits::Limits;
use crate::ports::progress::Progress;
use crate::postgres::blaming_condition;
use crate::shutdown::Shutdown;
use crate::threads::watchdog::watched;

/// What a command reports of one table. In JSON it is serialized.
pub trait Outcome: Serialize + Sized {
    /// What it means.
    fn exit_code(&self) -> ExitCode;

    /// The same for a person.
    fn text(&self, table: &TableConfig) -> String;

    /// The texts of all tables as one.
    #[must_use]
    fn join(texts: &[String]) -> String {
        texts.concat()
    }

    /// Adds to the JSON document what it has of all tables together; `text` is theirs.
    fn add_to(_document: &mut Value, _text: &str) {}
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

    /// Does `work` for every table, as [`on`](Self::on) does it for one.
    ///
    /// # Errors
    /// That of the only table.
    pub fn run_on<O: Outcome + Send + 'static>(
        &self,
        work: impl Fn(&LegContext<'_>) -> Result<O> + Clone + Send + 'static,
    ) -> Result<(String, ExitCode)> {
        self.run(|_, table| self.on(table, work.clone()))
    }

    /// Runs `command` for every table, one after the other; the text to print, and the exit code: the most severe of the tables'.
    /// The error of one table is logged, and does not keep the command from the others.
    ///
    /// # Errors
    /// That of the only table.
    pub fn run<O: Outcome>(&self, command: impl Fn(&Self, &TableConfig) -> Result<O>) -> Result<(String, ExitCode)> {
        let (mut texts, mut documents, mut code) = (Vec::new(), Vec::new(), ExitCode::Done);
        for table in &self.config.tables {
            let (mut document, of_table) = match command(self, table) {
                Err(error) if self.config.tables.len() == 1 => return Err(error),
                Err(error) => {
                    logging::print_error(&error);
                    (json!({ "error": error }), error.exit_code())
                }
                Ok(outcome) => {
                    let mut document = json!(outcome);
                    document["error"] = Value::Null;
                    texts.push(outcome.text(table));
                    (document, outcome.exit_code())
                }
            };
            document["source"] = json!(table.source);
            document["topic"] = json!(table.topic);
            document["target"] = json!(table.target.to_string());
            documents.push(document);
            code = code.graver(of_table);
        }
        let text = O::join(&texts);
        if !self.json {
            return Ok((text, code));
        }
        let mut document = json!({ "tables": documents, "exit_code": code.code() });
        O::add_to(&mut document, &text);
        Ok((format!("{document:#}"), code))
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
            let leg = LegContext {
                config: &config,
                table: &table,
                limits,
                started,
                shutdown: &shutdown,
                watchdog,
                progress: Progress::default(),
            };
            work(&leg).map_err(|error| blaming_condition(&leg, error))
        })
    }
}

/// Whether a signal or `--max-seconds` asks a command for the end.
fn is_to_end(leg: &LegContext<'_>) -> bool {
    let is_late = leg.limits.max_seconds.is_some_and(|most| leg.started.elapsed().as_secs() >= most);
    is_late || leg.shutdown.is_requested()
}

//! What a check has found, for a person and for a machine.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};
use serde_json::json;

use crate::commands::Outcome;
use crate::config::TableConfig;
use crate::error::{Error, ExitCode, Result};
use crate::numbers::counted;
use crate::outcome::backlog::Backlog;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// A run fails, or loses or refuses data.
    Error,
    /// The promise is weaker, or some data will be refused.
    Warning,
    /// It works, but could work better.
    Note,
}

impl Severity {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// The server that a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Server {
    PostgreSQL,
    Kafka,
    ClickHouse,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub severity: Severity,
    pub server: Server,
    /// A name that stays the same from version to version.
    pub id: &'static str,
    /// What was found, and on what.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// The statement, or command, that fixes it.
    pub fix: String,
}

/// A text, owned or not.
pub trait Text: Into<String> {}

impl<T: Into<String>> Text for T {}

/// The findings on one server.
#[derive(Debug)]
pub struct Findings {
    server: Server,
    list: Vec<Finding>,
}

impl Findings {
    pub const fn new(server: Server) -> Self {
        Self { server, list: Vec::new() }
    }

    pub fn add(&mut self, severity: Severity, id: &'static str, what: impl Text, why: impl Text, fix: impl Text) {
        let (what, why, fix) = (what.into(), why.into(), fix.into());
        self.list.push(Finding { severity, server: self.server, id, what, why, fix });
    }

    pub fn error(&mut self, id: &'static str, what: impl Text, why: impl Text, fix: impl Text) {
        self.add(Severity::Error, id, what, why, fix);
    }

    pub fn warning(&mut self, id: &'static str, what: impl Text, why: impl Text, fix: impl Text) {
        self.add(Severity::Warning, id, what, why, fix);
    }

    pub fn note(&mut self, id: &'static str, what: impl Text, why: impl Text, fix: impl Text) {
        self.add(Severity::Note, id, what, why, fix);
    }

    /// Adds that `role` lacks a privilege on `what`, which a GRANT calls `object`.
    pub fn missing_privilege(&mut self, privilege: &str, what: &str, object: &str, role: &str, needed_for: &str) {
        let fix = format!("GRANT {privilege} ON {object} TO {role};");
        let why = format!("it is needed for {needed_for}");
        self.error("grant-missing", format!("{role} lacks {privilege} on {what}"), why, fix);
    }

    /// Gives the finding at `place` this fix, which also settles all of some kinds: they refer to it.
    pub fn settle_with(&mut self, place: usize, fix: String, kinds: &[&str]) {
        let Some(carrier) = self.list.get(place) else { return };
        let refers = format!("-- the migration under [{}]", carrier.id);
        let settled = self.list.iter_mut().filter(|finding| kinds.contains(&finding.id));
        settled.for_each(|finding| finding.fix.clone_from(&refers));
        self.list[place].fix = fix;
    }

    pub fn len(&self) -> usize {
        self.list.len()
    }

    pub fn into_list(self) -> Vec<Finding> {
        self.list
    }
}

/// What was found for one table.
#[derive(Debug, Default)]
pub struct TableFindings {
    /// Server and version, for those that told.
    pub versions: Vec<(&'static str, String)>,
    /// The findings, the gravest first.
    pub findings: Vec<Finding>,
    /// Servers that could not be asked, and why.
    pub failures: Vec<Error>,
    /// What a run would move now, as far as it could be found out.
    pub backlog: Backlog,
}

impl TableFindings {
    /// A server's answer; the failure of one that could not be asked is kept.
    pub fn answered<T>(&mut self, answer: Result<T>) -> Option<T> {
        answer.map_err(|error| self.failures.push(error)).ok()
    }
}

impl Outcome for TableFindings {
    /// 78 if there is an error among the findings; the code of a server that could not be asked.
    fn exit_code(&self) -> ExitCode {
        let has_error = self.findings.iter().any(|finding| finding.severity == Severity::Error);
        let found = if has_error { ExitCode::Config } else { ExitCode::Done };
        self.failures.iter().map(Error::exit_code).fold(found, ExitCode::graver)
    }

    fn text(&self, table: &TableConfig) -> String {
        let versions: Vec<String> =
            self.versions.iter().map(|(server, version)| format!("{server} {version}")).collect();
        let versions = if versions.is_empty() { "no server version known".to_owned() } else { versions.join(", ") };
        let mut text = format!("{} → {} → {}  ({versions})\n", table.source, table.topic, table.target);
        for failure in &self.failures {
            let (what, why, hint) = (failure.what(), failure.why(), failure.hint());
            text += &format!("\n  not checked: {what}: {why}\n    hint: {hint}\n");
        }
        for Finding { severity, server, id, what, why, fix } in &self.findings {
            let fix = fix.replace('\n', "\n         ");
            text += &format!("\n  {}: {server:?}: {what} [{id}]\n    why: {why}\n    fix: {fix}\n", severity.name());
        }
        let number = |severity: Severity| {
            let count = self.findings.iter().filter(|finding| finding.severity == severity).count();
            counted(count as u64, severity.name())
        };
        let [errors, warnings, notes] = [Severity::Error, Severity::Warning, Severity::Note].map(number);
        text += &format!("\n  {errors}, {warnings}, {notes}\n  a run would move now: {}\n\n", self.backlog.summary());
        text
    }
}

impl Serialize for TableFindings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        json!({
            "exit_code": self.exit_code().code(),
            "versions": self.versions.iter().cloned().collect::<BTreeMap<_, _>>(),
            "findings": self.findings,
            "errors": self.failures,
            "would_move": { "unsent": self.backlog.unsent, "records_at_most": self.backlog.behind() },
        })
        .serialize(serializer)
    }
}

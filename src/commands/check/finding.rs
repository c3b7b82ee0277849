//! What a check has found, for a person and for a machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;
use serde::ser::{SerializeStruct as _, Serializer};

use crate::commands::Outcome;
use crate::error::{Error, ExitCode};
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

/// The server that a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Server {
    /// PostgreSQL.
    PostgreSQL,
    /// Kafka.
    Kafka,
    /// ClickHouse.
    ClickHouse,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it weighs.
    pub severity: Severity,
    /// Where it is.
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

/// The findings on one server.
#[derive(Debug)]
pub struct Findings {
    server: Server,
    list: Vec<Finding>,
}

impl Findings {
    /// None yet.
    #[must_use]
    pub const fn new(server: Server) -> Self {
        Self { server, list: Vec::new() }
    }

    /// Adds one.
    pub fn add(
        &mut self,
        severity: Severity,
        id: &'static str,
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) {
        let (what, why, fix) = (what.into(), why.into(), fix.into());
        self.list.push(Finding { severity, server: self.server, id, what, why, fix });
    }

    /// Where the first one is that `fits`.
    #[must_use]
    pub fn position(&self, fits: impl Fn(&Finding) -> bool) -> Option<usize> {
        self.list.iter().position(fits)
    }

    /// Gives the finding at `place` this fix, which also settles all of some kinds: they refer to it.
    pub fn settle_with(&mut self, place: usize, fix: &str, kinds: &[&str]) {
        let Some(carrier) = self.list.get_mut(place) else { return };
        fix.clone_into(&mut carrier.fix);
        let refers = format!("-- the migration under [{}]", carrier.id);
        let settled = self.list.iter_mut().enumerate();
        for (_, finding) in settled.filter(|(at, finding)| *at != place && kinds.contains(&finding.id)) {
            finding.fix.clone_from(&refers);
        }
    }

    /// Replaces a part of every fix that has it.
    pub fn reword(&mut self, part: &str, by: &str) {
        self.list.iter_mut().for_each(|finding| finding.fix = finding.fix.replace(part, by));
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// All of them.
    #[must_use]
    pub fn into_list(self) -> Vec<Finding> {
        self.list
    }
}

/// What was found for one table.
#[derive(Debug, Default)]
pub struct TableFindings {
    /// The source table.
    pub source: String,
    /// The topic.
    pub topic: String,
    /// The target table.
    pub target: String,
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
    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

impl Outcome for TableFindings {
    /// 78 if there is an error among the findings; the code of a server that could not be asked.
    fn exit_code(&self) -> ExitCode {
        let has_error = self.findings.iter().any(|finding| finding.severity == Severity::Error);
        let found = if has_error { ExitCode::Config } else { ExitCode::Done };
        self.failures.iter().map(Error::exit_code).fold(found, ExitCode::graver)
    }

    fn text_of(tables: &[Self]) -> String {
        let mut text = String::new();
        for table in tables {
            // A string takes everything.
            let _ = render_table(&mut text, table);
        }
        text
    }
}

fn render_table(text: &mut String, table: &TableFindings) -> std::fmt::Result {
    let versions: Vec<String> = table.versions.iter().map(|(server, version)| format!("{server} {version}")).collect();
    let versions = if versions.is_empty() { "no server version known".to_owned() } else { versions.join(", ") };
    writeln!(text, "{} → {} → {}  ({versions})", table.source, table.topic, table.target)?;
    for failure in &table.failures {
        writeln!(text, "\n  not checked: {}: {}\n    hint: {}", failure.what(), failure.why(), failure.hint())?;
    }
    for finding in &table.findings {
        let severity = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        writeln!(text, "\n  {severity}: {:?}: {} [{}]", finding.server, finding.what, finding.id)?;
        writeln!(text, "    why: {}", finding.why)?;
        writeln!(text, "    fix: {}", finding.fix.replace('\n', "\n         "))?;
    }
    let number = |severity, noun| counted(table.count(severity) as u64, noun);
    let (errors, warnings) = (number(Severity::Error, "error"), number(Severity::Warning, "warning"));
    writeln!(text, "\n  {errors}, {warnings}, {}", number(Severity::Note, "note"))?;
    writeln!(text, "  a run would move now: {}\n", table.backlog.summary())
}

impl Serialize for TableFindings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut parts = serializer.serialize_struct("TableFindings", 5)?;
        parts.serialize_field("exit_code", &self.exit_code().code())?;
        parts.serialize_field("versions", &self.versions.iter().cloned().collect::<BTreeMap<_, _>>())?;
        parts.serialize_field("findings", &self.findings)?;
        parts.serialize_field("errors", &self.failures)?;
        parts.serialize_field("would_move", &self.backlog.would_move())?;
        parts.end()
    }
}

/// Reports that the role lacks a privilege on `what`, named `object` in the GRANT.
pub fn missing_privilege(findings: &mut Findings, privilege: &str, what: &str, why: &str, object: &str, role: &str) {
    findings.add(
        Severity::Error,
        "grant-missing",
        format!("{role} lacks {privilege} on {what}"),
        format!("it is needed for {why}"),
        format!("GRANT {privilege} ON {object} TO {role};"),
    );
}

//! Soft deletes: whether each reaches the target, and whether the target hides what is deleted and keeps it.

use std::collections::BTreeMap;

use super::clickhouse::Check;
use super::finding::Findings;
use crate::clickhouse::column_type::Column;
use crate::clickhouse::text;
use crate::error::Result;
use crate::fit::{Remedy, deletes};
use crate::ports::engine::Engine;
use crate::ports::target::TargetDescription;
use crate::postgres::{Session, SourceTable, condition_uses};

/// A row that leaves `where` by being deleted is never sent: the target shows it for ever.
pub fn condition(session: &mut Session, source: &SourceTable, findings: &mut Findings) -> Result<()> {
    let Some(deleted) = source.deleted.as_ref() else { return Ok(()) };
    if condition_uses(session, source, &deleted.name)? {
        findings.warning(
            "where-deleted",
            format!("`where` of {} depends on {}", source.name, deleted.name),
            "a row that leaves `where` when it is deleted is not sent: the target keeps showing it",
            "-- let `where` take deleted rows too; nothing, if it does",
        );
    }
    Ok(())
}

impl Check<'_> {
    /// Whether the server's configuration has merges remove deleted rows. What the table says itself is a misfit.
    pub(super) fn cleanup(&mut self, engine: &Engine, defaults: &BTreeMap<String, String>) {
        let of_server = |name: &str| defaults.get(name).filter(|_| engine.setting(name).is_none()).map(String::as_str);
        if engine.argument(1).is_none() || !engine.is_merge_tree() {
            return;
        }
        if let Some((setting, off)) = deletes::cleanup(of_server) {
            let (what, fix) = (format!("the server's configuration has {setting}"), self.name());
            let fix = format!("ALTER TABLE {fix} MODIFY SETTING {off};");
            self.findings.error("cleanup-merges", what, deletes::SHOWN_AGAIN, fix);
        }
    }

    /// Whether the column that the engine hides rows by marks what is deleted in the source, and nothing else: the server
    /// evaluates it.
    pub(super) fn deleted(&mut self, description: &TargetDescription) -> Result<()> {
        let (Some(name), Some(by)) = (deletes::column(self.table), description.engine.argument(1)) else {
            return Ok(());
        };
        let Some(source) = self.source.and_then(|source| source.table.deleted.as_ref()) else { return Ok(()) };
        let sql = format!(
            "SELECT default_expression FROM system.columns WHERE {} AND name = {} AND default_kind = 'MATERIALIZED'",
            self.here("table"),
            text(&by)
        );
        let Some(default_expression) = self.column::<String>(&sql)?.into_iter().next() else { return Ok(()) };
        let is_made_of = |column: &Column| {
            let question = deletes::question(&default_expression, source, name, &column.type_name);
            self.http.says(&question, "1")
        };
        if description.column(name).is_some_and(is_made_of) {
            return Ok(());
        }
        self.note(Remedy::NewEngine);
        self.findings.error(
            "engine-deleted",
            format!("{by} of {} is {default_expression}", self.table.target),
            format!("FINAL hides other rows than those whose {name} says that they are deleted"),
            "-- recreate the table",
        );
        Ok(())
    }
}

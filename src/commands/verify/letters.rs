//! Rows whose newest version the target has refused, whether it holds an older one or not.

use std::collections::HashSet;

use super::Verification;
use super::source::SourceRow;
use crate::commands::dead_letters::look::Looker;
use crate::commands::dead_letters::report::State;
use crate::error::Result;

impl Verification<'_> {
    /// Counts the flagged rows that have a pending dead letter, and nothing newer in the topic.
    pub(super) fn count_letters(&mut self) -> Result<()> {
        let Some(mut letters) = self.waiting.letters()? else { return Ok(()) };
        let (mut looker, mut counted) = (Looker::new(self.leg)?, HashSet::new());
        while let Some(chunk) = letters.next_chunk()? {
            let states = looker.states(&letters, &chunk)?;
            let pending = chunk.iter().zip(states).filter(|(_, state)| *state == State::Pending);
            let keys = pending.map(|(letter, _)| {
                let record = &letter.record;
                String::from_utf8_lossy(&self.leg.table.row_key(record.key.as_deref(), record.value.as_deref()))
                    .into_owned()
            });
            let keys: HashSet<String> = keys.collect();
            if keys.is_empty() {
                continue;
            }
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let rows = self.flagged_of(&keys)?;
            // A row is flagged after its record was committed.
            self.waiting.refresh()?;
            for row in rows.iter().filter(|row| !self.waiting.is_in_topic(&row.key.record_key)) {
                if counted.insert(row.key.number) {
                    self.report.dead_letters.count(|| self.key.shown(&row.key.text));
                }
            }
        }
        Ok(())
    }

    /// The flagged rows of these keys. That of another producer's record may be no value of the key's type: then no row has it.
    fn flagged_of(&mut self, keys: &[&str]) -> Result<Vec<SourceRow>> {
        match self.source.flagged_rows(&[], keys) {
            Err(error) if error.is_transient() => Err(error),
            Err(_) if keys.len() > 1 => {
                let (one, other) = keys.split_at(keys.len() / 2);
                Ok([self.flagged_of(one)?, self.flagged_of(other)?].concat())
            }
            found => Ok(found.unwrap_or_default()),
        }
    }
}

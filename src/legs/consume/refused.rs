//! Rows that the target refuses: which they are, and whether they become dead letters or stop the run.

use super::insert::Inserter;
use super::prepared::Prepared;
use crate::config::OnBadRow;
use crate::data::{DeadLetter, RecordId};
use crate::error::{Error, ExitCode, Result};
use crate::ports::target::Target;
use crate::ports::topic::Fence;

/// A block of at most this many rows is tried again whole for each bad row that the server names.
const SMALL: usize = 256;

impl<F: Fence + Send, T: Target> Inserter<F, T> {
    /// The rows that the target refuses, with their reasons, as far as it shows them without storing any; none where that is not
    /// enough: if the run has to stop before one of them, or it refuses for what only storing shows.
    ///
    /// # Errors
    /// 69 if the target is not the one for which the rows were encoded; ClickHouse's.
    pub(super) fn find_bad(
        &mut self,
        prepared: &Prepared,
        rows: &[usize],
        before: usize,
    ) -> Result<Vec<(usize, String)>> {
        let room = self.rules.max_dead_letters.saturating_sub(self.counts.dead_letters + before as u64);
        let mut bad = Vec::new();
        let mut found = self.rules.on_bad_row == OnBadRow::DeadLetter && self.probe(prepared, rows, room, &mut bad);
        self.target.end_probes();
        if found && bad.len() == rows.len() {
            // They were tried on a table that takes none, maybe because the target was altered just then: once more.
            found = matches!(self.target.probe(&prepared.body_of(&rows[..1])), Some(Err(_)));
            self.target.end_probes();
            self.require_as_described("its rows were refused")?;
        }
        Ok(if found { bad } else { Vec::new() })
    }

    /// Adds the bad rows among these; whether they could all be told, and are at most `room`.
    fn probe(&mut self, prepared: &Prepared, rows: &[usize], room: u64, bad: &mut Vec<(usize, String)>) -> bool {
        if rows.is_empty() {
            return true;
        }
        match (self.target.probe(&prepared.body_of(rows)), rows) {
            (None, _) => false,
            (Some(Ok(())), _) => true,
            (Some(Err(reason)), [row]) => {
                bad.push((*row, reason));
                bad.len() as u64 <= room
            }
            (Some(Err(reason)), _) => {
                // A constraint names the first row that breaks it; in a small block that is quicker than halving.
                let named = named_row(&reason).filter(|row| rows.len() <= SMALL && (1..=rows.len()).contains(row));
                let middle = named.map_or(rows.len() / 2, |row| row - 1);
                let (one, other) = rows.split_at(middle);
                let (first, other) = other.split_at(usize::from(named.is_some()));
                [one, first, other].into_iter().all(|part| self.probe(prepared, part, room, bad))
            }
        }
    }

    pub(super) fn refused_by_server(
        &mut self,
        prepared: &Prepared,
        row: usize,
        reason: String,
        before: usize,
    ) -> Result<Vec<DeadLetter>> {
        let id = prepared.id(row);
        let is_known = self.tools.letters.contains(&id);
        if let Some(error) = self.limit(&id, &reason, before).filter(|_| !is_known) {
            self.committer.forget_intents(&prepared.ranges_of(&(row..row + 1)));
            self.committer.flush()?;
            return Err(error);
        }
        self.letters(vec![(id, reason)])
    }

    /// The records as dead letters, but for those that are some already.
    pub(super) fn letters(&mut self, mut refused: Vec<(RecordId, String)>) -> Result<Vec<DeadLetter>> {
        refused.retain(|(id, _)| !self.tools.letters.contains(id));
        if refused.is_empty() { Ok(Vec::new()) } else { (self.tools.read_again)(refused) }
    }

    /// The error that stops the run before a record that is refused, if it has to stop: by `on_bad_row`, or because it would be
    /// one dead letter too many, with the `before` ones of the same part.
    pub(super) fn limit(&self, id: &RecordId, reason: &str, before: usize) -> Option<Error> {
        let what = format!("stopped before partition {} offset {}", id.partition, id.offset);
        if self.rules.on_bad_row == OnBadRow::Stop {
            return Some(Error::new(
                ExitCode::Data,
                what,
                format!("the target does not take the record: {reason}"),
                "change the target: the next run reads the same record again, whatever the row is by then. With \
                 `on_bad_row = \"dead-letter\"` the run continues without the record",
            ));
        }
        let refused = self.counts.dead_letters + before as u64;
        (refused >= self.rules.max_dead_letters).then(|| {
            Error::new(
                ExitCode::Data,
                what,
                format!("the target has refused {refused} records in this run; the next: {reason}"),
                "this many refusals suggest that the target does not match the topic: run `pg2ch check`; `max_dead_letters` \
                 sets the limit",
            )
        })
    }
}

/// The number of the row, from 1, that the server's words name.
fn named_row(reason: &str) -> Option<usize> {
    let (_, rest) = reason.split_once(" at row ")?;
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

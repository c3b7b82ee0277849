//! What became of letters: asked of the target, and read from the notes among them.

use super::report::State;
use super::settled::settled;
use crate::clickhouse::ClickHouseTarget;
use crate::config::TableConfig;
use crate::data::Fate;
use crate::error::Result;
use crate::kafka::{Letter, Letters};
use crate::ports::LegContext;

/// Finds out what became of letters.
pub struct Looker<'a> {
    target: ClickHouseTarget,
    table: &'a TableConfig,
}

impl<'a> Looker<'a> {
    pub fn new(leg: &LegContext<'a>) -> Result<Self> {
        Ok(Self { target: ClickHouseTarget::new(leg.config, leg.table)?, table: leg.table })
    }

    /// The states of these letters, in their order.
    pub fn states(&mut self, letters: &Letters, chunk: &[Letter]) -> Result<Vec<State>> {
        let held = self.target.held_of(&chunk.iter().map(Letter::id).collect::<Vec<_>>())?;
        let is_open = |letter: &&Letter| !held.contains(&letter.id()) && letters.fate(letter) == Fate::Refused;
        let lacking: Vec<&Letter> = chunk.iter().filter(is_open).collect();
        let settled = settled(&mut self.target, self.table, &lacking);
        let state = |letter: &Letter| match (held.contains(&letter.id()), letters.fate(letter)) {
            // A merge may have removed it since, because of a newer version.
            (true, _) | (_, Fate::Replayed) => State::Replayed,
            (_, Fate::Dropped) => State::Dropped,
            _ if settled.contains(&letter.id()) => State::Settled,
            _ => State::Pending,
        };
        Ok(chunk.iter().map(state).collect())
    }
}

//! Letters that a replay leaves out: PostgreSQL has their row in another version, which neither the topic nor the target has
//!
//! Replayed, the letter's version would be the newest in the target.

use std::collections::{HashMap, HashSet};

use crate::clickhouse::ClickHouseTarget;
use crate::commands::verify::between::Between;
use crate::commands::verify::key::KeyText;
use crate::commands::verify::patient;
use crate::commands::verify::source::Source;
use crate::commands::verify::target::TargetKeys;
use crate::commands::verify::waiting::{Waiting, letter_key};
use crate::data::RecordId;
use crate::error::{ExitCode, Result};
use crate::kafka::Letter;
use crate::ports::LegContext;
use crate::ports::target::TargetDescription;
use crate::postgres::{SourceTable, connect};

/// Why such a letter is not inserted.
pub(super) const REASON: &str = "PostgreSQL has another version of the row, or other columns than this letter, and the target has \
                                 no newer one: `pg2ch verify --repair --confirm` has the row sent again";

/// The three servers, asked about the rows of letters.
pub(super) struct Older<'a> {
    leg: &'a LegContext<'a>,
    source: Source,
    target: TargetKeys,
    waiting: Waiting<'a>,
}

impl<'a> Older<'a> {
    /// Reads what waits in the topic, of which no more comes: the lock is held. `None` if the keys cannot be compared.
    pub fn new(leg: &'a LegContext<'a>, description: &TargetDescription) -> Result<Option<Self>> {
        let patient = patient(leg.config);
        let mut session = connect(&patient, "replay", leg.watchdog)?;
        let table = SourceTable::find(&mut session, leg.table)?;
        let columns = description.keeping_columns();
        let key = match KeyText::of(&table, &columns, &leg.table.column_rules, &leg.table.target.to_string()) {
            Err(error) if error.exit_code() == ExitCode::Config => return Ok(None),
            key => key?,
        };
        let mut waiting = Waiting::new(leg)?;
        let source = Source::new(session, connect(&patient, "replay", leg.watchdog)?, table, key.clone())?;
        let target = TargetKeys::new(ClickHouseTarget::new(&patient, leg.table)?, key);
        waiting.refresh()?;
        Ok(Some(Self { leg, source, target, waiting }))
    }

    /// The records of those letters.
    pub fn of(&mut self, letters: &[&Letter]) -> Result<HashSet<RecordId>> {
        let keys: Vec<String> = letters.iter().map(|letter| letter_key(self.leg.table, letter)).collect();
        let rows = self.source.sent_rows(&keys.iter().map(String::as_str).collect::<Vec<_>>())?;
        let held = self.target.newest_places(rows.iter().map(|row| &row.key))?;
        let unmet = rows.iter().filter_map(|row| {
            let held = held.get(&row.key.number).copied();
            let between = self.waiting.between(&row.key.record_key, &row.json, held);
            matches!(between, Between::Stale | Between::Nothing).then_some((row.key.record_key.as_str(), held))
        });
        let unmet: HashMap<&str, _> = unmet.collect();
        let is_newest = |letter: &Letter, key: &str| {
            let place = (letter.record.timestamp_ms, letter.record.offset);
            unmet.get(key).is_some_and(|held| Some(place) > *held)
        };
        let older = letters.iter().zip(&keys).filter(|(letter, key)| is_newest(letter, key));
        Ok(older.map(|(letter, _)| letter.id()).collect())
    }
}

//! Alone with a table's letters: the lock is held and consume runs are fenced off, so that no other program inserts the same records, or
//! settles the same letters.

use crate::data::{DeadLetter, Fate};
use crate::error::Result;
use crate::kafka::{KafkaLog, KafkaWriter, Letter, Letters};
use crate::open::{open_fence, open_ledger};
use crate::ports::LegContext;
use crate::ports::record_types::RecordTypes;
use crate::ports::source::Ledger as _;
use crate::ports::topic::{End, Fence as _};
use crate::postgres::PgLedger;

/// The lock and the fence.
pub(super) struct Alone {
    /// Its session holds the lock.
    ledger: PgLedger,
    fence: KafkaWriter,
}

impl Alone {
    /// Takes the lock and fences consume runs; `None` if it was asked to finish meanwhile.
    ///
    /// # Errors
    /// 75 if a run holds the lock; the servers'.
    pub fn take(leg: &LegContext<'_>) -> Result<Option<Self>> {
        let Some(ledger) = open_ledger(leg, None)? else { return Ok(None) };
        let table = leg.table;
        let mut fence = open_fence(leg, &KafkaLog::new(leg.config, &table.topic, &table.group, leg.watchdog)?)?;
        fence.fence()?;
        Ok(Some(Self { ledger, fence }))
    }

    /// The letters. What the fence has completed of a dead run counts among them.
    ///
    /// # Errors
    /// 69 if a transaction hides some; Kafka's.
    #[expect(clippy::unused_self, reason = "there are no more to come only behind the fence")]
    pub fn letters(&self, leg: &LegContext<'_>) -> Result<Letters> {
        Letters::of(leg, End::Written, leg.shutdown)
    }

    pub fn record_types(&mut self) -> Result<RecordTypes> {
        self.ledger.checkpoint()?;
        Ok(self.ledger.record_types())
    }

    /// Writes into the dead-letter topic what became of these letters, all or none.
    pub fn note(&mut self, letters: &[&Letter], fate: Fate) -> Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        let note = |letter: &&Letter| DeadLetter {
            key: letter.record.key.clone(),
            value: None,
            headers: Vec::new(),
            reason: String::new(),
            fate,
            ..letter.record
        };
        let notes: Vec<DeadLetter> = letters.iter().map(note).collect();
        self.fence.commit(&[], &notes)
    }
}

//! The rows that were delivered and could not be flagged: locked by an application, or their flag taken back by a trigger, or
//! refused by a trigger or constraint.
//!
//! They are written down by key and digest in the transaction that moves the checkpoint, so the checkpoint waits for
//! nobody. A row whose record still has that digest is flagged as soon as that can be done; until then it is not read.

use std::collections::HashSet;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::legs::pace::Pace;
use crate::ports::source::Settled;
use crate::shutdown::Shutdown;

/// How many rows may be held when a leg begins to read, or after a batch.
pub const MAX_HELD: usize = 10_000;

/// What is held, after another attempt to flag it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldRows {
    /// Rows that could be flagged now.
    pub flagged: u64,
    /// The keys of the rows that stay held: they must not be sent again.
    pub keys: HashSet<Vec<u8>>,
    /// The keys of those among them whose flag a trigger takes back.
    pub taken_back: Vec<String>,
    /// Whether the run was asked to finish before the last page.
    pub is_cut_short: bool,
}

impl HeldRows {
    /// How many are locked.
    pub fn locked(&self) -> usize {
        self.keys.len() - self.taken_back.len()
    }
}

/// How many rows are flagged in a transaction, `most` of them at last: few enough that no application waits long for a row that it
/// has locked. A trigger can make each row slow.
pub fn flagging_pace(most: usize) -> Pace {
    Pace::new(100, most, Duration::from_millis(500))
}

/// Flags what can be flagged of rows that were delivered, page by page; `page` takes the entry after which it begins, and how
/// many rows it may take.
///
/// # Errors
/// 69 if too many stay held; PostgreSQL's; 75 if another run has taken over.
pub fn settle(
    mut pace: Pace,
    shutdown: &Shutdown,
    mut page: impl FnMut(i64, usize) -> Result<Settled>,
) -> Result<HeldRows> {
    let mut rows = HeldRows::default();
    let mut after = Some(0);
    while let Some(place) = after {
        let limit = pace.size();
        let settled = pace.time(limit, || page(place, limit))?;
        rows.flagged += settled.flagged;
        for held in settled.held {
            let name = held.taken_back.then(|| String::from_utf8_lossy(&held.key).into_owned());
            if rows.keys.insert(held.key) {
                rows.taken_back.extend(name);
            }
        }
        require_few(rows.keys.len())?;
        after = settled.next;
        if after.is_some() && shutdown.is_requested() {
            rows.is_cut_short = true;
            break;
        }
    }
    Ok(rows)
}

/// # Errors
/// 69 if more rows are held than a run keeps the keys of.
pub fn require_few(held: usize) -> Result<()> {
    if held <= MAX_HELD {
        return Ok(());
    }
    Err(Error::unavailable(
        "cannot send more rows",
        format!(
            "more than {MAX_HELD} rows were sent and cannot be flagged: they are locked, or a trigger or constraint keeps their flag FALSE"
        ),
        "end the transactions that lock them, or change the trigger or constraint; the next run resumes here",
    ))
}

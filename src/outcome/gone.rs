//! What a topic no longer holds of what a run expects there: `check` and `status` say so before the next run does.

use std::fmt::{self, Display, Formatter};

use super::backlog::Backlog;
use crate::data::{NextOffset, Offsets};

/// Why the offsets are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An end never goes back: the topic was recreated, or Kafka was restored from an older copy.
    Shorter,
    /// Retention, or somebody who deleted records.
    Deleted,
}

/// Offsets of a partition that are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Why.
    pub cause: Cause,
    partition: i32,
    from: NextOffset,
    to: NextOffset,
}

impl Gone {
    /// By how far the topic reaches, and the checkpoint, which must have been read before the topic's ends. Where these are not known,
    /// nothing is said to be gone.
    #[must_use]
    pub fn of(backlog: &Backlog, checkpoint: &Offsets) -> Vec<Self> {
        let Some(lags) = &backlog.partitions else { return Vec::new() };
        let settled = |partition: i32| checkpoint.get(&partition).copied().unwrap_or_default();
        let here = lags.iter().filter_map(|lag| {
            let (partition, reached) = (lag.partition, lag.beyond.unwrap_or_default().max(settled(lag.partition)));
            if reached > lag.written {
                Some(Self { cause: Cause::Shorter, partition, from: lag.written, to: reached })
            } else if lag.trusted && lag.next < lag.first {
                Some(Self { cause: Cause::Deleted, partition, from: lag.next, to: lag.first })
            } else {
                None
            }
        });
        // The topic has fewer partitions than it had.
        let is_missing = |partition: i32| lags.iter().all(|lag| lag.partition != partition);
        let whole = checkpoint
            .iter()
            .filter(|&(&partition, &to)| to > 0 && is_missing(partition))
            .map(|(&partition, &to)| Self { cause: Cause::Shorter, partition, from: 0, to });
        here.chain(whole).collect()
    }
}

impl Display for Gone {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { partition, from, to, .. } = self;
        match self.cause {
            Cause::Shorter => {
                write!(
                    f,
                    "partition {partition} ends at offset {from}, below offset {to}, up to which it was sent or copied"
                )
            }
            Cause::Deleted => {
                write!(f, "partition {partition}: offsets {from} to {to} were deleted before they were copied")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::backlog::PartitionLag;

    fn lag(partition: i32, first: i64, next: i64, written: i64) -> PartitionLag {
        let beyond = (next > written).then_some(next);
        PartitionLag { partition, next, end: written, trusted: true, behind: 0, first, written, beyond }
    }

    fn found(lags: &[PartitionLag], checkpoint: &[(i32, i64)]) -> Vec<(Cause, i32, i64, i64)> {
        let backlog = Backlog { unsent: None, partitions: Some(lags.to_vec()) };
        let gone = Gone::of(&backlog, &checkpoint.iter().copied().collect());
        gone.into_iter().map(|gone| (gone.cause, gone.partition, gone.from, gone.to)).collect()
    }

    #[test]
    fn a_topic_that_reaches_what_is_known_of_it_has_lost_nothing() {
        assert_eq!(found(&[lag(0, 0, 5, 9), lag(1, 3, 3, 3)], &[(0, 9), (1, 3), (2, 0)]), []);
    }

    #[test]
    fn each_way_to_lose_records_is_told_from_the_other() {
        assert_eq!(found(&[lag(0, 0, 5, 8)], &[(0, 9)]), [(Cause::Shorter, 0, 8, 9)]);
        assert_eq!(found(&[lag(0, 0, 5, 4)], &[]), [(Cause::Shorter, 0, 4, 5)]);
        assert_eq!(found(&[lag(0, 0, 5, 9)], &[(1, 7)]), [(Cause::Shorter, 1, 0, 7)], "fewer partitions");
        assert_eq!(found(&[lag(0, 6, 5, 9)], &[(0, 9)]), [(Cause::Deleted, 0, 5, 6)]);
    }
}

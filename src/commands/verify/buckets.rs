//! Counts and sums of both servers by bucket, and the slices of buckets that are looked at key by key.

/// The bits of a key's number that are summed, whichever bucket it is in.
pub const SUMMED: u64 = (1 << 48) - 1;

/// How many of the target's keys are held at a time: what bounds the memory. The source's only pass by.
const SLICE_KEYS: u64 = 500_000;

/// How many buckets a question lists: servers limit its length.
const SLICE_BUCKETS: usize = 30_000;

const KEYS_PER_BUCKET: u64 = 64;

/// How keys are put into buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucketing {
    bits: u32,
}

impl Bucketing {
    /// Buckets for about this many keys: 16 to 65,536 of them.
    pub fn of(keys: u64) -> Self {
        Self { bits: (keys / KEYS_PER_BUCKET).checked_ilog2().unwrap_or(0).clamp(4, 16) }
    }

    /// How far a number is shifted to get its bucket.
    pub const fn shift(self) -> u32 {
        64 - self.bits
    }

    pub fn bucket_of(self, number: u64) -> usize {
        usize::try_from(number >> self.shift()).unwrap_or_default()
    }

    pub const fn count(self) -> usize {
        1 << self.bits
    }
}

/// Keys of a bucket: how many, and the sum of their numbers' lower bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub keys: u64,
    pub sum: u64,
}

/// The keys of the target's bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TargetSum {
    /// Those that lie not below the limit of `pg2ch prune`: all, where nothing was pruned.
    pub sum: Sum,
    pub below: u64,
}

/// The keys of the source's bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceSum {
    /// All that lie not below the limit of `pg2ch prune`.
    pub all: Sum,
    /// Those of flagged rows.
    pub flagged: Sum,
    /// How many have no flag at all.
    pub unset: u64,
    pub below: u64,
    /// How many of them are flagged.
    pub below_flagged: u64,
}

/// The buckets that may differ, in slices that are small enough to be held.
///
/// Unsent rows may be in the target, in an older version, or not: a bucket that equals either set has no difference. But an older
/// version may lie below the limit of `pg2ch prune`.
pub fn slices(source: &[SourceSum], target: &[TargetSum]) -> Vec<Vec<usize>> {
    let mut slices: Vec<Vec<usize>> = Vec::new();
    let mut keys = 0;
    for (bucket, (source, target)) in source.iter().zip(target).enumerate() {
        if source.all == target.sum || source.flagged == target.sum && target.below == 0 {
            continue;
        }
        let here = target.sum.keys + target.below;
        match slices.last_mut() {
            Some(slice) if slice.len() < SLICE_BUCKETS && keys + here <= SLICE_KEYS => {
                slice.push(bucket);
                keys += here;
            }
            _ => {
                slices.push(vec![bucket]);
                keys = here;
            }
        }
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tables_have_few_buckets_and_large_ones_no_more_than_65536() {
        assert_eq!(Bucketing::of(0).count(), 16);
        assert_eq!(Bucketing::of(200_000).count(), 2_048);
        assert_eq!(Bucketing::of(u64::MAX).count(), 65_536);
    }

    #[test]
    fn slices_hold_what_differs_and_stay_small() {
        let sum = |keys, sum| Sum { keys, sum };
        let source = |all, flagged| SourceSum { all, flagged, ..SourceSum::default() };
        let equal = sum(2, 9);
        let sources = [
            source(equal, equal),
            source(sum(3, 12), equal),
            source(equal, sum(1, 4)),
            source(equal, sum(1, 3)),
            source(Sum::default(), Sum::default()),
            source(sum(400_000, 1), sum(400_000, 1)),
            source(sum(4_000_000, 1), sum(4_000_000, 1)),
        ];
        let targets = [equal, equal, equal, sum(1, 4), sum(400_000, 1), sum(400_000, 2), Sum::default()];
        let mut targets = targets.map(|sum| TargetSum { sum, below: 0 });
        assert_eq!(slices(&sources, &targets), [vec![3, 4], vec![5, 6]]);
        // Keys below the limit count only where unsent rows may be among them.
        targets.iter_mut().take(2).for_each(|target| target.below = 7);
        assert_eq!(slices(&sources, &targets), [vec![1, 3, 4], vec![5, 6]]);
    }
}

//! Which keys are on one side only, and why.
//!
//! Rows may be in motion. A flagged row's record was committed before the row was read; so the topic is read to its end
//! after that, and the target is asked once more after the topic: a row that is in neither is missing.

use std::collections::{HashMap, HashSet};

use super::Verification;
use super::between::Between;
use super::buckets::{Bucketing, SourceSum, TargetSum, slices};
use super::letters::judged;
use super::report::MOST_SHOWN;
use super::source::SourceKey;
use super::ttl::Ttl;
use crate::crash;
use crate::error::Result;

/// How many keys that the target seems to lack are looked for at once.
const ABSENT: usize = 20_000;

impl Verification<'_> {
    pub(super) fn compare_keys(&mut self) -> Result<()> {
        let rows = self.target.rows()?;
        let buckets = Bucketing::of(self.source.estimate()?.max(rows));
        let below = self.pruned.as_ref().map(|pruned| pruned.condition.as_str());
        let in_target = self.target.sums(buckets, rows, below)?;
        let below = self.pruned.as_ref().map_or("FALSE", |pruned| pruned.in_source.as_str());
        let in_source = self.source.sums(buckets, below)?;
        for sum in &in_source {
            self.report.rows += sum.all.keys + sum.below;
            self.report.never_sent += sum.unset;
            self.report.unsent += sum.all.keys + sum.below - sum.flagged.keys - sum.below_flagged - sum.unset;
        }
        self.report.keys_in_target = in_target.iter().map(|found| found.sum.keys + found.below).sum();
        let (doubled, keys) = self.target.doubled(rows)?;
        self.report.doubled.add(doubled, keys.iter().map(|key| self.key.shown(key)));
        let slices = slices(&in_source, &in_target);
        log::info!("{}: {} slices of buckets differ", self.leg.table.source, slices.len());
        for slice in &slices {
            if self.is_to_end() {
                return Ok(());
            }
            self.compare_slice(buckets, slice)?;
        }
        self.compare_below(buckets, &slices.concat(), &in_source, &in_target)
    }

    /// Where the keys above the limit of `pg2ch prune` are equal, rows below it are asked for one by one. What the target has
    /// there besides was pruned.
    fn compare_below(
        &mut self,
        buckets: Bucketing,
        compared: &[usize],
        in_source: &[SourceSum],
        in_target: &[TargetSum],
    ) -> Result<()> {
        let Some(pruned) = &self.pruned else { return Ok(()) };
        let compared: HashSet<usize> = compared.iter().copied().collect();
        let rest = |bucket: &usize| !compared.contains(bucket);
        let below: u64 = (0..in_target.len()).filter(rest).map(|bucket| in_target[bucket].below).sum();
        let rows: u64 = (0..in_source.len()).filter(rest).map(|bucket| in_source[bucket].below).sum();
        let mut found = 0;
        if rows > 0 {
            let condition = pruned.in_source.clone();
            self.source.open_keys_where(&condition)?;
            while let Some(keys) = self.source.next_keys()? {
                let is_rest = |key: &SourceKey| rest(&buckets.bucket_of(key.number));
                let keys: Vec<SourceKey> = keys.into_iter().filter(is_rest).collect();
                let there = self.target.newest_places(keys.iter())?;
                found += there.len() as u64;
                let absent = keys.into_iter().filter(|key| key.flagged && !there.contains_key(&key.number));
                self.confirm_absent(&absent.collect::<Vec<_>>())?;
                if self.is_to_end() {
                    return self.source.stop();
                }
            }
        }
        self.report.pruned += below.saturating_sub(found);
        Ok(())
    }

    fn compare_slice(&mut self, buckets: Bucketing, slice: &[usize]) -> Result<()> {
        let in_target = self.target.numbers_in(buckets, slice, None)?;
        let pruned = match &self.pruned {
            Some(pruned) => self.target.numbers_in(buckets, slice, Some(&pruned.condition))?,
            None => Vec::new(),
        };
        crash::point("verify.keys.asked");
        let mut seen = vec![false; in_target.len()];
        let mut absent: Vec<SourceKey> = Vec::new();
        self.source.open_keys(buckets, slice)?;
        while let Some(keys) = self.source.next_keys()? {
            for key in keys {
                match in_target.binary_search(&key.number) {
                    Ok(place) => seen[place] = true,
                    Err(_) if key.flagged => absent.push(key),
                    Err(_) => {}
                }
            }
            if absent.len() >= ABSENT {
                self.confirm_absent(&absent)?;
                absent.clear();
            }
            if self.is_to_end() {
                return self.source.stop();
            }
        }
        self.confirm_absent(&absent)?;
        let unseen = in_target.iter().zip(&seen).filter(|(_, seen)| !**seen).map(|(number, _)| *number);
        let (gone, extra): (Vec<u64>, Vec<u64>) = unseen.partition(|number| pruned.binary_search(number).is_ok());
        self.report.pruned += gone.len() as u64;
        self.report_extra(&extra)
    }

    /// Looks once more for keys that the target lacked, behind what was in motion then.
    fn confirm_absent(&mut self, absent: &[SourceKey]) -> Result<()> {
        if absent.is_empty() {
            return Ok(());
        }
        self.waiting.refresh()?;
        let there = self.target.newest_places(absent.iter())?;
        self.sort_absent(absent.iter().filter(|key| !there.contains_key(&key.number)))
    }

    /// Keys that are in the target only: deletes are not propagated.
    fn report_extra(&mut self, extra: &[u64]) -> Result<()> {
        let room = MOST_SHOWN.saturating_sub(self.report.only_in_target.keys.len());
        let texts = self.target.texts(&extra[..extra.len().min(room)])?;
        self.report.only_in_target.add(extra.len() as u64, texts.iter().map(|text| self.key.shown(text)));
        Ok(())
    }

    fn sort_absent<'k>(&mut self, absent: impl Iterator<Item = &'k SourceKey> + Clone) -> Result<()> {
        let between = judged(&mut self.source, &self.waiting, absent.clone(), &HashMap::new())?;
        let of = |key: &SourceKey| between.get(&key.number).copied();
        let (in_topic, rest): (Vec<&SourceKey>, Vec<&SourceKey>) =
            absent.filter(|key| of(key).is_some()).partition(|key| of(key) == Some(Between::InTopic));
        self.report.in_topic += in_topic.len() as u64;
        // A row that was deleted or changed meanwhile is not missing.
        let still = self.source.flagged_where("TRUE", &record_keys_of(&rest))?;
        let rest: Vec<&SourceKey> = rest.into_iter().filter(|key| still.contains(&key.record_key)).collect();
        let record_keys = record_keys_of(&rest);
        let expired = match &self.ttl {
            Ttl::Known(expiry) => {
                let rows = self.source.shown(&expiry.sources, &record_keys)?;
                expiry.of_rows(&mut self.target, &rows)?
            }
            Ttl::None | Ttl::Unknown(_) => HashSet::new(),
        };
        let deleted = match self.source.table.deleted_sql() {
            Some(is_deleted) => self.source.flagged_where(&is_deleted, &record_keys)?,
            None => HashSet::new(),
        };
        let mut missing = Vec::new();
        for key in rest {
            let between = of(key);
            if expired.contains(&key.number) {
                self.report.expired += 1;
            } else if between == Some(Between::Refused) {
                // Counted by itself, among those of which the target has an older version.
            } else if between == Some(Between::Dropped) {
                self.report.dropped += 1;
            } else if deleted.contains(&key.record_key) {
                self.report.deleted += 1;
            } else {
                self.report.missing.count(|| self.key.shown(&key.text));
                self.counted.extend((between == Some(Between::Stale)).then_some(key.number));
                missing.push(key.record_key.as_str());
            }
        }
        if matches!(self.ttl, Ttl::Unknown(_)) {
            // Those that have expired would be sent round and round.
            return Ok(());
        }
        self.repair(&missing)
    }
}

fn record_keys_of<'k>(keys: &[&'k SourceKey]) -> Vec<&'k str> {
    keys.iter().map(|key| key.record_key.as_str()).collect()
}

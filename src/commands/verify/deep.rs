//! `--deep`: the contents of every flagged row against the newest version in the target.
//!
//! Rows may be in motion while they are compared, so what differs is asked for again, in the order that a row travels:
//! only a row that has not changed from before the second look to after it, that does not wait in the topic, and that
//! still differs, is reported. A sample is also compared by what both servers print of it ([`shown`](super::shown)).

use std::collections::{HashMap, HashSet};

use serde_json::value::RawValue;

use super::Verification;
use super::between::Between;
use super::contents::Contents;
use super::letters::judged;
use super::report::Different;
use super::shown::Shown;
use super::source::{Printed, SourceRow};
use crate::crash;
use crate::error::Result;

/// Of the rows behind the first ones, one of so many is also compared by what both servers print.
const ONE_OF: usize = 20;

impl Verification<'_> {
    pub(super) fn compare_contents(&mut self, contents: &mut Contents, shown: &Shown) -> Result<()> {
        let fields = contents.fields.clone();
        self.source.open_rows(&fields)?;
        let mut typical = 256;
        while let Some(rows) = self.source.next_rows(typical)? {
            crash::point("verify.rows.asked");
            typical = rows.iter().map(|row| row.json.len()).sum::<usize>() / rows.len();
            let found = self.target.contents(contents, rows.iter().map(|row| &row.key))?;
            let odd = self.look_at(shown, &rows, self.report.rows_compared == 0)?;
            let is_suspect = |row: &SourceRow| odd.contains(&row.key.number) || differs(contents, row, &found);
            let suspects: Vec<SourceRow> = rows.into_iter().filter(is_suspect).collect();
            self.report.rows_compared += found.len() as u64;
            if !suspects.is_empty() {
                self.confirm_different(contents, shown, &fields, &suspects)?;
            }
            if self.is_to_end() {
                return self.source.stop();
            }
        }
        Ok(())
    }

    /// Those of some rows, a sample but for the `first` ones, that look another way on the two servers.
    fn look_at(&mut self, shown: &Shown, rows: &[SourceRow], first: bool) -> Result<HashSet<u64>> {
        let sample: Vec<&SourceRow> = rows.iter().step_by(if first { 1 } else { ONE_OF }).collect();
        if shown.columns.is_empty() {
            return Ok(HashSet::new());
        }
        let (sources, targets) = self.printed(shown, &sample)?;
        self.report.rows_shown += sample.len() as u64;
        let differs = |row: &&&SourceRow| shown.difference(row, &sources, &targets).is_some();
        Ok(sample.iter().filter(differs).map(|row| row.key.number).collect())
    }

    /// What PostgreSQL prints of some rows, and what ClickHouse does.
    fn printed(&mut self, shown: &Shown, rows: &[&SourceRow]) -> Result<(Printed, Printed)> {
        let (Shown { columns, sources, targets }, keys) = (shown, rows.iter().map(|row| &row.key));
        let record_keys: Vec<&str> = keys.clone().map(|key| key.record_key.as_str()).collect();
        Ok((self.source.shown(sources, &record_keys)?, self.target.shown_of(targets, columns.len(), keys)?))
    }

    fn confirm_different(
        &mut self,
        contents: &mut Contents,
        shown: &Shown,
        fields: &[String],
        suspects: &[SourceRow],
    ) -> Result<()> {
        let keys: Vec<&str> = suspects.iter().map(|row| row.key.record_key.as_str()).collect();
        let before = self.source.flagged_rows(fields, &keys)?;
        self.waiting.refresh()?;
        // Before the contents: a version that arrives in between is then no reason to report what it has replaced.
        let held = self.target.newest_places(before.iter().map(|row| &row.key))?;
        let found = self.target.contents(contents, before.iter().map(|row| &row.key))?;
        let (sources, targets) = self.printed(shown, &before.iter().collect::<Vec<_>>())?;
        let between = judged(&mut self.source, &self.waiting, before.iter().map(|row| &row.key), &held)?;
        let after = self.source.flagged_rows(fields, &keys)?;
        let after: HashMap<&str, &str> =
            after.iter().map(|row| (row.key.record_key.as_str(), row.json.as_str())).collect();
        let mut guilty = Vec::new();
        for row in before.iter().filter(|row| after.get(row.key.record_key.as_str()) == Some(&row.json.as_str())) {
            let looks_other = shown.difference(row, &sources, &targets);
            let is_other = differs(contents, row, &found);
            if !is_other && looks_other.is_none() {
                continue;
            }
            match between.get(&row.key.number) {
                Some(Between::InTopic) => {
                    self.report.in_topic += 1;
                    continue;
                }
                Some(Between::Dropped) => {
                    self.report.dropped += 1;
                    continue;
                }
                // Counted by itself, also where the contents are equal or cannot be compared.
                None | Some(Between::Refused) => continue,
                Some(Between::Stale) => drop(self.counted.insert(row.key.number)),
                Some(Between::Nothing) => {}
            }
            if is_other {
                guilty.push(row.key.record_key.as_str());
                let different = self.describe(contents, row, &found)?;
                self.report.add_different(different);
            } else if let Some((column, source, target)) = looks_other {
                // Sent again it would be the same bytes.
                let [source, target] = [source, target].map(|text| text.unwrap_or("NULL").to_owned());
                let key = self.key.shown(&row.key.text);
                let different = Different { key, column: Some(column.to_owned()), source, target };
                self.report.add_different(self.report.shows_more_different().then_some(different));
            }
        }
        self.repair(&guilty)
    }

    fn describe(
        &mut self,
        contents: &mut Contents,
        row: &SourceRow,
        found: &HashMap<u64, Vec<u8>>,
    ) -> Result<Option<Different>> {
        if !self.report.shows_more_different() {
            return Ok(None);
        }
        let key = self.key.shown(&row.key.text);
        let bytes = match contents.encode(&row.json) {
            Ok(bytes) => bytes,
            Err(reason) => return Ok(Some(Different { key, column: None, source: reason, target: String::new() })),
        };
        let other = found.get(&row.key.number).map_or(&[][..], Vec::as_slice);
        let column = contents.first_difference(&bytes, other).map(str::to_owned);
        let Some(column) = column else { return Ok(None) };
        let target = self.target.shown(row.key.number, &column)?.unwrap_or_default();
        let field = contents.field_of(&column).unwrap_or(&column);
        Ok(Some(Different { key, source: value_of(&row.json, field), target, column: Some(column) }))
    }
}

/// Whether the target has the key with another content. A key that it lacks was looked for already.
fn differs(contents: &mut Contents, row: &SourceRow, found: &HashMap<u64, Vec<u8>>) -> bool {
    let Some(bytes) = found.get(&row.key.number) else { return false };
    contents.encode(&row.json).as_ref() != Ok(bytes)
}

/// A column's value as the record spells it.
fn value_of(json: &str, column: &str) -> String {
    let row: Option<HashMap<String, Box<RawValue>>> = serde_json::from_str(json).ok();
    row.and_then(|row| row.get(column).map(|value| value.get().to_owned())).unwrap_or_default()
}

//! What verify asks of ClickHouse.

use std::collections::{HashMap, HashSet};

use super::between::Place;
use super::buckets::{Bucketing, SUMMED, Sum, TargetSum};
use super::contents::Contents;
use super::key::KeyText;
use super::report::MOST_SHOWN;
use super::source::{Printed, PrintedRow, SourceKey};
use crate::clickhouse::lookup::{OFFSET, TIMESTAMP};
use crate::clickhouse::{ClickHouseTarget, quote, row_binary};
use crate::error::{Error, Result};

/// How many keys or records the server keeps in memory for one question.
const PASS_ROWS: u64 = 4_000_000;

/// How many numbers a condition lists.
const LISTED: usize = 5_000;

/// How many rows are asked for that may be the newest version of one key.
const VERSIONS: usize = 20;

/// The newest row first.
const BY_PLACE: &str = "_timestamp DESC, _offset DESC";

/// What may be the newest version of a key: several rows, where they have one timestamp.
#[derive(Debug)]
pub struct Newest {
    /// Where the newest of them lies.
    pub place: Place,
    /// What is compared of them.
    pub contents: Vec<Vec<u8>>,
}

impl Newest {
    /// Whether none was left out.
    pub fn are_all(&self) -> bool {
        self.contents.len() < VERSIONS
    }
}

/// The target table, asked about keys.
pub struct TargetKeys {
    target: ClickHouseTarget,
    key: KeyText,
    what: String,
    /// Its name, and the text and the number of a row's key, in SQL.
    name: String,
    text: String,
    number: String,
}

impl TargetKeys {
    /// Asks `target` about the keys that `key` spells.
    pub fn new(target: ClickHouseTarget, key: KeyText) -> Self {
        let name = target.sql_name();
        let what = format!("cannot read {}", name.replace('`', ""));
        let (text, number) = (key.target_sql(), key.target_number_sql());
        Self { target, key, what, name, text, number }
    }

    /// How many rows there are, versions included.
    pub fn rows(&mut self) -> Result<u64> {
        let sql = format!("SELECT toUInt64(count()) FROM {} FORMAT RowBinary", self.name);
        Ok(self.numbers(&sql, 1)?.first().copied().unwrap_or(0))
    }

    /// Counts and sums of the distinct keys by bucket; those whose newest version meets the condition `below` are only counted.
    pub fn sums(&mut self, buckets: Bucketing, rows: u64, below: Option<&str>) -> Result<Vec<TargetSum>> {
        let mut sums = vec![TargetSum::default(); buckets.count()];
        let is_below = below.map_or_else(|| "0".to_owned(), newest_meets);
        let passes = (rows / PASS_ROWS + 1).min(buckets.count() as u64);
        let shift = buckets.shift();
        for pass in 0..passes {
            let Self { name, number, .. } = &*self;
            let sql = format!(
                "SELECT toUInt64(bitShiftRight(n, {shift})) AS bucket, toUInt64(countIf(is_below = 0)), \
                 toUInt64(sumIf(bitAnd(n, {SUMMED}), is_below = 0)), toUInt64(countIf(is_below = 1)) \
                 FROM (SELECT {number} AS n, {is_below} AS is_below FROM {name} WHERE bitShiftRight(n, {shift}) % {passes} = {pass} GROUP BY n) \
                 GROUP BY bucket FORMAT RowBinary"
            );
            for numbers in self.numbers(&sql, 4)?.chunks_exact(4) {
                if let Some(place) = usize::try_from(numbers[0]).ok().and_then(|bucket| sums.get_mut(bucket)) {
                    *place = TargetSum { sum: Sum { keys: numbers[1], sum: numbers[2] }, below: numbers[3] };
                }
            }
        }
        Ok(sums)
    }

    /// The numbers of the keys in some buckets, sorted: of all, or of those whose newest version meets a condition.
    pub fn numbers_in(&mut self, buckets: Bucketing, slice: &[usize], condition: Option<&str>) -> Result<Vec<u64>> {
        let list: Vec<String> = slice.iter().map(usize::to_string).collect();
        let Self { name, number, .. } = &*self;
        let having = condition.map_or_else(String::new, |condition| format!("HAVING {}", newest_meets(condition)));
        let sql = format!(
            "SELECT {number} AS n FROM {name} WHERE bitShiftRight(n, {shift}) IN ({list}) GROUP BY n {having} FORMAT RowBinary",
            shift = buckets.shift(),
            list = list.join(","),
        );
        let mut numbers = self.numbers(&sql, 1)?;
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The texts of a few keys.
    pub fn texts(&mut self, numbers: &[u64]) -> Result<Vec<String>> {
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let (Self { name, text, number, .. }, list) = (&*self, listed(numbers));
        self.strings(&format!(
            "SELECT any({text}) FROM {name} WHERE {number} IN ({list}) GROUP BY {number} FORMAT RowBinary"
        ))
    }

    /// How many rows are there once more than their record, and the keys of some of them.
    pub fn doubled(&mut self, rows: u64) -> Result<(u64, Vec<String>)> {
        let (mut doubled, mut keys) = (0, HashSet::new());
        let passes = rows / PASS_ROWS + 1;
        for pass in 0..passes {
            let Self { name, text, .. } = &*self;
            let groups = format!(
                "FROM {name} WHERE _offset % {passes} = {pass} GROUP BY _partition, _offset, _timestamp HAVING count() > 1"
            );
            let sql = format!("SELECT toUInt64(sum(c - 1)) FROM (SELECT count() AS c {groups}) FORMAT RowBinary");
            let texts = format!(
                "SELECT any({text}) FROM {name} WHERE (_partition, _offset, _timestamp) IN \
                 (SELECT _partition, _offset, _timestamp {groups} LIMIT {MOST_SHOWN}) \
                 GROUP BY _partition, _offset, _timestamp FORMAT RowBinary"
            );
            let here = self.numbers(&sql, 1)?.first().copied().unwrap_or(0);
            doubled += here;
            if here > 0 && keys.len() < MOST_SHOWN {
                keys.extend(self.strings(&texts)?);
            }
        }
        Ok((doubled, keys.into_iter().collect()))
    }

    /// The newest version of each of some keys, by the key's number: what is compared of it.
    pub fn contents<'k>(
        &mut self,
        contents: &Contents,
        keys: impl Iterator<Item = &'k SourceKey>,
    ) -> Result<HashMap<u64, Vec<u8>>> {
        let mut found = HashMap::new();
        let columns = listed_columns(contents);
        for answer in self.query_by_key(keys, |target, condition| target.newest(&columns, 1, condition))? {
            let rows = contents.split(&answer).ok_or_else(|| self.unreadable(answer.len()))?;
            found.extend(rows.into_iter().map(|([number], row)| (number, row)));
        }
        Ok(found)
    }

    /// What may be the newest version of each of some keys, by the key's number.
    pub fn newest_versions<'k>(
        &mut self,
        contents: &Contents,
        keys: impl Iterator<Item = &'k SourceKey>,
    ) -> Result<HashMap<u64, Newest>> {
        let columns = format!("{TIMESTAMP} AS pg2ch_at, {OFFSET} AS pg2ch_place, {}", listed_columns(contents));
        let ask = |target: &mut Self, condition: &str| target.newest(&columns, VERSIONS, condition);
        let answers = self.query_by_key(keys, ask)?;
        let mut found: HashMap<u64, Newest> = HashMap::new();
        for answer in answers {
            let rows = contents.split(&answer).ok_or_else(|| self.unreadable(answer.len()))?;
            for ([number, timestamp, offset], row) in rows {
                let place = (timestamp.cast_signed(), offset.cast_signed());
                let newest = found.entry(number).or_insert_with(|| Newest { place, contents: Vec::new() });
                if newest.place.0 == place.0 {
                    newest.contents.push(row);
                }
            }
        }
        Ok(found)
    }

    /// What ClickHouse prints of the newest version of each of some keys: a text for each of `count` expressions.
    pub fn shown_of<'k>(
        &mut self,
        expressions: &str,
        count: usize,
        keys: impl Iterator<Item = &'k SourceKey>,
    ) -> Result<Printed> {
        let mut found = Printed::new();
        for answer in self.query_by_key(keys, |target, condition| target.newest(expressions, 1, condition))? {
            let mut rest = answer.as_slice();
            while !rest.is_empty() {
                let (number, shown, behind) = printed(rest, count).ok_or_else(|| self.unreadable(answer.len()))?;
                found.insert(number, shown);
                rest = behind;
            }
        }
        Ok(found)
    }

    /// When the newest version of each of some keys was sent, by the key's number: of those that the target has.
    pub fn newest_places<'k>(&mut self, keys: impl Iterator<Item = &'k SourceKey>) -> Result<HashMap<u64, Place>> {
        let answers = self.query_by_key(keys, |target, condition| {
            let Self { name, number, .. } = &*target;
            let sql = format!(
                "SELECT n, toUInt64(newest.1), toUInt64(newest.2) FROM (SELECT {number} AS n, \
                 max(({TIMESTAMP}, {OFFSET})) AS newest \
                 FROM {name} WHERE {condition} GROUP BY n) FORMAT RowBinary"
            );
            target.numbers(&sql, 3)
        })?;
        let place = |found: &[u64]| (found[0], (found[1].cast_signed(), found[2].cast_signed()));
        Ok(answers.iter().flat_map(|answer| answer.chunks_exact(3).map(place)).collect())
    }

    /// Queries with a condition that names this many keys at a time; one that uses the primary index, where there is one.
    fn query_by_key<'k, T>(
        &mut self,
        keys: impl Iterator<Item = &'k SourceKey>,
        mut ask: impl FnMut(&mut Self, &str) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut answers = Vec::new();
        for chunk in keys.collect::<Vec<_>>().chunks(LISTED) {
            let texts: Vec<&str> = chunk.iter().map(|key| key.text.as_str()).collect();
            if let Some(condition) = self.key.target_condition(&texts) {
                match ask(self, &condition) {
                    Ok(answer) => {
                        answers.push(answer);
                        continue;
                    }
                    // A key that the column's type cannot even read. It is asked for by its number instead.
                    Err(error) => log::debug!("{error}"),
                }
            }
            let numbers: Vec<u64> = chunk.iter().map(|key| key.number).collect();
            answers.push(ask(self, &format!("{} IN ({})", self.number, listed(&numbers)))?);
        }
        Ok(answers)
    }

    /// The newest rows of each key, at most `most`, the newest first.
    fn newest(&mut self, columns: &str, most: usize, condition: &str) -> Result<Vec<u8>> {
        let Self { name, number, .. } = &*self;
        let sql = format!(
            "SELECT {number} AS pg2ch_number, {columns} FROM {name} WHERE {condition} \
             ORDER BY pg2ch_number, {BY_PLACE} LIMIT {most} BY pg2ch_number \
             SETTINGS output_format_json_quote_64bit_integers = 0 FORMAT RowBinary"
        );
        self.query(&sql)
    }

    /// A column of a key's newest version, for a person.
    pub fn shown(&mut self, number: u64, column: &str) -> Result<Option<String>> {
        let (Self { name, number: key, .. }, column) = (&*self, quote(column));
        let sql = format!(
            "SELECT ifNull(toString({column}), 'NULL') FROM {name} WHERE {key} = {number} ORDER BY {BY_PLACE} LIMIT 1 FORMAT RowBinary"
        );
        Ok(self.strings(&sql)?.into_iter().next())
    }

    fn query(&mut self, sql: &str) -> Result<Vec<u8>> {
        self.target.query(&self.what, sql)
    }

    /// An answer of `columns` UInt64 each.
    pub(super) fn numbers(&mut self, sql: &str, columns: usize) -> Result<Vec<u64>> {
        let answer = self.query(sql)?;
        if answer.len() % (8 * columns) != 0 {
            return Err(self.unreadable(answer.len()));
        }
        Ok(answer.chunks_exact(8).map(|bytes| bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b))).collect())
    }

    /// An answer of one String each.
    fn strings(&mut self, sql: &str) -> Result<Vec<String>> {
        let answer = self.query(sql)?;
        let (mut rest, mut strings) = (answer.as_slice(), Vec::new());
        while !rest.is_empty() {
            let (bytes, behind) = row_binary::string(rest).ok_or_else(|| self.unreadable(answer.len()))?;
            strings.push(lossy(bytes));
            rest = behind;
        }
        Ok(strings)
    }

    fn unreadable(&self, bytes: usize) -> Error {
        self.target
            .http()
            .unreadable(&self.what, format!("it has {bytes} bytes, and is not of the types that were asked for"))
    }
}

/// Whether the newest version of a group meets a condition, 0 or 1.
fn newest_meets(condition: &str) -> String {
    format!("argMax({condition}, (_timestamp, _offset))")
}

/// A key's number and `count` texts, and what comes behind them.
fn printed(row: &[u8], count: usize) -> Option<(u64, PrintedRow, &[u8])> {
    let (number, mut rest) = row.split_first_chunk()?;
    let mut shown = Vec::with_capacity(count);
    for _ in 0..count {
        let (text, behind) = row_binary::string(rest)?;
        shown.push(text.split_first().filter(|(kind, _)| **kind == b'v').map(|(_, text)| lossy(text)));
        rest = behind;
    }
    Some((u64::from_le_bytes(*number), shown, rest))
}

fn listed_columns(contents: &Contents) -> String {
    contents.names.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ")
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

fn listed(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

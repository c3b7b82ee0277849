//! The one question behind every test of the promise: is each version there once, in the topic and in the target?

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use super::{Seen, World};

/// How many of each kind are named.
const NAMED: usize = 5;

/// What does not hold.
#[derive(Debug, Default)]
pub struct Differences {
    pub lost: Vec<String>,
    pub doubled: Vec<String>,
}

impl Differences {
    #[track_caller]
    pub fn assert_none(&self) {
        assert!(self.lost.is_empty() && self.doubled.is_empty(), "{}", self.told());
    }

    /// Those that are not about one of these keys.
    pub fn but_for(mut self, keys: &HashSet<String>) -> Self {
        let is_about = |told: &String, key: &String| {
            told.starts_with(&format!("row {key} ")) || told.starts_with(&format!("(\"{key}\", "))
        };
        let is_other = |told: &String| !keys.iter().any(|key| is_about(told, key));
        self.lost.retain(is_other);
        self.doubled.retain(is_other);
        self
    }

    /// How many, and some of them.
    pub fn told(&self) -> String {
        let some = |all: &[String]| all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
        let (lost, doubled) = (&self.lost, &self.doubled);
        format!("{} lost: {}\n{} doubled: {}", lost.len(), some(lost), doubled.len(), some(doubled))
    }
}

impl World {
    /// Nothing unsent, each version once in the topic and once in the target, without FINAL.
    #[track_caller]
    pub fn assert_exactly_once(&mut self) {
        let records = self.assert_sent_exactly_once();
        self.assert_target_equals_topic(&records);
    }

    /// The first leg's part of it: nothing unsent, each version once in the topic, the last one equal to the row.
    #[track_caller]
    pub fn assert_sent_exactly_once(&mut self) -> Vec<Seen> {
        let records = self.topic();
        self.compare_with_topic(&records).assert_none();
        records
    }

    /// The second leg's: every committed record is in the target once, by partition, offset and timestamp.
    #[track_caller]
    pub fn assert_target_equals_topic(&self, records: &[Seen]) {
        self.compare_with_target(records).assert_none();
    }

    /// Every committed record is once in the target, or it is once a dead letter.
    #[track_caller]
    pub fn assert_every_record_once(&self) {
        let dead: Vec<(i32, i64)> = self
            .topic_named(&format!("{}.dead", self.name))
            .iter()
            .map(|letter| {
                let number = |name: &str| letter.headers[name].parse::<i64>().unwrap();
                (i32::try_from(number("pg2ch-partition")).unwrap(), number("pg2ch-offset"))
            })
            .collect();
        let distinct: HashSet<_> = dead.iter().copied().collect();
        assert_eq!(distinct.len(), dead.len(), "letters that are there twice: {dead:?}");
        let mut records = self.topic();
        let all = records.len();
        records.retain(|record| !distinct.contains(&(record.partition, record.offset)));
        assert_eq!(all - records.len(), dead.len(), "letters of records that are not in the topic");
        self.assert_target_equals_topic(&records);
    }

    /// Compares the source with what committed readers see of the topic.
    pub fn compare_with_topic(&mut self, records: &[Seen]) -> Differences {
        let mut found = Differences::default();
        let unsent = self.unsent();
        if unsent > 0 {
            found.lost.push(format!("{unsent} rows are unsent"));
        }
        let mut versions: HashMap<(&str, &str), usize> = HashMap::new();
        let mut last: HashMap<&str, &Seen> = HashMap::new();
        for record in records {
            *versions.entry((&record.key, &record.value)).or_default() += 1;
            // In a partition the later one; across partitions, where their number has changed, the newer one.
            let replaces =
                |known: &&Seen| known.partition == record.partition || known.timestamp_ms <= record.timestamp_ms;
            if last.get(record.key.as_str()).is_none_or(replaces) {
                last.insert(&record.key, record);
            }
        }
        let copies = versions.iter().filter(|(_, count)| **count > 1);
        found.doubled.extend(copies.map(|(version, count)| format!("{version:?} is in the topic {count} times")));
        let sql = format!("SELECT id::text, (row_to_json(t)::jsonb - 'sent_to_kafka')::text FROM {} t", self.name);
        for row in self.pg.query(&sql, &[]).unwrap() {
            let (key, row): (String, String) = (row.get(0), row.get(1));
            match last.get(key.as_str()) {
                None => found.lost.push(format!("row {key} is not in the topic")),
                Some(record) if !is_row(&record.value, &row) => {
                    found.lost.push(format!("row {key} is {row}, its last record {}", record.value));
                }
                Some(_) => {}
            }
        }
        found
    }

    /// Compares the target with the records that it should hold.
    pub fn compare_with_target(&self, records: &[Seen]) -> Differences {
        let text = self.ch("SELECT _partition, _offset, toUnixTimestamp64Milli(_timestamp), count() FROM {t} GROUP BY 1, 2, 3 FORMAT TSV");
        let mut target: BTreeMap<(i64, i64, i64), i64> = BTreeMap::new();
        for line in text.lines() {
            let numbers: Vec<i64> = line.split('\t').map(|number| number.parse().unwrap()).collect();
            target.insert((numbers[0], numbers[1], numbers[2]), numbers[3]);
        }
        let mut found = Differences::default();
        for record in records {
            let id = (i64::from(record.partition), record.offset, record.timestamp_ms);
            match target.remove(&id) {
                None => found.lost.push(format!("record {id:?} is missing in the target")),
                Some(1) => {}
                Some(count) => found.doubled.push(format!("record {id:?} is in the target {count} times")),
            }
        }
        found.doubled.extend(target.keys().map(|id| format!("record {id:?} is in the target and not in the topic")));
        found
    }
}

/// Whether a record holds a row, but for `event_time`: jsonb spells it in the session's time zone.
fn is_row(record: &str, row: &str) -> bool {
    let (record, row): (Value, Value) = (serde_json::from_str(record).unwrap(), serde_json::from_str(row).unwrap());
    row.as_object().unwrap().iter().all(|(column, value)| column == "event_time" || *value == record[column])
}

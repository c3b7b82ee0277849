//! What the servers hold, asked without the program.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::super::common::World;
use super::writers::{Age, Event, event};

/// A record of an event, or the row of that record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub event: Event,
    partition: i32,
    offset: i64,
}

/// The topic's records: of each aggregate all in one partition, its events from 1 on, each behind the one before.
pub fn topic_in_order(world: &World) -> Vec<Record> {
    let (mut records, mut last) = (Vec::new(), HashMap::new());
    world.each_record(&world.name, |record| {
        let value: Value = serde_json::from_str(&record.value).unwrap();
        let text = |name: &str| value[name].as_str().unwrap();
        assert_eq!(text("aggregateid"), record.key);
        assert_eq!((text("id"), text("type")), (&*record.headers["id"], &*record.headers["eventType"]));
        let aggregate: u64 = record.key.strip_prefix("order-").unwrap().parse().unwrap();
        let number = value["payload"]["n"].as_u64().unwrap();
        let (partition, before) = last.insert(aggregate, (record.partition, number)).unwrap_or((record.partition, 0));
        assert_eq!(
            number,
            before + 1,
            "the event of {} behind {before}, at {} of {partition}",
            record.key,
            record.offset
        );
        assert_eq!(record.partition, partition, "the partition of {}", record.key);
        records.push(Record { event: event(aggregate, number), partition, offset: record.offset });
    });
    records
}

/// The target's rows, without FINAL.
pub fn target(world: &World) -> Vec<Record> {
    let rows = world.ch(
        "SELECT substring(aggregateid, 7), JSONExtractUInt(assumeNotNull(payload), 'n'), _partition, _offset FROM {t} FORMAT TSV",
    );
    rows.lines()
        .map(|row| {
            let mut numbers = row.split('\t').map(|number| number.parse::<u64>().unwrap());
            let mut next = || numbers.next().unwrap();
            Record {
                event: event(next(), next()),
                partition: i32::try_from(next()).unwrap(),
                offset: i64::try_from(next()).unwrap(),
            }
        })
        .collect()
}

/// That each record is there once, and nothing else.
pub fn assert_same_records(topic: &[Record], target: &[Record]) {
    let sorted = |records: &[Record]| {
        let mut records = records.to_vec();
        records.sort_unstable();
        records
    };
    let (topic, target) = (sorted(topic), sorted(target));
    let differs = topic.iter().zip(&target).find(|(one, other)| one != other);
    assert_eq!((differs, topic.len()), (None, target.len()), "records in the topic, and in the target");
}

/// That of all that was written only old events are gone from the source, each of which the target has; how many.
pub fn only_what_is_old_is_gone(world: &mut World, written: &HashMap<Event, Age>) -> u64 {
    let sql = format!("SELECT substr(aggregateid, 7)::bigint, (payload ->> 'n')::bigint FROM {}", world.name);
    let number = |row: &postgres::Row, at| u64::try_from(row.get::<_, i64>(at)).unwrap();
    let rows = world.pg.query(&sql, &[]).unwrap();
    let left: HashSet<Event> = rows.iter().map(|row| event(number(row, 0), number(row, 1))).collect();
    assert_eq!(left.len(), rows.len(), "the source has events twice");
    let target = target(world);
    let stored: HashSet<Event> = target.iter().map(|record| record.event).collect();
    assert_eq!(stored.len(), target.len(), "the target has events twice");
    let gone = written.iter().filter(|(event, _)| !left.contains(event));
    let mut pruned = 0;
    for (event, age) in gone {
        assert!(age.is_old(), "{event:x} is gone, and not old: {age:?}");
        assert!(stored.contains(event), "{event:x} is gone, and not in the target");
        pruned += 1;
    }
    pruned
}

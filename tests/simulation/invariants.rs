//! What must hold after every call, and what at the end of a life.

use std::collections::{HashMap, HashSet};

use pg2ch::data::RecordId;

use crate::clickhouse::{POISON, Stored};
use crate::kafka::{Delivered, MAX_VALUE};
use crate::postgres::{Place, Row};
use crate::world::World;

/// Every row version is once in the topic, every record once in the target or among the dead letters; and below a
/// committed offset nothing is missing. That a flag is true is checked where it is set, that an offset does not go back
/// where it is committed.
pub fn check(world: &mut World) {
    if world.broken.is_some() {
        return;
    }
    if let Some(broken) = first_broken(world) {
        world.broke(|| broken);
    }
}

fn first_broken(world: &World) -> Option<String> {
    let kafka = &world.kafka;
    let mut versions = HashSet::new();
    // What retention has deleted, or went with its topic, nobody can compare a row with: it may come again.
    let mut present = kafka.history.iter().filter(|found| !found.excused);
    if let Some(twice) = present.find(|found| !versions.insert(found.data.version.xmin)) {
        return Some(format!("a version of row {} is twice in the topic: {}", twice.data.row, twice.data.value));
    }
    if let Some(broken) = out_of_order(world) {
        return Some(broken);
    }
    if let Some(lost) = world.lost_by_prune() {
        return Some(lost);
    }
    let mut there = HashSet::new();
    if let Some(twice) = world.clickhouse.rows.iter().find(|row| !there.insert(row.id)) {
        return Some(format!("{:?} is twice in the target", twice.id));
    }
    let mut dead = HashSet::new();
    if let Some(twice) = kafka.dead.iter().find(|id| (!dead.insert(**id) && !kafka.set_back) || there.contains(*id)) {
        return Some(format!("{twice:?} is a dead letter and also in the target, or one twice"));
    }
    for (partition, committed) in &kafka.offsets {
        if kafka.foreign.contains(partition) {
            continue;
        }
        let below = |found: &&Delivered| {
            let id = &found.id;
            !found.excused && id.partition == *partition && id.offset < committed.next && kafka.has(id)
        };
        let missing =
            kafka.history.iter().filter(below).find(|found| !there.contains(&found.id) && !dead.contains(&found.id));
        if let Some(missing) = missing {
            return Some(format!("offset {} is committed, but {:?} is not in the target", committed.next, missing.id));
        }
    }
    None
}

/// The first records of a message key lie in the order of rows whose writers waited for each other.
fn out_of_order(world: &World) -> Option<String> {
    if !world.postgres.in_order {
        return None;
    }
    let (mut met, mut before, mut births) = (HashSet::new(), Vec::new(), HashMap::new());
    for found in &world.kafka.history {
        let Some(place) = world.postgres.places.get(&found.data.version.xmin) else { continue };
        // Where a key has come again, the record of the row before may have been taken for the new one's: a content has no place.
        let is_again = *births.entry(found.data.row).or_insert(place.birth) != place.birth;
        if place.member == 0 || is_again || !met.insert(place.birth) {
            continue;
        }
        let is_later =
            |other: &&Place| other.member == place.member && other.seq > place.seq && other.birth > place.birth;
        if let Some(later) = before.iter().find(is_later) {
            return Some(format!("{place:?} lies behind {later:?}"));
        }
        before.push(*place);
    }
    None
}

/// Whether a row waits for another of its message key, which the topic does not take.
fn waits(world: &World, id: i64, row: &Row) -> bool {
    let before = |(other, found): (&i64, &Row)| {
        let (of, place) = (found.place, row.place);
        !found.flag
            && of.member == place.member
            && (of.seq, *other) < (place.seq, id)
            && found.content.json(*other).len() > MAX_VALUE
    };
    world.postgres.in_order && row.place.member != 0 && world.postgres.tables.rows.iter().any(before)
}

/// A row of the target that its view lacks or has twice, and of which no run has told; twice only where a repeated INSERT is
/// recognised: where it is not, one that came late doubles.
fn untold(world: &World) -> Option<String> {
    let view = world.clickhouse.view.as_ref()?;
    if world.kafka.set_back || world.kafka.history.iter().any(|found| found.excused) {
        // The recorded INSERT that a run has died over went with the offsets: a known limit.
        return None;
    }
    let mut wrong = 0;
    for row in &world.clickhouse.rows {
        let times = view.rows.iter().filter(|id| **id == row.id).count();
        wrong += u64::from(times == 0 || times > 1 && view.remembers);
    }
    (wrong > view.told).then(|| format!("the view lacks or doubles {wrong} rows, and runs have told of {}", view.told))
}

/// Everything has arrived: after at most three clean runs.
pub fn check_end(world: &mut World) {
    check(world);
    if let Some(broken) = unfinished(world) {
        world.broke(|| broken);
    }
}

fn unfinished(world: &World) -> Option<String> {
    for (id, row) in &world.postgres.tables.rows {
        if waits(world, *id, row) {
            continue;
        }
        let value = row.content.json(*id);
        let stays = world.postgres.stubborn == Some(*id) || value.len() > MAX_VALUE;
        if row.flag == stays {
            return Some(format!("row {id} should be flagged: {}, but is: {}", !stays, row.flag));
        }
        let last = world.kafka.last_of(*id);
        if value.len() <= MAX_VALUE && !last.is_some_and(|last| last.is_of(*id, &row.content)) {
            return Some(format!("row {id} is {:?}, but its last record is {last:?}", row.content));
        }
    }
    let rows: HashMap<RecordId, &Stored> = world.clickhouse.rows.iter().map(|row| (row.id, row)).collect();
    let dead: HashSet<&RecordId> = world.kafka.dead.iter().collect();
    let mut newest: HashMap<i64, &Stored> = HashMap::new();
    for row in &world.clickhouse.rows {
        let known = newest.entry(row.key).or_insert(row);
        if row.id.timestamp_ms >= known.id.timestamp_ms {
            *known = row;
        }
    }
    for found in &world.kafka.history {
        let unfit = found.data.value.contains(POISON) || found.data.value.contains(r#""number":999"#);
        let row = rows.get(&found.id);
        if !found.excused && (row.is_none() != unfit || dead.contains(&found.id) != unfit) {
            let (id, value) = (found.id, &found.data.value);
            let is_dead = dead.contains(&id);
            return Some(format!(
                "{id:?} is not where it belongs: {value}, in the target {row:?}, a letter: {is_dead}"
            ));
        }
        if let Some(row) = row
            && row.content.json(row.key) != found.data.value
        {
            return Some(format!("the target has {row:?} for {}", found.data.value));
        }
    }
    if let Some(wrong) = untold(world) {
        return Some(wrong);
    }
    for (id, newest) in newest {
        // Unless the newest record could not be stored, FINAL shows the row as it is; or unless the time of an older one was never
        // seen by a run, and PostgreSQL's clock went back: a known limit.
        let last = world.kafka.history.iter().rev().find(|found| found.data.row == id);
        let stored = last.is_some_and(|last| rows.contains_key(&last.id));
        if stored && !world.window_lost && last.is_some_and(|last| newest.content.json(id) != last.data.value) {
            return Some(format!("FINAL shows {newest:?}, the last record is {last:?}"));
        }
    }
    None
}

//! Schedules that broke simpler versions of the first leg: what applications, other producers and operators do at the
//! wrong moment.

mod changed_rows;
mod checkpoint;
mod held;
mod locks;
mod other_runs;
mod topic;
mod triggers;

use crate::common::World;

/// A run of the first leg that ends well: how many rows it found delivered, and how many it sent.
#[track_caller]
fn recovered_and_sent(world: &World) -> (i64, i64) {
    let ended = world.run(&["produce", "--json"]).expect(0);
    (ended.number("produce", "rows_recovered"), ended.number("produce", "records_sent"))
}

/// How often a key was sent.
fn copies(world: &World, key: &str) -> usize {
    world.topic().iter().filter(|record| record.key == key).count()
}

/// The content that was sent last of a key.
fn last_of(world: &World, key: &str) -> String {
    let mut records = world.topic();
    records.retain(|record| record.key == key);
    records.sort_by_key(|record| record.offset);
    records.pop().map(|record| record.value).unwrap_or_default()
}

//! The first leg's sessions: the one that locks and flags, and the reader's.

use std::collections::{HashMap, HashSet};

use pg2ch::data::{Headers, Row, RowBatch};
use pg2ch::error::Result;
use pg2ch::mutant;
use pg2ch::ports::source::{Checkpoint, Flagged, Held, Ledger, Settled, UnsentRows, WindowRecord};

use super::{Change, Wanted, id_of, record_of};
use crate::world::{Run, World, shut_out, unavailable};

/// The session that locks and flags.
pub struct SimLedger {
    run: Run,
    /// Its number, and the server's generation.
    session: (u64, u64),
    epoch: i64,
    has_held: bool,
    /// The last record of each row, and the place of that record.
    window: HashMap<i64, (i64, WindowRecord)>,
    /// How many records the window has been given.
    given: i64,
}

impl SimLedger {
    pub fn open(run: &Run) -> Result<Self> {
        let session = run.read("postgres: connect", |world| {
            world.postgres.next_session += 1;
            Ok((world.postgres.next_session, world.postgres.generation))
        })?;
        Ok(Self { run: run.clone(), session, epoch: 0, has_held: false, window: HashMap::new(), given: 0 })
    }

    fn read<T>(&self, what: &'static str, look: impl FnOnce(&mut World) -> Result<T>) -> Result<T> {
        let session = self.session;
        self.run.read(
            what,
            move |world| if world.postgres.has_session(session) { look(world) } else { Err(unavailable(what)) },
        )
    }

    fn write<T: 'static>(
        &self,
        what: &'static str,
        effect: impl FnOnce(&mut World) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let session = self.session;
        let effect = move |world: &mut World| {
            if world.postgres.has_session(session) { effect(world) } else { Err(unavailable(what)) }
        };
        self.run.write(what, |_| {}, effect)
    }

    fn change(&self, what: &'static str, change: Change, to: Option<Checkpoint>) -> Result<()> {
        let epoch = self.epoch;
        self.write(what, move |world| world.flag_transaction(epoch, &change, to.as_ref()))
    }
}

impl Drop for SimLedger {
    fn drop(&mut self) {
        // A dead process' session may linger until the server notices.
        let mut world = self.run.world();
        if world.postgres.lock == Some(self.session.0) {
            world.postgres.lock = None;
        }
    }
}

impl Ledger for SimLedger {
    fn lock(&mut self, _wait: std::time::Duration) -> Result<bool> {
        let session = self.session.0;
        self.read("postgres: lock", move |world| match world.postgres.lock {
            Some(_) => Err(shut_out("cannot take the lock")),
            None => {
                world.postgres.lock = Some(session);
                Ok(true)
            }
        })
    }

    fn checkpoint(&mut self) -> Result<Checkpoint> {
        let epoch = self.epoch;
        let (checkpoint, has_held) = self.read("postgres: read the checkpoint", move |world| {
            let tables = &world.postgres.tables;
            if epoch != 0 && epoch != tables.epoch {
                return Err(shut_out("the checkpoint"));
            }
            Ok((tables.checkpoint.clone(), !tables.held.is_empty()))
        })?;
        self.has_held = has_held;
        Ok(checkpoint)
    }

    fn has_held(&self) -> bool {
        self.has_held
    }

    fn highest_unsent_key(&mut self) -> Result<Option<Vec<String>>> {
        self.read("postgres: highest unsent key", |world| {
            let unsent = world.postgres.tables.rows.iter().rev().find(|(_, row)| !row.flag);
            Ok(unsent.map(|(id, _)| vec![id.to_string()]))
        })
    }

    fn take_epoch(&mut self) -> Result<()> {
        self.epoch = self.write("postgres: take the epoch", |world| {
            world.postgres.tables.epoch += 1;
            world.postgres.sync();
            Ok(world.postgres.tables.epoch)
        })?;
        Ok(())
    }

    fn flag(&mut self, batch: &RowBatch, indices: &[usize], to: &Checkpoint) -> Result<Flagged> {
        let wanted: Vec<Wanted> = indices
            .iter()
            .map(|&index| {
                let row = batch.row(index);
                Wanted {
                    index,
                    id: id_of(row.key).unwrap_or(0),
                    record: record_of(row.value, row.headers.bytes()),
                    version: row.version,
                }
            })
            .collect();
        // One transaction: nobody changes the rows between the look at them and the flags.
        self.run.prepare();
        let (flagged, flags) = self.run.world().judge(&wanted);
        let mut hold: Vec<(i64, String)> = flagged
            .unflagged()
            .filter_map(|index| wanted.iter().find(|wanted| wanted.index == index))
            .map(|wanted| (wanted.id, wanted.record.clone()))
            .collect();
        let mut to = Some(to.clone());
        if mutant::is("a locked row is not held") {
            hold.clear();
        }
        if mutant::is("the checkpoint waits for locked rows") && !hold.is_empty() {
            (hold, to) = (Vec::new(), None);
        }
        if mutant::is("the checkpoint moves before the flags") {
            self.change("postgres: move the checkpoint", Change::default(), to.clone())?;
        }
        self.change("postgres: flag", Change { flags, hold, unhold: Vec::new() }, to)?;
        Ok(flagged)
    }

    fn add_to_window(&mut self, records: &[WindowRecord]) -> Result<()> {
        let unsent: Vec<i64> = self.read("postgres: add to the window", |world| {
            Ok(world.postgres.tables.rows.iter().filter(|(_, row)| !row.flag).map(|(id, _)| *id).collect())
        })?;
        if mutant::is("what dead runs delivered is not looked for") {
            return Ok(());
        }
        let first_counts = mutant::is("the first record of a key counts");
        for record in records {
            let Some(id) = record.key.as_deref().and_then(id_of) else { continue };
            self.given += 1;
            if unsent.contains(&id) && !(first_counts && self.window.contains_key(&id)) {
                self.window.insert(id, (self.given, record.clone()));
            }
        }
        Ok(())
    }

    fn flag_window(&mut self, after: i64, max_rows: usize, timestamp_floor: i64) -> Result<Settled> {
        let mut page: Vec<(i64, i64, WindowRecord)> = self
            .window
            .iter()
            .filter(|(_, (place, _))| *place > after)
            .map(|(&id, (place, record))| (*place, id, record.clone()))
            .collect();
        page.sort_unstable_by_key(|(place, ..)| *place);
        // Few rows, many pages: so that runs die between them.
        page.truncate(max_rows.min(2));
        let Some(next) = page.last().map(|(place, ..)| *place) else {
            self.window.clear();
            return Ok(Settled::default());
        };
        let mut to = Checkpoint { timestamp_floor, ..Checkpoint::default() };
        for (_, _, record) in &page {
            to.offsets.insert(record.partition, record.offset + 1);
        }
        self.run.prepare();
        let (flagged, flags, wanted) = {
            let world = self.run.world();
            let rows = &world.postgres.tables.rows;
            let wanted: Vec<Wanted> = page
                .iter()
                .enumerate()
                .filter_map(|(index, (_, id, record))| {
                    let row = rows.get(id).filter(|row| !row.flag)?;
                    let made = row.content.record(*id);
                    let sent = record.value.as_deref().map(|value| record_of(value, &record.headers));
                    (sent.as_ref() == Some(&made)).then_some(Wanted {
                        index,
                        id: *id,
                        record: made,
                        version: row.version,
                    })
                })
                .collect();
            let (flagged, flags) = world.judge(&wanted);
            (flagged, flags, wanted)
        };
        let stuck: HashSet<usize> = flagged.unflagged().collect();
        let hold = wanted
            .into_iter()
            .filter(|wanted| stuck.contains(&wanted.index))
            .map(|wanted| (wanted.id, wanted.record))
            .collect::<Vec<_>>();
        self.has_held |= !hold.is_empty();
        let held = |index: usize, taken_back| Held { key: page[index].1.to_string().into_bytes(), taken_back };
        let held = flagged
            .locked
            .iter()
            .map(|&index| held(index, false))
            .chain(flagged.taken_back.iter().map(|&index| held(index, true)))
            .collect();
        let stays = mutant::is("what a window shows is flagged before the checkpoint has passed it");
        self.change(
            "postgres: flag what was delivered",
            Change { flags, hold, unhold: Vec::new() },
            (!stays).then_some(to),
        )?;
        Ok(Settled { flagged: flagged.flagged as u64, held, next: Some(next) })
    }

    fn settle_held(&mut self, after: i64, max_rows: usize) -> Result<Settled> {
        let page: Vec<(i64, i64, String)> = self.read("postgres: read held rows", |world| {
            let behind = world.postgres.tables.held.range(after + 1..);
            Ok(behind.take(max_rows).map(|(entry, (id, record))| (*entry, *id, record.clone())).collect())
        })?;
        let Some(next) = page.last().map(|(entry, ..)| *entry) else { return Ok(Settled::default()) };
        self.run.prepare();
        let (flagged, flags, wanted) = {
            let world = self.run.world();
            let rows = &world.postgres.tables.rows;
            let any = mutant::is("a held row is flagged whatever it holds");
            let unflagged = |id: &i64| rows.get(id).filter(|row| !row.flag);
            // A run that died may have held the same rows; a statement flags a row once.
            let mut met = HashSet::new();
            let wanted: Vec<Wanted> = page
                .iter()
                .enumerate()
                .filter_map(|(index, (_, id, record))| {
                    let row = unflagged(id).filter(|row| any || row.content.record(*id) == *record)?;
                    if !met.insert(*id) {
                        return None;
                    }
                    Some(Wanted { index, id: *id, record: record.clone(), version: row.version })
                })
                .collect();
            let (flagged, flags) = world.judge(&wanted);
            (flagged, flags, wanted)
        };
        let stays: Vec<usize> = flagged.unflagged().collect();
        let unhold = (0..page.len()).filter(|index| !stays.contains(index)).map(|index| page[index].0).collect();
        let held = |index: usize, taken_back| Held { key: page[index].1.to_string().into_bytes(), taken_back };
        let mut stuck: Vec<Held> = flagged.locked.iter().map(|&index| held(index, false)).collect();
        stuck.extend(flagged.taken_back.iter().map(|&index| held(index, true)));
        let mut change = Change { flags, hold: Vec::new(), unhold };
        if mutant::is("an entry is deleted before its row is flagged") {
            let unhold = std::mem::take(&mut change.unhold);
            self.change("postgres: delete entries", Change { unhold, ..Change::default() }, None)?;
        }
        if mutant::is("an entry outlives its row's flag") {
            change.unhold.retain(|entry| !wanted.iter().any(|wanted| page[wanted.index].0 == *entry));
        }
        // Durable: an entry that a crash brings back would speak for a row that has been sent anew since.
        let epoch = self.epoch;
        self.write("postgres: flag held rows", move |world| {
            world.flag_transaction(epoch, &change, None)?;
            world.postgres.sync();
            Ok(())
        })?;
        Ok(Settled { flagged: flagged.flagged as u64, held: stuck, next: Some(next) })
    }

    fn move_checkpoint(&mut self, to: &Checkpoint) -> Result<()> {
        self.move_to("postgres: move the checkpoint", to)
    }
}

impl SimLedger {
    fn move_to(&self, what: &'static str, to: &Checkpoint) -> Result<()> {
        let (epoch, to) = (self.epoch, to.clone());
        self.write(what, move |world| {
            world.flag_transaction(epoch, &Change::default(), Some(&to))?;
            if !mutant::is("a checkpoint moved alone is not durable") {
                world.postgres.sync();
            }
            Ok(())
        })
    }
}

/// The reader's session.
pub struct SimRows {
    run: Run,
    generation: u64,
    last: i64,
    highest: i64,
    floor: i64,
}

impl SimRows {
    pub fn open(run: &Run, highest: &[String], floor: i64) -> Result<Self> {
        let generation = run.read("postgres: connect the reader", |world| Ok(world.postgres.generation))?;
        let highest = highest.first().and_then(|key| key.parse().ok()).unwrap_or(0);
        let floor = if mutant::is("the clock's floor is ignored") { 0 } else { floor };
        Ok(Self { run: run.clone(), generation, last: 0, highest, floor })
    }
}

impl UnsentRows for SimRows {
    fn next_batch(&mut self, max_rows: usize) -> Result<RowBatch> {
        let (last, highest, generation) = (self.last, self.highest, self.generation);
        let mut batch = self.run.read("postgres: read rows", |world| {
            if world.postgres.generation != generation {
                return Err(unavailable("cannot read rows"));
            }
            let mut batch = RowBatch::default();
            batch.timestamp_ms = world.postgres.clock;
            let unsent = world.postgres.tables.rows.range(last + 1..).filter(|(id, row)| **id <= highest && !row.flag);
            for (id, row) in unsent.take(max_rows) {
                let (key, value, headers) = (id.to_string(), row.content.json(*id), row.content.headers());
                let plain = Row::plain(row.version, key.as_bytes(), value.as_bytes());
                batch.push(&Row { headers: Headers::of(&headers), ..plain });
            }
            Ok(batch)
        })?;
        if !batch.is_empty() {
            self.last = id_of(batch.row(batch.len() - 1).key).unwrap_or(self.highest);
            batch.timestamp_ms = batch.timestamp_ms.max(self.floor + 1);
            self.floor = batch.timestamp_ms - 1;
        }
        Ok(batch)
    }
}

//! The first leg's sessions: the one that locks and flags, and the reader's.

use std::collections::{HashMap, HashSet};

use pg2ch::data::{Headers, Row, RowBatch};
use pg2ch::error::Result;
use pg2ch::mutant;
use pg2ch::ports::source::{Checkpoint, Flagged, Held, Ledger, LeftOut, Settled, UnsentRows, WindowRecord};

use super::{Change, Wanted, id_of, record_of};
use crate::postgres;
use crate::world::{Run, World, shut_out, unavailable};

/// A session between two runs of a process, and the epoch that was taken through it; 0 if there is none.
#[derive(Clone, Copy)]
pub struct KeptSession {
    session: (u64, u64),
    epoch: i64,
}

/// The session that locks and flags.
pub struct SimLedger {
    run: Run,
    /// Its number, and the server's generation.
    session: (u64, u64),
    epoch: i64,
    /// That of the run before, or for the next one, and the last one in the checkpoint.
    kept_epoch: i64,
    last_epoch: i64,
    has_held: bool,
    /// What the window shows of each row.
    window: HashMap<i64, Last>,
    /// How many records the window has been given.
    given: i64,
}

/// A row's last record in the window.
#[derive(Clone)]
struct Last {
    place: i64,
    /// The offset behind it.
    end: (i32, i64),
    /// The record that counts: across partitions that is the newest.
    counts: WindowRecord,
}

impl SimLedger {
    pub fn open(run: &Run, kept: Option<KeptSession>) -> Result<Self> {
        let KeptSession { session, epoch } = run.read("postgres: connect", |world| {
            if let Some(kept) = kept.filter(|kept| world.postgres.has_session(kept.session)) {
                return Ok(kept);
            }
            world.postgres.next_session += 1;
            Ok(KeptSession { session: (world.postgres.next_session, world.postgres.generation), epoch: 0 })
        })?;
        let (kept_epoch, last_epoch) = (epoch, 0);
        let window = HashMap::new();
        Ok(Self { run: run.clone(), session, epoch: 0, kept_epoch, last_epoch, has_held: false, window, given: 0 })
    }

    pub fn into_kept(self) -> KeptSession {
        KeptSession { session: self.session, epoch: self.kept_epoch }
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
        let (checkpoint, has_held, last_epoch) = self.read("postgres: read the checkpoint", move |world| {
            let tables = &world.postgres.tables;
            if epoch != 0 && epoch != tables.epoch {
                return Err(shut_out("the checkpoint"));
            }
            Ok((tables.checkpoint.clone(), !tables.held.is_empty(), tables.epoch))
        })?;
        self.last_epoch = last_epoch;
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

    fn still_has_epoch(&self) -> bool {
        self.kept_epoch != 0 && (self.kept_epoch == self.last_epoch || mutant::is("the epoch is not compared"))
    }

    fn resume(&mut self) -> Result<()> {
        self.read("postgres: go on under the epoch", |_| Ok(()))?;
        self.epoch = std::mem::take(&mut self.kept_epoch);
        Ok(())
    }

    fn keep_epoch(&mut self) {
        self.kept_epoch = self.epoch;
    }

    fn forget_epoch(&mut self) {
        self.kept_epoch = 0;
    }

    fn take_epoch(&mut self) -> Result<()> {
        self.kept_epoch = 0;
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
        self.change("postgres: flag", Change { flags, hold, ..Change::default() }, to)?;
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
            let by_value = self.run.world().postgres.in_order && !mutant::is("window by record key");
            let id =
                if by_value { record.value.as_deref().and_then(id_in) } else { record.key.as_deref().and_then(id_of) };
            let Some(id) = id else { continue };
            self.given += 1;
            if !unsent.contains(&id) {
                continue;
            }
            let last = Last { place: self.given, end: (record.partition, record.offset + 1), counts: record.clone() };
            let entry = self.window.entry(id).or_insert_with(|| last.clone());
            let known = &entry.counts;
            let counts = if known.partition != record.partition && known.timestamp_ms > record.timestamp_ms {
                known.clone()
            } else {
                record.clone()
            };
            if !first_counts {
                *entry = Last { counts, ..last };
            }
        }
        Ok(())
    }

    fn flag_window(&mut self, after: i64, max_rows: usize, timestamp_floor: i64) -> Result<Settled> {
        let behind = self.window.iter().filter(|(_, last)| last.place > after);
        let mut page: Vec<(i64, Last)> = behind.map(|(&id, last)| (id, last.clone())).collect();
        page.sort_unstable_by_key(|(_, last)| last.place);
        // Few rows, many pages: so that runs die between them.
        page.truncate(max_rows.min(2));
        let Some(next) = page.last().map(|(_, last)| last.place) else {
            self.window.clear();
            return Ok(Settled::default());
        };
        let mut to = Checkpoint { timestamp_floor, ..Checkpoint::default() };
        to.offsets.extend(page.iter().map(|(_, last)| last.end));
        self.run.prepare();
        let (flagged, flags, wanted) = {
            let world = self.run.world();
            let rows = &world.postgres.tables.rows;
            let wanted: Vec<Wanted> = page
                .iter()
                .enumerate()
                .filter_map(|(index, (id, Last { counts: record, .. }))| {
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
        let forget = page.iter().map(|(id, _)| *id).collect();
        self.has_held |= !hold.is_empty();
        let held = |index: usize, taken_back| Held { key: page[index].0.to_string().into_bytes(), taken_back };
        let stuck = flagged.locked.iter().map(|&index| held(index, false));
        let stuck = stuck.chain(flagged.taken_back.iter().map(|&index| held(index, true))).collect();
        let stays = mutant::is("what a window shows is flagged before the checkpoint has passed it");
        self.change(
            "postgres: flag what was delivered",
            Change { flags, forget, hold, ..Change::default() },
            (!stays).then_some(to),
        )?;
        Ok(Settled { flagged: flagged.flagged as u64, held: reported(stuck), next: Some(next) })
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
        let mut change = Change { flags, unhold, ..Change::default() };
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
        Ok(Settled { flagged: flagged.flagged as u64, held: reported(stuck), next: Some(next) })
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

/// The rows that could not be flagged, as a run gets them.
fn reported(stuck: Vec<Held>) -> Vec<Held> {
    if mutant::is("held rows are read") { Vec::new() } else { stuck }
}

/// The key in a row's JSON.
fn id_in(value: &[u8]) -> Option<i64> {
    std::str::from_utf8(value).ok()?.strip_prefix(r#"{"id":"#)?.split(',').next()?.parse().ok()
}

/// The reader's session.
pub struct SimRows {
    run: Run,
    generation: u64,
    last: i64,
    highest: i64,
    floor: i64,
    /// What the pass still has to give, the first row last; `None` where rows come in key order.
    pass: Option<Vec<(i64, postgres::Row)>>,
    /// Where a keyset would stand.
    stands: (i64, i64),
    /// The timestamp of the pass.
    clock: i64,
    /// The batch before was not full.
    is_read: bool,
}

impl SimRows {
    pub fn open(run: &Run, highest: &[String], floor: i64) -> Result<Self> {
        let (generation, in_order) =
            run.read("postgres: connect the reader", |world| Ok((world.postgres.generation, world.postgres.in_order)))?;
        let highest = highest.first().and_then(|key| key.parse().ok()).unwrap_or(0);
        let floor = if mutant::is("the clock's floor is ignored") { 0 } else { floor };
        let pass = in_order.then(Vec::new);
        let stands = (i64::MIN, 0);
        Ok(Self { run: run.clone(), generation, last: 0, highest, floor, pass, stands, clock: floor, is_read: false })
    }

    /// What is unsent and not left out, in order.
    fn unsent(world: &World, left_out: &LeftOut) -> Vec<(i64, postgres::Row)> {
        let is_left_out = |id: i64, row: &postgres::Row| {
            let key = world.postgres.record_key(id, row);
            left_out.keys.contains(id.to_string().as_bytes()) && !mutant::is("held rows are read")
                || key.is_some_and(|key| left_out.message_keys.contains(key.as_bytes()))
        };
        let rows = world.postgres.tables.rows.iter().filter(|(id, row)| !row.flag && !is_left_out(**id, row));
        let mut rows: Vec<_> = rows.map(|(id, row)| (*id, row.clone())).collect();
        rows.sort_by_key(|(id, row)| (row.place.seq, *id));
        rows
    }

    fn push(world: &mut World, batch: &mut RowBatch, id: i64, row: &postgres::Row) {
        let key = id.to_string();
        let record_key = world.postgres.record_key(id, row);
        let (value, headers) = (row.content.json(id), row.content.headers());
        world.postgres.places.insert(row.version.xmin, row.place);
        batch.push(&Row {
            version: row.version,
            key: key.as_bytes(),
            record_key: record_key.as_deref().map(str::as_bytes),
            value: value.as_bytes(),
            headers: Headers::of(&headers),
        });
    }

    /// The next rows of the pass.
    fn next_of_pass(&mut self, max_rows: usize) -> Result<RowBatch> {
        let (generation, stands, clock) = (self.generation, self.stands, self.clock);
        let pass = self.pass.get_or_insert_default();
        let batch = self.run.read("postgres: read rows", |world| {
            if world.postgres.generation != generation {
                return Err(unavailable("cannot read rows"));
            }
            if mutant::is("keyset instead of a pass") {
                *pass = Self::unsent(world, &LeftOut::default());
                pass.retain(|(id, row)| (row.place.seq, *id) > stands);
                pass.reverse();
            }
            let mut batch = RowBatch::default();
            batch.timestamp_ms = clock;
            while batch.len() < max_rows
                && let Some((id, row)) = pass.pop()
            {
                Self::push(world, &mut batch, id, &row);
            }
            Ok(batch)
        })?;
        if let Some(last) = batch.iter().last().and_then(|row| id_of(row.key)) {
            let seq =
                self.run.world().postgres.places.get(&batch.row(batch.len() - 1).version.xmin).map(|place| place.seq);
            self.stands = (seq.unwrap_or_default(), last);
        }
        Ok(batch)
    }
}

impl UnsentRows for SimRows {
    fn next_batch(&mut self, max_rows: usize) -> Result<RowBatch> {
        if self.pass.is_some() {
            return self.next_of_pass(max_rows);
        }
        if self.is_read {
            return Ok(RowBatch::default());
        }
        let (last, highest, generation) = (self.last, self.highest, self.generation);
        let mut batch = self.run.read("postgres: read rows", |world| {
            if world.postgres.generation != generation {
                return Err(unavailable("cannot read rows"));
            }
            let mut batch = RowBatch::default();
            batch.timestamp_ms = world.postgres.clock;
            let unsent = world.postgres.tables.rows.range(last + 1..).filter(|(id, row)| **id <= highest && !row.flag);
            let unsent: Vec<_> = unsent.take(max_rows).map(|(id, row)| (*id, row.clone())).collect();
            unsent.iter().for_each(|(id, row)| Self::push(world, &mut batch, *id, row));
            Ok(batch)
        })?;
        self.is_read = batch.len() < max_rows;
        if !batch.is_empty() {
            self.last = id_of(batch.row(batch.len() - 1).key).unwrap_or(self.highest);
            batch.timestamp_ms = batch.timestamp_ms.max(self.floor + 1);
            self.floor = batch.timestamp_ms - 1;
        }
        Ok(batch)
    }

    fn is_at_end(&self) -> bool {
        self.is_read || self.pass.as_ref().is_some_and(Vec::is_empty)
    }

    fn count(&mut self) -> Result<Option<u64>> {
        self.run.read("postgres: count unsent rows", |world| {
            Ok(Some(world.postgres.tables.rows.values().filter(|row| !row.flag).count() as u64))
        })
    }

    fn begin_pass(&mut self, left_out: &LeftOut) -> Result<()> {
        let generation = self.generation;
        let (mut rows, clock) = self.run.read("postgres: begin a pass", |world| {
            if world.postgres.generation != generation {
                return Err(unavailable("cannot begin a pass"));
            }
            Ok((Self::unsent(world, left_out), world.postgres.clock))
        })?;
        rows.reverse();
        self.clock = clock.max(self.clock + 1);
        self.pass = Some(rows);
        Ok(())
    }
}

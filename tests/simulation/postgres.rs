//! PostgreSQL in memory: row versions, flags, the checkpoint, one lock, commits that a crash of the server takes back.

#[path = "postgres/sessions.rs"]
mod sessions;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use pg2ch::data::{Headers, Version, push_header};
use pg2ch::error::Result;
use pg2ch::mutant;
use pg2ch::ports::source::{Checkpoint, Flagged};

pub use sessions::{KeptSession, SimLedger, SimRows};

use crate::kafka::Delivered;
use crate::world::{World, shut_out};

/// A row's columns beside its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub note: String,
    pub number: i64,
    /// Only a header has it; where it is empty, there is none.
    pub trace: String,
}

impl Content {
    pub fn new(note: impl Into<String>, number: i64) -> Self {
        Self { note: note.into(), number, trace: String::new() }
    }

    /// As `row_to_json` prints it.
    pub fn json(&self, id: i64) -> String {
        format!(r#"{{"id":{id},"note":"{}","number":{}}}"#, self.note, self.number)
    }

    /// The bytes of the record's headers.
    pub fn headers(&self) -> Vec<u8> {
        let mut headers = Vec::new();
        if !self.trace.is_empty() {
            push_header(&mut headers, "trace", Some(self.trace.as_bytes()));
        }
        headers
    }

    /// All that the record holds, as [`record_of`] shows it.
    pub fn record(&self, id: i64) -> String {
        record_of(self.json(id).as_bytes(), &self.headers())
    }
}

/// A record for comparisons: its value, and its headers behind it.
pub fn record_of(value: &[u8], headers: &[u8]) -> String {
    let mut record = String::from_utf8_lossy(value).into_owned();
    if !mutant::is("equality by value only") {
        for (name, value) in Headers::of(headers).iter() {
            record += &format!(" {name}={}", String::from_utf8_lossy(value.unwrap_or_default()));
        }
    }
    record
}

/// Where a row belongs: the columns that `order_by` and `message_key` name, and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of its INSERT: one is committed before the next is written.
    pub birth: i64,
    /// Its message key; 0 is NULL.
    pub member: i64,
    /// Its number among the rows of the member.
    pub seq: i64,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub version: Version,
    pub place: Place,
    pub content: Content,
    pub flag: bool,
    /// By an application.
    pub locked: bool,
    /// How many records there were when its flag was set back on purpose: it is to go out once more.
    pub set_back: Option<usize>,
    /// It was flagged since the checkpoint was lost.
    pub is_flagged_since: bool,
}

/// What a transaction can change.
#[derive(Clone, Default)]
pub struct Tables {
    pub rows: BTreeMap<i64, Row>,
    pub checkpoint: Checkpoint,
    pub epoch: i64,
    /// Rows that were delivered and are not flagged: their entries' key and record.
    pub held: BTreeMap<i64, (i64, String)>,
    next_entry: i64,
    /// Up to where rows may have been pruned.
    pub limit: Option<i64>,
}

/// A row that was pruned.
pub struct Pruned {
    pub content: Content,
    /// How old it was.
    pub birth: i64,
}

pub struct Postgres {
    pub tables: Tables,
    /// Whether rows go out in an order, with message keys.
    pub in_order: bool,
    births: i64,
    /// The place of each version that was read.
    pub places: HashMap<u32, Place>,
    /// How the tables were before each commit that a crash of the server may still take back.
    unsynced: Vec<Tables>,
    lock: Option<u64>,
    next_session: u64,
    /// Sessions that were ended from outside.
    ended: BTreeSet<u64>,
    /// Grows when the server crashes: older sessions are gone.
    pub generation: u64,
    next_xid: u32,
    pub clock: i64,
    /// A trigger takes the flag of this row back.
    pub stubborn: Option<i64>,
    /// Rows flagged since it was set to 0.
    pub flags: u64,
    /// What was pruned, until its key is written again.
    pub pruned: BTreeMap<i64, Pruned>,
    /// A trigger keeps this row from being deleted.
    pub keeps: Option<i64>,
}

impl Postgres {
    pub fn new(rows: u64) -> Self {
        let mut postgres = Self {
            tables: Tables::default(),
            in_order: false,
            births: 0,
            places: HashMap::new(),
            unsynced: Vec::new(),
            lock: None,
            next_session: 0,
            ended: BTreeSet::new(),
            generation: 0,
            next_xid: 100,
            clock: 1_000_000,
            stubborn: None,
            flags: 0,
            pruned: BTreeMap::new(),
            keeps: None,
        };
        for id in 1..=rows as i64 {
            postgres.write(id, Content::new(format!("first of {id}"), id));
        }
        postgres
    }

    fn next_version(&mut self) -> Version {
        self.next_xid += 1;
        Version { table: 1, ctid: (self.next_xid, 1), xmin: self.next_xid }
    }

    fn next_place(&mut self) -> Place {
        self.births += 1;
        // The numbers of a member rise, as those of an aggregate's versions do.
        Place { birth: self.births, member: self.births % 4, seq: self.births / 4 }
    }

    /// The key of a row's record.
    pub fn record_key(&self, id: i64, row: &Row) -> Option<String> {
        let key = if self.in_order { row.place.member } else { id };
        (key != 0).then(|| key.to_string())
    }

    /// An application inserts or changes a row, and waits for its commit.
    pub fn write(&mut self, id: i64, content: Content) {
        let version = self.next_version();
        let place = self.tables.rows.get(&id).map(|row| row.place);
        let place = place.unwrap_or_else(|| self.next_place());
        let row = Row { version, place, content, flag: false, locked: false, set_back: None, is_flagged_since: false };
        self.tables.rows.insert(id, row);
        self.pruned.remove(&id);
        self.unsynced.clear();
    }

    /// Somebody sets a row's flag back, to have it sent again, and waits for the commit.
    pub fn set_back(&mut self, id: i64, records: &[Delivered]) {
        let version = self.next_version();
        // Since the checkpoint was lost the row's record speaks for it, until the checkpoint has passed that or the row is flagged.
        let last = records.iter().rev().find(|record| record.data.row == id);
        let is_passed = last.is_none_or(|last| {
            self.tables.checkpoint.offsets.get(&last.id.partition).is_some_and(|&next| last.id.offset < next)
        });
        let records = records.len();
        if let Some(row) = self.tables.rows.get_mut(&id).filter(|row| row.flag) {
            let is_known = is_passed || row.is_flagged_since;
            (row.flag, row.version, row.set_back) = (false, version, is_known.then_some(records));
            self.unsynced.clear();
        }
    }

    /// Somebody deletes the checkpoint: the whole topic is the window, and a flag that was set back is not known any more.
    pub fn lose_checkpoint(&mut self) {
        self.tables.checkpoint.offsets.clear();
        self.tables.rows.values_mut().for_each(|row| (row.set_back, row.is_flagged_since) = (None, false));
        self.unsynced.clear();
    }

    /// An application deletes a row, and waits for its commit.
    pub fn delete(&mut self, id: i64) {
        self.tables.rows.remove(&id);
        self.unsynced.clear();
    }

    /// How many rows were born.
    pub const fn births(&self) -> i64 {
        self.births
    }

    /// `prune` deletes a row, and waits for its commit.
    pub fn prune(&mut self, id: i64, pruned: Pruned) {
        self.delete(id);
        self.pruned.insert(id, pruned);
    }

    /// `prune` records its limit, and waits for its commit.
    pub fn record_limit(&mut self, limit: i64) {
        self.tables.limit = self.tables.limit.max(Some(limit));
        self.sync();
    }

    /// Moves every row without changing it, as VACUUM FULL does.
    pub fn rewrite(&mut self) {
        for (at, row) in self.tables.rows.values_mut().enumerate() {
            row.version.ctid = (1_000_000 + self.next_xid, at as u16);
        }
        self.next_xid += 1;
        self.unsynced.clear();
    }

    /// Takes back the last `commits` asynchronous commits, and ends every session.
    pub fn crash(&mut self, commits: usize) {
        if let Some(at) = self.unsynced.len().checked_sub(commits)
            && let Some(before) = self.unsynced.get(at)
        {
            self.tables = before.clone();
        }
        self.unsynced.clear();
        self.generation += 1;
        self.lock = None;
        for row in self.tables.rows.values_mut() {
            row.locked = false;
        }
    }

    /// No crash takes back what was committed until now.
    fn sync(&mut self) {
        self.unsynced.clear();
    }

    pub fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// The lock is nobody's, though the session that took it lives.
    pub fn free_lock(&mut self) {
        self.lock = None;
    }

    pub fn end_locking_session(&mut self) {
        self.ended.extend(self.lock.take());
    }

    fn has_session(&self, (session, generation): (u64, u64)) -> bool {
        self.generation == generation && !self.ended.contains(&session)
    }
}

/// A row that is to be flagged, as it was read.
#[derive(Clone)]
struct Wanted {
    index: usize,
    id: i64,
    record: String,
    version: Version,
}

/// What a transaction does beside moving the checkpoint.
#[derive(Clone, Default)]
struct Change {
    flags: Vec<(i64, Version)>,
    /// The keys whose entries are deleted before others are held.
    forget: Vec<i64>,
    hold: Vec<(i64, String)>,
    unhold: Vec<i64>,
}

impl World {
    /// What a flagging statement finds.
    fn judge(&self, wanted: &[Wanted]) -> (Flagged, Vec<(i64, Version)>) {
        let mut flagged = Flagged::default();
        let mut named = Vec::new();
        for row in wanted {
            let Some(found) = self.postgres.tables.rows.get(&row.id).filter(|found| !found.flag) else {
                flagged.changed.push(row.index);
                continue;
            };
            let same = found.version == row.version
                || found.content.record(row.id) == row.record
                || mutant::is("flag any version of the row");
            if found.locked {
                flagged.locked.push(row.index);
            } else if !same {
                flagged.changed.push(row.index);
            } else if self.postgres.stubborn == Some(row.id) {
                flagged.taken_back.push(row.index);
            } else {
                flagged.flagged += 1;
                named.push((row.id, found.version));
            }
        }
        (flagged, named)
    }

    /// One transaction: the epoch, the flags, the rows that are held and those no longer, the checkpoint.
    fn flag_transaction(&mut self, epoch: i64, change: &Change, to: Option<&Checkpoint>) -> Result<()> {
        if self.postgres.tables.epoch != epoch && !mutant::is("the epoch of a flag transaction is unchecked") {
            return Err(shut_out("cannot flag"));
        }
        let before = self.postgres.tables.clone();
        self.postgres.unsynced.push(before);
        for (id, version) in &change.flags {
            let any = mutant::is("flag any version of the row");
            let next = self.postgres.next_version();
            let Some(row) = self.postgres.tables.rows.get_mut(id) else { continue };
            // A rewrite of the table, which changes places, would have waited for this transaction.
            if row.flag || (row.version.xmin != version.xmin && !any) {
                continue;
            }
            (row.flag, row.version, row.is_flagged_since) = (true, next, true);
            let content = row.content.clone();
            let set_back = row.set_back.take();
            self.postgres.flags += 1;
            if let Some(records) = set_back
                && !self.kafka.history[records..].iter().any(|found| found.data.row == *id)
            {
                self.broke(|| format!("row {id} was flagged though nothing was sent since its flag was set back"));
            }
            let last = self.kafka.last_of(*id).cloned();
            if !last.as_ref().is_some_and(|last| last.is_of(*id, &content)) {
                self.broke(|| format!("row {id} was flagged as {content:?}, but its last record is {last:?}"));
            }
        }
        let tables = &mut self.postgres.tables;
        tables.held.retain(|_, (id, _)| !change.forget.contains(id));
        for entry in &change.hold {
            tables.next_entry += 1;
            tables.held.insert(tables.next_entry, entry.clone());
        }
        tables.held.retain(|entry, _| !change.unhold.contains(entry));
        if let Some(to) = to {
            for (&partition, &next) in &to.offsets {
                self.postgres.tables.checkpoint.offsets.insert(partition, next);
            }
            let floor = &mut self.postgres.tables.checkpoint.timestamp_floor;
            *floor = (*floor).max(to.timestamp_floor);
        }
        Ok(())
    }
}

pub fn id_of(key: &[u8]) -> Option<i64> {
    std::str::from_utf8(key).ok()?.parse().ok()
}

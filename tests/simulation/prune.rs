//! `pg2ch prune` between and beside runs: the rows that it finds old, what it asks, and what it deletes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use pg2ch::commands::prune::pages::prune_pages;
use pg2ch::commands::prune::{Options, TableReport};
use pg2ch::config::Config;
use pg2ch::data::Version;
use pg2ch::error::{Error, ExitCode, Result};
use pg2ch::mutant;
use pg2ch::ports::limits::Limits;
use pg2ch::ports::prune::{OldRows, Shown, Waits};
use pg2ch::report::Legs;
use pg2ch::shutdown::Shutdown;
use pg2ch::threads::watchdog::Watchdog;

use crate::clickhouse::{ClickHouse, Stored};
use crate::faults::Leg;
use crate::kafka::{Kafka, PARTITIONS};
use crate::life::{Life, Side, config, leg, run};
use crate::postgres::{Content, Pruned};
use crate::world::{Run, Shared, World, unavailable};

/// How many rows a page has.
const PAGE: usize = 3;

/// A row as it was read.
#[derive(Clone)]
pub struct Old {
    id: i64,
    version: Version,
    content: Content,
    read_ms: i64,
}

struct SimOldRows {
    run: Run,
    /// The server's life that its sessions belong to.
    generation: u64,
    /// Rows whose birth is at most this are old.
    limit: i64,
    /// The last row of the page before.
    after: i64,
    /// Up to where the topic has been read; where nothing has, the group's place.
    next: Option<[i64; PARTITIONS as usize]>,
    in_topic: HashSet<i64>,
    /// The timestamp of each row's newest letter.
    letters: HashMap<i64, i64>,
}

impl SimOldRows {
    fn open(run: &Run) -> Result<Self> {
        let (generation, limit) = run.read("postgres: connect to prune", |world| {
            let births = world.postgres.births();
            let limit = if world.troubled { world.rng.i64(0..=births) } else { births };
            Ok((world.postgres.generation, limit))
        })?;
        let (in_topic, letters) = (HashSet::new(), HashMap::new());
        Ok(Self { run: run.clone(), generation, limit, after: 0, next: None, in_topic, letters })
    }
}

impl OldRows for SimOldRows {
    type Row = Old;

    fn page(&mut self, most: usize) -> Result<Vec<Old>> {
        let (generation, limit, after) = (self.generation, self.limit, self.after);
        let page = self.run.read("postgres: read old rows", move |world| {
            if world.postgres.generation != generation {
                return Err(unavailable("cannot read old rows"));
            }
            let rows = world.postgres.tables.rows.iter();
            let mut old: Vec<_> = rows.filter(|(_, row)| row.flag && row.place.birth <= limit).collect();
            old.retain(|(_, row)| row.place.birth > after);
            old.sort_by_key(|(_, row)| row.place.birth);
            let read_ms = world.postgres.clock;
            let read = |(id, row): (&i64, &crate::postgres::Row)| {
                (row.place.birth, Old { id: *id, version: row.version, content: row.content.clone(), read_ms })
            };
            Ok(old.into_iter().take(most.min(PAGE)).map(read).collect::<Vec<_>>())
        })?;
        self.after = page.last().map_or(after, |(birth, _)| *birth);
        Ok(page.into_iter().map(|(_, old)| old).collect())
    }

    fn read_topic(&mut self) -> Result<()> {
        let Self { run, next, in_topic, letters, .. } = self;
        run.read("kafka: read what waits", |world| {
            let kafka = &world.kafka;
            let ends: Vec<i64> = (0..PARTITIONS).map(|partition| kafka.written(partition)).collect();
            for partition in 0..PARTITIONS {
                let (at, end) = (partition as usize, kafka.written(partition));
                if kafka.stable(partition) < end {
                    return Err(unavailable("a transaction is open"));
                }
                let committed = kafka.offsets.get(&partition).filter(|_| !kafka.foreign.contains(&partition));
                let from = next.map_or(committed.map_or(0, |committed| committed.next), |next| next[at]);
                in_topic.extend(kafka.rows_between(partition, from, end));
            }
            *letters = kafka.newest_letters();
            *next = ends.try_into().ok();
            Ok(())
        })
    }

    fn waits(&self, row: &Old, shown: Option<Shown>) -> Waits {
        let letter = self.letters.get(&row.id).copied();
        match (self.in_topic.contains(&row.id), letter > shown.map(|shown| shown.place.0)) {
            (true, _) => Waits::InTopic,
            (false, true) => Waits::AsLetter,
            (false, false) => Waits::No,
        }
    }

    fn shown(&mut self, rows: &[Old]) -> Result<Vec<Option<Shown>>> {
        self.run.read("clickhouse: read what is shown", |world| {
            let shown = |row: &Old| {
                let newest = world.clickhouse.newest(row.id)?;
                let equals = newest.content.json(row.id) == row.content.json(row.id);
                let place = (newest.id.timestamp_ms, newest.id.offset);
                Some(Shown { equals, place, for_ms: row.read_ms - place.0 })
            };
            Ok(rows.iter().map(shown).collect())
        })
    }

    fn record_limit(&mut self) -> Result<()> {
        let limit = self.limit;
        self.run.write(
            "postgres: record the limit",
            |_| {},
            move |world| {
                world.postgres.record_limit(limit);
                Ok(())
            },
        )
    }

    fn delete(&mut self, rows: &[&Old]) -> Result<u64> {
        let (generation, limit) = (self.generation, self.limit);
        let rows: Vec<Old> = rows.iter().map(|row| (*row).clone()).collect();
        self.run.write(
            "postgres: delete rows",
            |_| {},
            move |world| {
                if world.postgres.generation != generation {
                    return Err(unavailable("cannot delete rows"));
                }
                world.delete_old(&rows, limit)
            },
        )
    }

    fn pass_over(&mut self, _: &[&Old]) {}
}

impl Kafka {
    /// The timestamp of the newest letter of each row that has one.
    fn newest_letters(&self) -> HashMap<i64, i64> {
        let dead: HashSet<_> = self.dead.iter().collect();
        let mut newest = HashMap::new();
        for found in self.history.iter().filter(|found| dead.contains(&found.id)) {
            let at = newest.entry(found.data.row).or_insert(found.id.timestamp_ms);
            *at = found.id.timestamp_ms.max(*at);
        }
        newest
    }
}

impl ClickHouse {
    /// What `FINAL` shows of a key.
    pub fn newest(&self, key: i64) -> Option<&Stored> {
        self.rows.iter().filter(|row| row.key == key).max_by_key(|row| row.id.timestamp_ms)
    }
}

impl World {
    /// One transaction: those of some rows that are what was read are deleted, and looked for.
    fn delete_old(&mut self, rows: &[Old], limit: i64) -> Result<u64> {
        let any = mutant::is("prune: any version is deleted");
        let named = rows.iter().filter(|old| {
            self.postgres.tables.rows.get(&old.id).is_some_and(|row| {
                row.flag && !row.locked && row.place.birth <= limit && (any || row.version == old.version)
            })
        });
        let named: Vec<i64> = named.map(|old| old.id).collect();
        let kept = self.postgres.keeps.filter(|id| named.contains(id));
        if let Some(id) = kept {
            if !mutant::is("prune: nobody looks again") {
                return Err(Error::config("cannot prune", "a row is there after its DELETE", "let the trigger pass"));
            }
            self.broke(|| format!("row {id} counts as deleted, and a trigger has kept it"));
        }
        for id in &named {
            let Some(row) = self.postgres.tables.rows.get(id) else { continue };
            let pruned = Pruned { content: row.content.clone(), birth: row.place.birth };
            self.postgres.prune(*id, pruned);
        }
        Ok(named.len() as u64)
    }

    /// Every row that was pruned is what the target shows, as long as nobody writes its key again; and `verify` knows of it.
    pub fn lost_by_prune(&self) -> Option<String> {
        for (id, pruned) in &self.postgres.pruned {
            let shown = self.clickhouse.newest(*id).map(|newest| newest.content.json(*id));
            if shown.as_deref() != Some(pruned.content.json(*id).as_str()) {
                return Some(format!("row {id} was pruned as {:?}, and the target shows {shown:?}", pruned.content));
            }
            if self.postgres.tables.limit.is_none_or(|limit| limit < pruned.birth) {
                return Some(format!("row {id} was pruned, and no limit above it is recorded"));
            }
        }
        None
    }

    /// Nothing was in the way: what the target shows is pruned.
    fn check_pruned(&mut self) {
        if !self.kafka.foreign.is_empty() {
            // Somebody has moved an offset, and no run has committed one since: the whole partition waits.
            return;
        }
        let letters = self.kafka.newest_letters();
        let is_left = |(id, row): &(&i64, &crate::postgres::Row)| {
            // One that PostgreSQL's clock had not reached yet, a few calls ago, is too new.
            let read_ms = self.postgres.clock - 20;
            let newest = self.clickhouse.newest(**id).filter(|newest| newest.id.timestamp_ms <= read_ms);
            let is_shown = newest.is_some_and(|newest| newest.content.json(**id) == row.content.json(**id));
            row.flag && letters.get(id).copied() <= newest.map(|newest| newest.id.timestamp_ms) && is_shown
        };
        let left = self.postgres.tables.rows.iter().find(is_left).map(|(id, _)| *id);
        if let Some(id) = left {
            self.broke(|| format!("row {id} could be pruned, and is there"));
        }
    }
}

impl Life {
    /// A run and a prune at the same time: one of them may sleep while the other works.
    pub fn prune_beside_a_run(&self, world: &Arc<Shared>, config: &Config) {
        let slot = {
            let mut world = world.lock();
            world.two_runs();
            world.rng.usize(..2)
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                mutant::plant(self.mutant);
                if slot == 1 {
                    prune(world, config, 1);
                } else {
                    run(world, config, Side { slot: 1, legs: Legs::Both });
                }
            });
            if slot == 0 {
                prune(world, config, 0);
            } else {
                run(world, config, Side::ALONE);
            }
        });
    }
}

/// Prunes; once nothing fails any more, everything that can be.
pub fn prune(shared: &Arc<Shared>, config: &Config, slot: usize) {
    let (run, shutdown) = Run::begin(shared, slot);
    run.enters(Leg::Prune);
    let mut limits = Limits::default();
    let troubled = {
        let mut world = run.world();
        if world.troubled && world.one_in(6) {
            limits.max_rows = Some(world.rng.u64(1..7));
        }
        world.postgres.keeps = (world.troubled && world.one_in(8)).then(|| world.rng.i64(1..=8));
        world.troubled
    };
    let watchdog = Watchdog::of_nobody();
    let leg = leg(config, limits, &shutdown, &watchdog);
    let mut report = TableReport::default();
    let result = SimOldRows::open(&run).and_then(|mut rows| prune_pages(&leg, &options(), &mut rows, &mut report));
    let lived = run.end();
    let mut world = run.world();
    world.note(|| format!("      prune deletes {}, keeps {:?}: {result:?}", report.deleted, report.kept));
    match result {
        Ok(()) if !troubled => world.check_pruned(),
        Err(error) if !troubled => world.broke(|| format!("a prune in quiet times ends with {error}")),
        Err(error) if lived && error.exit_code() != ExitCode::Unavailable && world.postgres.keeps.is_none() => {
            world.broke(|| format!("a prune ends with {error}"));
        }
        _ => {}
    }
}

fn options() -> Options {
    Options { older_than: Duration::ZERO, by: "birth".into(), held_for: Duration::ZERO, confirm: true, force: false }
}

/// One row, of which a record is sent while the row is read.
#[derive(Default)]
struct SentMeanwhile {
    is_sent: bool,
    waits: bool,
}

impl OldRows for SentMeanwhile {
    type Row = ();

    fn page(&mut self, _: usize) -> Result<Vec<()>> {
        let was_read = std::mem::replace(&mut self.is_sent, true);
        Ok(if was_read { vec![] } else { vec![()] })
    }

    fn read_topic(&mut self) -> Result<()> {
        self.waits = self.is_sent;
        Ok(())
    }

    fn waits(&self, (): &(), _: Option<Shown>) -> Waits {
        if self.waits { Waits::InTopic } else { Waits::No }
    }

    fn shown(&mut self, _: &[()]) -> Result<Vec<Option<Shown>>> {
        Ok(vec![Some(Shown { equals: true, for_ms: i64::MAX, place: (0, 0) })])
    }

    fn record_limit(&mut self) -> Result<()> {
        Ok(())
    }

    fn delete(&mut self, rows: &[&()]) -> Result<u64> {
        Ok(rows.len() as u64)
    }

    fn pass_over(&mut self, _: &[&()]) {}
}

#[test]
fn the_topic_is_read_after_the_rows() {
    let (config, shutdown, watchdog) = (config(), Shutdown::default(), Watchdog::of_nobody());
    let mut report = TableReport::default();
    let leg = leg(config, Limits::default(), &shutdown, &watchdog);
    prune_pages(&leg, &options(), &mut SentMeanwhile::default(), &mut report).unwrap();
    assert_eq!((report.deleted, report.kept.in_topic), (0, 1));
}

//! One life of the pipeline: runs with faults, then clean runs, after which everything must have arrived once.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fastrand::Rng;

use pg2ch::config::{self, Config, Flags, OnBadRow};
use pg2ch::error::ExitCode;
use pg2ch::mutant;
use pg2ch::ports::LegContext;
use pg2ch::ports::limits::Limits;
use pg2ch::ports::progress::Progress;
use pg2ch::report::{Legs, TableReport};
use pg2ch::run::move_table;
use pg2ch::shutdown::Shutdown;
use pg2ch::threads::watchdog::Watchdog;

use crate::clickhouse::{POISON, View};
use crate::faults::{Hits, Plan};
use crate::invariants;
use crate::kafka::{MAX_VALUE, PARTITIONS};
use crate::postgres::Content;
use crate::prune::prune;
use crate::servers::{Kept, SimServers};
use crate::world::{Run, Shared, World};

/// What a life is made of. Together with the seed it decides everything.
#[derive(Clone, Debug)]
pub struct Life {
    pub seed: u64,
    pub plan: Plan,
    /// Runs with faults, before the clean ones.
    pub troubled_runs: usize,
    /// An application changes something before one call in so many; 0 is never.
    pub busy: usize,
    /// Rows that are refused somewhere, servers that crash, topics made again and the like.
    pub odd: bool,
    /// Some runs meet a second one that lives at the same time.
    pub two: bool,
    /// Rows go out in an order, with message keys.
    pub ordered: bool,
    /// Old rows are pruned between runs, and beside them.
    pub prune: bool,
    /// The turn often passes between the answers of a survey, and before an INSERT, of which often only the token stays.
    pub hasty: bool,
    /// Some runs are those of one process that runs on, and keeps what they leave open.
    pub warm: bool,
    pub mutant: Option<&'static str>,
}

/// How a life went.
pub struct Outcome {
    pub calls: usize,
    pub hits: Hits,
    pub open_to_faults: Vec<(usize, bool, &'static str)>,
    pub broken: Option<String>,
    pub trace: String,
}

pub fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| {
        let mut config = config::load(&Flags::default()).expect("the defaults load");
        (config.timeouts.stable, config.timeouts.clickhouse) = (Duration::ZERO, Duration::ZERO);
        config.timeouts.row_lock = Duration::ZERO;
        (config.retry.pause, config.retry.max_pause) = (Duration::ZERO, Duration::ZERO);
        config.tables.truncate(1);
        config
    })
}

impl Life {
    /// A life in which nothing happens.
    pub fn quiet(seed: u64, troubled_runs: usize) -> Self {
        let plan = Plan::At(vec![]);
        let (odd, two, ordered, prune, hasty, warm) = (false, false, false, false, false, false);
        Self { seed, plan, troubled_runs, busy: 0, odd, two, ordered, prune, hasty, warm, mutant: None }
    }

    /// A life drawn from a seed.
    pub fn random(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x5eed);
        Self {
            seed,
            plan: Plan::OneIn(rng.usize(8..80)),
            troubled_runs: rng.usize(1..5),
            busy: if rng.bool() { rng.usize(4..40) } else { 0 },
            odd: rng.bool(),
            two: rng.usize(..4) == 0,
            ordered: rng.bool(),
            prune: rng.usize(..3) == 0,
            hasty: false,
            warm: false,
            mutant: None,
        }
    }

    /// One of a process that runs on, beside others: more runs, and fewer faults, so that it has something to keep.
    pub fn warm(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x3a73);
        let plan = Plan::OneIn(rng.usize(20..300));
        let (troubled_runs, busy, two) = (rng.usize(3..9), rng.usize(4..40), rng.usize(..3) > 0);
        Self { plan, troubled_runs, busy, two, warm: true, ..Self::random(seed) }
    }

    pub fn live(&self, traced: bool) -> Outcome {
        let mut rng = Rng::with_seed(self.seed);
        let rows = rng.u64(6..=12);
        let mut config = config().clone();
        config.batch.rows = rng.usize(2..=3);
        config.batch.insert_rows = rng.usize(2..=4);
        config.retry.attempts = rng.u32(1..=3);
        config.tables[0].on_bad_row = OnBadRow::DeadLetter;
        if self.ordered {
            let outbox = &mut config.tables[0].outbox;
            (outbox.order_by, outbox.message_key) = (vec!["seq".into()], vec!["member".into()]);
        }
        let mut world = World::new(rng, self.plan.clone(), rows, traced);
        world.hasty = self.hasty;
        (world.busy, world.odd, world.postgres.in_order) = (self.busy, self.odd, self.ordered);
        if self.odd {
            world.make_rows_odd();
            world.make_target_odd();
        }
        let world = Shared::new(world);
        mutant::plant(self.mutant);
        let mut process = Kept::default();
        let mut own = |world: &Arc<Shared>, side| {
            let is_own = self.warm && world.lock().rng.usize(..4) > 0;
            run_of(world, &config, side, is_own.then_some(&mut process))
        };
        for _ in 0..self.troubled_runs {
            if self.two && world.lock().rng.bool() {
                self.two_runs(&world, &config, &mut own);
            } else if self.prune && world.lock().rng.bool() {
                self.prune_beside_a_run(&world, &config);
            } else {
                own(&world, Side::ALONE);
            }
            if self.prune {
                prune(&world, &config, 0);
            }
            let mut world = world.lock();
            if self.odd {
                world.something_happens();
            }
        }
        world.lock().troubled = false;
        // The first may find what is still under way; what it meets there may end it. The second brings everything.
        own(&world, Side::ALONE);
        world.lock().land(true);
        world.lock().calm_down();
        let second = own(&world, Side::ALONE);
        world.lock().check_clean("second", &second);
        invariants::check_end(&mut world.lock());
        if self.prune {
            prune(&world, &config, 0);
        }
        // The third has nothing to do.
        let third = own(&world, Side::ALONE);
        world.lock().check_clean("third", &third);
        world.lock().check_idle(&third);
        mutant::plant(None);
        let mut world = world.lock();
        let (hits, open_to_faults) = (std::mem::take(&mut world.hits), std::mem::take(&mut world.open_to_faults));
        Outcome { calls: world.calls, hits, open_to_faults, broken: world.broken.clone(), trace: world.trace() }
    }

    /// Two runs that live at the same time, as on two hosts, or where the first one's lock was lost.
    fn two_runs(&self, world: &Arc<Shared>, config: &Config, own: &mut impl FnMut(&Arc<Shared>, Side) -> TableReport) {
        let legs = {
            let mut world = world.lock();
            world.two_runs();
            if world.one_in(3) { Legs::Consume } else { Legs::Both }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                mutant::plant(self.mutant);
                run(world, config, Side { slot: 1, legs });
            });
            own(world, Side::ALONE);
        });
    }
}

/// Which of two runs.
#[derive(Clone, Copy)]
pub struct Side {
    pub slot: usize,
    pub legs: Legs,
}

impl Side {
    pub const ALONE: Self = Self { slot: 0, legs: Legs::Both };
}

/// What a run is given.
pub fn leg<'a>(config: &'a Config, limits: Limits, shutdown: &'a Shutdown, watchdog: &'a Watchdog) -> LegContext<'a> {
    let (table, started, progress) = (&config.tables[0], Instant::now(), Progress::default());
    LegContext { config, table, limits, started, shutdown, watchdog, progress }
}

pub fn run(shared: &Arc<Shared>, config: &Config, side: Side) -> TableReport {
    run_of(shared, config, side, None)
}

/// A run of a process that runs on, if it has `kept` something, or of one that ends with it.
fn run_of(shared: &Arc<Shared>, config: &Config, side: Side, kept: Option<&mut Kept>) -> TableReport {
    let (run, shutdown) = Run::begin(shared, side.slot);
    let mut limits = Limits::default();
    {
        let mut world = run.world();
        (world.kafka.sent, world.kafka.buried, world.postgres.flags) = (0, 0, 0);
        if world.troubled && world.odd && world.one_in(6) {
            limits.max_rows = Some(world.rng.u64(1..7));
        }
    }
    let watchdog = Watchdog::of_nobody();
    let leg = leg(config, limits, &shutdown, &watchdog);
    let mut kept = kept;
    let servers = SimServers::new(run.clone(), kept.as_deref_mut().map(std::mem::take));
    let report = move_table(&leg, &servers, side.legs);
    if let Some(kept) = kept {
        // What fails leaves nothing, and a process that dies neither.
        *kept = servers.into_kept().filter(|_| report.error.is_none()).unwrap_or_default();
        if run.world().one_in(12) {
            kept.lose_session();
        }
    }
    let lived = run.end();
    run.world().check_end_of_run(&report, lived);
    report
}

impl World {
    /// Some rows that a server refuses.
    fn make_rows_odd(&mut self) {
        let rows = self.postgres.tables.rows.len() as i64;
        for kind in 0..4 {
            if !self.rng.bool() {
                continue;
            }
            let id = self.rng.i64(1..=rows);
            match kind {
                0 => self.postgres.write(id, Content::new(POISON, 1)),
                1 => self.postgres.write(id, Content::new("a number beyond its column", 999)),
                2 if self.one_in(3) => {
                    self.postgres.write(id, Content::new("x".repeat(MAX_VALUE), 2));
                }
                3 if self.one_in(3) => self.postgres.stubborn = Some(id),
                _ => {}
            }
        }
    }

    /// A view behind the target, and a proxy before it.
    fn make_target_odd(&mut self) {
        self.clickhouse.is_unproven = self.one_in(4);
        if self.rng.bool() {
            let (remembers, refuses) = (self.rng.bool(), if self.rng.bool() { self.rng.usize(2..8) } else { 0 });
            self.clickhouse.view = Some(View { remembers, refuses, ..View::default() });
        }
    }

    /// Somebody alters the type of a column.
    fn target_is_altered(&mut self) {
        // There and back between an INSERT that is refused and the look that follows: once. Twice in a row would blame the record.
        if !self.clickhouse.is_described && std::mem::replace(&mut self.clickhouse.was_altered_unseen, true) {
            return;
        }
        (self.clickhouse.is_altered, self.clickhouse.is_described) = (!self.clickhouse.is_altered, false);
        self.note(|| "      a column of the target gets another type".into());
    }

    /// What applications do between any two calls.
    pub fn application_acts(&mut self) {
        let ids: Vec<i64> = self.postgres.tables.rows.keys().copied().collect();
        let highest = ids.last().copied().unwrap_or(0);
        let id = self.rng.choice(ids).unwrap_or(1);
        let call = self.calls;
        match self.rng.usize(..19) {
            0..=2 => {
                self.note(|| format!("      an application changes row {id}"));
                self.postgres.write(id, Content::new(format!("changed at {call}"), id));
            }
            3 | 4 => {
                self.note(|| format!("      an application changes row {id} to what it was at first"));
                self.postgres.write(id, Content::new(format!("first of {id}"), id));
            }
            5 => {
                let Some(row) = self.postgres.tables.rows.get(&id) else { return };
                let before = row.content.clone();
                self.note(|| format!("      an application changes row {id}, to change it back soon"));
                self.postgres.write(id, Content::new(format!("for a while at {call}"), id));
                self.later("application: change back", 60, move |world| world.postgres.write(id, before));
            }
            6 => {
                // A key that was deleted may come again.
                let id = if self.rng.bool() { highest + 1 } else { self.rng.i64(1..=highest + 1) };
                self.note(|| format!("      an application writes row {id}"));
                self.postgres.write(id, Content::new(format!("new at {call}"), 7));
            }
            7 | 8 => {
                let locks = self.postgres.tables.rows.get(&id).is_some_and(|row| !row.locked);
                self.note(|| format!("      an application locks row {id}: {locks}"));
                self.postgres.tables.rows.entry(id).and_modify(|row| row.locked = locks);
            }
            9 => {
                let partition = self.rng.i32(0..PARTITIONS);
                self.note(|| format!("      another producer writes to partition {partition}"));
                if call.is_multiple_of(2) {
                    self.kafka.add_neighbour(partition, self.postgres.clock);
                }
                let transaction = self.kafka.begin_foreign(partition);
                self.later("foreign abort", 40, move |world| world.kafka.abort(transaction));
            }
            10 | 11 => {
                self.note(|| format!("      an application deletes row {id}"));
                self.postgres.delete(id);
            }
            12 if self.odd => self.retention(),
            13 if self.odd && self.all_consume() => self.topic_is_made_again(),
            14 => {
                self.note(|| format!("      somebody sets the flag of row {id} back"));
                self.postgres.set_back(id, &self.kafka.history);
            }
            15 if self.odd => self.target_is_altered(),
            16 | 17 => {
                let Some(row) = self.postgres.tables.rows.get(&id) else { return };
                let trace = if self.rng.bool() { format!("at {call}") } else { String::new() };
                let content = Content { trace, ..row.content.clone() };
                self.note(|| format!("      an application changes what only the header of row {id} has"));
                self.postgres.write(id, content);
            }
            _ => {
                self.note(|| "      the table is rewritten".into());
                self.postgres.rewrite();
            }
        }
    }

    /// A second run begins while the first is at work: it finds the lock taken; or free, because a connection pool has
    /// given it away, or because the session that held it was ended.
    pub fn a_second_run_begins(&mut self) {
        match self.rng.usize(..5) {
            0 | 1 => {
                self.note(|| "      a pool has given the lock away".into());
                self.postgres.free_lock();
            }
            2 | 3 => {
                self.note(|| "      the session that held the lock is ended".into());
                self.postgres.end_locking_session();
            }
            _ => {}
        }
    }

    /// What happens to servers between runs.
    fn something_happens(&mut self) {
        match self.rng.usize(..14) {
            0 | 1 => {
                let unsynced = self.postgres.unsynced();
                let lost = self.rng.usize(..=unsynced);
                self.note(|| format!("      PostgreSQL crashes and loses {lost} of {unsynced} commits"));
                self.postgres.crash(lost);
            }
            2 => {
                self.note(|| "      PostgreSQL's clock goes back".into());
                self.postgres.clock -= 500;
            }
            3 => self.retention(),
            4 => self.topic_is_made_again(),
            5 => {
                self.land(true);
                self.note(|| "      the group's offsets are deleted".into());
                self.kafka.offsets.clear();
                self.kafka.set_back = true;
            }
            6 | 7 => self.offsets_are_moved(),
            8 => self.target_is_made_again(),
            9 => {
                self.note(|| "      the checkpoint is deleted".into());
                self.postgres.lose_checkpoint();
            }
            10 => self.commits_are_lost(),
            _ => {}
        }
    }

    fn retention(&mut self) {
        let partition = self.rng.i32(0..PARTITIONS);
        if self.kafka.foreign.contains(&partition) {
            // A topic made again is recognised by the places that retention would delete: a known limit.
            return;
        }
        let end = self.kafka.written(partition);
        let start = self.rng.i64(0..=end);
        self.note(|| format!("      retention deletes partition {partition} up to {start}"));
        self.kafka.retain_from(partition, start);
        self.excuse_what_is_gone();
    }

    fn topic_is_made_again(&mut self) {
        let forget = self.rng.bool();
        self.note(|| format!("      the topic is deleted and made again; offsets forgotten: {forget}"));
        self.kafka.recreate(forget);
        self.postgres.clock += 1_000;
        self.excuse_what_is_gone();
    }

    /// Somebody moves the offsets, and keeps the text beside them, as tools do that copy a group.
    fn offsets_are_moved(&mut self) {
        self.land(true);
        for partition in 0..PARTITIONS {
            let next = self.rng.i64(0..=self.kafka.written(partition));
            if let Some(committed) = self.kafka.offsets.get_mut(&partition) {
                committed.next = next;
                self.kafka.foreign.insert(partition);
                self.kafka.set_back = true;
                self.note(|| format!("      somebody moves the offset of partition {partition} to {next}"));
            }
        }
    }

    /// Kafka forgets the group's last commits, as where a broker's disk is lost.
    fn commits_are_lost(&mut self) {
        self.land(true);
        let kept = self.kafka.earlier.len().saturating_sub(self.rng.usize(1..5));
        self.kafka.earlier.truncate(kept + 1);
        let Some((offsets, foreign)) = self.kafka.earlier.pop() else { return };
        self.note(|| format!("      the group's offsets are again those of {kept} commits"));
        self.kafka.offsets = offsets;
        self.kafka.foreign.extend(foreign);
        self.kafka.set_back = true;
    }

    fn target_is_made_again(&mut self) {
        self.land(true);
        self.note(|| "      the target is dropped and made again".into());
        self.clickhouse.rows.clear();
        self.clickhouse.tokens.clear();
        // What the view has of the rows before nobody compares any more.
        self.clickhouse.view = None;
        self.clickhouse.made += 1;
        self.postgres.pruned.clear();
        self.kafka.foreign.extend(0..PARTITIONS);
        self.kafka.earlier.clear();
        self.kafka.set_back = true;
        self.excuse_what_is_gone();
    }

    /// What can no longer be read was either copied, or is lost.
    fn excuse_what_is_gone(&mut self) {
        for index in 0..self.kafka.history.len() {
            let id = self.kafka.history[index].id;
            let gone = !self.kafka.has(&id);
            self.kafka.history[index].excused |= gone;
        }
    }

    /// Nobody holds a row, a lock or a transaction any more.
    fn calm_down(&mut self) {
        self.kafka.time_out();
        for row in self.postgres.tables.rows.values_mut() {
            row.locked = false;
        }
        self.postgres.free_lock();
    }

    /// A run that was not killed ends with a code that says what it met.
    fn check_end_of_run(&mut self, report: &TableReport, lived: bool) {
        let code = report.exit_code();
        if let (Some(view), Some(consume)) = (&mut self.clickhouse.view, &report.consume) {
            view.told += consume.rows_refused_by_views;
        }
        self.window_lost |= report.produce.as_ref().is_some_and(|produce| !produce.window_lost.is_empty());
        self.note(|| match &report.error {
            Some(error) => format!("      ends with {}: {error}", code.code()),
            None => format!("      ends with {}", code.code()),
        });
        if lived
            && !matches!(code, ExitCode::Done | ExitCode::Data | ExitCode::Unavailable | ExitCode::Locked)
            && self.clickhouse.view.is_none()
        {
            self.broke(|| format!("a run ends with {code:?}: {:?}", report.error));
        }
    }

    /// The run has ended as it should, and has counted what it did.
    fn check_clean(&mut self, which: &str, report: &TableReport) {
        let (Some(produce), Some(consume)) = (&report.produce, &report.consume) else { return };
        let unfit = !produce.taken_back.is_empty()
            || !produce.too_large.is_empty()
            || consume.dead_letters > 0
            || !consume.lost.is_empty()
            || !produce.window_lost.is_empty()
            || produce.topic_recreated
            || consume.topic_recreated
            || consume.rows_refused_by_views > 0;
        let expected = if unfit { ExitCode::Data } else { ExitCode::Done };
        if let Some(error) = &report.error {
            self.broke(|| format!("the {which} clean run ends with {error}"));
        }
        if report.exit_code() != expected || !report.is_complete() {
            self.broke(|| format!("the {which} clean run ends with {:?}", report.exit_code()));
        }
        let checkpoint = &self.postgres.tables.checkpoint.offsets;
        if checkpoint.iter().any(|(&partition, &next)| self.kafka.written(partition) < next) {
            self.broke(|| format!("the {which} clean run has not said that the topic is another one"));
        }
        let counted = (produce.records_sent, produce.rows_flagged + produce.rows_recovered, consume.dead_letters);
        let happened = (self.kafka.sent, self.postgres.flags, self.kafka.buried);
        if counted != happened {
            self.broke(|| {
                format!("the {which} clean run counts {counted:?} sent, flagged and buried; it were {happened:?}")
            });
        }
    }

    fn check_idle(&mut self, report: &TableReport) {
        let (Some(produce), Some(consume)) = (&report.produce, &report.consume) else { return };
        if (produce.records_sent, produce.rows_flagged, consume.inserts) != (0, 0, 0) {
            self.broke(|| format!("the third clean run still does something: {produce:?} {consume:?}"));
        }
    }
}

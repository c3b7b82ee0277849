//! Three servers in memory, the faults between them and a run, and what must hold after every call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use pg2ch::error::{Error, ExitCode, Result};
use pg2ch::shutdown::Shutdown;

use crate::clickhouse::ClickHouse;
use crate::faults::{FAULTS, Fault, Hits, Leg, Plan};
use crate::invariants;
use crate::kafka::Kafka;
use crate::postgres::Postgres;

/// An effect that is still under way.
pub struct Late {
    due: usize,
    pub what: &'static str,
    effect: Box<dyn FnOnce(&mut World) + Send>,
}

pub struct World {
    pub postgres: Postgres,
    pub kafka: Kafka,
    pub clickhouse: ClickHouse,
    pub rng: Rng,
    /// Faults and applications' changes happen now.
    pub troubled: bool,
    plan: Plan,
    /// An application changes something before one call in so many; 0 is never.
    pub busy: usize,
    /// Topics are made again, and retention deletes, also while a run is at work.
    pub odd: bool,
    /// Where two runs are at work, the turn often passes between the answers of a survey, and before an INSERT, of which often only
    /// the token stays.
    pub hasty: bool,
    /// Which of the two is at one.
    pub surveying: [bool; 2],
    /// A run has told that retention had deleted what it was to compare with the table.
    pub window_lost: bool,
    pub calls: usize,
    /// Runs that have begun.
    run: usize,
    /// Runs whose process lives.
    live: BTreeSet<usize>,
    turns: Turns,
    /// What the next call meets, if time has passed for it already.
    prepared: Option<Fault>,
    late: Vec<Late>,
    /// Servers without room, and until which call.
    full: BTreeMap<&'static str, usize>,
    /// How often which fault hit which call.
    pub hits: Hits,
    /// The calls at which a fault may happen, whether they write, and what they are.
    pub open_to_faults: Vec<(usize, bool, &'static str)>,
    /// The first thing that did not hold.
    pub broken: Option<String>,
    trace: Option<Vec<String>>,
}

/// Which of two runs that live at the same time may take its next step. Only one ever does.
#[derive(Default)]
struct Turns {
    holder: usize,
    running: [bool; 2],
    /// The turn passes before one call in so many; 0 is never.
    one_in: usize,
    /// The first run sleeps from this call on, until the second has ended; 0 is never.
    sleep_at: usize,
    legs: [Option<Leg>; 2],
    /// Each asks its run to finish, as SIGTERM does.
    shutdowns: [Shutdown; 2],
}

/// A world and the bell that rings when the turn passes.
pub struct Shared {
    world: Mutex<World>,
    turned: Condvar,
}

impl Shared {
    pub fn new(world: World) -> Arc<Self> {
        Arc::new(Self { world: Mutex::new(world), turned: Condvar::new() })
    }

    pub fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run's way to the servers. After a crash, and after the run's end, it leads nowhere.
#[derive(Clone)]
pub struct Run {
    shared: Arc<Shared>,
    number: usize,
    slot: usize,
}

impl World {
    pub fn new(rng: Rng, plan: Plan, rows: u64, traced: bool) -> Self {
        Self {
            postgres: Postgres::new(rows),
            kafka: Kafka::default(),
            clickhouse: ClickHouse::default(),
            rng,
            troubled: true,
            plan,
            busy: 0,
            odd: false,
            hasty: false,
            surveying: [false; 2],
            window_lost: false,
            calls: 0,
            run: 0,
            live: BTreeSet::new(),
            turns: Turns::default(),
            prepared: None,
            late: Vec::new(),
            full: BTreeMap::new(),
            hits: Hits::new(),
            open_to_faults: Vec::new(),
            broken: None,
            trace: traced.then(Vec::new),
        }
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        n > 0 && self.rng.usize(..n) == 0
    }

    /// Notes that something does not hold.
    pub fn broke(&mut self, what: impl FnOnce() -> String) {
        if self.broken.is_none() {
            let what = what();
            self.note(|| format!("BROKEN: {what}"));
            self.broken = Some(what);
        }
    }

    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    pub fn trace(&self) -> String {
        self.trace.as_deref().unwrap_or_default().join("\n")
    }

    /// Queues an effect that the servers themselves delay.
    pub fn later(&mut self, what: &'static str, within: usize, effect: impl FnOnce(&mut Self) + Send + 'static) {
        let due = self.calls + 1 + self.rng.usize(..within);
        self.late.push(Late { due, what, effect: Box::new(effect) });
    }

    pub fn is_under_way(&self, what: &str) -> bool {
        self.late.iter().any(|late| late.what == what)
    }

    /// Lets land what is due, or everything.
    pub fn land(&mut self, everything: bool) {
        while let Some(index) = self.late.iter().position(|late| everything || late.due <= self.calls) {
            let late = self.late.remove(index);
            self.note(|| format!("      lands: {}", late.what));
            (late.effect)(self);
            invariants::check(self);
        }
    }

    /// Two runs take turns from now on: now one and now the other, or the first sleeps while the second works.
    pub fn two_runs(&mut self) {
        self.turns = Turns { running: [true; 2], ..Turns::default() };
        if self.rng.bool() {
            self.turns.one_in = self.rng.usize(2..60);
        } else {
            self.turns.sleep_at = self.calls + self.rng.usize(1..50);
        }
    }

    /// Whether two runs are at work.
    pub fn are_two(&self) -> bool {
        self.turns.running == [true; 2]
    }

    /// Whether every run at work is in its second leg.
    pub fn all_consume(&self) -> bool {
        let Turns { running, legs, .. } = &self.turns;
        running.iter().zip(legs).all(|(running, leg)| !running || *leg == Some(Leg::Consume))
    }

    fn pass_turn(&mut self, what: &str) {
        let Turns { holder, one_in, sleep_at, .. } = self.turns;
        let is_moment = self.surveying[holder] || what == INSERT;
        let one_in = if one_in > 0 && self.hasty && is_moment { 2 } else { one_in };
        let falls_asleep = holder == 0 && sleep_at > 0 && self.calls >= sleep_at;
        if self.are_two() && (falls_asleep || self.one_in(one_in)) {
            self.turns.holder = 1 - holder;
        }
    }

    fn draw(&mut self) -> Fault {
        match &self.plan {
            _ if !self.troubled => Fault::Fine,
            Plan::At(faults) => {
                faults.iter().find(|(call, _)| *call == self.calls).map_or(Fault::Fine, |(_, fault)| *fault)
            }
            Plan::OneIn(n) if self.rng.usize(..*n) == 0 => FAULTS[self.rng.usize(..FAULTS.len())],
            Plan::OneIn(_) => Fault::Fine,
        }
    }

    /// Time passes, and it is drawn what the call meets.
    fn before_call(&mut self, slot: usize) -> Fault {
        if let Some(fault) = self.prepared.take() {
            return fault;
        }
        self.calls += 1;
        self.postgres.clock += 1;
        self.land(false);
        let (fault, busy) = (self.draw(), self.busy);
        if fault == Fault::Change || self.troubled && self.one_in(busy) {
            self.application_acts();
            return if fault == Fault::Fine { Fault::Change } else { fault };
        }
        if fault == Fault::Sigterm {
            self.turns.shutdowns[slot].request();
        }
        fault
    }

    fn meets(&mut self, run: &Run, what: &'static str, fault: Fault, writes: bool) -> Fault {
        let fault = if writes { fault } else { fault.of_a_question() };
        if self.troubled {
            self.open_to_faults.push((self.calls, writes, what));
        }
        let full = self.troubled && self.full.get(server_of(what)).is_some_and(|&until| self.calls < until);
        let goes_well = matches!(fault, Fault::Fine | Fault::Sigterm | Fault::Change);
        let is_torn = self.hasty && what == INSERT && self.are_two() && self.one_in(4);
        let fault = match fault {
            _ if full && writes && goes_well => Fault::Limit,
            Fault::Fine if is_torn => Fault::Half,
            fault => fault,
        };
        let leg = self.turns.legs[run.slot].unwrap_or(Leg::Produce);
        *self.hits.entry((leg, what, fault)).or_default() += 1;
        let (calls, number) = (self.calls, run.number);
        self.note(|| format!("{calls:5} run {number} {what}: {fault:?}"));
        fault
    }

    /// What a fault does beyond the call that it hits; returns what the caller hears.
    fn strikes(&mut self, run: &Run, what: &'static str, fault: Fault) -> Error {
        let server = server_of(what);
        match fault {
            Fault::CrashBefore | Fault::CrashAfter | Fault::CrashLate => self.dies(run, "the process dies"),
            Fault::Stall if server == "postgres" => self.dies(run, "the watchdog ends the run"),
            Fault::Restart => {
                self.restart(server);
                unavailable(what)
            }
            Fault::Limit => {
                let until = self.calls + self.rng.usize(1..20);
                if self.full.get(server).is_none_or(|&before| before <= self.calls) {
                    self.full.insert(server, until);
                }
                unavailable(what)
            }
            _ => unavailable(what),
        }
    }

    /// The server is killed and comes back: what was on the way to it is lost.
    fn restart(&mut self, server: &'static str) {
        self.note(|| format!("      {server} is killed and comes back"));
        self.late.retain(|late| server_of(late.what) != server || late.what == MARKERS);
        if server == "postgres" {
            let unsynced = self.postgres.unsynced();
            let lost = self.rng.usize(..=unsynced);
            self.postgres.crash(lost);
        }
    }

    fn dies(&mut self, run: &Run, how: &'static str) -> Error {
        self.live.remove(&run.number);
        self.note(|| format!("      {how}"));
        dead()
    }
}

/// An INSERT.
pub const INSERT: &str = "clickhouse: insert";

/// The broker's own doing, not a request of anybody's.
pub const MARKERS: &str = "kafka: markers";

fn server_of(what: &'static str) -> &'static str {
    what.split(':').next().unwrap_or(what)
}

fn dead() -> Error {
    Error::bug("cannot go on", "the process is dead")
}

pub fn unavailable(what: &'static str) -> Error {
    Error::unavailable(what, "the simulation says no", "none")
}

pub fn shut_out(what: &'static str) -> Error {
    Error::new(ExitCode::Locked, what, "a later run has begun", "none")
}

impl Run {
    /// Begins the next run, the second of two in slot 1: it waits for its turn.
    pub fn begin(shared: &Arc<Shared>, slot: usize) -> (Self, Shutdown) {
        let mut world = shared.lock();
        while world.are_two() && world.turns.holder != slot {
            world = shared.turned.wait(world).unwrap_or_else(PoisonError::into_inner);
        }
        world.run += 1;
        let number = world.run;
        world.live.insert(number);
        let shutdown = Shutdown::default();
        (world.turns.running[slot], world.turns.holder) = (true, slot);
        (world.turns.legs[slot], world.turns.shutdowns[slot]) = (None, shutdown.clone());
        world.note(|| format!("run {number}"));
        if slot == 1 {
            world.a_second_run_begins();
        }
        drop(world);
        (Self { shared: Arc::clone(shared), number, slot }, shutdown)
    }

    /// The run's last step; the other one goes on. Returns whether its process lived until now.
    pub fn end(&self) -> bool {
        let mut world = self.world();
        let lived = world.live.remove(&self.number);
        world.turns.running[self.slot] = false;
        world.turns.holder = 1 - self.slot;
        self.shared.turned.notify_all();
        lived
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.shared.lock()
    }

    /// Does two things of which neither waits for the other, each as one step.
    pub fn in_any_order<A, B>(&self, one: impl FnOnce() -> A, other: impl FnOnce() -> B) -> (A, B) {
        let is_first = self.world().one_in(2);
        if is_first {
            return (one(), other());
        }
        let other = other();
        (one(), other)
    }

    /// Whether the run's next calls are the questions of a survey.
    pub fn surveys(&self, does: bool) {
        self.world().surveying[self.slot] = does;
    }

    /// Which leg the run's next calls belong to.
    pub fn enters(&self, leg: Leg) {
        self.world().turns.legs[self.slot] = Some(leg);
    }

    /// Waits for the run's turn; `None` if its process is dead.
    fn enter(&self, what: &str) -> Option<MutexGuard<'_, World>> {
        let mut world = self.world();
        if !world.live.contains(&self.number) {
            return None;
        }
        if world.prepared.is_none() {
            world.pass_turn(what);
            self.shared.turned.notify_all();
            while world.are_two() && world.turns.holder != self.slot {
                world = self.shared.turned.wait(world).unwrap_or_else(PoisonError::into_inner);
            }
        }
        Some(world)
    }

    /// Lets time pass before the next call: what is then looked at stays so until it.
    pub fn prepare(&self) {
        if let Some(mut world) = self.enter("") {
            let fault = world.before_call(self.slot);
            world.prepared = Some(fault);
        }
    }

    /// A call that changes nothing.
    pub fn read<T>(&self, what: &'static str, look: impl FnOnce(&mut World) -> Result<T>) -> Result<T> {
        let Some(mut world) = self.enter(what) else { return Err(dead()) };
        let fault = world.before_call(self.slot);
        match world.meets(self, what, fault, false) {
            Fault::Fine | Fault::Sigterm | Fault::Change => look(&mut world),
            fault => Err(world.strikes(self, what, fault)),
        }
    }

    /// A call that changes something. `half` is what a server does that gives up in between.
    pub fn write<T: 'static>(
        &self,
        what: &'static str,
        half: impl FnOnce(&mut World),
        effect: impl FnOnce(&mut World) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(mut world) = self.enter(what) else { return Err(dead()) };
        let fault = world.before_call(self.slot);
        let fault = world.meets(self, what, fault, true);
        let result = match fault {
            Fault::Fine | Fault::Sigterm | Fault::Change => effect(&mut world),
            _ => {
                match fault {
                    Fault::LostReply | Fault::CrashAfter => drop(effect(&mut world)),
                    Fault::Late | Fault::CrashLate => world.later(what, 80, move |world| drop(effect(world))),
                    Fault::Stall if world.rng.bool() => world.later(what, 80, move |world| drop(effect(world))),
                    Fault::Half => half(&mut world),
                    _ => {}
                }
                Err(world.strikes(self, what, fault))
            }
        };
        invariants::check(&mut world);
        result
    }
}

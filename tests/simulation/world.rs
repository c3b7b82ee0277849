//! Three servers in memory, the faults between them and a run, and what must hold after every call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fastrand::Rng;
use pg2ch::error::{Error, Result};
use pg2ch::exit_code::ExitCode;
use pg2ch::shutdown::Shutdown;

use crate::clickhouse::ClickHouse;
use crate::invariants;
use crate::kafka::Kafka;
use crate::postgres::Postgres;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The call does what it should.
    Fine,
    /// It has no effect, and the caller is told so, or hears nothing.
    Refused,
    /// It takes effect, but the caller hears of an error.
    LostReply,
    /// The caller hears of an error; the effect comes later, maybe in the next run.
    Late,
    /// The process dies before the request leaves.
    CrashBefore,
    /// The process dies after the request has taken effect.
    CrashAfter,
    /// The process dies; the request is under way and takes effect later.
    CrashLate,
    /// The server takes half of it and gives up: a prefix of the records, or a token without its rows.
    Half,
}

pub const FAULTS: [Fault; 7] = [
    Fault::Refused,
    Fault::LostReply,
    Fault::Late,
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::CrashLate,
    Fault::Half,
];

impl Fault {
    /// Whether it can happen to a call: what only reads is refused, or never asked.
    pub fn can_hit(self, writes: bool) -> bool {
        writes || matches!(self, Self::Refused | Self::CrashBefore)
    }
}

/// Call and fault → how often.
pub type Hits = BTreeMap<(&'static str, Fault), u64>;

/// When faults happen.
#[derive(Clone, Debug)]
pub enum Plan {
    /// At these calls.
    At(Vec<(usize, Fault)>),
    /// At any call, one in so many.
    OneIn(usize),
}

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
    /// Asks the present run to finish, as SIGTERM does.
    pub shutdown: Shutdown,
    /// Faults and applications' changes happen now.
    pub troubled: bool,
    plan: Plan,
    /// An application changes something before one call in so many; 0 is never.
    pub busy: usize,
    pub calls: usize,
    run: usize,
    crashed: bool,
    /// Time has passed for the next call already.
    prepared: bool,
    late: Vec<Late>,
    /// How often which fault hit which call.
    pub hits: Hits,
    /// The calls at which a fault may happen, and whether they write.
    pub open_to_faults: Vec<(usize, bool)>,
    /// The first thing that did not hold.
    pub broken: Option<String>,
    trace: Option<Vec<String>>,
}

/// A run's way to the servers. After a crash, or in a later run, it leads nowhere.
#[derive(Clone)]
pub struct Run {
    world: Arc<Mutex<World>>,
    number: usize,
}

impl World {
    pub fn new(rng: Rng, plan: Plan, rows: u64, traced: bool) -> Self {
        Self {
            postgres: Postgres::new(rows),
            kafka: Kafka::default(),
            clickhouse: ClickHouse::default(),
            rng,
            shutdown: Shutdown::default(),
            troubled: true,
            plan,
            busy: 0,
            calls: 0,
            run: 0,
            crashed: false,
            prepared: false,
            late: Vec::new(),
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

    fn draw(&mut self, writes: bool) -> Fault {
        if self.troubled {
            self.open_to_faults.push((self.calls, writes));
        }
        let fault = match &self.plan {
            _ if !self.troubled => Fault::Fine,
            Plan::At(faults) => {
                faults.iter().find(|(call, _)| *call == self.calls).map_or(Fault::Fine, |(_, fault)| *fault)
            }
            Plan::OneIn(n) if self.rng.usize(..*n) == 0 => FAULTS[self.rng.usize(..FAULTS.len())],
            Plan::OneIn(_) => Fault::Fine,
        };
        match fault {
            Fault::LostReply | Fault::Late | Fault::Half if !writes => Fault::Refused,
            Fault::CrashAfter | Fault::CrashLate if !writes => Fault::CrashBefore,
            fault => fault,
        }
    }

    fn before_call(&mut self) {
        if std::mem::take(&mut self.prepared) {
            return;
        }
        self.calls += 1;
        self.postgres.clock += 1;
        self.land(false);
        let busy = self.busy;
        if self.troubled && self.one_in(busy) {
            self.application_acts();
        }
    }

    fn crash(&mut self) -> Error {
        self.crashed = true;
        self.note(|| "      the process dies".into());
        dead()
    }
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
    /// Begins the next run.
    pub fn begin(world: &Arc<Mutex<World>>) -> Self {
        let mut inner = world.lock().unwrap_or_else(PoisonError::into_inner);
        inner.run += 1;
        (inner.crashed, inner.prepared) = (false, false);
        let number = inner.run;
        inner.note(|| format!("run {number}"));
        drop(inner);
        Self { world: Arc::clone(world), number }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets time pass before the next call: what is then looked at stays so until it.
    pub fn prepare(&self) {
        let mut world = self.world();
        if !world.crashed && world.run == self.number {
            world.before_call();
            world.prepared = true;
        }
    }

    /// A call that changes nothing.
    pub fn read<T>(&self, what: &'static str, look: impl FnOnce(&mut World) -> Result<T>) -> Result<T> {
        let mut world = self.world();
        if world.crashed || world.run != self.number {
            return Err(dead());
        }
        world.before_call();
        let fault = world.draw(false);
        *world.hits.entry((what, fault)).or_default() += 1;
        let calls = world.calls;
        world.note(|| format!("{calls:5} {what}: {fault:?}"));
        match fault {
            Fault::Fine => look(&mut world),
            Fault::CrashBefore => Err(world.crash()),
            _ => Err(unavailable(what)),
        }
    }

    /// A call that changes something. `half` is what a server does that gives up in between.
    pub fn write<T: 'static>(
        &self,
        what: &'static str,
        half: impl FnOnce(&mut World),
        effect: impl FnOnce(&mut World) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut world = self.world();
        if world.crashed || world.run != self.number {
            return Err(dead());
        }
        world.before_call();
        let fault = world.draw(true);
        *world.hits.entry((what, fault)).or_default() += 1;
        let calls = world.calls;
        world.note(|| format!("{calls:5} {what}: {fault:?}"));
        let result = match fault {
            Fault::Fine => effect(&mut world),
            Fault::Refused => Err(unavailable(what)),
            Fault::LostReply => {
                let _ = effect(&mut world);
                Err(unavailable(what))
            }
            Fault::Late => {
                world.later(what, 80, move |world| drop(effect(world)));
                Err(unavailable(what))
            }
            Fault::CrashBefore => Err(world.crash()),
            Fault::CrashAfter => {
                let _ = effect(&mut world);
                Err(world.crash())
            }
            Fault::CrashLate => {
                world.later(what, 80, move |world| drop(effect(world)));
                Err(world.crash())
            }
            Fault::Half => {
                half(&mut world);
                Err(unavailable(what))
            }
        };
        invariants::check(&mut world);
        result
    }
}

//! The simulated servers as the legs open them, and the order in which the stages' steps come.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};

use pg2ch::data::RecordId;
use pg2ch::error::Result;
use pg2ch::mutant;
use pg2ch::ports::record_types::RecordTypes;
use pg2ch::ports::source::{Checkpoint, Ledger};
use pg2ch::ports::target::NewToken;
use pg2ch::ports::topic::{Fence as _, Of, Survey, TopicLog as _};
use pg2ch::ports::{Beside, Servers};
use pg2ch::threads::{Maker, first_error};

use crate::clickhouse::SimTarget;
use crate::faults::Leg;
use crate::kafka::{SimLog, SimWriter};
use crate::postgres::{KeptSession, SimLedger, SimRows};
use crate::world::Run;

/// How many pieces may wait between two stages.
const QUEUE: usize = 2;

/// What a process that runs on has left open after its last run.
#[derive(Default)]
pub struct Kept {
    session: Option<KeptSession>,
    writer: Option<SimWriter>,
    fence: Option<SimWriter>,
}

pub struct SimServers {
    run: Run,
    /// `None` if nothing is left to a next run.
    kept: Option<RefCell<Kept>>,
    /// What the first leg has found for the second, in which life of the topic.
    survey: Cell<Option<(Survey, u64)>>,
    /// The survey that was made beside the opening of the ledger.
    ahead: RefCell<Option<Survey>>,
    /// The producer of offsets, if it has fenced its predecessors beside the end of the first leg.
    fence: RefCell<Option<SimWriter>>,
}

impl Kept {
    /// The history came too late, and has taken it along.
    pub fn lose_session(&mut self) {
        self.session = None;
    }
}

impl SimServers {
    pub fn new(run: Run, kept: Option<Kept>) -> Self {
        let kept = kept.map(RefCell::new);
        Self { run, kept, survey: Cell::default(), ahead: RefCell::default(), fence: RefCell::default() }
    }

    /// What is left open for the next run of the process.
    pub fn into_kept(self) -> Option<Kept> {
        self.kept.map(RefCell::into_inner)
    }

    fn take<T>(&self, of: impl FnOnce(&mut Kept) -> Option<T>) -> Option<T> {
        of(&mut self.kept.as_ref()?.borrow_mut())
    }

    fn keep(&self, keep: impl FnOnce(&mut Kept)) {
        if let Some(kept) = &self.kept {
            keep(&mut kept.borrow_mut());
        }
    }

    fn choose(&self, among: &[Stage]) -> Option<Stage> {
        self.run.world().rng.choice(among).copied()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    First,
    Second,
    Third,
}

impl Servers for SimServers {
    type Ledger = SimLedger;
    type Rows = SimRows;
    type Log = SimLog;
    type Fence = SimWriter;
    type Target = SimTarget;

    fn ledger(&self) -> Result<Option<SimLedger>> {
        self.run.enters(Leg::Produce);
        if self.run.world().one_in(2) {
            *self.ahead.borrow_mut() = SimLog::new(&self.run, None).survey(Of::Before).ok();
        }
        let mut ledger = SimLedger::open(&self.run, self.take(|kept| kept.session.take()))?;
        Ok(ledger.lock(std::time::Duration::ZERO)?.then_some(ledger))
    }

    fn record_types(&self) -> Result<RecordTypes> {
        Ok(RecordTypes::default())
    }

    fn rows(&self, _: &SimLedger, highest: Vec<String>, clock_floor: i64) -> Result<SimRows> {
        SimRows::open(&self.run, &highest, clock_floor)
    }

    fn log(&self) -> Result<SimLog> {
        let mut log = SimLog::new(&self.run, self.ahead.take());
        if let Some((survey, made)) = self.survey.take() {
            log.keep_survey(survey);
            log.made = made;
        }
        Ok(log)
    }

    fn keep_log(&self, mut log: SimLog) {
        self.survey.set(log.kept_survey().map(|survey| (survey, log.made)));
    }

    fn give_back(&self, ledger: SimLedger) {
        self.keep(|kept| kept.session = Some(ledger.into_kept()));
    }

    fn keeping<T>(
        &self,
        mut ledger: Option<SimLedger>,
        to: Option<Checkpoint>,
        work: impl FnOnce() -> T,
    ) -> (T, Option<SimLedger>) {
        let Some((ledger_of, to)) = ledger.as_mut().zip(to) else { return (work(), ledger) };
        // It is the first leg's still.
        let move_late = || {
            self.run.enters(Leg::Produce);
            ledger_of.move_checkpoint_for_next(&to);
        };
        let ((), done) = self.run.in_any_order(move_late, work);
        (done, ledger)
    }

    fn kept_writer(&self) -> Option<SimWriter> {
        let made = self.run.world().kafka.made;
        Some(self.take(|kept| kept.writer.take())?.of_run(&self.run, made))
    }

    fn next_survey(&self) -> Of {
        let has_fence = self.kept.as_ref().is_some_and(|kept| kept.borrow().fence.is_some());
        if has_fence { Of::Now } else { Of::Nobody }
    }

    fn keep_pipeline(&self, writer: SimWriter, _: SimRows) {
        self.keep(|kept| kept.writer = Some(writer));
    }

    fn keep_fence(&self, fence: SimWriter) {
        self.keep(|kept| kept.fence = Some(fence));
    }

    fn more_logs(&self) -> Box<dyn Fn() -> Result<SimLog> + Send> {
        let run = self.run.clone();
        Box::new(move || Ok(SimLog::new(&run, None)))
    }

    fn letters(&self) -> Result<HashSet<RecordId>> {
        self.run.read("kafka: read the dead letters", |world| Ok(world.kafka.dead.iter().copied().collect()))
    }

    fn writer(&self, _: &SimLedger) -> Result<SimWriter> {
        Ok(SimWriter::new(&self.run, "rows"))
    }

    fn expect_copy(&self) {
        let is_kept = matches!(self.next_survey(), Of::Now);
        if !is_kept && self.run.world().one_in(2) {
            let mut fence = SimWriter::new(&self.run, "offsets");
            *self.fence.borrow_mut() = fence.fence().ok().map(|()| fence);
        }
    }

    fn fence(&self, log: &SimLog) -> Result<SimWriter> {
        if let Some(kept) = self.take(|kept| kept.fence.take()) {
            return Ok(kept.of_run(&self.run, log.made));
        }
        Ok(self.fence.take().unwrap_or_else(|| SimWriter::new(&self.run, "offsets")))
    }

    fn target(&self) -> Result<SimTarget> {
        self.run.enters(Leg::Consume);
        Ok(SimTarget::new(&self.run))
    }

    fn tokens(&self) -> Result<NewToken> {
        let run = self.run.clone();
        let one = format!("{:016x}", run.world().rng.u64(..));
        Ok(Box::new(move || {
            if mutant::is("a token names several sets") {
                return one.clone();
            }
            format!("{:016x}", run.world().rng.u64(..))
        }))
    }

    fn beside(&self) -> Beside {
        let run = self.run.clone();
        Box::new(move |record, insert| {
            run.in_any_order(record, insert);
            Ok(())
        })
    }

    fn both<A: Send, B>(
        &self,
        _: &str,
        other: impl FnOnce() -> Result<A> + Send,
        own: impl FnOnce() -> Result<B>,
    ) -> Result<(A, B)> {
        let (own, other) = self.run.in_any_order(own, other);
        Ok((other?, own?))
    }

    /// The same stages with the same queues between them, one step at a time, in any order that threads could take.
    fn side_by_side<A: Send, B: Send>(
        &self,
        _: [&str; 3],
        mut first: impl Maker<A>,
        mut second: impl FnMut(A) -> Result<Vec<B>> + Send,
        mut third: impl FnMut(B, &mut dyn FnMut() -> Option<B>) -> Result<()> + Send,
    ) -> Result<()> {
        let (mut made, mut between, mut ready) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        let mut results = [Ok(()), Ok(()), Ok(())];
        let (mut first_open, mut second_open, mut third_open) = (true, true, true);
        loop {
            while ready.len() < QUEUE
                && let Some(piece) = between.pop_front()
            {
                ready.push_back(piece);
            }
            let mut runnable = Vec::new();
            if first_open && made.len() < QUEUE {
                runnable.push(Stage::First);
            }
            if second_open && !made.is_empty() && between.is_empty() {
                runnable.push(Stage::Second);
            }
            if third_open && !ready.is_empty() {
                runnable.push(Stage::Third);
            }
            match self.choose(&runnable) {
                None => break,
                Some(Stage::First) => match first.make() {
                    Ok(Some(piece)) if second_open => {
                        made.push_back(piece);
                        if self.run.world().one_in(4) {
                            first.is_kept_waiting();
                        }
                    }
                    // Nobody takes it: the next stage has ended.
                    Ok(_) => first_open = false,
                    Err(error) => (first_open, results[0]) = (false, Err(error)),
                },
                Some(Stage::Second) => {
                    if let Some(piece) = made.pop_front() {
                        match second(piece) {
                            Ok(pieces) if third_open => between.extend(pieces),
                            Ok(pieces) => second_open = pieces.is_empty(),
                            Err(error) => (second_open, results[1]) = (false, Err(error)),
                        }
                    }
                }
                Some(Stage::Third) => {
                    if let Some(piece) = ready.pop_front()
                        && let Err(error) =
                            third(piece, &mut || self.run.world().one_in(2).then(|| ready.pop_front())?)
                    {
                        (third_open, results[2]) = (false, Err(error));
                        ready.clear();
                    }
                }
            }
            if !second_open {
                made.clear();
            }
        }
        first_error(results)
    }
}

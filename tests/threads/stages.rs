//! The three stages of a leg. Their hand-overs leave no choice: whatever the schedule, a leg has to end as it does when the
//! stages take turns.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use pg2ch::error::{Error, Result};

use super::threads::{Spares, both, side_by_side};
use super::{leave_threads, pause};

const NAMES: [&str; 3] = ["first", "second", "third"];

/// How a stage ends that does not do what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Error,
    Panic,
}

/// What the stages of one leg do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many pieces the first one makes.
    pub pieces: u32,
    /// How many pieces the second one makes of each.
    pub fan: u32,
    /// At which of its pieces each stage dies, and how.
    pub deaths: [Option<(u32, Death)>; 3],
    /// How often each stage lets the others go on, at each piece.
    pub pauses: [u32; 3],
    /// Whether memory is used again, as in the consume leg.
    pub spares: bool,
    /// Whether the third stage takes the piece that waits behind the one it has, as in the consume leg.
    pub following: bool,
    /// How many threads there are before one cannot be had.
    pub threads: Option<u32>,
}

/// What a leg did.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// How often the first stage was asked for a piece.
    asked: u32,
    /// How many pieces the second one was given.
    passed: u32,
    /// What the third one was given.
    taken: Vec<(u32, u32)>,
    /// What the failure that counts is of.
    error: Option<String>,
}

/// How many pieces there are at once, and how many there have been.
#[derive(Default)]
struct Count {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// A piece of work; memory that is used again.
struct Piece<'a> {
    number: u32,
    count: &'a Count,
}

impl<'a> Piece<'a> {
    fn new(count: &'a Count) -> Self {
        count.most.fetch_max(1 + count.now.fetch_add(1, SeqCst), SeqCst);
        Self { number: 0, count }
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        self.count.now.fetch_sub(1, SeqCst);
    }
}

impl Plan {
    /// One of those that may happen.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        let mut plan = Self {
            pieces: rng.u32(0..5),
            fan: rng.u32(0..3),
            deaths: [None; 3],
            pauses: [0; 3].map(|_| if rng.bool() { 0 } else { rng.u32(1..8) }),
            spares: rng.bool(),
            following: rng.bool(),
            threads: rng.choice([None, None, None, None, None, None, None, Some(0), Some(1), Some(2)]).flatten(),
        };
        for _ in 0..rng.usize(0..3) {
            let death = if rng.bool() { Death::Error } else { Death::Panic };
            plan.deaths[rng.usize(..3)] = Some((rng.u32(1..4), death));
        }
        plan
    }

    /// Every leg of so many pieces whose stages live, or of which one dies.
    pub fn small(pieces: u32) -> Vec<Self> {
        let lives =
            Self { pieces, fan: 1, deaths: [None; 3], pauses: [0; 3], spares: false, following: false, threads: None };
        let mut plans = vec![lives.clone()];
        // The first stage is asked once more than it has pieces.
        for (stage, last) in [(0, pieces + 1), (1, pieces), (2, pieces)] {
            for at in 1..=last {
                for death in [Death::Error, Death::Panic] {
                    let mut plan = lives.clone();
                    plan.deaths[stage] = Some((at, death));
                    plans.push(plan);
                }
            }
        }
        plans.extend((0..3).map(|threads| Self { threads: Some(threads), ..lives.clone() }));
        plans
    }

    /// Runs the stages side by side, and compares.
    pub fn check(&self) {
        let counts = [Count::default(), Count::default()];
        let spares = Spares::<Option<Piece<'_>>>::default();
        let (mut asked, mut passed, mut taken) = (0, 0, Vec::new());
        leave_threads(self.threads);
        let result = side_by_side(
            NAMES,
            || {
                asked += 1;
                self.work(0, asked)?;
                let spare = if self.spares { spares.take() } else { None };
                let mut piece = spare.unwrap_or_else(|| Piece::new(&counts[0]));
                piece.number = asked;
                Ok((asked <= self.pieces).then_some(piece))
            },
            |piece| {
                passed += 1;
                let number = piece.number;
                self.work(1, passed)?;
                if self.spares {
                    spares.give_back(Some(piece));
                }
                Ok((0..self.fan).map(|part| (number, part, Piece::new(&counts[1]))).collect())
            },
            |piece, following| {
                let mut waiting = Some(piece);
                while let Some((number, part, _piece)) = waiting {
                    waiting = if self.following { following() } else { None };
                    taken.push((number, part));
                    self.work(2, taken.len() as u32)?;
                }
                Ok(())
            },
        );
        leave_threads(None);
        drop(spares);
        // One in each hand, and a spare one; those of one hand, and one in the next, or two.
        let most = [2 + usize::from(self.spares), self.fan as usize + 1 + usize::from(self.following)];
        for (count, most) in counts.into_iter().zip(most) {
            let (now, seen) = (count.now.into_inner(), count.most.into_inner());
            assert!(now == 0 && seen <= most, "{seen} pieces at once, and not {most}; {now} are left");
        }
        let seen = Outcome { asked, passed, taken, error: result.err().map(|error| error.what().to_owned()) };
        match self.threads {
            // The third stage dies with the next piece in its hand, or without.
            None if self.following && seen == self.in_turns(1) => {}
            None => assert_eq!(seen, self.in_turns(0)),
            // Those that could be started end like all others; what they have to say is not asked.
            Some(left) => {
                assert_eq!(seen.error, Some(format!("cannot start the thread {}", NAMES[left as usize])));
                assert_eq!(seen.taken, []);
            }
        }
    }

    /// Does what the first two stages do with their first piece, one beside the other.
    pub fn check_both(&self) {
        leave_threads(self.threads);
        let ended = both(NAMES[0], || self.work(0, 1).map(|()| 1), || self.work(1, 1).map(|()| 2));
        leave_threads(None);
        let dies = |stage: usize| self.deaths[stage].filter(|(at, _)| *at == 1).map(|(_, death)| (stage, death));
        let expected = match dies(0).or_else(|| dies(1)) {
            _ if self.threads == Some(0) => Err(format!("cannot start the thread {}", NAMES[0])),
            None => Ok((1, 2)),
            Some((stage, Death::Error)) => Err(format!("stage {stage}")),
            Some((_, Death::Panic)) => Err(format!("the thread {} ended", NAMES[0])),
        };
        assert_eq!(ended.map_err(|error| error.what().to_owned()), expected);
    }

    /// What a stage does with its piece of that number.
    fn work(&self, stage: usize, number: u32) -> Result<()> {
        (0..self.pauses[stage]).for_each(|_| pause());
        match self.deaths[stage].filter(|(at, _)| *at == number) {
            None => Ok(()),
            Some((_, Death::Error)) => Err(Error::unavailable(format!("stage {stage}"), "it was told to fail", "none")),
            // As a panic does, without its message on the screen.
            Some((_, Death::Panic)) => std::panic::resume_unwind(Box::new("it was told to panic")),
        }
    }

    /// The same, with one stage after the other. A third stage that dies has taken `more` pieces besides.
    fn in_turns(&self, mut more: u32) -> Outcome {
        let (mut asked, mut passed, mut taken) = (0, 0, Vec::new());
        let mut errors = [None, None, None];
        let (mut second_lives, mut third_lives) = (true, true);
        let dies = |stage: usize, number: u32| {
            let (_, death) = self.deaths[stage].filter(|(at, _)| *at == number)?;
            Some(if death == Death::Error {
                format!("stage {stage}")
            } else {
                format!("the thread {} ended", NAMES[stage])
            })
        };
        loop {
            asked += 1;
            errors[0] = dies(0, asked);
            if errors[0].is_some() || asked > self.pieces || !second_lives {
                break;
            }
            passed += 1;
            errors[1] = dies(1, passed);
            if errors[1].is_some() {
                second_lives = false;
                continue;
            }
            for part in 0..self.fan {
                if !third_lives {
                    if more > 0 {
                        more -= 1;
                        continue;
                    }
                    second_lives = false;
                    break;
                }
                taken.push((asked, part));
                errors[2] = dies(2, taken.len() as u32);
                third_lives = errors[2].is_none();
            }
        }
        Outcome { asked, passed, taken, error: errors.into_iter().flatten().next() }
    }
}

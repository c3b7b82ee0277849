//! What may become of a call, and when.

use std::collections::BTreeMap;

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
    /// The run is asked to finish just before the call, which does what it should.
    Sigterm,
    /// The server is killed with the request in its hands, and comes back.
    Restart,
    /// The call never answers: a client with a time limit gives it up, the watchdog ends the run around any other. The
    /// effect comes later, or never.
    Stall,
    /// The server has no room left, and takes nothing for a while.
    Limit,
    /// Somebody changes something just before the call, which does what it should.
    Change,
    /// The target was altered before the call, a view behind it refuses the rows, or the answer proves nothing. The world draws
    /// it, not a plan.
    Strange,
}

pub const FAULTS: [Fault; 12] = [
    Fault::Refused,
    Fault::LostReply,
    Fault::Late,
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::CrashLate,
    Fault::Half,
    Fault::Sigterm,
    Fault::Restart,
    Fault::Stall,
    Fault::Limit,
    Fault::Change,
];

impl Fault {
    /// Whether it can happen to a call: what only asks has no effect that could be late, lost or halved.
    pub const fn can_hit(self, writes: bool) -> bool {
        writes || !matches!(self, Self::LostReply | Self::Late | Self::Half | Self::CrashAfter | Self::CrashLate)
    }

    /// What it is for a call that changes nothing.
    pub const fn of_a_question(self) -> Self {
        match self {
            Self::LostReply | Self::Late | Self::Half => Self::Refused,
            Self::CrashAfter | Self::CrashLate => Self::CrashBefore,
            fault => fault,
        }
    }
}

/// When faults happen.
#[derive(Clone, Debug)]
pub enum Plan {
    /// At these calls.
    At(Vec<(usize, Fault)>),
    /// At any call, one in so many.
    OneIn(usize),
}

/// The leg that makes a call, or `prune`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leg {
    Produce,
    Consume,
    Prune,
}

/// Leg, call and fault → how often.
pub type Hits = BTreeMap<(Leg, &'static str, Fault), u64>;

//! What is to be done: which faults, how often, in which chunks.

use std::path::PathBuf;
use std::time::Duration;

use crate::common::proxy::Fault;

/// How many faults of a kind share a world.
const KILLS: u64 = 100;
const ROUNDS: u64 = 5;
const TROUBLES: u64 = 25;
const BREAKS: u64 = 10;

/// The crash points that need the same preparation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Produce,
    Recovery,
    TooLarge,
    Consume,
    DeadLetter,
    Verify,
}

impl Group {
    const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce leg",
            Self::Recovery => "recovery",
            Self::TooLarge => "record too large",
            Self::Consume => "consume leg",
            Self::DeadLetter => "dead letter",
            Self::Verify => "verify",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    Postgres,
    Kafka,
    ClickHouse,
}

/// What happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Kill,
    Pause,
    Restart,
}

/// What happens to the brokers of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrokerAct {
    Kill,
    Pause,
    Restart,
    Outnumber,
    Move,
}

/// What a proxy in front of ClickHouse does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewayAct {
    Close,
    TooLarge,
    Late,
    Kill,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Points(Group),
    Kills,
    Link(Link, Fault),
    Servers(Act),
    Brokers(BrokerAct),
    Promotion,
    LostCommits,
    Gateway(GatewayAct),
}

impl Kind {
    /// Every kind, in the order of the table.
    fn all() -> Vec<Self> {
        use Group::{Consume, DeadLetter, Produce, Recovery, TooLarge, Verify};
        let groups = [Produce, Recovery, TooLarge, Consume, DeadLetter, Verify];
        let mut kinds: Vec<Self> = groups.map(Self::Points).to_vec();
        kinds.push(Self::Kills);
        for link in [Link::Postgres, Link::Kafka, Link::ClickHouse] {
            kinds.extend([Fault::Cut, Fault::DropReply, Fault::Hold].map(|fault| Self::Link(link, fault)));
        }
        kinds.extend([Act::Kill, Act::Pause, Act::Restart].map(Self::Servers));
        let brokers = [BrokerAct::Kill, BrokerAct::Pause, BrokerAct::Restart, BrokerAct::Outnumber, BrokerAct::Move];
        kinds.extend(brokers.map(Self::Brokers));
        kinds.extend([Self::Promotion, Self::LostCommits]);
        let gateways = [GatewayAct::Close, GatewayAct::TooLarge, GatewayAct::Late, GatewayAct::Kill];
        kinds.extend(gateways.map(Self::Gateway));
        kinds
    }

    pub fn name(&self) -> String {
        match self {
            Self::Points(group) => format!("crash points, {}", group.name()),
            Self::Kills => "random kills".into(),
            Self::Link(link, fault) => {
                let link = match link {
                    Link::Postgres => "PostgreSQL",
                    Link::Kafka => "Kafka",
                    Link::ClickHouse => "ClickHouse",
                };
                let fault = match fault {
                    Fault::Cut => "cut",
                    Fault::DropReply => "reply lost",
                    Fault::Hold => "late landing",
                    Fault::Stall => "stall",
                };
                format!("{link}, {fault}")
            }
            Self::Servers(Act::Kill) => "servers killed".into(),
            Self::Servers(Act::Pause) => "servers paused".into(),
            Self::Servers(Act::Restart) => "servers restarted".into(),
            Self::Brokers(BrokerAct::Kill) => "brokers killed".into(),
            Self::Brokers(BrokerAct::Pause) => "brokers paused".into(),
            Self::Brokers(BrokerAct::Restart) => "brokers restarted".into(),
            Self::Brokers(BrokerAct::Outnumber) => "two brokers down".into(),
            Self::Brokers(BrokerAct::Move) => "partitions moved and added".into(),
            Self::Promotion => "PostgreSQL, promotions with a lost tail".into(),
            Self::LostCommits => "PostgreSQL, lost commits".into(),
            Self::Gateway(GatewayAct::Close) => "nginx, connections closed".into(),
            Self::Gateway(GatewayAct::TooLarge) => "nginx, 413".into(),
            Self::Gateway(GatewayAct::Late) => "nginx, 504 and lost replies".into(),
            Self::Gateway(GatewayAct::Kill) => "nginx killed".into(),
        }
    }
}

/// Faults of one kind in a world of their own.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub kind: Kind,
    /// The kind's place among all.
    pub place: usize,
    pub number: u64,
    /// How many faults; of crash points, how many rounds over the group.
    pub times: u64,
    pub seed: u64,
}

impl Chunk {
    pub fn name(&self) -> String {
        format!("{}/{}", self.kind.name(), self.number)
    }

    /// Whether it needs servers besides the usual ones, and is asked for by itself.
    pub fn is_of_clusters(&self) -> bool {
        matches!(self.kind, Kind::Brokers(_) | Kind::Promotion | Kind::LostCommits | Kind::Gateway(_))
    }

    pub fn breaks_servers(&self) -> bool {
        matches!(self.kind, Kind::Servers(_))
    }
}

/// What the environment asks for.
pub struct Plan {
    pub seed: u64,
    points: u64,
    kills: u64,
    links: u64,
    breaks: u64,
    /// Of clusters.
    brokers: u64,
    promotions: u64,
    lost_commits: u64,
    gateways: u64,
    /// Of the outbox.
    pub events: u64,
    pub event_kills: u64,
    pub workers: usize,
    pub time: Duration,
    /// One chunk, or all of a kind.
    pub only: Option<String>,
    pub journal: Option<PathBuf>,
    /// The directory of the servers: whoever gives it allows that they are killed.
    pub servers: Option<PathBuf>,
}

fn text(name: &str) -> Option<String> {
    std::env::var(format!("PG2CH_SOAK_{name}")).ok().filter(|text| !text.is_empty())
}

fn number(name: &str, otherwise: u64) -> u64 {
    text(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

impl Plan {
    pub fn of_environment() -> Self {
        let servers = text("SERVERS").map(PathBuf::from);
        Self {
            seed: number("SEED", 1),
            points: number("POINTS", 0),
            kills: number("KILLS", 6),
            links: number("LINKS", 1),
            breaks: if servers.is_some() { number("BREAKS", 0) } else { 0 },
            brokers: number("BROKERS", 0),
            promotions: number("PROMOTIONS", 0),
            lost_commits: number("LOST_COMMITS", 0),
            gateways: number("GATEWAYS", 0),
            events: number("EVENTS", 5_000),
            event_kills: number("EVENT_KILLS", 6),
            workers: usize::try_from(number("WORKERS", 3)).unwrap(),
            time: Duration::from_secs(60 * number("MINUTES", 24 * 60)),
            only: text("ONLY"),
            journal: text("JOURNAL").map(PathBuf::from),
            servers,
        }
    }

    /// All chunks, the kinds mixed, so that an early end has seen something of each.
    pub fn chunks(&self) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        for (place, kind) in Kind::all().into_iter().enumerate() {
            let (times, size) = match kind {
                Kind::Points(_) => (self.points, ROUNDS),
                Kind::Kills => (self.kills, KILLS),
                Kind::Link(..) => (self.links, TROUBLES),
                Kind::Servers(_) => (self.breaks, BREAKS),
                Kind::Brokers(_) => (self.brokers, BREAKS),
                // Each needs a primary and a standby of its own.
                Kind::Promotion => (self.promotions, 1),
                Kind::LostCommits => (self.lost_commits, BREAKS),
                Kind::Gateway(_) => (self.gateways, TROUBLES),
            };
            for number in 0..times.div_ceil(size) {
                let mut rng = fastrand::Rng::with_seed(self.seed ^ (place as u64) << 32 ^ number << 40);
                let times = size.min(times - number * size);
                chunks.push(Chunk { kind: kind.clone(), place, number, times, seed: rng.u64(..) });
            }
        }
        if let Some(only) = &self.only {
            chunks.retain(|chunk| *only == chunk.name() || *only == chunk.kind.name());
            assert!(!chunks.is_empty(), "there is no chunk or kind {only:?}");
        }
        chunks.sort_by_key(|chunk| chunk.number);
        chunks
    }
}

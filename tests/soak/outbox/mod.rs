//! An outbox of Debezium's layout under many writers, whose runs are killed all the time and whose old events are pruned: each
//! arrives once, those of an aggregate in the order in which their writers waited for each other, and what is old is gone.

mod oracle;
mod writers;

use std::collections::BTreeMap;
use std::process::Child;
use std::thread::scope;
use std::time::{Duration, Instant};

use fastrand::Rng;
use pg2ch::crash;
use serde::Serialize;

use super::common::servers::Servers;
use super::common::{Ended, KILLED, World};
use super::journal::Journal;
use super::kills::{Course, kill_at};
use super::plan::Plan;
use super::subject::never_merge;
use writers::Shop;

const WRITERS: usize = 20;

/// As docs/debezium-outbox.md makes it, with a column that says how old an event is.
const OUTBOX: &str = "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), seq bigint GENERATED ALWAYS AS IDENTITY, \
    aggregatetype text NOT NULL, aggregateid text NOT NULL, type text NOT NULL, payload jsonb, \
    created_at timestamptz NOT NULL, sent_to_kafka boolean NOT NULL DEFAULT FALSE";

const SETTINGS: &str = "order_by = \"seq\"\nmessage_key = \"aggregateid\"\nheaders = { id = \"id\", eventType = \"type\" }\n\
    keep = { age = \"7d\", by = \"created_at\", held_for = \"1s\" }";

/// One that takes longer than this, and a batch, hangs.
const RUN: &[&str] = &["--once", "--wait-lock", "20s", "--json", "--max-seconds", "100"];

const PRUNE: &[&str] = &[
    "prune",
    "--confirm",
    "--json",
    "--older-than",
    "7d",
    "--by",
    "created_at",
    "--held-for",
    "1s",
    "--max-seconds",
    "60",
];

/// How often it is looked at what is gone, while runs are killed.
const LOOKS: u64 = 4;

#[test]
fn an_outbox_arrives_once_in_its_writers_order_and_what_is_old_is_pruned() {
    let plan = Plan::of_environment();
    let mut journal = Journal::open(plan.journal.as_deref());
    let mut rng = Rng::with_seed(plan.seed);
    let mut world = outbox();
    let shop = Shop::open(&mut world, plan.events);
    let mut proof = Proof {
        kills: plan.event_kills,
        begun: Instant::now(),
        told: Told { writers: WRITERS, aggregates: shop.aggregates, ..Told::default() },
        course: Course::new(),
    };
    // Prune wants a run that has sent something.
    proof.run(&world, RUN, &[0]);
    scope(|scope| {
        for _ in 0..WRITERS {
            let (session, name, shop, rng) = (world.another_session(), world.name.clone(), &shop, rng.fork());
            scope.spawn(move || shop.write(session, &name, rng));
        }
        let _guard = shop.guard();
        proof.kill_runs(&mut world, &shop, &mut rng);
    });
    proof.told.written_seconds = proof.begun.elapsed().as_secs();
    proof.settle(&mut world);
    proof.compare(&mut world, &shop);
    println!("soak outbox: {}", serde_json::to_string(&proof.told).unwrap());
    journal.write_outbox(&proof.told);
}

fn outbox() -> World {
    let mut world = World::unmade(Servers::shared(), "soak_outbox", OUTBOX, 6);
    world.settings.insert("[table]", SETTINGS.into());
    world.settings.insert("timeouts", "row_lock = \"100ms\"".into());
    world.run(&["init"]).expect(0);
    world.sql("CREATE INDEX ON {t} (created_at, id) WHERE sent_to_kafka");
    never_merge(&world);
    world
}

/// What has been done, and found.
#[derive(Debug, Default, Serialize)]
struct Told {
    events: u64,
    aggregates: u64,
    writers: usize,
    /// Runs that were killed, and those of them that were killed at a crash point.
    killed: u64,
    killed_at_points: u64,
    /// Beside them.
    prunes_killed: u64,
    /// Exit code, or signal with a minus → runs.
    codes: BTreeMap<i32, u64>,
    /// Events that prune had deleted when the last run was killed, and in the end.
    pruned_meanwhile: u64,
    pruned: u64,
    kept: u64,
    written_seconds: u64,
    seconds: u64,
}

struct Proof {
    kills: u64,
    begun: Instant,
    told: Told,
    course: Course,
}

impl Proof {
    /// Kills runs while the writers write, each time a part of all events.
    fn kill_runs(&mut self, world: &mut World, shop: &Shop, rng: &mut Rng) {
        let (mut tried, look) = (0, self.kills.div_ceil(LOOKS));
        while self.told.killed < self.kills {
            tried += 1;
            assert!(tried < 6 * self.kills + 20, "most runs end before they are killed: {:?}", self.told);
            self.told.events = shop.allow(self.told.killed + 1, self.kills);
            // Some batches a part.
            let part = shop.events / self.kills;
            world.batch_rows(u32::try_from(part / rng.u64(2..20)).unwrap().max(10));
            let prune = (rng.u8(..6) == 0).then(|| world.start(PRUNE));
            let killed = match tried % 10 {
                1 => self.run_to_the_end(world),
                0 | 4 | 7 => self.kill_at_a_point(world, rng),
                _ => self.kill_at_a_moment(world, rng),
            };
            self.told.prunes_killed += u64::from(prune.is_some_and(|prune| self.kill(prune)));
            self.told.killed += u64::from(killed);
            if killed && self.told.killed.is_multiple_of(look) {
                self.told.pruned_meanwhile = oracle::only_what_is_old_is_gone(world, &shop.written());
                println!("soak outbox {:4} s: {:?}", self.begun.elapsed().as_secs(), self.told);
            }
        }
    }

    /// How long that takes is known from these.
    fn run_to_the_end(&mut self, world: &World) -> bool {
        let begun = Instant::now();
        self.run(world, RUN, &[0]);
        self.course.took(begun.elapsed().as_secs_f64());
        false
    }

    fn kill_at_a_moment(&mut self, world: &World, rng: &mut Rng) -> bool {
        let args: &[&str] = match rng.u8(..10) {
            0 => &["produce", "--wait-lock", "20s"],
            1 => &["consume", "--wait-lock", "20s"],
            _ => RUN,
        };
        let mut run = world.start(args);
        kill_at(&mut run, Duration::from_secs_f64(self.course.seconds() * rng.f64()));
        self.ended(Ended::after(run), &[0, KILLED]).code == KILLED
    }

    fn kill_at_a_point(&mut self, world: &World, rng: &mut Rng) -> bool {
        let lists = [crash::PRODUCE, &[crash::PRODUCE_PASS], crash::PRODUCE_RECOVERY, crash::CONSUME, crash::PRUNE];
        let points = lists.concat();
        let point = format!("{}:{}", points[rng.usize(..points.len())], rng.u8(1..=3));
        let killed = self.ended(world.crash_at(&point, RUN), &[0, KILLED]).code == KILLED;
        self.told.killed_at_points += u64::from(killed);
        killed
    }

    fn kill(&mut self, mut process: Child) -> bool {
        let _ = process.kill();
        self.ended(Ended::after(process), &[0, KILLED]).code == KILLED
    }

    /// Clean runs until everything has arrived, and what is old is pruned.
    fn settle(&mut self, world: &mut World) {
        world.settings.remove("batch");
        while self.run(world, RUN, &[0]).report()["complete"] != true || world.unsent() > 0 {}
        // The youngest records have to be held for so long.
        std::thread::sleep(Duration::from_millis(1_200));
        while self.run(world, PRUNE, &[0]).report()["complete"] != true {}
    }

    /// Nothing of this asks the program, but for the last word.
    fn compare(&mut self, world: &mut World, shop: &Shop) {
        let written = shop.written();
        shop.assert_counted(world, &written);
        let records = oracle::topic_in_order(world);
        assert_eq!(records.len(), written.len(), "records in the topic, and events written");
        assert!(
            records.iter().all(|record| written.contains_key(&record.event)),
            "the topic has events that nobody wrote"
        );
        oracle::assert_same_records(&records, &oracle::target(world));
        let pruned = oracle::only_what_is_old_is_gone(world, &written);
        let old = written.values().filter(|age| age.is_old()).count() as u64;
        assert_eq!(pruned, old, "events pruned, and old ones");
        self.run(world, &["verify", "--deep"], &[0]);
        self.told.events = written.len() as u64;
        (self.told.pruned, self.told.kept) = (pruned, written.len() as u64 - pruned);
        self.told.seconds = self.begun.elapsed().as_secs();
    }

    fn run(&mut self, world: &World, args: &[&str], allowed: &[i32]) -> Ended {
        self.ended(world.run(args), allowed)
    }

    fn ended(&mut self, ended: Ended, allowed: &[i32]) -> Ended {
        *self.told.codes.entry(ended.code).or_default() += 1;
        assert!(allowed.contains(&ended.code), "not one of {allowed:?}: {ended:?}");
        ended
    }
}

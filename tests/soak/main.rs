//! The long proof on real servers: the same few faults again and again, each time at another moment, drawn from a seed.
//!
//! Work comes in chunks of one kind of fault, each with a table, a topic and a target of its own. Every few faults the
//! servers are left in peace, a clean run brings what is missing, and everything is compared: each version once in the topic
//! and, without FINAL and without merges, once in the target; every row's last record its present content. A chunk ends
//! with `pg2ch verify --deep`. `scripts/soak` sets the counts and keeps the journal; without them it is a short round.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "its numbers are small"
)]
#![allow(clippy::unused_self, clippy::struct_excessive_bools, reason = "what a test does reads as what its world does")]

mod broken_servers;
mod brokers;
#[path = "../common/mod.rs"]
mod common;
mod failovers;
mod gateways;
mod journal;
mod kills;
mod links;
mod outbox;
mod plan;
mod points;
mod subject;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use common::World;
use common::failover::Pair;
use common::kafka_cluster::Cluster;
use common::servers::Servers;
use journal::{Journal, Tally};
use plan::{Chunk, Kind, Plan};
use subject::Subject;

/// How often it tells how far it is.
const PROGRESS: Duration = Duration::from_secs(15);

#[test]
fn each_fault_again_and_again_loses_and_doubles_nothing() {
    let plan = Plan::of_environment();
    let journal = Journal::open(plan.journal.as_deref());
    let usual = plan.chunks().into_iter().filter(|chunk| !chunk.is_of_clusters());
    let (breaking, sharing): (Vec<Chunk>, Vec<Chunk>) =
        usual.clone().filter(|chunk| !journal.has(chunk)).partition(Chunk::breaks_servers);
    let soak = Soak::new(&plan, journal);
    soak.work_off(sharing, plan.workers);
    // A server that is killed is killed for everybody.
    soak.work_off(breaking, 1);
    let journal = soak.journal.into_inner().unwrap();
    println!("{}", journal.progress(&plan));
    assert!(!soak.failed.load(Ordering::Relaxed), "a chunk failed, see above");
    if plan.only.is_none() && usual.clone().all(|chunk| journal.has(&chunk)) {
        verify_everything(journal);
    }
}

#[test]
fn clusters_again_and_again_lose_and_double_nothing() {
    let plan = Plan::of_environment();
    let journal = Journal::open(plan.journal.as_deref());
    let chunks = plan.chunks().into_iter().filter(|chunk| chunk.is_of_clusters() && !journal.has(chunk)).collect();
    let soak = Soak::new(&plan, journal);
    // A broker that is killed is killed for everybody, and three of them are much for a small machine.
    soak.work_off(chunks, 1);
    println!("{}", soak.journal.lock().unwrap().progress(&plan));
    assert!(!soak.failed.load(Ordering::Relaxed), "a chunk failed, see above");
}

#[test]
fn the_comparison_finds_each_kind_of_loss_and_of_doubling() {
    let mut world = World::new("compared");
    world.insert_rows(9);
    world.once().expect(0);
    let found = |world: &mut World| {
        let records = world.topic();
        let (source, target) = (world.compare_with_topic(&records), world.compare_with_target(&records));
        [source.lost.len(), source.doubled.len(), target.lost.len(), target.doubled.len()]
    };
    assert_eq!(found(&mut world), [0, 0, 0, 0]);

    world.sql("UPDATE {t} SET user_id = 77 WHERE id = 1");
    assert_eq!(found(&mut world), [1, 0, 0, 0], "a write that was not sent");
    let record = world.topic().remove(0);
    world.send(&[(record.partition, &record.key, Some(&record.value))]);
    assert_eq!(found(&mut world), [1, 1, 1, 0], "a copy in the topic, which is not copied on");
    world.stop_merges();
    world.ch("INSERT INTO {t} SELECT * FROM {t} WHERE id = 3");
    world.ch("INSERT INTO {t} (id, user_id, event_type, event_time, _offset) VALUES (4, 4, 'login', 0, 1000000)");
    assert_eq!(found(&mut world), [1, 1, 1, 2], "a record twice in the target, and one that never was");
}

struct Soak<'a> {
    plan: &'a Plan,
    journal: Mutex<Journal>,
    begun: Instant,
    failed: AtomicBool,
    /// Started when it is wanted.
    cluster: OnceLock<Cluster>,
}

impl<'a> Soak<'a> {
    fn new(plan: &'a Plan, journal: Journal) -> Self {
        let (begun, failed) = (Instant::now(), AtomicBool::new(false));
        Self { plan, journal: Mutex::new(journal), begun, failed, cluster: OnceLock::new() }
    }

    /// Does all chunks, `workers` at a time, until one fails or the time is up.
    fn work_off(&self, chunks: Vec<Chunk>, workers: usize) {
        let (chunks, told) = (Mutex::new(chunks.into_iter()), Mutex::new(Instant::now()));
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while !self.failed.load(Ordering::Relaxed) && self.begun.elapsed() < self.plan.time {
                        let Some(chunk) = chunks.lock().unwrap().next() else { break };
                        self.work_on(&chunk);
                        let mut told = told.lock().unwrap();
                        if told.elapsed() > PROGRESS {
                            println!("{}", self.journal.lock().unwrap().progress(self.plan));
                            *told = Instant::now();
                        }
                    }
                });
            }
        });
    }

    fn work_on(&self, chunk: &Chunk) {
        let (begun, mut tally) = (Instant::now(), Tally::of(chunk));
        let done = catch_unwind(AssertUnwindSafe(|| self.work(chunk, &mut tally)));
        tally.seconds = begun.elapsed().as_secs_f64();
        if let Err(panic) = done {
            let why = panic.downcast_ref::<String>().cloned();
            let why = why.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
            println!(
                "FAILED: {} after {} faults: {why}\nagain: the same command with --fresh --only '{0}'",
                chunk.name(),
                tally.faults
            );
            tally.failed = Some(why);
            self.failed.store(true, Ordering::Relaxed);
        }
        self.journal.lock().unwrap().write(tally);
    }

    fn work(&self, chunk: &Chunk, tally: &mut Tally) {
        let times = chunk.times;
        let subject = match &chunk.kind {
            Kind::Brokers(act) => {
                let cluster = self.cluster.get_or_init(|| Cluster::start("soak-brokers"));
                let mut subject = Subject::on(cluster.servers.clone(), chunk, tally);
                brokers::trouble(&mut subject, cluster, *act, times);
                subject
            }
            Kind::Promotion | Kind::LostCommits => {
                let pair = Pair::start(&format!("soak-{}-{}", chunk.place, chunk.number));
                let mut subject = Subject::on(pair.servers.clone(), chunk, tally);
                if chunk.kind == Kind::Promotion {
                    // What PostgreSQL has lost differs for good.
                    return failovers::promote(&mut subject, &pair);
                }
                failovers::lose_commits(&mut subject, &pair, times);
                // Before the pair ends.
                return subject.finish();
            }
            usual => {
                let mut subject = Subject::new(chunk, tally);
                match usual {
                    Kind::Points(group) => points::crash(&mut subject, *group, times),
                    Kind::Link(link, trouble) => links::trouble(&mut subject, *link, *trouble, times),
                    Kind::Servers(act) => {
                        let dir = self.plan.servers.as_deref().expect("the servers' directory, to kill them");
                        broken_servers::break_them(&mut subject, *act, dir, times);
                    }
                    Kind::Gateway(act) => gateways::trouble(&mut subject, *act, times),
                    _ => kills::kill(&mut subject, times),
                }
                subject
            }
        };
        subject.finish();
    }
}

/// Compares all tables of the soak once more, with the contents.
fn verify_everything(mut journal: Journal) {
    let mut world = World::unmade(Servers::shared(), "soak_verify", common::USER_LOGINS, 1);
    let sections: Vec<String> = journal.tables().iter().map(|name| World::table_section(name)).collect();
    world.settings.insert("[table]", sections.join("\n[[table]]\n"));
    let ended = world.run(&["verify", "--deep"]);
    println!("\npg2ch verify --deep\n{}{}", ended.stdout, ended.stderr);
    let ended = world.run(&["verify", "--deep", "--json"]);
    journal.write_verdict(ended.code, &ended.stdout);
    assert_eq!(ended.code, 0, "verify finds a difference");
}

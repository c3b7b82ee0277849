//! A cluster of three brokers whose leader, coordinator or controller is killed, paused or restarted under a run, of which two are down,
//! or whose partitions move and become more.

use std::time::{Duration, Instant};

use super::common::Ended;
use super::common::kafka_cluster::{Cluster, Kind};
use super::plan::BrokerAct;
use super::subject::Subject;

/// What a run's limits add up to, with some room.
const MOST: Duration = Duration::from_secs(60);
const TIMEOUTS: &str = "connect = \"2s\"\nkafka = \"4s\"\nstable = \"4s\"\ngive_up = \"20s\"";
const MOST_PARTITIONS: i32 = 8;

pub fn trouble(subject: &mut Subject<'_>, cluster: &Cluster, act: BrokerAct, times: u64) {
    subject.start_application();
    let mut course = 0.5;
    for number in 0..times {
        subject.world.insert_rows(20);
        subject.expect_trouble(TIMEOUTS);
        let broker = broker_of(subject, cluster, number);
        let second = 1 + broker % 3;
        let begun = Instant::now();
        let run = subject.start(&["--once", "--wait-lock", "20s"]);
        std::thread::sleep(Duration::from_secs_f64(subject.rng.f64() * course));
        // Back again at once, so that the run may get over it, or only when the run has given up.
        let at_once = subject.rng.bool();
        let pause = Duration::from_millis(subject.rng.u64(..800));
        let act_on = |action: &str| {
            cluster.act(action, broker);
            if act == BrokerAct::Outnumber {
                cluster.act(action, second);
            }
        };
        let (down, up) = match act {
            BrokerAct::Kill => ("kill", "start"),
            BrokerAct::Pause | BrokerAct::Outnumber => ("pause", "resume"),
            BrokerAct::Restart => ("stop", "start"),
            BrokerAct::Move => ("", ""),
        };
        if act == BrokerAct::Move {
            move_partitions(subject, cluster);
        } else {
            act_on(down);
        }
        subject.tally.faults += 1;
        let is_back = act == BrokerAct::Move;
        if at_once && !is_back {
            std::thread::sleep(pause);
            act_on(up);
        }
        let ended = Ended::after(run);
        assert!(begun.elapsed() < MOST, "a run took {:?}: {ended:?}", begun.elapsed());
        if subject.ended(ended, &[0, 69, 75]).code == 0 {
            course = f64::midpoint(begun.elapsed().as_secs_f64(), course).min(2.0);
        }
        if !at_once && !is_back {
            // Two brokers are enough, one is too few.
            if act == BrokerAct::Outnumber {
                subject.run(&["--once", "--wait-lock", "20s"], &[0, 69, 75]);
            } else {
                subject.run_until_well();
            }
            act_on(up);
        }
        subject.run_until_well();
        subject.check();
    }
}

/// The leader of a partition, the coordinator of the rows' producer, or the controller, in turn.
fn broker_of(subject: &Subject<'_>, cluster: &Cluster, number: u64) -> usize {
    let world = &subject.world;
    match number % 3 {
        0 => cluster.leader(world, 0),
        1 => cluster
            .coordinator(Kind::Transaction, &format!("pg2ch-rows:{}/public.{}", world.servers.database(), world.name)),
        _ => cluster.controller(),
    }
}

/// Each partition has two replicas from now on, on brokers that are drawn; sometimes there is one partition more.
fn move_partitions(subject: &mut Subject<'_>, cluster: &Cluster) {
    let count = i32::try_from(cluster.partitions(&subject.world)).unwrap();
    let mut replicas = Vec::new();
    for _ in 0..count {
        let first = subject.rng.i32(1..=3);
        replicas.push([first, 1 + (first + subject.rng.i32(0..=1)) % 3]);
    }
    cluster.reassign(&subject.world, &replicas);
    if count < MOST_PARTITIONS && subject.rng.bool() {
        subject.world.add_partitions(count + 1);
    }
}

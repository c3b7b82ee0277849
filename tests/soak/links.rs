//! Each link cut, robbed of an answer, or so slow that what a dead run had sent lands in the time of the next one.

use std::process::Child;
use std::time::{Duration, Instant};

use super::common::Ended;
use super::common::proxy::{Fault, Proxy, Way, commits, has, kafka_request};
use super::plan::Link;
use super::subject::{KILLED, Subject};

/// How many faults lie between two comparisons.
const BETWEEN: u64 = 5;

/// The requests of Kafka's that are hit on purpose: Produce, Fetch, InitProducerId, AddPartitionsToTxn, AddOffsetsToTxn,
/// EndTxn, TxnOffsetCommit.
const REQUESTS: [u8; 7] = [0, 1, 22, 24, 25, 26, 28];

const TIMEOUTS: &str = "connect = \"2s\"\npostgres = \"5s\"\nkafka = \"5s\"\nstable = \"5s\"\nclickhouse = \"3s\"";

pub fn trouble(subject: &mut Subject<'_>, link: Link, fault: Fault, times: u64) {
    let proxy = match link {
        Link::Postgres => Proxy::before_postgres(&mut subject.world),
        Link::Kafka => Proxy::before_kafka(&mut subject.world),
        Link::ClickHouse => Proxy::before_clickhouse(&mut subject.world),
    };
    subject.start_application();
    meet(subject, link, fault, times, &proxy);
    // Its port leads nowhere from now on.
    for section in ["postgres", "kafka", "clickhouse"] {
        subject.world.settings.remove(section);
    }
}

fn meet(subject: &mut Subject<'_>, link: Link, fault: Fault, times: u64, proxy: &Proxy) {
    // How many bytes a run sends and gets.
    let mut usual = [4_000, 4_000];
    let mut hits = 0;
    for _ in 0..times * 6 {
        if hits == times {
            return;
        }
        subject.expect_trouble(TIMEOUTS);
        let rows = subject.rng.i64(5..20);
        subject.world.insert_rows(rows);
        let (before, bytes) = (proxy.hits(), [Way::ToServer, Way::ToClient].map(|way| proxy.bytes(way)));
        arm(subject, proxy, link, fault, usual);
        if fault == Fault::Hold {
            land_late(subject, proxy, link, before);
        } else {
            subject.run(&["--once", "--wait-lock", "20s"], &[0, 69, 75]);
        }
        let is_hit = proxy.hits() > before;
        proxy.pass();
        if is_hit {
            hits += 1;
            subject.tally.faults += 1;
        } else {
            usual = [Way::ToServer, Way::ToClient].map(|way| (proxy.bytes(way) - bytes[way as usize]).max(500));
        }
        if is_hit && hits % BETWEEN == 0 {
            subject.check();
        }
    }
    panic!("only {hits} of {times} faults hit");
}

/// The next run meets the fault at a request that changes something, or anywhere.
fn arm(subject: &mut Subject<'_>, proxy: &Proxy, link: Link, fault: Fault, usual: [u64; 2]) {
    let (rng, nth) = (&mut subject.rng, [1, 1, 2, 2, 3, 4]);
    let nth = nth[rng.usize(..nth.len())];
    if rng.bool() {
        // Only what is cut is cut on the way back, too: the other faults begin with a request.
        let way = if fault == Fault::Cut && rng.bool() { Way::ToClient } else { Way::ToServer };
        proxy.after(rng.u64(1..usual[way as usize] + 2), way, fault);
        return;
    }
    match link {
        Link::Postgres => proxy.on_nth(nth, Way::ToServer, commits, fault),
        Link::Kafka => proxy.on_nth(nth, Way::ToServer, kafka_request(REQUESTS[rng.usize(..REQUESTS.len())]), fault),
        Link::ClickHouse => proxy.on_nth(nth, Way::ToServer, has("INSERT"), fault),
    }
}

/// A run dies with a request under way; the next one begins, and then the request lands.
fn land_late(subject: &mut Subject<'_>, proxy: &Proxy, link: Link, before: usize) {
    let mut run = subject.start(&["--once", "--wait-lock", "20s"]);
    let is_hit = wait_for_hit(&mut run, proxy, before);
    if is_hit {
        let _ = run.kill();
    }
    let ended = Ended::after(run);
    subject.ended(ended, &[0, KILLED]);
    if !is_hit {
        return;
    }
    // A session of PostgreSQL whose client seems to be alive keeps its lock, and that is told.
    let allowed: &[i32] = if link == Link::Postgres { &[0, 75] } else { &[0] };
    subject.run(&["--once"], allowed);
    let late = proxy.late_deliveries();
    proxy.pass();
    let until = Instant::now() + Duration::from_millis(500);
    while proxy.late_deliveries() == late && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
    subject.tally.late += u64::from(proxy.late_deliveries() > late);
}

/// Whether the fault hit before the run ended.
fn wait_for_hit(run: &mut Child, proxy: &Proxy, before: usize) -> bool {
    while proxy.hits() == before {
        if run.try_wait().unwrap().is_some() {
            return proxy.hits() > before;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

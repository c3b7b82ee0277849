//! An outbox of Debezium's layout under several writers, whose runs are killed all the time: each event arrives once, and those of an
//! aggregate in the order in which their writers waited for each other.
//!
//! `PG2CH_OUTBOX=events/kills` sets how much of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::scope;
use std::time::{Duration, Instant};

use postgres::Client;

use crate::common::servers::Servers;
use crate::common::{Ended, KILLED, World};

const WRITERS: u64 = 5;
const AGGREGATES: usize = 8_000;

const COLUMNS: &str = "id uuid PRIMARY KEY DEFAULT gen_random_uuid(), seq bigint NOT NULL, aggregatetype text NOT NULL, \
    aggregateid text NOT NULL, type text NOT NULL, payload jsonb, sent_to_kafka boolean NOT NULL DEFAULT FALSE";

/// Writes events in transactions of its own until there are `wanted` of all writers: takes the aggregate's lock, then the number.
/// Some transactions write several aggregates, some take long, some are rolled back.
fn write(mut session: Client, name: &str, written: &AtomicU64, wanted: u64, mut rng: fastrand::Rng) {
    let event = format!(
        "WITH a AS (UPDATE {name}_aggregates SET seq = seq + 1 WHERE id = $1 RETURNING id, seq)
         INSERT INTO {name} (seq, aggregatetype, aggregateid, type, payload)
         SELECT seq, 'order', id, 'Event' || seq % 5, jsonb_build_object('number', seq, 'text', repeat(id, 10)) FROM a"
    );
    let event = session.prepare(&event).unwrap();
    while written.load(Ordering::Relaxed) < wanted {
        // Few of them change often.
        let mut members: Vec<usize> =
            (0..rng.usize(1..6)).map(|_| AGGREGATES * rng.usize(..1_000).pow(2) / 1_000_000).collect();
        members.iter_mut().for_each(|member| *member += rng.usize(..20));
        // In order, so that no two writers wait for each other crosswise.
        members.sort_unstable();
        let mut transaction = session.transaction().unwrap();
        for member in &members {
            assert_eq!(transaction.execute(&event, &[&format!("order-{member}")]).unwrap(), 1);
        }
        match rng.u32(..100) {
            0 => std::thread::sleep(Duration::from_millis(rng.u64(..100))),
            1..4 => {
                transaction.rollback().unwrap();
                continue;
            }
            _ => {}
        }
        transaction.commit().unwrap();
        written.fetch_add(members.len() as u64, Ordering::Relaxed);
    }
}

#[test]
fn a_busy_outbox_arrives_once_and_in_order_however_often_its_runs_are_killed() {
    let size = std::env::var("PG2CH_OUTBOX").unwrap_or_else(|_| "12000/8".to_owned());
    let (events, kills) = size.split_once('/').expect("events/kills");
    let (events, kills) = (events.parse().expect("events"), kills.parse().expect("kills"));
    let mut world = World::unmade(Servers::shared(), "busy_outbox", COLUMNS, 3);
    world
        .settings
        .insert("[table]", "order_by = \"seq\"\nmessage_key = \"aggregateid\"\nheaders = { id = \"id\" }".into());
    world.run(&["init"]).expect(0);
    world
        .pg
        .batch_execute(&format!(
        "CREATE TABLE {0}_aggregates AS SELECT 'order-' || n AS id, 0::bigint AS seq FROM generate_series(0, {1}) n;
         ALTER TABLE {0}_aggregates ADD PRIMARY KEY (id)",
        world.name,
        AGGREGATES + 20,
    ))
        .unwrap();
    let (written, begun) = (AtomicU64::new(0), Instant::now());
    let mut rng = fastrand::Rng::with_seed(events);
    let (mut killed, mut ended) = (0, 0);
    scope(|scope| {
        for writer in 0..WRITERS {
            let (session, name, written) = (world.another_session(), &world.name, &written);
            scope.spawn(move || write(session, name, written, events, fastrand::Rng::with_seed(writer)));
        }
        // Kills that hit: spread over the time that it takes, and of which the last come when nobody writes any more.
        while killed < kills {
            let mut run = world.start(&["--once", "--json"]);
            std::thread::sleep(Duration::from_millis(rng.u64(50..900)));
            run.kill().unwrap();
            let code = Ended::after(run).code;
            killed += u64::from(code == KILLED);
            ended += u64::from(code == 0);
        }
    });
    let written_in = begun.elapsed();
    world.once().expect(0);
    let all = begun.elapsed();

    let records = world.topic();
    let mut next: HashMap<&str, i64> = HashMap::new();
    for record in &records {
        let value: serde_json::Value = serde_json::from_str(&record.value).unwrap();
        assert_eq!(
            (value["aggregateid"].as_str().unwrap(), &value["id"]),
            (&*record.key, &record.headers["id"].as_str().into())
        );
        let number = next.entry(&record.key).or_insert(1);
        assert_eq!(value["seq"].as_i64().unwrap(), *number, "the next event of {}", record.key);
        *number += 1;
    }
    let written = written.into_inner();
    assert_eq!((records.len() as u64, world.unsent()), (written, 0));
    world.assert_target_equals_topic(&records);
    let in_target = world.ch(
        "SELECT sum(n), count() FROM (SELECT aggregateid, count() AS n, groupArray(seq) AS numbers
             FROM (SELECT * FROM {t} ORDER BY _partition, _offset) GROUP BY aggregateid HAVING numbers = range(1, n + 1)) FORMAT TSV",
    );
    assert_eq!(in_target, format!("{written}\t{}", next.len()));
    world.run(&["verify"]).expect(0);
    println!(
        "{written} events of {} aggregates by {WRITERS} writers, in {written_in:.1?} and {all:.1?} in all: {killed} runs killed, {ended} ended",
        next.len()
    );
}

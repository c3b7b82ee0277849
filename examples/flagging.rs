//! Ways to flag rows, compared on a real server, for `scripts/bench --flagging`.
//!
//! `flagging ROWS ROUNDS` makes a table like the benches' at `PG2CH_POSTGRES_URL`, flags it in every way in turn while one COPY
//! reads the rows as JSON beside, and prints a line for each way: its name, the median of its seconds, the median of what
//! that is of the first way's in the same round, and the bytes of WAL a row.
#![allow(clippy::unwrap_used, clippy::panic)] // a tool of the project's own

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::sync::Barrier;
use std::time::Instant;

use postgres::{Client, NoTls};

/// How the statement names the rows of a batch, and what else it is given.
#[derive(Clone, Copy)]
enum Naming {
    /// A join with arrays: for each place one look into the table.
    Place,
    /// As `Place`, counting what the statement says it has updated, instead of the flags that it returns.
    PlaceUncounted,
    /// All places at once, in their order, joined with arrays for the guard.
    AllPlaces,
    /// A join with arrays by key.
    Key,
    /// As `Place`, with the places in a temporary table that they are copied into.
    Copied,
}

/// One way.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    naming: Naming,
    batch: usize,
    /// `synchronous_commit`.
    commit: &'static str,
    connections: usize,
    fill: u8,
    indexed: bool,
    /// Whether the rows are read beside.
    reads: bool,
}

/// The program's own way, which the others differ from in one point.
const OURS: Way = Way {
    name: "by place, guarded by writer and key; batches of 10,000, asynchronous commit (pg2ch's way)",
    naming: Naming::Place,
    batch: 10_000,
    commit: "off",
    connections: 1,
    fill: 50,
    indexed: true,
    reads: true,
};

const WAYS: &[Way] = &[
    OURS,
    Way { name: "the same, the flags not looked at again (RETURNING)", naming: Naming::PlaceUncounted, ..OURS },
    Way { name: "all places at once, in their order", naming: Naming::AllPlaces, ..OURS },
    Way { name: "by key", naming: Naming::Key, ..OURS },
    Way { name: "places copied into a temporary table", naming: Naming::Copied, ..OURS },
    Way { name: "batches of 1,000", batch: 1_000, ..OURS },
    Way { name: "batches of 5,000", batch: 5_000, ..OURS },
    Way { name: "batches of 20,000", batch: 20_000, ..OURS },
    Way { name: "batches of 50,000", batch: 50_000, ..OURS },
    Way { name: "synchronous commit", commit: "on", ..OURS },
    Way { name: "2 connections", connections: 2, ..OURS },
    Way { name: "3 connections", connections: 3, ..OURS },
    Way { name: "1 connection, nothing read beside", reads: false, ..OURS },
    Way { name: "2 connections, nothing read beside", connections: 2, reads: false, ..OURS },
    Way { name: "fillfactor 100", fill: 100, ..OURS },
    Way { name: "fillfactor 90", fill: 90, ..OURS },
    Way { name: "without the partial index (updates in place)", indexed: false, ..OURS },
];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, rows, rounds, only @ ..] = arguments.as_slice() else {
        panic!("say the rows, the rounds, and words of the ways' names if not all are meant")
    };
    let (rows, rounds): (usize, usize) = (rows.parse().unwrap(), rounds.parse().unwrap());
    let ways: Vec<Way> =
        WAYS.iter().filter(|way| only.is_empty() || only.iter().any(|word| way.name.contains(word))).copied().collect();
    let mut found: Vec<Vec<(f64, f64)>> = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (way, found) in ways.iter().zip(&mut found) {
            found.push(measure(way, rows));
        }
    }
    for (way, runs) in ways.iter().zip(&found) {
        let seconds = median(runs.iter().map(|run| run.0));
        let beside = median(runs.iter().zip(&found[0]).map(|(run, first)| run.0 / first.0));
        let wal = median(runs.iter().map(|run| run.1)) / rows as f64;
        println!("{}\t{seconds:.3}\t{beside:.2}\t{wal:.0}", way.name);
    }
}

fn median(numbers: impl Iterator<Item = f64>) -> f64 {
    let mut numbers: Vec<f64> = numbers.collect();
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn connect() -> Client {
    Client::connect(&std::env::var("PG2CH_POSTGRES_URL").unwrap(), NoTls).unwrap()
}

fn make_table(client: &mut Client, way: &Way, rows: usize) {
    client
        .batch_execute(&format!(
            "DROP TABLE IF EXISTS flagging;
             CREATE TABLE flagging (id bigint PRIMARY KEY, user_id bigint NOT NULL, event_type text NOT NULL,
                 event_time timestamptz NOT NULL, payload jsonb, sent boolean NOT NULL DEFAULT FALSE)
                 WITH (fillfactor = {}, autovacuum_enabled = off);
             INSERT INTO flagging SELECT n, n % 1000, 'login', now(), jsonb_build_object('ip', '10.0.0.' || n % 250,
                 'agent', 'Mozilla/5.0 (X11; Linux x86_64)') FROM generate_series(1, {rows}) n",
            way.fill
        ))
        .unwrap();
    if way.indexed {
        client.batch_execute("CREATE INDEX ON flagging (id) WHERE NOT sent").unwrap();
    }
    client.batch_execute("ANALYZE flagging; SELECT count(*) FROM flagging WHERE payload IS NULL").unwrap();
}

/// The statements of a batch, and the rows of a COPY between the first and the second.
struct Batch {
    before: &'static str,
    copied: Option<String>,
    update: String,
}

impl Way {
    fn batch(&self, rows: &[[String; 3]]) -> Batch {
        let column = |index: usize| rows.iter().map(|row| format!("\"{}\"", row[index])).collect::<Vec<_>>().join(",");
        let (places, writers, keys) = (column(0), column(1), column(2));
        let arrays = format!("unnest('{{{places}}}'::tid[], '{{{writers}}}'::xid[], '{{{keys}}}'::text[]) b (c, x, k)");
        let guard = "t.ctid = b.c AND t.xmin = b.x AND t.id = b.k::bigint AND NOT t.sent";
        let returning = |from: &str, guard: &str| {
            format!(
                "WITH u AS (UPDATE flagging t SET sent = TRUE FROM {from} WHERE {guard} RETURNING t.sent AS flag)
                 SELECT count(*) FILTER (WHERE flag) FROM u"
            )
        };
        let (mut before, mut copied) = ("", None);
        let update = match self.naming {
            Naming::Place => returning(&arrays, guard),
            Naming::PlaceUncounted => format!("UPDATE flagging t SET sent = TRUE FROM {arrays} WHERE {guard}"),
            Naming::AllPlaces => returning(&arrays, &format!("t.ctid = ANY ('{{{places}}}'::tid[]) AND {guard}")),
            Naming::Key => returning(&arrays, &guard.replace("t.ctid = b.c", "(t.ctid = b.c) IS TRUE")),
            Naming::Copied => {
                before = "BEGIN; CREATE TEMPORARY TABLE b (c tid, x xid, k text) ON COMMIT DROP";
                copied = Some(rows.iter().fold(String::new(), |mut text, [place, writer, key]| {
                    writeln!(text, "{place}\t{writer}\t{key}").unwrap();
                    text
                }));
                returning("b", guard)
            }
        };
        Batch { before, copied, update }
    }
}

/// Seconds, and bytes of WAL, of flagging all rows in one way.
fn measure(way: &Way, rows: usize) -> (f64, f64) {
    let mut client = connect();
    make_table(&mut client, way, rows);
    let found = client.query("SELECT ctid::text, xmin::text, id::text FROM flagging ORDER BY id", &[]).unwrap();
    let named: Vec<[String; 3]> = found.iter().map(|row| [row.get(0), row.get(1), row.get(2)]).collect();
    let batches: Vec<Batch> = named.chunks(way.batch).map(|batch| way.batch(batch)).collect();
    let mut flaggers: Vec<Client> = (0..way.connections).map(|_| connect()).collect();
    for flagger in &mut flaggers {
        flagger.batch_execute(&format!("SET synchronous_commit = {}", way.commit)).unwrap();
    }
    let wal = |client: &mut Client| -> String {
        client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).unwrap().get(0)
    };
    let wal_before = wal(&mut client);
    let mut reader = connect();
    // By the partial index, or else by the key's: a sort would be the reader's own cost.
    reader.batch_execute("SET enable_seqscan = off; SET enable_sort = off").unwrap();
    let reads = Barrier::new(1 + flaggers.len());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (number, flagger) in flaggers.iter_mut().enumerate() {
            let (batches, reads) = (&batches, &reads);
            let connections = way.connections;
            scope.spawn(move || {
                reads.wait();
                batches.iter().skip(number).step_by(connections).for_each(|batch| flag(flagger, batch));
            });
        }
        let copy = "COPY (SELECT row_to_json(t) FROM flagging t WHERE NOT sent ORDER BY id) TO STDOUT";
        let rows = way.reads.then(|| reader.copy_out(copy).unwrap());
        // The COPY has its snapshot, and so all the rows, before the first one is flagged.
        reads.wait();
        if let Some(mut rows) = rows {
            std::io::copy(&mut rows.by_ref(), &mut std::io::sink()).unwrap();
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let sent: i64 = client.query_one("SELECT count(*) FROM flagging WHERE sent", &[]).unwrap().get(0);
    assert_eq!(sent, i64::try_from(rows).unwrap(), "{}", way.name);
    let bytes = "SELECT (pg_current_wal_insert_lsn() - $1::text::pg_lsn)::float8";
    (seconds, client.query_one(bytes, &[&wal_before]).unwrap().get(0))
}

fn flag(client: &mut Client, batch: &Batch) {
    let Some(copied) = &batch.copied else { return client.batch_execute(&batch.update).unwrap() };
    client.batch_execute(batch.before).unwrap();
    let mut rows = client.copy_in("COPY b FROM STDIN").unwrap();
    rows.write_all(copied.as_bytes()).unwrap();
    rows.finish().unwrap();
    client.batch_execute(&batch.update).unwrap();
    client.batch_execute("COMMIT").unwrap();
}

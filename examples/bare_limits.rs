//! The servers' own work, for `scripts/bench` to compare with: what is left of a leg when everything but the server's
//! part is taken away. Prints seconds.
//!
//! `bare_limits flag`: the guarded flag UPDATEs of all unsent rows, in batches, while one COPY reads them beside.
//! `bare_limits insert`: the topic's records as RowBinary, prepared beforehand, in the blocks of a run, one by one.
#![allow(clippy::unwrap_used, clippy::panic)] // a tool of the project's own

use std::io::Read;
use std::sync::Barrier;
use std::time::Instant;

use pg2ch::clickhouse::{ClickHouseTarget, Http, quote};
use pg2ch::config::{Config, Flags, TableConfig, load};
use pg2ch::kafka::KafkaLog;
use pg2ch::legs::consume::{BatchSize, Fetcher, Prepared, Preparer, RowFormat};
use pg2ch::ports::limits::{Budget, Limits};
use pg2ch::ports::record_types::RecordTypes;
use pg2ch::ports::target::{Inserted, Target};
use pg2ch::ports::topic::{End, TopicLog};
use pg2ch::shutdown::Shutdown;
use pg2ch::threads::watchdog::Watchdog;
use postgres::{Client, NoTls};

fn main() {
    let config = load(&Flags { config: std::env::args_os().nth(2).map(Into::into), ..Flags::default() }).unwrap();
    let table = config.tables.first().unwrap().clone();
    let seconds = match std::env::args().nth(1).as_deref() {
        Some("flag") => flag(&config, &table),
        Some("insert") => insert(&config, &table),
        _ => panic!("say `flag` or `insert`, and a configuration file"),
    };
    println!("{seconds:.3}");
}

fn client(config: &Config) -> Client {
    let postgres = &config.postgres;
    let mut wire = postgres::Config::new();
    let (host, port) = &postgres.hosts[0];
    wire.host(host).port(*port).user(&postgres.user).dbname(&postgres.dbname);
    if let Some(password) = &postgres.password {
        wire.password(password.take().unwrap().reveal());
    }
    wire.connect(NoTls).unwrap()
}

/// Places and keys are literals in the statements' text, written before the clock starts.
fn flag(config: &Config, table: &TableConfig) -> f64 {
    let (source, key, flag) = (&table.source, &table.key[0], &table.flag);
    let mut flagger = client(config);
    flagger.batch_execute("SET synchronous_commit = off").unwrap();
    let sql = format!("SELECT ctid::text, xmin::text, {key}::text FROM {source} WHERE NOT {flag} ORDER BY {key}");
    let rows: Vec<[String; 3]> =
        flagger.query(&sql, &[]).unwrap().iter().map(|row| [row.get(0), row.get(1), row.get(2)]).collect();
    let column = |batch: &[[String; 3]], index: usize| {
        batch.iter().map(|row| format!("\"{}\"", row[index])).collect::<Vec<_>>().join(",")
    };
    let batches: Vec<String> = rows
        .chunks(config.batch.rows)
        .map(|batch| {
            format!(
                "UPDATE {source} t SET {flag} = TRUE FROM unnest('{{{}}}'::tid[], '{{{}}}'::xid[], '{{{}}}'::bigint[]) b (c, x, k)
                 WHERE t.ctid = b.c AND t.xmin = b.x AND t.{key} = b.k AND NOT t.{flag}",
                column(batch, 0),
                column(batch, 1),
                column(batch, 2)
            )
        })
        .collect();
    let copy = format!("COPY (SELECT row_to_json(t) FROM {source} t WHERE NOT {flag} ORDER BY {key}) TO STDOUT");
    let mut reader = client(config);
    // The COPY has its snapshot, and so all the rows, before the first one is flagged.
    let reads = Barrier::new(2);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rows = reader.copy_out(&copy).unwrap();
            reads.wait();
            std::io::copy(&mut rows.by_ref(), &mut std::io::sink()).unwrap();
        });
        reads.wait();
        for batch in &batches {
            flagger.batch_execute(batch).unwrap();
        }
    });
    begun.elapsed().as_secs_f64()
}

fn insert(config: &Config, table: &TableConfig) -> f64 {
    let mut target = ClickHouseTarget::new(config, table).unwrap();
    let format = RowFormat::of(
        &target.describe().unwrap().columns,
        &table.column_rules,
        &RecordTypes::default(),
        target.calendar(),
    )
    .unwrap();
    let mut preparer = Preparer::new(format);
    let mut log = KafkaLog::new(config, &table.topic, &table.group, &Watchdog::of_nobody()).unwrap();
    log.partitions().unwrap();
    let (starts, ends) = (log.starts().unwrap(), log.ends(End::Stable).unwrap());
    let size = BatchSize { records: config.batch.insert_rows, bytes: config.batch.insert_bytes };
    let budget =
        Budget::new(&Limits { max_rows: Some(rows()), ..Limits::default() }, Instant::now(), &Shutdown::default());
    let mut fetcher = Fetcher::new(&mut log, &starts, &ends, size, budget, config.timeouts.kafka).unwrap();
    let mut bodies = Vec::new();
    while let Some(batch) = fetcher.step().unwrap() {
        let prepared = preparer.step(&batch, size, Prepared::default).unwrap();
        bodies.extend(prepared.map(|prepared| prepared.body_of(&prepared.rows(&(0..prepared.len()))).into_owned()));
    }
    let http = Http::new(config).unwrap();
    let full_name = format!("{}.{}", quote(&table.target.database), quote(&table.target.table));
    http.query("cannot empty the target", &format!("TRUNCATE TABLE {full_name}"), &[]).unwrap();
    let begun = Instant::now();
    for (number, body) in bodies.iter().enumerate() {
        let stored = target.insert(body, &format!("bare {number} {:?}", std::time::SystemTime::now())).unwrap();
        assert!(matches!(stored, Inserted::Stored), "{stored:?}");
    }
    begun.elapsed().as_secs_f64()
}

/// How many records `insert` takes.
fn rows() -> u64 {
    std::env::args().nth(3).and_then(|rows| rows.parse().ok()).unwrap_or(500_000)
}

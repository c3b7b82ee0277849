//! Generated tables (any types, keys and names) and values at the edges: `pg2ch init`, a run, and `pg2ch verify --deep` finds
//! every row equal.
//!
//! `ROUND_TRIPS=500 scripts/test --test it round_trip` tries more tables, `ROUND_TRIP_SEED=n` those of a certain seed.

mod types;

use crate::common::World;
use crate::common::servers::Servers;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use types::{Typed, any_type, key_types};

/// A column: its type, whether it refuses NULL, and a literal of it for each row.
#[derive(Clone, Debug)]
struct Column {
    name: String,
    type_name: String,
    not_null: bool,
    literals: Vec<String>,
}

/// A table: the first columns are its key.
#[derive(Clone, Debug)]
struct Table {
    columns: Vec<Column>,
    key_columns: usize,
    flag: String,
}

const ROWS: usize = 12;

/// A name that SQL, TOML, JSON and ClickHouse may all stumble over, of 63 bytes at most.
fn name() -> BoxedStrategy<String> {
    let words = select(vec![
        "id", "select", "Order", "é", "日本", "😀", " ", "\"", "'", "`", "\\", ".", "$1", "{", "}", "%s", "--", "/*",
        "\n", "key", "t", "n",
    ]);
    prop::collection::vec(words, 1..6)
        .prop_map(|words| {
            let mut name = words.concat();
            while name.len() > 58 {
                name.pop();
            }
            name
        })
        .boxed()
}

fn column(types: Union<BoxedStrategy<Typed>>, is_key: bool) -> impl Strategy<Value = Column> {
    (name(), types, any::<bool>()).prop_flat_map(move |(name, (type_name, literals), not_null)| {
        let not_null = not_null || is_key;
        let literal =
            if not_null { literals } else { prop_oneof![5 => literals, 1 => Just("NULL".to_owned())].boxed() };
        prop::collection::vec(literal, ROWS).prop_map(move |literals| Column {
            name: name.clone(),
            type_name: type_name.clone(),
            not_null,
            literals,
        })
    })
}

fn table() -> impl Strategy<Value = Table> {
    let keys = prop::collection::vec(column(key_types(), true), 1..=3);
    let others = prop::collection::vec(column(any_type(), false), 0..=9);
    (keys, others, name()).prop_map(|(keys, others, flag)| {
        let key_columns = keys.len();
        let mut columns: Vec<Column> = keys.into_iter().chain(others).collect();
        // Each name once.
        columns.iter_mut().enumerate().for_each(|(at, column)| column.name.push_str(&at.to_string()));
        Table { columns, key_columns, flag: format!("{flag} sent") }
    })
}

fn in_sql(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn in_toml(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

impl Table {
    fn key(&self) -> &[Column] {
        &self.columns[..self.key_columns]
    }

    fn definition(&self) -> String {
        let null = |column: &Column| if column.not_null { "NOT NULL" } else { "" };
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|column| format!("{} {} {}", in_sql(&column.name), column.type_name, null(column)))
            .collect();
        let key: Vec<String> = self.key().iter().map(|column| in_sql(&column.name)).collect();
        format!(
            "{}, {} boolean NOT NULL DEFAULT FALSE, PRIMARY KEY ({})",
            columns.join(", "),
            in_sql(&self.flag),
            key.join(", ")
        )
    }
}

/// Inserts the rows one by one, each literal with its column's type; keys that are there already are left out.
fn fill(world: &mut World, table: &Table) -> Result<i64, String> {
    let names: Vec<String> = table.columns.iter().map(|column| in_sql(&column.name)).collect();
    for row in 0..ROWS {
        let values: Vec<&str> = table.columns.iter().map(|column| column.literals[row].as_str()).collect();
        let sql = format!(
            "INSERT INTO {} ({}) VALUES ({}) ON CONFLICT DO NOTHING",
            world.name,
            names.join(", "),
            values.join(", ")
        );
        world.pg.batch_execute(&sql).map_err(|error| format!("{sql}: {error:?}"))?;
    }
    Ok(world.sql_number("SELECT count(*) FROM {t}"))
}

fn makes_the_round_trip(table: &Table) -> Result<(), String> {
    let mut world = World::unmade(Servers::shared(), "trip", &table.definition(), 2);
    let key: Vec<String> = table.key().iter().map(|column| in_toml(&column.name)).collect();
    world.settings.insert("[table]", format!("key = [{}]\nflag = {}", key.join(", "), in_toml(&table.flag)));
    world.batch_rows(5);
    let told = |what: &str, ended: &crate::common::Ended| {
        format!("{what} ended with {}: {}{}", ended.code, ended.stdout, ended.stderr)
    };
    let rows = fill(&mut world, table)?;
    let init = world.run(&["init"]);
    if init.code != 0 {
        return Err(told("init", &init));
    }
    let run = world.once();
    if run.code != 0 || run.number("consume", "rows_inserted") != rows {
        return Err(told("the run", &run));
    }
    let verify = world.run(&["verify", "--deep", "--json"]);
    if verify.code != 0 {
        return Err(told("verify", &verify));
    }
    let report = verify.report();
    let is_whole =
        report["rows_compared"] == rows && report["columns_not_compared"].as_array().is_some_and(Vec::is_empty);
    world.pg.batch_execute(&format!("DROP TABLE {}", world.name)).map_err(|error| error.to_string())?;
    world.ch("DROP TABLE {t}");
    if is_whole { Ok(()) } else { Err(told("verify left something out and", &verify)) }
}

#[test]
fn every_row_of_any_table_arrives_as_it_is() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cases = number("ROUND_TRIPS").unwrap_or(8);
    let seed = number("ROUND_TRIP_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("ROUND_TRIP_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: u32::try_from(cases).unwrap(),
        max_shrink_iters: 60,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(&table(), |table| makes_the_round_trip(&table).map_err(TestCaseError::fail));
    if let Err(error) = result {
        panic!("ROUND_TRIP_SEED={seed}: {error}");
    }
}

//! ClickHouse in memory: an INSERT is one block, stored wholly or not at all; a token that is known stores nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use pg2ch::clickhouse::{CalendarRange, Column};
use pg2ch::data::{Offsets, Ranges, RecordId};
use pg2ch::error::{Error, Result};
use pg2ch::mutant;
use pg2ch::ports::engine::{Engine, Window};
use pg2ch::ports::layout::Layout;
use pg2ch::ports::target::{self, Cause, Inserted, Refused, Target, TargetDescription};

use crate::faults::{Fault, Leg};
use crate::postgres::Content;
use crate::world::{INSERT, Run, World};

/// The server refuses rows with this note.
pub const POISON: &str = "poison";

/// A row as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub id: RecordId,
    pub key: i64,
    pub content: Content,
}

#[derive(Default)]
pub struct ClickHouse {
    pub rows: Vec<Stored>,
    pub tokens: HashSet<String>,
    /// Grows when the table is dropped and made again.
    pub made: u64,
    /// Whether the column `number` takes NULL, too: an ALTER changes how its bytes are read.
    pub is_altered: bool,
    /// Whether somebody has looked at the columns since they were altered.
    pub is_described: bool,
    /// Whether it was once altered again before anybody had looked.
    pub was_altered_unseen: bool,
    /// A materialized view behind the table.
    pub view: Option<View>,
    /// Answers come through a proxy that strips what proves them.
    pub is_unproven: bool,
}

/// A materialized view with a table of its own.
#[derive(Default)]
pub struct View {
    /// Whether its table remembers tokens.
    pub remembers: bool,
    pub tokens: HashSet<String>,
    /// What it was given, by the record's place.
    pub rows: Vec<RecordId>,
    /// It refuses one INSERT in so many; 0 is never.
    pub refuses: usize,
    /// Rows that runs have told of: the view may lack them.
    pub told: u64,
}

pub struct SimTarget {
    run: Run,
    /// The tokens of this leg.
    sent: HashSet<String>,
}

impl SimTarget {
    pub fn new(run: &Run) -> Self {
        Self { run: run.clone(), sent: HashSet::new() }
    }
}

/// How the server answers.
enum Answer {
    Stored,
    Unproven,
    Refused(Cause, String),
}

impl World {
    fn insert(&mut self, body: &[u8], token: &str) -> Answer {
        let answer = self.store(body, token);
        let is_strange = match &answer {
            Answer::Stored => false,
            Answer::Unproven => true,
            Answer::Refused(_, reason) => !reason.contains("constraint"),
        };
        if is_strange {
            *self.hits.entry((Leg::Consume, INSERT, Fault::Strange)).or_default() += 1;
        }
        answer
    }

    /// One INSERT: its header against the table's columns, the rows into the table, and then into the view.
    fn store(&mut self, body: &[u8], token: &str) -> Answer {
        let Some(rows) = parse(body, self.clickhouse.number_type()) else {
            return Answer::Refused(Cause::Rows, "type of 'number' must be another one".into());
        };
        if let Some(bad) = rows.iter().find(|row| row.content.note == POISON) {
            return Answer::Refused(Cause::Rows, format!("row {} violates a constraint", bad.key));
        }
        let ids: Vec<RecordId> = rows.iter().map(|row| row.id).collect();
        if self.clickhouse.tokens.insert(token.to_owned()) {
            self.clickhouse.rows.extend(rows);
        }
        let refuses = self.clickhouse.view.as_ref().map_or(0, |view| view.refuses);
        if self.troubled && self.one_in(refuses) {
            // Behind a token that came without its rows, a refusal that lies with good rows would make them letters.
            let is_there = ids.iter().any(|id| self.clickhouse.rows.iter().any(|row| row.id == *id));
            let first = usize::from(!is_there);
            let cause = [Cause::Rows, Cause::Moment, Cause::Statement][self.rng.usize(first..3)];
            return Answer::Refused(cause, "while pushing to view".into());
        }
        if let Some(view) = &mut self.clickhouse.view
            && (!view.remembers || view.tokens.insert(token.to_owned()))
        {
            view.rows.extend(ids);
        }
        if self.clickhouse.is_unproven { Answer::Unproven } else { Answer::Stored }
    }
}

impl ClickHouse {
    fn number_type(&self) -> &'static str {
        if self.is_altered { "Nullable(UInt8)" } else { "UInt8" }
    }

    fn description(&self) -> TargetDescription {
        let columns = [
            ("id", "Int64"),
            ("note", "String"),
            ("number", self.number_type()),
            ("_partition", "Int32"),
            ("_offset", "Int64"),
            ("_timestamp", "DateTime64(3, 'UTC')"),
        ];
        let engine = "ReplacingMergeTree(_timestamp) ORDER BY id SETTINGS non_replicated_deduplication_window = 10000";
        let view = |view: &View| target::View {
            name: "`d`.`v`".into(),
            table: "`d`.`t`".into(),
            window: if view.remembers { Window::Tokens(100) } else { Window::Tokens(0) },
            layout: Layout::Here,
            is_partitioned: false,
        };
        TargetDescription {
            identity: format!("made {}", self.made),
            columns: columns.into_iter().map(|(name, type_name)| Column::new(name, type_name)).collect(),
            definition: String::new(),
            engine: Engine::parse("ReplacingMergeTree", engine),
            sorting_key: vec!["id".into()],
            partition_key: String::new(),
            views: self.view.iter().map(view).collect(),
            servers: 1,
            dropped_settings: Vec::new(),
        }
    }
}

impl Target for SimTarget {
    fn describe(&mut self) -> Result<TargetDescription> {
        self.run.read("clickhouse: describe", |world| {
            world.clickhouse.is_described = true;
            Ok(world.clickhouse.description())
        })
    }

    fn calendar(&mut self) -> CalendarRange {
        CalendarRange::Wide
    }

    fn held(&mut self, ranges: &Ranges) -> Result<HashSet<RecordId>> {
        self.run.read("clickhouse: ask what is held", |world| {
            let inside = |id: &RecordId| {
                ranges.get(&id.partition).is_some_and(|&(start, end)| (start..end).contains(&id.offset))
            };
            Ok(world.clickhouse.rows.iter().map(|row| row.id).filter(inside).collect())
        })
    }

    fn holds_from(&mut self, offsets: &Offsets) -> Result<BTreeSet<i32>> {
        self.run.read("clickhouse: look beyond the offsets", |world| {
            let is_beyond = |id: &RecordId| offsets.get(&id.partition).is_some_and(|&offset| id.offset >= offset);
            Ok(world.clickhouse.rows.iter().map(|row| row.id).filter(is_beyond).map(|id| id.partition).collect())
        })
    }

    fn highest(&mut self) -> Result<BTreeMap<i32, i64>> {
        self.run.read("clickhouse: ask for the highest offsets", |world| {
            let mut highest = BTreeMap::new();
            for RecordId { partition, offset, .. } in world.clickhouse.rows.iter().map(|row| row.id) {
                highest.entry(partition).and_modify(|high: &mut i64| *high = (*high).max(offset)).or_insert(offset);
            }
            Ok(highest)
        })
    }

    fn insert(&mut self, body: &[u8], token: &str) -> Result<Inserted> {
        let (body, mut token) = (body.to_vec(), token.to_owned());
        if !self.sent.insert(token.clone()) && mutant::is("blind retry under a new token") {
            token = format!("{token} {}", self.run.world().rng.u64(..));
        }
        let token_alone = token.clone();
        let inserted = self.run.write(
            INSERT,
            move |world| {
                world.clickhouse.tokens.insert(token_alone);
            },
            move |world| Ok(world.insert(&body, &token)),
        );
        match inserted {
            Ok(Answer::Stored) => Ok(Inserted::Stored),
            Ok(Answer::Unproven) => Ok(Inserted::Unproven),
            Ok(Answer::Refused(cause, reason)) => {
                let error = match cause {
                    Cause::Statement => Error::config("insert", &reason, "none"),
                    _ => Error::unavailable("insert", &reason, "none"),
                };
                Ok(Inserted::Refused(Refused { reason, cause, error }))
            }
            Err(error) if error.is_transient() => Ok(Inserted::Unknown(error)),
            Err(error) => Err(error),
        }
    }

    fn is_inserting(&mut self) -> Result<bool> {
        self.run.read("clickhouse: look for inserts", |world| Ok(world.is_under_way(INSERT)))
    }
}

/// Reads the body of an INSERT; `None` if its header does not name the table's types.
fn parse(mut body: &[u8], number_type: &str) -> Option<Vec<Stored>> {
    let [columns] = take(&mut body);
    let texts: Vec<String> = (0..2 * columns).map(|_| text(&mut body)).collect();
    if texts.get(usize::from(columns) + 2).map(String::as_str) != Some(number_type) {
        return None;
    }
    let mut rows = Vec::new();
    while !body.is_empty() {
        let key = i64::from_le_bytes(take(&mut body));
        let note = text(&mut body);
        if number_type.starts_with("Nullable") {
            let [0] = take(&mut body) else { continue };
        }
        let [number] = take(&mut body);
        let partition = i32::from_le_bytes(take(&mut body));
        let offset = i64::from_le_bytes(take(&mut body));
        let timestamp_ms = i64::from_le_bytes(take(&mut body));
        let id = RecordId { partition, offset, timestamp_ms };
        rows.push(Stored { id, key, content: Content::new(note, i64::from(number)) });
    }
    Some(rows)
}

/// Texts of 128 bytes and more are too large for the topic, or not made at all.
fn text(body: &mut &[u8]) -> String {
    let [length] = take(body);
    let (taken, rest) = body.split_at(usize::from(length).min(body.len()));
    *body = rest;
    String::from_utf8_lossy(taken).into_owned()
}

fn take<const N: usize>(body: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = body.split_at(N);
    *body = rest;
    taken.try_into().unwrap_or([0; N])
}

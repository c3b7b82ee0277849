//! ClickHouse in memory: an INSERT is one block, stored wholly or not at all; a token that is known stores nothing.

use std::collections::HashSet;

use pg2ch::clickhouse::column_type::{Column, DefaultKind};
use pg2ch::clickhouse::encode::CalendarRange;
use pg2ch::data::{Ranges, RecordId};
use pg2ch::error::Result;
use pg2ch::ports::target::{Block, Inserted, Target, TargetDescription};

use crate::postgres::Content;
use crate::world::{Run, World};

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
}

pub struct SimTarget {
    run: Run,
}

impl SimTarget {
    pub fn new(run: &Run) -> Self {
        Self { run: run.clone() }
    }
}

impl World {
    /// `None`: stored, now or before; otherwise the reason why not.
    fn insert(&mut self, rows: Vec<Stored>, token: &str) -> Option<String> {
        if self.clickhouse.tokens.contains(token) {
            return None;
        }
        if let Some(bad) = rows.iter().find(|row| row.content.note == POISON) {
            return Some(format!("row {} violates a constraint", bad.key));
        }
        self.clickhouse.tokens.insert(token.to_owned());
        self.clickhouse.rows.extend(rows);
        None
    }
}

impl Target for SimTarget {
    fn describe(&mut self) -> Result<TargetDescription> {
        let made = self.run.read("clickhouse: describe", |world| Ok(world.clickhouse.made))?;
        let column = |(name, type_name): (&str, &str)| Column {
            name: name.into(),
            type_name: type_name.into(),
            default_kind: DefaultKind::None,
        };
        let columns = [
            ("id", "Int64"),
            ("note", "String"),
            ("number", "UInt8"),
            ("_partition", "Int32"),
            ("_offset", "Int64"),
            ("_timestamp", "DateTime64(3, 'UTC')"),
        ];
        let columns = columns.into_iter().map(column).collect();
        Ok(TargetDescription { identity: format!("made {made}"), columns, keeps_positions: true })
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

    fn insert(&mut self, block: Block<'_>, token: &str) -> Result<Inserted> {
        let (rows, token) = (parse(block.body), token.to_owned());
        let token_alone = token.clone();
        let inserted = self.run.write(
            "clickhouse: insert",
            move |world| {
                world.clickhouse.tokens.insert(token_alone);
            },
            move |world| Ok(world.insert(rows, &token)),
        );
        match inserted {
            Ok(None) => Ok(Inserted::Stored),
            Ok(Some(reason)) => Ok(Inserted::Refused(reason)),
            Err(error) if error.is_transient() => Ok(Inserted::Unknown(error)),
            Err(error) => Err(error),
        }
    }

    fn is_inserting(&mut self) -> Result<bool> {
        self.run.read("clickhouse: look for inserts", |world| Ok(world.is_under_way("clickhouse: insert")))
    }
}

/// Reads RowBinary as the table's columns have it.
fn parse(mut body: &[u8]) -> Vec<Stored> {
    let mut rows = Vec::new();
    while !body.is_empty() {
        let key = i64::from_le_bytes(take(&mut body));
        let [length] = take(&mut body);
        // Notes of 128 bytes and more are too large for the topic, or not made at all.
        let (note, rest) = body.split_at(usize::from(length).min(body.len()));
        let note = String::from_utf8_lossy(note).into_owned();
        body = rest;
        let [number] = take(&mut body);
        let partition = i32::from_le_bytes(take(&mut body));
        let offset = i64::from_le_bytes(take(&mut body));
        let timestamp_ms = i64::from_le_bytes(take(&mut body));
        let id = RecordId { partition, offset, timestamp_ms };
        rows.push(Stored { id, key, content: Content { note, number: i64::from(number) } });
    }
    rows
}

fn take<const N: usize>(body: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = body.split_at(N);
    *body = rest;
    taken.try_into().unwrap_or([0; N])
}

//! `[[table]]`: what is moved, and what several of them must not share.

use super::file::Value;
use super::origin::{Given, Origin};
use super::reader::{Reader, Section, TRUTH_HINT};
use super::{ColumnChoice, OnBadRow, TableConfig, column_rules, outbox, removal, value};
use crate::error::{Error, ExitCode, Result};

/// The most dead letters that may be asked for.
const MOST_DEAD_LETTERS: u64 = 1_000_000;

/// Faster than any table is read.
const MOST_ROWS_PER_SECOND: u64 = 1_000_000_000;

/// The table that is moved where the file has none: these keys, and the others' defaults.
const BY_DEFAULT: [(&str, &str); 4] =
    [("source", "public.user_logins"), ("key", "id"), ("topic", "user_logins"), ("target", "analytics.user_logins")];

/// Reads the tables, checks them against each other, and leaves those that `--table` names, in the order of the file.
///
/// # Errors
/// 78 if a value is refused; 64 if `--table` names none of them.
pub fn read(reader: &mut Reader, wanted: &[String]) -> Result<Vec<TableConfig>> {
    let mut headers = std::mem::take(&mut reader.file.tables);
    if headers.is_empty() {
        headers.push(Origin::Default);
        for (key, text) in BY_DEFAULT {
            let place = format!("table[0].{key}");
            let given = Given { value: Value::Text(text.to_owned()), place: place.clone(), origin: Origin::Default };
            reader.file.entries.insert(place, given);
        }
    }
    let mut tables = Vec::new();
    for (at, header) in headers.iter().enumerate() {
        tables.push(table(&mut reader.table(at, header.clone()))?);
    }
    for (at, header) in headers.iter().enumerate() {
        for other in &tables[..at] {
            check_pair(at, &tables[at], other, header)?;
        }
    }
    let apart: Vec<Vec<String>> = tables.iter().map(|table| apart_from(table, &tables)).collect();
    tables.iter_mut().zip(apart).for_each(|(table, others)| table.apart_from = others);
    select(reader, tables, wanted)
}

fn table(section: &mut Section<'_>) -> Result<TableConfig> {
    let hint = "name it as schema.table, such as \"public.user_logins\"";
    let source = section.parsed("source", None, hint, value::source_table)?.value;
    let hint = "name the columns of the primary key: `key = \"id\"` or `key = [\"tenant\", \"id\"]`";
    let key = section.names("key", hint)?.value;
    let hint = "name a boolean column of the source table";
    let flag = section.checked("flag", Some("sent_to_kafka"), hint, value::column)?;
    if key.contains(&flag) {
        let hint = "name a column that is not part of the key, such as `sent_to_kafka boolean NOT NULL DEFAULT false`";
        return Err(section.refuse("flag", "it is a column of the key as well", hint));
    }
    let condition = section.optional("where", condition)?;
    let columns = columns(section, &key, &flag)?;
    // The dead-letter topic has to have a name as well.
    let topic = |name: &str| value::topic(name).and_then(|()| value::topic(&format!("{name}.dead")));
    let topic = section.checked("topic", None, "such as `topic = \"user_logins\"`, at most 244 characters", topic)?;
    let hint = "name it as database.table, such as \"analytics.user_logins\"";
    let target = section.parsed("target", None, hint, value::target_table)?.value;
    let group =
        section.checked("group", Some("pg2ch"), "name a consumer group that nothing else uses", value::group)?;
    let on_bad_row = |word: &str| OnBadRow::parse(word).ok_or_else(|| format!("{word:?} is neither of the two"));
    let hint = "write \"dead-letter\" or \"stop\"";
    let on_bad_row = section.parsed("on_bad_row", Some(OnBadRow::DeadLetter), hint, on_bad_row)?.value;
    let max_dead_letters = section.whole("max_dead_letters", 0..=MOST_DEAD_LETTERS, 1000)?;
    let max_rows_per_second = section.optional("max_rows_per_second", |section, key| {
        section.whole(key, 1..=MOST_ROWS_PER_SECOND, MOST_ROWS_PER_SECOND)
    })?;
    refuse_withdrawn(section)?;
    let hint = "an engine's name, e.g. \"SummingMergeTree\"";
    let allow_engine = Some(section.checked("allow_engine", Some(""), hint, |_| Ok(()))?);
    let column_rules = column_rules::read(section, &key)?;
    let outbox = outbox::read(section, &flag)?;
    let known = removal::Known { key: &key, flag: &flag, columns: &columns, rules: &column_rules };
    let removal = removal::read(section, known)?;
    Ok(TableConfig {
        source,
        key,
        flag,
        condition,
        apart_from: Vec::new(),
        columns,
        topic,
        target,
        group,
        on_bad_row,
        max_dead_letters,
        max_rows_per_second,
        column_rules,
        allow_engine: allow_engine.filter(|name| !name.is_empty()),
        outbox,
        removal,
    })
}

/// Only PostgreSQL can say whether it is a condition.
fn condition(section: &mut Section<'_>, key: &str) -> Result<String> {
    let hint = "write an SQL condition on a row, such as `where = \"status <> 'draft'\"`, or leave the key out";
    let condition = |text: &str| match text.trim() {
        "" => Err("it is empty".to_owned()),
        text if text.contains('\0') => Err("it holds a NUL".to_owned()),
        text => Ok(text.to_owned()),
    };
    Ok(section.parsed(key, None, hint, condition)?.value)
}

/// `columns` or `exclude`.
fn columns(section: &mut Section<'_>, key: &[String], flag: &str) -> Result<ColumnChoice> {
    let mut names = |key, hint| section.has(key).then(|| section.names(key, hint)).transpose();
    let only = names("columns", "name the columns that are sent, or leave the key out for all")?;
    let all_but = names("exclude", "name the columns that are not sent, or leave the key out")?;
    for (name, given) in [("columns", &only), ("exclude", &all_but)] {
        match given {
            None => section.note_unset(name),
            Some(given) if given.value.iter().any(|column| column == flag) => {
                let why = format!("the flag {flag} is never part of a record");
                return Err(given.refuse(why, "leave it out here"));
            }
            Some(_) => {}
        }
    }
    match (only, all_but) {
        (Some(_), Some(all_but)) => {
            Err(all_but.refuse("`columns` says already which columns are sent", "keep one of the two"))
        }
        (None, Some(all_but)) => match all_but.value.iter().find(|column| key.contains(column)) {
            Some(column) => {
                let why = format!("{column} is a column of the key, which every record has");
                Err(all_but.refuse(why, "leave it out here: the key identifies a row of the target"))
            }
            None => Ok(ColumnChoice::AllBut(all_but.value)),
        },
        (Some(only), None) => Ok(ColumnChoice::Only(only.value)),
        (None, None) => Ok(ColumnChoice::All),
    }
}

/// A key of versions before: `true` is how it always is now.
fn refuse_withdrawn(section: &mut Section<'_>) -> Result<()> {
    let Some(given) = section.take("metadata_columns") else { return Ok(()) };
    let given = given.read(Value::truth, TRUTH_HINT)?;
    if given.value {
        return Ok(());
    }
    let why =
        "a target without _partition, _offset and _timestamp cannot be asked what it holds, and is no longer supported";
    let hint = "remove the line and run `pg2ch init`, which adds the three columns: in ClickHouse that touches no data";
    Err(given.refuse(why, hint))
}

impl std::fmt::Display for OnBadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl OnBadRow {
    /// The word that the configuration file uses for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeadLetter => "dead-letter",
            Self::Stop => "stop",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::DeadLetter, Self::Stop].into_iter().find(|choice| choice.name() == word)
    }
}

/// The sources among which a table's rows must not be. Conditions may divide the rows of two.
fn apart_from(table: &TableConfig, tables: &[TableConfig]) -> Vec<String> {
    let shares = |other: &&TableConfig| {
        other.source != table.source
            && other.flag == table.flag
            && table.condition.is_none()
            && other.condition.is_none()
    };
    tables.iter().filter(shares).map(|other| other.source.clone()).collect()
}

/// Refuses what two tables must not share.
fn check_pair(at: usize, table: &TableConfig, other: &TableConfig, origin: &Origin) -> Result<()> {
    let fail = |key: &str, why: String, hint: &str| Err(origin.refuse(&format!("table[{at}].{key}"), why, hint));
    if table.source == other.source {
        let why = format!("{} is configured twice, but one table has one flag", table.source);
        return fail("source", why, "keep one [[table]] for each source table");
    }
    if table.topic == other.topic {
        let why = format!(
            "{} already feeds the topic {}: recovery could not distinguish the rows of the two",
            other.source, other.topic
        );
        return fail("topic", why, "give each table a topic of its own");
    }
    if table.topic == other.dead_letter_topic() || other.topic == table.dead_letter_topic() {
        let why = format!("the dead letters of {} or {} would go to the other's topic", other.source, table.source);
        return fail("topic", why, "choose a topic that does not end in .dead");
    }
    if table.target == other.target {
        let why = format!(
            "{} is filled from the topic {} already: it could not distinguish partitions and offsets of two topics",
            other.target, other.topic
        );
        return fail("target", why, "give each table a target of its own; a view can join them");
    }
    Ok(())
}

fn select(reader: &mut Reader, tables: Vec<TableConfig>, wanted: &[String]) -> Result<Vec<TableConfig>> {
    if wanted.is_empty() {
        return Ok(tables);
    }
    let mut chosen = vec![false; tables.len()];
    for name in wanted {
        let at = tables.iter().position(|table| is_named(table, name)).ok_or_else(|| {
            let known: Vec<&str> = tables.iter().map(|table| table.source.as_str()).collect();
            Error::new(
                ExitCode::Usage,
                format!("cannot find the table {name:?} that --table names"),
                format!("the configuration moves {}", known.join(", ")),
                "name one of these, or add a [[table]] to the configuration file",
            )
        })?;
        chosen[at] = true;
    }
    reader.note("tables", wanted.join(", "), &Origin::Flag("--table"));
    Ok(tables.into_iter().zip(chosen).filter(|(_, is_chosen)| *is_chosen).map(|(table, _)| table).collect())
}

/// Whether `name` is the table's source, in whatever spelling, or its name without the schema.
fn is_named(table: &TableConfig, name: &str) -> bool {
    let canonical = value::source_table(name).unwrap_or_else(|_| name.to_owned());
    table.source == canonical || table.source.split_once('.').is_some_and(|(_, bare)| bare == name)
}

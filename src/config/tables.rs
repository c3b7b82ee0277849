//! `[[table]]`: what is moved, and what several of them must not share.

use super::file::{File, Section};
use super::origin::Origin;
use super::reader::{Reader, column_names, refuse, take, text, truth, whole};
use super::{
    ColumnChoice, ColumnRules, OnBadRow, Outbox, Removal, TableConfig, TargetName, column_rules, outbox, removal, value,
};
use crate::error::{Error, ExitCode, Result};

/// The most dead letters that may be asked for.
const MOST_DEAD_LETTERS: u64 = 1_000_000;

/// Faster than any table is read.
const MOST_ROWS_PER_SECOND: u64 = 1_000_000_000;

/// Reads the tables, checks them against each other, and leaves those that `--table` names, in the order of the file.
///
/// # Errors
/// 78 if a value is refused; 64 if `--table` names none of them.
pub fn read(reader: &mut Reader, wanted: &[String]) -> Result<Vec<TableConfig>> {
    let mut tables = Vec::new();
    if let Some(mut file) = reader.file.take() {
        for (line, section) in std::mem::take(&mut file.tables) {
            let at = tables.len();
            tables.push((table(reader, &file, at, line, section)?, file.origin(line)));
        }
        reader.file = Some(file);
    }
    if tables.is_empty() {
        tables.push((by_default(reader), Origin::Default));
    }
    for (at, (table, origin)) in tables.iter().enumerate() {
        for (other, _) in &tables[..at] {
            check_pair(at, table, other, origin)?;
        }
    }
    let tables: Vec<_> = tables.into_iter().map(|(table, _)| table).collect();
    select(reader, tables, wanted)
}

fn by_default(reader: &mut Reader) -> TableConfig {
    let table = TableConfig {
        source: "public.user_logins".to_owned(),
        key: vec!["id".to_owned()],
        flag: "sent_to_kafka".to_owned(),
        condition: None,
        columns: ColumnChoice::All,
        topic: "user_logins".to_owned(),
        target: TargetName { database: "analytics".to_owned(), table: "user_logins".to_owned() },
        group: "pg2ch".to_owned(),
        on_bad_row: OnBadRow::DeadLetter,
        max_dead_letters: 1000,
        max_rows_per_second: None,
        column_rules: ColumnRules::default(),
        allow_engine: None,
        outbox: Outbox::default(),
        removal: Removal::default(),
    };
    for (key, value) in [
        ("source", table.source.clone()),
        ("key", table.key.join(", ")),
        ("flag", table.flag.clone()),
        ("where", String::new()),
        ("columns", String::new()),
        ("exclude", String::new()),
        ("topic", table.topic.clone()),
        ("target", table.target.to_string()),
        ("group", table.group.clone()),
        ("on_bad_row", table.on_bad_row.name().to_owned()),
        ("max_dead_letters", table.max_dead_letters.to_string()),
        ("max_rows_per_second", String::new()),
        ("allow_engine", String::new()),
        ("order_by", String::new()),
        ("message_key", String::new()),
        ("headers", String::new()),
        ("deleted", String::new()),
        ("keep", String::new()),
    ] {
        reader.note(format!("table[0].{key}"), value, &Origin::Default);
    }
    table
}

/// One `[[table]]` while it is read.
struct Fields<'r> {
    reader: &'r mut Reader,
    file: &'r File,
    section: Section,
    at: usize,
    line: usize,
}

fn table(reader: &mut Reader, file: &File, at: usize, line: usize, section: Section) -> Result<TableConfig> {
    let mut fields = Fields { reader, file, section, at, line };
    let source = fields.checked(
        "source",
        None,
        |s| value::source_table(&s),
        "name it as schema.table, such as \"public.user_logins\"",
    )?;
    let key = fields.key()?;
    let column = |name: String| value::column(&name).map(|()| name);
    let flag = fields.checked("flag", Some("sent_to_kafka"), column, "name a boolean column of the source table")?;
    if key.contains(&flag) {
        let origin = file.origin(line);
        let hint = "name a column that is not part of the key, such as `sent_to_kafka boolean NOT NULL DEFAULT false`";
        return Err(refuse(&fields.place("flag"), &origin, "it is a column of the key as well", hint));
    }
    let condition = fields.condition()?;
    let columns = fields.columns(&key, &flag)?;
    let topic = |name: String| {
        // The dead-letter topic has to have a name as well.
        value::topic(&name).and_then(|()| value::topic(&format!("{name}.dead"))).map(|()| name)
    };
    let topic = fields.checked("topic", None, topic, "such as `topic = \"user_logins\"`, at most 244 characters")?;
    let target_hint = "name it as database.table, such as \"analytics.user_logins\"";
    let target = fields.parsed("target", None, |s| value::target_table(&s), target_hint, ToString::to_string)?;
    let group = |name: String| value::group(&name).map(|()| name);
    let group = fields.checked("group", Some("pg2ch"), group, "name a consumer group that nothing else uses")?;
    let on_bad_row = |word: String| OnBadRow::parse(&word).ok_or_else(|| format!("{word:?} is neither of the two"));
    let on_bad_row =
        fields.parsed("on_bad_row", Some("dead-letter"), on_bad_row, "write \"dead-letter\" or \"stop\"", |o| {
            o.name().to_owned()
        })?;
    let max_dead_letters = fields.max_dead_letters()?;
    let max_rows_per_second = fields.max_rows_per_second()?;
    fields.refuse_withdrawn()?;
    let allow_engine = fields.checked("allow_engine", Some(""), Ok, "an engine's name, e.g. \"SummingMergeTree\"")?;
    let allow_engine = Some(allow_engine).filter(|name| !name.is_empty());
    let column_rules = column_rules::read(fields.reader, file, &mut fields.section, at, &key)?;
    let outbox = outbox::read(fields.reader, file, &mut fields.section, at, &flag)?;
    let known = removal::Known { key: &key, flag: &flag, columns: &columns, rules: &column_rules };
    let removal = removal::read(fields.reader, file, &mut fields.section, at, known)?;
    Ok(TableConfig {
        source,
        key,
        flag,
        condition,
        columns,
        topic,
        target,
        group,
        on_bad_row,
        max_dead_letters,
        max_rows_per_second,
        column_rules,
        allow_engine,
        outbox,
        removal,
    })
}

impl Fields<'_> {
    fn place(&self, key: &str) -> String {
        format!("table[{}].{key}", self.at)
    }

    /// A text that `check` accepts, or turns into its final form.
    fn checked(
        &mut self,
        key: &str,
        default: Option<&str>,
        check: impl FnOnce(String) -> Result<String, String>,
        hint: &str,
    ) -> Result<String> {
        self.parsed(key, default, check, hint, String::clone)
    }

    fn parsed<T>(
        &mut self,
        key: &str,
        default: Option<&str>,
        parse: impl FnOnce(String) -> Result<T, String>,
        hint: &str,
        show: impl FnOnce(&T) -> String,
    ) -> Result<T> {
        let place = self.place(key);
        let (text, origin) = match (take(self.file, &mut self.section, key), default) {
            (Some((entry, origin)), _) => (text(&place, &origin, entry.value)?, origin),
            (None, Some(default)) => (default.to_owned(), Origin::Default),
            (None, None) => return Err(self.missing(key, hint)),
        };
        let value = parse(text).map_err(|why| refuse(&place, &origin, why, hint))?;
        self.reader.note(place, show(&value), &origin);
        Ok(value)
    }

    /// `key = "id"` or `key = ["tenant", "id"]`.
    fn key(&mut self) -> Result<Vec<String>> {
        let hint = "name the columns of the primary key: `key = \"id\"` or `key = [\"tenant\", \"id\"]`";
        let given = self.names("key", hint)?;
        given.map(|(columns, _)| columns).ok_or_else(|| self.missing("key", hint))
    }

    /// Names of columns, one or a list, each once.
    fn names(&mut self, key: &str, hint: &str) -> Result<Option<(Vec<String>, Origin)>> {
        let place = self.place(key);
        let Some((entry, origin)) = take(self.file, &mut self.section, key) else { return Ok(None) };
        let columns = column_names(&place, &origin, entry.value, hint)?;
        if columns.is_empty() {
            return Err(refuse(&place, &origin, "it names no column", hint));
        }
        for (at, column) in columns.iter().enumerate() {
            if columns[..at].contains(column) {
                return Err(refuse(&place, &origin, format!("it names the column `{column}` twice"), hint));
            }
        }
        self.reader.note(place, columns.join(", "), &origin);
        Ok(Some((columns, origin)))
    }

    /// Only PostgreSQL can say whether it is a condition.
    fn condition(&mut self) -> Result<Option<String>> {
        let place = self.place("where");
        let Some((entry, origin)) = take(self.file, &mut self.section, "where") else {
            self.reader.note(place, "", &Origin::Default);
            return Ok(None);
        };
        let condition = text(&place, &origin, entry.value)?.trim().to_owned();
        let hint = "write an SQL condition on a row, such as `where = \"status <> 'draft'\"`, or leave the key out";
        if condition.is_empty() {
            return Err(refuse(&place, &origin, "it is empty", hint));
        }
        if condition.contains('\0') {
            return Err(refuse(&place, &origin, "it holds a NUL", hint));
        }
        self.reader.note(place, condition.clone(), &origin);
        Ok(Some(condition))
    }

    /// `columns` or `exclude`.
    fn columns(&mut self, key: &[String], flag: &str) -> Result<ColumnChoice> {
        let only = self.names("columns", "name the columns that are sent, or leave the key out for all")?;
        let all_but = self.names("exclude", "name the columns that are not sent, or leave the key out")?;
        for (name, given) in [("columns", &only), ("exclude", &all_but)] {
            let place = self.place(name);
            match given {
                None => self.reader.note(place, "", &Origin::Default),
                Some((columns, origin)) if columns.iter().any(|column| column == flag) => {
                    let why = format!("the flag {flag} is never part of a record");
                    return Err(refuse(&place, origin, why, "leave it out here"));
                }
                Some(_) => {}
            }
        }
        match (only, all_but) {
            (Some(_), Some((_, origin))) => {
                let why = "`columns` says already which columns are sent";
                Err(refuse(&self.place("exclude"), &origin, why, "keep one of the two"))
            }
            (None, Some((columns, origin))) => match columns.iter().find(|column| key.contains(column)) {
                Some(column) => {
                    let why = format!("{column} is a column of the key, which every record has");
                    let hint = "leave it out here: the key identifies a row of the target";
                    Err(refuse(&self.place("exclude"), &origin, why, hint))
                }
                None => Ok(ColumnChoice::AllBut(columns)),
            },
            (Some((columns, _)), None) => Ok(ColumnChoice::Only(columns)),
            (None, None) => Ok(ColumnChoice::All),
        }
    }

    fn max_dead_letters(&mut self) -> Result<u64> {
        let place = self.place("max_dead_letters");
        let entry = take(self.file, &mut self.section, "max_dead_letters");
        let (number, origin) = whole(&place, entry, 0..=MOST_DEAD_LETTERS, 1000)?;
        self.reader.note(place, number.to_string(), &origin);
        Ok(number)
    }

    fn max_rows_per_second(&mut self) -> Result<Option<u64>> {
        let place = self.place("max_rows_per_second");
        let entry = take(self.file, &mut self.section, "max_rows_per_second");
        let is_set = entry.is_some();
        let (number, origin) = whole(&place, entry, 1..=MOST_ROWS_PER_SECOND, MOST_ROWS_PER_SECOND)?;
        self.reader.note(place, if is_set { number.to_string() } else { String::new() }, &origin);
        Ok(is_set.then_some(number))
    }

    /// A key of versions before: `true` is how it always is now.
    fn refuse_withdrawn(&mut self) -> Result<()> {
        let place = self.place("metadata_columns");
        let entry = take(self.file, &mut self.section, "metadata_columns");
        let (truth, origin) = truth(&place, entry, true)?;
        if truth {
            return Ok(());
        }
        Err(refuse(
            &place,
            &origin,
            "a target without _partition, _offset and _timestamp cannot be asked what it holds, and is no longer supported",
            "remove the line and run `pg2ch init`, which adds the three columns: in ClickHouse that touches no data",
        ))
    }

    fn missing(&self, key: &str, hint: &str) -> Error {
        refuse(&self.place(key), &self.file.origin(self.line), "it is missing and has no default", hint)
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

/// Refuses what two tables must not share.
fn check_pair(at: usize, table: &TableConfig, other: &TableConfig, origin: &Origin) -> Result<()> {
    let fail = |key: &str, why: String, hint: &str| Err(refuse(&format!("table[{at}].{key}"), origin, why, hint));
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

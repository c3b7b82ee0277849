//! A table that was found fit as the source.

use postgres::error::SqlState;

use super::catalogue::{Catalogue, Relation};
use super::meaning;
use super::session::Session;
use crate::config::{ColumnChoice, DELETED_MARK, TableConfig};
use crate::data::is_own;
use crate::error::{Error, Result};
use crate::ports::source::SourceColumn;

/// A source table that has been found fit: it exists, the flag is boolean, and the key is unique and never NULL.
#[derive(Clone, Debug)]
pub struct SourceTable {
    /// `schema.table`, quoted where needed: the name under which lock and checkpoint know it.
    pub name: String,
    pub database: String,
    pub oid: u32,
    pub is_partitioned: bool,
    /// The columns that a record has, in the table's order: the chosen ones and the key's, never the flag.
    pub columns: Vec<SourceColumn>,
    /// The key's columns, in the key's order.
    pub key: Vec<SourceColumn>,
    /// The columns that make the record's key, where that is not the row's.
    pub message_key: Vec<SourceColumn>,
    /// The columns in whose order rows are sent, before the key's.
    pub order_by: Vec<SourceColumn>,
    /// The headers of a record, each its name and the column that fills it.
    pub headers: Vec<(String, SourceColumn)>,
    /// The column that says that a row is deleted.
    pub deleted: Option<SourceColumn>,
    /// The flag column, unquoted.
    pub flag: String,
    /// The condition on the rows that are sent, found to be one.
    pub(super) condition: Option<String>,
}

/// What adds a flag to a table that has rows. A constant default rewrites nothing from PostgreSQL 11 on, and in one statement no
/// row that comes meanwhile is taken for sent.
pub fn add_flag(table: &str, flag: &str) -> String {
    let flag = quote(flag);
    format!(
        "-- Existing rows get TRUE: they count as sent. Rows inserted later get FALSE. The table is not rewritten.\n\
         ALTER TABLE {table} ADD COLUMN {flag} boolean NOT NULL DEFAULT TRUE, ALTER COLUMN {flag} SET DEFAULT FALSE;\n\
         -- To send the existing rows as well, use this statement instead:\n\
         -- ALTER TABLE {table} ADD COLUMN {flag} boolean NOT NULL DEFAULT FALSE;"
    )
}

impl SourceTable {
    /// Looks the table up.
    ///
    /// # Errors
    /// 78 if the table, or a column, is missing or unfit; PostgreSQL's.
    pub fn find(session: &mut Session, config: &TableConfig) -> Result<Self> {
        let found = Catalogue::look_up(session, config)?;
        Self::of(session, config, found)
    }

    /// The table that was looked up.
    pub(super) fn of(session: &mut Session, config: &TableConfig, found: Option<Catalogue>) -> Result<Self> {
        let (table, has_flag) = Self::of_any(session, config, found)?;
        if has_flag {
            return Ok(table);
        }
        Err(Error::config(
            format!("cannot use table {} as the source", config.source),
            format!("{} has no column {}", table.name, config.flag),
            "correct `flag` in [[table]], or add the column: `pg2ch init --print` shows the statement",
        ))
    }

    /// Looks the table up, whether it has a flag or not; and whether it has.
    pub fn find_without_flag(session: &mut Session, config: &TableConfig) -> Result<(Self, bool)> {
        let found = Catalogue::look_up(session, config)?;
        Self::of_any(session, config, found)
    }

    fn of_any(session: &mut Session, config: &TableConfig, found: Option<Catalogue>) -> Result<(Self, bool)> {
        let what = format!("cannot use table {} as the source", config.source);
        let unfit = |why: String, hint: &str| Error::config(&what, why, hint);
        let Catalogue { relation, mut columns, has_unique_index } = found.ok_or_else(|| {
            unfit(
                "the table does not exist in the database".into(),
                "check `source` in [[table]] (schema.table, quoted as in SQL) and the database in the PostgreSQL URL",
            )
        })?;
        if let Some(why) = relation.unfit() {
            return Err(unfit(
                why,
                "name an ordinary or a partitioned table, or a partition: their rows can be flagged safely",
            ));
        }
        let Relation { oid, name, database, is_partitioned, .. } = relation;
        let column = |wanted: &str| columns.iter().find(|column| column.name == wanted).cloned();
        let flag = column(&config.flag);
        if let Some(flag) = flag.as_ref().filter(|flag| flag.type_name != "boolean") {
            return Err(unfit(
                format!("the flag column {} is of type {}", flag.name, flag.type_name),
                "make it boolean, or name another column as `flag` in [[table]]",
            ));
        }
        let key = config
            .key
            .iter()
            .map(|wanted| {
                column(wanted)
                    .ok_or_else(|| unfit(format!("{name} has no column {wanted}"), "check `key` in [[table]]"))
            })
            .collect::<Result<Vec<_>>>()?;
        let named: &[String] = match &config.columns {
            ColumnChoice::All => &[],
            ColumnChoice::Only(named) | ColumnChoice::AllBut(named) => named,
        };
        if let Some(unknown) = named.iter().find(|named| column(named).is_none()) {
            return Err(unfit(
                format!("{name} has no column {unknown}"),
                "check `columns` and `exclude` in [[table]]: names stand as in the catalogue, without quotes",
            ));
        }
        let headers = config.outbox.headers.iter().map(|(header, wanted)| {
            let filled = column(wanted).map(|column| (header.clone(), column));
            filled.ok_or_else(|| unfit(format!("{name} has no column {wanted}"), "check `headers` in [[table]]"))
        });
        let headers = headers.collect::<Result<_>>()?;
        let deleted = deleted_column(config, &name, &columns, &what)?;
        let named_in = |key: &str, names: &[String]| -> Result<Vec<SourceColumn>> {
            let found = names.iter().map(|wanted| {
                let why = || unfit(format!("{name} has no column {wanted}"), &format!("check `{key}` in [[table]]"));
                column(wanted).ok_or_else(why)
            });
            found.collect()
        };
        let message_key = named_in("message_key", &config.outbox.message_key)?;
        let order_by = named_in("order_by", &config.outbox.order_by)?;
        let may_mean_more = meaning::may_have_operators(&columns);
        columns.retain(|column| column.name != config.flag && is_sent(&column.name, config));
        require_free_names(config, &columns, &what)?;
        let table = Self {
            name,
            database,
            oid,
            is_partitioned,
            columns,
            key,
            message_key,
            order_by,
            headers,
            deleted,
            flag: config.flag.clone(),
            condition: config.condition.clone(),
        };
        table.require_unique_key(has_unique_index, &what)?;
        table.require_condition(session, may_mean_more)?;
        table.require_order(session, &what)?;
        Ok((table, flag.is_some()))
    }

    /// What a reader says that finds the [clock](Self::clock_sql) NULL.
    pub fn retyped(&self) -> Error {
        Error::unavailable(
            format!("cannot read unsent rows of {}", self.name),
            "a column's type was changed under the run",
            "nothing is lost: the next attempt, or the next run, knows the new type",
        )
    }

    /// That the condition is one expression, of boolean type, which this table understands. It stands between brackets and
    /// between parentheses, because text that closes one pair to open another (`a) OR (b`) cannot do so with both.
    fn require_condition(&self, session: &mut Session, may_mean_more: bool) -> Result<()> {
        let Some(condition) = &self.condition else { return Ok(()) };
        let what = format!("cannot use `where` of [[table]] {}", self.name);
        let sql = format!("SELECT ARRAY[\n{condition}\n] FROM {} AS t WHERE {}", self.name, self.taken_sql());
        let refused = |why: &str| {
            Error::config(
                &what,
                why,
                "write one SQL condition on the table's own columns, named without the table; types, functions and operators \
                 outside pg_catalog need their schema",
            )
        };
        if understood(session, &what, &sql, refused)? > 0 {
            return Err(refused("it has parameters, for which there are no values"));
        }
        if may_mean_more { meaning::require_one_meaning(session, &self.name, &self.taken_sql(), &what) } else { Ok(()) }
    }

    /// Everything rests on a key naming one row: without a unique index two rows would pass for versions of one.
    fn require_unique_key(&self, has_unique_index: bool, what: &str) -> Result<()> {
        let names: Vec<&str> = self.key.iter().map(|column| column.name.as_str()).collect();
        let nullable = self.key.iter().find(|column| !column.not_null);
        match (has_unique_index, nullable) {
            (true, None) => Ok(()),
            (false, _) => Err(Error::config(
                what,
                format!("no unique index covers exactly its key ({})", names.join(", ")),
                "name the primary key's columns as `key` in [[table]], or create a unique index over them, with their own collations",
            )),
            (true, Some(column)) => Err(Error::config(
                what,
                format!("its key column {} may be NULL", column.name),
                "name the primary key's columns as `key` in [[table]], or set the column NOT NULL",
            )),
        }
    }
}

/// The column, among those of the table `name`, that says that a row is deleted.
fn deleted_column(
    config: &TableConfig,
    name: &str,
    columns: &[SourceColumn],
    what: &str,
) -> Result<Option<SourceColumn>> {
    let Some(wanted) = &config.removal.deleted else { return Ok(None) };
    let hint = "check `deleted` in [[table]]: it names a boolean or timestamp column";
    let Some(found) = columns.iter().find(|column| column.name == *wanted) else {
        return Err(Error::config(what, format!("{name} has no column {wanted}"), hint));
    };
    let is_boolean = found.base_type == "boolean";
    if !is_boolean && !found.base_type.starts_with("timestamp") {
        return Err(Error::config(what, format!("the column {wanted} is of type {}", found.type_name), hint));
    }
    if !is_boolean && found.not_null {
        let why = format!("the column {wanted} is never NULL: every row would be deleted");
        let hint = "let the column be NULL while a row is live: ALTER TABLE … ALTER COLUMN … DROP NOT NULL";
        return Err(Error::config(what, why, hint));
    }
    Ok(Some(found.clone()))
}

/// Refuses a column that has the name of one of pg2ch's own in the target, where no record's field may go.
fn require_free_names(config: &TableConfig, columns: &[SourceColumn], what: &str) -> Result<()> {
    let is_taken = |name: &str| is_own(name) || (config.removal.deleted.is_some() && name == DELETED_MARK);
    let name_of = |column: &SourceColumn| config.column_rules.column_of(&column.name).is_some_and(is_taken);
    let Some(column) = columns.iter().find(|column| name_of(column)) else { return Ok(()) };
    Err(Error::config(
        what,
        format!("the column {} has the name of one of pg2ch's own columns in the target", column.name),
        format!("name it otherwise in the target: `rename = {{ {} = \"another_name\" }}` in [[table]]", column.name),
    ))
}

/// Whether a column other than the flag is part of the records.
fn is_sent(name: &String, config: &TableConfig) -> bool {
    match &config.columns {
        ColumnChoice::All => true,
        ColumnChoice::Only(chosen) => chosen.contains(name) || config.key.contains(name),
        ColumnChoice::AllBut(left_out) => !left_out.contains(name),
    }
}

/// How many parameters PostgreSQL finds in a statement; `refused` makes the error for one that it does not understand.
pub(super) fn understood(
    session: &mut Session,
    what: &str,
    sql: &str,
    refused: impl Fn(&str) -> Error,
) -> Result<usize> {
    // Class 42: a syntax error, or a name or type that does not fit; 22: a literal that is no value of its type.
    let is_misunderstood = |code: &SqlState| {
        *code != SqlState::INSUFFICIENT_PRIVILEGE && matches!(code.code().get(..2), Some("42" | "22"))
    };
    session.in_catalog(what, |session| {
        let prepared = session.raw(what, |client| client.prepare(sql));
        prepared.map(|statement| statement.params().len()).map_err(|error| match error.as_db_error() {
            Some(db) if is_misunderstood(db.code()) => refused(db.message()),
            _ => session.explain(what, error),
        })
    })
}

/// An identifier, quoted for SQL.
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

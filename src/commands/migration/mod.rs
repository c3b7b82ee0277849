//! The target table: as `init` creates it; and, where another pipeline has filled one that does not fit, the statements that make
//! it anew with its rows in it. `check` and `init` show those; a person runs them.

mod rows;
mod shape;

use std::collections::BTreeMap;

pub use shape::create_target;

use rows::{Field, Rows, former_name};
use shape::{target_definition, target_names};

use crate::clickhouse::{Answer, ClickHouseTarget, Http, quote, sql_name, text};
use crate::config::{DELETED_MARK, TableConfig, TargetName};
use crate::data::{INGESTED_AT, is_own};
use crate::error::Result;
use crate::fit::map::target_type;
use crate::fit::{POSITION, deletes};
use crate::outcome::backlog;
use crate::ports::LegContext;
use crate::ports::target::TargetDescription;
use crate::postgres::SourceTable;

/// Why the target's rows cannot be distinguished from those that the topic still holds: something else than pg2ch has stored them,
/// without their records' positions. `None` if that is not so.
pub fn foreign(leg: &LegContext<'_>, target: &TargetDescription) -> Result<Option<String>> {
    let (config, table) = (leg.config, leg.table);
    if POSITION.iter().all(|(name, _)| target.column(name).is_some()) {
        return Ok(None);
    }
    let is_ours = backlog::partitions(config, table, leg.watchdog)
        .is_ok_and(|(partitions, _)| partitions.iter().any(|partition| partition.trusted));
    let mut stored = ClickHouseTarget::new(config, table)?;
    let sql = format!("SELECT count() FROM (SELECT 1 FROM {} LIMIT 1) FORMAT TabSeparated", stored.sql_name());
    let what = format!("cannot look for rows in the target {}", table.target);
    if is_ours || stored.query(&what, &sql)?.trim_ascii() == b"0" {
        return Ok(None);
    }
    Ok(Some(format!(
        "{} has the engine {}, and its rows have no position: they cannot be distinguished from those that the topic still holds",
        table.target, target.engine.name
    )))
}

/// Makes the target anew and takes the rows of the old one over: in this order, each statement as it stands.
///
/// Rows without a position are not recognised as records of the topic. So they come last, after a run has copied what the topic
/// holds, and only those whose key did not come that way: under a partition that no topic has, older than any record.
///
/// Rows whose key may not be PostgreSQL's stay where they are, because nothing would ever replace them. Then the topic is not copied
/// again either: its records may have the old key, too.
///
/// A RENAME cuts the views off: no INSERT reaches them, neither of the old table nor of the new one, until they are attached again.
/// That is the last statement, so that they do not get again what they have counted.
///
/// # Errors
/// Any ClickHouse error, as the old table's new name must be free.
pub fn statements(
    http: &Http,
    table: &TableConfig,
    source: &SourceTable,
    comment: Option<&str>,
    old_table: &TargetDescription,
) -> Result<String> {
    let old = free_name(http, &table.target)?;
    let mut rows = Rows::of(table, source, old_table);
    let hidden = hide(table, source, old_table, &mut rows);
    let is_seen = !is_denied(http, &format!("EXISTS TABLE {old}"));
    let migration = Migration { table, source, old_table, old, rows, hidden };
    let statements = migration.statements(comment);
    Ok(if is_seen { statements } else { format!("{}{statements}", migration.unseen()) })
}

/// A name for the old table that no other table has, quoted.
fn free_name(http: &Http, target: &TargetName) -> Result<String> {
    let sql = format!(
        "SELECT name FROM system.tables WHERE database = {} AND startsWith(name, {})",
        text(&target.database),
        text(&format!("{}_old", target.table)),
    );
    let rows: Vec<BTreeMap<String, String>> =
        http.rows(&format!("cannot look for tables beside {target}"), &sql, &[])?;
    let taken: Vec<String> = rows.into_iter().flat_map(BTreeMap::into_values).collect();
    let names = (1..).map(|number| match number {
        1 => format!("{}_old", target.table),
        _ => format!("{}_old_{number}", target.table),
    });
    let free = names.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
    Ok(sql_name(&TargetName { table: free, ..target.clone() }))
}

/// Whether the user may not ask this.
fn is_denied(http: &Http, sql: &str) -> bool {
    matches!(http.ask(sql, &[]), Ok(Answer::Exception(exception)) if exception.is_denied())
}

/// Has the rows that the old table hides hidden by the new one. Returns the column that this rests on.
fn hide<'a>(
    table: &'a TableConfig,
    source: &SourceTable,
    old_table: &TargetDescription,
    rows: &mut Rows<'a>,
) -> Option<&'a str> {
    let (name, value) = still_deleted(table, source, old_table, rows)?;
    let field = rows.columns.iter_mut().find(|field| field.name == name)?;
    if field.value.replace(value).is_none() {
        field.type_name = target_type(field.source?);
    }
    Some(name)
}

struct Migration<'a> {
    table: &'a TableConfig,
    source: &'a SourceTable,
    old_table: &'a TargetDescription,
    /// The old table's new name, quoted.
    old: String,
    rows: Rows<'a>,
    hidden: Option<&'a str>,
}

impl Migration<'_> {
    fn statements(&self, comment: Option<&str>) -> String {
        let (name, old) = (sql_name(&self.table.target), &self.old);
        let definition = target_definition(self.table, self.source, comment, &self.rows.shape());
        let kept = if self.old_table.is_partitioned() {
            format!("-- to keep PARTITION BY {}, write it before ORDER BY\n", self.old_table.partition_key)
        } else {
            String::new()
        };
        let alone = "-- Let no other run start before the last of these statements: stop its timer first\n";
        // Where the old table's name is taken, both statements fail: nothing goes on as if it were this one.
        let made = format!(
            "{}{alone}{kept}{}RENAME TABLE {name} TO {old};\nCREATE TABLE {definition};\n",
            self.rename(),
            left_behind(self.old_table, old),
        );
        let rows = match &self.rows.positions {
            _ if !self.rows.unknown.is_empty() => self.without_rows(),
            Some(positions) => self.by_position(positions),
            None => self.by_key(),
        };
        made + &rows
    }

    /// What is to be done where the user does not see all tables.
    fn unseen(&self) -> String {
        let old = &self.old;
        format!(
            "-- Run EXISTS TABLE {old} first, which pg2ch may not ask. If it does exist, write another name in all these statements\n"
        )
    }

    /// How a column of the key that has another name now keeps its old one in the target.
    fn rename(&self) -> String {
        let Some((key, before)) = former_name(self.table, self.source, self.old_table) else { return String::new() };
        format!(
            "-- If PostgreSQL's {} is the column that was {before}, keep that name in the target, and all of its rows. Write \
             `rename = {{ {:?} = {before:?} }}` in [[table]] instead of running these statements\n",
            key.name, key.name
        )
    }

    fn without_rows(&self) -> String {
        let old = &self.old;
        format!(
            "-- No row of {old} is taken over: {}. The rows stay in {old}\n\
             -- Now `pg2ch init --start-at-end`, `pg2ch verify --repair --confirm` and `pg2ch --once`, in this order. They send all rows again \
             that PostgreSQL still has. Rows that it no longer has, e.g. pruned ones, are in {old} only{}",
            self.rows.unknown.join(", and "),
            attached_again(self.old_table, " They do not see what these commands copy.")
        )
    }

    fn by_position(&self, positions: &[Field<'_>]) -> String {
        let (name, old) = (sql_name(&self.table.target), &self.old);
        let names: Vec<String> = positions.iter().map(|field| quote(field.name)).collect();
        let values: Vec<&str> = positions.iter().filter_map(|field| field.value.as_deref()).collect();
        let (names, values) = (names.join(", "), values.join(", "));
        let (columns, taken) = self.lists();
        let (conditions, left_out) = self.left_out(positions);
        format!(
            "{}{left_out}INSERT INTO {name} ({columns}, {names}) SELECT {taken}, {values} FROM {old} \
             WHERE {conditions}({values}) NOT IN (SELECT {names} FROM {name}) {SETTINGS}, transform_null_in = 1;{}",
            self.notes(),
            attached_again(self.old_table, "")
        )
    }

    fn by_key(&self) -> String {
        let (name, old) = (sql_name(&self.table.target), &self.old);
        let positions = POSITION.map(|(name, _)| quote(name)).join(", ");
        let key = target_names(self.table, &self.source.key);
        let values: Vec<&str> = key.iter().filter_map(|name| self.rows.value(name)).collect();
        let (key, values) = (key.into_iter().map(quote).collect::<Vec<_>>().join(", "), values.join(", "));
        let (newest, version) = match &self.rows.ingested_at.value {
            Some(time) => (format!(" ORDER BY {time} DESC"), "the version that was inserted last"),
            None => (String::new(), "any version, as nothing shows the newest"),
        };
        // Rows without a position must not meet views that have counted them: what is new comes with the run after them.
        let (run, last) = if self.old_table.views.is_empty() {
            ("-- Now `pg2ch --once`: it copies what the topic still holds.".to_owned(), String::new())
        } else {
            let run = format!(
                "-- Now `pg2ch consume`: it copies what the topic still holds. The views do not see that: they have it from {old}. \
                 What {old} lacks, insert into their tables with their own SELECT."
            );
            (run, attached_again(self.old_table, " Then `pg2ch --once`: they see what it copies."))
        };
        let (columns, taken) = self.lists();
        let (conditions, left_out) = self.left_out(&[]);
        format!(
            "{run} Then the rows that only the old table has, of each \
             key {version}. `pg2ch verify --deep` shows stale ones:\n\
             {}{left_out}INSERT INTO {name} ({columns}, {positions}) SELECT {taken}, -1, toInt64(bitShiftRight(cityHash64({values}), 1)), \
             {NO_TIME} FROM {old} WHERE {conditions}({values}) NOT IN (SELECT {key} FROM {name}){newest} LIMIT 1 BY {values} \
             {SETTINGS};{last}",
            self.notes(),
        )
    }

    /// The columns that get values, without those of the position, and these values.
    fn lists(&self) -> (String, String) {
        let fields = self.rows.columns.iter().chain([&self.rows.ingested_at]);
        let filled = fields.filter_map(|field| Some((quote(field.name), field.value.as_deref()?)));
        let (columns, values): (Vec<String>, Vec<&str>) = filled.unzip();
        (columns.join(", "), values.join(", "))
    }

    /// The conditions on the rows that are taken over, and what is said of the others.
    fn left_out(&self, positions: &[Field<'_>]) -> (String, String) {
        let all = self.rows.columns.iter().chain(positions);
        let (conditions, which): (Vec<_>, Vec<_>) = all.filter_map(|field| field.left_out.clone()).unzip();
        if conditions.is_empty() {
            return (String::new(), String::new());
        }
        let old = &self.old;
        let note = format!(
            "-- rows of {old} are left out that have {}. They stay there: after the next run `pg2ch verify --repair --confirm` has those sent \
             again that PostgreSQL still has\n",
            which.join(", or ")
        );
        (conditions.iter().map(|condition| format!("{condition} AND ")).collect(), note)
    }

    fn notes(&self) -> String {
        let mut notes = self.not_taken() + &self.emptied();
        if self.rows.ingested_at.value.is_none() && self.old_table.column(INGESTED_AT).is_some() {
            notes += "-- `_ingested_at` becomes the time of this INSERT\n";
        }
        if let Some(column) = self.hidden {
            notes += &format!(
                "-- {} takes over which rows are deleted, and not since when: after the next run `pg2ch verify --deep --repair --confirm` has the \
                 rows sent again that differ\n",
                quote(column)
            );
        }
        notes
    }

    /// Names the columns whose values stay in the old table.
    fn not_taken(&self) -> String {
        let is_made = |name: &str| {
            is_own(name)
                || (name == DELETED_MARK && self.source.deleted.is_some())
                || self.rows.columns.iter().any(|field| field.name == name)
        };
        let names = self.old_table.columns.iter().map(|column| column.name.as_str());
        let left: Vec<String> = names.filter(|name| !is_made(name)).map(quote).collect();
        if left.is_empty() {
            return String::new();
        }
        format!(
            "-- not taken over from {}: {}. To keep them, add them to CREATE TABLE and to both lists of columns in INSERT\n",
            self.old,
            left.join(", ")
        )
    }

    /// Names the columns that the rows have no value for.
    fn emptied(&self) -> String {
        let empty = self.rows.columns.iter().filter(|field| field.value.is_none());
        let (lacking, changed): (Vec<_>, Vec<_>) = empty.partition(|field| self.old_table.column(field.name).is_none());
        let named =
            |fields: Vec<&Field<'_>>| fields.iter().map(|field| quote(field.name)).collect::<Vec<_>>().join(", ");
        let reasons = [
            (named(lacking), format!("{} has no such column", self.old)),
            (named(changed), "ClickHouse does not convert the stored values unchanged".to_owned()),
        ];
        let is_meant = |(names, _): &&(String, String)| !names.is_empty();
        let note = |(names, why): &(String, String)| format!("-- {names}: NULL in these rows, because {why}\n");
        let notes: String = reasons.iter().filter(is_meant).map(note).collect();
        if notes.is_empty() {
            return notes;
        }
        format!(
            "{notes}-- Where PostgreSQL still has the row: after the next run `pg2ch verify --deep --repair --confirm` has it sent again. Of other rows \
             only {} has these values\n",
            self.old
        )
    }
}

/// ClickHouse would silently put a default in place of a NULL, and leave out older versions of a row.
const SETTINGS: &str = "SETTINGS insert_null_as_default = 0, optimize_on_insert = 0";

/// The time of a row whose record is not known: any version that comes is newer.
const NO_TIME: &str = "toDateTime64(0, 3, 'UTC')";

/// The column that `deleted` names, and what hides the rows that the old table hides, where that does not follow from the column's
/// own values: it was renamed, or has got another type, so that all of these rows would show again.
fn still_deleted<'a>(
    table: &'a TableConfig,
    source: &SourceTable,
    old_table: &TargetDescription,
    rows: &Rows<'_>,
) -> Option<(&'a str, String)> {
    let deleted = source.deleted.as_ref()?;
    let name = deletes::column(table)?;
    let (is_boolean, column) = (deleted.base_type == "boolean", quote(name));
    let is_taken = rows.value(name).is_some();
    // What is made of other columns of the source never said what is deleted.
    let others = target_names(table, &source.columns).into_iter().filter(|other| *other != name);
    let by = old_table.engine.argument(1).filter(|by| !others.into_iter().any(|other| old_table.is_made_of(by, other)));
    let is_hidden = match (by, old_table.column(name).map(|old| old.type_name.as_str())) {
        (Some(by), _) if is_taken && old_table.is_made_of(&by, name) => return None,
        (Some(by), _) => format!("{} = 1", quote(&by)),
        (None, Some("Bool" | "Nullable(Bool)")) if !is_taken => format!("ifNull({column}, FALSE)"),
        (None, Some(old)) if !is_taken && old.starts_with("Nullable(Date") => format!("isNotNull({column})"),
        _ => return None,
    };
    let time = rows.positions.iter().flatten().find(|field| field.name == POSITION[2].0);
    let time = time.and_then(|field| field.value.as_deref()).unwrap_or(NO_TIME);
    let (hides, shows) = if is_boolean { ("TRUE", "FALSE") } else { (time, "NULL") };
    let shown = match (is_taken, deleted.not_null) {
        (true, true) => format!("ifNull({column}, {shows})"),
        (true, false) => column,
        (false, _) => shows.to_owned(),
    };
    Some((name, format!("if({is_hidden}, {hides}, {shown})")))
}

/// Names what else of the old table's own definition the new one does not get.
fn left_behind(old_table: &TargetDescription, old: &str) -> String {
    // pg2ch's own index is in both.
    let definition = old_table.definition.replace("INDEX `_position` ", "").replace("INDEX _position ", "");
    let parts = [
        (" CODEC(", "codecs"),
        (" CONSTRAINT ", "constraints"),
        (" PROJECTION ", "projections"),
        (" INDEX ", "indexes"),
        (" TTL ", "TTL"),
        (" COMMENT ", "comments"),
    ];
    let found: Vec<&str> =
        parts.iter().filter(|(word, _)| definition.contains(word)).map(|(_, plural)| *plural).collect();
    if found.is_empty() {
        return String::new();
    }
    format!(
        "-- the new table does not get the {} of the old one: afterwards SHOW CREATE TABLE {old} shows them\n",
        found.join(", ")
    )
}

/// Binds the views to the new table: they read the table that they have found when they were attached.
fn attached_again(old_table: &TargetDescription, then: &str) -> String {
    let views = old_table.views.iter().map(|view| &view.name);
    let statements: Vec<String> =
        views.map(|view| format!("\nDETACH TABLE {view} SYNC;\nATTACH TABLE {view};")).collect();
    if statements.is_empty() {
        return String::new();
    }
    format!("\n-- RENAME has cut the views off: this binds them to the new table.{then}{}", statements.concat())
}

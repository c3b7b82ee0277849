//! The materialized views behind a table, down the chain, and the tables that they fill.

use std::collections::HashMap;

use serde::Deserialize;

use super::sql::{is_uuid, quote, text};
use super::target_table::ClickHouseTarget;
use crate::error::Result;
use crate::ports::engine::{Engine, Window, is_partitioned, unescaped};
use crate::ports::layout::Layout;
use crate::ports::target::View;

/// A chain longer than this is a circle, which the server itself would refuse.
const LONGEST: usize = 1_000;

type Name = (String, String);

#[derive(Deserialize)]
struct Row {
    database: String,
    name: String,
    uuid: String,
    engine: String,
    engine_full: String,
    partition_key: String,
    create_table_query: String,
    dependencies_database: Vec<String>,
    dependencies_table: Vec<String>,
}

impl ClickHouseTarget {
    /// The views that see what is inserted into a table with these dependents.
    pub(super) fn views(&mut self, dependents: Vec<Name>) -> Result<Vec<View>> {
        let (mut found, mut wanted) = (Vec::new(), dependents);
        let mut seen: Vec<Name> = Vec::new();
        while !wanted.is_empty() && seen.len() < LONGEST {
            wanted.retain(|name| !seen.contains(name));
            seen.extend(wanted.iter().cloned());
            let views = self.tables(&wanted)?;
            let filled: HashMap<&Name, Option<Name>> =
                wanted.iter().map(|name| (name, views.get(name).and_then(filled_by))).collect();
            let tables: Vec<Name> = filled.values().flatten().cloned().collect();
            let tables = self.tables(&tables)?;
            let mut next = Vec::new();
            for name in &wanted {
                let view = views.get(name);
                if view.is_some_and(|view| view.engine != "MaterializedView" || is_refreshed(view)) {
                    continue;
                }
                let table = filled.get(name).and_then(Option::as_ref);
                let row = table.and_then(|table| tables.get(table));
                let engine = row.map(|row| Engine::parse(&row.engine, &row.engine_full));
                found.push(View {
                    name: quoted(name),
                    table: table.map(quoted).unwrap_or_default(),
                    window: match (&engine, table) {
                        (Some(engine), _) => engine.window(),
                        (None, Some(table)) if self.is_dropped(table) => Window::Dropped,
                        (None, _) => Window::Unknown,
                    },
                    layout: engine.as_ref().map_or(Layout::Here, Engine::layout),
                    is_partitioned: row.is_some_and(|row| is_partitioned(&row.partition_key)),
                });
                for row in view.into_iter().chain(row) {
                    next.extend(row.dependencies_database.iter().cloned().zip(row.dependencies_table.iter().cloned()));
                }
            }
            wanted = next;
        }
        Ok(found)
    }

    /// Whether a table that is not shown does not exist: about one that is only hidden from the user, the server refuses to say.
    fn is_dropped(&self, table: &Name) -> bool {
        self.http().says(&format!("EXISTS TABLE {} FORMAT TabSeparated", quoted(table)), "0")
    }

    /// What the server shows of these tables.
    fn tables(&self, names: &[Name]) -> Result<HashMap<Name, Row>> {
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        let list: Vec<String> =
            names.iter().map(|(database, name)| format!("({}, {})", text(database), text(name))).collect();
        let sql = format!(
            "SELECT database, name, toString(uuid) AS uuid, engine, engine_full, partition_key, create_table_query, \
             dependencies_database, dependencies_table FROM system.tables WHERE (database, name) IN ({})",
            list.join(", ")
        );
        let what = format!("cannot look up the views of {}", self.name());
        let rows: Vec<Row> = self.http().rows(&what, &sql, &[])?;
        Ok(rows.into_iter().map(|row| ((row.database.clone(), row.name.clone()), row)).collect())
    }
}

fn quoted((database, name): &Name) -> String {
    format!("{}.{}", quote(database), quote(name))
}

/// A view that is computed by the clock sees no INSERT.
fn is_refreshed(view: &Row) -> bool {
    let head = view.create_table_query.split(" AS SELECT ").next().unwrap_or_default();
    head.contains(" REFRESH EVERY ") || head.contains(" REFRESH AFTER ")
}

/// The table that a view fills: the one that it names, or its inner one.
fn filled_by(view: &Row) -> Option<Name> {
    let after_name = view.create_table_query.strip_prefix("CREATE MATERIALIZED VIEW ")?;
    let (_, rest) = table_name(after_name)?;
    if let Some(named) = rest.trim_start().strip_prefix("TO ") {
        return table_name(named).map(|(name, _)| name);
    }
    let inner = if is_uuid(&view.uuid) { format!(".inner_id.{}", view.uuid) } else { format!(".inner.{}", view.name) };
    Some((view.database.clone(), inner))
}

/// Reads `database.table`, each quoted where need be; also returns the rest.
fn table_name(text: &str) -> Option<(Name, &str)> {
    let (database, rest) = identifier(text)?;
    let (table, rest) = identifier(rest.strip_prefix('.')?)?;
    Some(((database, table), rest))
}

fn identifier(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('`') else {
        let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let (mut name, mut characters) = (String::new(), quoted.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '`' => return Some((name, &quoted[at + 1..])),
            '\\' => name.push(unescaped(characters.next()?.1)),
            plain => name.push(plain),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_behind_a_view_is_found() {
        let view = |statement: &str, uuid: &str| Row {
            database: "d".into(),
            name: "v".into(),
            uuid: uuid.into(),
            engine: "MaterializedView".into(),
            engine_full: String::new(),
            partition_key: String::new(),
            create_table_query: statement.into(),
            dependencies_database: Vec::new(),
            dependencies_table: Vec::new(),
        };
        let of = |statement, uuid| filled_by(&view(statement, uuid)).unwrap();
        let named = |database: &str, table: &str| (database.to_owned(), table.to_owned());
        assert_eq!(
            of("CREATE MATERIALIZED VIEW d.v TO e.`od\\`d\\tt` (`n` Int8) AS SELECT 1", "1-2"),
            named("e", "od`d\tt")
        );
        assert_eq!(
            of("CREATE MATERIALIZED VIEW d.`v TO x.y` (`n` Int8) ENGINE = Log AS SELECT 1", "1-2"),
            named("d", ".inner_id.1-2")
        );
        assert_eq!(of("CREATE MATERIALIZED VIEW d.v (`n` Int8) AS SELECT 1", "0000-00"), named("d", ".inner.v"));
        assert!(is_refreshed(&view("CREATE MATERIALIZED VIEW d.v REFRESH EVERY 1 DAY TO d.t AS SELECT 1", "")));
    }
}

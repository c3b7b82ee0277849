//! The partial index of unsent rows: without it every batch reads the whole table.

use std::time::Duration;

use postgres::error::SqlState;

use super::session::Session;
use super::source_table::{SourceTable, quote};
use crate::error::Result;

/// The names of an index's columns, in order; nothing for an expression. The index's row is `i`.
const INDEX_COLUMNS: &str = "ARRAY(SELECT coalesce(a.attname::text, '')
    FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, n)
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
    ORDER BY k.n)";

/// Whether a source has the index that its reader needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnsentIndex {
    Fit,
    /// It has one of all unsent rows, those outside the condition among them; this statement makes a smaller one.
    Wide(String),
    /// It has none; this statement makes it.
    Missing(String),
}

impl UnsentIndex {
    /// Looks it up.
    pub fn find(session: &mut Session, table: &SourceTable) -> Result<Self> {
        let what = format!("cannot look up the index of unsent rows of {}", table.name);
        // A predicate's text depends on the search path.
        session.in_catalog(&what, |session| {
            let unsent: Option<String> = session.value(&what, "SELECT format('(NOT %I)', $1::text)", &[&table.flag])?;
            let order: Vec<String> = table.order_columns().into_iter().map(str::to_owned).collect();
            let within = if table.has_condition() { predicate_within(session, table, &what)? } else { None };
            let mut has = |predicate: &Option<String>| -> Result<bool> {
                let found = session.query(
                    &what,
                    &format!(
                        "SELECT {INDEX_COLUMNS} FROM pg_catalog.pg_index i
                         WHERE indrelid = $1 AND indisvalid AND pg_catalog.pg_get_expr(indpred, indrelid) = $2"
                    ),
                    &[&table.oid, predicate],
                )?;
                // Without an order the key's own index sorts as well.
                let sorts = |row: &postgres::Row| row.get::<_, Vec<String>>(0).starts_with(&order);
                Ok(found.iter().any(|row| !table.has_order() || sorts(row)))
            };
            Ok(match within {
                Some(_) if has(&within)? => Self::Fit,
                Some(_) if has(&unsent)? => Self::Wide(statement(table, true)),
                Some(_) => Self::Missing(statement(table, true)),
                None if has(&unsent)? => Self::Fit,
                None => Self::Missing(statement(table, false)),
            })
        })
    }
}

/// How long an index of a large table may take. It is built beside the table's readers and writers, and waits for every transaction
/// that is older.
const LONGEST_BUILD: Duration = Duration::from_secs(24 * 3600);

/// Drops an index that is not valid, by its statement, which waits for every transaction that is older.
pub fn drop_index(session: &mut Session, table: &SourceTable, statement: &str) -> Result<()> {
    session.execute_within(LONGEST_BUILD, &format!("cannot drop an invalid index of {}", table.name), statement)
}

/// Builds the index by its `statement`. What a build that fails leaves is dropped.
pub fn build_index(session: &mut Session, table: &SourceTable, statement: &str) -> Result<()> {
    let what = format!("cannot create the index of unsent rows of {}", table.name);
    session.in_catalog(&what, |session| {
        if table.is_partitioned {
            // Nobody writes to the table meanwhile.
            return session.execute_batch(&what, statement);
        }
        log::info!("an index of {} is built, which may take as long as the table is large", table.name);
        let built = session.execute_within(LONGEST_BUILD, &what, statement);
        if built.is_err() {
            for left in invalid_indexes(session, table).unwrap_or_default() {
                let dropped = session.execute_batch(&what, &left);
                dropped.unwrap_or_else(|error| log::warn!("{error}"));
            }
        }
        built
    })
}

/// The statements that drop what interrupted builds of the index have left: every write keeps it up to date, and no query uses it
/// (<https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY>). Others' indexes are none of
/// pg2ch's business, nor is one that is being built; whose build that is, a role without `pg_read_all_stats` may not see.
pub fn invalid_indexes(session: &mut Session, table: &SourceTable) -> Result<Vec<String>> {
    let what = format!("cannot look up the indexes of {}", table.name);
    let columns: Vec<&str> = table.order_columns();
    let sql = format!(
        "SELECT pg_catalog.format('DROP INDEX CONCURRENTLY %I.%I', n.nspname, c.relname)
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
              JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE i.indrelid = $1 AND NOT i.indisvalid AND NOT i.indisunique AND c.relkind = 'i'
           AND pg_catalog.strpos(pg_catalog.pg_get_expr(i.indpred, i.indrelid), pg_catalog.format('(NOT %I)', $2::text)) > 0
           AND {INDEX_COLUMNS} = $3
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p
                           WHERE p.datname = pg_catalog.current_database() AND coalesce(p.index_relid, i.indexrelid) = i.indexrelid)"
    );
    let found = session.query(&what, &sql, &[&table.oid, &table.flag, &columns])?;
    Ok(found.iter().map(|row| row.get(0)).collect())
}

fn statement(table: &SourceTable, within: bool) -> String {
    let columns: Vec<_> = table.order_columns().into_iter().map(quote).collect();
    // A partitioned table's index cannot be built beside its writers.
    let concurrently = if table.is_partitioned { "" } else { "CONCURRENTLY " };
    let condition = if within { format!(" AND {}", table.taken_sql()) } else { String::new() };
    format!(
        "CREATE INDEX {concurrently}ON {} ({}) WHERE NOT {}{condition}",
        table.name,
        columns.join(", "),
        table.flag_sql()
    )
}

/// The predicate as the catalogue would show it: an empty table of the same columns shows it. `None` where an index cannot have
/// the condition (it holds a subquery, or changes with time), or where the role may not make the table.
fn predicate_within(session: &mut Session, table: &SourceTable, what: &str) -> Result<Option<String>> {
    let sql = format!(
        "CREATE TEMPORARY TABLE pg2ch_index (LIKE {}); CREATE INDEX ON pg_temp.pg2ch_index (({})) WHERE NOT {} AND {}",
        table.name,
        table.flag_sql(),
        table.flag_sql(),
        table.taken_sql()
    );
    let told = session.raw(what, |client| {
        // Never committed.
        let mut transaction = client.transaction()?;
        transaction.batch_execute(&sql)?;
        transaction.query_one(
            "SELECT pg_catalog.pg_get_expr(indpred, indrelid) FROM pg_catalog.pg_index
             WHERE indrelid = 'pg_temp.pg2ch_index'::regclass",
            &[],
        )
    });
    match told {
        Ok(row) => Ok(row.get(0)),
        Err(error) => match error.code() {
            Some(
                &SqlState::INVALID_OBJECT_DEFINITION
                | &SqlState::FEATURE_NOT_SUPPORTED
                | &SqlState::INSUFFICIENT_PRIVILEGE,
            ) => Ok(None),
            _ => Err(session.explain(what, error)),
        },
    }
}

//! What the catalogue says about a table, fit as a source or not.

use super::session::Session;
use crate::error::Result;
use crate::ports::source::{AsKey, SourceColumn};

/// The name under which PostgreSQL knows the table that a parameter names, as an expression: the one that checkpoint, lock and
/// history go by. NULL where there is no such table.
#[must_use]
pub fn name_sql(parameter: &str) -> String {
    format!(
        "(SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass({parameter}))"
    )
}

/// Something of the name that the configuration gives, fit or not.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its OID.
    pub oid: u32,
    /// `schema.table`, quoted where needed.
    pub name: String,
    /// The database.
    pub database: String,
    /// Whether it has partitions.
    pub is_partitioned: bool,
    /// `pg_class.relkind`.
    kind: String,
    /// Whether it is no partitioned table, and other tables inherit from it.
    has_heirs: bool,
}

impl Relation {
    /// Looks a table up; `None` if there is nothing of this name.
    ///
    /// # Errors
    /// PostgreSQL's.
    pub fn look_up(session: &mut Session, source: &str) -> Result<Option<Self>> {
        let row = session.query_opt(
            &format!("cannot look up table {source}"),
            "SELECT c.oid, format('%I.%I', n.nspname, c.relname), current_database()::text, c.relkind::text,
                    c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid)
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             WHERE c.oid = pg_catalog.to_regclass($1)",
            &[&source],
        )?;
        Ok(row.map(|row| {
            let kind: String = row.get(3);
            Self {
                oid: row.get(0),
                name: row.get(1),
                database: row.get(2),
                is_partitioned: kind == "p",
                kind,
                has_heirs: row.get(4),
            }
        }))
    }

    /// Why it cannot be a source, if it cannot.
    #[must_use]
    pub fn unfit(&self) -> Option<String> {
        let name = &self.name;
        let other = match self.kind.as_str() {
            "r" if self.has_heirs => {
                return Some(format!("other tables inherit from {name}: no index keeps a key unique in all of them"));
            }
            "r" | "p" => return None,
            "v" => "a view",
            "m" => "a materialized view",
            "f" => "a foreign table",
            _ => "something else",
        };
        Some(format!("{name} is {other}, not a table"))
    }
}

/// Whether a unique index covers exactly these columns, and takes for equal what the columns themselves do: one with another
/// collation or operator class may let in two keys that a comparison of the column takes for one.
///
/// # Errors
/// PostgreSQL's.
pub fn has_unique_index(session: &mut Session, oid: u32, name: &str, columns: &[&str]) -> Result<bool> {
    let found = session.query_opt(
        &format!("cannot look up the indexes of {name}"),
        "SELECT 1 FROM pg_catalog.pg_index i
         WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
           AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
             = (SELECT array_agg(k ORDER BY k COLLATE \"C\") FROM unnest($2::text[]) AS k)
           AND NOT EXISTS (
               SELECT FROM unnest(i.indkey::int2[], i.indclass::oid[], i.indcollation::oid[]) WITH ORDINALITY AS k (attnum, class, coll, n)
               JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
               LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
               WHERE k.n <= i.indnkeyatts AND (k.coll <> a.attcollation AND NOT l.collisdeterministic OR EXISTS (
                   SELECT FROM pg_catalog.pg_opclass c
                   JOIN pg_catalog.pg_opclass d ON d.opcmethod = c.opcmethod AND d.opcdefault AND d.opcintype = a.atttypid
                   JOIN pg_catalog.pg_amop used ON used.amopfamily = c.opcfamily AND used.amopstrategy = 3
                       AND used.amoplefttype = c.opcintype AND used.amoprighttype = c.opcintype
                   JOIN pg_catalog.pg_amop usual ON usual.amopfamily = d.opcfamily AND usual.amopstrategy = 3
                       AND usual.amoplefttype = d.opcintype AND usual.amoprighttype = d.opcintype
                   WHERE c.oid = k.class AND used.amopopr <> usual.amopopr)))
         LIMIT 1",
        &[&oid, &columns],
    )?;
    Ok(found.is_some())
}

/// A table's comment.
///
/// # Errors
/// PostgreSQL's.
pub fn table_comment(session: &mut Session, oid: u32, name: &str) -> Result<Option<String>> {
    let what = format!("cannot look up the comment of {name}");
    let row = session.query_opt(&what, "SELECT pg_catalog.obj_description($1, 'pg_class')", &[&oid])?;
    Ok(row.and_then(|row| row.get(0)))
}

/// The columns of a table, in its order; their types as they are written where names are looked up in pg_catalog only.
///
/// # Errors
/// PostgreSQL's.
pub fn read_columns(session: &mut Session, oid: u32, name: &str) -> Result<Vec<SourceColumn>> {
    let rows = session.query(
        &format!("cannot look up the columns of {name}"),
        "WITH RECURSIVE pinned AS MATERIALIZED (SELECT pg_catalog.set_config('search_path', 'pg_catalog', true)),
         base (attnum, type, modifier, is_array) AS (
             SELECT attnum, atttypid, atttypmod, FALSE FROM pg_catalog.pg_attribute
             WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
             UNION ALL
             SELECT b.attnum, coalesce(e.oid, t.typbasetype), CASE WHEN e.oid IS NULL THEN t.typtypmod ELSE b.modifier END,
                b.is_array OR e.oid IS NOT NULL
             FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.type
             LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem AND e.typarray = t.oid AND NOT b.is_array
             WHERE t.typtype = 'd' OR e.oid IS NOT NULL)
         SELECT attname::text, pg_catalog.format_type(atttypid, atttypmod), attnotnull,
                pg_catalog.col_description(attrelid, a.attnum), pg_catalog.format_type(b.type, b.modifier) || CASE WHEN b.is_array THEN '[]' ELSE '' END,
                t.typtype = 'e' AND NOT b.is_array,
                coalesce((SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_opclass c
                    JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
                    JOIN pg_catalog.pg_amop o ON o.amopfamily = c.opcfamily AND o.amopstrategy = 5
                        AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype
                    JOIN pg_catalog.pg_operator p ON p.oid = o.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace
                    WHERE c.opcintype = t.oid AND c.opcdefault AND NOT b.is_array), 'pg_catalog'),
                b.is_array OR t.typcategory IN ('A', 'C', 'U')
         FROM pinned CROSS JOIN pg_catalog.pg_attribute a JOIN base b USING (attnum) JOIN pg_catalog.pg_type t ON t.oid = b.type
         WHERE attrelid = $1 AND t.typtype <> 'd'
           AND (b.is_array OR NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid))
         ORDER BY a.attnum",
        &[&oid],
    )?;
    Ok(rows
        .iter()
        .map(|row| SourceColumn {
            name: row.get(0),
            type_name: row.get(1),
            not_null: row.get(2),
            comment: row.get(3),
            base_type: row.get(4),
            is_enum: row.get(5),
            as_key: AsKey { operators: row.get(6), is_text_in_json: row.get(7) },
        })
        .collect())
}

//! What the catalogue says about a table, fit as a source or not.

use postgres::SimpleQueryRow;

use super::answers::{Answers, is_true};
use super::session::{Session, literal};
use crate::config::TableConfig;
use crate::error::{Error, Result};
use crate::ports::source::{AsKey, SourceColumn};

/// The name under which PostgreSQL knows the table that a parameter names, as an expression: the one that checkpoint, lock and
/// history go by. NULL where there is no such table.
pub fn name_sql(parameter: &str) -> String {
    format!(
        "(SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass({parameter}))"
    )
}

/// A source as the catalogue shows it, fit or not.
#[derive(Clone, Debug)]
pub struct Catalogue {
    /// What bears its name.
    pub relation: Relation,
    /// Its columns, in its order; their types as they are written where names are looked up in pg_catalog only.
    pub columns: Vec<SourceColumn>,
    /// Whether a unique index covers exactly the key's columns, and takes for equal what the columns themselves do: one with
    /// another collation or operator class may let in two keys that a comparison of the column takes for one.
    pub has_unique_index: bool,
}

impl Catalogue {
    /// Looks a source up; `None` if there is nothing of its name.
    pub fn look_up(session: &mut Session, config: &TableConfig) -> Result<Option<Self>> {
        let answers = session.script(&format!("cannot look up table {}", config.source), &Self::sql(config))?;
        Ok(Self::of(&answers))
    }

    /// What asks for it, in three statements. Behind them names are looked up in pg_catalog only, until the transaction ends.
    pub(super) fn sql(config: &TableConfig) -> String {
        let oid = format!("pg_catalog.to_regclass({})", literal(&config.source));
        format!(
            "{}; {}; {}",
            relation_sql(&oid, &config.apart_from),
            unique_index_sql(&oid, &config.key),
            columns_sql(&oid)
        )
    }

    pub(super) fn of(answers: &Answers) -> Option<Self> {
        let [relation, unique_index, columns, ..] = answers.as_slice() else { return None };
        let relation = Relation::of(relation.first()?)?;
        let columns = columns.iter().map(column_of).collect();
        Some(Self { relation, columns, has_unique_index: !unique_index.is_empty() })
    }
}

/// Something of the name that the configuration gives.
#[derive(Clone, Debug)]
pub struct Relation {
    pub oid: u32,
    /// `schema.table`, quoted where needed.
    pub name: String,
    pub database: String,
    pub is_partitioned: bool,
    /// `pg_class.relkind`.
    kind: String,
    /// Whether it is no partitioned table, and other tables inherit from it.
    has_heirs: bool,
    /// A source of the configuration of which it is a part, where their rows must be apart.
    whole: Option<String>,
}

impl Relation {
    fn of(row: &SimpleQueryRow) -> Option<Self> {
        let text = |at| Some(row.get(at)?.to_owned());
        let kind = text(3)?;
        Some(Self {
            oid: row.get(0)?.parse().ok()?,
            name: text(1)?,
            database: text(2)?,
            is_partitioned: kind == "p",
            kind,
            has_heirs: is_true(row, 4),
            whole: text(5),
        })
    }

    /// Why it cannot be a source, if it cannot.
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

    /// That no other source of the configuration has its rows as well: each would be sent for one of the two only.
    ///
    /// # Errors
    /// 78 if one has.
    pub fn require_apart(&self) -> Result<()> {
        let Some(whole) = &self.whole else { return Ok(()) };
        Err(Error::config(
            format!("cannot use table {} as the source", self.name),
            format!(
                "it is a part of {whole}, which is a `source` as well, and each row would go to the target of one of the two only"
            ),
            "keep one of the two [[table]], or divide the rows by `where`",
        ))
    }
}

pub fn table_comment(session: &mut Session, oid: u32, name: &str) -> Result<Option<String>> {
    let what = format!("cannot look up the comment of {name}");
    session.value(&what, "SELECT pg_catalog.obj_description($1, 'pg_class')", &[&oid])
}

/// The names of all columns of a table, in its order.
pub fn column_names(session: &mut Session, oid: u32, name: &str) -> Result<Vec<String>> {
    let rows = session.query(
        &format!("cannot look up the columns of {name}"),
        "SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        &[&oid],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

fn relation_sql(oid: &str, apart_from: &[String]) -> String {
    let others: Vec<_> = apart_from.iter().map(|other| literal(other)).collect();
    format!(
        "SELECT c.oid, format('%I.%I', n.nspname, c.relname), current_database()::text, c.relkind::text,
                c.relkind = 'r' AND EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid),
                CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) THEN (
                    WITH RECURSIVE above (oid) AS (
                        SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = c.oid
                        UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN above a ON i.inhrelid = a.oid)
                    SELECT s FROM unnest(ARRAY[{others}]::text[]) AS s
                    WHERE pg_catalog.to_regclass(s) IN (SELECT oid FROM above) LIMIT 1) END
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = {oid}",
        others = others.join(", ")
    )
}

/// Has a row if there is such an index.
fn unique_index_sql(oid: &str, columns: &[String]) -> String {
    let columns: Vec<_> = columns.iter().map(|column| literal(column)).collect();
    format!(
        "SELECT 1 FROM pg_catalog.pg_index i
         WHERE i.indrelid = {oid} AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
           AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
             = (SELECT array_agg(k ORDER BY k COLLATE \"C\") FROM unnest(ARRAY[{columns}]::text[]) AS k)
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
        columns = columns.join(", "),
    )
}

/// Types are looked up one by one, by index (`OFFSET 0` keeps the planner from joining): every table of the database has two.
fn columns_sql(oid: &str) -> String {
    format!(
        "WITH RECURSIVE named AS MATERIALIZED (SELECT {oid} AS oid),
         pinned AS MATERIALIZED (SELECT oid, pg_catalog.set_config('search_path', 'pg_catalog', true) FROM named),
         base (attnum, type, modifier, is_array) AS (
             SELECT attnum, atttypid, atttypmod, FALSE FROM pinned JOIN pg_catalog.pg_attribute ON attrelid = pinned.oid
             WHERE attnum > 0 AND NOT attisdropped
             UNION ALL
             SELECT b.attnum, coalesce(t.element, t.typbasetype),
                CASE WHEN t.element IS NULL THEN t.typtypmod ELSE b.modifier END, b.is_array OR t.element IS NOT NULL
             FROM base b CROSS JOIN LATERAL (
                 SELECT typtype, typbasetype, typtypmod,
                     (SELECT e.oid FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid AND NOT b.is_array) AS element
                 FROM pg_catalog.pg_type t WHERE t.oid = b.type OFFSET 0) AS t
             WHERE t.typtype = 'd' OR t.element IS NOT NULL)
         SELECT attname::text, pg_catalog.format_type(atttypid, atttypmod), attnotnull,
                pg_catalog.col_description(attrelid, a.attnum), pg_catalog.format_type(b.type, b.modifier) || CASE WHEN b.is_array THEN '[]' ELSE '' END,
                t.typtype = 'e' AND NOT b.is_array,
                coalesce((SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_opclass c
                    JOIN pg_catalog.pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
                    JOIN pg_catalog.pg_amop o ON o.amopfamily = c.opcfamily AND o.amopstrategy = 5
                        AND o.amoplefttype = c.opcintype AND o.amoprighttype = c.opcintype
                    JOIN pg_catalog.pg_operator p ON p.oid = o.amopopr JOIN pg_catalog.pg_namespace n ON n.oid = p.oprnamespace
                    WHERE c.opcintype = t.oid AND c.opcdefault AND NOT b.is_array), 'pg_catalog'),
                b.is_array OR t.typcategory IN ('A', 'C', 'U'), t.typtype = 'c'
         FROM pinned JOIN pg_catalog.pg_attribute a ON a.attrelid = pinned.oid JOIN base b USING (attnum) JOIN pg_catalog.pg_type t ON t.oid = b.type
         WHERE t.typtype <> 'd'
           AND (b.is_array OR NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.oid = t.typelem AND e.typarray = t.oid))
         ORDER BY a.attnum"
    )
}

fn column_of(row: &SimpleQueryRow) -> SourceColumn {
    let text = |at| row.get(at).unwrap_or_default().to_owned();
    SourceColumn {
        name: text(0),
        type_name: text(1),
        not_null: is_true(row, 2),
        comment: row.get(3).map(str::to_owned),
        base_type: text(4),
        is_enum: is_true(row, 5),
        as_key: AsKey { operators: text(6), is_text_in_json: is_true(row, 7) },
        is_composite: is_true(row, 8),
    }
}

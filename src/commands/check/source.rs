//! The source table: its columns, its key, its flag, its index of unsent rows.

use super::finding::{Findings, Severity};
use super::{Source, deletes, order};
use crate::config::{ColumnRules, Config, TableConfig};
use crate::error::{Error, ExitCode, Result};
use crate::ports::source::SourceColumn;
use crate::postgres::{
    COUNTED, Catalogue, Relation, Session, SourceTable, UnsentIndex, add_flag, quote, require_flaggable, table_comment,
};

/// A table that exists, fit or not.
pub struct Found {
    pub relation: Relation,
    /// The flag's name, if the table has such a column.
    pub flag: Option<String>,
    /// The whole, if it is fit.
    pub source: Option<Source>,
    /// What the role was refused, so that the whole is not known.
    pub refused: Option<Error>,
}

/// Looks the table up; `None` if there is nothing to look at.
pub fn check(
    session: &mut Session,
    config: &Config,
    table: &TableConfig,
    findings: &mut Findings,
) -> Result<Option<Found>> {
    let Some(Catalogue { relation, columns, has_unique_index }) = Catalogue::look_up(session, table)? else {
        findings.error(
            "source-missing",
            format!("table {} does not exist in the database", table.source),
            "there is nothing to move",
            "correct `source` in [[table]], or the database in [postgres] url",
        );
        return Ok(None);
    };
    if let Some(why) = relation.unfit() {
        findings.error(
            "source-kind",
            why,
            "its rows cannot be flagged safely",
            "name an ordinary or a partitioned table, or a partition, as `source` in [[table]]",
        );
        return Ok(None);
    }
    overlap(session, config, table, &relation, findings)?;
    let mut found = Found { relation, flag: None, source: None, refused: None };
    flag(session, table, &columns, &mut found, findings)?;
    let key_is_fit = key(table, &columns, &found, has_unique_index, findings);
    if !key_is_fit || found.flag.is_none() {
        return Ok(Some(found));
    }
    let source = match fit_source(session, table) {
        Err(error) if error.exit_code() == ExitCode::Config => {
            let what = format!("{}: {}", error.what(), error.why());
            let fix = match error.why() {
                why if why.contains("(55000") => replica_identity(session, &found, &table.key)?,
                why if why.contains("(42P10") => publication(session, &found)?,
                _ => Some(error.hint().to_owned()),
            };
            let fix = fix.unwrap_or_else(|| {
                let name = &found.relation.name;
                format!(
                    "look at the publications of {name} (pg_publication_tables lists them) and at its rules: each column of a \
                     publication's WHERE must be in the replica identity, and that in each column list"
                )
            });
            findings.error("source-unfit", what, "a run will not start", fix);
            return Ok(Some(found));
        }
        source => source.and_then(|source| whole(session, &table.column_rules, source, findings)),
    };
    match source {
        Ok(source) => found.source = Some(source),
        Err(error) if error.exit_code() == ExitCode::Permission => found.refused = Some(error),
        Err(error) => return Err(error),
    }
    Ok(Some(found))
}

fn whole(session: &mut Session, rules: &ColumnRules, source: SourceTable, findings: &mut Findings) -> Result<Source> {
    index(session, &source, findings)?;
    made_of_the_flag(session, rules, &source, findings)?;
    condition(session, &source, findings)?;
    deletes::condition(session, &source, findings)?;
    order::check(session, &source, findings)?;
    let comment = table_comment(session, source.oid, &source.name)?;
    Ok(Source { table: source, comment })
}

/// Another source whose rows are this one's as well: each row would go only to the one that comes first.
fn overlap(
    session: &mut Session,
    config: &Config,
    table: &TableConfig,
    Relation { oid, name, .. }: &Relation,
    findings: &mut Findings,
) -> Result<()> {
    let is_other = |other: &&TableConfig| other.source != table.source && other.flag == table.flag;
    let others: Vec<&str> = config.tables.iter().filter(is_other).map(|other| other.source.as_str()).collect();
    if others.is_empty() {
        return Ok(());
    }
    let rows = session.query(
        &format!("cannot look up the partitions of {name}"),
        "WITH RECURSIVE above (oid) AS (
             SELECT inhparent FROM pg_catalog.pg_inherits WHERE inhrelid = $1
             UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN above ON i.inhrelid = above.oid),
         below (oid) AS (
             SELECT inhrelid FROM pg_catalog.pg_inherits WHERE inhparent = $1
             UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN below ON i.inhparent = below.oid)
         SELECT s, pg_catalog.to_regclass(s) IN (SELECT oid FROM above) FROM unnest($2::text[]) AS s
         WHERE pg_catalog.to_regclass(s) IN (SELECT oid FROM above UNION ALL SELECT oid FROM below)",
        &[oid, &others],
    )?;
    for row in rows {
        let (other, is_above): (String, bool) = (row.get(0), row.get(1));
        let (whole, part) = if is_above { (&other, name) } else { (name, &other) };
        let fix = format!(
            "keep one of the two [[table]], or divide the rows by `where`: {whole} has those of {part} as well"
        );
        findings.add(
            if table.apart_from.contains(&other) { Severity::Error } else { Severity::Warning },
            "source-overlap",
            format!("{part} is a part of {whole}, and both are a `source` in [[table]]"),
            "they share the flag: a row that both take is sent for one of the two only, and is missing in the target of the other",
            fix,
        );
    }
    Ok(())
}

/// The statements that give the table, and each of its partitions, the replica identity that it lacks.
fn replica_identity(session: &mut Session, found: &Found, key: &[String]) -> Result<Option<String>> {
    session.value(
        &format!("cannot look up the replica identity of {}", found.relation.name),
        "SELECT string_agg(pg_catalog.format('ALTER TABLE %I.%I REPLICA IDENTITY %s;', n.nspname, c.relname,
                    coalesce('USING INDEX ' || pg_catalog.quote_ident(by_key.name), 'FULL')), E'\n' ORDER BY c.oid)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         LEFT JOIN LATERAL (
             SELECT u.relname::text AS name FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class u ON u.oid = i.indexrelid
             WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
               AND i.indnkeyatts = i.indnatts
               AND (SELECT bool_and(a.attname = ANY ($2)) AND count(*) = cardinality($2) FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[]))
             ORDER BY u.relname LIMIT 1) AS by_key ON TRUE
         WHERE c.relkind = 'r' AND (c.oid = $1 OR c.oid IN (SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass)))
           AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))",
        &[&found.relation.oid, &key],
    )
}

/// The statements that let rows be updated in spite of a publication's row filter or column list. Where the table has both, or a
/// column list besides a full replica identity, none do.
fn publication(session: &mut Session, found: &Found) -> Result<Option<String>> {
    session.value(
        &format!("cannot look up the publications of {}", found.relation.name),
        r"WITH tree AS (
             SELECT relid FROM pg_catalog.pg_partition_ancestors($1::oid::regclass) UNION
             SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass) UNION SELECT $1::oid::regclass),
         named AS (
             SELECT c.*, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name FROM tree
             JOIN pg_catalog.pg_class c ON c.oid = tree.relid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace),
         published AS (
             SELECT p.pubname, r.prrelid, r.prattrs, r.prqual FROM pg_catalog.pg_publication p
             JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid
             WHERE (p.pubupdate OR p.pubdelete) AND r.prrelid IN (SELECT relid FROM tree)),
         has AS (SELECT bool_or(prqual IS NOT NULL) AS filter, bool_or(prattrs IS NOT NULL) AS list FROM published)
         SELECT CASE WHEN filter AND NOT list THEN (
                 SELECT E'-- From then on each UPDATE and DELETE writes the whole old row to the WAL.\n'
                     || string_agg(pg_catalog.format('ALTER TABLE %s REPLICA IDENTITY FULL;', name), E'\n' ORDER BY oid)
                 FROM named WHERE relkind = 'r' AND relreplident <> 'f')
             WHEN list AND NOT filter AND NOT EXISTS (SELECT FROM named WHERE relreplident = 'f') THEN (
                 SELECT E'-- In one transaction: subscribers miss no change.\nBEGIN;\n'
                     || string_agg(pg_catalog.format(E'ALTER PUBLICATION %1$I DROP TABLE %2$s;\nALTER PUBLICATION %1$I ADD TABLE %2$s (%3$s);',
                            pubname, name, columns), E'\n' ORDER BY pubname, oid) || E'\nCOMMIT;'
                 FROM published JOIN named ON named.oid = prrelid
                 JOIN pg_catalog.pg_index i ON i.indrelid = prrelid
                     AND CASE relreplident WHEN 'd' THEN i.indisprimary ELSE i.indisreplident END,
                 LATERAL (SELECT string_agg(pg_catalog.quote_ident(attname), ', ' ORDER BY attnum) AS columns
                          FROM pg_catalog.pg_attribute WHERE attrelid = prrelid AND NOT attisdropped
                             AND (attnum = ANY (prattrs::int2[]) OR attnum = ANY (i.indkey::int2[]))) AS a
                 WHERE prattrs IS NOT NULL AND NOT i.indkey::int2[] <@ prattrs::int2[])
             END FROM has",
        &[&found.relation.oid],
    )
}

fn fit_source(session: &mut Session, table: &TableConfig) -> Result<SourceTable> {
    let source = SourceTable::find(session, table)?;
    match require_flaggable(session, &source) {
        // What is not granted is among the findings already.
        Err(error) if error.exit_code() == ExitCode::Permission => Ok(source),
        flaggable => flaggable.map(|()| source),
    }
}

fn flag(
    session: &mut Session,
    table: &TableConfig,
    columns: &[SourceColumn],
    found: &mut Found,
    findings: &mut Findings,
) -> Result<()> {
    let (name, flag) = (&found.relation.name, quote(&table.flag));
    let Some(column) = columns.iter().find(|column| column.name == table.flag) else {
        findings.error(
            "flag-missing",
            format!("{name} has no column {}", table.flag),
            "it marks a row as sent",
            add_flag(name, &table.flag),
        );
        return Ok(());
    };
    if column.type_name != "boolean" {
        findings.error(
            "flag-type",
            format!("the flag {} is of type {}", column.name, column.type_name),
            "it must be TRUE or FALSE",
            "name a boolean column as `flag` in [[table]]",
        );
        return Ok(());
    }
    found.flag = Some(table.flag.clone());
    if !column.not_null {
        findings.warning(
            "flag-nullable",
            format!("the flag {} may be NULL", column.name),
            "rows whose flag is NULL are silently never sent",
            format!(
                "UPDATE {name} SET {flag} = FALSE WHERE {flag} IS NULL;\nALTER TABLE {name} ALTER COLUMN {flag} SET DEFAULT \
                 FALSE, ALTER COLUMN {flag} SET NOT NULL;"
            ),
        );
    }
    default(session, &table.flag, found, findings)
}

/// What the flag is where an INSERT does not name it.
fn default(session: &mut Session, flag: &str, found: &Found, findings: &mut Findings) -> Result<()> {
    let name = &found.relation.name;
    let default: Option<String> = session.value(
        &format!("cannot look up the default of {flag}"),
        "SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attribute a
         LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE a.attrelid = $1 AND a.attname = $2::text",
        &[&found.relation.oid, &flag],
    )?;
    let (what, why) = match default.as_deref() {
        Some("false") => return Ok(()),
        Some(other) => (
            format!("the flag {flag} is {other} by default"),
            "new rows must start unsent (FALSE): a row that starts as TRUE is silently never sent",
        ),
        None => (
            format!("the flag {flag} has no default"),
            "an INSERT that does not name it fails, or leaves NULL there, and the row is never sent",
        ),
    };
    let fix = format!("ALTER TABLE {name} ALTER COLUMN {} SET DEFAULT FALSE;", quote(flag));
    findings.warning("flag-default", what, why, fix);
    Ok(())
}

/// Whether the key names one row.
fn key(
    table: &TableConfig,
    columns: &[SourceColumn],
    found: &Found,
    has_unique_index: bool,
    findings: &mut Findings,
) -> bool {
    let (name, before) = (&found.relation.name, findings.len());
    for wanted in &table.key {
        match columns.iter().find(|column| column.name == *wanted) {
            None => findings.error(
                "key-missing",
                format!("{name} has no column {wanted}"),
                "the key identifies rows and records",
                "correct `key` in [[table]]",
            ),
            Some(column) if !column.not_null => findings.error(
                "key-nullable",
                format!("the key column {wanted} may be NULL"),
                "a row without a key cannot be identified",
                format!("ALTER TABLE {name} ALTER COLUMN {} SET NOT NULL;", quote(wanted)),
            ),
            Some(_) => {}
        }
    }
    let exists = |wanted: &String| columns.iter().any(|column| column.name == *wanted);
    let names: Vec<&str> = table.key.iter().map(String::as_str).collect();
    if table.key.iter().all(exists) && !has_unique_index {
        let quoted: Vec<_> = table.key.iter().map(|column| quote(column)).collect();
        findings.error(
            "key-not-unique",
            format!("no unique index covers exactly the key ({})", names.join(", ")),
            "two rows with the same key would be taken for versions of one row",
            format!("CREATE UNIQUE INDEX ON {name} ({});", quoted.join(", ")),
        );
    }
    findings.len() == before
}

fn index(session: &mut Session, source: &SourceTable, findings: &mut Findings) -> Result<()> {
    let name = &source.name;
    match UnsentIndex::find(session, source)? {
        UnsentIndex::Fit => {}
        UnsentIndex::Wide(statement) => findings.note(
            "index-wide",
            format!("the index of the unsent rows of {name} also holds those outside `where`"),
            "they stay unsent, and every batch skips over them",
            format!("{statement};"),
        ),
        UnsentIndex::Missing(statement) if source.has_order() => findings.warning(
            "index-missing",
            format!("{name} has no index of its unsent rows by {}", source.order_columns().join(", ")),
            "every pass reads and sorts them all",
            format!("{statement};"),
        ),
        UnsentIndex::Missing(statement) => findings.warning(
            "index-missing",
            format!("{name} has no index of its unsent rows"),
            "every batch reads the whole table",
            format!("{statement};"),
        ),
    }
    Ok(())
}

/// A generated column that is computed from the flag: a row is sent before it is flagged, so the value in the target is not the
/// one that the source has afterwards.
fn made_of_the_flag(
    session: &mut Session,
    rules: &ColumnRules,
    source: &SourceTable,
    findings: &mut Findings,
) -> Result<()> {
    // Before PostgreSQL 15 the column depends on the flag, from then on its expression does.
    let rows = session.query(
        &format!("cannot look up the generated columns of {}", source.name),
        "SELECT DISTINCT a.attname::text FROM pg_catalog.pg_attribute f
         JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = f.attrelid
            AND d.refobjsubid = f.attnum
         LEFT JOIN pg_catalog.pg_attrdef e ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND e.oid = d.objid
         JOIN pg_catalog.pg_attribute a ON a.attrelid = f.attrelid AND a.attgenerated <> '' AND a.attnum = coalesce(e.adnum,
            CASE WHEN d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = f.attrelid THEN d.objsubid END)
         WHERE f.attrelid = $1 AND f.attname = $2::text ORDER BY 1",
        &[&source.oid, &source.flag],
    )?;
    let is_compared =
        |name: &String| source.columns.iter().any(|column| column.name == *name) && rules.column_of(name).is_some();
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).filter(is_compared).collect();
    if !names.is_empty() {
        findings.warning(
            "column-of-flag",
            format!("{} of {} is generated from the flag {}", names.join(", "), source.name, source.flag),
            "a row is sent before it is flagged, so the target keeps the value for FALSE: `pg2ch verify --deep` reports the row as \
             different, and --repair sends it again forever",
            format!("leave it out: `exclude = {names:?}` in [[table]], or take it out of `columns`"),
        );
    }
    Ok(())
}

/// How much of what is unsent the condition takes.
fn condition(session: &mut Session, source: &SourceTable, findings: &mut Findings) -> Result<()> {
    if !source.has_condition() {
        return Ok(());
    }
    let what = format!("cannot count the unsent rows of {}", source.name);
    let sql = format!(
        "SELECT count(*), count(*) FILTER (WHERE taken) FROM
             (SELECT {taken} AS taken FROM {name} AS t WHERE NOT t.{flag} LIMIT {COUNTED}) AS s",
        taken = source.taken_sql(),
        name = source.name,
        flag = source.flag_sql(),
    );
    let row = session.in_catalog(&what, |session| session.query_opt(&what, sql.as_str(), &[]))?;
    let (unsent, taken): (i64, i64) = row.map_or((0, 0), |row| (row.get(0), row.get(1)));
    let beyond = if unsent == COUNTED { "the first " } else { "" };
    findings.note(
        "where-takes",
        format!("`where` takes {taken} of {beyond}{unsent} unsent rows of {}", source.name),
        "the others stay unsent until `where` covers them, and do not count as unsent",
        "none is needed, if that is intended",
    );
    Ok(())
}

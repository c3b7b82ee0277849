//! A row of the source as SQL names it: its key, its record, its headers, its digest, whether it is to be sent.

use super::session::literal;
use super::source_table::{SourceTable, quote};
use crate::ports::source::SourceColumn;

impl SourceTable {
    /// The condition on the rows that are sent, as one operand of AND; TRUE where there is none. The row's alias is `t`.
    pub fn taken_sql(&self) -> String {
        // A comment at its end must not swallow the parenthesis.
        self.condition.as_ref().map_or_else(|| "TRUE".into(), |condition| format!("(\n{condition}\n)"))
    }

    /// Whether a row, its alias `t`, is to be sent: unsent, and within the condition.
    pub fn unsent_sql(&self) -> String {
        let unsent = format!("NOT t.{}", self.flag_sql());
        if self.has_condition() { format!("{unsent} AND {}", self.taken_sql()) } else { unsent }
    }

    /// Whether a row, its alias `t`, is deleted; `None` where no column says so.
    pub fn deleted_sql(&self) -> Option<String> {
        let column = self.deleted.as_ref()?;
        let test = if column.base_type == "boolean" { "IS TRUE" } else { "IS NOT NULL" };
        Some(format!("t.{} {test}", quote(&column.name)))
    }

    pub const fn has_condition(&self) -> bool {
        self.condition.is_some()
    }

    pub fn flag_sql(&self) -> String {
        quote(&self.flag)
    }

    /// Whether a row, its alias `t`, lies in the table with the OID `other`, as one more condition: its place is one within its partition.
    pub fn same_table_sql(&self, other: &str) -> String {
        if self.is_partitioned { format!("AND t.tableoid = {other}") } else { String::new() }
    }

    /// The key as one text: the column's own, or a JSON array of several. `row` is the table's alias.
    pub fn key_text_sql(&self, row: &str) -> String {
        one_text(&self.key, |column| format!("{row}.{}", quote(&column.name)))
    }

    /// The key columns' values out of a key text `text`, each cast back to its type, in order.
    pub fn key_values_sql(&self, text: &str) -> Vec<String> {
        match self.key.as_slice() {
            [only] => vec![format!("({text})::{}", only.type_name)],
            several => several
                .iter()
                .enumerate()
                .map(|(index, column)| format!("(({text})::json ->> {index})::{}", column.type_name))
                .collect(),
        }
    }

    /// `row.key = values`, column by column.
    pub fn key_equals_sql(&self, row: &str, text: &str) -> String {
        self.key
            .iter()
            .zip(self.key_values_sql(text))
            .map(|(column, value)| compared(row, column, "=", &value))
            .collect::<Vec<_>>()
            .join(" AND ")
    }

    /// `row.key > values`, or `<=`, as the key's index sorts.
    pub fn key_compares_sql(&self, row: &str, operator: &str, values: &[String]) -> String {
        if self.key.iter().all(|column| column.as_key.operators == "pg_catalog") {
            return format!("({}) {operator} ({})", self.key_columns_sql(row).join(", "), values.join(", "));
        }
        // A comparison of rows has one operator for all columns; so column by column, the first one for the index.
        let strict = operator.trim_end_matches('=');
        let mut columns = self.key.iter().zip(values).rev();
        let Some((last, value)) = columns.next() else { return "TRUE".into() };
        columns.fold(compared(row, last, operator, value), |rest, (column, value)| {
            format!(
                "({} AND ({} OR {rest}))",
                compared(row, column, &format!("{strict}="), value),
                compared(row, column, strict, value)
            )
        })
    }

    /// The key's columns, for `ORDER BY` and row comparisons.
    pub fn key_columns_sql(&self, row: &str) -> Vec<String> {
        self.key.iter().map(|column| format!("{row}.{}", quote(&column.name))).collect()
    }

    /// The clock in milliseconds; NULL once a column of the records has another type than it had.
    pub fn clock_sql(&self) -> String {
        let known = |column: &SourceColumn| format!("({}, {})", literal(&column.name), literal(&column.type_name));
        let known: Vec<_> = self.columns.iter().map(known).collect();
        format!(
            "(SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
              WHERE {count} = (SELECT count(*) FROM pg_attribute AS a
                  WHERE a.attrelid = {oid} AND (a.attname::text, format_type(a.atttypid, a.atttypmod)) IN ({known})))",
            count = known.len(),
            oid = self.oid,
            known = known.join(", "),
        )
    }

    /// A lateral item that makes the record's value of `row`, under the name `record`: use `row_to_json(pg2ch_record)`.
    pub fn record_sql(&self, row: &str) -> String {
        format!("LATERAL (SELECT {}) AS pg2ch_record", fields_sql(row, self.columns.iter()))
    }

    /// What the headers of `row` hold, each as `bytea`, in order.
    pub fn header_values_sql(&self, row: &str) -> Vec<String> {
        let value = |(_, column): &(String, SourceColumn)| {
            let own = format!("{row}.{}", quote(&column.name));
            if column.base_type == "bytea" { own } else { format!("pg_catalog.convert_to({own}::text, 'UTF8')") }
        };
        self.headers.iter().map(value).collect()
    }

    /// The same behind other columns.
    pub fn more_headers_sql(&self, row: &str) -> String {
        self.header_values_sql(row).iter().map(|value| format!(", {value}")).collect()
    }

    /// Every column that a record is made of, of `row`.
    pub fn record_columns_sql(&self, row: &str) -> Vec<String> {
        let headers = self.headers.iter().map(|(_, column)| column);
        let mut names: Vec<&str> = Vec::new();
        for column in self.columns.iter().chain(headers).chain(&self.message_key) {
            if !names.contains(&column.name.as_str()) {
                names.push(&column.name);
            }
        }
        names.iter().map(|name| format!("{row}.{}", quote(name))).collect()
    }

    /// A lateral item that makes, as `pg2ch_digest.digest`, the digest of the record of `row` in `topic`: what
    /// [`record_digest`](crate::data::record_digest) makes of the record.
    pub fn digest_sql(&self, row: &str, topic: &str) -> String {
        let length = |bytes: &str| format!("pg_catalog.int4send(pg_catalog.octet_length({bytes}))");
        let part = |bytes: &str| format!("{} || {bytes}", length(bytes));
        let text = |text: &str| format!("pg_catalog.decode('{}', 'hex')", hex(text.as_bytes()));
        let (mut made, mut headers) = (String::new(), String::new());
        for ((name, _), (at, value)) in self.headers.iter().zip(self.header_values_sql(row).iter().enumerate()) {
            made += &format!(", {value} AS header_{at}");
            let value = format!("pg2ch_parts.header_{at}");
            // A header that is NULL is none.
            headers += &format!(" || coalesce({} || {}, ''::bytea)", part(&text(name)), part(&value));
        }
        // A record without a key has the length -1 there.
        let key_part = part("pg2ch_parts.key");
        let key_part = if self.message_key.is_empty() {
            key_part
        } else {
            format!("coalesce({key_part}, pg_catalog.int4send(-1))")
        };
        // OFFSET keeps the planner from making the record twice.
        format!(
            "{record}, LATERAL (SELECT pg_catalog.convert_to({key}, 'UTF8') AS key,
                 pg_catalog.convert_to(pg_catalog.row_to_json(pg2ch_record)::text, 'UTF8') AS value{made} OFFSET 0) AS pg2ch_parts,
             LATERAL (SELECT pg_catalog.sha256({topic} || {key_part} || {value_part}{headers}) AS digest) AS pg2ch_digest",
            record = self.record_sql(row),
            key = self.record_key_sql(row),
            topic = part(&text(topic)),
            value_part = part("pg2ch_parts.value"),
        )
    }
}

/// The most dimensions that an array of PostgreSQL's has.
const MOST_DIMENSIONS: usize = 6;

/// These columns of `row` as they stand in a record.
pub fn fields_sql<'a>(row: &str, columns: impl Iterator<Item = &'a SourceColumn>) -> String {
    let field = |column: &SourceColumn| format!("{} AS {}", value_sql(row, column), quote(&column.name));
    columns.map(field).collect::<Vec<_>>().join(", ")
}

/// A column's value in a record, or what `to_json` makes into it. JSON tells neither an array's lower bounds nor whether `[[1]]` is one
/// document in an array of one dimension: such an array is PostgreSQL's own text, which a String takes and an Array refuses. So is a
/// composite value with such bounds in it.
pub fn value_sql(row: &str, column: &SourceColumn) -> String {
    let value = format!("{row}.{}", quote(&column.name));
    let mut untold = Vec::new();
    if let Some(element) = column.base_type.strip_suffix("[]") {
        untold.extend((1..=MOST_DIMENSIONS).map(|n| format!("pg_catalog.array_lower({value}, {n}) <> 1")));
        if matches!(element, "json" | "jsonb") {
            untold.push(format!("pg_catalog.array_ndims({value}) > 1"));
        }
    }
    if column.is_composite {
        // As in ("[0:1]={1,2}"). A text in it that looks like bounds makes it a text, too: nothing is lost by that.
        untold.push(format!("{value}::text OPERATOR(pg_catalog.~) '[[]-?[0-9]+:-?[0-9]+[]]=[{{]'"));
    }
    if untold.is_empty() {
        return value;
    }
    format!(
        "CASE WHEN {} THEN pg_catalog.to_json({value}::text) ELSE pg_catalog.to_json({value}) END",
        untold.join(" OR ")
    )
}

/// Columns as one text: the only one's own, or a JSON array of several.
pub(super) fn one_text(columns: &[SourceColumn], value: impl Fn(&SourceColumn) -> String) -> String {
    match columns {
        [only] => format!("{}::text", value(only)),
        several => {
            let part = |column: &SourceColumn| {
                let cast = if column.as_key.is_text_in_json { "::text" } else { "" };
                format!("{}{cast}", value(column))
            };
            format!("pg_catalog.json_build_array({})::text", several.iter().map(part).collect::<Vec<_>>().join(", "))
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A column of `row` compared by the operators that its index sorts by, whatever the search path.
fn compared(row: &str, column: &SourceColumn, operator: &str, value: &str) -> String {
    format!("{row}.{} OPERATOR({}.{operator}) {value}", quote(&column.name), column.as_key.operators)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(key: &[(&str, &str)]) -> SourceTable {
        let column = |(name, type_name): &(&str, &str)| SourceColumn {
            name: (*name).into(),
            type_name: (*type_name).into(),
            base_type: (*type_name).into(),
            not_null: true,
            ..SourceColumn::default()
        };
        SourceTable {
            name: "public.t".into(),
            database: "app".into(),
            oid: 1,
            is_partitioned: false,
            columns: key.iter().map(column).collect(),
            key: key.iter().map(column).collect(),
            message_key: Vec::new(),
            order_by: Vec::new(),
            headers: Vec::new(),
            deleted: None,
            flag: "sent".into(),
            condition: None,
        }
    }

    #[test]
    fn a_key_of_one_column_is_its_text() {
        assert_eq!(table(&[("id", "bigint")]).key_text_sql("t"), r#"t."id"::text"#);
        assert_eq!(
            table(&[("id", "bigint")]).key_equals_sql("t", "w.key"),
            r#"t."id" OPERATOR(pg_catalog.=) (w.key)::bigint"#
        );
    }

    #[test]
    fn a_key_of_several_columns_is_a_json_array() {
        let table = table(&[("a", "integer"), ("odd \"name", "text")]);
        assert_eq!(table.key_text_sql("t"), r#"pg_catalog.json_build_array(t."a", t."odd ""name")::text"#);
        assert_eq!(table.key_values_sql("k"), ["((k)::json ->> 0)::integer", "((k)::json ->> 1)::text"]);
    }

    #[test]
    fn a_key_is_compared_by_the_operators_that_its_index_sorts_by() {
        let values = ["1".to_owned(), "2".to_owned()];
        let mut table = table(&[("a", "integer"), ("b", "public.citext")]);
        assert_eq!(table.key_compares_sql("t", ">", &values), r#"(t."a", t."b") > (1, 2)"#);
        table.key[1].as_key.operators = "public".into();
        assert_eq!(
            table.key_compares_sql("t", "<=", &values),
            r#"(t."a" OPERATOR(pg_catalog.<=) 1 AND (t."a" OPERATOR(pg_catalog.<) 1 OR t."b" OPERATOR(public.<=) 2))"#
        );
    }
}

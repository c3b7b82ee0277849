//! Which ClickHouse type takes the values of a PostgreSQL type, whole.
//!
//! A type that ClickHouse has no equal for becomes a String that holds PostgreSQL's own text, so that nothing is lost.

use crate::ports::source::SourceColumn;

/// The most digits that ClickHouse's Decimal has.
const MAX_DECIMAL_DIGITS: u32 = 76;

/// The type of the target's column for a source column.
#[must_use]
pub fn target_type(column: &SourceColumn) -> String {
    let (base, is_array) = match column.base_type.strip_suffix("[]") {
        Some(element) => (element, true),
        None => (column.base_type.as_str(), false),
    };
    // The elements of an array of a domain over an array are arrays: a String keeps them as JSON text.
    if is_array && !base.ends_with("[]") {
        // An array's elements may be NULL whatever the column says, and ClickHouse has no NULL arrays.
        return if column.not_null { format!("Array(Nullable({}))", scalar(base)) } else { "Nullable(String)".into() };
    }
    if column.is_enum {
        // A few labels, which a dictionary holds once. A ClickHouse Enum would refuse the label that is added tomorrow.
        return if column.not_null { "LowCardinality(String)" } else { "LowCardinality(Nullable(String))" }.into();
    }
    let scalar = scalar(base);
    // The document `null` is printed like a NULL, also where the column has none.
    if column.not_null && !matches!(base, "json" | "jsonb") { scalar } else { format!("Nullable({scalar})") }
}

/// The type of a column that some rows know nothing of: it takes NULL, too.
#[must_use]
pub fn nullable_target_type(column: &SourceColumn) -> String {
    target_type(&SourceColumn { not_null: false, ..column.clone() })
}

fn scalar(type_name: &str) -> String {
    let (name, modifiers) = split(type_name);
    match name.as_str() {
        "smallint" => "Int16".into(),
        "integer" => "Int32".into(),
        "bigint" => "Int64".into(),
        "boolean" => "Bool".into(),
        "real" => "Float32".into(),
        "double precision" => "Float64".into(),
        "numeric" => numeric(&modifiers),
        "uuid" => "UUID".into(),
        // Date has no day before 1970, Date32 none before 1900.
        "date" => "Date32".into(),
        "timestamp without time zone" | "timestamp with time zone" => {
            format!("DateTime64({}, 'UTC')", modifiers.first().copied().unwrap_or(6))
        }
        _ => "String".into(),
    }
}

fn numeric(modifiers: &[u32]) -> String {
    match *modifiers {
        [digits, scale] if digits <= MAX_DECIMAL_DIGITS && scale <= digits => format!("Decimal({digits}, {scale})"),
        // Without limits, or with more digits than fit (a negative scale reads as one): the text keeps every digit.
        _ => "String".into(),
    }
}

/// `timestamp(3) without time zone` → the name without its numbers, and these.
pub(crate) fn split(type_name: &str) -> (String, Vec<u32>) {
    let Some((before, rest)) = type_name.split_once('(') else { return (type_name.to_owned(), Vec::new()) };
    let (inside, after) = rest.split_once(')').unwrap_or((rest, ""));
    let numbers = inside.split(',').map(|number| number.trim().parse().unwrap_or(u32::MAX)).collect();
    (format!("{before}{after}"), numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_the_source_fits_its_target() {
        for (source, not_null, target) in [
            ("bigint", true, "Int64"),
            ("numeric(10,2)", false, "Nullable(Decimal(10, 2))"),
            ("numeric", true, "String"),
            ("numeric(80,2)", true, "String"),
            ("numeric(5,-2)", true, "String"),
            ("timestamp(3) with time zone", true, "DateTime64(3, 'UTC')"),
            ("timestamp without time zone", false, "Nullable(DateTime64(6, 'UTC'))"),
            ("integer[]", true, "Array(Nullable(Int32))"),
            ("integer[]", false, "Nullable(String)"),
            ("integer[][]", true, "String"),
            ("character varying(20)", true, "String"),
            ("public.mood", true, "LowCardinality(String)"),
            ("public.mood", false, "LowCardinality(Nullable(String))"),
            ("public.mood[]", true, "Array(Nullable(String))"),
            ("jsonb", false, "Nullable(String)"),
            ("jsonb", true, "Nullable(String)"),
        ] {
            let column = SourceColumn {
                name: "c".into(),
                type_name: "public.of_a_domain".into(),
                base_type: source.into(),
                is_enum: source == "public.mood",
                not_null,
                ..SourceColumn::default()
            };
            assert_eq!(target_type(&column), target, "{source}");
        }
    }
}

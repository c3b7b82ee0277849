//! The source's columns compared with the target's, one by one.

use super::map::{nullable_target_type, target_type};
use super::types::{Fit, fit};
use crate::clickhouse::column_type::{Column, ColumnType, DefaultKind, ScalarType, takes_null};
use crate::clickhouse::encode::holds_position;
use crate::clickhouse::{quote, text};
use crate::config::{ColumnRules, TableConfig};
use crate::data::is_own;
use crate::ports::engine::Rests;
use crate::ports::source::SourceColumn;
use crate::ports::target::TargetDescription;

/// The columns that keep a record's position, and the types that hold it.
pub const POSITION: [(&str, &str); 3] =
    [("_partition", "Int32"), ("_offset", "Int64"), ("_timestamp", "DateTime64(3, 'UTC')")];

/// Rows without a position would be taken for others.
const POSITION_HINT: &str = "run `pg2ch init`, which adds it to an empty target. For one with rows, `pg2ch check` prints the statements that keep them. \
     Meanwhile the records stay in the topic";

/// How a fix begins that no statement on the table can make.
pub const MAKE_ANEW: &str = "-- recreate the table";

/// What a difference means for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It does not begin.
    Stops,
    /// Every record of today's shape becomes a dead letter, or no INSERT succeeds.
    RefusesAll,
    /// Some records may become dead letters, or the promise is weaker, as the configuration allows.
    Weaker,
    /// Nothing is refused.
    Harmless,
}

/// One thing in which the target's columns are not what the source's ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// A name that stays the same from version to version.
    pub id: &'static str,
    /// What it means.
    pub effect: Effect,
    /// What was found.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// The statements that fix it.
    pub fix: String,
    /// Whether the fix only adds: nothing that is stored changes.
    pub is_additive: bool,
    /// What a run says to do about it, where that is not the fix.
    pub hint: Option<&'static str>,
}

/// Whether the target is a view, and the configuration does not allow that: its columns are another table's.
#[must_use]
pub fn is_refused_view(table: &TableConfig, engine: &str) -> bool {
    matches!(engine, "View" | "MaterializedView" | "WindowView") && table.allow_engine.as_deref() != Some(engine)
}

/// Compares the columns of a source with those of the target that `table` names; without a source, only the target's own. The
/// columns of a view are another table's.
#[must_use]
pub fn differences(
    table: &TableConfig,
    source: Option<&[SourceColumn]>,
    target: &TargetDescription,
) -> Vec<Difference> {
    if is_refused_view(table, &target.engine.name) {
        return Vec::new();
    }
    let name = format!("{}.{}", quote(&table.target.database), quote(&table.target.table));
    let mut comparison = Comparison { name, rules: &table.column_rules, target, found: Vec::new() };
    comparison.positions();
    if let Some(source) = source {
        for column in source {
            comparison.source_column(column);
        }
    }
    for column in &target.columns {
        comparison.target_column(column, source);
    }
    comparison.found
}

struct Comparison<'a> {
    name: String,
    rules: &'a ColumnRules,
    target: &'a TargetDescription,
    found: Vec<Difference>,
}

impl Comparison<'_> {
    fn add(&mut self, id: &'static str, effect: Effect, what: String, why: impl Into<String>, fix: String) {
        self.found.push(Difference { id, effect, what, why: why.into(), fix, is_additive: false, hint: None });
    }

    /// `fix` alters the column `name`, or `drops` it; where ClickHouse refuses that, the table has to be made anew `with` it.
    fn alter(&self, name: &str, fix: String, drops: bool, with: &str) -> String {
        match self.target.rests_on(name) {
            Rests::Key => format!("{MAKE_ANEW} {with}: ClickHouse does not alter a column on which a key rests"),
            Rests::Expressions if drops => {
                format!("{MAKE_ANEW} {with}: ClickHouse does not drop a column on which expressions rest")
            }
            _ => fix,
        }
    }

    fn positions(&mut self) {
        for (wanted, type_name) in POSITION {
            let Some(found) = self.target.column(wanted) else {
                let what = format!("{} has no column {wanted}", self.name);
                let why = "a run recognises rows by their records' partition, offset and timestamp: without them a crash would duplicate rows";
                let fix = format!("ALTER TABLE {} ADD COLUMN {} {type_name};", self.name, quote(wanted));
                self.add("position-column", Effect::Stops, what, why, fix);
                self.mark_additive(Some(POSITION_HINT));
                continue;
            };
            if !matches!(found.default_kind, DefaultKind::None | DefaultKind::Default) {
                let what = format!("the target's column {wanted} takes no values: it is {}", found.default_kind.name());
                let why = "it does not keep a record's position: rows would not be recognised, and a crash would duplicate them";
                let fix = format!(
                    "ALTER TABLE {0} DROP COLUMN {1};\nALTER TABLE {0} ADD COLUMN {1} {type_name};",
                    self.name,
                    quote(wanted)
                );
                let fix = self.alter(wanted, fix, true, &format!("with {wanted} as {type_name}"));
                self.add("position-kind", Effect::Stops, what, why, fix);
            } else if !holds_position(wanted, &found.type_name) {
                let what = format!("the target's column {wanted} is of type {}", found.type_name);
                let why = "it does not hold every value: rows would not be recognised by their records' positions, and a crash would duplicate them";
                let fix = format!("ALTER TABLE {} MODIFY COLUMN {} {type_name};", self.name, quote(wanted));
                let fix = self.alter(wanted, fix, false, &format!("with {wanted} as {type_name}"));
                self.add("position-type", Effect::Stops, what, why, fix);
            }
        }
    }

    fn mark_additive(&mut self, hint: Option<&'static str>) {
        if let Some(last) = self.found.last_mut() {
            (last.is_additive, last.hint) = (true, hint);
        }
    }

    fn source_column(&mut self, column: &SourceColumn) {
        let Some(wanted) = self.rules.column_of(&column.name) else { return };
        if self.rules.field_of(wanted) != Some(&column.name) {
            let what = format!("`rename` gives the target's column {wanted} to another column than {}", column.name);
            let why = "every record would be refused, because the field has no column of its own: a run does not start";
            self.add(
                "column-taken",
                Effect::Stops,
                what,
                why,
                format!("-- `rename` {0} as well, or `ignore` it", column.name),
            );
            return;
        }
        let target = self.target;
        match target.column(wanted) {
            None => self.missing(column, wanted),
            Some(other) => self.compare(column, other),
        }
    }

    /// Rows that are there, and records of the old shape, know nothing of the column: they have NULL there.
    fn missing(&mut self, column: &SourceColumn, wanted: &str) {
        let members = format!("{wanted}.");
        if self.target.columns.iter().any(|other| other.name.starts_with(&members)) {
            let what = format!("the target's column {wanted} is Nested, which is a column for each of its members");
            let why =
                "every record would be refused, because ClickHouse adds no column of that name: a run does not start";
            let fix = format!(
                "-- give {0} another name in the target, such as `rename = {{ {0} = \"{wanted}_json\" }}` in [[table]], or `ignore` it",
                column.name
            );
            return self.add("column-nested", Effect::Stops, what, why, fix);
        }
        let comment = column.comment.as_ref().map_or_else(String::new, |c| format!(" COMMENT {}", text(c)));
        let fix = format!(
            "ALTER TABLE {} ADD COLUMN {} {}{comment};",
            self.name,
            quote(wanted),
            nullable_target_type(column)
        );
        let why = "every record is refused: pg2ch never drops a field silently";
        self.add("column-missing", Effect::RefusesAll, format!("the target has no column {wanted}"), why, fix);
        self.mark_additive(None);
    }

    fn compare(&mut self, column: &SourceColumn, other: &Column) {
        let Column { name: target_name, type_name, default_kind, .. } = other;
        let quoted = quote(target_name);
        if let DefaultKind::Materialized | DefaultKind::Alias = default_kind {
            let kind = default_kind.name();
            self.add(
                "column-computed",
                Effect::RefusesAll,
                format!("the target's column {target_name} is {kind}"),
                "no value can be inserted into it: every record is refused",
                format!("ALTER TABLE {} MODIFY COLUMN {quoted} REMOVE {kind};", self.name),
            );
            return;
        }
        if *default_kind == DefaultKind::Ephemeral {
            let is_allowed = self.rules.allow_lossy.contains(&column.name);
            let why = format!(
                "it stores no value; a run does not start unless `allow_lossy` in [[table]] names {}",
                column.name
            );
            let what = format!("the target's column {target_name} is EPHEMERAL");
            if is_allowed {
                let fix = "-- nothing, if that is intended".to_owned();
                return self.add("column-ephemeral", Effect::Weaker, what, why, fix);
            }
            // Nothing of it was ever stored.
            let (wanted, name) = (target_type(column), &self.name);
            let fix =
                format!("ALTER TABLE {name} DROP COLUMN {quoted};\nALTER TABLE {name} ADD COLUMN {quoted} {wanted};");
            let fix = self.alter(target_name, fix, true, &format!("with {target_name} as {wanted}"));
            self.add("column-ephemeral", Effect::Stops, what, why, fix);
            return;
        }
        let pair = format!("{} is {} in PostgreSQL and {type_name} in ClickHouse", column.name, column.type_name);
        let takes_null = matches!(ColumnType::parse(type_name), Ok(ColumnType::Nullable(_)));
        let wanted = if takes_null { nullable_target_type(column) } else { target_type(column) };
        let modify = format!("ALTER TABLE {} MODIFY COLUMN {quoted} {wanted};", self.name);
        let with = format!("with {target_name} as {wanted}");
        let modify = self.alter(target_name, modify, false, &with);
        let (effect, id, why, fix) = match fit(column, other) {
            Fit::Lossless => return,
            Fit::Lossy(why) if self.rules.allow_lossy.contains(&column.name) => {
                let why = format!("{why}; `allow_lossy` allows it, and what is refused goes to the dead letters");
                (Effect::Weaker, "type-lossy", why, modify)
            }
            Fit::Lossy(why) => {
                let why =
                    format!("{why}; a run does not start unless `allow_lossy` in [[table]] names {}", column.name);
                (Effect::Stops, "type-lossy", why, modify)
            }
            Fit::Impossible(why) => {
                let fix = if converts(type_name, &wanted) {
                    modify
                } else {
                    self.alter(target_name, self.replace(column, &quoted), true, &with)
                };
                (Effect::Stops, "type-impossible", format!("{why}: a run does not start"), fix)
            }
        };
        self.add(id, effect, pair, why, fix);
    }

    /// Replaces a column whose values ClickHouse may be unable to convert.
    fn replace(&self, column: &SourceColumn, quoted: &str) -> String {
        format!(
            "-- this empties {quoted}: afterwards `pg2ch verify --deep --repair --confirm` has the rows sent again\n\
             ALTER TABLE {name} DROP COLUMN {quoted};\nALTER TABLE {name} ADD COLUMN {quoted} {};",
            nullable_target_type(column),
            name = self.name
        )
    }

    fn target_column(&mut self, target: &Column, source: Option<&[SourceColumn]>) {
        let Column { name, type_name, default_kind, .. } = target;
        if is_own(name) || matches!(default_kind, DefaultKind::Materialized | DefaultKind::Alias) {
            return;
        }
        let quoted = quote(name);
        let Some(source) = source else { return };
        let field = self.rules.field_of(name);
        if source.iter().any(|column| Some(column.name.as_str()) == field) {
            return;
        }
        let what = format!("nothing in the source fills the target's column {name}");
        let (takes_null, has_default) = (takes_null(type_name), *default_kind == DefaultKind::Default);
        let (id, effect, why, fix) = if has_default || takes_null {
            let there = if has_default { "the column's DEFAULT" } else { "NULL" };
            let why = format!("rows have {there} there");
            (
                "column-unfilled",
                Effect::Harmless,
                why,
                format!(
                    "-- nothing, if that is intended; otherwise:\n-- ALTER TABLE {} DROP COLUMN {quoted};",
                    self.name
                ),
            )
        } else {
            let why =
                "it has no DEFAULT and takes no NULL, and pg2ch makes up no value: every record without it is refused";
            let fix = format!("ALTER TABLE {} MODIFY COLUMN {quoted} {};", self.name, nullable(type_name));
            let fix = self.alter(name, fix, false, &format!("without {name}"));
            ("column-extra", Effect::RefusesAll, why.to_owned(), fix)
        };
        self.add(id, effect, what, why, fix);
    }
}

/// Whether a new table's column can take the values that the old one's has: ClickHouse may be unable to convert them.
#[must_use]
pub fn can_be_taken_over(source: &SourceColumn, old: &Column) -> bool {
    old.default_kind != DefaultKind::Ephemeral
        && (!matches!(fit(source, old), Fit::Impossible(_)) || converts(&old.type_name, &target_type(source)))
}

/// Whether ClickHouse converts every value of a column when it is altered: one that it cannot convert blocks the ALTER.
fn converts(from: &str, to: &str) -> bool {
    use ScalarType as T;
    let scalar = |type_name: &str| match ColumnType::parse(type_name).ok()?.without_null() {
        ColumnType::Scalar(scalar) => Some(scalar),
        _ => None,
    };
    matches!(
        (scalar(from), scalar(to)),
        (Some(_), Some(T::String))
            | (Some(T::Bool), Some(T::Integer(_)))
            | (Some(T::Date | T::Date32), Some(T::DateTime64(_)))
    )
}

/// The type that takes what `type_name` does, and a missing value.
fn nullable(type_name: &str) -> String {
    let is_composite = ["Array(", "Map(", "Tuple(", "Nested("].iter().any(|start| type_name.starts_with(start));
    match type_name.strip_prefix("LowCardinality(").and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => format!("LowCardinality(Nullable({inner}))"),
        None if is_composite => format!("{type_name} DEFAULT defaultValueOfTypeName({})", text(type_name)),
        None => format!("Nullable({type_name})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ColumnChoice, OnBadRow, Outbox, Removal, TargetName};
    use crate::ports::engine::Engine;

    fn table(rules: ColumnRules) -> TableConfig {
        TableConfig {
            source: "public.t".into(),
            key: vec!["id".into()],
            flag: "sent".into(),
            condition: None,
            columns: ColumnChoice::All,
            topic: "t".into(),
            target: TargetName { database: "d".into(), table: "t".into() },
            group: "g".into(),
            on_bad_row: OnBadRow::Stop,
            max_dead_letters: 0,
            max_rows_per_second: None,
            column_rules: rules,
            allow_engine: None,
            outbox: Outbox::default(),
            removal: Removal::default(),
        }
    }

    fn source(name: &str, type_name: &str, not_null: bool) -> SourceColumn {
        SourceColumn {
            name: name.into(),
            type_name: type_name.into(),
            base_type: type_name.into(),
            not_null,
            ..SourceColumn::default()
        }
    }

    fn target(columns: &[(&str, &str)]) -> TargetDescription {
        let columns = POSITION.iter().chain(columns).map(|(name, of)| Column::new(name, of)).collect();
        TargetDescription { columns, ..TargetDescription::default() }
    }

    /// What differs between one source column and one target column.
    fn found(source: &SourceColumn, other: &TargetDescription) -> Vec<(&'static str, Effect, String)> {
        let found = differences(&table(ColumnRules::default()), Some(std::slice::from_ref(source)), other);
        found.into_iter().map(|difference| (difference.id, difference.effect, difference.fix)).collect()
    }

    #[test]
    fn a_column_keeps_its_nullability_when_its_type_is_widened() {
        for (now, wanted) in [("Int32", "Int64"), ("Nullable(Int32)", "Nullable(Int64)")] {
            let told = found(&source("c", "bigint", true), &target(&[("c", now)]));
            let fix = format!("ALTER TABLE `d`.`t` MODIFY COLUMN `c` {wanted};");
            assert_eq!(told, [("type-lossy", Effect::Stops, fix)], "{now}");
        }
    }

    #[test]
    fn a_column_of_a_key_is_not_altered() {
        for clause in ["ORDER BY c", "PARTITION BY intDiv(c, 9) ORDER BY id"] {
            let engine = Engine::parse("MergeTree", &format!("MergeTree {clause}"));
            let told = found(&source("c", "bigint", true), &TargetDescription { engine, ..target(&[("c", "Int32")]) });
            assert!(told[0].2.starts_with("-- recreate the table with c as Int64"), "{told:?}");
        }
    }

    #[test]
    fn what_nothing_fills_is_made_to_take_a_missing_value() {
        for (now, then) in [
            ("Int32", "Nullable(Int32)"),
            ("LowCardinality(String)", "LowCardinality(Nullable(String))"),
            ("Array(String)", "Array(String) DEFAULT defaultValueOfTypeName('Array(String)')"),
        ] {
            let told = found(&source("c", "text", true), &target(&[("d", now)]));
            let extra = told.iter().find(|(id, ..)| *id == "column-extra").unwrap();
            assert_eq!(extra.2, format!("ALTER TABLE `d`.`t` MODIFY COLUMN `d` {then};"));
        }
        for quiet in ["Nullable(Int32)", "LowCardinality(Nullable(String))"] {
            let told = found(&source("c", "text", true), &target(&[("d", quiet)]));
            assert!(told.iter().any(|(id, effect, _)| (*id, *effect) == ("column-unfilled", Effect::Harmless)));
        }
    }

    #[test]
    fn an_ignored_column_is_not_missed() {
        let rules = ColumnRules { ignore: ["c".into()].into(), ..ColumnRules::default() };
        assert_eq!(differences(&table(rules), Some(&[source("c", "text", true)]), &target(&[])), []);
    }
}

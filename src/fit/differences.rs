//! The source's columns compared with the target's, one by one.

use std::collections::{BTreeMap, BTreeSet};

use super::alteration::{Alteration, Fix, Remedy, definition};
use super::conversion::{Conversion, conversion, holding_both};
use super::exact::is_exact;
use super::map::{nullable_target_type, target_type};
use super::types::{Fit, fit, folds};
use crate::clickhouse::column_type::{Column, ColumnType, DefaultKind, takes_null};
use crate::clickhouse::encode::holds_position;
use crate::clickhouse::{quote, sql_name};
use crate::config::{ColumnRules, TableConfig};
use crate::data::is_own;
use crate::ports::source::SourceColumn;
use crate::ports::target::TargetDescription;

/// The columns that keep a record's position, and the types that hold it.
pub const POSITION: [(&str, &str); 3] =
    [("_partition", "Int32"), ("_offset", "Int64"), ("_timestamp", "DateTime64(3, 'UTC')")];

/// Rows without a position would be taken for others.
const POSITION_HINT: &str = "run `pg2ch init`, which adds it to an empty target. For one with rows, `pg2ch check` prints the statements that keep them. \
     Meanwhile the records stay in the topic";

/// The fix of what may stay as it is.
pub const INTENDED: &str = "-- nothing, if that is intended";

/// What a difference means for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// It ends before it copies. What it has sent by then stays in the topic.
    Stops,
    /// Every record of today's shape becomes a dead letter, or no INSERT succeeds.
    RefusesAll,
    /// Some records may become dead letters, or the promise is weaker, as the configuration allows.
    Weaker,
    /// Nothing is refused.
    Harmless,
}

/// One thing in which the target is not what the source asks for.
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
    /// What they take.
    pub remedy: Remedy,
    /// What a run says to do about it, where that is not the fix.
    pub hint: Option<&'static str>,
}

impl Difference {
    /// One that is fixed by hand.
    pub fn new(
        id: &'static str,
        effect: Effect,
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (what, why, fix) = (what.into(), why.into(), fix.into());
        Self { id, effect, what, why, fix, remedy: Remedy::ByHand, hint: None }
    }

    /// The same, which takes something else.
    #[must_use]
    pub fn by(self, remedy: Remedy) -> Self {
        Self { remedy, ..self }
    }
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
    let rules = &table.column_rules;
    let names = source.into_iter().flatten().filter_map(|column| rules.column_of(&column.name)).collect();
    let comparison = Comparison { name: sql_name(&table.target), key: &table.key, rules, target, names };
    let of_source = source.into_iter().flatten().filter_map(|column| comparison.source_column(column));
    let of_target = target.columns.iter().filter_map(|column| comparison.target_column(column, source?));
    let nested = source.map(|source| nested_arrays(table, source, target)).unwrap_or_default();
    let positions = POSITION.iter().filter_map(|position| comparison.position(position));
    positions.chain(of_source).chain(of_target).chain(nested).collect()
}

struct Comparison<'a> {
    name: String,
    key: &'a [String],
    rules: &'a ColumnRules,
    target: &'a TargetDescription,
    /// What the source's columns are called in the target.
    names: Vec<&'a str>,
}

impl Comparison<'_> {
    fn alteration<'a>(&'a self, column: &'a Column) -> Alteration<'a> {
        Alteration { table: &self.name, target: self.target, column }
    }

    fn position(&self, &(wanted, type_name): &(&'static str, &'static str)) -> Option<Difference> {
        let Some(found) = self.target.column(wanted) else {
            let what = format!("{} has no column {wanted}", self.name);
            let why = "a run recognises rows by their records' partition, offset and timestamp: without them a crash would duplicate rows";
            let fix = format!("ALTER TABLE {} ADD COLUMN {} {type_name};", self.name, quote(wanted));
            let missing = Difference::new("position-column", Effect::Stops, what, why, fix).by(Remedy::Addition);
            return Some(Difference { hint: Some(POSITION_HINT), ..missing });
        };
        if !matches!(found.default_kind, DefaultKind::None | DefaultKind::Default) {
            let what = format!("the target's column {wanted} takes no values: it is {}", found.default_kind.name());
            let why =
                "it does not keep a record's position: rows would not be recognised, and a crash would duplicate them";
            let (fix, remedy) = self.alteration(found).replaced(type_name);
            return Some(Difference::new("position-kind", Effect::Stops, what, why, fix).by(remedy));
        }
        if holds_position(wanted, &found.type_name) {
            return None;
        }
        let what = format!("the target's column {wanted} is of type {}", found.type_name);
        let why = "it does not hold every value: rows would not be recognised by their records' positions, and a crash would duplicate them";
        let alteration = self.alteration(found);
        let (fix, remedy) = if is_exact(&SourceColumn::default(), found, type_name) {
            alteration.converted(type_name)
        } else {
            alteration.recreated(type_name, "ClickHouse does not convert every value unchanged")
        };
        Some(Difference::new("position-type", Effect::Stops, what, why, fix).by(remedy))
    }

    fn source_column(&self, column: &SourceColumn) -> Option<Difference> {
        let wanted = self.rules.column_of(&column.name)?;
        if let Some(taken) = taken(self.rules, column) {
            return Some(taken);
        }
        match self.target.column(wanted) {
            None => Some(self.missing(column, wanted)),
            Some(other) => self.not_inserted(column, other).or_else(|| self.compare(column, other)),
        }
    }

    /// Rows that are there, and records of the old shape, know nothing of the column: they have NULL there.
    fn missing(&self, column: &SourceColumn, wanted: &str) -> Difference {
        let members = format!("{wanted}.");
        if self.target.columns.iter().any(|other| other.name.starts_with(&members)) {
            let what = format!("the target's column {wanted} is Nested, which is a column for each of its members");
            let why = "every record would be refused, because ClickHouse adds no column of that name: a run ends with 78 before it copies";
            let fix = format!(
                "-- give {0} another name in the target, such as `rename = {{ {0} = \"{wanted}_json\" }}` in [[table]], or `ignore` it",
                column.name
            );
            return Difference::new("column-nested", Effect::Stops, what, why, fix);
        }
        let fix = format!("ALTER TABLE {} ADD COLUMN {};", self.name, definition(wanted, column));
        let (what, why) = (
            format!("the target has no column {wanted}"),
            "every record is refused: pg2ch never drops a field silently",
        );
        Difference::new("column-missing", Effect::RefusesAll, what, why, fix).by(Remedy::Addition)
    }

    /// A column that stores nothing that is inserted.
    fn not_inserted(&self, column: &SourceColumn, other: &Column) -> Option<Difference> {
        let (name, kind) = (&other.name, other.default_kind.name());
        let what = format!("the target's column {name} is {kind}");
        match other.default_kind {
            DefaultKind::None | DefaultKind::Default => None,
            DefaultKind::Materialized | DefaultKind::Alias => {
                let why = "no value can be inserted into it: every record is refused";
                let fix = format!("ALTER TABLE {} MODIFY COLUMN {} REMOVE {kind};", self.name, quote(name));
                Some(Difference::new("column-computed", Effect::RefusesAll, what, why, fix))
            }
            DefaultKind::Ephemeral => {
                let id = "column-ephemeral";
                let why = format!("it stores no value; {}", unless_allowed(column));
                if self.rules.allow_lossy.contains(&column.name) {
                    return Some(Difference::new(id, Effect::Weaker, what, why, INTENDED));
                }
                // Nothing of it was ever stored.
                let (fix, remedy) = self.alteration(other).replaced(&target_type(column));
                Some(Difference::new(id, Effect::Stops, what, why, fix).by(remedy))
            }
        }
    }

    fn compare(&self, column: &SourceColumn, other: &Column) -> Option<Difference> {
        let what =
            format!("{} is {} in PostgreSQL and {} in ClickHouse", column.name, column.type_name, other.type_name);
        let (effect, id, why) = match fit(column, other) {
            Fit::Lossless => return None,
            Fit::Lossy(_) if self.key.contains(&column.name) && folds(column, other) => {
                let why = "different values become one key there, and of their rows one is kept; `allow_lossy` allows no such key: a run ends with 78 before it copies";
                (Effect::Stops, "type-lossy", why.to_owned())
            }
            Fit::Lossy(why) if self.rules.allow_lossy.contains(&column.name) => {
                let why = format!("{why}; `allow_lossy` allows it, and what is refused goes to the dead letters");
                (Effect::Weaker, "type-lossy", why)
            }
            Fit::Lossy(why) => (Effect::Stops, "type-lossy", format!("{why}; {}", unless_allowed(column))),
            Fit::Impossible(why) => {
                (Effect::Stops, "type-impossible", format!("{why}: a run ends with 78 before it copies"))
            }
        };
        let (fix, remedy) = self.retyped(column, other);
        Some(Difference::new(id, effect, what, why, fix).by(remedy))
    }

    /// The statements that make `other` a column that takes what `column` has, and keep what is stored.
    fn retyped(&self, column: &SourceColumn, other: &Column) -> Fix {
        let takes_null = matches!(ColumnType::parse(&other.type_name), Ok(ColumnType::Nullable(_)));
        let wanted = if takes_null { nullable_target_type(column) } else { target_type(column) };
        let alteration = self.alteration(other);
        match conversion(column, other, &wanted) {
            Conversion::Exact => alteration.converted(&wanted),
            Conversion::Rewritten => alteration.rewritten(&wanted),
            Conversion::Unsafe => match holding_both(&other.type_name, &wanted) {
                Some(both) => alteration.converted(&both),
                None => alteration.set_aside(column, &self.names),
            },
        }
    }

    /// A column that no field of the records fills.
    fn target_column(&self, target: &Column, source: &[SourceColumn]) -> Option<Difference> {
        let Column { name, type_name, default_kind, .. } = target;
        let field = self.rules.field_of(name);
        if is_own(name)
            || matches!(default_kind, DefaultKind::Materialized | DefaultKind::Alias)
            || source.iter().any(|column| Some(column.name.as_str()) == field)
        {
            return None;
        }
        let what = format!("nothing in the source fills the target's column {name}");
        let has_default = matches!(default_kind, DefaultKind::Default | DefaultKind::Ephemeral);
        if has_default || takes_null(type_name) {
            let why = format!("rows have {} there", if has_default { "the column's DEFAULT" } else { "NULL" });
            let fix = format!("{INTENDED}; otherwise:\n-- ALTER TABLE {} DROP COLUMN {};", self.name, quote(name));
            return Some(Difference::new("column-unfilled", Effect::Harmless, what, why, fix));
        }
        let why =
            "it has no DEFAULT and takes no NULL, and pg2ch makes up no value: every record without it is refused";
        let (fix, remedy) = self.alteration(target).left_out();
        Some(Difference::new("column-extra", Effect::RefusesAll, what, why, fix).by(remedy))
    }
}

/// A column whose place in the target `rename` gives to another one.
#[must_use]
pub fn taken(rules: &ColumnRules, column: &SourceColumn) -> Option<Difference> {
    let (name, wanted) = (&column.name, rules.column_of(&column.name)?);
    let other = rules.field_of(wanted).filter(|field| field != name)?;
    let what = format!("`{other}` and `{name}` would both become `{wanted}` in the target");
    let why = "every record would be refused, because the field has no column of its own: a run ends with 78 before it copies";
    let fix = format!("-- `rename` {name} as well, or `ignore` it");
    Some(Difference::new("column-taken", Effect::Stops, what, why, fix))
}

/// Arrays whose names are the same before the first dot. ClickHouse takes them for one Nested column, of which each row must have
/// as many elements in every member, and makes no table in which that column would be there twice or have a reserved member.
#[must_use]
pub fn nested_arrays(table: &TableConfig, source: &[SourceColumn], target: &TargetDescription) -> Vec<Difference> {
    let (mut nested, mut arrays): (BTreeMap<&str, Vec<Member<'_>>>, BTreeSet<&str>) = Default::default();
    for column in source {
        let Some(name) = table.column_rules.column_of(&column.name) else { continue };
        let type_name = match target.column(name) {
            Some(other) => other.type_name.clone(),
            None if target.columns.is_empty() => target_type(column),
            // It is added as a String.
            None => nullable_target_type(column),
        };
        match name.split_once('.') {
            _ if !type_name.starts_with("Array(") => {}
            Some((prefix, _)) => nested.entry(prefix).or_default().push((&column.name, name)),
            None => drop(arrays.insert(name)),
        }
    }
    let mut found = Vec::new();
    for (prefix, members) in nested {
        let is_taken = arrays.contains(prefix);
        let is_refused = |(_, name): &Member<'_>| is_taken || name.strip_prefix(prefix) == Some(".null");
        let (refused, members): (Vec<_>, Vec<_>) = members.into_iter().partition(is_refused);
        if !refused.is_empty() {
            let why = if is_taken {
                "another array has that name: ClickHouse creates no table with both"
            } else {
                "ClickHouse reserves the name `null` in a Nested column, and creates no table with it"
            };
            found.push(nested_array(prefix, &refused, &refused, Effect::Stops, why));
        }
        // One of them may stay.
        if let [_, others @ ..] = &*members
            && !others.is_empty()
        {
            let why = "it refuses a row in which they differ in length, and its record becomes a dead letter";
            found.push(nested_array(prefix, &members, others, Effect::Weaker, why));
        }
    }
    found
}

/// An array with a dot in its name: its field, and its column.
type Member<'a> = (&'a str, &'a str);

fn nested_array(prefix: &str, members: &[Member<'_>], renamed: &[Member<'_>], effect: Effect, why: &str) -> Difference {
    let names: Vec<String> = members.iter().map(|(_, name)| quote(name)).collect();
    let other = |(field, name): &Member<'_>| format!("{field:?} = {:?}", name.replace('.', "_"));
    let others: Vec<String> = renamed.iter().map(other).collect();
    let them = if renamed.len() == 1 { "it another name" } else { "them other names" };
    let (arrays, members) = if names.len() == 1 { ("array", "a member of a") } else { ("arrays", "one") };
    let what =
        format!("ClickHouse takes the {arrays} {} for {members} Nested column {}", names.join(", "), quote(prefix));
    let fix = format!("-- give {them} in the target: `rename = {{ {} }}` in [[table]]", others.join(", "));
    Difference::new("array-nested", effect, what, why, fix)
}

fn unless_allowed(column: &SourceColumn) -> String {
    format!("a run ends with 78 before it copies, unless `allow_lossy` in [[table]] names {}", column.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TargetName;
    use crate::config::{ColumnChoice, OnBadRow, Outbox, Removal};
    use crate::ports::engine::Engine;

    fn table(rules: ColumnRules) -> TableConfig {
        TableConfig {
            source: "public.t".into(),
            key: vec!["id".into()],
            flag: "sent".into(),
            condition: None,
            apart_from: Vec::new(),
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
    fn what_clickhouse_cannot_convert_stays_under_another_name() {
        let definition =
            "CREATE TABLE d.t (`c` Float64 CODEC(FPC(8)), INDEX i c TYPE minmax) ENGINE = MergeTree ORDER BY id";
        let target = target(&[("c", "Float64"), ("c_old", "Nullable(Int8)")]);
        let told =
            found(&source("c", "numeric(12,2)", true), &TargetDescription { definition: definition.into(), ..target });
        let fix = "-- ClickHouse cannot convert every stored value unchanged: `c_old2` keeps them, and `c` starts empty\n\
            -- after the next run `pg2ch verify --deep --repair --confirm` has the rows sent again\n\
            -- then `c_old2` may be dropped, unless it has values of rows that were deleted from PostgreSQL: there is no other copy\n\
            -- what the column has besides its type stays with `c_old2`: CODEC\n\
            ALTER TABLE `d`.`t` MODIFY COLUMN `c` Nullable(Float64);\n\
            ALTER TABLE `d`.`t` RENAME COLUMN `c` TO `c_old2`, ADD COLUMN `c` Nullable(Decimal(12, 2));";
        assert_eq!(told[0], ("type-lossy", Effect::Stops, fix.to_owned()));
    }

    #[test]
    fn a_codec_that_the_new_type_does_not_take_is_removed_first() {
        let definition =
            "CREATE TABLE d.t (`c` Int32 CODEC(T64, ZSTD(1)) STATISTICS(tdigest)) ENGINE = MergeTree ORDER BY id";
        let target = TargetDescription { definition: definition.into(), ..target(&[("c", "Int32")]) };
        let fix = "-- String takes no CODEC(T64, ZSTD(1)): `c` has none afterwards\n\
            ALTER TABLE `d`.`t` MODIFY COLUMN `c` REMOVE CODEC;\n\
            -- String takes no STATISTICS(tdigest): `c` has none afterwards\n\
            ALTER TABLE `d`.`t` DROP STATISTICS `c`;\n\
            ALTER TABLE `d`.`t` MODIFY COLUMN `c` String;";
        assert_eq!(found(&source("c", "text", true), &target)[0].2, fix);
        let wider = found(&source("c", "bigint", true), &target);
        assert_eq!(wider[0].2, "ALTER TABLE `d`.`t` MODIFY COLUMN `c` Int64;");
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
    fn an_array_that_is_to_be_added_is_no_member_of_a_nested_column() {
        let both = [source("x", "integer[]", true), source("x.a", "integer[]", true)];
        let table = table(ColumnRules::default());
        let of = |target: &TargetDescription| nested_arrays(&table, &both, target).pop().map(|found| found.effect);
        assert_eq!(of(&TargetDescription::default()), Some(Effect::Stops));
        assert_eq!(of(&target(&[("x", "Array(Nullable(Int32))")])), None);
    }

    #[test]
    fn an_ignored_column_is_not_missed() {
        let rules = ColumnRules { ignore: ["c".into()].into(), ..ColumnRules::default() };
        assert_eq!(differences(&table(rules), Some(&[source("c", "text", true)]), &target(&[])), []);
    }
}

//! What `[[table]]` says about single columns: which are named otherwise in the target, and which it does not get.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::file::Value;
use super::reader::Section;
use super::value;
use crate::data::is_own;
use crate::error::Result;

/// The rules for the columns of one table. Names are the catalogue's, not quoted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnRules {
    /// Source column → target column.
    pub rename: BTreeMap<String, String>,
    /// Source columns that the target does not get. They are in the records all the same.
    pub ignore: BTreeSet<String>,
    /// Source columns some values of which the target's type may refuse.
    pub allow_lossy: BTreeSet<String>,
}

impl ColumnRules {
    /// The target's column for a field of the records; `None` if the field is ignored.
    #[must_use]
    pub fn column_of<'a>(&'a self, field: &'a str) -> Option<&'a str> {
        if self.ignore.contains(field) {
            return None;
        }
        Some(self.rename.get(field).map_or(field, String::as_str))
    }

    /// The field that fills a column of the target; `None` if no field can.
    #[must_use]
    pub fn field_of<'a>(&'a self, column: &'a str) -> Option<&'a str> {
        if let Some((field, _)) = self.rename.iter().find(|(_, target)| *target == column) {
            return Some(field);
        }
        let is_elsewhere = self.rename.contains_key(column) || self.ignore.contains(column);
        (!is_elsewhere).then_some(column)
    }

    /// The fields that are passed over.
    pub fn ignored(&self) -> impl Iterator<Item = &str> {
        self.ignore.iter().map(String::as_str)
    }

    /// Fields that these rules lead nowhere in a target with `columns`, and why.
    #[must_use]
    pub fn misled<'a>(&self, columns: impl Iterator<Item = &'a str>) -> HashMap<String, &'static str> {
        let columns: BTreeSet<&str> = columns.collect();
        let lost = self.rename.iter().filter(|(_, column)| !columns.contains(column.as_str()));
        let lost = lost.map(|(field, _)| (field.clone(), "the target lacks the column that `rename` gives the field"));
        let taken = self.rename.values().filter(|column| !self.rename.contains_key(*column));
        let taken = taken.map(|column| (column.clone(), "`rename` gives the column of this name to another field"));
        lost.chain(taken).collect()
    }
}

/// Reads `rename`, `ignore` and `allow_lossy`, which are noted only where they are set.
///
/// # Errors
/// 78 if a value is refused, or two of them contradict each other.
pub fn read(section: &mut Section<'_>, key: &[String]) -> Result<ColumnRules> {
    let mut rules = ColumnRules::default();
    if let Some(given) = section.take("rename") {
        let hint = "write `rename = { source_column = \"target_column\" }`";
        let rename = |given: Value| given.pairs()?.into_iter().try_for_each(|pair| rename(&mut rules.rename, pair));
        let given = given.read(rename, hint)?;
        let taken = |(_, column): &(&String, &String)| key.contains(column) && !rules.rename.contains_key(*column);
        if let Some((field, column)) = rules.rename.iter().find(taken) {
            let why = format!("`{column}` belongs to the key, and `{field}` would take its column of the target");
            return Err(given.refuse(why, "choose another name, or rename the key's column as well"));
        }
        let pairs: Vec<String> = rules.rename.iter().map(|(field, column)| format!("{field} → {column}")).collect();
        section.note("rename", pairs.join(", "), &given.origin);
    }
    for name in ["ignore", "allow_lossy"] {
        let Some(given) = section.take(name) else { continue };
        let given = given.read(Value::columns, "name columns of the source: `[\"one\", \"another\"]`")?;
        let columns = if name == "ignore" { &mut rules.ignore } else { &mut rules.allow_lossy };
        columns.extend(given.value.iter().cloned());
        check(&rules, key).map_err(|why| given.refuse(why, "keep one of the two"))?;
        section.note(name, given.value.join(", "), &given.origin);
    }
    Ok(rules)
}

fn rename(names: &mut BTreeMap<String, String>, (field, column): (String, String)) -> Result<(), String> {
    value::column(&field)?;
    if column.is_empty() || column.chars().any(char::is_control) {
        return Err(format!("the new name of `{field}` is not a valid name"));
    }
    if is_own(&column) {
        return Err(format!("`{column}` is pg2ch's own column"));
    }
    if let Some((other, _)) = names.iter().find(|(_, taken)| **taken == column) {
        return Err(format!("`{other}` and `{field}` would both become `{column}`"));
    }
    names.insert(field, column);
    Ok(())
}

fn check(rules: &ColumnRules, key: &[String]) -> Result<(), String> {
    if let Some(column) = key.iter().find(|column| rules.ignore.contains(*column)) {
        return Err(format!("`{column}` belongs to the key, which identifies rows"));
    }
    let mut named_twice =
        rules.ignore.iter().filter(|name| rules.rename.contains_key(*name) || rules.allow_lossy.contains(*name));
    named_twice.next().map_or(Ok(()), |column| Err(format!("`{column}` is ignored, and another rule names it")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> ColumnRules {
        let rename = [("a", "b"), ("b", "a"), ("mail", "email")].map(|(from, to)| (from.into(), to.into()));
        ColumnRules { rename: rename.into(), ignore: ["secret".into()].into(), ..ColumnRules::default() }
    }

    #[test]
    fn columns_and_fields_find_each_other() {
        let rules = rules();
        for (field, column) in [("a", "b"), ("b", "a"), ("mail", "email"), ("id", "id")] {
            assert_eq!((rules.column_of(field), rules.field_of(column)), (Some(column), Some(field)));
        }
        assert_eq!((rules.column_of("secret"), rules.field_of("secret"), rules.field_of("mail")), (None, None, None));
    }

    #[test]
    fn a_field_that_leads_nowhere_is_told() {
        let told = rules().misled(["a", "b"].into_iter());
        let mut fields: Vec<_> = told.keys().map(String::as_str).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["email", "mail"], "email is another field's column, and mail's column is missing");
    }
}

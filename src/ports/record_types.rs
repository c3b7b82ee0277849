//! Of which types the source's columns were when a record was made: JSON does not tell a document from a text, nor a double from a
//! real. Records wait in the topic while a table changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::source_column::SourceColumn;
use crate::data::Offsets;

/// How many changes of a column's type are remembered; the oldest is forgotten first.
const MOST: usize = 50;

/// The types of the columns, from change to change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordTypes {
    /// Oldest first; the last one has no ends.
    spans: Vec<Span>,
}

/// The records between two changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The next offset behind them in each partition; one that is missing has none of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<Offsets>,
    /// The names and types, without domains, of all columns that some of them have.
    types: BTreeMap<String, String>,
}

impl Span {
    fn of(columns: &[SourceColumn]) -> Self {
        let type_of = |column: &SourceColumn| (column.name.clone(), column.base_type.clone());
        Self { ends: None, types: columns.iter().map(type_of).collect() }
    }

    /// Whether a record that no earlier one has lies here.
    #[must_use]
    pub fn has(&self, partition: i32, offset: i64) -> bool {
        self.ends.as_ref().is_none_or(|ends| ends.get(&partition).is_some_and(|&end| offset < end))
    }

    /// The columns, as far as records depend on them.
    #[must_use]
    pub fn columns(&self) -> Vec<SourceColumn> {
        let column = |(name, base_type): (&String, &String)| SourceColumn {
            name: name.clone(),
            base_type: base_type.clone(),
            ..SourceColumn::default()
        };
        self.types.iter().map(column).collect()
    }
}

impl RecordTypes {
    /// Where nothing else is known: all records are of these columns.
    #[must_use]
    pub fn of(columns: &[SourceColumn]) -> Self {
        Self { spans: vec![Span::of(columns)] }
    }

    /// What [`text`](Self::text) has made; `None` if it is something else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let found: Self = serde_json::from_str(text).ok()?;
        let (last, others) = found.spans.split_last()?;
        let is_whole = last.ends.is_none() && others.iter().all(|span| span.ends.is_some());
        is_whole.then_some(found)
    }

    /// As it is kept.
    #[must_use]
    pub fn text(&self) -> String {
        // Strings and numbers always have a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same with records of `columns` from these offsets on; `None` if that changes nothing.
    #[must_use]
    pub fn followed_by(&self, columns: &[SourceColumn], from: &Offsets) -> Option<Self> {
        let next = Span::of(columns).types;
        let mut spans = self.spans.clone();
        let last = spans.last_mut()?;
        if next.iter().all(|(name, of_type)| last.types.get(name).is_none_or(|known| known == of_type)) {
            // Columns that are added or dropped change nothing for records that do not have them.
            if next.keys().all(|name| last.types.contains_key(name)) {
                return None;
            }
            last.types.extend(next);
        } else {
            last.ends = Some(from.clone());
            spans.push(Span { ends: None, types: next });
            spans.drain(..spans.len().saturating_sub(MOST));
        }
        Some(Self { spans })
    }

    /// The spans, oldest first: a record is in the first that [has](Span::has) it.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(type_of_note: &str) -> Vec<SourceColumn> {
        let column = |name: &str, base_type: &str| SourceColumn {
            name: name.into(),
            base_type: base_type.into(),
            ..SourceColumn::default()
        };
        vec![column("id", "bigint"), column("note", type_of_note)]
    }

    #[test]
    fn a_record_has_the_types_of_its_time() {
        let first = RecordTypes::of(&columns("text"));
        assert_eq!(first.followed_by(&columns("text"), &Offsets::from([(0, 5)])), None);
        let types = first.followed_by(&columns("json"), &Offsets::from([(0, 5)])).unwrap();
        let types = types.followed_by(&columns("text"), &Offsets::from([(0, 5), (1, 3)])).unwrap();

        assert_eq!(RecordTypes::parse(&types.text()), Some(types.clone()));
        let note = |partition, offset| {
            let span = types.spans().iter().find(|span| span.has(partition, offset)).unwrap();
            span.columns().remove(1).base_type
        };
        assert_eq!(
            [note(0, 4), note(0, 5), note(1, 2), note(1, 3), note(2, 0)],
            ["text", "text", "json", "text", "text"]
        );
    }

    #[test]
    fn columns_that_come_and_go_are_no_change() {
        let only = |name: &str, of_type: &str| {
            vec![SourceColumn { name: name.into(), base_type: of_type.into(), ..SourceColumn::default() }]
        };
        let types = RecordTypes::of(&columns("text"));
        assert_eq!(types.followed_by(&columns("text")[..1], &Offsets::from([(0, 5)])), None);
        let types = types.followed_by(&only("more", "json"), &Offsets::from([(0, 5)])).unwrap();
        assert_eq!((types.spans().len(), types.spans()[0].columns().len()), (1, 3));
        let types = types.followed_by(&only("note", "json"), &Offsets::from([(0, 9)])).unwrap();
        assert_eq!(types.spans().len(), 2, "the column is there again, with another type");
    }

    #[test]
    fn what_somebody_else_has_written_is_not_believed() {
        for text in ["", "null", "[]", "{}", r#"[{"types":{}},{"types":{}}]"#, r#"[{"ends":{"0":1},"types":{}}]"#] {
            assert_eq!(RecordTypes::parse(text), None, "{text}");
        }
    }

    #[test]
    fn not_every_change_is_remembered_for_ever() {
        let mut types = RecordTypes::of(&columns("0"));
        for n in 1..1_000 {
            types = types.followed_by(&columns(&n.to_string()), &Offsets::from([(0, n)])).unwrap();
        }
        assert_eq!(types.spans().len(), MOST);
    }
}

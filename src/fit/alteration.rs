//! The statements that give one column of the target another type. None of them changes a stored value: what ClickHouse cannot
//! convert stays under another name. Where it would refuse the statements, the table has to be recreated.

use super::conversion::{is_of_one_kind, takes_codec_of_numbers, takes_index, takes_missing, with_zero};
use super::map::nullable_target_type;
use crate::clickhouse::column_type::{Column, DefaultKind, takes_null};
use crate::clickhouse::{quote, text};
use crate::ports::engine::Rests;
use crate::ports::source::SourceColumn;
use crate::ports::target::TargetDescription;

/// The codecs that are made for numbers of a kind.
const OF_NUMBERS: [&str; 7] = ["Delta", "DoubleDelta", "Gorilla", "FPC", "T64", "GCD", "ALP"];

/// What it takes to remove a difference. Of those that only another table removes, one whose engine differs explains the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remedy {
    /// Another table, with another engine or key.
    NewEngine,
    /// Another table: ClickHouse does not alter this column.
    NewColumn,
    /// Statements that only add: nothing that is stored changes, and `init` executes them.
    Addition,
    /// Whatever the fix says, which a person decides.
    ByHand,
}

/// Statements, with their remarks, and what they take.
pub type Fix = (String, Remedy);

/// A column that is to be altered.
pub struct Alteration<'a> {
    /// The target, quoted for SQL.
    pub table: &'a str,
    /// The target, as its server describes it.
    pub target: &'a TargetDescription,
    /// The column.
    pub column: &'a Column,
}

/// Statements that leave the stored values under another name.
pub struct Aside {
    /// That name.
    pub name: String,
    /// The statements, in order.
    pub statements: Vec<String>,
}

impl Alteration<'_> {
    /// Converts the stored values to `to`, which takes all of them.
    #[must_use]
    pub fn converted(&self, to: &str) -> Fix {
        let (from, name) = (&self.column.type_name, quote(&self.column.name));
        match self.target.rests_on(&self.column.name) {
            Rests::Key => return self.recreated(to, KEY),
            Rests::Expressions if !is_of_one_kind(from, to) => return self.recreated(to, EXPRESSIONS),
            Rests::Indexes if !takes_index(from, to) => return self.recreated(to, EXPRESSIONS),
            Rests::Nothing | Rests::Indexes | Rests::Expressions => {}
        }
        let mut fix = String::new();
        for (option, arguments) in self.target.options_of(&self.column.name) {
            let statement = match option {
                "CODEC" if is_of_numbers(&arguments) && !takes_codec_of_numbers(from, to) => {
                    format!("MODIFY COLUMN {name} REMOVE CODEC")
                }
                "STATISTICS" if to.contains("String") && !is_of_one_kind(from, to) => format!("DROP STATISTICS {name}"),
                _ => continue,
            };
            fix += &format!(
                "-- {to} takes no {option}({}): {name} has none afterwards\nALTER TABLE {} {statement};\n",
                arguments.join(", "),
                self.table
            );
        }
        (format!("{fix}ALTER TABLE {} MODIFY COLUMN {name} {to};", self.table), Remedy::ByHand)
    }

    /// Converts the stored values to ClickHouse's text of them.
    #[must_use]
    pub fn rewritten(&self, to: &str) -> Fix {
        let (fix, remedy) = self.converted(to);
        if remedy == Remedy::NewColumn {
            return (fix, remedy);
        }
        let remark = format!(
            "-- ClickHouse writes the stored values of {} otherwise than PostgreSQL: after the next run \
             `pg2ch verify --deep --repair --confirm` has the rows sent again that differ\n\
             -- rows that were deleted from PostgreSQL keep ClickHouse's text\n",
            quote(&self.column.name)
        );
        (remark + &fix, remedy)
    }

    /// Leaves the stored values under a name that no column has, not even `taken` ones, and adds the column again, empty.
    #[must_use]
    pub fn set_aside(&self, source: &SourceColumn, taken: &[&str]) -> Fix {
        let Some(Aside { name: old, statements }) = self.aside(source, taken) else {
            let why = if self.target.rests_on(&self.column.name) == Rests::Key { KEY } else { EXPRESSIONS };
            return self.recreated(&nullable_target_type(source), why);
        };
        let (name, old) = (quote(&self.column.name), quote(&old));
        let options: Vec<&str> =
            self.target.options_of(&self.column.name).into_iter().map(|(option, _)| option).collect();
        let lost = if options.is_empty() {
            String::new()
        } else {
            format!("-- what the column has besides its type stays with {old}: {}\n", options.join(", "))
        };
        let remark = format!(
            "-- ClickHouse cannot convert every stored value unchanged: {old} keeps them, and {name} starts empty\n\
             -- after the next run `pg2ch verify --deep --repair --confirm` has the rows sent again\n\
             -- then {old} may be dropped, unless it has values of rows that were deleted from PostgreSQL: there is no other copy\n"
        );
        (format!("{remark}{lost}{};", statements.join(";\n")), Remedy::ByHand)
    }

    /// The statements of [`set_aside`](Self::set_aside); `None` if ClickHouse refuses them.
    #[must_use]
    pub fn aside(&self, source: &SourceColumn, taken: &[&str]) -> Option<Aside> {
        let Column { name, type_name, default_kind, .. } = self.column;
        // A member of a Nested column keeps its prefix, and as many elements as the others.
        let may_be_renamed =
            matches!(self.target.rests_on(name), Rests::Nothing | Rests::Indexes) && !name.contains('.');
        if !may_be_renamed {
            return None;
        }
        let is_free = |name: &String| self.target.column(name).is_none() && !taken.contains(&name.as_str());
        let mut names = std::iter::once(format!("{name}_old")).chain((2..).map(|at| format!("{name}_old{at}")));
        let old = names.find(is_free)?;
        let mut statements = Vec::new();
        // New rows have nothing for it.
        if *default_kind == DefaultKind::None && !takes_null(type_name) {
            statements.push(format!(
                "ALTER TABLE {} MODIFY COLUMN {} {}",
                self.table,
                quote(name),
                takes_missing(type_name)
            ));
        }
        // In one statement: between two, a run would find no column.
        statements.push(format!(
            "ALTER TABLE {} RENAME COLUMN {} TO {}, ADD COLUMN {}",
            self.table,
            quote(name),
            quote(&old),
            definition(name, source)
        ));
        Some(Aside { name: old, statements })
    }

    /// Drops a column in which nothing is stored, and adds it again.
    #[must_use]
    pub fn replaced(&self, to: &str) -> Fix {
        let (table, name) = (self.table, quote(&self.column.name));
        match self.target.rests_on(&self.column.name) {
            Rests::Nothing => {}
            Rests::Key => return self.recreated(to, KEY),
            Rests::Indexes | Rests::Expressions => return self.recreated(to, EXPRESSIONS),
        }
        let fix = format!("ALTER TABLE {table} DROP COLUMN {name};\nALTER TABLE {table} ADD COLUMN {name} {to};");
        (fix, Remedy::ByHand)
    }

    /// Lets a column be left out that nothing fills.
    #[must_use]
    pub fn left_out(&self) -> Fix {
        let (type_name, name) = (&self.column.type_name, quote(&self.column.name));
        let modify = |to: &str| format!("ALTER TABLE {} MODIFY COLUMN {name} {to};", self.table);
        match self.target.rests_on(&self.column.name) {
            Rests::Key => (format!("-- recreate the table without {}: {KEY}", self.column.name), Remedy::NewColumn),
            Rests::Expressions => {
                // A TTL would delete rows of 1970.
                let has_time = type_name.starts_with("Date") && self.target.column("_timestamp").is_some();
                let to = if has_time { format!("{type_name} DEFAULT `_timestamp`") } else { with_zero(type_name) };
                let remark =
                    format!("-- rows without {name} get this DEFAULT: the expressions over the column take no NULL");
                (format!("{remark}\n{}", modify(&to)), Remedy::ByHand)
            }
            Rests::Nothing | Rests::Indexes => (modify(&takes_missing(type_name)), Remedy::ByHand),
        }
    }

    /// What only another table makes possible.
    #[must_use]
    pub fn recreated(&self, to: &str, why: &str) -> Fix {
        (format!("-- recreate the table with {} as {to}: {why}", self.column.name), Remedy::NewColumn)
    }
}

/// A column of the records as ADD COLUMN has it: rows that are there have NULL.
#[must_use]
pub fn definition(name: &str, source: &SourceColumn) -> String {
    let comment = source.comment.as_ref().map_or_else(String::new, |comment| format!(" COMMENT {}", text(comment)));
    format!("{} {}{comment}", quote(name), nullable_target_type(source))
}

const KEY: &str = "ClickHouse does not alter a column on which a key rests";
const EXPRESSIONS: &str =
    "expressions rest on the column, such as a DEFAULT, an index or the TTL, and ClickHouse refuses the ALTER";

fn is_of_numbers(codecs: &[String]) -> bool {
    codecs.iter().any(|codec| OF_NUMBERS.contains(&codec.split('(').next().unwrap_or_default()))
}

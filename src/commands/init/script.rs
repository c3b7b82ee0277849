//! What `pg2ch init` prints: the pieces of each server under a heading of their own, so that each can be pasted where it
//! belongs.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::Value;

use crate::commands::Outcome;
use crate::config::TableConfig;
use crate::error::ExitCode;

/// Where a piece is to be typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// psql.
    Postgres,
    /// A shell that has Kafka's commands.
    Kafka,
    /// clickhouse-client.
    ClickHouse,
    /// Nowhere: pg2ch does it itself.
    Own,
}

impl Place {
    fn heading(self, table: &str) -> String {
        match self {
            Self::Postgres => format!("-- PostgreSQL, for {table} (psql)"),
            Self::Kafka => format!("# Kafka, for {table} (shell)"),
            Self::ClickHouse => format!("-- ClickHouse, for {table} (clickhouse-client)"),
            Self::Own => format!("# pg2ch itself, for {table}"),
        }
    }
}

/// The pieces so far.
#[derive(Debug, Default, Serialize)]
pub struct Script {
    #[serde(rename = "output")]
    text: String,
    #[serde(skip)]
    last: Option<(Place, String)>,
}

impl Script {
    /// Adds whole lines, under the heading of their place and table.
    pub fn add(&mut self, place: Place, table: &str, lines: &str) {
        if self.last.as_ref().is_none_or(|(last, of)| *last != place || of != table) {
            let blank = if self.text.is_empty() { "" } else { "\n" };
            // A string takes everything.
            let _ = writeln!(self.text, "{blank}{}", place.heading(table));
            self.last = Some((place, table.to_owned()));
        }
        let _ = writeln!(self.text, "{lines}");
    }

    /// Adds what a person has to decide: as comments, each line of it. A remark among statements stays one.
    pub fn add_by_hand(&mut self, place: Place, table: &str, why: &str, statements: &str) {
        let has_remarks_alone = statements.lines().all(|line| line.starts_with("-- "));
        let shown = |line: &str| {
            let line = if has_remarks_alone { line.trim_start_matches("-- ") } else { line };
            format!("\n--     {line}")
        };
        let statements: String = statements.lines().map(shown).collect();
        self.add(place, table, &format!("-- do by hand: {why}{statements}"));
    }
}

impl Outcome for Script {
    fn exit_code(&self) -> ExitCode {
        ExitCode::Done
    }

    fn text(&self, _table: &TableConfig) -> String {
        self.text.clone()
    }

    fn join(texts: &[String]) -> String {
        let texts: Vec<&str> = texts.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
        if texts.is_empty() {
            return "nothing to do: everything that a run needs exists\n".to_owned();
        }
        texts.join("\n")
    }

    fn add_to(document: &mut Value, text: &str) {
        document["output"] = text.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_place_has_its_heading_once_and_what_is_done_by_hand_is_a_comment() {
        let mut script = Script::default();
        script.add(Place::Postgres, "public.t", "CREATE 1;");
        script.add(Place::Postgres, "public.t", "CREATE 2;");
        script.add(Place::Kafka, "public.t", "kafka-topics.sh");
        script.add_by_hand(Place::ClickHouse, "public.t", "a: b", "ALTER 1;\n-- a remark\nALTER 2;");
        script.add_by_hand(Place::ClickHouse, "public.t", "c", "-- ALTER 3;");
        assert_eq!(
            Script::join(&[script.text]),
            "-- PostgreSQL, for public.t (psql)\nCREATE 1;\nCREATE 2;\n\n# Kafka, for public.t (shell)\nkafka-topics.sh\n\n\
             -- ClickHouse, for public.t (clickhouse-client)\n-- do by hand: a: b\n--     ALTER 1;\n--     -- a remark\n--     ALTER 2;\n\
             -- do by hand: c\n--     ALTER 3;\n"
        );
        assert_eq!(Script::join(&[Script::default().text]), "nothing to do: everything that a run needs exists\n");
    }
}

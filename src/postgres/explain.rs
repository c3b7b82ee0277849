//! What PostgreSQL's errors mean: the exit code, and what to do.

use postgres::error::SqlState;

use crate::error::{Error, ExitCode};

/// Sorts an error by what the reader has to do about it.
pub(super) fn explain(what: &str, error: postgres::Error) -> Error {
    let (exit, hint) = error.code().map_or(
        (
            ExitCode::Unavailable,
            "check that the server runs, and that address, port and TLS mode are right; the next run resumes here",
        ),
        sort,
    );
    let context = context(&error);
    let is_policy = error.as_db_error().is_some_and(|db| db.routine() == Some("check_enable_rls"));
    let hint = if is_policy {
        "run `pg2ch check`, which prints the statement: a row-level security policy must not apply to the role"
    } else if exit == ExitCode::Permission && context.is_some() {
        "grant the role what the function does that the message names, or make that function SECURITY DEFINER"
    } else {
        hint
    };
    let why = error.as_db_error().map_or_else(
        || chain(&error),
        |db| {
            let more = [db.detail(), context].into_iter().flatten().map(|text| format!(", {text}"));
            format!("{} ({}{})", db.message(), db.code().code(), more.collect::<String>())
        },
    );
    Error::new(exit, what, why, hint).with_source(error)
}

/// PostgreSQL's own error below one of ours.
pub(super) fn cause(error: &Error) -> Option<&postgres::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

/// Where in the statement it happened: the function that the statement itself has called, such as a trigger's. Its text is in the
/// server's language.
fn context(error: &postgres::Error) -> Option<&str> {
    error.as_db_error()?.where_()?.lines().last()
}

/// Whether a statement may have failed for a row: a constraint that the row violates, or whatever a trigger or another function
/// raises. Not where the connection, or the server's resources or state, are the reason. What the statement itself may lack, or wait
/// for, is no row's fault: only within a function.
pub(super) fn may_be_a_rows_fault(error: &postgres::Error) -> bool {
    match error.code().and_then(|code| code.code().get(..2)) {
        None | Some("08" | "53" | "57" | "58") => false,
        Some("25" | "28" | "40" | "42" | "55" | "XX") => context(error).is_some(),
        Some(_) => true,
    }
}

/// <https://www.postgresql.org/docs/current/errcodes-appendix.html> lists the codes; their first two characters name the class.
fn sort(code: &SqlState) -> (ExitCode, &'static str) {
    match *code {
        SqlState::INSUFFICIENT_PRIVILEGE => (
            ExitCode::Permission,
            "run `pg2ch check`: if a run lacks a GRANT of docs/grants.md, it prints the statement; otherwise grant the role what \
             the message names",
        ),
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE | SqlState::INVALID_COLUMN_REFERENCE => (
            ExitCode::Config,
            "run `pg2ch check`: if a publication of the table keeps its rows from being updated, it prints the statement that helps",
        ),
        SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN | SqlState::INVALID_SCHEMA_NAME => {
            (ExitCode::Config, "run `pg2ch init`, and check the table, key and flag in the configuration")
        }
        SqlState::CHARACTER_NOT_IN_REPERTOIRE | SqlState::UNTRANSLATABLE_CHARACTER => (
            ExitCode::Config,
            "a text value cannot be converted to UTF-8, which JSON requires: fix those rows, or leave the column out with `exclude`",
        ),
        SqlState::INVALID_CATALOG_NAME => (ExitCode::Config, "check the database in the PostgreSQL URL"),
        SqlState::READ_ONLY_SQL_TRANSACTION => (
            ExitCode::Unavailable,
            "the server is read-only: a standby, perhaps after a failover; connect to the primary",
        ),
        SqlState::QUERY_CANCELED | SqlState::LOCK_NOT_AVAILABLE => (
            ExitCode::Unavailable,
            "the statement took longer than [timeouts] postgres allows, or was cancelled; look for locks and a missing partial index",
        ),
        _ => match code.code().get(..2) {
            Some("28") => (
                ExitCode::Permission,
                "check user and password, and the server's pg_hba.conf: `pg2ch config show` names the file or variable of each",
            ),
            // Connection exceptions, lack of resources, operator intervention, system errors, serialisation and deadlocks.
            Some("08" | "53" | "57" | "58" | "40") => {
                (ExitCode::Unavailable, "PostgreSQL cannot do this now; the next run resumes here")
            }
            _ => (
                ExitCode::Config,
                "look for a constraint, trigger, rule or type of the source table that is in the way: the server refused a statement of this run",
            ),
        },
    }
}

/// An error with what lies below it; the library's own text is often only "error connecting to server".
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(cause) = below {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        below = cause.source();
    }
    text
}

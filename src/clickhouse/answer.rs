//! What ClickHouse answers: results, and exceptions with what they mean for a run.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, ExitCode};
use crate::page;

/// What a server answers to a setting that it does not know.
pub(super) const UNKNOWN_SETTING: i32 = 115;

/// The most of an exception that is shown.
const MAX_TOLD: usize = 2_000;

/// What the server answered.
#[derive(Debug)]
pub enum Answer {
    /// The result.
    Ok(Vec<u8>),
    /// An exception.
    Exception(Exception),
}

/// All that was answered to a request.
#[derive(Debug)]
pub(super) struct Reply {
    /// HTTP status.
    pub status: u16,
    /// ClickHouse's number of its exception, from the header that no proxy writes.
    pub code: Option<i32>,
    /// The query's identifier as it came back.
    pub query_id: Option<Vec<u8>>,
    /// Whether a header is there that only ClickHouse writes.
    pub is_clickhouse: bool,
    /// How long the answer asks to be left alone.
    pub retry_after: Option<Duration>,
    /// The body, read to its end.
    pub body: Vec<u8>,
}

/// ClickHouse's own error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its number (`src/Common/ErrorCodes.cpp` lists them); 0 if the answer has none: it may not be ClickHouse that answered.
    pub code: i32,
    /// HTTP status.
    pub status: u16,
    /// The server's own words; of a page only its title.
    pub message: String,
    /// How long the answer asks to be left alone (`Retry-After`).
    pub retry_after: Option<Duration>,
}

impl Exception {
    /// What an answer says, taken as an exception.
    pub(super) fn of(reply: &Reply) -> Self {
        let message = String::from_utf8_lossy(&reply.body);
        let message = message.trim();
        let code = reply.code.or_else(|| code_in(message)).unwrap_or(0);
        let message = if message.is_empty() { "an empty answer" } else { message };
        let message = page::title(&reply.body).unwrap_or_else(|| cut(message));
        Self { code, status: reply.status, message, retry_after: reply.retry_after }
    }

    /// As an error; `what` says what cannot be done, and where.
    pub(super) fn error(&self, what: String) -> Error {
        let (exit, hint) = match limit(self) {
            Some(name) => (ExitCode::Config, format!("raise {name} in the profile of pg2ch's user")),
            None => {
                let (exit, hint) = sort(self);
                (exit, hint.to_owned())
            }
        };
        let error = Error::new(exit, what, self, hint);
        match overloaded(self) {
            Some(pause) => error.with_pause(self.retry_after.unwrap_or(pause)),
            None => error,
        }
    }

    /// Whether the user lacks a privilege.
    pub(crate) const fn is_denied(&self) -> bool {
        self.code == 497 // ACCESS_DENIED
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.code == 0 {
            write!(f, "HTTP status {}: {}", self.status, self.message)
        } else {
            f.write_str(&self.message)
        }
    }
}

/// Servers before 20.x send no code in the headers, but begin their message with it.
fn code_in(message: &str) -> Option<i32> {
    let rest = message.strip_prefix("Code: ")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

fn cut(message: &str) -> String {
    let mut end = message.len().min(MAX_TOLD);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

/// Exceptions that no statement like it would ever escape: they never pass by themselves.
const REJECTED: &[i32] = &[
    15,  // DUPLICATE_COLUMN
    16,  // NO_SUCH_COLUMN_IN_TABLE
    44,  // ILLEGAL_COLUMN
    46,  // UNKNOWN_FUNCTION
    47,  // UNKNOWN_IDENTIFIER
    48,  // NOT_IMPLEMENTED
    50,  // UNKNOWN_TYPE
    56,  // UNKNOWN_STORAGE
    62,  // SYNTAX_ERROR
    115, // UNKNOWN_SETTING
    119, // ENGINE_REQUIRED
    181, // ILLEGAL_FINAL
    277, // INDEX_NOT_USED
    288, // DISTRIBUTED_IN_JOIN_SUBQUERY_DENIED
    344, // SUPPORT_IS_DISABLED
    370, // DATA_TYPE_CANNOT_BE_USED_IN_TABLES
    392, // QUERY_IS_PROHIBITED
    450, // BAD_TTL_EXPRESSION
    452, // SETTING_CONSTRAINT_VIOLATION
    455, // SUSPICIOUS_TYPE_FOR_LOW_CARDINALITY
    471, // INVALID_SETTING_VALUE
    472, // READONLY_SETTING
    524, // ALTER_OF_COLUMN_IS_FORBIDDEN
    549, // DATA_TYPE_CANNOT_BE_USED_IN_KEY
    584, // PROJECTION_NOT_USED
    620, // QUERY_NOT_ALLOWED
    704, // QUERY_CACHE_USED_WITH_NONDETERMINISTIC_FUNCTIONS
    712, // TOO_MANY_MATERIALIZED_VIEWS
    719, // QUERY_CACHE_USED_WITH_SYSTEM_TABLE
    724, // TOO_MANY_TABLES
    725, // TOO_MANY_DATABASES
    731, // QUERY_CACHE_USED_WITH_NON_THROW_OVERFLOW_MODE
];

/// The same of statements without rows. In an INSERT it may be a row that they are about.
pub(super) const REJECTED_WITH_ROWS: &[i32] = &[
    36,  // BAD_ARGUMENTS
    42,  // NUMBER_OF_ARGUMENTS_DOESNT_MATCH
    43,  // ILLEGAL_TYPE_OF_ARGUMENT
    53,  // TYPE_MISMATCH
    70,  // CANNOT_CONVERT_TYPE
    306, // TOO_DEEP_RECURSION
    386, // NO_COMMON_TYPE
];

/// The setting of the user's profile that a statement, or what it reads, is too large for: another run finds it the same.
fn limit(exception: &Exception) -> Option<&'static str> {
    Some(match exception.code {
        // TOO_MANY_BYTES, TOO_MANY_ROWS, TOO_MANY_ROWS_OR_BYTES, SET_SIZE_LIMIT_EXCEEDED, QUERY_IS_TOO_LARGE, LIMIT_EXCEEDED.
        307 | 158 | 396 | 191 | 229 | 290 => "the limit that the message names",
        161 => "max_columns_to_read",             // TOO_MANY_COLUMNS
        162 => "max_subquery_depth",              // TOO_DEEP_SUBQUERIES
        165 => "max_temporary_columns",           // TOO_MANY_TEMPORARY_COLUMNS
        166 => "max_temporary_non_const_columns", // TOO_MANY_TEMPORARY_NON_CONST_COLUMNS
        167 => "max_ast_depth",                   // TOO_DEEP_AST
        168 => "max_ast_elements",                // TOO_BIG_AST
        306 => "max_parser_depth",                // TOO_DEEP_RECURSION
        718 => "max_parser_backtracks",           // TOO_SLOW_PARSING
        36 if exception.message.contains("tree is too big") => "max_expanded_ast_elements",
        62 if exception.message.contains("Max query size exceeded") => "max_query_size",
        _ => return None,
    })
}

fn sort(exception: &Exception) -> (ExitCode, &'static str) {
    match exception.code {
        // AUTHENTICATION_FAILED, and the names that it had before.
        516 | 192..=194 => {
            (ExitCode::Permission, "check user and password: `pg2ch config show` names the file or variable of each")
        }
        // ACCESS_DENIED, READONLY.
        497 | 164 => (
            ExitCode::Permission,
            "`pg2ch check` prints the GRANT that is missing; docs/grants.md has all of them, and what the profile must allow",
        ),
        // UNKNOWN_TABLE, of what a view writes to: the message names the target as the view.
        60 if exception.message.contains("' of view '") => (
            ExitCode::Config,
            "run `pg2ch check`, which names the materialized view that writes to the missing table: create that table again, or drop \
             the view",
        ),
        // TABLE_IS_PERMANENTLY_READ_ONLY, TABLE_SIZE_LIMIT_EXCEEDED: somebody has set that for the table.
        774 | 1016 => (
            ExitCode::Config,
            "let whoever administers ClickHouse reset the table's setting that the message is about (table_readonly: `pg2ch check` \
             prints the statement). Meanwhile the records stay in the topic",
        ),
        // UNKNOWN_TABLE, UNKNOWN_DATABASE.
        60 | 81 => (ExitCode::Config, "run `pg2ch init` to create the target table, or correct `target` in [[table]]"),
        code if REJECTED.contains(&code) || REJECTED_WITH_ROWS.contains(&code) => (
            ExitCode::Config,
            "ClickHouse rejects this statement: run `pg2ch check`; the table may have changed, the server may be too old, or a setting \
             in the profile of pg2ch's user may be in the way",
        ),
        0 if matches!(exception.status, 401 | 403) => {
            (ExitCode::Permission, "check user and password, and any proxy in front of ClickHouse")
        }
        // QUOTA_EXCEEDED.
        201 => (ExitCode::Unavailable, "raise the quota of pg2ch's user, or wait until its interval ends: SHOW QUOTA"),
        _ if overloaded(exception).is_some() => (
            ExitCode::Unavailable,
            "let ClickHouse catch up (system.parts, system.merges, system.processes); the next run resumes here",
        ),
        0 if matches!(exception.status, 200 | 300..=399 | 404) => (
            ExitCode::Config,
            "[clickhouse] url does not lead to ClickHouse's HTTP interface (port 8123, or 8443 for https)",
        ),
        // A question: an INSERT gets smaller.
        0 if matches!(exception.status, 413 | 414) => (
            ExitCode::Config,
            "raise the limit of the proxy before ClickHouse to 1 MB at least (nginx: client_max_body_size, large_client_header_buffers)",
        ),
        _ => (ExitCode::Unavailable, "ClickHouse cannot do this now; the next run resumes here"),
    }
}

/// How long a server that has too much to do is left alone at first: 503 or 429 from a proxy, TIMEOUT_EXCEEDED,
/// TOO_MANY_SIMULTANEOUS_QUERIES, MEMORY_LIMIT_EXCEEDED, TOO_MANY_PARTS, CANNOT_SCHEDULE_TASK, SERVER_OVERLOADED.
const fn overloaded(exception: &Exception) -> Option<Duration> {
    match (exception.code, exception.status) {
        (159 | 202 | 241 | 252 | 439 | 745, _) | (0, 429 | 503) => Some(Duration::from_secs(2)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_found_in_the_message_of_an_old_server() {
        assert_eq!(code_in("Code: 60, e.displayText() = DB::Exception: Table x doesn't exist."), Some(60));
        assert_eq!(code_in("<html>Bad gateway</html>"), None);
    }
}

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
        let (exit, hint) = sort(self);
        let error = Error::new(exit, what, self, hint);
        match overloaded(self) {
            Some(pause) => error.with_pause(self.retry_after.unwrap_or(pause)),
            None => error,
        }
    }

    /// Whether the user lacks a privilege.
    #[must_use]
    pub const fn is_denied(&self) -> bool {
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
        // UNKNOWN_TABLE, UNKNOWN_DATABASE.
        60 | 81 => (ExitCode::Config, "run `pg2ch init` to create the target table, or correct `target` in [[table]]"),
        // NO_SUCH_COLUMN_IN_TABLE, UNKNOWN_IDENTIFIER, UNKNOWN_SETTING, UNKNOWN_FUNCTION, SYNTAX_ERROR, NOT_IMPLEMENTED,
        // SETTING_CONSTRAINT_VIOLATION, ILLEGAL_COLUMN, DATA_TYPE_CANNOT_BE_USED_IN_KEY, QUERY_CACHE_USED_WITH_SYSTEM_TABLE.
        16 | 47 | 115 | 46 | 62 | 48 | 452 | 44 | 549 | 719 => (
            ExitCode::Config,
            "ClickHouse rejects this statement: run `pg2ch check`; the table may have changed, or the server may be too old",
        ),
        0 if matches!(exception.status, 401 | 403) => {
            (ExitCode::Permission, "check user and password, and any proxy in front of ClickHouse")
        }
        // TOO_MANY_BYTES, TOO_MANY_ROWS, TOO_MANY_ROWS_OR_BYTES, SET_SIZE_LIMIT_EXCEEDED: limits of the user's profile.
        307 | 158 | 396 | 191 => {
            (ExitCode::Config, "raise the limit that the message names in the profile of pg2ch's user, or set it to 0")
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
/// TOO_MANY_SIMULTANEOUS_QUERIES, MEMORY_LIMIT_EXCEEDED, TOO_MANY_PARTS, CANNOT_SCHEDULE_TASK.
const fn overloaded(exception: &Exception) -> Option<Duration> {
    match (exception.code, exception.status) {
        (159 | 202 | 241 | 252 | 439, _) | (0, 429 | 503) => Some(Duration::from_secs(2)),
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

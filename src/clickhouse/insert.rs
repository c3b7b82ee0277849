//! One INSERT: one body, one block, one token, one of three ends.
//!
//! If the process dies before the request is sent, nothing was stored; if it dies after, the next run finds the recorded
//! intent, sends the same rows under the same token, and asks.

use std::time::Instant;

use super::http::{Answer, Exception, quote};
use super::layout::Layout;
use super::settings::TOKEN;
use super::target_table::ClickHouseTarget;
use crate::error::{ExitCode, Result};
use crate::ports::target::{Block, Inserted};

/// Exceptions that blame the data. All are raised while the one block of an INSERT is parsed and checked, so nothing of
/// it has been written (numbers of ClickHouse's `src/Common/ErrorCodes.cpp`).
const BAD_DATA: &[i32] = &[
    6,   // CANNOT_PARSE_TEXT
    8,   // THERE_IS_NO_COLUMN: an unknown field
    25,  // CANNOT_PARSE_ESCAPE_SEQUENCE
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    53,  // TYPE_MISMATCH
    69,  // ARGUMENT_OUT_OF_BOUND
    70,  // CANNOT_CONVERT_TYPE
    72,  // CANNOT_PARSE_NUMBER
    117, // INCORRECT_DATA
    130, // CANNOT_READ_ARRAY_FROM_TEXT
    131, // TOO_LARGE_STRING_SIZE
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    376, // CANNOT_PARSE_UUID
    395, // FUNCTION_THROW_IF_VALUE_IS_NON_ZERO
    407, // DECIMAL_OVERFLOW
    441, // CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING
    467, // CANNOT_PARSE_BOOL
    469, // VIOLATED_CONSTRAINT
    675, // CANNOT_PARSE_IPV4
    676, // CANNOT_PARSE_IPV6
    691, // UNKNOWN_ELEMENT_OF_ENUM
];

impl ClickHouseTarget {
    pub(super) fn insert_block(&mut self, block: Block<'_>, token: &str) -> Result<Inserted> {
        let columns: Vec<String> = block.columns.iter().map(|column| quote(column)).collect();
        let sql = format!("INSERT INTO {} ({}) FORMAT {}", self.sql_name(), columns.join(", "), block.format);
        let query_id = format!("{}{token}", self.query_prefix());
        let is_elsewhere = self.layout()? != Layout::Here;
        let settings = self.settings()?;
        let mut parameters: Vec<(&str, &str)> = settings.insert.clone();
        if is_elsewhere {
            parameters.extend(&settings.insert_elsewhere);
        }
        parameters.extend(block.settings);
        // The answer is kept back until the statement has ended, so that its status is the statement's.
        parameters.push(("wait_end_of_query", "1"));
        parameters.push(("query_id", &query_id));
        if settings.knows_tokens {
            parameters.push((TOKEN, token));
        }
        let what = format!("cannot insert into {}", self.name());
        crate::crash::point("clickhouse.insert.before");
        let begun = Instant::now();
        let answer = self.http().send(&sql, &parameters, block.body);
        log::debug!("an insert of {} bytes into {} took {:?}", block.body.len(), self.name(), begun.elapsed());
        crate::crash::point("clickhouse.insert.after");
        match answer {
            Ok(Answer::Ok(_)) => Ok(Inserted::Stored),
            Ok(Answer::Exception(exception)) if BAD_DATA.contains(&exception.code) => {
                Ok(Inserted::Refused(first_line(&exception)))
            }
            Ok(Answer::Exception(exception)) => {
                let error = self.http().explain(&what, &exception);
                match error.exit_code() {
                    ExitCode::Unavailable => Ok(Inserted::Unknown(error)),
                    _ => Err(error),
                }
            }
            Err(error) => {
                let error = self.http().unreachable(&what, error);
                match error.exit_code() {
                    ExitCode::Unavailable => Ok(Inserted::Unknown(error)),
                    _ => Err(error),
                }
            }
        }
    }
}

/// The message without the stack of contexts below it: it becomes a header of the dead letter.
fn first_line(exception: &Exception) -> String {
    exception.message.lines().next().unwrap_or_default().to_owned()
}

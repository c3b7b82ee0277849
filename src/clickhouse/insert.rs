//! One INSERT: one body, one block, one token, one of a few ends.
//!
//! If the process dies before the request is sent, nothing was stored; if it dies after, the next run finds the recorded
//! intent, and asks.

use std::time::Instant;

use super::answer::{Exception, REJECTED_WITH_ROWS, Reply};
use super::encode::FORMAT;
use super::http::run_comment;
use super::settings::TOKEN;
use super::target_table::ClickHouseTarget;
use crate::error::{Error, ExitCode, Result};
use crate::ports::layout::Layout;
use crate::ports::target::{Cause, Inserted, Refused};

/// Exceptions about the server's state, and about no row (numbers of
/// <https://github.com/ClickHouse/ClickHouse/blob/master/src/Common/ErrorCodes.cpp>). Whatever is
/// in none of the lists may be a row's fault.
const OF_THE_MOMENT: &[i32] = &[
    74,   // CANNOT_READ_FROM_FILE_DESCRIPTOR
    75,   // CANNOT_WRITE_TO_FILE_DESCRIPTOR
    76,   // CANNOT_OPEN_FILE
    95,   // CANNOT_READ_FROM_SOCKET
    96,   // CANNOT_WRITE_TO_SOCKET
    159,  // TIMEOUT_EXCEEDED
    172,  // CANNOT_CREATE_DIRECTORY
    173,  // CANNOT_ALLOCATE_MEMORY
    202,  // TOO_MANY_SIMULTANEOUS_QUERIES
    203,  // NO_FREE_CONNECTION
    204,  // CANNOT_FSYNC
    209,  // SOCKET_TIMEOUT
    210,  // NETWORK_ERROR
    216,  // QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING
    225,  // NO_ZOOKEEPER
    231,  // TOO_MANY_UNEXPECTED_DATA_PARTS
    236,  // ABORTED
    242,  // TABLE_IS_READ_ONLY
    243,  // NOT_ENOUGH_SPACE
    244,  // UNEXPECTED_ZOOKEEPER_ERROR
    252,  // TOO_MANY_PARTS
    254,  // NO_ACTIVE_REPLICAS
    265,  // NO_AVAILABLE_REPLICA
    279,  // ALL_CONNECTION_TRIES_FAILED
    285,  // TOO_FEW_LIVE_REPLICAS
    286,  // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
    289,  // REPLICA_IS_NOT_IN_QUORUM
    294,  // CANNOT_WRITE_TO_FILE
    298,  // CANNOT_PTHREAD_ATTR_GETSTACK, and its like: no threads
    319,  // UNKNOWN_STATUS_OF_INSERT
    364,  // RECEIVED_ERROR_TOO_MANY_REQUESTS
    384,  // PART_IS_TEMPORARILY_LOCKED
    394,  // QUERY_WAS_CANCELLED
    411,  // PTHREAD_ERROR
    416,  // REPLICA_STATUS_CHANGED
    425,  // SYSTEM_ERROR
    439,  // CANNOT_SCHEDULE_TASK
    468,  // CANNOT_PTHREAD_ATTR
    473,  // DEADLOCK_AVOIDED
    499,  // S3_ERROR
    500,  // AZURE_BLOB_STORAGE_ERROR
    574,  // DISTRIBUTED_TOO_MANY_PENDING_BYTES
    586,  // CANNOT_CREATE_FILE
    692,  // TOO_MANY_MUTATIONS
    700,  // USER_SESSION_LIMIT_EXCEEDED
    707,  // GCP_ERROR
    722,  // ASYNC_LOAD_WAIT_FAILED
    733,  // TABLE_IS_BEING_RESTARTED
    735,  // QUERY_WAS_CANCELLED_BY_CLIENT
    737,  // GOOGLE_CLOUD_ERROR
    738,  // PART_IS_LOCKED
    745,  // SERVER_OVERLOADED
    749,  // TCP_CONNECTION_LIMIT_REACHED
    762,  // HTTP_CONNECTION_LIMIT_REACHED
    771,  // CACHE_CANNOT_WRITE_TO_CACHE_DISK
    776,  // RESOURCE_LIMIT_EXCEEDED
    777,  // MEMORY_RESERVATION_KILLED
    778,  // MEMORY_RESERVATION_FAILED
    900,  // DISTRIBUTED_CACHE_ERROR
    901,  // CANNOT_USE_DISTRIBUTED_CACHE
    904,  // TOO_MANY_UNAVAILABLE_SHARDS
    999,  // KEEPER_EXCEPTION
    1000, // POCO_EXCEPTION
    1019, // QUERY_SLOT_ACQUISITION_TIMEOUT
    1020, // MEMORY_RESERVATION_ACQUISITION_TIMEOUT
];

/// MEMORY_LIMIT_EXCEEDED.
const MEMORY: i32 = 241;

/// What proxies answer to a request, or an address, that is too long for them.
const TOO_LARGE: [u16; 2] = [413, 414];

impl ClickHouseTarget {
    pub(super) fn insert_block(&mut self, body: &[u8], token: &str) -> Result<Inserted> {
        // The header names the columns: a list here would make the address too long for proxies.
        let sql = format!("INSERT INTO {} FORMAT {FORMAT}", self.sql_name());
        let query_id = self.query_id(token);
        let is_elsewhere = self.layout()? != Layout::Here;
        let elsewhere = if is_elsewhere { self.insert_elsewhere()? } else { Vec::new() };
        let mut parameters: Vec<(&str, &str)> = self.settings()?.insert.clone();
        parameters.extend(elsewhere.iter().map(|(name, value)| (*name, value.as_str())));
        // The answer is kept back until the statement has ended, so that its status is the statement's.
        parameters.push(("wait_end_of_query", "1"));
        parameters.push(("query_id", &query_id));
        let comment = run_comment();
        parameters.push(("log_comment", &comment));
        parameters.push((TOKEN, token));
        let what = format!("cannot insert into {}", self.name());
        crate::crash::point("clickhouse.insert.before");
        let begun = Instant::now();
        let answer = self.http().exchange(&sql, &parameters, body);
        log::debug!("an insert of {} bytes into {} took {:?}", body.len(), self.name(), begun.elapsed());
        crate::crash::point("clickhouse.insert.after");
        match answer {
            Ok(reply) => Ok(self.judge(&what, &reply, &query_id)),
            Err(error) => {
                let error = self.http().unreachable(&what, error);
                match error.exit_code() {
                    ExitCode::Unavailable => Ok(Inserted::Unknown(error)),
                    _ => Err(error),
                }
            }
        }
    }

    /// What an answer proves. Only ClickHouse writes its headers; what stands in a body may be a proxy's quotation.
    pub(super) fn judge(&self, what: &str, reply: &Reply, query_id: &str) -> Inserted {
        let exception = Exception::of(reply);
        if reply.code.is_some() {
            let error = self.http().explain(what, &exception);
            return Inserted::Refused(Refused {
                // Without the stack of contexts below it: it becomes a header of the dead letter.
                reason: exception.message.lines().next().unwrap_or_default().to_owned(),
                cause: cause(&exception, &error),
                error,
            });
        }
        if TOO_LARGE.contains(&reply.status) {
            return Inserted::TooLarge(Error::config(
                format!("{what} through {}", self.http().address()),
                format!("a proxy refuses the request for its size: {exception}"),
                "raise the proxy's limit (nginx: client_max_body_size, large_client_header_buffers), or lower [batch] insert_bytes",
            ));
        }
        if reply.status == 200 && reply.body.is_empty() && reply.is_clickhouse {
            let is_proven = reply.query_id.as_deref() == Some(query_id.as_bytes());
            return if is_proven { Inserted::Stored } else { Inserted::Unproven };
        }
        if reply.status == 200 {
            return Inserted::Unknown(Error::unavailable(
                format!("{what} in ClickHouse at {}", self.http().address()),
                format!("the answer has status 200 and is not ClickHouse's: {}", exception.message),
                "check the proxy in front of ClickHouse; the next run resumes here",
            ));
        }
        Inserted::Unknown(self.http().explain(what, &Exception { code: 0, ..exception }))
    }
}

fn cause(exception: &Exception, error: &Error) -> Cause {
    match exception.code {
        MEMORY => Cause::Memory,
        code if OF_THE_MOMENT.contains(&code) => Cause::Moment,
        code if REJECTED_WITH_ROWS.contains(&code) => Cause::Rows,
        _ if error.exit_code() != ExitCode::Unavailable => Cause::Statement,
        _ => Cause::Rows,
    }
}

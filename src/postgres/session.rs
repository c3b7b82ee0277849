//! One session: every statement goes through here, under a time limit, and every error is classified and explained.

use std::time::Duration;

use postgres::error::SqlState;
use postgres::types::{FromSqlOwned, ToSql, Type};
use postgres::{Client, Row, Transaction};

use super::answers::{Answers, answers_of};
use super::explain::explain;
use super::nature::{self, Nature, POOLED, UNPOOL};
use super::wire::{Tid, Xid};
use crate::error::{Error, Result};
use crate::threads::watchdog::Watchdog;

/// A connection with its pinned settings.
pub struct Session {
    client: Client,
    address: String,
    limit: Duration,
    watchdog: Watchdog,
    /// What the session was found to be.
    pub(super) nature: Nature,
    /// The epoch that a run has taken of this source through it, if the next run may go on under it: it ends with the session.
    pub(super) epoch: Option<(String, i64)>,
}

/// A parameter that brings its type along. A statement whose types are given is one message and one answer: a prepared one, or
/// one whose types the server is asked for, costs a round trip more.
pub trait Param: Sync {
    /// The value, and its type.
    fn typed(&self) -> (&(dyn ToSql + Sync), Type);
}

macro_rules! params {
    ($($name:ident: $($value:ty),+;)+) => { $($(
        impl Param for $value {
            fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
                (self, Type::$name)
            }
        }
    )+)+ };
}

params! {
    BOOL: bool;
    INT4: i32;
    INT8: i64;
    OID: u32;
    FLOAT8: f64;
    TEXT: &str, String, Option<String>;
    INT4_ARRAY: Vec<i32>;
    INT8_ARRAY: Vec<i64>, &[i64];
    OID_ARRAY: Vec<u32>;
    TEXT_ARRAY: Vec<&str>, &[&str], Vec<String>, &[String], Vec<Option<String>>;
    BYTEA_ARRAY: Vec<Vec<u8>>, &[Vec<u8>];
    TID_ARRAY: Vec<Tid>;
    XID_ARRAY: Vec<Xid>;
}

/// How much later than the server, which ends a statement with a reason, the watchdog ends it: for a server that no longer can.
const GRACE: Duration = Duration::from_secs(5);

/// The parameters of a statement.
pub type Params<'a> = &'a [&'a dyn Param];

/// The same, as the library takes them.
pub(super) fn typed(params: Params<'_>) -> Vec<(&(dyn ToSql + Sync), Type)> {
    params.iter().map(|param| param.typed()).collect()
}

impl Session {
    pub(super) fn new(
        client: Client,
        address: String,
        statement_limit: Duration,
        watchdog: Watchdog,
        nature: Nature,
    ) -> Self {
        let limit = statement_limit + GRACE;
        Self { client, address, limit, watchdog, nature, epoch: None }
    }

    /// The session for another run, whose watchdog it gets.
    pub(super) fn watched_by(self, watchdog: &Watchdog) -> Self {
        Self { watchdog: watchdog.clone(), ..self }
    }

    /// That rows can be flagged through this session, as far as the server as a whole decides it.
    pub fn require_writable(&self) -> Result<()> {
        self.nature.require_writable(&self.address)
    }

    /// Whether the connection is known to have ended.
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs `call` on the client, under the time limit; `what` says, for a message, what cannot be done.
    pub fn call<T>(&mut self, what: &str, call: impl FnOnce(&mut Client) -> Result<T, postgres::Error>) -> Result<T> {
        self.raw(what, call).map_err(|error| self.failed(what, error))
    }

    /// The error, or what explains it better: the session has come to another server process, so that a pooler has begun to share
    /// them. Nothing that the session has set, locked or prepared is there.
    fn pooled_or(&mut self, what: &str, error: Error) -> Error {
        if error.is_transient() || self.is_closed() {
            return error;
        }
        let asked = self.raw(what, |client| client.simple_query("SELECT pg_catalog.pg_backend_pid()")).map(answers_of);
        let process = asked.ok().and_then(|answers| Some(answers.first()?.first()?.get(0)?.to_owned()));
        match process {
            Some(process) if process != self.nature.process => Error::config(what, POOLED, UNPOOL),
            _ => error,
        }
    }

    /// As [`call`](Self::call), with the library's error for callers that act on its code.
    pub(super) fn raw<T>(
        &mut self,
        what: &str,
        call: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        let Self { client, watchdog, limit, .. } = self;
        let called = watchdog.watch(&format!("{what} (PostgreSQL at {})", self.address), *limit, || call(client));
        self.note_loss();
        called
    }

    /// What is at the address after a connection was lost is not known.
    fn note_loss(&self) {
        if self.is_closed() {
            nature::forget_unpooled();
        }
    }

    pub fn query(&mut self, what: &str, sql: &str, params: Params<'_>) -> Result<Vec<Row>> {
        self.call(what, |client| client.query_typed(sql, &typed(params)))
    }

    pub fn query_opt(&mut self, what: &str, sql: &str, params: Params<'_>) -> Result<Option<Row>> {
        self.call(what, |client| client.query_typed_opt(sql, &typed(params)))
    }

    /// The value in the first column of the only row, if there is such a row, and it is not NULL there.
    pub fn value<T: FromSqlOwned>(&mut self, what: &str, sql: &str, params: Params<'_>) -> Result<Option<T>> {
        Ok(self.query_opt(what, sql, params)?.and_then(|row| row.get(0)))
    }

    /// Runs one statement; returns how many rows it has changed.
    pub fn execute(&mut self, what: &str, sql: &str, params: Params<'_>) -> Result<u64> {
        self.call(what, |client| client.execute_typed(sql, &typed(params)))
    }

    /// As [`execute`](Self::execute); `false` where a table of the statement does not exist.
    pub fn execute_if_there(&mut self, what: &str, sql: &str, params: Params<'_>) -> Result<bool> {
        match self.raw(what, |client| client.execute_typed(sql, &typed(params))) {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(false),
            done => done.map(|_| true).map_err(|error| self.explain(what, error)),
        }
    }

    /// Runs several statements in one message; returns the rows of each, as text.
    pub fn script(&mut self, what: &str, sql: &str) -> Result<Answers> {
        self.call(what, |client| client.simple_query(sql)).map(answers_of)
    }

    /// Runs a statement without the watchdog, which would end the run: for what the run can do without.
    pub(super) fn execute_unwatched(&mut self, what: &str, sql: &str) -> Result<()> {
        self.client.batch_execute(sql).map_err(|error| self.explain(what, error))
    }

    /// Runs statements without parameters.
    pub fn execute_batch(&mut self, what: &str, sql: &str) -> Result<()> {
        self.call(what, |client| client.batch_execute(sql))
    }

    /// Runs a statement that, with the locks that it waits for, may take as long as `limit`.
    pub(super) fn execute_within(&mut self, limit: Duration, what: &str, sql: &str) -> Result<()> {
        let set = |limit: Duration| {
            let ms = limit.as_millis();
            format!("SET statement_timeout = {ms}; SET lock_timeout = {ms}")
        };
        self.execute_batch(what, &set(limit))?;
        let usual = std::mem::replace(&mut self.limit, limit + GRACE);
        let done = self.execute_batch(what, sql);
        self.limit = usual;
        done.and(self.execute_batch(what, &set(usual.saturating_sub(GRACE))))
    }

    /// As [`script`](Self::script), in a transaction of its own, whose statements see what was committed before each of them:
    /// without one they were one transaction all the same, at whatever isolation the role has.
    pub fn transaction_script(&mut self, what: &str, sql: &str) -> Result<Answers> {
        let whole = format!("START TRANSACTION ISOLATION LEVEL READ COMMITTED; {sql}; COMMIT");
        let answers = self.script(what, &whole);
        let answers = answers.map_err(|error| {
            // What is told is the first error.
            let _ = self.raw(what, |client| client.batch_execute("ROLLBACK"));
            self.pooled_or(what, error)
        });
        answers.map(|mut answers| {
            answers.pop();
            answers.split_off(1.min(answers.len()))
        })
    }

    /// Does `work` while names are looked up in pg_catalog only, so that they mean the same under any role's search path.
    pub fn in_catalog<T>(&mut self, what: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.execute_batch(what, "SET search_path = pg_catalog")?;
        let result = work(self);
        let reset = self.execute_batch(what, "RESET search_path");
        result.and_then(|result| reset.map(|()| result))
    }

    /// Runs `work` in a transaction, committed when it returns `Ok`.
    pub fn transaction<T>(&mut self, what: &str, work: impl FnOnce(&mut Transaction<'_>) -> Attempt<T>) -> Attempt<T> {
        let Self { client, watchdog, limit, .. } = self;
        let done = watchdog.watch(&format!("{what} (PostgreSQL at {})", self.address), *limit, || {
            let mut transaction = client.transaction()?;
            let result = work(&mut transaction)?;
            transaction.commit()?;
            Ok(result)
        });
        self.note_loss();
        done
    }

    /// As [`explain`](Self::explain), where the session may be asked what has become of it.
    pub(super) fn failed(&mut self, what: &str, error: impl Into<Failure>) -> Error {
        let error = self.explain(what, error);
        self.pooled_or(what, error)
    }

    /// Tells a failure of this session.
    pub fn explain(&self, what: &str, error: impl Into<Failure>) -> Error {
        match error.into() {
            Failure::Postgres(error) => explain(&format!("{what} in PostgreSQL at {}", self.address), error),
            Failure::Told(error) => error,
        }
    }
}

/// From here to the end of the transaction names are looked up in pg_catalog only, and rows of the source by their key's index,
/// whatever the statistics say. Not for statements that fire others' triggers.
pub(super) fn pin(transaction: &mut Transaction<'_>) -> Attempt<()> {
    // JIT would compile for the price that a plan is charged for what is off.
    transaction.batch_execute(
        "SET LOCAL search_path = pg_catalog; SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off;
         SET LOCAL enable_seqscan = off; SET LOCAL enable_nestloop = on; SET LOCAL enable_indexscan = on; SET LOCAL jit = off",
    )?;
    Ok(())
}

/// A text as SQL writes it, whatever `standard_conforming_strings` is.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Why a piece of work in a transaction failed.
#[derive(Debug)]
pub enum Failure {
    /// PostgreSQL said so, or the connection broke.
    Postgres(postgres::Error),
    /// We say so.
    Told(Error),
}

/// The result of a piece of work in a transaction.
pub type Attempt<T> = Result<T, Failure>;

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

impl Failure {
    /// The server's code for it, if the server said anything.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Postgres(error) => error.code(),
            Self::Told(_) => None,
        }
    }
}

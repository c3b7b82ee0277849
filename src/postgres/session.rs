//! One session: every statement goes through here, under a time limit, and every error is classified and explained.

use std::time::Duration;

use postgres::error::SqlState;
use postgres::types::ToSql;
use postgres::{Client, Row, Statement, ToStatement, Transaction};

use super::explain::explain;
use super::nature::Nature;
use crate::error::{Error, Result};
use crate::threads::watchdog::Watchdog;

/// A connection with its pinned settings.
pub struct Session {
    client: Client,
    address: String,
    limit: Duration,
    watchdog: Watchdog,
    nature: Nature,
}

/// The parameters of a statement.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    pub(super) fn new(
        client: Client,
        address: String,
        statement_limit: Duration,
        watchdog: Watchdog,
        nature: Nature,
    ) -> Self {
        // The server ends a statement itself, with a reason; the watchdog is for a server that no longer can.
        let limit = statement_limit + Duration::from_secs(5);
        Self { client, address, limit, watchdog, nature }
    }

    /// That rows can be flagged through this session, as far as the server as a whole decides it.
    ///
    /// # Errors
    /// 69 for a standby, 78 for a server that is too old, or whose sessions may not write.
    pub fn require_writable(&self) -> Result<()> {
        self.nature.require_writable(&self.address)
    }

    /// Runs `call` on the client, under the time limit; `what` says, for a message, what cannot be done.
    ///
    /// # Errors
    /// PostgreSQL's, sorted by exit code.
    pub fn call<T>(&mut self, what: &str, call: impl FnOnce(&mut Client) -> Result<T, postgres::Error>) -> Result<T> {
        self.raw(what, call).map_err(|error| self.explain(what, error))
    }

    /// As [`call`](Self::call), with the library's error for callers that act on its code.
    pub(super) fn raw<T>(
        &mut self,
        what: &str,
        call: impl FnOnce(&mut Client) -> Result<T, postgres::Error>,
    ) -> Result<T, postgres::Error> {
        let Self { client, watchdog, limit, .. } = self;
        watchdog.watch(&format!("{what} (PostgreSQL at {})", self.address), *limit, || call(client))
    }

    /// Queries rows.
    ///
    /// # Errors
    /// PostgreSQL's, sorted by exit code.
    pub fn query<S: ?Sized + ToStatement>(&mut self, what: &str, sql: &S, params: Params<'_>) -> Result<Vec<Row>> {
        self.call(what, |client| client.query(sql, params))
    }

    /// Queries one row, or none.
    ///
    /// # Errors
    /// PostgreSQL's, sorted by exit code.
    pub fn query_opt<S: ?Sized + ToStatement>(
        &mut self,
        what: &str,
        sql: &S,
        params: Params<'_>,
    ) -> Result<Option<Row>> {
        self.call(what, |client| client.query_opt(sql, params))
    }

    /// Runs statements without parameters.
    ///
    /// # Errors
    /// PostgreSQL's, sorted by exit code.
    pub fn execute_batch(&mut self, what: &str, sql: &str) -> Result<()> {
        self.call(what, |client| client.batch_execute(sql))
    }

    /// Does `work` while names are looked up in pg_catalog only, so that they mean the same under any role's search path.
    ///
    /// # Errors
    /// PostgreSQL's, sorted by exit code, or what `work` returned.
    pub fn in_catalog<T>(&mut self, what: &str, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.execute_batch(what, "SET search_path = pg_catalog")?;
        let result = work(self);
        let reset = self.execute_batch(what, "RESET search_path");
        result.and_then(|result| reset.map(|()| result))
    }

    /// Prepares a statement.
    ///
    /// # Errors
    /// PostgreSQL's, sorted by exit code.
    pub fn prepare(&mut self, what: &str, sql: &str) -> Result<Statement> {
        self.call(what, |client| client.prepare(sql))
    }

    /// Runs `work` in a transaction, committed when it returns `Ok`.
    ///
    /// # Errors
    /// PostgreSQL's, sorted by exit code, or what `work` returned.
    pub fn transaction<T>(&mut self, what: &str, work: impl FnOnce(&mut Transaction<'_>) -> Attempt<T>) -> Attempt<T> {
        let Self { client, watchdog, limit, .. } = self;
        watchdog.watch(&format!("{what} (PostgreSQL at {})", self.address), *limit, || {
            let mut transaction = client.transaction()?;
            let result = work(&mut transaction)?;
            transaction.commit()?;
            Ok(result)
        })
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

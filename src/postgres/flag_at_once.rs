//! The usual end of a batch in one statement: every row is still the version that was read, and nobody has it locked.
//!
//! It locks the rows, then claims the epoch, then flags the rows and moves the checkpoint; each only if all before it went as
//! it should. Anything else leaves everything as it was, and [`FlagStatements::run`] finds out what it is.

use super::epoch::{Epoch, Moved};
use super::flag::{FlagStatements, Named};
use super::session::{Params, Session, typed};
use crate::crash;
use crate::error::Result;
use crate::ports::source::Checkpoint;

impl FlagStatements {
    /// Flags all of `rows` and moves the checkpoint; `false` if that is not done at once, and nothing has changed.
    ///
    /// # Errors
    /// PostgreSQL's, where it says nothing.
    pub(super) fn run_at_once(
        &self,
        session: &mut Session,
        rows: &Named<'_>,
        epoch: &Epoch,
        to: &Checkpoint,
    ) -> Result<bool> {
        if self.has_after_triggers {
            return Ok(false);
        }
        let Self { lock, update, flag, .. } = self;
        // A trigger that takes a flag back is found when the rows are changed already: the division ends the statement.
        let sql = format!(
            "WITH {lock}, {claim_and_move}, u AS ({update} AND EXISTS (SELECT FROM c) RETURNING t.{flag} AS flag)
             SELECT CASE WHEN EXISTS (SELECT FROM c) THEN
                        1 / (CASE WHEN (SELECT count(*) FILTER (WHERE flag) FROM u) = cardinality($4) THEN 1 ELSE 0 END)
                    ELSE 0 END = 1",
            claim_and_move = Epoch::sql(5, "(SELECT count(*) FROM l) = cardinality($4)"),
        );
        crash::point("flag.before");
        let before: Params<'_> = &[&rows.tables, &rows.ctids, &rows.xmins, &rows.keys];
        let row = epoch.params(before, &Moved::of(to), |params| {
            session.raw(&self.what, |client| client.query_typed_one(&sql, &typed(params)))
        });
        match row {
            Ok(row) => {
                crash::point("flag.commit.after");
                Ok(row.get(0))
            }
            Err(error) if error.code().is_some() => {
                log::debug!("{}: {error}", self.what);
                Ok(false)
            }
            Err(error) => Err(session.explain(&self.what, error)),
        }
    }
}

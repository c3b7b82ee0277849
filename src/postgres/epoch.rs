//! A run's epoch, and the checkpoint, which is moved only under it: a run whose epoch is past changes nothing.

use postgres::Transaction;

use super::session::{Attempt, Param, Params, Session, typed};
use crate::crash;
use crate::error::{Error, ExitCode, Result};
use crate::ports::source::Checkpoint;

/// The epoch that this run has taken of a source's way into a topic.
#[derive(Clone)]
pub(super) struct Epoch {
    source: String,
    topic: String,
    number: i64,
}

/// For the rest of the transaction that the statement is: its commit is on disk when it is answered. Recovery has to find it
/// after a crash of this run and of PostgreSQL.
const DURABLE: &str = "s AS MATERIALIZED (SELECT pg_catalog.set_config('synchronous_commit', 'on', true),
                                                pg_catalog.set_config('lock_timeout', '0', true))";

impl Epoch {
    /// Takes the next one, durably.
    pub fn take(session: &mut Session, what: &str, source: &str, topic: &str) -> Result<Self> {
        let sql = format!(
            "WITH {DURABLE}
             INSERT INTO pg2ch_checkpoint AS c (source, topic, partition, next_offset, epoch, protocol)
             SELECT $1, $2, -1, 0, 1, 2 FROM s
             ON CONFLICT (source, topic, partition) DO UPDATE SET epoch = c.epoch + 1, updated_at = now()
             RETURNING epoch"
        );
        let number = session.value(what, &sql, &[&source, &topic])?;
        let number = number.ok_or_else(|| Error::bug(what, "no epoch came back"))?;
        Ok(Self { source: source.to_owned(), topic: topic.to_owned(), number })
    }

    /// What claims the epoch, as `c`: it keeps others from taking the next one until the transaction ends, and has a row only if
    /// this one is still the last, and `when` holds. Then, as `m`, the checkpoint moves. The parameters of
    /// [`params`](Self::params) begin with number `first`.
    pub fn sql(first: usize, when: &str) -> String {
        let [source, topic, epoch, floor, partitions, offsets] = std::array::from_fn(|number| first + number);
        format!(
            "c AS (UPDATE pg2ch_checkpoint SET timestamp_floor = greatest(timestamp_floor, ${floor}), updated_at = now()
                   WHERE source = ${source} AND topic = ${topic} AND partition = -1 AND epoch = ${epoch} AND {when}
                   RETURNING epoch),
             m AS (INSERT INTO pg2ch_checkpoint (source, topic, partition, next_offset, epoch, protocol)
                   SELECT ${source}, ${topic}, p, o, c.epoch, 2
                   FROM c, unnest(${partitions}, ${offsets}) AS moved (p, o)
                   ON CONFLICT (source, topic, partition)
                   DO UPDATE SET next_offset = excluded.next_offset, epoch = excluded.epoch, updated_at = now())"
        )
    }

    /// The parameters of [`sql`](Self::sql), behind `before`.
    pub fn params<'a, T>(&'a self, before: Params<'a>, to: &'a Moved, then: impl FnOnce(Params<'_>) -> T) -> T {
        let mut params = before.to_vec();
        let Moved { floor, partitions, offsets } = to;
        let own: [&dyn Param; 6] = [&self.source, &self.topic, &self.number, floor, partitions, offsets];
        params.extend(own);
        then(&params)
    }

    /// Checks the epoch, inside the caller's transaction, and keeps others from taking the next one.
    pub fn claim(&self, transaction: &mut Transaction<'_>) -> Attempt<()> {
        self.apply(transaction, &Checkpoint::default())
    }

    /// Checks the epoch and moves the checkpoint, inside the caller's transaction.
    pub fn apply(&self, transaction: &mut Transaction<'_>, to: &Checkpoint) -> Attempt<()> {
        let sql = format!("WITH {} SELECT epoch FROM c", Self::sql(1, "TRUE"));
        let claimed = self.params(&[], &Moved::of(to), |params| transaction.query_typed_opt(&sql, &typed(params)))?;
        claimed.map(drop).ok_or_else(|| self.shut_out().into())
    }

    /// Moves the checkpoint alone, durably, because it may go back: a crash of PostgreSQL that undid it would leave the
    /// checkpoint of a topic that is gone, and hide what was sent to the new one since.
    pub fn move_checkpoint(&self, session: &mut Session, what: &str, to: &Checkpoint) -> Result<()> {
        let sql = format!("WITH {DURABLE}, {} SELECT epoch FROM c", Self::sql(1, "EXISTS (SELECT FROM s)"));
        crash::point("checkpoint.before");
        let claimed = self.params(&[], &Moved::of(to), |params| session.query_opt(what, &sql, params))?;
        crash::point("checkpoint.after");
        claimed.map(drop).ok_or_else(|| self.shut_out())
    }

    /// Keeps the types of the columns in records, durably: a run that finds these records has to know them.
    pub fn keep_types(&self, session: &mut Session, what: &str, types: &str) -> Result<()> {
        let sql = format!(
            "WITH {DURABLE} UPDATE pg2ch_checkpoint SET record_types = $4
             WHERE source = $1 AND topic = $2 AND partition = -1 AND epoch = $3 AND EXISTS (SELECT FROM s) RETURNING epoch"
        );
        crash::point("types.before");
        let kept = session.query_opt(what, &sql, &[&self.source, &self.topic, &self.number, &types])?;
        crash::point("types.after");
        kept.map(drop).ok_or_else(|| self.shut_out())
    }

    /// One that an earlier run has taken, and [kept](Self::into_kept).
    pub fn resumed(source: String, topic: &str, number: i64) -> Self {
        Self { source, topic: topic.to_owned(), number }
    }

    /// Its source and number, for the next run into the same topic.
    pub fn into_kept(self) -> (String, i64) {
        (self.source, self.number)
    }

    /// Whether `last`, the one in the checkpoint table, is this one.
    pub fn is(&self, last: Option<i64>) -> bool {
        last == Some(self.number)
    }

    /// What a run is told whose epoch is past.
    pub fn shut_out(&self) -> Error {
        Error::new(
            ExitCode::Locked,
            format!("cannot flag rows of {}", self.source),
            "a newer run has taken over",
            "nothing is lost: the newer run flags what this one sent. Check whether this job is scheduled twice",
        )
    }
}

/// A checkpoint as parameters.
pub(super) struct Moved {
    floor: i64,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
}

impl Moved {
    pub fn of(to: &Checkpoint) -> Self {
        let (partitions, offsets) = to.offsets.iter().map(|(&partition, &offset)| (partition, offset)).unzip();
        Self { floor: to.timestamp_floor, partitions, offsets }
    }
}

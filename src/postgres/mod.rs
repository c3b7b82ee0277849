//! What pg2ch asks of PostgreSQL: the source table, its unsent rows, and the ledger (lock, flags, checkpoint).

mod catalogue;
mod condition;
mod connect;
mod deletes;
mod epoch;
mod explain;
mod flag;
mod flag_at_once;
mod flaggable;
mod held;
mod ledger;
mod lock;
mod nature;
mod passes;
mod prune;
mod session;
mod settle;
mod source_order;
mod source_table;
mod unsent;
mod unsent_index;
mod window;
mod wire;

pub use catalogue::{Relation, has_unique_index, name_sql, read_columns, table_comment};
pub use condition::condition_uses;
pub use connect::connect;
pub use flaggable::require_flaggable;
pub use ledger::PgLedger;
pub use lock::{Holder, run_in_progress};
pub use nature::{OLDEST, POOLED};
pub use passes::PgPasses;
pub use prune::{Age, OldRow, OldRows};
pub use session::Session;
pub use source_table::{SourceTable, add_flag, quote, value_sql};
pub use unsent::{COUNTED, PgUnsentRows, count_unsent, estimate_unsent};
pub use unsent_index::UnsentIndex;

//! What the writers of values share.

use super::kinds::Kinds;
use crate::data::CalendarRange;

/// The server's calendar, and buffers that are used again.
#[derive(Clone, Debug, Default)]
pub(super) struct Context {
    pub range: CalendarRange,
    /// Reused for text whose escapes have to be resolved, and for printing floats.
    pub text: Vec<u8>,
    /// The arrays and objects that are open inside a value of a JSON column.
    pub open: Vec<Kinds>,
}

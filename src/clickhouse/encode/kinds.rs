//! The kinds of values in an array of a JSON column: a column of one type cannot hold some of them together.

/// Kinds of values that an array holds, each a bit, or the mark of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    pub const NULL: Kinds = Kinds(1);
    pub const ARRAY: Kinds = Kinds(1 << 1);
    pub const BOOLEAN: Kinds = Kinds(1 << 2);
    /// Integers that a `Float64` holds.
    pub const INTEGER: Kinds = Kinds(1 << 3);
    /// Integers that it may round.
    pub const LARGE_INTEGER: Kinds = Kinds(1 << 4);
    pub const OBJECT: Kinds = Kinds(1 << 5);
    /// Fractions and texts.
    pub const OTHER: Kinds = Kinds(1 << 6);
    /// Not what an array holds: these are members of an object.
    pub const MEMBERS: Kinds = Kinds(1 << 7);

    pub fn has(self, kind: Kinds) -> bool {
        self.0 & kind.0 != 0
    }

    pub fn and(self, other: Kinds) -> Kinds {
        Kinds(self.0 | other.0)
    }

    pub fn without(self, other: Kinds) -> Kinds {
        Kinds(self.0 & !other.0)
    }

    /// What may change when the server looks for one type for all elements, and for the arrays that other
    /// rows have at the same path. (Found by comparing what a server of version 26.9 shows of random
    /// documents.)
    pub fn conflict(self) -> Option<&'static str> {
        let values = self.without(Kinds::NULL.and(Kinds::ARRAY));
        if self.has(Kinds::MEMBERS) {
            None
        } else if self.has(Kinds::NULL) && (self.has(Kinds::ARRAY.and(Kinds::OBJECT)) || values == Kinds::default()) {
            Some("an array in which JSON may turn null into something empty")
        } else if values.has(Kinds::BOOLEAN) && values != Kinds::BOOLEAN {
            Some("an array of booleans and other values, which JSON may turn into those")
        } else if values.has(Kinds::LARGE_INTEGER) {
            Some("an array with an integer beyond 2^53, which JSON may round")
        } else {
            None
        }
    }
}

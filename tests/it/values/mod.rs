//! Values: types and what becomes of them.

mod encoded;
mod round_trip;
mod sources;
mod types;

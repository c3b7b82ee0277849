//! Values: types and what becomes of them.

mod conversions;
mod encoded;
mod round_trip;
mod sources;
mod types;

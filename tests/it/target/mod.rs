//! Targets that are not as `init` makes them, change while a run works, or answer strangely: nothing is lost, doubled or changed
//! silently.

mod altered;
mod answers;
mod migration;
mod recreated;
mod refused_rows;
mod storage;
mod views;

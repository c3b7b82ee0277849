//! Runs that are killed: at every crash point and at random.

mod consume;
mod produce;

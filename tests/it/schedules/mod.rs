//! What applications, operators and other programs do at the wrong moment.

mod consume;
mod produce;

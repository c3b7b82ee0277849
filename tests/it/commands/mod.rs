//! What may be typed, and the commands other than a run and `check`.

mod cli;
mod dead_letters;
mod init;
mod letters_of_versions;
mod prune;
mod prune_busy;
mod prune_faults;
mod prune_shapes;
mod prune_triggers;
mod prune_unfit;
mod status;
mod verify;

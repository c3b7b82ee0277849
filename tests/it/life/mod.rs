//! What a run does when nothing fails: alone, beside another, until it is stopped, and what it shows meanwhile.

mod first_hour;
mod followed;
mod limits_and_signals;
mod metrics;
mod ordinary;
mod progress;
mod restored;
mod several_tables;
mod two_runs;
mod warm;
mod warm_rows;

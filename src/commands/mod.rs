//! The commands beside the run itself.

pub mod config;
pub mod dead_letters;
pub mod init;

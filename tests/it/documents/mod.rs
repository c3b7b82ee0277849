//! What is written agrees with the program: pages, messages, the scoreboard.

mod commands;
mod errors;
mod json;
mod pages;
mod scoreboard;

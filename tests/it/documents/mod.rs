//! What is written agrees with the program: pages, messages, the scoreboard, the floors of src.

mod commands;
mod errors;
mod from_scripts;
mod house;
mod json;
mod pages;
mod scoreboard;
mod way_back;

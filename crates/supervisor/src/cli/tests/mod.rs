//! Commands against a daemon that is played.

mod commands;
mod decisions;
mod help;
mod history;
mod runs;
mod world;

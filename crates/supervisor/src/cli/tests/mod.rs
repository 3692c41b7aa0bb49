//! Commands against a daemon that is played.

mod commands;
mod decisions;
mod help;
mod runs;
mod world;

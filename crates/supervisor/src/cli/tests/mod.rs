//! Commands against a daemon that is played.

mod commands;
mod help;
mod runs;
mod world;

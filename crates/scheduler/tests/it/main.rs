//! The rules one by one, then all of them in a world that behaves badly.
#![expect(clippy::unwrap_used, reason = "helpers of tests; a panic is a failed test")]

mod attempts;
mod dispatching;
mod graphs;
mod holds;
mod hostile;
mod people;
mod records;
mod replaying;
mod runs;
mod support;
mod world;

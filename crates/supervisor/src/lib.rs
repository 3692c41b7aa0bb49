//! The supervisor: one daemon and its command line.
//!
//! Read [`daemon::run`] first: it puts the parts together. [`dispatch`] is the loop that owns all
//! state; `scheduler` (a crate of its own) decides; [`replica`] carries out; [`journal`] remembers.

pub mod admit;
pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod decisions;
pub mod dispatch;
pub mod drops;
pub mod estimate;
pub mod failure;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod gateways;
pub mod gc;
pub mod inbox;
pub mod install;
pub mod journal;
pub mod keys;
pub mod lock;
pub mod programs;
pub mod publish;
pub mod replica;
pub mod replicas;
pub mod report_key;
pub mod requests;
mod room;
pub mod runtime;
#[cfg(feature = "simulate")]
pub mod simulation;
pub mod slot;
#[cfg(test)]
mod testing;
pub mod usage;
pub mod view;
pub mod walls;
pub mod watch;
pub mod workers;

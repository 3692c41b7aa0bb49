//! What the tests of the daemon's parts share: an installation with a daemon whose workers are played.

mod engine;
mod job;
mod world;

pub(crate) use engine::Engine;
pub(crate) use job::Job;
pub(crate) use world::{Daemon, Parts, World, lost, until, until_true};

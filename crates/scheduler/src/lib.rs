//! What to do next, as a pure function of what has happened.
//!
//! [`Scheduler::step`] takes one [`Input`] and returns the events to write into the journals and,
//! after that, the [`Command`]s to carry out. There is no I/O here, no clock and no source of
//! randomness: time and random numbers are arguments. Decisions are events too, so reading the
//! journals again ([`Scheduler::replay`]) decides nothing anew, whatever version of this crate
//! wrote them.
//!
//! Read `scheduler` first, then `input` and `attempt` (from inputs to events), `apply` (from events
//! to state) and `settle` (from state to further events and commands).

mod again;
mod apply;
mod attempt;
mod backoff;
mod config;
#[cfg(test)]
mod cost;
mod cycle;
mod dispatch;
mod entry;
mod forget;
mod graph;
mod hold;
mod input;
mod io;
mod lifecycle;
mod place;
mod query;
mod queue;
mod replicas;
mod run;
mod scheduler;
mod settle;
mod shorten;
mod urgency;
mod work;

pub use config::{Config, WorkerLimits};
pub use entry::{LiveAttempt, Phase, Session, TaskEntry, TaskState};
pub use forget::Dispensable;
pub use hold::{Budget, Hold};
pub use io::{Command, Input, Refusal, Step, Target, Used};
pub use query::Standing;
pub use run::{RunEntry, RunPhase};
pub use scheduler::Scheduler;
pub use shorten::shorten;

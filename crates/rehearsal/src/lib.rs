//! The stand-in for the model's API in a rehearsal: everything is real but the model.
//!
//! [`Rehearsal`] speaks enough of Anthropic's Messages API for the real Claude Code CLI, over a
//! unix socket, TCP, or any byte stream. What it answers comes from a [`Scenario`]: rules that
//! answer or break on purpose (`SCENARIOS.md` in this crate describes them), and behind them a
//! built-in behaviour that plans, works and synthesises, and says in each text that no model
//! read anything.
//!
//! Read [`Rehearsal`] first, then `service` (a request's way through), `delivery` (an answer and
//! its faults as a list of beats, decided before the first byte leaves) and `playback` (which
//! only carries the beats out).
//!
//! Token counts are emulated: 1 token is 4 bytes of JSON. Sizes and ratios mean something, and
//! cache reads are real evidence that a prefix stayed the same; absolute numbers mean nothing.

mod cache;
mod conversation;
mod decision;
mod delivery;
mod error;
mod limits;
mod line;
mod listener;
mod markup;
mod playback;
mod prompt;
mod reply;
mod request;
mod response;
mod scenario;
mod seen;
mod server;
mod service;
mod sse;
mod stock;
mod usage;

pub use prompt::Kind;
pub use scenario::{Origin, Scenario, ScenarioError};
pub use seen::SeenRequest;
pub use server::Rehearsal;
pub use usage::{CacheCreation, ServiceTier, Usage};

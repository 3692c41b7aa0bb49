//! The pace at which requests go to the model's API.
//!
//! All requests of all workers pass one [`Pace`]. It lets each go when every limit that holds for it
//! allows it, in order of priority and time, and slows down when the API says so, instead of each
//! client finding out and retrying for itself.
//!
//! # What holds a request back
//!
//! * **Limits that a person set** ([`PaceConfig`]): for the account, for the model, for the worker.
//!   Requests per minute are governor's; tokens per minute are a bucket of debt, from which an
//!   estimate is taken when a request goes, and in which the truth is put in its place when the answer
//!   has ended. Cache reads do not count as input.
//! * **Limits that the API states** in the headers of its answers. Before it has spoken there are none. What it
//!   says overrides what is believed: the level becomes what remains there, less, at the most, what
//!   is on its way. A limit that a person set stays in force beside it: whoever sets one below the
//!   API's means it, and one above it is never reached.
//! * **A time that the API asked to wait** (`retry-after`, the reset of a subscription's limit).
//! * **The window**: how many requests may be in flight. It grows fast until the API complains.
//! * **The breaker**: after five refusals in a row one request alone finds out when the outage is over.
//!
//! # What is the account's and what is the model's
//!
//! The API limits by organization and model class, refuses (429) by that limit, and is overloaded
//! (529) by model: one that is does not say anything about another. So what the API says, the
//! window and the breaker belong to a model of an account, where models that a configured pattern
//! covers are one class. Only the limits of a subscription hold for the account as a whole, apart
//! from those that carry a model family's name (`seven_day_opus`). Nothing passes from one account
//! to another.
//!
//! # Refusals
//!
//! A 429 in which less remains of a limit than the request needs is that limit's: its bucket is set
//! right and all wait until it has enough again; the number in flight is not to blame. Any other
//! 429 is taken for a limit on that number (it is cut to 0.7), a 529 for overload (cut to half). Of
//! requests that were in flight together only the first refusal cuts. After a 429 the level that was
//! refused is felt out again more and more rarely; after a 529 the old level is soon reached again,
//! since the load was not ours.
//!
//! # Estimates
//!
//! Whoever asks can only guess: from the size of a request, most of which may be in the prompt cache,
//! and from `max_tokens`, of which little may be used. So each model learns by what factor its
//! requests turn out to be less or more.

mod allowance;
mod bucket;
mod config;
mod core;
mod gate;
mod queue;
mod random;
#[cfg(test)]
mod tests;
mod told;
mod turn;
mod window;
mod words;

pub use self::{
    config::{Limits, PaceConfig},
    turn::{Pace, Turn},
    words::{
        AccountId, Blocked, Held, LimitStatus, Next, PaceStatus, Scope, Source, WaitReason, Waits,
        Want,
    },
};

/// Reads any headers of an answer.
#[cfg(feature = "fuzzing")]
pub(crate) fn read_any(headers: &http::HeaderMap, now: protocol::Time) {
    let lines = headers.iter().map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()));
    let lines: Vec<_> = lines.collect();
    let _ = told::Told::read(lines.into_iter(), now);
}

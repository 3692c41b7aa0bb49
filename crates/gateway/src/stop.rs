//! Why an attempt gets nothing more from the model's API.

use protocol::Time;

use crate::{
    ledger::{OverBudget, Scope},
    pace::{Held, WaitReason},
};

/// What ends an attempt at the gateway: from then on each of its requests is answered with this, at once
/// and in a form on which the CLI stops.
///
/// The CLI shows its user a text of its own; so whoever takes in the attempt's report asks the gateway
/// for the reason ([`Listener::stop`](crate::Listener::stop)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// What kind of reason it is.
    pub kind: StopKind,
    /// What happened, to what, and why.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// When it is over by itself, where that is known.
    pub until: Option<Time>,
}

/// What kind of reason it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopKind {
    /// The account's limits would keep the request waiting for longer than its client waits.
    RateLimited,
    /// The model's API has been overloaded for longer than the client waits.
    Overloaded,
    /// No connection to the model's API could be made for longer than the client waits.
    Unreachable,
    /// The request could pass a budget.
    Budget(
        /// Whose.
        Scope,
    ),
    /// There is a budget, and nobody knows what the request can cost: more money would not help.
    Unbounded,
    /// The model's API does not accept the key.
    Auth,
    /// The account has no credit.
    Billing,
}

impl From<Held> for Stop {
    fn from(held: Held) -> Self {
        let kind = match held.reason {
            WaitReason::Overloaded => StopKind::Overloaded,
            WaitReason::Unreachable => StopKind::Unreachable,
            _ => StopKind::RateLimited,
        };
        let hint = "It goes on by itself; `supervisor status` shows what it waits for.";
        Self { kind, message: held.message, hint: Some(hint.to_owned()), until: held.until }
    }
}

impl From<OverBudget> for Stop {
    fn from(over: OverBudget) -> Self {
        let kind = match &over {
            OverBudget::TooMuch { scope, .. } => StopKind::Budget(scope.clone()),
            OverBudget::NoPrice { .. } | OverBudget::NoBound { .. } => StopKind::Unbounded,
        };
        Self { kind, message: over.to_string(), hint: Some(over.hint()), until: None }
    }
}

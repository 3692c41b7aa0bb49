//! Why a request may not go out.

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;

use super::{Amount, Scope};

/// Why a request may not go out.
#[derive(Debug, Error)]
pub enum Refused {
    /// A budget does not allow it.
    #[error(transparent)]
    OverBudget(#[from] OverBudget),
    /// What is spent could not be kept. It is right to try again after a while.
    #[error("the ledger `{}` can't be written", .path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Refused {
    /// Returns whether the same request may be allowed later, with nothing done by anybody.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::OverBudget(over) => over.may_pass(),
            Self::Unwritable { .. } => true,
        }
    }

    /// Returns what to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::OverBudget(over) => over.hint(),
            Self::Unwritable { path, .. } => {
                let folder = path.parent().unwrap_or(path).display();
                format!(
                    "Make room in `{folder}`, or mend its permissions. Requests wait meanwhile."
                )
            }
        }
    }
}

/// A budget does not allow a request.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OverBudget {
    /// The request could cost more than is left.
    #[error(
        "the budget of {scope} is {limit}: {spent} are spent, {held} are held for requests that are out or \
         broke off, and this one can take up to {worst}"
    )]
    TooMuch {
        /// Whose budget.
        scope: Scope,
        /// How much it is.
        limit: Amount,
        /// How much of it is spent.
        spent: Amount,
        /// How much is held for other requests.
        held: Amount,
        /// The most that this request can take.
        worst: Amount,
        /// Whether it would fit if the requests that are out took nothing. Those that broke off are
        /// held for good: nobody knows what they took.
        may_pass: bool,
    },
    /// The budget is in dollars, and nobody knows what the request could cost.
    #[error("the budget of {scope} is {limit}, and the model `{model}` has no price")]
    NoPrice {
        /// Whose budget.
        scope: Scope,
        /// How much it is.
        limit: Amount,
        /// The model.
        model: Arc<str>,
    },
    /// The request offers a tool that the API runs by itself, such as its web search: what that one reads
    /// is billed, too, and nobody knows how much it is.
    #[error(
        "{scope} has a budget, and what this request can take has no bound: it offers a tool that the API \
         runs by itself"
    )]
    NoBound {
        /// Whose budget.
        scope: Scope,
    },
}

impl OverBudget {
    /// Returns whether the request may fit when others have come to their end.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::TooMuch { may_pass: true, .. })
    }

    /// Returns what to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::NoPrice { model, scope, .. } => {
                format!(
                    "Give `{model}` a price in supervisor.toml, or bound {scope} by tokens instead of dollars; \
                     start again and retry."
                )
            }
            Self::NoBound { .. } => {
                "Take such tools (`WebSearch`) from the worker, or bound it by `max_turns` instead of a budget; \
                 start again and retry."
                    .to_owned()
            }
            Self::TooMuch { scope: Scope::Worker(_) | Scope::Day, .. } => {
                "Raise the budget, or wait until 00:00 UTC.".to_owned()
            }
            Self::TooMuch { .. } => "Raise the budget to go on where it stopped.".to_owned(),
        }
    }
}

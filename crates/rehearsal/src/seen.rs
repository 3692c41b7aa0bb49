//! What tests and people get to see of the requests.

use std::collections::VecDeque;

use serde::Serialize;

use crate::prompt::Kind;
use crate::usage::Usage;

/// A request that came, and what was decided about it.
///
/// It holds no prompt, no header and no key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SeenRequest {
    /// Counts from 1.
    pub number: u64,
    /// The HTTP method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The model that was asked for.
    pub model: Option<String>,
    /// The task's worker.
    pub worker: Option<String>,
    /// What the task asks for.
    pub kind: Option<Kind>,
    /// The task's id, with its run.
    pub task: Option<String>,
    /// The task's attempt.
    pub attempt: Option<u32>,
    /// The sub-agent that asked, by the id that the CLI gave it.
    pub subagent: Option<String>,
    /// How many rounds of tool results the conversation has had since its prompt.
    pub turn: u32,
    /// Whether the answer was asked for as a stream.
    pub stream: bool,
    /// The scenario's rule that answered: its name, else its number from 1. `None`: the built-in
    /// behaviour.
    pub rule: Option<String>,
    /// The tokens of the whole answer, also when it then breaks off. `None` when none began.
    pub usage: Option<Usage>,
    /// The answer in a few words: `tool_use Write`, `end_turn`, `http 429`, `drop mid_text`.
    pub answer: String,
}

/// How many requests are remembered: a large run's worth, in less than a megabyte.
const REMEMBERED: usize = 1_000;

/// The last requests, oldest first.
#[derive(Debug, Default)]
pub(crate) struct SeenRequests(VecDeque<SeenRequest>);

impl SeenRequests {
    pub(crate) fn push(&mut self, request: SeenRequest) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(request);
    }

    pub(crate) fn to_vec(&self) -> Vec<SeenRequest> {
        self.0.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_thousand_requests_are_remembered() {
        let mut seen = SeenRequests::default();
        for number in 1..=1_500 {
            seen.push(SeenRequest { number, ..SeenRequest::default() });
        }
        let numbers: Vec<_> = seen.to_vec().iter().map(|request| request.number).collect();
        assert_eq!(numbers, (501..=1_500).collect::<Vec<_>>());
    }
}

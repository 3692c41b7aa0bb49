//! Which requests a rule is about.

use serde::Deserialize;

use crate::conversation::Conversation;
use crate::prompt::Kind;

/// The conditions of a rule; all that are given must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Match {
    worker: Option<String>,
    kind: Option<Kind>,
    attempt: Option<u32>,
    /// The whole id, or the part behind the run: a test can't know what a run will be called.
    task: Option<String>,
    text: Option<String>,
    system: Option<String>,
    model: Option<String>,
    tool: Option<String>,
    subagent: Option<bool>,
    turn: Option<u32>,
    stream: Option<bool>,
}

impl Match {
    pub(crate) fn holds(&self, conversation: &Conversation<'_>) -> bool {
        let request = conversation.request;
        let task = conversation.task.as_ref();
        let same_task = |wanted: &String| {
            task.is_some_and(|task| task.id == *wanted || task.local_name() == *wanted)
        };
        holds(&self.worker, |name| task.is_some_and(|task| task.worker == *name))
            && holds(&self.kind, |kind| task.is_some_and(|task| task.kind == *kind))
            && holds(&self.attempt, |n| task.is_some_and(|task| task.attempt == *n))
            && holds(&self.task, same_task)
            && holds(&self.text, |part| conversation.prompt.contains(part))
            && holds(&self.system, |part| request.system_text().contains(part))
            && holds(&self.model, |part| request.model.contains(part))
            && holds(&self.tool, |name| request.offers(name))
            && holds(&self.subagent, |wanted| conversation.subagent.is_some() == *wanted)
            && holds(&self.turn, |wanted| conversation.turn == *wanted)
            && holds(&self.stream, |wanted| (request.stream == Some(true)) == *wanted)
    }
}

fn holds<T>(condition: &Option<T>, test: impl FnOnce(&T) -> bool) -> bool {
    condition.as_ref().is_none_or(test)
}

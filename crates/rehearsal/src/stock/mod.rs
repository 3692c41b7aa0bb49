//! The built-in behaviour: what is said when no rule of the scenario answers.
//!
//! It knows the worker's prompts and goes through the motions of a good worker: it plans,
//! delegates, writes a file, reports. It understands nothing, and says so in each text.

mod plan;
mod synthesize;
mod work;

use serde_json::Value;

use crate::conversation::Conversation;
use crate::prompt::Kind;
use crate::reply::{Reply, STRUCTURED_OUTPUT};
use crate::request::Role;

/// What every made-up text begins with.
const NOTICE: &str = "Rehearsal: no model read this.";

/// Returns the built-in answer.
pub(crate) fn answer(conversation: &Conversation<'_>) -> Reply {
    let task = conversation.task.as_ref().filter(|_| conversation.subagent.is_none());
    let Some(task) = task else {
        return Reply::text(plain(conversation));
    };
    if compacts(conversation) {
        // The prompt itself, so that the task is still known in the conversation that follows.
        let prompt = &conversation.prompt;
        return Reply::text(format!("<summary>\n{NOTICE} The task was:\n\n{prompt}\n</summary>"));
    }
    match task.kind {
        Kind::Plan => plan::answer(conversation, task),
        Kind::Work => work::answer(conversation, task),
        Kind::Synthesize => synthesize::answer(conversation, task),
    }
}

/// Returns whether the CLI asks for a summary, to go on in a shorter conversation.
fn compacts(conversation: &Conversation<'_>) -> bool {
    let last = conversation.request.messages.iter().rfind(|message| message.role == Role::User);
    let texts = last.map(|message| message.content.texts()).unwrap_or_default();
    texts.iter().any(|text| text.contains("CRITICAL: Respond with TEXT ONLY"))
}

fn plain(conversation: &Conversation<'_>) -> String {
    let asked = first_line(&conversation.prompt);
    let who = if conversation.subagent.is_some() { "A sub-agent" } else { "Somebody" };
    format!("{NOTICE} {who} was asked “{asked}”; a real answer would stand here.")
}

/// Ends the task: through the tool for structured output where there is one, else as text.
fn finish(conversation: &Conversation<'_>, text: &str, output: Value) -> Reply {
    if conversation.request.offers(STRUCTURED_OUTPUT) {
        Reply::text(text).and_use(STRUCTURED_OUTPUT, output)
    } else {
        Reply::text(format!("{text}\n\n```json\n{output:#}\n```"))
    }
}

/// The most characters quoted from somebody else's text.
const QUOTE: usize = 240;

/// Returns the first line that says something, shortened to quote it.
fn first_line(text: &str) -> String {
    let said = |line: &&str| !line.is_empty() && !line.starts_with('<');
    let line = text.lines().map(str::trim).find(said).unwrap_or_default();
    let line = line.trim_start_matches(['#', ' ']);
    match line.char_indices().nth(QUOTE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

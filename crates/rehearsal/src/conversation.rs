//! A request seen as a conversation: the task it is about, and what the tools have said so far.

use serde_json::Value;

use crate::prompt::TaskPrompt;
use crate::request::{Content, MessagesRequest, Role};

/// The agents that come with the CLI. A worker's own sub-agents are the others.
const BUILT_IN_AGENTS: [&str; 8] = [
    "claude",
    "claude-code-guide",
    "Explore",
    "fork",
    "general-purpose",
    "output-style-setup",
    "Plan",
    "statusline-setup",
];

/// What a request says, and how far its conversation has come.
#[derive(Debug)]
pub(crate) struct Conversation<'a> {
    pub(crate) request: &'a MessagesRequest,
    /// The text that the task was read from; without a task, all that the user said.
    pub(crate) prompt: String,
    pub(crate) task: Option<TaskPrompt>,
    /// The sub-agent that asks, by the id that the CLI gave it.
    pub(crate) subagent: Option<String>,
    /// How many times tool results came back since the prompt.
    pub(crate) turn: u32,
    pub(crate) calls: Vec<ToolCall>,
}

/// A tool call since the prompt, and its result.
#[derive(Debug)]
pub(crate) struct ToolCall {
    pub(crate) name: String,
    pub(crate) input: Value,
    pub(crate) is_error: bool,
    pub(crate) result: String,
}

impl<'a> Conversation<'a> {
    pub(crate) fn new(request: &'a MessagesRequest, subagent: Option<String>) -> Self {
        // The newest prompt counts: a resumed session has the older ones before it, in the same message
        // where none of them was answered.
        let found = request.messages.iter().enumerate().rev().find_map(|(at, message)| {
            let texts = if message.role == Role::User { message.content.texts() } else { vec![] };
            texts.into_iter().rev().find_map(|text| Some((at, text, TaskPrompt::parse(text)?)))
        });
        let (start, prompt, task) = match found {
            Some((at, text, task)) => (at, text.to_owned(), Some(task)),
            None => (0, user_text(request), None),
        };
        let since = &request.messages[start..];
        let rounds = since.iter().filter(|m| m.content.of_type("tool_result").next().is_some());
        let turn = u32::try_from(rounds.count()).unwrap_or(u32::MAX);
        let contents: Vec<&Content> = since.iter().map(|message| &message.content).collect();
        Self { request, prompt, task, subagent, turn, calls: calls(&contents) }
    }

    /// Returns the last call of a tool.
    pub(crate) fn last_call(&self, tool: &str) -> Option<&ToolCall> {
        self.calls.iter().rev().find(|call| call.name == tool)
    }

    /// Returns the worker's own sub-agents, in the order in which the CLI lists them.
    pub(crate) fn own_agents(&self) -> Vec<&str> {
        let system = self.request.messages.iter().filter(|m| m.role == Role::System);
        let texts = system.flat_map(|message| message.content.texts());
        let listed = texts.flat_map(listed_agents);
        listed.filter(|name| !BUILT_IN_AGENTS.contains(name)).collect()
    }
}

fn user_text(request: &MessagesRequest) -> String {
    let user = request.messages.iter().filter(|message| message.role == Role::User);
    user.flat_map(|message| message.content.texts()).collect::<Vec<_>>().join("\n\n")
}

fn calls(contents: &[&Content]) -> Vec<ToolCall> {
    let results: Vec<&Value> = contents.iter().flat_map(|c| c.of_type("tool_result")).collect();
    let uses = contents.iter().flat_map(|content| content.of_type("tool_use"));
    uses.filter_map(|call| {
        let result = results.iter().find(|result| result["tool_use_id"] == call["id"])?;
        Some(ToolCall {
            name: call["name"].as_str()?.to_owned(),
            input: call["input"].clone(),
            is_error: result["is_error"] == true,
            result: result_text(&result["content"]),
        })
    })
    .collect()
}

fn result_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// Returns the names of the list that the CLI puts into its `# Environment` message:
///
/// ```text
/// Available agent types for the Agent tool:
/// - choreography-analyzer: Analyses choreography (Tools: All tools)
/// ```
fn listed_agents(text: &str) -> Vec<&str> {
    let Some((_, list)) = text.split_once("Available agent types for the Agent tool:\n") else {
        return Vec::new();
    };
    let mut names = Vec::new();
    // A description may run over several lines, with hyphens of its own, until its tools are named.
    let mut open = false;
    for line in list.lines() {
        if !open && let Some((name, _)) = line.strip_prefix("- ").and_then(|l| l.split_once(": ")) {
            names.push(name);
            open = true;
        } else if !open {
            break;
        }
        open &= !(line.contains("(Tools: ") && line.ends_with(')'));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_read_from_the_list_though_descriptions_have_lines_and_hyphens() {
        let text = "# Environment\n\nAvailable agent types for the Agent tool:\n\
                    - analyst: Looks.\n\n- not: an agent (Tools: Read)\n\
                    - Plan: Plans (Tools: All tools except Agent)\n\nWhen you launch:\n- nor: this";
        assert_eq!(listed_agents(text), ["analyst", "Plan"]);
        assert!(listed_agents("no list").is_empty());
    }
}

//! A task done for show: ask a sub-agent, write a file, report.

use serde_json::{Value, json};

use super::{NOTICE, finish, first_line};
use crate::conversation::{Conversation, ToolCall};
use crate::prompt::TaskPrompt;
use crate::reply::Reply;

/// The CLI's tool that starts a sub-agent.
const AGENT: &str = "Agent";
const WRITE: &str = "Write";

pub(super) fn answer(conversation: &Conversation<'_>, task: &TaskPrompt) -> Reply {
    if let Some(reply) = ask_subagent(conversation, task) {
        return reply;
    }
    if let Some(reply) = write_artifact(conversation, task) {
        return reply;
    }
    report(conversation, task)
}

fn ask_subagent(conversation: &Conversation<'_>, task: &TaskPrompt) -> Option<Reply> {
    if !conversation.request.offers(AGENT) || conversation.last_call(AGENT).is_some() {
        return None;
    }
    let agents = conversation.own_agents();
    let agent = agents.first()?;
    let prompt = format!(
        "Rehearsal for task {}: say in a sentence or two what you would look at.\n\n{}",
        task.id, task.description
    );
    let text = format!("{NOTICE} The worker's sub-agent `{agent}` is asked first.");
    let input = json!({
        "description": "Rehearse the delegation",
        "prompt": prompt,
        "subagent_type": agent,
    });
    Some(Reply::text(text).and_use(AGENT, input))
}

fn write_artifact(conversation: &Conversation<'_>, task: &TaskPrompt) -> Option<Reply> {
    if !conversation.request.offers(WRITE) || conversation.last_call(WRITE).is_some() {
        return None;
    }
    let folder = task.artifacts.as_deref()?.trim_end_matches('/');
    let input = json!({
        "file_path": format!("{folder}/{}", artifact_name(task)),
        "content": artifact(conversation, task),
    });
    Some(Reply::text(format!("{NOTICE} An artifact is written.")).and_use(WRITE, input))
}

fn artifact_name(task: &TaskPrompt) -> String {
    format!("{}.md", task.local_name())
}

fn artifact(conversation: &Conversation<'_>, task: &TaskPrompt) -> String {
    let mut text = format!(
        "# {}\n\n{NOTICE} This file shows that `{}` could do the task's motions: read its inputs, \
         use its tools, and leave an artifact. There is no finding in it.\n\n\
         ## Task\n\n{}\n\n## Inputs\n\n",
        task.local_name(),
        task.worker,
        task.description,
    );
    for line in inputs(task) {
        text.push_str(&format!("- {line}\n"));
    }
    if let Some(call) = conversation.last_call(AGENT) {
        text.push_str(&format!("\n## Sub-agent\n\n{}\n", said(call)));
    }
    text
}

fn report(conversation: &Conversation<'_>, task: &TaskPrompt) -> Reply {
    let mut findings = inputs(task);
    findings.extend(conversation.last_call(AGENT).map(said));
    let written = conversation.last_call(WRITE);
    let artifacts: Vec<String> = match written {
        Some(call) if call.is_error => {
            findings.push(format!("The artifact was not written: {}", first_line(&call.result)));
            vec![]
        }
        Some(_) => vec![artifact_name(task)],
        None => vec![],
    };
    let summary = format!(
        "{NOTICE} {} went through the motions of: “{}”",
        task.worker,
        first_line(&task.description)
    );
    let output = json!({
        "summary": summary,
        "findings": findings,
        "recommendations": ["Run it again with a model to get a real result."],
        "artifacts": artifacts,
    });
    finish(conversation, &summary, output)
}

/// Returns a line about each input, so that a report shows what reached the task.
fn inputs(task: &TaskPrompt) -> Vec<String> {
    if task.inputs.is_empty() {
        return vec!["There were no inputs from other tasks.".to_owned()];
    }
    let line = |input: &crate::prompt::Input| {
        let said = first_line(&input.text);
        format!("Input {} from {} is {}: {said}", input.task, input.worker, input.status)
    };
    task.inputs.iter().map(line).collect()
}

/// Returns what a sub-agent answered, out of the frame that the CLI puts around it.
fn said(call: &ToolCall) -> String {
    let agent = call.input.get("subagent_type").and_then(Value::as_str).unwrap_or("?");
    if call.is_error {
        return format!("Sub-agent {agent} failed: {}", first_line(&call.result));
    }
    let report = call.result.split_once("The report follows:\n").map(|(_, report)| report);
    format!("Sub-agent {agent} answered: {}", first_line(report.unwrap_or(&call.result)))
}

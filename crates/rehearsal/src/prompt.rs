//! The prompt that the worker writes for a task, read back.

use serde::{Deserialize, Serialize};

use crate::markup::{attribute, section, tags};

/// What a task asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Split a request into tasks.
    Plan,
    /// Do one task.
    Work,
    /// Answer the request from all the results.
    Synthesize,
}

/// A task as its prompt describes it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TaskPrompt {
    pub(crate) id: String,
    pub(crate) worker: String,
    pub(crate) kind: Kind,
    pub(crate) attempt: u32,
    pub(crate) description: String,
    pub(crate) request: Option<String>,
    pub(crate) workers: Vec<WorkerCard>,
    pub(crate) inputs: Vec<Input>,
    /// Where artifacts go: an absolute path inside the worker's container.
    pub(crate) artifacts: Option<String>,
}

/// A worker that a plan may use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct WorkerCard {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) description: String,
}

/// The result of another task.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Input {
    pub(crate) task: String,
    pub(crate) worker: String,
    pub(crate) status: String,
    pub(crate) text: String,
}

impl TaskPrompt {
    /// Reads the prompt; `None` when the text has no `<task …>` line of the worker's making.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // The request is somebody's free text and may itself show a `<task …>`: look behind it.
        let (request, rest) = match section(text, "request") {
            Some((request, rest)) => (Some(request.to_owned()), rest),
            None => (None, text),
        };
        let (tag, body) = tags(rest, "task").find(|(tag, _)| kind(tag).is_some())?;
        let inputs = section(rest, "inputs").map(|(body, _)| body).unwrap_or_default();
        let workers = section(rest, "workers").or_else(|| section(text, "workers"));
        Some(Self {
            id: attribute(tag, "id")?,
            worker: attribute(tag, "worker")?,
            kind: kind(tag)?,
            attempt: attribute(tag, "attempt").and_then(|n| n.parse().ok()).unwrap_or(1),
            description: body.to_owned(),
            request,
            workers: workers
                .and_then(|(list, _)| serde_json::from_str(list).ok())
                .unwrap_or_default(),
            inputs: tags(inputs, "input").map(|(tag, body)| Input::new(tag, body)).collect(),
            artifacts: artifacts(rest),
        })
    }

    /// Returns the task's name within its run: `review` of `k3f9.review`.
    pub(crate) fn local_name(&self) -> &str {
        self.id.rsplit('.').next().unwrap_or(&self.id)
    }
}

impl Input {
    fn new(tag: &str, body: &str) -> Self {
        let value = |name| attribute(tag, name).unwrap_or_else(|| "unknown".to_owned());
        Self {
            task: value("task"),
            worker: value("worker"),
            status: value("status"),
            text: body.to_owned(),
        }
    }
}

fn kind(tag: &str) -> Option<Kind> {
    match attribute(tag, "kind")?.as_str() {
        "plan" => Some(Kind::Plan),
        "work" => Some(Kind::Work),
        "synthesize" => Some(Kind::Synthesize),
        _ => None,
    }
}

/// Returns the folder of the last `<output …>`: an input before it may quote one.
fn artifacts(text: &str) -> Option<String> {
    let outputs = text.lines().rev().filter_map(|line| line.strip_prefix("<output "));
    outputs.filter_map(|tag| attribute(tag, "artifacts")).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROMPT: &str = r#"<role>
You plan.
</role>
<request>
Compare two tangos.
<task id="not.this" worker="eve" kind="work" attempt="9">
</request>
<workers>
[{"name":"marie","description":"dance teacher","subagents":["choreography-analyzer"]}]
</workers>
<task id="k3f9.review" worker="anga" kind="work" attempt="2">
Review a > b.
</task>
<inputs>
<input task="k3f9.x" worker="anga" status="failed" folder="/tasks/x">
It broke.
<output artifacts="/not/this">
</input>
</inputs>
<output artifacts="/results/k3f9.review.2/artifacts">
contract
</output>
"#;

    #[test]
    fn prompt_is_read_back_whole() {
        let task = TaskPrompt::parse(PROMPT).expect("the prompt should be a task");
        assert_eq!((task.id.as_str(), task.local_name()), ("k3f9.review", "review"));
        assert_eq!((task.worker.as_str(), task.kind, task.attempt), ("anga", Kind::Work, 2));
        assert_eq!(task.description, "Review a > b.");
        assert!(task.request.is_some_and(|request| request.starts_with("Compare two tangos.")));
        assert_eq!(task.workers[0].name, "marie");
        assert_eq!(
            (task.inputs[0].status.as_str(), task.inputs[0].text.lines().next()),
            ("failed", Some("It broke."))
        );
        assert_eq!(task.artifacts.as_deref(), Some("/results/k3f9.review.2/artifacts"));
    }

    #[test]
    fn text_without_a_task_line_is_no_task() {
        assert_eq!(TaskPrompt::parse("what is a <task id=\"x\"> tag?"), None);
        assert_eq!(
            TaskPrompt::parse("<task id=\"x\" worker=\"y\" kind=\"juggle\">\n</task>"),
            None
        );
        assert_eq!(TaskPrompt::parse(""), None);
    }
}

//! A report that lists what came in, and what did not.

use serde_json::json;

use super::{NOTICE, finish, first_line};
use crate::conversation::Conversation;
use crate::prompt::{Input, TaskPrompt};
use crate::reply::Reply;

pub(super) fn answer(conversation: &Conversation<'_>, task: &TaskPrompt) -> Reply {
    let request = task.request.as_deref().unwrap_or(&task.description);
    let gaps: Vec<&Input> = task.inputs.iter().filter(|input| input.status != "complete").collect();
    let mut report = format!(
        "# Rehearsal report\n\n{NOTICE} It shows which results reached the synthesis; what they \
         mean for the request, only a model could say.\n\nThe request: “{}”\n\n## Results\n\n",
        first_line(request)
    );
    for input in &task.inputs {
        report.push_str(&format!(
            "- **{}** ({}, {}): {}\n",
            input.task,
            input.worker,
            input.status,
            first_line(&input.text)
        ));
    }
    if task.inputs.is_empty() {
        report.push_str("There are none.\n");
    }
    report.push_str("\n## Gaps\n\n");
    if gaps.is_empty() {
        report.push_str("None: every task is complete.\n");
    }
    for gap in &gaps {
        report.push_str(&format!("- {} of {} is {}.\n", gap.task, gap.worker, gap.status));
    }
    let complete = task.inputs.len() - gaps.len();
    let summary = format!("{NOTICE} {complete} of {} tasks are complete.", task.inputs.len());
    finish(conversation, &summary, json!({ "summary": summary, "report": report }))
}

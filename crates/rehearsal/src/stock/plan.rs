//! A plan that makes the whole machine move: one task, two in parallel, one that joins them.

use serde_json::{Value, json};

use super::{NOTICE, finish, first_line};
use crate::conversation::Conversation;
use crate::prompt::{TaskPrompt, WorkerCard};
use crate::reply::Reply;

/// How many workers share the plan, at most.
const SHARED_BY: usize = 3;

/// A task of the plan: its id, what is to be done, and what it waits for.
const TASKS: [(&str, &str, &[&str]); 4] = [
    ("survey", "Survey what is there and what is asked", &[]),
    ("examine", "Examine the request in depth, from the survey", &["survey"]),
    ("challenge", "Look for what speaks against it, from the survey", &["survey"]),
    ("conclude", "Weigh both views and conclude", &["examine", "challenge"]),
];

pub(super) fn answer(conversation: &Conversation<'_>, task: &TaskPrompt) -> Reply {
    let request = task.request.as_deref().unwrap_or(&task.description);
    let team = team(task, request);
    let quote = first_line(request);
    let tasks: Vec<Value> = TASKS
        .iter()
        .zip(team.iter().cycle())
        .map(|((id, what, dependencies), worker)| {
            let description = match first_line(&worker.description) {
                role if role.is_empty() => format!("{what}: “{quote}”"),
                role => format!("{what}: “{quote}”\n\nDo it as {}: {role}", worker.name),
            };
            let priority = if dependencies.is_empty() { "high" } else { "medium" };
            json!({
                "id": id,
                "worker": worker.name,
                "description": format!("{description}\n\n(A rehearsal's plan: no model made it.)"),
                "dependencies": dependencies,
                "priority": priority,
            })
        })
        .collect();
    let text = format!("{NOTICE} The plan is always the same four tasks, shared by who is there.");
    finish(conversation, &text, json!({ "tasks": tasks }))
}

/// Returns whom the plan uses: those whose description has most words in common with the request.
fn team(task: &TaskPrompt, request: &str) -> Vec<WorkerCard> {
    // The planner plans; the work is for the others.
    let others = task.workers.iter().filter(|worker| worker.name != task.worker);
    let mut team: Vec<WorkerCard> = others.cloned().collect();
    if team.is_empty() {
        team = task.workers.clone();
    }
    if team.is_empty() {
        team.push(WorkerCard { name: task.worker.clone(), description: String::new() });
    }
    let wanted = words(request);
    let fit = |worker: &WorkerCard| {
        let mut known = words(&format!("{} {}", worker.name, worker.description));
        known.sort();
        known.dedup();
        known.iter().filter(|word| wanted.contains(word)).count()
    };
    team.sort_by_cached_key(|worker| std::cmp::Reverse(fit(worker)));
    team.truncate(SHARED_BY);
    team
}

/// Returns the words that could mean something: those of four letters and more.
fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| word.chars().count() >= 4).map(str::to_lowercase).collect()
}

//! Whether all was done, and once, and whether nothing is left.

use std::collections::BTreeMap;
use std::fs;

use protocol::{Event, FailureKind, Plan, RunId, Status, TaskId, TaskResult};
use supervisor::journal;

use super::latency;
use super::storm::Done;
use crate::Result;
use crate::engine::Engine;
use crate::place::Place;
use crate::plan::local;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) tasks: usize,
    pub(super) attempts: usize,
    /// Attempts that were lost with their worker, and cost no retry.
    pub(super) attempts_lost: usize,
    /// Of the attempts, those that went on with the session of one before.
    pub(super) resumed: usize,
    /// What is wrong, a line each.
    pub(super) lost: Vec<String>,
    pub(super) doubled: Vec<String>,
    pub(super) blamed: Vec<String>,
    pub(super) orphans: Vec<String>,
    pub(super) beside: Vec<String>,
    /// From a container's death to the dispatch of the next attempt beyond the backoff, in ms.
    pub(super) dispatched_after: Vec<u64>,
    /// What came of each task, and the answers.
    pub(super) state: BTreeMap<String, String>,
}

impl Findings {
    /// Returns what is wrong, by kind.
    pub(super) fn wrong(&self) -> [(&'static str, &[String]); 5] {
        [
            ("tasks lost", &self.lost),
            (
                "accepted twice, done again after acceptance, or a result that changed",
                &self.doubled,
            ),
            ("attempts that asked the model after a later one of their task", &self.beside),
            ("interruptions that cost a task a retry", &self.blamed),
            (
                "more containers than workers, containers or processes of them left after `down`",
                &self.orphans,
            ),
        ]
    }
}

/// What the journals say of a task.
#[derive(Debug, Default)]
struct Story {
    dispatched: usize,
    ends: Vec<TaskResult>,
    again: bool,
}

/// Looks at what was left. The daemon runs, and is stopped.
pub(super) fn check(
    place: &mut Place,
    engine: &Engine,
    plans: &[Plan],
    done: &Done,
) -> Result<Findings> {
    let mut findings = Findings { beside: done.beside.clone(), ..Findings::default() };
    place.down()?;
    let label = format!("label=supervisor.installation={}", place.installation.id());
    let left = engine.command().args(["ps", "--all", "--quiet", "--filter", &label]).output()?;
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    findings.orphans.extend(left.lines().map(|id| format!("container {id} after `down`")));
    let inhabitants = engine.inhabitants()?;
    findings.orphans.extend(inhabitants.iter().map(|pid| format!("process {pid} after `down`")));
    // One for each worker, and one for the answers.
    if done.containers > super::WORKERS.len() + 1 {
        findings.orphans.push(format!("{} containers at once", done.containers));
    }
    findings.dispatched_after = latency::dispatched_after(place, &done.deaths)?;
    let mut stories = stories(place, &mut findings)?;
    for (plan, run) in plans.iter().zip(&done.runs) {
        let short = run.short(|_| false);
        for task in &plan.tasks {
            let id = task.id.in_run(&short)?;
            findings.tasks += 1;
            let story = stories.remove(&id).unwrap_or_default();
            one(place, &id, &story, done, &short.to_string(), &mut findings)?;
        }
        let answer = fs::read_to_string(place.installation.answer(*run)).unwrap_or_default();
        let name = plan.request.clone().unwrap_or_default();
        let answer = plain(&answer, *run, &short.to_string());
        findings.state.insert(format!("answer to {name}"), answer);
    }
    Ok(findings)
}

fn stories(place: &Place, findings: &mut Findings) -> Result<BTreeMap<TaskId, Story>> {
    let mut stories: BTreeMap<TaskId, Story> = BTreeMap::new();
    for (_, told) in journal::look(&place.installation)? {
        for record in told? {
            match record.event {
                Event::AttemptDispatched { task, resume, .. } => {
                    findings.attempts += 1;
                    findings.resumed += usize::from(resume);
                    let story = stories.entry(task).or_default();
                    story.dispatched += 1;
                    story.again |= !story.ends.is_empty();
                }
                Event::AttemptFailed { task, attempt, error, counted, .. } => {
                    findings.attempts_lost += usize::from(error.kind == FailureKind::WorkerLost);
                    if counted || error.kind != FailureKind::WorkerLost {
                        findings.blamed.push(format!("{task}: attempt {attempt}: {error}"));
                    }
                }
                Event::TaskEnded { result, .. } => {
                    stories.entry(result.task_id.clone()).or_default().ends.push(*result);
                }
                _ => {}
            }
        }
    }
    Ok(stories)
}

fn one(
    place: &Place,
    id: &TaskId,
    story: &Story,
    done: &Done,
    short: &str,
    findings: &mut Findings,
) -> Result<()> {
    let [end, more @ ..] = &story.ends[..] else {
        findings.lost.push(format!("{id} has no end in the journal"));
        return Ok(());
    };
    if !more.is_empty() {
        findings.doubled.push(format!("{id} was accepted {} times", story.ends.len()));
    }
    if story.again {
        findings.doubled.push(format!("{id} was begun again after it was accepted"));
    }
    if end.status != Status::Complete {
        findings.lost.push(format!("{id} is {}: {:?}", end.status, end.error));
        return Ok(());
    }
    if usize::try_from(end.attempt)? != story.dispatched {
        let (counts, begun) = (end.attempt, story.dispatched);
        findings.doubled.push(format!("{id}: attempt {counts} counts, {begun} were dispatched"));
    }
    let path = place.installation.result_file(&end.worker, id);
    let published = fs::read(&path).unwrap_or_default();
    match serde_json::from_slice::<TaskResult>(&published) {
        Ok(result) if result.attempt == end.attempt => {}
        Ok(result) => findings.doubled.push(format!(
            "{id}: attempt {} counts, {} was published",
            end.attempt, result.attempt
        )),
        Err(error) => findings.lost.push(format!("{id}: its result: {error}")),
    }
    if done.seen.get(&path).is_some_and(|seen| *seen != published) {
        findings.doubled.push(format!("{id}: its result was changed after it was published"));
    }
    if place.installation.task_file(&end.worker, id).exists() {
        findings.lost.push(format!("{id}: its task file is still there"));
    }
    let mut said = vec![end.summary.clone()];
    said.extend(end.findings.iter().chain(&end.recommendations).cloned());
    for artifact in &end.artifacts {
        let text = fs::read_to_string(place.path(artifact));
        if text.is_err() {
            findings.lost.push(format!("{id}: {artifact} is not there"));
        }
        said.push(format!("{artifact}: {}", text.unwrap_or_default()));
    }
    findings.state.insert(local(id.as_str()).to_owned(), plain(&said.join("\n"), end.run, short));
    Ok(())
}

/// Returns the text without what differs between two runs of the same plan.
fn plain(text: &str, run: RunId, short: &str) -> String {
    text.replace(&run.to_string(), "RUN").replace(&format!("{short}."), "SHORT.")
}

/// Returns where two rounds came to something else.
pub(super) fn differences(calm: &Findings, storm: &Findings) -> Vec<String> {
    let names = calm.state.keys().chain(storm.state.keys());
    let mut names: Vec<&String> =
        names.filter(|name| calm.state.get(*name) != storm.state.get(*name)).collect();
    names.sort();
    names.dedup();
    names.into_iter().cloned().collect()
}

//! Whether all was done, and once: by the journal, by the results, and by the word of the tasks.

use std::collections::BTreeMap;
use std::fs;

use protocol::{Event, Plan, RunId, Status, TaskId, TaskResult, WorkerId};
use serde_json::Value;
use supervisor::journal;

use crate::Result;
use crate::place::Place;
use crate::plan::{self, local};
use crate::random::Random;
use crate::storm::Done;
use crate::tally::Tally;
use crate::task::{ATTEMPT, OUT};

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    /// How many tasks there were.
    pub(crate) tasks: usize,
    /// How many attempts began.
    pub(crate) attempts: usize,
    /// How many attempts killed their worker.
    pub(crate) deaths: usize,
    /// What is wrong, a line each.
    pub(crate) lost: Vec<String>,
    /// Tasks that were accepted twice, or done again after that, or whose result was changed.
    pub(crate) doubled: Vec<String>,
    /// Attempts that ran beside another of the same task, or without their inputs.
    pub(crate) unruly: Vec<String>,
    /// Processes that were left.
    pub(crate) orphans: Vec<String>,
    /// Attempts that went on from their beginning under the same number: their worker was gone when no
    /// daemon ran, and the next one found them in its slot.
    pub(crate) gone_on_with: usize,
    /// How each task ended and what came of it, and the answers.
    pub(crate) state: BTreeMap<String, String>,
}

impl Findings {
    /// Returns what is wrong, by kind.
    pub(crate) fn wrong(&self) -> [(&'static str, &[String]); 4] {
        [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("beside another, or without an input", &self.unruly),
            ("orphans", &self.orphans),
        ]
    }

    /// Returns whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.wrong().iter().all(|(_, wrong)| wrong.is_empty())
    }
}

/// What is to be accounted for.
struct Expected {
    id: TaskId,
    worker: WorkerId,
}

/// Looks at what was left. The daemon runs, and is stopped.
pub(crate) fn check(
    place: &mut Place,
    plans: &[Plan],
    drops: usize,
    seed: u64,
    done: &Done,
) -> Result<Findings> {
    let mut findings = Findings::default();
    // All that was asked for has ended, so no agent has anything to do.
    let agents = place.processes()?.into_iter().filter(|(_, line)| line.contains(" task "));
    findings.orphans.extend(agents.map(|(pid, line)| format!("{pid} when all was done: {line}")));
    place.down()?;
    let left = place.processes()?.into_iter();
    findings.orphans.extend(left.map(|(pid, line)| format!("{pid} after `down`: {line}")));

    let tally = Tally::read(&place.tally())?;
    findings.attempts = tally.begun.values().sum();
    findings.deaths = tally.died.len();
    findings.gone_on_with = tally.begun.values().map(|times| times - 1).sum();
    for (count, what) in [(tally.beside, "beside another"), (tally.blind, "without an input")] {
        if count > 0 {
            findings.unruly.push(format!("{count} attempts began {what}"));
        }
    }

    let ends = ends(place)?;
    let mut expected = Vec::new();
    for (plan, run) in plans.iter().zip(&done.runs) {
        let short = run.short(|_| false);
        for task in &plan.tasks {
            expected.push(Expected { id: task.id.in_run(&short)?, worker: task.worker.clone() });
        }
    }
    let mut random = Random::new(seed ^ 0xd0);
    for number in 0..drops {
        let (worker, id, _) = plan::drop_of(number, &mut random)?;
        expected.push(Expected { id: id.parse()?, worker });
    }
    findings.tasks = expected.len();
    for task in &expected {
        one(place, task, &ends, &tally, done, &mut findings)?;
    }
    for (plan, run) in plans.iter().zip(&done.runs) {
        let name = plan.request.clone().unwrap_or_default();
        let answer = fs::read_to_string(place.installation.answer(*run)).unwrap_or_default();
        findings.state.insert(format!("answer to {name}"), answer);
        replayed(place, *run, &mut findings)?;
    }
    Ok(findings)
}

/// Returns the ends that the journals have for each task.
fn ends(place: &Place) -> Result<BTreeMap<TaskId, Vec<TaskResult>>> {
    let mut ends: BTreeMap<TaskId, Vec<TaskResult>> = BTreeMap::new();
    for (_, told) in journal::look(&place.installation)? {
        for record in told? {
            if let Event::TaskEnded { result, .. } = record.event {
                ends.entry(result.task_id.clone()).or_default().push(*result);
            }
        }
    }
    Ok(ends)
}

fn one(
    place: &Place,
    task: &Expected,
    ends: &BTreeMap<TaskId, Vec<TaskResult>>,
    tally: &Tally,
    done: &Done,
    findings: &mut Findings,
) -> Result<()> {
    let Expected { id, worker } = task;
    let Some([first, more @ ..]) = ends.get(id).map(Vec::as_slice) else {
        findings.lost.push(format!("{id} has no end in the journal"));
        return Ok(());
    };
    if !more.is_empty() {
        findings.doubled.push(format!("{id} was accepted {} times", more.len() + 1));
    }
    let (status, attempt) = (first.status, first.attempt);
    if status != Status::Complete {
        findings.lost.push(format!("{id} is {status}: {:?}", first.error));
        return Ok(());
    }
    let path = place.installation.result_file(worker, id);
    let published: Option<TaskResult> =
        fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    match &published {
        None => findings.lost.push(format!("{id} has no result")),
        Some(result) if result.attempt != attempt => {
            let found = result.attempt;
            findings
                .doubled
                .push(format!("{id}: the journal has attempt {attempt}, the result {found}"));
        }
        Some(_) => {}
    }
    if let Some(seen) = done.seen.get(&path)
        && fs::read(&path).ok().as_ref() != Some(seen)
    {
        findings.doubled.push(format!("{id}: its result was changed after it was published"));
    }
    let folder = place.installation.artifacts(worker, id);
    let out = fs::read_to_string(folder.join(OUT)).unwrap_or_default();
    if out.is_empty() || out != first.summary {
        findings
            .lost
            .push(format!("{id}: {OUT} is {out:?}, and its result says {:?}", first.summary));
    }
    let made_by = fs::read_to_string(folder.join(ATTEMPT)).unwrap_or_default();
    if made_by != attempt.to_string() {
        findings
            .doubled
            .push(format!("{id}: attempt {attempt} counts, {ATTEMPT} is of {made_by:?}"));
    }
    if !tally.ended.contains(&(id.to_string(), attempt)) {
        findings.lost.push(format!("{id}: attempt {attempt} counts, and did not come to its end"));
    }
    let later = tally.begun.range((id.to_string(), attempt + 1)..=(id.to_string(), u32::MAX));
    for ((_, later), _) in later {
        findings.doubled.push(format!("{id}: attempt {later} began though {attempt} counts"));
    }
    if place.installation.task_file(worker, id).exists() {
        findings.lost.push(format!("{id}: its task file is still there"));
    }
    findings.state.insert(local(id.as_str()).to_owned(), format!("{status} {out}"));
    Ok(())
}

/// Folds the run's journal again, without a daemon: it must come to the same.
fn replayed(place: &Place, run: RunId, findings: &mut Findings) -> Result<()> {
    let output = place.run(&["replay", &run.to_string(), "--json"])?;
    let told: Value = serde_json::from_slice(&output.stdout).map_err(|error| {
        format!("`replay` said: {error}\n{}", String::from_utf8_lossy(&output.stderr))
    })?;
    let state = told["state"]["state"].as_str().unwrap_or_default();
    if state != "complete" {
        findings.lost.push(format!("run {run} is {state:?} when it is replayed"));
    }
    Ok(())
}

//! What must hold, judged from the world's own records.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use protocol::disk::simulated::{self as disk, Disk};
use protocol::{
    Assignment, Event, OnDependencyFailure, Record, ReplicaId, RunId, RunMode, RunState, Status,
    TaskId, TaskKind, TaskResult,
};
use scheduler::{Input, RunPhase, Scheduler};

use super::worker::artifact;
use super::workload::{Fate, What};
use super::world::{Happening, World};
use crate::install::Installation;
use crate::journal;

/// How long a result may lie in its slot while nothing is in the way: several looks, and the engine's calls.
const TAKEN_IN: u64 = 60_000;

/// How soon after an overflow it is, where the keeper was idle.
const PROMPT: u64 = 1000;

/// How long an attempt has to be out until its keeper is idle.
const IDLE: u64 = 20_000;

/// What the world remembers.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Tasks that were acknowledged, or that a worker or a person has seen.
    promised: BTreeSet<TaskId>,
    promised_runs: BTreeSet<RunId>,
    /// Each result as it was first shown, by its file.
    published: BTreeMap<PathBuf, Vec<u8>>,
    /// How tasks ended whose result was shown.
    ended: BTreeMap<TaskId, Status>,
    /// The attempts that were handed in as they should be.
    proper: BTreeSet<(TaskId, u32)>,
    /// The attempts that were handed in since the last power cut.
    handed_in: BTreeSet<(TaskId, u32)>,
    had_crash: bool,
    /// When something last kept the daemon from its work.
    trouble: u64,
    /// Whether everything has ended, so that no work may begin.
    nothing_more: bool,
}

impl Records {
    /// A power cut may have taken results that were not safe.
    pub(super) fn power_was_cut(&mut self) {
        self.handed_in.clear();
        self.had_crash = true;
    }

    /// The daemon was killed: it may have been about to clear a slot.
    pub(super) fn daemon_was_killed(&mut self) {
        self.had_crash = true;
    }

    /// All tasks have ended.
    pub(super) fn nothing_more(&mut self) {
        self.nothing_more = true;
    }
}

/// How far the daemon is.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// Whether all tasks and runs have ended.
    pub(super) done: bool,
    /// What has not ended, to be shown.
    pub(super) open: Vec<String>,
    tasks: Vec<Ended>,
    runs: Vec<(RunId, RunMode, Option<RunState>)>,
}

/// A task as the daemon has it.
#[derive(Clone, Debug)]
struct Ended {
    task: std::sync::Arc<protocol::Task>,
    status: Option<Status>,
    result: Option<std::sync::Arc<TaskResult>>,
}

/// Returns how far the daemon is.
pub(super) fn state(scheduler: &Scheduler) -> State {
    let (mut tasks, mut runs, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for run in scheduler.runs() {
        let ended = match run.phase {
            RunPhase::Ended { state, .. } => Some(state),
            _ => None,
        };
        if ended.is_none() && run.mode != RunMode::Adhoc {
            open.push(format!("run {}: {:?}", run.short, run.phase));
        }
        runs.push((run.run, run.mode, ended));
        for entry in scheduler.run_tasks(&run.run) {
            if entry.status().is_none() {
                open.push(format!("{}: {:?}", entry.task.id, entry.state));
            }
            tasks.push(Ended {
                task: entry.task.clone(),
                status: entry.status(),
                result: entry.result.clone(),
            });
        }
    }
    State { done: open.is_empty(), open, tasks, runs }
}

/// Returns whether a line that has all these parts is safe in the journal of a run.
fn is_safe(disk: &Disk, installation: &Installation, run: RunId, parts: &[&str]) -> bool {
    let Some(bytes) = disk.safe(&installation.journal(run)) else { return false };
    let text = String::from_utf8_lossy(bytes);
    text.lines().any(|line| parts.iter().all(|part| line.contains(part)))
}

impl World {
    /// Looks at a file that the daemon has put in its place.
    pub(super) fn judge(&mut self, disk: &Disk, path: &Path) -> Option<String> {
        let installation = self.installation.clone()?;
        let folder = path.parent()?;
        let name = path.file_name()?.to_str()?;
        if path.starts_with(installation.runs()) {
            return self.judge_taken_in(disk, &installation, path);
        }
        if folder.parent()?.ends_with(".slots")
            && folder.starts_with(installation.root().join("tasks"))
        {
            return self.judge_staged(disk, &installation, path);
        }
        if folder.parent()? == installation.results() && name.ends_with(".json") {
            return self.judge_result(disk, &installation, path);
        }
        None
    }

    /// An attempt is put before a worker: that it is dispatched must be safe.
    fn judge_staged(
        &mut self,
        disk: &Disk,
        installation: &Installation,
        path: &Path,
    ) -> Option<String> {
        let bytes = disk.peek(&path.join("task.json"))?;
        let assignment: Assignment = match serde_json::from_slice(bytes) {
            Ok(assignment) => assignment,
            Err(error) => return Some(format!("`{}` can't be read: {error}", path.display())),
        };
        let token = serde_json::to_string(&assignment.token).unwrap_or_default();
        if !is_safe(disk, installation, assignment.task.run, &["attempt_dispatched", &token]) {
            return Some(format!(
                "attempt {} of {} is put before a worker, and that is not safe in the journal",
                assignment.attempt, assignment.task.id
            ));
        }
        None
    }

    /// Something is taken in for an attempt: its task must not have ended by it. What was taken in belongs to
    /// whoever publishes it by then.
    fn judge_taken_in(
        &self,
        disk: &Disk,
        installation: &Installation,
        path: &Path,
    ) -> Option<String> {
        let inner = path.strip_prefix(installation.runs()).ok()?;
        let names: Vec<_> = inner.iter().filter_map(|name| name.to_str()).collect();
        let [run, "attempts", name, "artifacts", ..] = names[..] else { return None };
        let (task, attempt) = name.rsplit_once('.')?;
        let (task, attempt) =
            (format!("\"task_id\":\"{task}\""), format!("\"attempt\":{attempt},"));
        let parts = ["\"event\":\"task_ended\"", &task, &attempt, "\"status\":\"complete\""];
        let ended = is_safe(disk, installation, run.parse().ok()?, &parts);
        ended.then(|| format!("artifacts of {name} are taken in again, and it has ended"))
    }

    /// A result is shown: it must be safe, the same as ever, and one that was handed in.
    fn judge_result(
        &mut self,
        disk: &Disk,
        installation: &Installation,
        path: &Path,
    ) -> Option<String> {
        let bytes = disk.peek(path)?.to_vec();
        let result: TaskResult = match serde_json::from_slice(&bytes) {
            Ok(result) => result,
            Err(error) => return Some(format!("`{}` can't be read: {error}", path.display())),
        };
        let task = result.task_id.clone();
        let name = format!("\"task_id\":\"{task}\"");
        if !is_safe(disk, installation, result.run, &["\"event\":\"task_ended\"", &name]) {
            return Some(format!("the result of {task} is shown, and is not safe in the journal"));
        }
        if let Some(first) = self.records.published.get(path)
            && *first != bytes
            && (self.workload.fair || self.records.ended.get(&task) == Some(&Status::Complete))
            // An answer is written again when work is done again.
            && (self.workload.fair || !task.as_str().contains("answer"))
        {
            return Some(format!(
                "the result of {task} changes: it was {}, and is {}",
                String::from_utf8_lossy(first),
                String::from_utf8_lossy(&bytes)
            ));
        }
        if result.status == Status::Complete {
            let summary = format!("{task} is done by {}", result.attempt);
            if result.summary != summary
                || !self.records.proper.contains(&(task.clone(), result.attempt))
            {
                return Some(format!(
                    "a result of {task} was accepted that nobody handed in: attempt {}, {:?}",
                    result.attempt, result.summary
                ));
            }
        }
        if let Some(what) = check_artifacts(disk, installation, &result) {
            return Some(what);
        }
        self.records.promised.insert(task.clone());
        self.records.ended.insert(task, result.status);
        self.records.published.insert(path.to_owned(), bytes);
        None
    }

    /// A worker begins an attempt.
    pub(super) fn check_begin(
        &mut self,
        replica: &ReplicaId,
        assignment: &Assignment,
        folder: &Path,
    ) -> Option<String> {
        let task = &assignment.task;
        let key = (task.id.clone(), assignment.attempt.get());
        let name = task.id.slot_name(assignment.attempt);
        self.tokens.insert(key.clone(), assignment.token);
        self.records.promised.insert(task.id.clone());
        if self.records.nothing_more {
            return Some(format!("{replica} begins {name}, and all had ended"));
        }
        let ended = self.records.ended.get(&task.id);
        if ended.is_some_and(|status| {
            self.workload.fair || (*status == Status::Complete && task.kind != TaskKind::Synthesize)
        }) {
            return Some(format!("{replica} begins {name}, and the task has ended: {ended:?}"));
        }
        if self.records.handed_in.contains(&key) {
            return Some(format!("{replica} begins {name} again, which was handed in"));
        }
        let others = self.containers.iter().filter(|(other, c)| *other != replica && c.runs());
        let mut at_work = 1;
        for (other, container) in others {
            let Some(work) = &container.player.work else { continue };
            at_work += 1;
            if work.assignment.task.id == task.id {
                return Some(format!(
                    "{replica} begins {name}, and {other} is at attempt {} of it",
                    work.assignment.attempt
                ));
            }
        }
        let most = self.workload.max_running;
        if at_work > most {
            return Some(format!("{at_work} attempts at once, and at most {most} may be"));
        }
        if let Some(what) = self.check_dependencies(assignment) {
            return Some(format!("{replica} begins {name}, and {what}"));
        }
        self.check_inputs(assignment, folder)
    }

    /// When an attempt was dispatched, what it depends on must have ended as it needs it, by the journal. It must
    /// also be shown, unless somebody wanted it done again since: then there is nothing to show any more.
    fn check_dependencies(&self, assignment: &Assignment) -> Option<String> {
        let installation = self.installation.as_ref()?;
        let task = &assignment.task;
        let bytes =
            disk::with(|disk| disk.safe(&installation.journal(task.run)).map(<[u8]>::to_vec));
        let bytes = bytes.unwrap_or_default();
        // Its end may be torn, where the daemon gave up.
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let records: Vec<_> =
            lines.map_while(|line| journal::records(line).ok()).flatten().collect();
        let is_its_own = |record: &Record| matches!(&record.event, Event::AttemptDispatched { token, .. } if *token == assignment.token);
        let Some(dispatched) = records.iter().position(is_its_own) else {
            return Some("its journal does not say so".to_owned());
        };
        for dependency in &task.dependencies {
            let (mut status, mut again) = (None, false);
            for (at, record) in records.iter().enumerate() {
                match &record.event {
                    Event::TaskEnded { result, .. }
                        if result.task_id == *dependency && at < dispatched =>
                    {
                        status = Some(result.status);
                    }
                    Event::TaskReset { task } if task == dependency && at < dispatched => {
                        status = None;
                    }
                    Event::TaskReset { task } if task == dependency => again = true,
                    _ => {}
                }
            }
            let shown = self.records.ended.contains_key(dependency) || again;
            let done = match status {
                Some(Status::Complete) => true,
                Some(_) => task.on_dependency_failure == OnDependencyFailure::Run,
                None => false,
            };
            if !done || !shown {
                let shown = if shown { "" } else { ", and not shown" };
                return Some(format!("{dependency}, on which it depends, is {status:?}{shown}"));
            }
        }
        None
    }

    /// What an attempt is given must be what was shown.
    fn check_inputs(&self, assignment: &Assignment, folder: &Path) -> Option<String> {
        let installation = self.installation.as_ref()?;
        for input in &assignment.inputs {
            let shown = installation.result_file(&input.worker, &input.task);
            let given = folder.join("inputs").join(input.task.as_str()).join("result.json");
            let given = disk::with(|disk| disk.peek(&given).map(<[u8]>::to_vec));
            // Cut by a power cut, after which it is made anew or read as it is.
            if self.records.published.get(&shown) != given.as_ref() && self.workload.fair {
                return Some(format!(
                    "{} is not given the result of {} as it was shown: {}",
                    assignment.task.id,
                    input.task,
                    given.map_or("nothing".to_owned(), |bytes| String::from_utf8_lossy(&bytes)
                        .into_owned())
                ));
            }
        }
        None
    }

    /// A worker has handed in something.
    pub(super) fn handed_in(&mut self, assignment: &Assignment, report: &TaskResult, proper: bool) {
        let key = (assignment.task.id.clone(), assignment.attempt.get());
        if proper && report.status == Status::Complete {
            self.records.proper.insert(key.clone());
        }
        self.records.handed_in.insert(key);
    }

    /// Has somebody look later whether a result was taken in.
    pub(super) fn expect_taken(
        &mut self,
        replica: &ReplicaId,
        number: u64,
        assignment: &Assignment,
    ) {
        let taken = Happening::Taken {
            replica: replica.clone(),
            number,
            life: self.life,
            task: assignment.task.id.clone(),
            attempt: assignment.attempt.get(),
            calm: TAKEN_IN,
        };
        self.after(TAKEN_IN, taken);
    }

    /// After an overflow, what lies in a slot is taken in at once, and not when it is looked at anyway.
    pub(super) fn expect_prompt(&mut self) {
        let now = self.time();
        if !self.workload.fair || now < self.life_began + IDLE {
            return;
        }
        let waiting = self.containers.iter().filter_map(|(replica, container)| {
            let handed =
                container.player.handed.as_ref().filter(|handed| handed.2 && container.runs())?;
            Some(Happening::Taken {
                replica: replica.clone(),
                number: container.number,
                life: self.life,
                task: handed.0.clone(),
                attempt: handed.1,
                calm: IDLE,
            })
        });
        for taken in waiting.collect::<Vec<_>>() {
            self.after(PROMPT, taken);
        }
    }

    /// Notes that something keeps the daemon from its work.
    pub(super) fn trouble(&mut self) {
        self.records.trouble = self.time();
    }

    /// A result must have been taken in by now, unless something was in the way.
    pub(super) fn check_taken(
        &mut self,
        replica: &ReplicaId,
        number: u64,
        life: u64,
        task: &TaskId,
        attempt: u32,
        calm: u64,
    ) {
        let undisturbed = life == self.life
            && self.since.is_some()
            && self.records.trouble + calm < self.time()
            && self.containers.get(replica).is_some_and(|c| c.runs() && c.number == number);
        let (Some(installation), true) = (&self.installation, undisturbed) else { return };
        let Some(container) = self.containers.get(replica) else { return };
        let name = format!("{task}.{attempt}");
        let (staged, file) =
            (container.spec.tasks.join(&name), container.spec.results.join(format!("{name}.json")));
        let left = disk::with(|disk| {
            disk.peek(&file).is_some() && disk.peek(&staged.join("task.json")).is_some()
        });
        let _ = installation;
        if left {
            let what = match calm {
                IDLE => format!("the result of {name} lies there, and there was an overflow"),
                _ => format!("the result of {name} was handed in a minute ago, and lies there"),
            };
            disk::with(|disk| disk.violate(what));
        }
    }

    /// Something was acknowledged: it must be safe.
    pub(super) fn acknowledged(&mut self, what: &What) -> Option<String> {
        let installation = self.installation.clone()?;
        match what {
            What::Task(task) | What::Drop(task) => {
                self.records.promised.insert(task.id.clone());
                let name = format!("\"task_id\":\"{}\"", task.id);
                let parts = ["\"event\":\"task_added\"", name.as_str()];
                let safe = disk::with(|disk| is_safe(disk, &installation, task.run, &parts));
                (!safe).then(|| format!("{} is acknowledged, and not safe in the journal", task.id))
            }
            What::Run(open) => {
                let Input::OpenRun { run, .. } = &**open else { return None };
                self.records.promised_runs.insert(*run);
                let parts = ["\"event\":\"run_opened\""];
                let safe = disk::with(|disk| is_safe(disk, &installation, *run, &parts));
                (!safe).then(|| format!("run {run} is acknowledged, and not safe in its journal"))
            }
        }
    }

    /// What the daemon reads at its start must be all that was promised, and make sense.
    pub(super) fn check_records(&mut self, records: &[Record]) -> Option<String> {
        let mut seq = 0;
        let mut added = BTreeSet::new();
        let mut runs = BTreeSet::new();
        let mut live: BTreeMap<&TaskId, (u32, &ReplicaId)> = BTreeMap::new();
        let mut last: BTreeMap<&TaskId, u32> = BTreeMap::new();
        let mut ended: BTreeMap<&TaskId, &TaskResult> = BTreeMap::new();
        for record in records {
            if record.seq <= seq {
                return Some(format!("event {} comes after {seq}", record.seq));
            }
            // A commit counts as a whole, or not at all; only a snapshot leaves something out.
            if record.seq > seq + 1 && !self.workload.has_snapshots() {
                return Some(format!("after event {seq} comes {}", record.seq));
            }
            seq = record.seq;
            match &record.event {
                Event::RunOpened { run, .. } => {
                    runs.insert(*run);
                }
                Event::TaskAdded { task, .. } if !added.insert(&task.id) => {
                    return Some(format!("{} was added twice", task.id));
                }
                Event::AttemptDispatched { task, attempt, replica, .. } => {
                    if let Some((other, _)) = live.iter().find(|(_, (_, on))| *on == replica) {
                        return Some(format!("{replica} is given {task}, and still has {other}"));
                    }
                    if let Some((live, _)) = live.insert(task, (attempt.get(), replica)) {
                        return Some(format!("attempt {attempt} of {task} while {live} is live"));
                    }
                    if live.len() > self.workload.max_running {
                        return Some(format!("{} attempts are live at once", live.len()));
                    }
                    if last.insert(task, attempt.get()) >= Some(attempt.get()) {
                        return Some(format!("attempt {attempt} of {task} comes twice"));
                    }
                    if ended.contains_key(task) {
                        return Some(format!("attempt {attempt} of {task}, which has ended"));
                    }
                }
                Event::AttemptFailed { task, attempt, .. }
                    if live.remove(task).map(|(live, _)| live) != Some(attempt.get()) =>
                {
                    return Some(format!("attempt {attempt} of {task} fails and was not live"));
                }
                Event::TaskEnded { result, attempts, .. } => {
                    let task = &result.task_id;
                    let was_live = live.remove(task).map(|(live, _)| live);
                    // In a snapshot the events of attempts that are over are left out.
                    let is_told = attempts.is_none() && result.status == Status::Complete;
                    if is_told && was_live != Some(result.attempt) {
                        return Some(format!(
                            "attempt {} of {task} counts, live was {was_live:?}",
                            result.attempt
                        ));
                    }
                    if ended.insert(task, result).is_some() {
                        return Some(format!("{task} ends twice"));
                    }
                }
                Event::TaskReset { task } => {
                    ended.remove(task);
                    if self.workload.fair {
                        return Some(format!("{task} is done again, and nobody wanted that"));
                    }
                }
                _ => {}
            }
        }
        if let Some(task) = self.records.promised.iter().find(|task| !added.contains(task)) {
            return Some(format!("{task} is lost: it was acknowledged, or had begun"));
        }
        if let Some(run) = self.records.promised_runs.iter().find(|run| !runs.contains(run)) {
            return Some(format!("run {run} is lost: it was acknowledged"));
        }
        for bytes in self.records.published.values() {
            let Ok(shown) = serde_json::from_slice::<TaskResult>(bytes) else { continue };
            let task = &shown.task_id;
            match ended.get(task) {
                Some(result) if **result == shown => {}
                Some(_) | None if !self.workload.fair => {}
                Some(_) => return Some(format!("{task} ended in another way than was shown")),
                None => return Some(format!("the end of {task} is lost, and was shown")),
            }
        }
        None
    }

    /// No more attempts than allowed are under way, and no more replicas are there than these and their spares.
    pub(super) fn check_limits(&mut self) -> Option<String> {
        if self.engine_away || disk::with(|disk| !disk.is_calm()) {
            self.trouble();
        }
        for (name, replicas, _) in self.workload.workers {
            let of_it =
                || self.containers.values().filter(|c| c.runs() && c.spec.worker.as_str() == name);
            let (all, at_work) =
                (of_it().count(), of_it().filter(|c| c.player.work.is_some()).count());
            // Beside each that is at work there may be a spare.
            let replicas = replicas as usize;
            if at_work > replicas || all > 2 * replicas {
                return Some(format!(
                    "{name} has {all} replicas, {at_work} of them at work, and may have {replicas}"
                ));
            }
        }
        None
    }

    /// What must be at the end.
    pub(super) fn check_end(&mut self) -> Option<String> {
        let installation = self.installation.clone()?;
        let Some(state) = self.state().filter(|state| state.done).cloned() else {
            return Some("all had ended, and now something has not".to_owned());
        };
        let statuses: BTreeMap<_, _> =
            state.tasks.iter().map(|ended| (ended.task.id.clone(), ended.status)).collect();
        for task in &self.records.promised {
            if !statuses.contains_key(task) {
                return Some(format!("{task} is lost"));
            }
        }
        for ended in &state.tasks {
            let task = &ended.task;
            let Some(result) = &ended.result else {
                return Some(format!("{} has ended without a result", task.id));
            };
            if self.workload.fair {
                let expected = self.expected(&state, task);
                if Some(expected) != ended.status {
                    return Some(format!(
                        "{} is {:?}, and undisturbed it would be {expected}: {:?}",
                        task.id, ended.status, result.error
                    ));
                }
            }
            let file = installation.result_file(&task.worker, &task.id);
            let shown = disk::with(|disk| disk.peek(&file).map(<[u8]>::to_vec));
            let same =
                shown.as_ref().and_then(|bytes| serde_json::from_slice::<TaskResult>(bytes).ok());
            if same.as_ref() != Some(&**result) {
                return Some(format!("the result of {} is not shown, or another is", task.id));
            }
            if let Some(what) = disk::with(|disk| check_artifacts(disk, &installation, result)) {
                return Some(what);
            }
            let file = installation.task_file(&task.worker, &task.id);
            if disk::with(|disk| disk.peek(&file).is_some()) {
                return Some(format!("{} has ended, and its file is still there", task.id));
            }
        }
        if self.workload.fair {
            for (run, mode, ended) in &state.runs {
                let expected = self.expected_run(&state, *run);
                if *mode != RunMode::Adhoc && *ended != Some(expected) {
                    return Some(format!(
                        "run {run} is {ended:?}, and undisturbed it would be {expected:?}"
                    ));
                }
            }
        }
        for (name, _, _) in self.workload.workers {
            let worker = super::workload::worker(name);
            for folder in [installation.tasks(&worker), installation.worker_results(&worker)] {
                // What was to be cleared away may be there still, or again; the next attempt finds and
                // removes it.
                if self.records.had_crash && folder.starts_with(installation.results()) {
                    continue;
                }
                let slots = folder.join(".slots");
                for slot in disk::with(|disk| disk.peek_names(&slots)) {
                    let slot = slots.join(slot);
                    let names = disk::with(|disk| disk.peek_names(&slot));
                    let left = names.iter().find(|name| {
                        !name.starts_with('.') && !self.strays.contains(&slot.join(name))
                    });
                    if let Some(left) = left {
                        return Some(format!("`{left}` is left in a slot of {name}"));
                    }
                }
            }
        }
        let at_work = self.containers.iter().find(|(_, c)| c.runs() && c.player.work.is_some());
        at_work.map(|(replica, _)| format!("{replica} is at work, and all has ended"))
    }

    /// Returns how a task ends when nothing disturbs it.
    fn expected(&self, state: &State, task: &protocol::Task) -> Status {
        let of = |id: &TaskId| state.tasks.iter().find(|other| other.task.id == *id);
        let complete = |id: &TaskId| {
            of(id).is_some_and(|other| self.expected(state, &other.task) == Status::Complete)
        };
        if task.on_dependency_failure == OnDependencyFailure::Skip
            && !task.dependencies.iter().all(complete)
        {
            return Status::Skipped;
        }
        match self.workload.fate(&task.id, task.kind) {
            Fate::Refused => Status::Failed,
            Fate::Complete | Fate::Flaky(_) => Status::Complete,
        }
    }

    fn expected_run(&self, state: &State, run: RunId) -> RunState {
        let work =
            state.tasks.iter().filter(|t| t.task.run == run && t.task.kind == TaskKind::Work);
        let statuses: Vec<_> = work.map(|t| self.expected(state, &t.task)).collect();
        let complete = statuses.iter().filter(|s| **s == Status::Complete).count();
        match complete {
            0 => RunState::Failed,
            all if all == statuses.len() => RunState::Complete,
            _ => RunState::Partial,
        }
    }
}

/// The artifacts that a result names must be there, as the attempt left them.
fn check_artifacts(
    disk: &Disk,
    installation: &Installation,
    result: &TaskResult,
) -> Option<String> {
    if result.status != Status::Complete {
        return None;
    }
    let attempt = protocol::Attempt::new(result.attempt)?;
    let expected = artifact(&result.task_id, attempt);
    for name in &result.artifacts {
        let found = disk.peek(&installation.root().join(name));
        if found != Some(expected.as_bytes()) {
            return Some(format!(
                "the artifact `{name}` is not as attempt {attempt} left it: {:?}",
                found.map(String::from_utf8_lossy)
            ));
        }
    }
    None
}

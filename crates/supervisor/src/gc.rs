//! Clearing away what is old: runs that have ended, what is left of attempts, files that were never finished.
//!
//! [`choose`] decides, by what the scheduler knows. [`Chosen::carry_out`] looks at the files, which takes
//! time, and removes them. What does not have a name that the supervisor itself gives is never touched.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use protocol::atomic_file::{self, Durability};
use protocol::{Attempt, RunId, SessionId, Task, TaskId, Time};
use scheduler::{RunPhase, Scheduler};
use tracing::info;

use crate::api::types::{GcItem, GcKept, GcKind, GcReport, GcRequest};
use crate::install::Installation;
use crate::journal::snapshot;
use crate::publish;
use crate::slot::{remove_tree, size};

/// How old a file has to be that is not finished. To write one takes no time; to stage inputs, minutes.
const UNFINISHED: Duration = Duration::from_secs(60 * 60);

/// What is to go.
#[derive(Debug)]
pub struct Chosen {
    installation: Installation,
    /// Whether nothing is removed.
    pub dry_run: bool,
    before: Time,
    /// The runs that go.
    pub runs: Vec<RunId>,
    /// The tasks of the standing run that go, with their results.
    pub tasks: Vec<TaskId>,
    /// Published files that go with them.
    results: Vec<PathBuf>,
    /// The tasks of runs that stay whose attempts are over and old.
    old: HashMap<RunId, HashSet<TaskId>>,
    /// The sessions that a task may go on with.
    sessions: HashSet<SessionId>,
    kept: Vec<GcKept>,
}

/// Decides what is to go. Whoever wants it gone has the scheduler forget the runs then, and the tasks once it is
/// carried out: results of a task that is known would come again.
pub fn choose(
    scheduler: &Scheduler,
    installation: &Installation,
    request: GcRequest,
    now: Time,
) -> Chosen {
    let age = u64::try_from(Duration::from_secs(request.keep_seconds).as_millis());
    let before = Time::from_millis(now.as_millis().saturating_sub(age.unwrap_or(u64::MAX)));
    let is_old = |phase: &RunPhase| matches!(phase, RunPhase::Ended { at, .. } if *at < before);
    // A journal goes only when nothing has to be made from it any more.
    let is_shown = |run: &RunId| {
        let mut results = scheduler.run_tasks(run).filter_map(|entry| entry.result.as_ref());
        results.all(|result| publish::is_published(installation, result))
    };
    let mut kept = Vec::new();
    if !request.results {
        for run in scheduler.runs().filter(|run| is_old(&run.phase) && !is_shown(&run.run)) {
            let why = "not all of its results are in `results/`".to_owned();
            kept.push(GcKept { run: run.run, why });
        }
    }
    let stays: HashSet<_> = kept.iter().map(|kept| kept.run).collect();
    let found = scheduler.dispensable(|run| is_old(&run.phase) && !stays.contains(&run.run));
    kept.extend(found.needed.into_iter().map(|(run, task)| GcKept {
        run,
        why: format!("the task `{task}` depends on it, and stays"),
    }));
    // Its journal goes on, and a result that stays would be no one's.
    let tasks = match request.results {
        true => scheduler.dispensable_tasks(&found.runs, |entry| {
            let result = entry.result.as_ref().filter(|result| result.finished_at < before);
            result.is_some_and(|result| publish::is_published(installation, result))
        }),
        false => Vec::new(),
    };
    let mut chosen = Chosen {
        installation: installation.clone(),
        dry_run: request.dry_run,
        before,
        runs: found.runs,
        tasks,
        results: Vec::new(),
        old: HashMap::new(),
        sessions: HashSet::new(),
        kept,
    };
    let results_of = |task: &Task| {
        [
            installation.result_file(&task.worker, &task.id),
            installation.artifacts(&task.worker, &task.id),
        ]
    };
    for entry in chosen.tasks.iter().filter_map(|task| scheduler.task(task)) {
        chosen.results.extend(results_of(&entry.task));
    }
    for run in scheduler.runs().map(|run| run.run) {
        let goes = chosen.runs.contains(&run);
        for entry in scheduler.run_tasks(&run) {
            chosen.sessions.extend(entry.session.map(|session| session.id));
            let task = &entry.task;
            match &entry.result {
                Some(_) if goes && request.results => chosen.results.extend(results_of(task)),
                Some(result) if !goes && result.finished_at < before => {
                    chosen.old.entry(run).or_default().insert(task.id.clone());
                }
                _ => {}
            }
        }
        if goes && request.results {
            chosen.results.extend([installation.answer(run), installation.summary(run)]);
        }
    }
    chosen
}

impl Chosen {
    /// Looks at the files, and removes them unless it is a dry run. May take long.
    pub fn carry_out(self) -> GcReport {
        let mut sweep = Sweep {
            installation: &self.installation,
            dry_run: self.dry_run,
            report: GcReport {
                dry_run: self.dry_run,
                before: self.before,
                kept: self.kept.clone(),
                ..GcReport::default()
            },
        };
        for path in &self.results {
            sweep.take(GcKind::Result, path);
        }
        for run in &self.runs {
            let folder = self.installation.runs().join(run.to_string());
            sweep.take(GcKind::Run, &folder);
        }
        let old = SystemTime::UNIX_EPOCH + Duration::from_millis(self.before.as_millis());
        self.attempts(&mut sweep, old);
        self.sessions(&mut sweep, old);
        self.unfinished(&mut sweep);
        let report = sweep.report;
        if !report.dry_run {
            info!(
                removed = report.removed.len(),
                bytes = report.bytes,
                "Cleared away what is old."
            );
        }
        report
    }

    /// What is left of the attempts of runs that stay.
    fn attempts(&self, sweep: &mut Sweep<'_>, old: SystemTime) {
        for (run, tasks) in &self.old {
            let folder = self.installation.runs().join(run.to_string()).join("attempts");
            for path in sweep.entries(&folder) {
                let known = attempt_named(&path).is_some_and(|(task, _)| tasks.contains(&task));
                // What is taken in and not published yet is needed.
                if known && is_older(&path, old) && !path.join("artifacts").exists() {
                    sweep.take(GcKind::Attempt, &path);
                }
            }
        }
    }

    /// The transcripts of sessions of runs that stay; and all that earlier versions kept of the agents'
    /// configuration, which nothing reads any more.
    fn sessions(&self, sweep: &mut Sweep<'_>, old: SystemTime) {
        for run in sweep.entries(&self.installation.runs()) {
            for path in sweep.entries(&run.join("sessions")) {
                let session = path.file_stem().and_then(|stem| stem.to_str());
                let session = session.and_then(|stem| {
                    serde_json::from_value::<SessionId>(stem.to_owned().into()).ok()
                });
                let over = session.is_some_and(|session| !self.sessions.contains(&session));
                if over && is_older(&path, old) {
                    sweep.take(GcKind::Session, &path);
                }
            }
        }
        for path in sweep.entries(&self.installation.old_agent_config()) {
            if is_older(&path, old) {
                sweep.take(GcKind::Session, &path);
            }
        }
    }

    /// Files that a crash kept from being finished, and runs that it kept from being removed.
    fn unfinished(&self, sweep: &mut Sweep<'_>) {
        let installation = &self.installation;
        let tasks = installation.root().join("tasks");
        let tops = [installation.state(), installation.runs(), tasks, installation.results()];
        let below: Vec<_> = tops[1..]
            .iter()
            .flat_map(|top| sweep.entries(top))
            .filter(|path| {
                path.file_name().is_some_and(|name| !is_unfinished(&name.to_string_lossy()))
            })
            .filter(|path| path.is_dir())
            .collect();
        let long_ago = SystemTime::now() - UNFINISHED;
        for folder in tops.iter().chain(&below) {
            for path in sweep.entries(folder) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                if is_unfinished(&name) && is_older(&path, long_ago) {
                    sweep.take(GcKind::Temporary, &path);
                }
            }
        }
    }
}

struct Sweep<'a> {
    installation: &'a Installation,
    dry_run: bool,
    report: GcReport,
}

impl Sweep<'_> {
    fn take(&mut self, kind: GcKind, path: &Path) {
        let bytes = match size(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.failed(path, &error),
        };
        if !self.dry_run
            && let Err(error) = remove(kind, path)
        {
            return self.failed(path, &error);
        }
        self.report.bytes += bytes;
        let name = self.installation.relative(path);
        self.report.removed.push(GcItem { kind, name, bytes });
    }

    /// Returns what is in a folder, by name; nothing where there is none.
    fn entries(&mut self, folder: &Path) -> Vec<PathBuf> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Vec::new(),
            Err(error) => {
                self.failed(folder, &error);
                return Vec::new();
            }
        };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        paths
    }

    fn failed(&mut self, path: &Path, error: &io::Error) {
        self.report.failed.push(format!("`{}`: {error}", self.installation.relative(path)));
    }
}

fn remove(kind: GcKind, path: &Path) -> io::Result<()> {
    let mut path = path.to_owned();
    if kind == GcKind::Run {
        // Gone at once, by one rename: half a run would be read as damage.
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let gone = path.with_file_name(format!(".{name}{GONE}"));
        atomic_file::move_to(&path, &gone, Durability::Synced)?;
        path = gone;
    }
    remove_tree(&path)
}

/// The ending of a run that is being removed.
const GONE: &str = ".gone.tmp";

/// Returns whether a file is one that we were writing, or a run that we were removing: no other has such a
/// name by chance.
fn is_unfinished(name: &str) -> bool {
    let Some(middle) = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(".tmp")) else {
        return false;
    };
    let run = name.strip_prefix('.').and_then(|rest| rest.strip_suffix(GONE));
    name == snapshot::DRAFT
        || run.is_some_and(|run| run.parse::<RunId>().is_ok())
        || (middle.len() == 6 && middle.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

/// Returns the task and the attempt after which a folder is named.
fn attempt_named(path: &Path) -> Option<(TaskId, Attempt)> {
    let (task, attempt) = path.file_name()?.to_str()?.rsplit_once('.')?;
    Some((task.parse().ok()?, Attempt::new(attempt.parse().ok()?)?))
}

fn is_older(path: &Path, than: SystemTime) -> bool {
    let changed = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    changed.is_ok_and(|changed| changed < than)
}

#[cfg(test)]
mod tests;

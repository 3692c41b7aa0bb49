//! Publishing: what a person finds in `tasks/` and `results/`.
//!
//! All of it is made from the journal, so it may be made again, and a rename is enough.

use std::io::{self, ErrorKind};

use protocol::atomic_file::{self, Durability};
use protocol::disk as fs;
use protocol::{Attempt, Status, Task, TaskResult, mutant};

use crate::api::types::RunSummary;
use crate::install::Installation;

/// Shows a task as a file. One that is there already stays.
///
/// # Errors
///
/// Any I/O error.
pub fn task(installation: &Installation, task: &Task) -> io::Result<()> {
    let path = installation.task_file(&task.worker, &task.id);
    // A start finds most of them there, and a look costs a hundredth of a file that is not needed.
    if path.exists() {
        return Ok(());
    }
    // That of a worker that is not there any more, or that somebody removed.
    fs::create_dir_all(installation.tasks(&task.worker))?;
    match atomic_file::create(&path, &json(task)?, Durability::Volatile) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Returns whether there is nothing left to do for [`result`].
pub fn is_published(installation: &Installation, result: &TaskResult) -> bool {
    let (worker, task) = (&result.worker, &result.task_id);
    let taken_in = Attempt::new(result.attempt)
        .map(|attempt| installation.attempt(result.run, task, attempt).join("artifacts"));
    // After a power cut it may be there with a part of its contents, or with nothing but its length.
    let text = json(result).unwrap_or_default();
    fs::read(installation.result_file(worker, task))
        .is_ok_and(|found| mutant!(TornResultTrusted, found == text, !found.is_empty()))
        && !fs::exists(&installation.task_file(worker, task))
        && !taken_in.is_some_and(|dir| result.status == Status::Complete && fs::exists(&dir))
}

/// Shows the result of a task that has ended, with its artifacts, and removes the task's file.
///
/// # Errors
///
/// Any I/O error.
pub fn result(installation: &Installation, result: &TaskResult) -> io::Result<()> {
    let (worker, task) = (&result.worker, &result.task_id);
    fs::create_dir_all(installation.worker_results(worker))?;
    if let (Status::Complete, Some(attempt)) = (result.status, Attempt::new(result.attempt)) {
        let taken_in = installation.attempt(result.run, task, attempt).join("artifacts");
        if fs::is_dir(&taken_in) {
            let target = installation.artifacts(worker, task);
            if let Err(error) = fs::remove_dir_all(&target)
                && error.kind() != ErrorKind::NotFound
            {
                return Err(error);
            }
            atomic_file::move_to(&taken_in, &target, Durability::Volatile)?;
        }
    }
    // A task that was done again has an earlier result here, which was not complete.
    let path = installation.result_file(worker, task);
    atomic_file::replace(&path, &json(result)?, Durability::Volatile)?;
    atomic_file::remove(&installation.task_file(worker, task))
}

/// Writes a run's answer and its figures.
///
/// # Errors
///
/// Any I/O error.
pub fn run(
    installation: &Installation,
    summary: &RunSummary,
    answer: Option<&str>,
) -> io::Result<()> {
    if let Some(answer) = answer {
        let path = installation.answer(summary.run);
        atomic_file::replace(&path, answer.as_bytes(), Durability::Volatile)?;
    }
    let path = installation.summary(summary.run);
    atomic_file::replace(&path, &json(summary)?, Durability::Volatile)
}

/// Returns whether there is nothing left to do for [`run`]. A run that was opened again may have left
/// the answer and the figures of its earlier end.
///
/// What the ledger says does not count: it forgets in time, and a rehearsal has one of its own.
pub fn is_run_published(
    installation: &Installation,
    summary: &RunSummary,
    answer: Option<&str>,
) -> bool {
    let holds = |path, text: &[u8]| fs::read(path).is_ok_and(|found| found == text);
    answer.is_none_or(|answer| holds(installation.answer(summary.run), answer.as_bytes()))
        && fs::read(installation.summary(summary.run)).is_ok_and(|found| is_of(&found, summary))
}

fn is_of(file: &[u8], summary: &RunSummary) -> bool {
    let Ok(found) = serde_json::from_slice::<RunSummary>(file) else { return false };
    let RunSummary { saved_usd, waits, .. } = found;
    let same = RunSummary { saved_usd, waits, ..summary.clone() };
    json(&same).is_ok_and(|text| text == file)
}

fn json(value: &impl serde::Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value).map_err(io::Error::other)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use protocol::{RunId, Usage};

    use super::*;
    use crate::api::types::RunStatus;

    #[test]
    fn figures_are_written_again_for_what_has_changed_and_not_for_another_ledger() {
        let dir = tempfile::tempdir().unwrap();
        let installation = Installation::at(dir.path()).unwrap();
        fs::create_dir(installation.results()).unwrap();
        let summary = RunSummary {
            run: RunId::Adhoc,
            state: RunStatus::Partial,
            answer: None,
            summary: None,
            tasks: Vec::new(),
            cost_usd: Some(0.5),
            usage: Usage::default(),
            cache_share: None,
            saved_usd: Some(0.25),
            waits: [("requests".to_owned(), 1.5)].into(),
            elapsed: 1.0,
            rehearsal: false,
        };
        run(&installation, &summary, None).unwrap();
        let is_published = |now: &RunSummary| is_run_published(&installation, now, None);
        assert!(is_published(&summary));
        let forgotten = RunSummary { saved_usd: None, waits: [].into(), ..summary.clone() };
        assert!(is_published(&forgotten));
        let complete = RunSummary { state: RunStatus::Complete, ..summary };
        assert!(!is_published(&complete));
    }
}

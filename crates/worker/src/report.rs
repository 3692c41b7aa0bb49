//! The result file.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use protocol::atomic_file::{self, Durability};
use protocol::{
    Attempt, FailureKind, ReportOf, ReportSecret, Status, TaskError, TaskResult, strict,
};

use crate::signals::Signals;
use crate::{scratch, text};

/// How long to wait after a result could not be written, before it is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Checks that nothing lies where the report will, before it is written for the first time: it could only be the
/// agent's.
///
/// # Errors
///
/// [`FailureKind::Tampered`].
pub(crate) fn nothing_in_its_place(path: &Path) -> Result<(), TaskError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let message =
        format!("the agent left something of its own in the place of its report, `{name}`");
    Err(TaskError::new(FailureKind::Tampered, message).with_hint(protocol::TAMPERED_HINT))
}

/// Writes the result, in the place of whatever is there, and does not give up before a signal comes: it stands for
/// all the work. Returns whether it is there.
pub(crate) fn write(
    path: &Path,
    result: TaskResult,
    secret: &ReportSecret,
    signals: &Signals,
) -> bool {
    let bytes = seal(result, secret);
    loop {
        match put(path, &bytes) {
            Ok(()) => return true,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "The result can't be written.");
            }
        }
        if signals.raised().is_some() {
            return false;
        }
        thread::sleep(PAUSE);
    }
}

/// Writes the file, whatever the agent has left there or done to the folder, which is its own as much as ours.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let replace = || atomic_file::replace(path, bytes, Durability::Synced);
    replace().or_else(|_| {
        if fs::symlink_metadata(path).is_ok_and(|stat| stat.is_dir()) {
            scratch::remove(path)?;
        }
        if let Some(folder) = path.parent() {
            let mode = fs::metadata(folder)?.permissions().mode();
            fs::set_permissions(folder, Permissions::from_mode(mode | 0o700))?;
        }
        replace()
    })
}

/// Returns the result in its envelope.
fn seal(result: TaskResult, secret: &ReportSecret) -> Vec<u8> {
    let (task, run) = (result.task_id.clone(), result.run);
    let (Some(attempt), Some(token)) = (Attempt::new(result.attempt), result.token) else {
        unreachable!("BUG: a report is about an attempt and has its token");
    };
    secret.seal(ReportOf { run, task: &task, attempt, token }, &fit(result))
}

/// Returns the result as JSON that a reader takes, with long texts cut as far as needed.
fn fit(result: TaskResult) -> Vec<u8> {
    let whole = json(&result);
    if whole.len() <= strict::MAX_BYTES {
        return whole;
    }
    // The report is what people wait for; it keeps most of the room.
    let mut limits = Limits { report: 768 << 10, text: 64 << 10, items: 1000 };
    loop {
        // Each time from the whole, so that what is said of a cut is true.
        let mut cut = result.clone();
        limits.apply(&mut cut);
        if limits.text < 256 {
            drop_lists(&mut cut);
        }
        let bytes = json(&cut);
        // With the least of everything it fits: this ends.
        if bytes.len() <= strict::MAX_BYTES || limits.text == 0 {
            return bytes;
        }
        let Limits { report, text, items } = limits;
        limits = Limits { report: report / 2, text: text / 2, items: (items / 2).max(1) };
    }
}

fn json(result: &TaskResult) -> Vec<u8> {
    match serde_json::to_vec_pretty(result) {
        Ok(bytes) => bytes,
        // There is nothing in it that JSON has no form for.
        Err(error) => panic!("BUG: a result can't be written as JSON: {error}"),
    }
}

/// How long texts and lists may be.
#[derive(Clone, Copy)]
struct Limits {
    report: usize,
    text: usize,
    items: usize,
}

impl Limits {
    fn apply(self, result: &mut TaskResult) {
        shorten(&mut result.summary, self.text);
        for list in [&mut result.findings, &mut result.recommendations] {
            if list.len() > self.items {
                let more = list.len() - self.items;
                list.truncate(self.items);
                list.push(format!("… [cut here: {more} more]"));
            }
            for item in list.iter_mut() {
                shorten(item, self.text);
            }
        }
        if let Some(text) = &mut result.report {
            shorten(text, self.report);
        }
        if let Some(error) = &mut result.error {
            shorten(&mut error.message, self.text);
        }
    }
}

/// What is left when texts are short: names of files, or a plan. They can't be cut.
fn drop_lists(result: &mut TaskResult) {
    let what = match &result.plan {
        Some(_) => "the plan".to_owned(),
        None => format!("the list of {} artifacts", result.artifacts.len()),
    };
    let message =
        format!("{what} is larger than what a result may hold ({} bytes)", strict::MAX_BYTES);
    result.status = Status::Failed;
    result.error = Some(TaskError::new(FailureKind::BadOutput, message));
    result.plan = None;
    result.artifacts.clear();
}

fn shorten(text: &mut String, max: usize) {
    if text.len() > max {
        *text = text::head(text, max);
    }
}

#[cfg(test)]
mod tests {
    use protocol::{RunId, Time};

    use super::*;

    fn result() -> TaskResult {
        TaskResult::without_report(
            "a".parse().unwrap(),
            RunId::Adhoc,
            "marie".parse().unwrap(),
            None,
            Status::Complete,
            TaskError::new(FailureKind::BadOutput, "x"),
            Time::ZERO,
        )
    }

    fn fitted(result: TaskResult) -> TaskResult {
        strict::from_slice(&fit(result)).expect("the supervisor should take it")
    }

    #[test]
    fn result_that_fits_is_left_alone() {
        let result = TaskResult { report: Some("r".repeat(900 << 10)), ..result() };
        assert_eq!(fitted(result.clone()), result);
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        let long = TaskResult {
            // Six bytes each in JSON.
            summary: "\u{1}".repeat(3 << 20),
            findings: vec!["f".repeat(2000); 5000],
            report: Some("ä".repeat(2 << 20)),
            ..result()
        };
        let cut = fitted(long);
        assert_eq!(cut.status, Status::Complete);
        assert!(cut.summary.ends_with("of 3145728 bytes]"));
        assert!(cut.report.is_some_and(|r| r.contains("[cut here")));
        assert!(
            cut.findings.last().is_some_and(|f| f.contains("more]")),
            "{:?}",
            cut.findings.last()
        );
    }

    #[test]
    fn what_cannot_be_cut_is_a_failure() {
        let names = (0..4000).map(|i| format!("{i:0400}")).collect();
        let cut = fitted(TaskResult { artifacts: names, ..result() });
        assert_eq!(cut.status, Status::Failed);
        assert!(cut.error.unwrap().message.contains("4000 artifacts"));
        let plan = serde_json::json!({ "tasks": ["x".repeat(2 << 20)] });
        let cut = fitted(TaskResult { plan: Some(plan), ..result() });
        assert!(cut.error.unwrap().message.starts_with("the plan is larger"));
    }
}

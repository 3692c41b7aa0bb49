//! What a task's own check says of what an attempt handed in.

use protocol::{
    CHECK_FAILED_CODE, CHECK_IMPOSSIBLE_CODE, CHECK_SAYS, FailureKind, Status, TaskError,
    TaskResult,
};

use crate::runtime::{Exit, RuntimeError};
use crate::slot::verify::refuted;

use super::end;

/// How often a check is made whose end nobody knows: the engine was restarted, or somebody removed it.
pub(super) const TRIES: u32 = 3;

/// How much of a command is told.
const SHOWN: usize = 2000;

/// Returns what becomes of a report after its check ended so; `None` where that says nothing.
pub(super) fn judge(report: &TaskResult, command: &str, exit: &Exit) -> Option<TaskResult> {
    let failed = |kind, end: &str| {
        let command = &command[..command.floor_char_boundary(SHOWN)];
        let error = TaskError::new(kind, format!("the task's check `{command}` {end}"));
        Some(refuted(report.clone(), Status::Failed, error))
    };
    match exit.code {
        Some(0) => Some(report.clone()),
        Some(code) if code == i64::from(CHECK_FAILED_CODE) => {
            failed(FailureKind::Unverified, said(exit).unwrap_or("failed"))
        }
        Some(code) if code == i64::from(CHECK_IMPOSSIBLE_CODE) => {
            let hint = "Use an image with a shell and a `resources.tmp_mib` that holds the artifacts, or leave out \
                        `verify.command`.";
            let report = failed(FailureKind::Invalid, said(exit).unwrap_or("can't be run"))?;
            let error = report.error.clone().map(|error| error.with_hint(hint));
            Some(TaskResult { error, ..report })
        }
        _ if exit.oom => failed(FailureKind::Unverified, "ran out of the container's memory"),
        _ => None,
    }
}

fn said(exit: &Exit) -> Option<&str> {
    // Nothing is printed before it, and what comes after it is the command's.
    let (_, said) = exit.output.split_once(CHECK_SAYS)?;
    Some(said.trim())
}

/// Returns the report of an attempt whose check was called off.
pub(super) fn called_off(report: TaskResult, reason: String) -> TaskResult {
    refuted(report, Status::Cancelled, TaskError::new(FailureKind::Cancelled, reason))
}

/// Returns the report of an attempt whose check can't be made here: that is no fault of the attempt's.
pub(super) fn unmade(report: TaskResult, why: &RuntimeError) -> TaskResult {
    let mut error = end::unstartable(why);
    error.message = format!("what was handed in can't be checked: {}", error.message);
    refuted(report, Status::Failed, error)
}

/// Returns the report of an attempt whose check was lost each time.
pub(super) fn lost(report: TaskResult, exit: &Exit) -> TaskResult {
    let message = format!("what was handed in can't be checked: {TRIES} times {exit}");
    refuted(report, Status::Failed, TaskError::new(FailureKind::WorkerLost, message))
}

//! What it means that a replica has ended, or can't be started.

use protocol::{
    FailureKind, ReplicaId, TaskError, UNFIT, UNFIT_CODE, UNREACHABLE, UNREACHABLE_CODE,
};
use tracing::{error, info, warn};

use crate::failure;
use crate::runtime::{Exit, RuntimeError};

/// Returns what became of the attempt that a replica had when it ended, and whether its worker is to be paused: others
/// of it would end the same way.
pub(super) fn judge(replica: &ReplicaId, exit: &Exit) -> (TaskError, bool) {
    if let Some(error) = unfit(replica, exit) {
        error!(%exit, "The replica does not serve.");
        (error, true)
    } else if let Some(why) = last_words(exit, UNREACHABLE_CODE, UNREACHABLE) {
        warn!(why, "The replica did not serve.");
        let hint =
            "It is tried again by itself; `supervisor status` says whether it is still away.";
        (TaskError::new(FailureKind::Unreachable, why).with_hint(hint), false)
    } else {
        info!(%exit, "The replica ended.");
        (lost(exit), false)
    }
}

fn lost(exit: &Exit) -> TaskError {
    if exit.oom {
        TaskError::new(FailureKind::Oom, format!("the container ran out of memory: {exit}"))
            .with_hint("Give the worker more with `resources.memory_mib` in its `worker.toml`.")
    } else {
        TaskError::new(FailureKind::WorkerLost, format!("the worker was lost: {exit}"))
    }
}

/// Returns why a replica did not serve, if it ended for that: then any other of its worker would, too.
fn unfit(replica: &ReplicaId, exit: &Exit) -> Option<TaskError> {
    let why = last_words(exit, UNFIT_CODE, UNFIT)?;
    let error = TaskError::new(FailureKind::WorkerLost, format!("{replica} does not serve: {why}"));
    Some(error.with_hint(
        "No agent is started where a wall does not hold, or where it could reach nothing at all: see \
         what the container engine does to its containers.",
    ))
}

/// Returns what a worker gave as its reason to end with that code.
fn last_words<'a>(exit: &'a Exit, code: u8, prefix: &str) -> Option<&'a str> {
    let said = exit.output.trim().lines().last()?.strip_prefix(prefix)?;
    (exit.code == Some(code.into())).then_some(said)
}

/// Returns why an attempt can't begin.
pub(super) fn unstartable(error: &RuntimeError) -> TaskError {
    let mut message = vec![error.to_string()];
    message.extend(failure::causes(error));
    let message = message.join(": ");
    let failure = TaskError::new(FailureKind::WorkerLost, message);
    match error.hint() {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    }
}

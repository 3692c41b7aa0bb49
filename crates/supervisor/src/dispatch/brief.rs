//! Events as a log may show them.

use protocol::Event;

/// An event without what people and agents wrote, and without its token: what a log may hold.
pub(crate) struct Brief<'a>(pub(crate) &'a Event);

impl std::fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Event::RunOpened { short, mode, .. } => write!(f, "run_opened {short} {mode:?}"),
            Event::TaskAdded { task, source } => write!(f, "task_added {} {source:?}", task.id),
            Event::PlanRejected { task, reasons } => {
                write!(f, "plan_rejected {task}, {} reasons", reasons.len())
            }
            Event::PlanAccepted { tasks, .. } => write!(f, "plan_accepted, {tasks} tasks"),
            Event::AttemptDispatched { task, attempt, replica, resume, .. } => {
                write!(f, "attempt_dispatched {task} {attempt} {replica} resume={resume}")
            }
            Event::AttemptStarted { task, attempt } => {
                write!(f, "attempt_started {task} {attempt}")
            }
            Event::AttemptStopping { task, attempt, error } => {
                write!(f, "attempt_stopping {task} {attempt} {}", error.kind)
            }
            Event::AttemptFailed { task, attempt, error, counted, retry_at, .. } => {
                write!(f, "attempt_failed {task} {attempt} {} counted={counted}", error.kind)?;
                match retry_at {
                    Some(time) => write!(f, " again at {time}"),
                    None => Ok(()),
                }
            }
            Event::TaskEnded { result, .. } => {
                write!(f, "task_ended {} {}", result.task_id, result.status)
            }
            Event::CancelRequested { task: Some(task), .. } => write!(f, "cancel_requested {task}"),
            Event::CancelRequested { task: None, .. } => write!(f, "cancel_requested"),
            Event::DecisionRaised { decision } => {
                write!(f, "decision_raised {} {} {:?}", decision.id, decision.kind, decision.scope)
            }
            Event::DecisionMade { decision, choice, by } => {
                write!(f, "decision_made {decision} {choice:?} by {by:?}")
            }
            Event::TaskReset { task } => write!(f, "task_reset {task}"),
            Event::TasksForgotten { tasks, .. } => {
                write!(f, "tasks_forgotten, {} tasks", tasks.len())
            }
            Event::RunEnded { state, .. } => write!(f, "run_ended {}", state.as_str()),
        }
    }
}

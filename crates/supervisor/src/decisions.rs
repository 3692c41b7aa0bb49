//! Questions that wait for a person: what there is to know of them, and how they are answered.

use protocol::{Choice, Decision, DecisionId, DecisionKind, HoldScope, RunId, TaskError, WorkerId};
use scheduler::{Budget, Input, Refusal, Scheduler, TaskEntry};

use crate::admit;
use crate::api::types::{ApiError, DecisionView, ErrorKind};
use crate::dispatch::Dispatcher;
use crate::failure::Failure;
use crate::workers::{self, Worker};

/// Returns the questions that are open, in the order in which they came up: those that hold up a run,
/// if one is asked for.
pub fn views(dispatcher: &Dispatcher, run: Option<RunId>) -> Vec<DecisionView> {
    let scheduler = dispatcher.scheduler();
    let decisions = scheduler.decisions();
    let asked = decisions.filter(|d| run.is_none_or(|run| holds_up(scheduler, &d.scope, run)));
    asked.map(|decision| view(dispatcher, decision)).collect()
}

fn holds_up(scheduler: &Scheduler, scope: &HoldScope, run: RunId) -> bool {
    match scope {
        HoldScope::All => true,
        HoldScope::Run(held) => *held == run,
        HoldScope::Task(task) => scheduler.task(task).is_some_and(|entry| entry.task.run == run),
        HoldScope::Worker(worker) => scheduler
            .run_tasks(&run)
            .any(|entry| entry.status().is_none() && entry.task.worker == *worker),
    }
}

fn view(dispatcher: &Dispatcher, decision: &Decision) -> DecisionView {
    let scheduler = dispatcher.scheduler();
    let budget = bound(dispatcher, &decision.scope);
    let (spent_usd, spent_tokens) = spent(dispatcher, &decision.scope);
    let error = scheduler.hold(decision.id).map(|hold| &hold.error);
    DecisionView {
        about: about(scheduler, &decision.scope),
        budget_usd: budget.usd,
        budget_tokens: budget.tokens,
        spent_usd,
        spent_tokens,
        stopped: scheduler.stopped_by(decision.id).map(|entry| entry.task.id.clone()).collect(),
        hint: hint(decision, error),
        commands: vec![
            go_on(decision.id, decision.kind, budget, needed(dispatcher, &decision.scope)),
            stop(decision.id),
        ],
        decision: decision.clone(),
    }
}

/// Returns what a scope is, as a person calls it.
pub(crate) fn about(scheduler: &Scheduler, scope: &HoldScope) -> String {
    match scope {
        HoldScope::Task(task) => format!("task {task}"),
        HoldScope::Run(run) => {
            let short = scheduler.run(run).map(|run| run.short.to_string());
            format!("run {}", short.unwrap_or_else(|| run.to_string()))
        }
        HoldScope::Worker(worker) => format!("worker {worker}"),
        HoldScope::All => "the whole installation".to_owned(),
    }
}

fn hint(decision: &Decision, error: Option<&TaskError>) -> Option<String> {
    let hint = error.and_then(|error| error.hint.clone());
    hint.or_else(|| match (decision.kind, &decision.scope) {
        (DecisionKind::Budget, HoldScope::Worker(_) | HoldScope::All) => {
            Some("The budget is in the configuration; a restart reads it anew.".to_owned())
        }
        _ => None,
    })
}

/// Returns what a scope may spend: by what somebody decided, else by what it was given, else by the
/// configuration.
fn bound(dispatcher: &Dispatcher, scope: &HoldScope) -> Budget {
    let scheduler = dispatcher.scheduler();
    let budget = scheduler.budget(scope);
    let HoldScope::Task(task) = scope else {
        let in_force = dispatcher.gateways().standing(scope).budget;
        let usd = in_force.usd.map(|usd| usd.dollars());
        return Budget { usd: budget.usd.or(usd), tokens: budget.tokens.or(in_force.tokens) };
    };
    let worker = scheduler.task(task).map(|entry| &entry.task.worker);
    let worker = worker.and_then(|worker| dispatcher.workers().get(worker));
    worker.map_or(budget, |worker| or_default(budget, worker))
}

fn or_default(budget: Budget, worker: &Worker) -> Budget {
    Budget {
        usd: budget.usd.or(worker.config.budget_usd),
        tokens: budget.tokens.or(worker.config.budget_tokens),
    }
}

/// Returns the dollars and the tokens that a scope has spent, with what is held for answers that broke off:
/// of one task or run ever, else today. The journal may know of more than the ledger, which can be moved
/// away. No dollars where a model had no price.
fn spent(dispatcher: &Dispatcher, scope: &HoldScope) -> (Option<f64>, Option<u64>) {
    let standing = dispatcher.gateways().standing(scope);
    let sum = |worst: gateway::Worst| (worst.usd.unwrap_or_default(), worst.tokens);
    let ((spent, tokens), (held, held_tokens)) = (sum(standing.spent), sum(standing.held));
    let usd = (standing.unpriced == 0).then(|| (spent + held).dollars());
    let tokens = tokens.saturating_add(held_tokens);
    let scheduler = dispatcher.scheduler();
    let entries: Vec<&TaskEntry> = match scope {
        HoldScope::Task(task) => scheduler.task(task).into_iter().collect(),
        HoldScope::Run(run) => scheduler.run_tasks(run).collect(),
        HoldScope::Worker(_) | HoldScope::All => return (usd, Some(tokens)),
    };
    let used = |entry: &&TaskEntry| entry.usage.input().saturating_add(entry.usage.output_tokens);
    let journaled: Option<f64> = entries.iter().map(|entry| entry.cost_usd).sum();
    let usd = usd.zip(journaled).map(|(ledger, journaled)| ledger.max(journaled));
    (usd, Some(tokens.max(entries.iter().map(used).fold(0, u64::saturating_add))))
}

/// Returns the least budget with which the request goes out that was stopped, where the gateway still knows it: what
/// is used and what that one can take.
fn needed(dispatcher: &Dispatcher, scope: &HoldScope) -> Budget {
    let standing = dispatcher.gateways().standing(scope);
    let Some(refused) = standing.refused else { return Budget::default() };
    // In a rehearsal no dollars are in the way.
    let priced = refused.usd.filter(|_| !dispatcher.gateways().is_rehearsal());
    let usd = [standing.spent.usd, standing.lost.usd, priced];
    let tokens = [standing.spent.tokens, standing.lost.tokens, refused.tokens];
    Budget {
        usd: usd.into_iter().sum::<Option<gateway::Usd>>().map(|usd| usd.dollars()),
        tokens: Some(tokens.into_iter().fold(0, u64::saturating_add)),
    }
}

/// Returns what to type to go on: with twice the present budget, or half as much again as is needed where that is
/// more. Of two budgets only the one that is in the way is raised, where it is known.
fn go_on(id: DecisionId, kind: DecisionKind, budget: Budget, needed: Budget) -> String {
    let mut command = format!("supervisor decide {id} go-on");
    if kind != DecisionKind::Budget {
        return command;
    }
    let lacks_usd = budget.usd.zip(needed.usd).is_some_and(|(has, needs)| needs > has);
    let lacks_tokens = budget.tokens.zip(needed.tokens).is_some_and(|(has, needs)| needs > has);
    let is_known = lacks_usd || lacks_tokens;
    if let Some(usd) = budget.usd.filter(|_| lacks_usd || !is_known) {
        let usd = (2.0 * usd).max(1.5 * needed.usd.unwrap_or_default());
        command.push_str(&format!(" --budget {}", cents(usd)));
    }
    if let Some(tokens) = budget.tokens.filter(|_| lacks_tokens || !is_known) {
        let needs = needed.tokens.unwrap_or_default();
        let tokens = tokens.saturating_mul(2).max(needs.saturating_add(needs / 2));
        command.push_str(&format!(" --budget-tokens {tokens}"));
    }
    if budget == Budget::default() {
        command.push_str(" --budget USD");
    }
    command
}

/// Returns dollars to the cent, upwards: less would not do.
fn cents(usd: f64) -> f64 {
    (usd * 100.0).ceil() / 100.0
}

fn stop(id: DecisionId) -> String {
    format!("supervisor decide {id} stop")
}

/// Returns why nothing is given to a worker: nothing of it can be started, or something about all of it
/// waits for a person.
pub fn paused<'a>(scheduler: &'a Scheduler, worker: &WorkerId) -> Option<&'a TaskError> {
    let mut paused = scheduler.paused();
    if let Some((_, error)) = paused.find(|(paused, _)| *paused == worker) {
        return Some(error);
    }
    let of_worker = |decision: &&Decision| match &decision.scope {
        HoldScope::Worker(held) => held == worker,
        HoldScope::All => true,
        HoldScope::Task(_) | HoldScope::Run(_) => false,
    };
    let decision = scheduler.decisions().find(of_worker)?;
    scheduler.hold(decision.id).map(|hold| &hold.error)
}

/// Answers a question.
///
/// # Errors
///
/// * Not found when there never was such a question, and a conflict when it is answered.
/// * Bad input when the answer does not fit the question: to go on after a budget is used up takes
///   a larger one.
pub fn decide(dispatcher: &mut Dispatcher, id: DecisionId, choice: Choice) -> Result<(), ApiError> {
    if let Choice::GoOn { budget_usd, budget_tokens } = choice {
        let granted = Budget { usd: budget_usd, tokens: budget_tokens };
        check_grant(dispatcher, id, granted)?;
    }
    dispatcher.request(Input::Decide { decision: id, choice }).map_err(|refusal| {
        let kind = match refusal {
            Refusal::UnknownDecision(_) => ErrorKind::NotFound,
            _ => ErrorKind::Conflict,
        };
        ApiError { kind, ..ApiError::from(admit::failure(&refusal)) }
    })
}

/// Checks that a budget fits the question, if that is open.
fn check_grant(dispatcher: &Dispatcher, id: DecisionId, granted: Budget) -> Result<(), Failure> {
    admit::check_budget(granted.usd, granted.tokens)?;
    let scheduler = dispatcher.scheduler();
    let Some(hold) = scheduler.hold(id) else { return Ok(()) };
    if hold.kind != DecisionKind::Budget {
        if granted == Budget::default() {
            return Ok(());
        }
        let message = format!("decision {id} is about {}, and takes no budget", what(hold.kind));
        return Err(Failure::bad_input(message).hint(format!(
            "Type `{}`.",
            go_on(id, hold.kind, Budget::default(), Budget::default())
        )));
    }
    let budget = bound(dispatcher, &hold.scope);
    let more = |new: Option<f64>, old: Option<f64>| new.is_some_and(|n| old.is_none_or(|o| n > o));
    let more_tokens = match (granted.tokens, budget.tokens) {
        (Some(new), Some(old)) => new > old,
        (new, None) => new.is_some(),
        (None, Some(_)) => false,
    };
    let needed = needed(dispatcher, &hold.scope);
    if is_too_little(granted, budget, needed) {
        let usd = needed.usd.filter(|_| budget.usd.or(granted.usd).is_some()).map(cents);
        let tokens = needed.tokens.filter(|_| budget.tokens.or(granted.tokens).is_some());
        let usd = usd.map(|usd| format!("${usd:.2}"));
        let needs = [usd, tokens.map(|tokens| format!("{tokens} tokens"))];
        let needs = needs.into_iter().flatten().collect::<Vec<_>>().join(" and ");
        let message = format!(
            "that is too little for decision {id}: what is used and what the next request can take is {needs}"
        );
        let go_on = go_on(id, hold.kind, budget, needed);
        return Err(Failure::bad_input(message).hint(format!("Type `{go_on}`, or more.")));
    }
    if more(granted.usd, budget.usd)
        || more_tokens
        || (granted == Budget::default() && is_lifted(dispatcher, &hold.scope, budget))
    {
        return Ok(());
    }
    let (usd, tokens) = spent(dispatcher, &hold.scope);
    let message = match (granted == Budget::default(), figures(budget, usd, tokens)) {
        (true, None) => format!("decision {id} needs a new budget"),
        (true, Some(figures)) => format!("decision {id} needs a new budget ({figures} used)"),
        (false, None) => format!("that is no larger budget for decision {id}"),
        (false, Some(figures)) => {
            format!("that is no larger budget for decision {id} ({figures} used)")
        }
    };
    let (go_on, stop) = (go_on(id, hold.kind, budget, needed), stop(id));
    Err(Failure::bad_input(message)
        .hint(format!("Type `{go_on}` to go on, or `{stop}` to leave it at that.")))
}

/// Returns whether a budget that is granted would refuse the same request again. One that nobody names stays as it is.
fn is_too_little(granted: Budget, budget: Budget, needed: Budget) -> bool {
    let usd = granted.usd.or(budget.usd).zip(needed.usd).is_some_and(|(has, needs)| has < needs);
    let tokens = granted.tokens.or(budget.tokens).zip(needed.tokens);
    granted != Budget::default() && (usd || tokens.is_some_and(|(has, needs)| has < needs))
}

/// Returns whether the worker's file, where the task's budget is, allows more than when the daemon
/// started.
fn is_lifted(dispatcher: &Dispatcher, scope: &HoldScope, then: Budget) -> bool {
    let HoldScope::Task(task) = scope else { return false };
    let Some(entry) = dispatcher.scheduler().task(task) else { return false };
    let Ok(worker) = workers::load(dispatcher.installation(), &entry.task.worker) else {
        return false;
    };
    let now = or_default(dispatcher.scheduler().budget(scope), &worker);
    let more =
        |now: Option<f64>, then: Option<f64>| then.is_some_and(|t| now.is_none_or(|n| n > t));
    let more_tokens = then.tokens.is_some_and(|then| now.tokens.is_none_or(|now| now > then));
    more(now.usd, then.usd) || more_tokens
}

fn what(kind: DecisionKind) -> &'static str {
    match kind {
        DecisionKind::Budget => "a budget",
        DecisionKind::Auth => "a credential",
        DecisionKind::Billing => "credit",
    }
}

/// Says how much of a budget is used: `$1.87 of $2.00`.
fn figures(budget: Budget, usd: Option<f64>, tokens: Option<u64>) -> Option<String> {
    let usd = budget.usd.map(|budget| match usd {
        Some(usd) => format!("${usd:.2} of ${budget:.2}"),
        None => format!("an unknown part of ${budget:.2}"),
    });
    let tokens = budget.tokens.zip(tokens);
    let tokens = tokens.map(|(budget, used)| format!("{used} of {budget} tokens"));
    match (usd, tokens) {
        (Some(usd), Some(tokens)) => Some(format!("{usd} and {tokens}")),
        (usd, tokens) => usd.or(tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(usd: Option<f64>, tokens: Option<u64>) -> Budget {
        Budget { usd, tokens }
    }

    #[test]
    fn budget_that_is_proposed_is_enough_for_the_request_that_was_stopped() {
        let typed = |has, needs| go_on("d1".parse().unwrap(), DecisionKind::Budget, has, needs);
        let unknown = Budget::default();
        for (has, needs, expected) in [
            (budget(Some(2.0), None), unknown, " --budget 4"),
            (budget(Some(0.001), None), unknown, " --budget 0.01"),
            (budget(Some(0.001), None), budget(Some(0.7955), Some(48_545)), " --budget 1.2"),
            (budget(Some(2.0), None), budget(Some(2.1), Some(9)), " --budget 4"),
            (budget(None, Some(10_000)), budget(Some(0.8), Some(48_545)), " --budget-tokens 72817"),
            // The other one is not in the way.
            (budget(Some(2.0), Some(100)), budget(Some(0.5), Some(900)), " --budget-tokens 1350"),
            (budget(Some(2.0), Some(100)), unknown, " --budget 4 --budget-tokens 200"),
            (unknown, unknown, " --budget USD"),
        ] {
            assert_eq!(typed(has, needs), format!("supervisor decide d1 go-on{expected}"));
        }
    }

    #[test]
    fn budget_that_would_refuse_the_same_request_is_too_little() {
        let has = budget(None, Some(100));
        let needs = budget(Some(0.5), Some(900));
        assert!(is_too_little(budget(None, Some(899)), has, needs));
        assert!(!is_too_little(budget(None, Some(900)), has, needs));
        // Dollars do not help where tokens are used up, and a new bound must leave room, too.
        assert!(is_too_little(budget(Some(5.0), None), has, needs));
        assert!(is_too_little(budget(Some(0.4), Some(900)), has, needs));
        assert!(!is_too_little(
            budget(Some(0.4), None),
            budget(Some(0.2), None),
            Budget::default()
        ));
        assert!(!is_too_little(Budget::default(), has, needs), "that is another question");
    }
}

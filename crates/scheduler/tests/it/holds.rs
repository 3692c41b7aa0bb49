//! What waits for a person, or for time.

use protocol::{
    Choice, Decider, DecisionKind, Event, FailureKind, HoldScope, RunId, RunMode, RunState, Status,
    Task, TaskError, Time,
};
use scheduler::{Budget, Command, Input, Refusal, RunPhase, Target, TaskState};

use crate::support::*;

const DAY: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

const THREE: &str = r#"{"tasks": [
    {"id": "a", "worker": "marie", "description": "x"},
    {"id": "b", "worker": "marie", "description": "x"},
    {"id": "c", "worker": "anga", "description": "x", "dependencies": ["a"]}
]}"#;

fn of_task(name: &str) -> HoldScope {
    HoldScope::Task(id(name))
}

fn of_worker(name: &str) -> HoldScope {
    HoldScope::Worker(worker(name))
}

fn of_run() -> HoldScope {
    HoldScope::Run(run_id(1))
}

/// A run with a budget: `r1.a` and `r1.b` are out, `r1.c` waits.
fn with_run() -> Rig {
    with_run_of(Some(2.0))
}

fn with_run_of(budget_usd: Option<f64>) -> Rig {
    let mut rig = Rig::new(config());
    rig.step(Input::OpenRun {
        run: run_id(1),
        short: "r1".parse().unwrap(),
        name: None,
        mode: RunMode::Plan,
        request: None,
        plan: Some(plan(THREE)),
        priority: Default::default(),
        budget_usd,
        budget_tokens: None,
        rehearsal: true,
    });
    rig
}

/// Marie has used up her budget of the day with `a`; `b` waits behind it.
fn day_is_over() -> Rig {
    let mut rig = Rig::new(only_marie(1));
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &[]));
    let retry_at = Some(rig.now + DAY);
    let scope = Some(of_worker("marie"));
    rig.fail_with("a", TaskError { retry_at, scope, ..error(FailureKind::Budget) });
    rig
}

fn made(step: &scheduler::Step) -> Vec<(String, Choice, Decider)> {
    let made = |event: &Event| match event {
        Event::DecisionMade { decision, choice, by } => Some((decision.to_string(), *choice, *by)),
        _ => None,
    };
    step.events.iter().filter_map(made).collect()
}

#[test]
fn budget_of_a_run_is_told_before_its_first_attempt() {
    // Where it names none, the configuration may.
    for (usd, tokens) in [(Some(2.0), None), (None, Some(9)), (None, None)] {
        let mut rig = Rig::new(config());
        let step = rig.step(Input::OpenRun {
            run: run_id(1),
            short: "r1".parse().unwrap(),
            name: None,
            mode: RunMode::Request,
            request: Some("x".to_owned()),
            plan: None,
            priority: Default::default(),
            budget_usd: usd,
            budget_tokens: tokens,
            rehearsal: true,
        });
        let tells = Command::SetBudget { scope: of_run() };
        assert_eq!(step.commands.iter().take_while(|command| **command == tells).count(), 1);
        assert_eq!(rig.scheduler.budget(&of_run()), Budget { usd, tokens });
    }
}

#[test]
fn task_over_its_budget_waits_for_a_decision_and_goes_on_in_its_session() {
    let mut rig = Rig::new(only_marie(1));
    rig.add(Task { budget_usd: Some(1.0), ..task("a", "marie", &[]) });
    rig.start("a");
    let session = rig.live("a").session;
    let step = rig.over_budget("a", of_task("a"));

    assert!(matches!(&step.events[..], [
        Event::AttemptFailed { counted: false, retry_at: Some(_), .. },
        Event::DecisionRaised { decision },
    ] if decision.question ==
        "Task a may spend no more: it was budget. Raise the budget and go on, or stop?"));
    assert_eq!(rig.decisions(), [("d1".to_owned(), DecisionKind::Budget, of_task("a"))]);
    assert_eq!(rig.state("a"), &TaskState::Ready);
    assert_eq!(rig.scheduler.held_by(rig.entry("a")).unwrap().scope, of_task("a"));
    assert_eq!(rig.scheduler.next_wakeup(), None);
    assert_eq!(dispatched(&rig.add(task("b", "marie", &[]))), ["b on marie-1"], "others go on");
    rig.complete("b");

    let step = rig.decide("d1", go_on_with(3.0));
    assert_eq!(step.commands[0], Command::SetBudget { scope: of_task("a") });
    assert_eq!(dispatched(&step), ["a on marie-1"]);
    assert_eq!((rig.live("a").session, rig.live("a").resume), (session, true));
    assert_eq!(rig.entry("a").counted_failures, 0);
    let budget = Budget { usd: Some(3.0), tokens: None };
    assert_eq!(rig.scheduler.budget(&of_task("a")), budget);
    assert_eq!(rig.decisions(), []);
}

#[test]
fn task_that_is_stopped_fails_with_the_reason_of_its_last_attempt() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &["a"]));
    rig.over_budget("a", of_task("a"));
    rig.decide("d1", Choice::Stop);

    let result = rig.entry("a").result.clone().unwrap();
    assert_eq!((result.status, result.attempt), (Status::Failed, 1));
    assert_eq!(result.error.as_ref().map(|error| error.kind), Some(FailureKind::Budget));
    assert_eq!(rig.status("b"), Some(Status::Skipped));
    assert_eq!(rig.decisions(), []);

    rig.retry("a");
    rig.over_budget("a", of_task("a"));
    assert_eq!(rig.decisions()[0].0, "d2", "a name is never used again");
}

#[test]
fn attempts_that_end_alike_wait_for_the_same_decision() {
    let mut rig = with_run();
    rig.start("r1.a");
    rig.start("r1.b");
    assert_eq!(rig.over_budget("r1.a", of_run()).events.len(), 2);
    let step = rig.over_budget("r1.b", of_run());
    assert_eq!(step.events.len(), 1, "{:?}", step.events);

    assert_eq!(rig.decisions(), [("d1".to_owned(), DecisionKind::Budget, of_run())]);
    let stopped: Vec<_> = rig.scheduler.stopped_by("d1".parse().unwrap()).collect();
    assert_eq!(stopped, [rig.entry("r1.a"), rig.entry("r1.b")]);
    let late = Task { run: run_id(1), ..task("late", "fabien", &[]) };
    assert_eq!(dispatched(&rig.add(late)), [""; 0], "nothing of the run is begun");
    assert_eq!(dispatched(&rig.add(task("other", "fabien", &[]))), ["other on fabien-1"]);

    assert_eq!(
        dispatched(&rig.decide("d1", go_on_with(5.0))),
        ["r1.a on marie-1", "r1.b on marie-2", "late on fabien-2"],
    );
}

#[test]
fn run_that_is_stopped_is_cancelled_with_the_reason() {
    let mut rig = with_run();
    rig.over_budget("r1.a", of_run());
    let step = rig.decide("d1", Choice::Stop);

    assert_eq!(rig.status("r1.a"), Some(Status::Cancelled));
    assert_eq!(stopping(rig.live("r1.b")), Some(FailureKind::Cancelled));
    assert!(step.commands.iter().any(|c| matches!(c, Command::Interrupt { .. })));
    let error = rig.entry("r1.c").result.clone().unwrap().error.clone().unwrap();
    assert_eq!(error.message, "the run was stopped by decision d1: it was budget");
    rig.gone("marie-2");
    let state = RunState::Cancelled;
    assert_eq!(rig.phase(run_id(1)), RunPhase::Ended { state, at: rig.now });

    rig.step(Input::Retry(Target::Run(run_id(1))));
    rig.cancel("r1.a");
    rig.gone("marie-1");
    let error = rig.entry("r1.a").result.clone().unwrap().error.clone().unwrap();
    assert_eq!(error.message, "somebody cancelled it", "that was another time");
}

#[test]
fn budget_of_a_day_holds_its_worker_until_the_day_is_over() {
    let mut rig = day_is_over();
    assert_eq!(rig.scheduler.running(), 0);
    assert_eq!(rig.scheduler.decisions().next().unwrap().until, Some(rig.now + DAY));
    assert_eq!(rig.scheduler.next_wakeup(), Some(rig.now + DAY));

    let step = rig.wake();
    assert_eq!(made(&step), [("d1".to_owned(), GO_ON, Decider::Time)]);
    assert_eq!(dispatched(&step), ["a on marie-1"]);
    assert_eq!(rig.scheduler.next_wakeup(), None);
}

#[test]
fn what_somebody_grants_a_day_ends_with_the_day() {
    let mut rig = day_is_over();
    let step = rig.decide("d1", go_on_with(9.0));
    let told = Command::SetBudget { scope: of_worker("marie") };
    assert_eq!(step.commands[0], told);
    let budget = Budget { usd: Some(9.0), tokens: None };
    assert_eq!(rig.scheduler.budget(&of_worker("marie")), budget);
    let step = rig.restart(only_marie(1));
    assert_eq!(step.commands[0], told, "a restart tells of it again");
    assert_eq!(rig.scheduler.budgets().collect::<Vec<_>>(), [(&of_worker("marie"), budget)]);

    let step = rig.wake();
    assert_eq!(step.commands, [told]);
    assert_eq!(rig.scheduler.budget(&of_worker("marie")), Budget::default());
    assert_eq!(rig.scheduler.budgets().count(), 0);
    rig.restart(only_marie(1));
    assert_eq!(rig.scheduler.budget(&of_worker("marie")), Budget::default());

    rig.pass(SECOND);
    let (retry_at, scope) = (Some(rig.now + DAY), Some(of_worker("marie")));
    rig.fail_with("a", TaskError { retry_at, scope, ..error(FailureKind::Budget) });
    rig.decide("d2", Choice::GoOn { budget_usd: None, budget_tokens: Some(7) });
    let budget = Budget { usd: None, tokens: Some(7) };
    assert_eq!(rig.scheduler.budget(&of_worker("marie")), budget, "the dollars were yesterday's");
}

#[test]
fn of_a_worker_only_what_was_stopped_fails_and_the_others_go_on() {
    let mut rig = day_is_over();
    let step = rig.decide("d1", Choice::Stop);

    assert_eq!(rig.status("a"), Some(Status::Failed));
    assert_eq!(dispatched(&step), ["b on marie-1"]);
    assert_eq!(rig.scheduler.budgets().count(), 0);
}

#[test]
fn hold_on_everything_lets_nobody_begin() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "anga", &[]));
    rig.over_budget("a", HoldScope::All);
    assert_eq!(dispatched(&rig.add(task("c", "fabien", &[]))), [""; 0]);
    assert!(matches!(rig.state("b"), TaskState::Live(_)), "what is out comes to its end");
    rig.complete("b");

    let step = rig.decide("d1", go_on_with(50.0));
    assert_eq!(dispatched(&step), ["a on marie-1", "c on fabien-1"]);
}

#[test]
fn scopes_hold_apart_from_each_other() {
    let mut rig = with_run();
    rig.over_budget("r1.a", of_run());
    rig.over_budget("r1.b", of_task("r1.b"));
    assert_eq!(rig.decisions().len(), 2);
    assert_eq!(dispatched(&rig.decide("d1", go_on_with(5.0))), ["r1.a on marie-1"]);
    assert_eq!(dispatched(&rig.decide("d2", go_on_with(5.0))), ["r1.b on marie-2"]);
}

#[test]
fn two_reasons_to_hold_the_same_are_two_questions() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "marie", &[]));
    rig.over_budget("a", of_worker("marie"));
    rig.fail("b", FailureKind::Auth);
    let kinds: Vec<_> = rig.decisions().into_iter().map(|(_, kind, _)| kind).collect();
    assert_eq!(kinds, [DecisionKind::Budget, DecisionKind::Auth]);

    assert_eq!(dispatched(&rig.decide("d1", go_on_with(5.0))), [""; 0]);
    assert_eq!(dispatched(&rig.decide("d2", GO_ON)), ["a on marie-1", "b on marie-2"]);
}

#[test]
fn scope_that_the_task_is_not_in_counts_for_nothing() {
    for scope in [of_task("b"), HoldScope::Run(run_id(7)), of_worker("anga")] {
        for (kind, expected) in
            [(FailureKind::Budget, of_task("a")), (FailureKind::Auth, of_worker("marie"))]
        {
            let mut rig = Rig::new(config());
            rig.add(task("a", "marie", &[]));
            rig.fail_with("a", TaskError { scope: Some(scope.clone()), ..error(kind) });
            assert_eq!(rig.decisions()[0].2, expected);
            assert_eq!(rig.entry("a").last_error.clone().unwrap().scope, Some(expected));
        }
    }
}

#[test]
fn worker_without_key_or_credit_waits_for_a_decision_a_retry_or_a_restart() {
    for kind in [FailureKind::Auth, FailureKind::Billing] {
        for by in [Decider::Person, Decider::Retry, Decider::Restart] {
            let mut rig = Rig::new(config());
            rig.add(task("a", "marie", &[]));
            rig.fail("a", kind);

            assert_eq!(rig.state("a"), &TaskState::Ready);
            assert_eq!(rig.entry("a").counted_failures, 0);
            let of = DecisionKind::of(kind).unwrap();
            assert_eq!(rig.decisions(), [("d1".to_owned(), of, of_worker("marie"))]);
            assert_eq!(dispatched(&rig.add(task("b", "marie", &[]))), [""; 0]);
            assert_eq!(dispatched(&rig.add(task("c", "anga", &[]))), ["c on anga-1"]);
            assert_eq!(rig.scheduler.next_wakeup(), None);

            let step = match by {
                Decider::Retry => rig.retry("b"),
                Decider::Restart => rig.restart(config()),
                _ => rig.decide("d1", GO_ON),
            };
            assert_eq!(made(&step), [("d1".to_owned(), GO_ON, by)]);
            let mut now = dispatched(&step);
            now.retain(|what| what != "c on anga-1");
            assert_eq!(now, ["a on marie-1", "b on marie-2"]);
            assert_eq!(rig.decisions(), []);
        }
    }
}

#[test]
fn retry_does_not_raise_a_budget() {
    let mut rig = day_is_over();
    assert_eq!(rig.try_step(Input::Retry(Target::Task(id("a")))), Err(Refusal::NothingToRetry));
    assert_eq!(rig.decisions().len(), 1);
}

#[test]
fn restart_lets_go_what_the_configuration_bounds_and_keeps_what_the_journal_bounds() {
    let mut rig = with_run();
    rig.add(Task { budget_tokens: Some(9), ..task("own", "fabien", &[]) });
    rig.add(task("default", "fabien", &[]));
    rig.over_budget("own", of_task("own"));
    rig.over_budget("default", of_task("default"));
    rig.over_budget("r1.a", of_run());
    rig.over_budget("r1.b", HoldScope::All);
    assert_eq!(rig.decisions().len(), 4);
    let step = rig.restart(config());

    let scopes: Vec<_> = rig.decisions().into_iter().map(|(_, _, scope)| scope).collect();
    assert_eq!(scopes, [of_task("own"), of_run()]);
    assert_eq!(made(&step).len(), 2);
    assert_eq!(dispatched(&step), ["default on fabien-1"]);
    assert_eq!(step.commands[0], Command::SetBudget { scope: of_run() });
    assert_eq!(dispatched(&rig.decide("d1", go_on_with(1.0))), ["own on fabien-2"]);
}

#[test]
fn restart_lets_go_a_run_that_only_the_configuration_bounds() {
    let mut rig = with_run_of(None);
    rig.over_budget("r1.a", of_run());
    let step = rig.restart(config());

    assert_eq!(rig.decisions(), []);
    assert_eq!(step.commands[0], Command::SetBudget { scope: of_run() });
    assert!(dispatched(&step).contains(&"r1.a on marie-1".to_owned()), "{:?}", dispatched(&step));
    // What somebody granted stands in the journal.
    rig.over_budget("r1.a", of_run());
    rig.decide("d2", go_on_with(3.0));
    rig.over_budget("r1.a", of_run());
    rig.restart(config());
    assert_eq!(rig.decisions().len(), 1);
}

#[test]
fn restart_tries_a_credential_again_whatever_it_is_about() {
    let mut rig = with_run();
    rig.fail_with("r1.a", TaskError { scope: Some(of_run()), ..error(FailureKind::Auth) });
    assert_eq!(rig.decisions()[0].2, of_run());
    assert_eq!(dispatched(&rig.restart(config())), ["r1.b on marie-2", "r1.a on marie-1"]);
}

#[test]
fn failure_from_before_the_answer_asks_no_second_time() {
    let mut rig = with_run();
    rig.pass(SECOND);
    rig.over_budget("r1.a", of_run());
    rig.pass(SECOND);
    rig.decide("d1", go_on_with(5.0));
    rig.pass(SECOND);
    // It was refused before, and only now has ended.
    let step = rig.over_budget("r1.b", of_run());
    assert_eq!(rig.decisions(), []);
    assert_eq!(dispatched(&step), ["r1.b on marie-2"]);

    // This time it has met the new budget.
    rig.pass(SECOND);
    rig.over_budget("r1.b", of_run());
    assert_eq!(rig.decisions()[0].0, "d2");
}

#[test]
fn answer_counts_once_and_only_for_an_open_question() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.over_budget("a", of_task("a"));
    let mut decide = |name: &str| {
        let decision = name.parse().unwrap();
        rig.try_step(Input::Decide { decision, choice: Choice::Stop }).map(|_| ())
    };
    assert_eq!(decide("d2"), Err(Refusal::UnknownDecision("d2".parse().unwrap())));
    assert_eq!(decide("d1"), Ok(()));
    assert_eq!(decide("d1"), Err(Refusal::AlreadyDecided("d1".parse().unwrap())));
}

#[test]
fn question_goes_with_what_it_was_about() {
    let mut rig = with_run();
    rig.add(task("x", "fabien", &[]));
    rig.over_budget("x", of_task("x"));
    rig.cancel("x");
    assert_eq!(rig.decisions(), []);

    rig.over_budget("r1.a", of_run());
    rig.step(Input::Cancel(Target::Run(run_id(1))));
    assert_eq!(rig.decisions(), []);
    let decision = "d2".parse().unwrap();
    let late = rig.try_step(Input::Decide { decision, choice: GO_ON });
    assert_eq!(late, Err(Refusal::AlreadyDecided(decision)));
    assert_eq!(rig.scheduler.scope(decision), Some(&of_run()), "its journal is still known");
}

#[test]
fn task_that_a_hold_stopped_can_be_cancelled_alone() {
    let mut rig = day_is_over();
    rig.cancel("a");
    assert_eq!(rig.scheduler.stopped_by("d1".parse().unwrap()).count(), 0);
    assert_eq!(rig.decisions().len(), 1, "the budget is used up all the same");

    rig.decide("d1", Choice::Stop);
    assert_eq!(rig.status("a"), Some(Status::Cancelled));
}

#[test]
fn decisions_are_read_back_and_go_on_where_they_stood() {
    let mut rig = with_run();
    rig.over_budget("r1.a", of_run());
    let open = rig.decisions();
    assert_eq!(dispatched(&rig.restart(config())), ["r1.b on marie-2"], "only what was out");
    assert_eq!(rig.decisions(), open);

    rig.decide("d1", Choice::GoOn { budget_usd: None, budget_tokens: Some(7) });
    rig.restart(config());
    let budget = Budget { usd: Some(2.0), tokens: Some(7) };
    assert_eq!(rig.scheduler.budget(&of_run()), budget, "the dollars stay as they were");
    rig.pass(SECOND);
    rig.over_budget("r1.a", of_run());
    assert_eq!(rig.decisions()[0].0, "d2");
}

#[test]
fn hold_whose_question_is_torn_off_is_asked_about_after_the_restart() {
    let mut rig = with_run();
    rig.over_budget("r1.a", of_run());
    rig.journal.pop();
    let step = rig.restart(config());

    assert!(matches!(&step.events[..], [Event::DecisionRaised { .. }]), "{:?}", step.events);
    assert_eq!(rig.decisions(), [("d1".to_owned(), DecisionKind::Budget, of_run())]);
}

#[test]
fn question_whose_failure_is_lost_with_another_journal_holds_all_the_same() {
    let mut rig = with_run();
    rig.over_budget("r1.a", of_run());
    let lost = rig.journal.iter().position(|(_, e)| matches!(e, Event::AttemptFailed { .. }));
    rig.journal.remove(lost.unwrap());
    rig.restart(config());

    let report = rig.live("r1.a").attempt;
    assert_eq!((rig.decisions().len(), report), (1, attempt(1)));
    rig.over_budget("r1.a", of_run());
    assert_eq!(rig.decisions().len(), 1, "the failure is found again, and belongs to it");
    rig.decide("d1", Choice::Stop);
    assert_eq!(rig.status("r1.a"), Some(Status::Cancelled));
}

#[test]
fn question_about_what_is_over_by_then_holds_nothing() {
    for scope in [of_run(), of_task("r1.a"), of_task("nobody-knows"), HoldScope::Run(run_id(9))] {
        let mut rig = with_run();
        rig.over_budget("r1.a", of_run());
        let raised = rig.journal.pop().unwrap();
        let failed = rig.journal.pop().unwrap();
        rig.decide("d1", Choice::Stop);
        rig.gone("marie-2");
        rig.journal.retain(|entry| *entry != failed);
        // Said again, as by a journal that was put back.
        if let (at, Event::DecisionRaised { mut decision }) = raised {
            decision.scope = scope;
            decision.id = "d7".parse().unwrap();
            rig.journal.push((at, Event::DecisionRaised { decision }));
        }
        rig.restart(config());
        assert_eq!(rig.decisions(), []);
    }
}

#[test]
fn task_that_is_out_again_is_not_stopped_by_a_question_whose_answer_is_lost() {
    let mut rig = Rig::new(config());
    rig.add(Task { budget_usd: Some(1.0), ..task("a", "marie", &[]) });
    rig.over_budget("a", of_task("a"));
    rig.decide("d1", go_on_with(3.0));
    rig.journal.retain(|(_, event)| !matches!(event, Event::DecisionMade { .. }));
    rig.restart(config());

    assert_eq!(rig.scheduler.stopped_by("d1".parse().unwrap()).count(), 0);
    rig.decide("d1", Choice::Stop);
    rig.complete("a");
    assert_eq!(rig.status("a"), Some(Status::Complete));
}

#[test]
fn answer_whose_consequences_are_torn_off_has_them_after_the_restart() {
    for (scope, status) in [
        (of_task("r1.a"), Status::Failed),
        (of_run(), Status::Cancelled),
        (HoldScope::All, Status::Failed),
    ] {
        let mut rig = with_run();
        rig.over_budget("r1.a", scope);
        let before = rig.journal.len();
        rig.decide("d1", Choice::Stop);
        rig.journal.truncate(before + 1);
        rig.restart(config());
        assert_eq!(rig.status("r1.a"), Some(status));
    }
}

#[test]
fn limit_of_the_api_or_its_absence_costs_no_retry_and_is_waited_for() {
    for kind in [FailureKind::RateLimited, FailureKind::Overloaded, FailureKind::Unreachable] {
        let mut rig = Rig::new(only_marie(1));
        rig.random = u64::MAX << 16;
        rig.add(Task { retries: Some(0), ..task("a", "marie", &[]) });
        let retry_at = Some(rig.now + 3600 * SECOND);
        rig.fail_with("a", TaskError { retry_at, ..error(kind) });
        assert_eq!(rig.state("a"), &TaskState::Backoff { until: rig.now + 3600 * SECOND });
        assert_eq!(rig.entry("a").last_error.clone().unwrap().retry_at, retry_at);
        assert_eq!(rig.decisions(), []);

        // A limit that is lifted at once is no reason to storm it.
        rig.wake();
        let retry_at = Some(rig.now + SECOND);
        rig.fail_with("a", TaskError { retry_at, ..error(kind) });
        assert_eq!(rig.state("a"), &TaskState::Backoff { until: rig.now + 20 * SECOND });

        for seconds in [30, 30, 30, 30] {
            rig.wake();
            rig.fail("a", kind);
            assert_eq!(rig.state("a"), &TaskState::Backoff { until: rig.now + seconds * SECOND });
        }
        assert_eq!(rig.entry("a").counted_failures, 0);
        rig.wake();
        rig.fail("a", FailureKind::Network);
        assert_eq!(rig.status("a"), Some(Status::Failed), "it had no retries, and has none");
    }
}

#[test]
fn backoff_by_a_limit_begins_anew_after_another_failure() {
    let mut rig = Rig::new(only_marie(1));
    rig.random = u64::MAX << 16;
    rig.add(Task { retries: Some(9), ..task("a", "marie", &[]) });
    rig.fail("a", FailureKind::Overloaded);
    rig.wake();
    rig.fail("a", FailureKind::Overloaded);
    rig.wake();
    rig.fail("a", FailureKind::Network);
    assert_eq!(rig.state("a"), &TaskState::Backoff { until: rig.now + 10 * SECOND });
    rig.wake();
    rig.fail("a", FailureKind::Overloaded);
    assert_eq!(rig.state("a"), &TaskState::Backoff { until: rig.now + 10 * SECOND });
}

#[test]
fn limit_that_is_lifted_at_an_absurd_time_is_waited_for_as_long_as_makes_sense() {
    let cases = [(Time::from_millis(u64::MAX), 8 * DAY), (Time::ZERO, std::time::Duration::ZERO)];
    for (retry_at, wait) in cases {
        let mut rig = Rig::new(only_marie(1));
        rig.add(task("a", "marie", &[]));
        let retry_at = Some(retry_at);
        let step = rig.fail_with("a", TaskError { retry_at, ..error(FailureKind::RateLimited) });
        let failed = |event: &Event| {
            matches!(event, Event::AttemptFailed { retry_at, .. }
            if *retry_at == Some(rig.now + wait))
        };
        assert!(step.events.iter().any(failed), "{:?}", step.events);
    }
    for (retry_at, wait) in [(Time::from_millis(u64::MAX), 8 * DAY), (Time::ZERO, SECOND)] {
        let mut rig = Rig::new(only_marie(1));
        rig.add(task("a", "marie", &[]));
        let (retry_at, scope) = (Some(retry_at), Some(HoldScope::All));
        rig.fail_with("a", TaskError { retry_at, scope, ..error(FailureKind::Budget) });
        assert_eq!(rig.scheduler.next_wakeup(), Some(rig.now + wait));
    }
}

#[test]
fn pause_is_no_loss_of_a_replica() {
    let mut rig = Rig::new(only_marie(1));
    rig.add(task("a", "marie", &[]));
    rig.gone("marie-1");
    rig.gone("marie-1");
    for _ in 0..5 {
        let (task, attempt) = (id("a"), rig.live("a").attempt);
        let error = error(FailureKind::WorkerLost);
        rig.step(Input::AttemptUnstartable { task, attempt, error, pause: true });
        rig.retry("a");
    }
    // With it the third in a row, and no more than that.
    rig.gone("marie-1");
    assert_eq!(rig.status("a"), Some(Status::Failed));

    rig.retry("a");
    for _ in 0..5 {
        let (task, attempt) = (id("a"), rig.live("a").attempt);
        let error = error(FailureKind::WorkerLost);
        rig.step(Input::AttemptUnstartable { task, attempt, error, pause: true });
        rig.restart(only_marie(1));
    }
    rig.gone("marie-1");
    rig.gone("marie-1");
    assert!(rig.entry("a").live().is_some());
}

#[test]
fn pause_for_want_of_a_login_asks_nobody() {
    let mut rig = Rig::new(only_marie(1));
    rig.add(task("a", "marie", &[]));
    let (task, attempt) = (id("a"), attempt(1));
    let error = error(FailureKind::Auth);
    rig.step(Input::AttemptUnstartable { task, attempt, error, pause: true });
    assert_eq!((rig.decisions().len(), rig.scheduler.paused().count()), (0, 1));
}

#[test]
fn pauses_of_an_older_journal_are_holds_that_a_restart_lets_go() {
    let mut rig = Rig::new(only_marie(1));
    rig.add(task("a", "marie", &[]));
    rig.fail("a", FailureKind::Auth);
    // As it was written before there were decisions: without a scope, and nobody was asked.
    rig.journal.pop();
    if let Some((_, Event::AttemptFailed { error, .. })) = rig.journal.last_mut() {
        error.scope = None;
    }
    let step = rig.restart(only_marie(1));
    assert_eq!(made(&step).len(), 1);
    assert_eq!(dispatched(&step), ["a on marie-1"]);
}

#[test]
fn question_quotes_only_so_much_of_what_an_agent_said() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    let error = TaskError::new(FailureKind::Billing, "ä".repeat(4_000));
    rig.fail_with("a", error);
    assert!(rig.scheduler.decisions().next().unwrap().question.len() < 700);
}

#[test]
fn standing_run_that_is_stopped_ends_what_it_has_and_takes_more() {
    let mut rig = Rig::new(config());
    rig.add(task("a", "marie", &[]));
    rig.add(task("b", "anga", &["a"]));
    rig.over_budget("a", HoldScope::Run(RunId::Adhoc));
    rig.decide("d1", Choice::Stop);
    assert_eq!(
        (rig.status("a"), rig.status("b")),
        (Some(Status::Cancelled), Some(Status::Cancelled))
    );
    assert_eq!(dispatched(&rig.add(task("c", "anga", &[]))), ["c on anga-1"]);
}

//! A run from its request to its answer.

use protocol::{
    Event, OnDependencyFailure, PlanFault, RunMode, RunState, Status, TaskKind, TaskSource,
};
use scheduler::{Refusal, RunPhase, TaskState};

use crate::support::*;

const DIAMOND: &str = r#"{"tasks": [
    {"id": "a", "worker": "marie", "description": "x"},
    {"id": "b", "worker": "anga", "description": "x", "dependencies": ["a"]},
    {"id": "c", "worker": "fabien", "description": "x", "dependencies": ["a"]},
    {"id": "d", "worker": "marie", "description": "x", "dependencies": ["b", "c"]}
]}"#;

fn ended(state: RunState, rig: &Rig) -> RunPhase {
    RunPhase::Ended { state, at: rig.now }
}

fn with_request(mode: RunMode) -> Rig {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "k3f9", mode, Some("teach"), None).unwrap();
    rig
}

#[test]
fn request_is_planned_worked_on_and_answered() {
    let mut rig = with_request(RunMode::Request);
    let planning = rig.entry("k3f9.plan");
    assert_eq!((planning.task.kind, planning.source), (TaskKind::Plan, TaskSource::Supervisor));
    assert_eq!(planning.task.description, "teach");
    assert_eq!(rig.phase(run_id(1)), RunPhase::Planning);

    let step = rig.plan_reported("k3f9.plan", DIAMOND);
    assert_eq!(dispatched(&step), ["k3f9.a on marie-1"]);
    let kinds: Vec<_> = step.events.iter().map(std::mem::discriminant).collect();
    assert_eq!(kinds.len(), 8, "start, the plan's end, its acceptance, four tasks, a dispatch");
    assert_eq!(rig.phase(run_id(1)), RunPhase::Executing);
    assert_eq!(rig.scheduler.run(&run_id(1)).unwrap().plan, None);

    for name in ["k3f9.a", "k3f9.b", "k3f9.c"] {
        rig.complete(name);
    }
    assert_eq!(dispatched(&rig.complete("k3f9.d")), ["k3f9.answer on orchestrator-1"]);
    assert_eq!(rig.phase(run_id(1)), RunPhase::Synthesising);
    let answer = &rig.entry("k3f9.answer").task;
    assert_eq!((answer.kind, answer.description.as_str()), (TaskKind::Synthesize, "teach"));
    assert_eq!(answer.dependencies, ids(&["k3f9.a", "k3f9.b", "k3f9.c", "k3f9.d"]));
    assert_eq!(answer.on_dependency_failure, OnDependencyFailure::Run);

    rig.complete("k3f9.answer");
    assert_eq!(rig.phase(run_id(1)), ended(RunState::Complete, &rig));
    let names: Vec<_> = rig.scheduler.run_tasks(&run_id(1)).map(|e| e.task.id.clone()).collect();
    assert_eq!(names.len(), 6);
    assert_eq!(names[0], id("k3f9.plan"));
}

#[test]
fn plan_that_can_not_be_carried_out_goes_back_once_with_the_reasons() {
    let mut rig = with_request(RunMode::Request);
    let bad = r#"{"tasks": [{"id": "a", "worker": "mary", "description": "x"}]}"#;
    let step = rig.plan_reported("k3f9.plan", bad);
    let reason =
        "task `a` names the worker `mary`, which does not exist (did you mean `marie`?)".to_owned();
    assert!(
        step.events.contains(&Event::PlanRejected {
            task: id("k3f9.plan"),
            reasons: vec![reason.clone()]
        })
    );
    assert_eq!(rig.entry("k3f9.plan").feedback, [reason]);
    assert!(rig.live("k3f9.plan").resume);

    rig.plan_reported("k3f9.plan", bad);
    assert_eq!(rig.status("k3f9.plan"), Some(Status::Failed));
    assert_eq!(rig.phase(run_id(1)), ended(RunState::Failed, &rig));
}

#[test]
fn plan_goes_back_even_when_the_orchestrator_has_no_retries() {
    let mut config = config();
    config.workers.get_mut(&worker("orchestrator")).unwrap().retries = 0;
    let mut rig = Rig::new(config);
    rig.open(run_id(1), "k3f9", RunMode::Request, Some("teach"), None).unwrap();
    rig.plan_reported("k3f9.plan", "[]");
    rig.plan_reported("k3f9.plan", DIAMOND);

    assert_eq!(rig.phase(run_id(1)), RunPhase::Executing);
}

#[test]
fn plan_is_rejected_for_every_kind_of_fault() {
    let faults = [
        ("null", "expected struct Plan"),
        (r#"{"tasks": []}"#, "no tasks"),
        (r#"{"task": []}"#, "unknown field `task`"),
        (
            r#"{"tasks": [{"id": "a", "worker": "orchestrator", "description": "x"}]}"#,
            "orchestrator",
        ),
        (
            r#"{"given": ["sec-001"], "tasks": [{"id": "a", "worker": "marie", "description": "x"}]}"#,
            "other runs",
        ),
        (r#"{"tasks": [{"id": "plan", "worker": "marie", "description": "x"}]}"#, "is taken"),
        (
            r#"{"tasks": [{"id": "a", "worker": "marie", "description": "x", "dependencies": ["a"]}]}"#,
            "wait for each other",
        ),
    ];
    for (plan, reason) in faults {
        let mut rig = with_request(RunMode::Request);
        rig.plan_reported("k3f9.plan", plan);
        let feedback = rig.entry("k3f9.plan").feedback.join("; ");
        assert!(feedback.contains(reason), "{plan}: {feedback}");
    }
    let mut rig = with_request(RunMode::Request);
    rig.complete("k3f9.plan");
    assert_eq!(rig.entry("k3f9.plan").feedback, ["there is no plan in the report"]);
}

#[test]
fn run_without_a_plan_fails() {
    let mut rig = with_request(RunMode::Request);
    rig.fail_for_good("k3f9.plan");
    assert_eq!(rig.phase(run_id(1)), ended(RunState::Failed, &rig));

    let mut rig = with_request(RunMode::Request);
    rig.cancel("k3f9.plan");
    rig.gone("orchestrator-1");
    assert_eq!(rig.phase(run_id(1)), ended(RunState::Cancelled, &rig));
}

#[test]
fn request_that_is_only_split_ends_with_its_plan() {
    let mut rig = with_request(RunMode::PlanOnly);
    rig.plan_reported("k3f9.plan", DIAMOND);

    let run = rig.scheduler.run(&run_id(1)).unwrap();
    assert_eq!(run.plan, Some(plan(DIAMOND)));
    assert_eq!(run.phase, ended(RunState::Complete, &rig));
    assert_eq!(rig.scheduler.run_tasks(&run_id(1)).count(), 1);
}

#[test]
fn given_plan_starts_at_once_and_its_answer_reports_on_it() {
    let mut rig = Rig::new(config());
    let one = r#"{"tasks": [{"id": "answer", "worker": "marie", "description": "x"}]}"#;
    let step = rig.open(run_id(1), "k3f9", RunMode::Plan, None, Some(plan(one))).unwrap();
    assert_eq!(dispatched(&step), ["k3f9.answer on marie-1"]);
    rig.complete("k3f9.answer");

    let answer = &rig.entry("k3f9.answer-2").task;
    assert_eq!(answer.description, "Report on the results of plan k3f9");
}

#[test]
fn request_of_a_given_plan_is_the_runs_request() {
    let mut rig = Rig::new(config());
    let json =
        r#"{"request": "sing", "tasks": [{"id": "a", "worker": "marie", "description": "x"}]}"#;
    rig.open(run_id(1), "k3f9", RunMode::Plan, None, Some(plan(json))).unwrap();

    assert_eq!(rig.scheduler.run(&run_id(1)).unwrap().request.as_deref(), Some("sing"));
}

#[test]
fn plan_may_build_on_complete_tasks_of_other_runs_and_its_answer_has_them_too() {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "k3f9", RunMode::Plan, None, Some(plan(DIAMOND))).unwrap();
    rig.complete("k3f9.a");
    let json = r#"{"given": ["k3f9.a"], "tasks": [
        {"id": "b", "worker": "fabien", "description": "x", "dependencies": ["k3f9.a"]}]}"#;

    let step = rig.open(run_id(2), "p4wq", RunMode::Plan, None, Some(plan(json))).unwrap();
    assert_eq!(rig.entry("p4wq.b").task.dependencies, ids(&["k3f9.a"]));
    assert_eq!(dispatched(&step), ["p4wq.b on fabien-2"], "nothing is waited for");
    // Also after a restart in between.
    rig.restart(config());
    rig.complete("k3f9.c");
    rig.complete("p4wq.b");
    let answer = &rig.entry("p4wq.answer").task;
    assert_eq!(answer.dependencies, ids(&["p4wq.b", "k3f9.a"]));
}

#[test]
fn plan_that_builds_on_what_is_not_there_is_refused() {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "k3f9", RunMode::Plan, None, Some(plan(DIAMOND))).unwrap();
    let json = r#"{"given": ["k3f9.a", "k3f9.x"], "tasks": [
        {"id": "b", "worker": "fabien", "description": "x"}]}"#;
    let refused = rig.open(run_id(2), "p4wq", RunMode::Plan, None, Some(plan(json))).unwrap_err();
    let Refusal::Plan(faults) = refused else { panic!("{refused:?}") };
    let said: Vec<_> = faults.iter().map(PlanFault::to_string).collect();
    assert_eq!(
        said,
        [
            "`given` names `k3f9.a`, which is no task here that has ended",
            "`given` names `k3f9.x`, which is no task here that has ended",
        ]
    );
    assert_eq!(rig.scheduler.run(&run_id(2)), None);
}

#[test]
fn run_with_gaps_is_answered_and_partial() {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "k3f9", RunMode::Plan, None, Some(plan(DIAMOND))).unwrap();
    rig.complete("k3f9.a");
    rig.fail_for_good("k3f9.b");
    rig.complete("k3f9.c");
    assert_eq!(rig.status("k3f9.d"), Some(Status::Skipped));
    rig.complete("k3f9.answer");

    assert_eq!(rig.phase(run_id(1)), ended(RunState::Partial, &rig));
}

#[test]
fn run_of_which_nothing_is_complete_fails_without_an_answer() {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "k3f9", RunMode::Plan, None, Some(plan(DIAMOND))).unwrap();
    rig.fail_for_good("k3f9.a");

    assert_eq!(rig.phase(run_id(1)), ended(RunState::Failed, &rig));
    assert_eq!(rig.scheduler.task(&id("k3f9.answer")), None);
}

#[test]
fn task_added_to_a_run_belongs_to_it_to_the_end() {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "k3f9", RunMode::Plan, None, Some(plan(DIAMOND))).unwrap();
    rig.add(protocol::Task { run: run_id(1), ..task("more", "anga", &[]) });
    for name in ["k3f9.a", "k3f9.b", "k3f9.c", "k3f9.d"] {
        rig.complete(name);
    }
    assert_eq!(rig.phase(run_id(1)), RunPhase::Executing);
    rig.complete("more");
    assert!(rig.entry("k3f9.answer").task.dependencies.contains(&id("more")));
}

#[test]
fn ended_run_takes_no_more_tasks() {
    let mut rig = with_request(RunMode::Request);
    rig.fail_for_good("k3f9.plan");
    let late = protocol::Task { run: run_id(1), ..task("late", "marie", &[]) };
    let add = scheduler::Input::AddTask { task: late, source: TaskSource::Api };
    assert_eq!(rig.try_step(add), Err(Refusal::RunEnded(run_id(1))));
}

#[test]
fn run_that_can_not_be_opened_is_refused() {
    let mut rig = Rig::new(config());
    let empty = rig.open(run_id(1), "k3f9", RunMode::Plan, None, None);
    assert_eq!(empty, Err(Refusal::Plan(vec![PlanFault::Empty])));

    rig.add(task("k3f9.plan", "marie", &[]));
    let taken = rig.open(run_id(1), "k3f9", RunMode::Request, None, None);
    assert_eq!(taken, Err(Refusal::Exists(id("k3f9.plan"))));

    rig.add(task("k3f8.a", "marie", &[]));
    let taken = rig.open(run_id(1), "k3f8", RunMode::Plan, None, Some(plan(DIAMOND)));
    assert_eq!(taken, Err(Refusal::Exists(id("k3f8.a"))));

    let mut rig = Rig::new(only_marie(1));
    for mode in [RunMode::Request, RunMode::PlanOnly, RunMode::Plan] {
        let refusal = rig.open(run_id(1), "k3f9", mode, None, Some(plan(DIAMOND)));
        assert!(matches!(refusal, Err(Refusal::UnknownWorker { .. })), "{refusal:?}");
    }
}

#[test]
fn run_opened_twice_is_opened_once() {
    let mut rig = with_request(RunMode::Request);
    let again = rig.open(run_id(1), "k3f9", RunMode::Request, Some("teach"), None);
    assert_eq!(again, Ok(Default::default()));
    assert!(matches!(rig.state("k3f9.plan"), TaskState::Live(_)));
    assert_eq!(rig.scheduler.runs().count(), 2);
}

#[test]
fn what_an_open_run_builds_on_is_not_forgotten_before_its_answer_is_asked_for() {
    let mut rig = Rig::new(config());
    rig.open(run_id(1), "k3f9", RunMode::Plan, None, Some(plan(DIAMOND))).unwrap();
    for name in ["k3f9.a", "k3f9.b", "k3f9.c", "k3f9.d", "k3f9.answer"] {
        rig.complete(name);
    }
    rig.add(task("dropped", "marie", &[]));
    rig.complete("dropped");
    let rest = r#"{"given": ["k3f9.d", "dropped"],
        "tasks": [{"id": "e", "worker": "anga", "description": "x"}]}"#;
    rig.open(run_id(2), "k3fa", RunMode::Plan, None, Some(plan(rest))).unwrap();

    let found = rig.scheduler.dispensable(|_| true);
    assert_eq!((found.runs, found.needed), (vec![], vec![(run_id(1), id("k3f9.d"))]));
    assert_eq!(rig.scheduler.dispensable_tasks(&[], |_| true), []);
    for name in ["k3fa.e", "k3fa.answer"] {
        rig.complete(name);
    }
    let found = rig.scheduler.dispensable(|_| true);
    assert_eq!(found.runs, [run_id(1), run_id(2)]);
    assert_eq!(rig.scheduler.dispensable_tasks(&found.runs, |_| true), [id("dropped")]);
}

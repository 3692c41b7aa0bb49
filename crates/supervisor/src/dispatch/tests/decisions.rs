//! What waits for a person: asked, shown, answered, and gone on with.

use std::time::Duration;

use protocol::{
    Choice, Decider, Event, FailureKind, HoldScope, RunId, Status, TaskError, TaskResult, Time,
};
use serde_json::json;
use tokio::time::sleep;

use crate::admit;
use crate::api::types::{ErrorKind, SubmitRun, TaskStatus};
use crate::testing::{Daemon, Job, World, until};

const GO_ON: Choice = Choice::GoOn { budget_usd: None, budget_tokens: None };

fn with_usd(usd: f64) -> Choice {
    Choice::GoOn { budget_usd: Some(usd), budget_tokens: None }
}

fn over_budget(scope: HoldScope) -> TaskError {
    let error = TaskError::new(FailureKind::Budget, "the next request could pass it");
    TaskError { scope: Some(scope), ..error }
}

/// Returns the decisions that a journal holds: `d1 raised`, `d1 made by Person`.
fn told(world: &World, run: RunId) -> Vec<String> {
    let told = |event: Event| match event {
        Event::DecisionRaised { decision } => Some(format!("{} raised", decision.id)),
        Event::DecisionMade { decision, by, .. } => Some(format!("{decision} made by {by:?}")),
        _ => None,
    };
    world.events_of(run).into_iter().filter_map(told).collect()
}

/// A world whose workers do nothing of themselves.
fn idle() -> World {
    World::new(async |_: Job| std::future::pending().await)
}

/// Opens a run with a budget of two dollars and one task for marie and emma each.
async fn open(daemon: &Daemon) -> RunId {
    let plan = json!({"tasks": [
        {"id": "a", "worker": "marie", "description": "x"},
        {"id": "b", "worker": "emma", "description": "x"},
    ]});
    let plan = Some(serde_json::from_value(plan).unwrap());
    let submitted = SubmitRun { plan, budget_usd: Some(2.0), ..SubmitRun::default() };
    daemon.ask(|d| admit::run(d, submitted)).await.unwrap().run
}

/// Returns the name that a task of the run has outside of it.
async fn name(daemon: &Daemon, run: RunId, local: &str) -> String {
    let short = daemon.ask(move |d| d.scheduler().run(&run).unwrap().short.clone()).await;
    format!("{short}.{local}")
}

#[tokio::test(start_paused = true)]
async fn task_over_its_budget_waits_and_goes_on_when_that_is_raised() {
    let world = World::new(async |job: Job| {
        if job.name() == "a.1" {
            // Whose budget it is is not for a container to say.
            let error = TaskError { retry_at: Some(Time::ZERO), ..over_budget(HoldScope::All) };
            job.hand_in(&TaskResult { cost_usd: Some(0.9), ..job.failed(error) });
        } else {
            job.hand_in(&job.done(&[]));
        }
        None
    });
    let daemon = world.up().await;
    let task = json!({"task_id": "a", "worker": "marie", "description": "x", "budget_usd": 1.0});
    daemon.add(task).await.unwrap();
    daemon.says("a", "waits for decision d1 (budget): the next request could pass it").await;
    sleep(Duration::from_secs(600)).await;
    assert_eq!(daemon.view("a").await.status, TaskStatus::Ready);
    daemon.add(json!({"task_id": "b", "worker": "emma", "description": "x"})).await.unwrap();
    assert_eq!(daemon.ended(["b"]).await, [Status::Complete]);

    let [view] = daemon.decisions().await.try_into().unwrap();
    assert_eq!(view.decision.scope, HoldScope::Task("a".parse().unwrap()));
    assert_eq!((view.about.as_str(), view.stopped.len()), ("task a", 1));
    assert_eq!((view.spent_usd, view.budget_usd), (Some(0.9), Some(1.0)));
    assert_eq!(
        view.commands,
        ["supervisor decide d1 go-on --budget 2", "supervisor decide d1 stop"]
    );

    daemon.decide("d1", with_usd(3.0)).await.unwrap();
    assert_eq!(daemon.ended(["a"]).await, [Status::Complete]);
    assert_eq!(told(&world, RunId::Adhoc), ["d1 raised", "d1 made by Person"]);
    assert_eq!(world.failures("a"), [(1, "budget".to_owned(), false)]);
}

#[tokio::test(start_paused = true)]
async fn question_is_in_the_journal_of_what_it_is_about() {
    let world = idle();
    let daemon = world.up().await;
    let run = open(&daemon).await;
    let (a, b) = (name(&daemon, run, "a").await, name(&daemon, run, "b").await);
    daemon.fails(&a, over_budget(HoldScope::Run(run))).await;
    daemon.fails(&b, over_budget(HoldScope::Task(b.parse().unwrap()))).await;
    daemon.decide("d1", with_usd(9.0)).await.unwrap();
    assert_eq!(told(&world, run), ["d1 raised", "d2 raised", "d1 made by Person"]);

    daemon.fails(&a, over_budget(HoldScope::Worker("marie".parse().unwrap()))).await;
    daemon.add(json!({"task_id": "c", "worker": "emma", "description": "x"})).await.unwrap();
    daemon.fails("c", over_budget(HoldScope::All)).await;
    daemon.decide("d3", Choice::Stop).await.unwrap();
    daemon.decide("d4", Choice::Stop).await.unwrap();
    let adhoc = ["d3 raised", "d4 raised", "d3 made by Person", "d4 made by Person"];
    assert_eq!(told(&world, RunId::Adhoc), adhoc);
    assert_eq!(told(&world, run).len(), 3);
    assert_eq!(daemon.ended([&a, "c"]).await, [Status::Failed; 2]);
    assert_eq!(daemon.decisions().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn run_that_is_stopped_says_why_in_each_of_its_tasks() {
    let world = idle();
    let daemon = world.up().await;
    let run = open(&daemon).await;
    let a = name(&daemon, run, "a").await;
    daemon.fails(&a, over_budget(HoldScope::Run(run))).await;
    let [view] = daemon.decisions().await.try_into().unwrap();
    // The budget is that of the run, of which this attempt has spent half a dollar.
    assert_eq!((view.spent_usd, view.budget_usd), (Some(0.5), Some(2.0)));
    assert!(view.commands[0].ends_with("--budget 4"), "{:?}", view.commands);
    daemon.decide("d1", Choice::Stop).await.unwrap();
    daemon.ended([&a]).await;
    assert_eq!(
        daemon.reason(&a).await,
        "the run was stopped by decision d1: the next request could pass it"
    );
}

#[tokio::test(start_paused = true)]
async fn decisions_outlive_the_daemon_and_a_key_is_tried_anew() {
    let world = idle();
    let daemon = world.up().await;
    let run = open(&daemon).await;
    let (a, b) = (name(&daemon, run, "a").await, name(&daemon, run, "b").await);
    daemon.fails(&a, over_budget(HoldScope::Run(run))).await;
    daemon.fails(&b, TaskError::new(FailureKind::Auth, "401").with_hint("Give another key.")).await;
    let open = daemon.decisions().await;
    assert_eq!(open[1].hint.as_deref(), Some("Give another key."));
    assert_eq!(open[1].commands[0], "supervisor decide d2 go-on");
    daemon.kill().await;

    let daemon = world.up().await;
    assert_eq!(daemon.decisions().await, open[..1], "the budget is as it was");
    let by_restart = format!("d2 made by {:?}", Decider::Restart);
    until("it is told", async || told(&world, RunId::Adhoc).contains(&by_restart).then_some(()))
        .await;
    assert!(daemon.reason(&b).await.contains("waits for decision d1"), "its run still is");
    daemon.decide("d1", with_usd(5.0)).await.unwrap();
    daemon.says(&a, "attempt 2 on marie-1").await;
    daemon.says(&b, "attempt 2 on emma-1").await;
}

#[tokio::test(start_paused = true)]
async fn answer_that_does_not_fit_is_refused_with_what_to_type() {
    let world = idle();
    let daemon = world.up().await;
    let run = open(&daemon).await;
    let (a, b) = (name(&daemon, run, "a").await, name(&daemon, run, "b").await);
    daemon.fails(&a, over_budget(HoldScope::Run(run))).await;
    daemon.fails(&b, TaskError::new(FailureKind::Billing, "no credit")).await;
    let tokens = Choice::GoOn { budget_usd: None, budget_tokens: Some(0) };
    let cases = [
        ("d1", GO_ON, ErrorKind::BadInput),
        ("d1", with_usd(2.0), ErrorKind::BadInput),
        ("d1", with_usd(-1.0), ErrorKind::BadInput),
        ("d1", tokens, ErrorKind::BadInput),
        ("d2", with_usd(5.0), ErrorKind::BadInput),
        ("d3", Choice::Stop, ErrorKind::NotFound),
        ("d3", GO_ON, ErrorKind::NotFound),
    ];
    let mut text = String::new();
    for (decision, choice, kind) in cases {
        let error = daemon.decide(decision, choice).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error:?}");
        text.push_str(&format!("{}\n  {}\n", error.message, error.hint.unwrap()));
    }
    insta::assert_snapshot!(text, @"
    decision d1 needs a new budget ($1.00 of $2.00 used)
      Type `supervisor decide d1 go-on --budget 4` to go on, or `supervisor decide d1 stop` to leave it at that.
    that is no larger budget for decision d1 ($1.00 of $2.00 used)
      Type `supervisor decide d1 go-on --budget 4` to go on, or `supervisor decide d1 stop` to leave it at that.
    the budget is -1, and must be from 0.0001 to 1000000 dollars
      Give US dollars, as in `--budget 5`, or leave it out.
    the budget is 0 tokens, and must be at least 1
      Give a number of tokens, as in `--budget-tokens 500000`, or leave it out.
    decision d2 is about credit, and takes no budget
      Type `supervisor decide d2 go-on`.
    there is no decision d3
      `supervisor decisions` lists those that are open.
    there is no decision d3
      `supervisor decisions` lists those that are open.
    ");
    assert_eq!(daemon.decisions().await.len(), 2);

    daemon.decide("d1", with_usd(2.01)).await.unwrap();
    daemon.decide("d2", GO_ON).await.unwrap();
    let error = daemon.decide("d2", GO_ON).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    insta::assert_snapshot!(error.message, @"decision d2 is answered, or what it was about is over");
}

#[tokio::test(start_paused = true)]
async fn budget_of_a_worker_that_was_raised_in_its_file_needs_no_other() {
    let world = idle();
    world.configure("marie", "replicas = 1\nbudget_usd = 1.0\nbudget_tokens = 1000");
    let daemon = world.up().await;
    daemon.add(json!({"task_id": "a", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.fails("a", over_budget(HoldScope::Task("a".parse().unwrap()))).await;
    let [view] = daemon.decisions().await.try_into().unwrap();
    let typed = "supervisor decide d1 go-on --budget 2 --budget-tokens 2000";
    assert_eq!(view.commands[0], typed);
    assert_eq!(daemon.decide("d1", GO_ON).await.unwrap_err().kind, ErrorKind::BadInput);

    world.configure("marie", "replicas = 1\nbudget_usd = 1.0\nbudget_tokens = 2000");
    daemon.decide("d1", GO_ON).await.unwrap();
    daemon.says("a", "attempt 2").await;
}

#[tokio::test(start_paused = true)]
async fn questions_of_a_run_are_those_that_hold_it_up() {
    let world = idle();
    let daemon = world.up().await;
    let run = open(&daemon).await;
    let (a, b) = (name(&daemon, run, "a").await, name(&daemon, run, "b").await);
    let of = async |run: RunId| {
        daemon
            .ask(move |d| crate::decisions::views(d, Some(run)))
            .await
            .into_iter()
            .map(|view| view.decision.id.to_string())
            .collect::<Vec<_>>()
    };
    daemon.fails(&a, over_budget(HoldScope::Run(run))).await;
    daemon.fails(&b, over_budget(HoldScope::Worker("emma".parse().unwrap()))).await;
    daemon.add(json!({"task_id": "c", "worker": "marie", "description": "x"})).await.unwrap();
    daemon.fails("c", over_budget(HoldScope::Task("c".parse().unwrap()))).await;
    assert_eq!(of(run).await, ["d1", "d2"]);
    assert_eq!(of(RunId::Adhoc).await, ["d3"], "it has nothing for emma");
    daemon.add(json!({"task_id": "d", "worker": "emma", "description": "x"})).await.unwrap();
    assert_eq!(of(RunId::Adhoc).await, ["d2", "d3"]);
    let target = scheduler::Target::Task("d".parse().unwrap());
    daemon.ask(move |d| d.request(scheduler::Input::Cancel(target))).await.unwrap();
    assert_eq!(of(RunId::Adhoc).await, ["d3"], "what has ended waits for nobody");
    let paused = daemon
        .ask(|d| {
            let emma = "emma".parse().unwrap();
            crate::decisions::paused(d.scheduler(), &emma).map(|error| error.kind)
        })
        .await;
    assert_eq!(paused, Some(FailureKind::Budget));
}

use protocol::{
    AgentSpec, Driver, FailureKind, SessionId, SessionPlan, Task, Token, UNFIT, UNREACHABLE,
};
use serde_json::json;

use super::*;
use crate::runtime::{Exit, RuntimeError};
use crate::testing::{Parts, World};

fn assignment(attempt: u32) -> Assignment {
    let task = json!({"task_id": "build", "worker": "marie", "description": "x"});
    Assignment {
        task: serde_json::from_value::<Task>(task).unwrap(),
        attempt: Attempt::new(attempt).unwrap(),
        token: Token::from_random(1, attempt.into()),
        session: SessionPlan {
            id: SessionId::from_random(1, 2),
            resume: false,
            used: Default::default(),
            cost_usd: 0.0,
        },
        timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(60),
        agent: AgentSpec {
            worker: "marie".parse().unwrap(),
            role: String::new(),
            driver: Driver::Command(vec!["true".to_owned()]),
            system_prompt: String::new(),
            model: None,
            tools: Vec::new(),
            subagents: None,
            mcp: None,
            max_turns: None,
            max_output_tokens: None,
            copy_workspace: false,
            own_login: false,
            env: Vec::new(),
        },
        request: None,
        workers: None,
        inputs: Vec::new(),
        feedback: Vec::new(),
        rehearsal: false,
    }
}

/// Returns the next that a keeper says about attempts or its replica.
async fn next(messages: &mut mpsc::UnboundedReceiver<Message>) -> Input {
    loop {
        let message = timeout(Duration::from_secs(60), messages.recv()).await;
        if let Message::Input(input) = message.expect("it should say something").unwrap() {
            return *input;
        }
    }
}

fn started(n: u32) -> Input {
    let attempt = Attempt::new(n).unwrap();
    Input::AttemptStarted { task: "build".parse().unwrap(), attempt }
}

#[tokio::test(start_paused = true)]
async fn attempt_that_was_given_to_a_replica_before_its_end_was_known_is_never_begun() {
    let world = World::new(async |_| std::future::pending().await);
    let (inbox, mut messages) = Inbox::new();
    let Parts { surroundings, replicas, workers, .. } = world.parts(inbox, Default::default());
    let (slot, spec) = replicas.plan(&"marie-1".parse().unwrap(), &workers);
    let mut keeper = Keeper::start(surroundings, slot, spec);
    keeper.dispatch(assignment(1));
    assert_eq!(next(&mut messages).await, started(1));
    world.engine.replicas.end(&"marie-1".parse().unwrap(), Exit::unknown());
    let gone = next(&mut messages).await;
    assert!(matches!(gone, Input::ReplicaGone { .. }), "{gone:?}");

    // What was sent while that was under way: the end of the replica is its end, too.
    keeper.dispatch(assignment(2));
    keeper.count_end();
    keeper.dispatch(assignment(3));

    assert_eq!(next(&mut messages).await, started(3));
    assert_eq!(world.engine.calls(), ["ensure marie-1", "stop marie-1", "ensure marie-1"]);
}

#[tokio::test(start_paused = true)]
async fn replica_that_does_not_serve_pauses_its_worker_and_says_why() {
    let world = World::new(async |_| std::future::pending().await);
    let (inbox, mut messages) = Inbox::new();
    let Parts { surroundings, replicas, workers, .. } = world.parts(inbox, Default::default());
    let (slot, spec) = replicas.plan(&"marie-1".parse().unwrap(), &workers);
    let mut keeper = Keeper::start(surroundings, slot, spec);
    let mut ends = 0;
    let mut end = async |code, output: &str| {
        ends += 1;
        keeper.dispatch(assignment(ends));
        assert_eq!(next(&mut messages).await, started(ends));
        let exit = Exit { code: Some(code), oom: false, output: output.to_owned() };
        world.engine.replicas.end(&"marie-1".parse().unwrap(), exit);
        keeper.count_end();
        match next(&mut messages).await {
            Input::ReplicaGone { error, pause, .. } => (pause, error.kind, error.message),
            other => panic!("{other:?}"),
        }
    };
    let words = format!("INFO Something.\n{UNFIT}there is a route\n");
    let told =
        (true, FailureKind::WorkerLost, "marie-1 does not serve: there is a route".to_owned());
    assert_eq!(end(78, &words).await, told);
    // Neither is enough alone.
    assert!(!end(1, &words).await.0);
    assert!(!end(78, "INFO Something.").await.0);
    // The API is away: no fault of the worker's, nor of the attempt's.
    let words = format!("INFO Something.\n{UNREACHABLE}no route to host\n");
    let away = (false, FailureKind::Unreachable, "no route to host".to_owned());
    assert_eq!(end(69, &words).await, away);
    assert_eq!(end(1, &words).await.1, FailureKind::WorkerLost);
}

#[tokio::test(start_paused = true)]
async fn result_that_was_reported_is_not_taken_in_again_when_its_attempt_is_to_stop() {
    let world = World::of_diligent_workers();
    let (inbox, mut messages) = Inbox::new();
    let Parts { surroundings, replicas, workers, .. } = world.parts(inbox, Default::default());
    let (slot, spec) = replicas.plan(&"marie-1".parse().unwrap(), &workers);
    let keeper = Keeper::start(surroundings, slot, spec);
    keeper.dispatch(assignment(1));
    while !matches!(next(&mut messages).await, Input::AttemptReported { .. }) {}

    // The dispatcher moves away what was taken in; its order to stop comes from before it knew.
    let awaited = Awaited::of(&assignment(1));
    let kept = world.installation.attempt(awaited.run, &awaited.task, awaited.attempt);
    std::fs::remove_dir_all(kept.join("artifacts")).unwrap();
    keeper.order(Order::Interrupt { awaited, reason: "it is late".to_owned() });
    let more = timeout(Duration::from_secs(30), next(&mut messages)).await;

    assert!(more.is_err(), "{more:?}");
    assert!(!kept.join("artifacts").exists());
}

#[tokio::test(start_paused = true)]
async fn attempt_from_before_a_restart_that_cannot_be_taken_over_is_over_once_its_replica_is_gone()
{
    let world = World::new(async |_| std::future::pending().await);
    let (inbox, mut messages) = Inbox::new();
    let Parts { surroundings, replicas, workers, .. } = world.parts(inbox, Default::default());
    let (slot, spec) = replicas.plan(&"marie-1".parse().unwrap(), &workers);
    let keeper = Keeper::start(surroundings.clone(), slot.clone(), spec.clone());
    keeper.dispatch(assignment(1));
    assert_eq!(next(&mut messages).await, started(1));
    drop(keeper);

    let image = "image".to_owned();
    world.engine.replicas.fail_ensure(&spec.replica, RuntimeError::ImageMissing { image });
    let keeper = Keeper::start(surroundings, slot, spec);
    keeper.dispatch(assignment(1));

    let over = next(&mut messages).await;
    assert!(matches!(over, Input::AttemptUnstartable { .. }), "{over:?}");
    let calls = world.engine.calls();
    assert_eq!(calls.last().map(String::as_str), Some("stop marie-1"), "{calls:?}");
}

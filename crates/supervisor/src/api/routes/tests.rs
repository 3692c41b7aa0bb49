use std::collections::BTreeSet;

use axum::http::{Method, Request};
use http_body_util::BodyExt;
use protocol::{Plan, TaskError, TaskSource};
use serde_json::{Value, json};
use tower_service::Service;

use super::*;
use crate::api::types::{RunOpened, RunSummary, TaskAdded, TaskView};
use crate::testing::{Daemon, Job, World, until};

fn api(world: &World, daemon: &Daemon) -> (Api, mpsc::UnboundedReceiver<Shutdown>) {
    let (shutdown, requests) = mpsc::unbounded_channel();
    let health = Health {
        version: "1".to_owned(),
        build: "1".to_owned(),
        pid: 1,
        started_at: protocol::Time::ZERO,
        folder: "/x".to_owned(),
        runtime: "fake".to_owned(),
        rehearsal: false,
        upstream: "nowhere".to_owned(),
        notices: Vec::new(),
    };
    let api = Api {
        inbox: daemon.inbox.clone(),
        committed: daemon.committed.clone(),
        installation: world.installation.clone(),
        health,
        shutdown,
    };
    (api, requests)
}

/// Makes a request and returns status and body.
async fn request(api: &Api, method: Method, path: &str, body: Value) -> (u16, String) {
    let request = Request::builder().method(method).uri(path);
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = router(api.clone()).call(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

/// Makes a request that should succeed and returns what its answer holds.
async fn good<T: DeserializeOwned>(api: &Api, method: Method, path: &str, body: Value) -> T {
    let (status, text) = request(api, method, path, body).await;
    assert!((200..300).contains(&status), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
}

/// Returns a world whose orchestrator plans one task, and whose workers do it.
fn planning() -> World {
    World::new(async |job: Job| {
        let plan = json!({"tasks": [{"id": "a", "worker": "marie", "description": "x"}]});
        job.hand_in(&protocol::TaskResult {
            plan: job.assignment.workers.is_some().then_some(plan),
            report: Some("# Done".to_owned()),
            ..job.done(&[])
        });
        None
    })
}

#[tokio::test(start_paused = true)]
async fn every_route_is_described_and_everything_described_is_a_route() {
    let world = planning();
    let daemon = world.up().await;
    let (api, _requests) = api(&world, &daemon);
    let mut served = BTreeSet::new();
    for (path, _) in routes() {
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let name = method.as_str().to_lowercase();
            let (status, _) = request(&api, method, &path.replace("{id}", "none"), json!(0)).await;
            if status != 405 {
                served.insert((path.to_owned(), name));
            }
        }
    }
    let document = super::super::openapi::document();
    let described: BTreeSet<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(|method| (path.clone(), method.clone()))
        })
        .collect();
    assert_eq!(served, described);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for operation in methods.as_object().unwrap().values() {
            let named = operation["parameters"].as_array().is_some_and(|p| !p.is_empty());
            assert_eq!(named, path.contains("{id}"), "{path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_what_its_type_says() {
    let world = planning();
    let daemon = world.up().await;
    let (api, mut requests) = api(&world, &daemon);
    let (get, post) = (Method::GET, Method::POST);
    let nothing = Value::Null;

    let split: RunOpened =
        good(&api, post.clone(), "/v1/runs", json!({"request": "x", "plan_only": true})).await;
    let opened: RunOpened = good(&api, post.clone(), "/v1/runs", json!({"request": "x"})).await;
    for run in [split.run, opened.run] {
        until("the run has ended", async || world.installation.summary(run).exists().then_some(()))
            .await;
    }
    let id = &opened.short;
    let summary: RunSummary =
        good(&api, get.clone(), &format!("/v1/runs/{id}"), nothing.clone()).await;
    assert_eq!(summary.tasks.len(), 3);
    let plan = format!("/v1/runs/{}/plan", split.short);
    let plan: Plan = good(&api, get.clone(), &plan, nothing.clone()).await;
    assert_eq!(plan.tasks.len(), 1);
    let estimate = format!("/v1/runs/{}/estimate", split.short);
    let estimate: Estimate = good(&api, get.clone(), &estimate, nothing.clone()).await;
    assert_eq!(estimate.tasks.len(), 3);
    for path in ["/v1/usage".to_owned(), format!("/v1/usage?run={id}")] {
        let _: UsageReport = good(&api, get.clone(), &path, nothing.clone()).await;
    }
    let (status, events) =
        request(&api, get.clone(), &format!("/v1/runs/{id}/events?follow=true"), nothing.clone())
            .await;
    assert_eq!(status, 200);
    let events: Vec<Record> =
        events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(matches!(events[0].event, Event::RunOpened { .. }));
    assert!(matches!(events.last().unwrap().event, Event::RunEnded { .. }));
    let added: TaskAdded =
        good(&api, post.clone(), "/v1/tasks", json!({"worker": "marie", "description": "x"})).await;
    assert!(added.task_id.as_str().starts_with("marie-") && !added.existed);
    daemon.ended([added.task_id.as_str()]).await;
    let task = format!("/v1/tasks/{}", added.task_id);
    let task: TaskView = good(&api, get.clone(), &task, nothing.clone()).await;
    assert!(task.result.is_some());
    let _: Health = good(&api, get.clone(), "/v1/health", nothing.clone()).await;
    let status: StatusReport = good(&api, get.clone(), "/v1/status", nothing.clone()).await;
    assert_eq!(status.runs.len(), 3);
    let one = format!("/v1/status?run={id}");
    let status: StatusReport = good(&api, get.clone(), &one, nothing.clone()).await;
    assert_eq!(status.runs.len(), 1);
    let workers: Vec<WorkerView> = good(&api, get.clone(), "/v1/workers", nothing.clone()).await;
    assert_eq!(workers.len(), 3);
    for id in [id.as_str(), added.task_id.as_str(), "marie"] {
        let logs: Vec<Transcript> =
            good(&api, get.clone(), &format!("/v1/logs/{id}"), nothing.clone()).await;
        assert!(!logs.is_empty(), "{id}");
    }
    let waits =
        json!({"task_id": "w", "worker": "marie", "description": "x", "dependencies": ["l"]});
    let _: TaskAdded = good(&api, post.clone(), "/v1/tasks", waits.clone()).await;
    let again: TaskAdded = good(&api, post.clone(), "/v1/tasks", waits).await;
    assert!(again.existed);
    let _: Value = good(&api, post.clone(), "/v1/cancel", json!({"id": "w"})).await;
    let _: Value = good(&api, post.clone(), "/v1/retry", json!({"id": "w"})).await;
    let held = "/v1/decisions";
    let open: Vec<DecisionView> = good(&api, get.clone(), held, nothing.clone()).await;
    assert_eq!(open, []);
    let about = format!("/v1/decisions?run={}", opened.short);
    let _: Vec<DecisionView> = good(&api, get.clone(), &about, nothing.clone()).await;
    let _: Value = good(&api, post.clone(), "/v1/shutdown", json!({"drain": true})).await;
    assert_eq!(requests.recv().await, Some(Shutdown { drain: true, stop_workers: false }));
    let _: Value = good(&api, get, "/v1/openapi.json", nothing).await;
    let dropped = |e: &Event| matches!(e, Event::TaskAdded { source: TaskSource::Drop, .. });
    assert!(!world.events().iter().any(dropped), "the supervisor's own files are no drops");
}

#[tokio::test(start_paused = true)]
async fn every_error_says_what_and_how_to_mend_it() {
    let world = planning();
    let daemon = world.up().await;
    let (api, _requests) = api(&world, &daemon);
    let (get, post) = (Method::GET, Method::POST);
    let task = |text: Value| (post.clone(), "/v1/tasks", text);
    let cases = [
        (404, get.clone(), "/v1/nothing", json!(0)),
        (404, get.clone(), "/v1/runs/zzzz", json!(0)),
        (404, get.clone(), "/v1/usage?run=zzzz", json!(0)),
        (409, get.clone(), "/v1/runs/adhoc/estimate", json!(0)),
        (404, get.clone(), "/v1/tasks/..%2F..%2Fx", json!(0)),
        (404, get.clone(), "/v1/logs/none", json!(0)),
        (404, post.clone(), "/v1/cancel", json!({"id": "none"})),
        (409, post.clone(), "/v1/retry", json!({"id": "adhoc"})),
        (404, get.clone(), "/v1/decisions?run=zzzz", json!(0)),
        (404, post.clone(), "/v1/decisions/d9", json!({"choice": "stop"})),
        (404, post.clone(), "/v1/decisions/x", json!({"choice": "stop"})),
        (422, post.clone(), "/v1/decisions/d9", json!({"choice": "maybe"})),
        (422, post.clone(), "/v1/decisions/d9", json!({"choice": {"go_on": {"budget": 3}}})),
        (422, post.clone(), "/v1/runs", json!({"request": "x", "budget_tokens": 0})),
        (422, post.clone(), "/v1/runs", json!({})),
        (422, post.clone(), "/v1/runs", json!({"request": " "})),
        (422, post.clone(), "/v1/runs", json!({"reqest": "x"})),
    ];
    let tasks = [
        json!({"worker": "nobody", "description": "x"}),
        json!({"worker": "marie", "description": ""}),
        json!({"worker": "marie", "descripton": "x"}),
        json!([]),
    ];
    let tasks = tasks.map(task).map(|(method, path, body)| (422, method, path, body));
    for (code, method, path, body) in cases.into_iter().chain(tasks) {
        let (status, text) = request(&api, method, path, body.clone()).await;
        assert_eq!(status, code, "{path} {body}: {text}");
        let error: ApiError = serde_json::from_str(&text).unwrap();
        assert!(!error.message.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn question_is_answered_over_the_api_once() {
    let world = World::new(async |_: Job| std::future::pending().await);
    let daemon = world.up().await;
    let (api, _requests) = api(&world, &daemon);
    let (get, post) = (Method::GET, Method::POST);
    let task = json!({"task_id": "a", "worker": "marie", "description": "x", "budget_tokens": 9});
    let _: TaskAdded = good(&api, post.clone(), "/v1/tasks", task).await;
    daemon.fails("a", TaskError::new(protocol::FailureKind::Budget, "9 tokens are used")).await;

    let open: Vec<DecisionView> = good(&api, get.clone(), "/v1/decisions", json!(0)).await;
    let status: StatusReport = good(&api, get.clone(), "/v1/status", json!(0)).await;
    assert_eq!((open.len(), &status.decisions), (1, &open));
    let one: StatusReport = good(&api, get.clone(), "/v1/status?run=adhoc", json!(0)).await;
    assert_eq!(one.decisions, open);
    assert_eq!(open[0].commands[0], "supervisor decide d1 go-on --budget-tokens 18");

    let path = "/v1/decisions/d1";
    let bare = json!({"choice": {"go_on": {}}});
    assert_eq!(request(&api, post.clone(), path, bare).await.0, 422);
    let more = json!({"choice": {"go_on": {"budget_tokens": 18}}});
    let _: Value = good(&api, post.clone(), path, more.clone()).await;
    let made = |event: &Event| matches!(event, Event::DecisionMade { .. });
    assert!(world.events().iter().any(made), "it is safe when the answer comes");
    assert_eq!(request(&api, post, path, more).await.0, 409);
    let open: Vec<DecisionView> = good(&api, get, "/v1/decisions", json!(0)).await;
    assert_eq!(open, []);
}

//! Questions that wait for a person, at the command line.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::Path;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::world::{Journal, World, answers, json as answer};

const RUN: &str = "0199f0f0-0000-7000-8000-000000000001";

fn budget() -> Value {
    json!({
        "id": "d1", "kind": "budget", "scope": { "run": RUN }, "about": "run k3f9",
        "question": "Run k3f9 may spend no more: the next request could pass it. Raise the budget and go on, or stop?",
        "raised_at": "2026-11-20T12:00:03Z", "budget_usd": 2.0, "budget_tokens": 400000,
        "spent_usd": 1.87, "spent_tokens": 312500, "stopped": ["k3f9.a"], "hint": null,
        "commands": ["supervisor decide d1 go-on --budget 4 --budget-tokens 800000", "supervisor decide d1 stop"],
    })
}

fn day() -> Value {
    json!({
        "id": "d2", "kind": "budget", "scope": "all", "about": "the whole installation",
        "question": "The whole installation may spend no more: $20 are spent. Raise the budget and go on, or stop?",
        "raised_at": "2026-11-20T12:00:04Z", "until": "2026-11-21T00:00:00Z", "budget_usd": null,
        "budget_tokens": null, "spent_usd": null, "spent_tokens": null, "stopped": ["k3f9.b"],
        "hint": "Wait until 00:00 UTC, or raise it.",
        "commands": ["supervisor decide d2 go-on --budget USD", "supervisor decide d2 stop"],
    })
}

fn key() -> Value {
    json!({
        "id": "d3", "kind": "auth", "scope": { "worker": "marie" }, "about": "worker marie",
        "question": "The credential of worker marie is refused: 401\u{1b}[2J. Mend it and go on, or stop?",
        "raised_at": "2026-11-20T12:00:04Z", "budget_usd": null, "budget_tokens": null,
        "spent_usd": null, "spent_tokens": null, "stopped": [], "hint": null,
        "commands": ["supervisor decide d3 go-on", "supervisor decide d3 stop"],
    })
}

#[tokio::test]
async fn decisions_are_listed_with_what_is_known_and_what_to_type() {
    let open = json!([budget(), day(), key()]);
    let world = World::with_daemon(answers(&[("/v1/decisions", open.clone())]));
    let did = world.run(&["decisions"]).await;
    assert_eq!(did.code, 0);
    insta::assert_snapshot!(did.out, @"
    Decision d1 (budget), open since 2026-11-20 12:00
      Run k3f9 may spend no more: the next request could pass it. Raise the budget and go on, or stop?
      Used: $1.87 of $2.00, 312,500 of 400,000 tokens
        supervisor decide d1 go-on --budget 4 --budget-tokens 800000
        supervisor decide d1 stop

    Decision d2 (budget), open since 2026-11-20 12:00, until 2026-11-21 00:00
      The whole installation may spend no more: $20 are spent. Raise the budget and go on, or stop?
      Hint: Wait until 00:00 UTC, or raise it.
        supervisor decide d2 go-on --budget USD
        supervisor decide d2 stop

    Decision d3 (auth), open since 2026-11-20 12:00
      The credential of worker marie is refused: 401�[2J. Mend it and go on, or stop?
        supervisor decide d3 go-on
        supervisor decide d3 stop
    ");
    let json = world.run(&["decisions", "--json"]).await.out;
    let printed: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(printed[0]["commands"], open[0]["commands"]);

    let world = World::with_daemon(answers(&[("/v1/decisions", json!([]))]));
    assert_eq!(world.run(&["decisions"]).await.out, "Nothing waits for a decision.\n");
}

#[tokio::test]
async fn answer_goes_to_the_daemon_as_it_was_typed() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let route = post(async move |Path(id): Path<String>, body: Bytes| {
        let body: Value = serde_json::from_slice(&body).unwrap();
        log.lock().unwrap().push((id.clone(), body["choice"].clone()));
        match id.as_str() {
            "d9" => {
                answer(404, json!({ "kind": "not_found", "message": "there is no decision d9" }))
            }
            _ => answer(200, json!({})),
        }
    });
    let world = World::with_daemon(Router::new().route("/v1/decisions/{id}", route));
    let did =
        world.run(&["decide", "d1", "go-on", "--budget", "4", "--budget-tokens", "800000"]).await;
    assert_eq!((did.code, did.out.as_str()), (0, ""));
    insta::assert_snapshot!(did.err, @"d1 is decided: what waited for it goes on. `supervisor status` shows how far it is.");
    insta::assert_snapshot!(world.run(&["decide", "d2", "stop"]).await.err, @"d2 is decided: what waited for it is stopped. `supervisor status` shows how far it is.");
    assert_eq!(world.run(&["decide", "d3", "go-on"]).await.code, 0);
    let did = world.run(&["decide", "d9", "stop"]).await;
    assert_eq!((did.code, did.err.as_str()), (3, "Error: there is no decision d9\n"));
    let expected = [
        ("d1", json!({ "go_on": { "budget_usd": 4.0, "budget_tokens": 800000 } })),
        ("d2", json!("stop")),
        ("d3", json!({ "go_on": {} })),
        ("d9", json!("stop")),
    ];
    assert_eq!(*seen.lock().unwrap(), expected.map(|(id, choice)| (id.to_owned(), choice)));
}

#[tokio::test]
async fn status_begins_with_what_waits_for_somebody() {
    let worker = json!({
        "worker": "marie", "description": "x", "model": null, "subagents": [], "replicas": 1,
        "running": [], "paused": { "kind": "auth", "message": "401" }, "auth": "gateway",
    });
    let task = json!({
        "task_id": "k3f9.a", "run": RUN, "worker": "marie", "status": "ready", "attempt": 1,
        "waiting_for": [], "reason": "waits for decision d3 (auth): 401", "since": null,
        "title": "x", "cost_usd": null,
    });
    let status = json!({
        "daemon": {
            "version": "0.1.0", "build": "x", "pid": 12, "started_at": "2026-11-20T12:00:00Z",
            "folder": "/srv", "runtime": "docker", "rehearsal": false, "upstream": "u", "notices": [],
        },
        "runs": [{
            "run": RUN, "short": "k3f9", "name": null, "state": "executing",
            "opened_at": "2026-11-20T12:00:00Z", "tasks": [task],
        }],
        "workers": [worker], "decisions": [key()],
    });
    let world = World::with_daemon(answers(&[("/v1/status", status)]));
    insta::assert_snapshot!(world.run(&["status"]).await.out, @"
    The supervisor serves /srv since 2026-11-20 12:00 (process 12, version 0.1.0)
    Workers run as containers; model: u

    Decision d3 (auth), open since 2026-11-20 12:00
      The credential of worker marie is refused: 401�[2J. Mend it and go on, or stop?
        supervisor decide d3 go-on
        supervisor decide d3 stop

    Run k3f9: executing, 0 of 1 task ended, opened 2026-11-20 12:00
    TASK    WORKER  STATUS  ATTEMPT  NOTE
    k3f9.a  marie   ready         1  waits for decision d3 (auth): 401
    ");
}

/// Events of a run that somebody answers a question about.
fn events() -> Vec<Value> {
    let result = json!({
        "task_id": "k3f9.a", "run": RUN, "worker": "marie", "attempt": 2, "status": "complete",
        "summary": "x", "execution_time": 1.0, "cost_usd": null,
        "started_at": "2026-11-20T12:00:00Z", "finished_at": "2026-11-20T12:00:01Z",
    });
    vec![
        json!({
            "event": "run_opened", "run": RUN, "short": "k3f9", "name": null, "mode": "plan",
            "request": null, "priority": "medium", "budget_usd": 2.0, "rehearsal": false,
        }),
        json!({
            "event": "attempt_failed", "task": "k3f9.a", "attempt": 1, "counted": false,
            "error": { "kind": "budget", "message": "the next request could pass it", "scope": { "run": RUN } },
            "retry_at": "2026-11-20T12:00:01Z",
        }),
        json!({
            "event": "decision_raised",
            "decision": {
                "id": "d1", "kind": "budget", "scope": { "run": RUN },
                "question": "Run k3f9 may spend no more. Raise the budget and go on, or stop?",
                "raised_at": "2026-11-20T12:00:02Z",
            },
        }),
        json!({
            "event": "decision_made", "decision": "d1",
            "choice": { "go_on": { "budget_usd": 4.0, "budget_tokens": 800000 } },
        }),
        json!({ "event": "decision_made", "decision": "d4", "choice": "stop", "by": "person" }),
        json!({ "event": "decision_made", "decision": "d5", "choice": { "go_on": {} }, "by": "restart" }),
        json!({ "event": "decision_made", "decision": "d6", "choice": { "go_on": {} }, "by": "time" }),
        json!({ "event": "task_ended", "result": result }),
        json!({ "event": "run_ended", "run": RUN, "state": "complete" }),
    ]
}

#[tokio::test]
async fn events_tell_of_questions_and_answers() {
    let world = World::with_daemon(Journal::new(&events(), &[]).route("/v1/runs/{id}/events"));
    insta::assert_snapshot!(world.run(&["events", "k3f9"]).await.out, @"
    k3f9      the plan is carried out
    12:00:01  a                           attempt 1 failed (budget): the next request could pass it; waits for a decision
    12:00:02  decision d1 is needed: Run k3f9 may spend no more. Raise the budget and go on, or stop?
    12:00:03  decision d1: go on, with $4.00 and 800,000 tokens
    12:00:04  decision d4: stop
    12:00:05  decision d5: go on (by a restart)
    12:00:06  decision d6: go on (its time is over)
    12:00:07  a             marie         complete in 1.0 s, cost unknown
    12:00:08  the run is complete
    ");
}

#[tokio::test]
async fn whoever_follows_a_run_is_told_once_of_all_that_holds_it_up() {
    let figures = json!({
        "run": RUN, "state": "complete", "elapsed": 1.0, "rehearsal": false, "cost_usd": null,
        "answer": null, "summary": null, "usage": {}, "tasks": [{
            "task_id": "k3f9.a", "worker": "marie", "status": "complete", "attempts": 2,
            "execution_time": 1.0, "usage": {}, "cost_usd": null, "error": null,
        }],
    });
    // The stream goes on until both questions were asked for.
    let asked = Arc::new(tokio::sync::Semaphore::new(0));
    let open = Arc::clone(&asked);
    let decisions = get(async move || {
        open.add_permits(1);
        answer(200, json!([budget(), day()]))
    });
    let lines: String = events()
        .iter()
        .enumerate()
        .map(|(at, event)| {
            let mut record =
                json!({ "v": 1, "seq": at + 1, "at": format!("2026-11-20T12:00:{at:02}Z") });
            record.as_object_mut().unwrap().extend(event.as_object().unwrap().clone());
            format!("{record}\n")
        })
        .collect();
    let stream = get(async move || {
        // Asked more than twice: what was told is not told again.
        let _ = asked.acquire_many(3).await;
        lines
    });
    let opened = json!({ "run": RUN, "short": "k3f9" });
    let routes = Router::new()
        .route("/v1/runs", post(async move || answer(201, opened)))
        .route("/v1/decisions", decisions)
        .route("/v1/runs/{id}/events", stream)
        .merge(answers(&[("/v1/runs/{id}", figures)]));
    let world = World::with_daemon(routes);
    world.file("request.txt", "Do it.\n");
    let did = world.run(&["submit", &world.path("request.txt")]).await;
    assert_eq!(did.code, 0, "{}", did.err);
    insta::assert_snapshot!(did.err, @"
    12:00:03  Decision d1 (budget), open since 2026-11-20 12:00
              Run k3f9 may spend no more: the next request could pass it. Raise the budget and go on, or stop?
              Used: $1.87 of $2.00, 312,500 of 400,000 tokens
                supervisor decide d1 go-on --budget 4 --budget-tokens 800000
                supervisor decide d1 stop
    12:00:04  Decision d2 (budget), open since 2026-11-20 12:00, until 2026-11-21 00:00
              The whole installation may spend no more: $20 are spent. Raise the budget and go on, or stop?
              Hint: Wait until 00:00 UTC, or raise it.
                supervisor decide d2 go-on --budget USD
                supervisor decide d2 stop
    k3f9      the plan is carried out
    12:00:01  a                           attempt 1 failed (budget): the next request could pass it; waits for a decision
    12:00:03  decision d1: go on, with $4.00 and 800,000 tokens
    12:00:04  decision d4: stop
    12:00:05  decision d5: go on (by a restart)
    12:00:06  decision d6: go on (its time is over)
    12:00:07  a             marie         complete in 1.0 s, cost unknown
    12:00:08  the run is complete
    ");
    insta::assert_snapshot!(did.out, @"
    TASK    WORKER  STATUS    ATTEMPTS   TIME  TOKENS     COST
    k3f9.a  marie   complete         2  1.0 s       0  unknown

    Run k3f9 is complete: 1 task in 1.0 s, 0 tokens, cost unknown

    There is no answer. `supervisor logs k3f9` shows what the agents did; `supervisor retry k3f9`
    does again what did not complete.
    ");
}

//! Commands about runs and tasks.

use axum::Router;
use axum::routing::post;
use serde_json::{Value, json};

use super::world::{Closed, Journal, World, answers, json as answer};

const RUN: &str = "0199f0f0-0000-7000-8000-000000000001";

fn task(id: &str, worker: &str, dependencies: &[&str]) -> Value {
    json!({
        "event": "task_added", "source": if worker == "orchestrator" { "supervisor" } else { "plan" },
        "task": {
            "task_id": id, "worker": worker, "description": "Do it", "run": RUN,
            "dependencies": dependencies,
        },
    })
}

fn dispatched(task: &str, attempt: u32, replica: &str) -> Value {
    let id = "00000000-0000-4000-8000-000000000000";
    json!({
        "event": "attempt_dispatched", "task": task, "attempt": attempt, "replica": replica,
        "token": id, "session": id, "resume": false,
    })
}

fn started(task: &str, attempt: u32) -> Value {
    json!({ "event": "attempt_started", "task": task, "attempt": attempt })
}

fn result(task: &str, worker: &str, status: &str, error: Value) -> Value {
    json!({
        "task_id": task, "run": RUN, "worker": worker, "attempt": 1, "status": status,
        "summary": "It went well.", "findings": ["One.", "Two\nlines."], "recommendations": [],
        "artifacts": ["results/marie/sec-001/notes.md"], "execution_time": 12.34, "error": error,
        "usage": { "input_tokens": 1000, "output_tokens": 200 }, "cost_usd": 0.0123,
        "started_at": "2026-11-20T12:00:00Z", "finished_at": "2026-11-20T12:00:12Z",
    })
}

fn ended(task: &str, worker: &str, status: &str, error: Value, because: &[&str]) -> Value {
    json!({
        "event": "task_ended", "result": result(task, worker, status, error), "because": because,
    })
}

fn timeout() -> Value {
    json!({
        "kind": "timeout", "message": "it took longer than 300 s",
        "hint": "Give it more time with `timeout`.",
    })
}

/// A run in which one task fails, so that another is skipped.
fn events() -> Vec<Value> {
    vec![
        json!({
            "event": "run_opened", "run": RUN, "short": "k3f9", "name": "Term report",
            "mode": "request", "request": "Do it", "priority": "medium", "budget_usd": null,
            "rehearsal": true,
        }),
        task("k3f9.plan", "orchestrator", &[]),
        dispatched("k3f9.plan", 1, "orchestrator-1"),
        started("k3f9.plan", 1),
        json!({
            "event": "plan_rejected", "task": "k3f9.plan", "reasons": ["two tasks have the id `a`"],
        }),
        ended("k3f9.plan", "orchestrator", "complete", Value::Null, &[]),
        json!({ "event": "plan_accepted", "run": RUN, "tasks": 3 }),
        task("k3f9.research", "marie", &[]),
        task("k3f9.outline", "anga", &[]),
        task("k3f9.review", "marie", &["k3f9.research", "k3f9.outline"]),
        dispatched("k3f9.research", 1, "marie-1"),
        started("k3f9.research", 1),
        json!({
            "event": "attempt_failed", "task": "k3f9.research", "attempt": 1,
            "error": { "kind": "network", "message": "connection reset" }, "counted": true,
            "retry_at": "2026-11-20T12:00:14.500Z", "usage": { "input_tokens": 10 },
        }),
        dispatched("k3f9.research", 2, "marie-2"),
        started("k3f9.research", 2),
        json!({ "event": "something_new", "task": "k3f9.research" }),
        ended("k3f9.research", "marie", "failed", timeout(), &[]),
        ended("k3f9.review", "marie", "skipped", Value::Null, &["k3f9.research"]),
        json!({ "event": "run_ended", "run": RUN, "state": "partial" }),
    ]
}

fn figures(state: &str) -> Value {
    let ended = !matches!(state, "planning" | "executing");
    json!({
        "run": RUN, "state": state, "elapsed": 75.2, "rehearsal": true, "cost_usd": 0.0246,
        "answer": ended.then(|| format!("results/{RUN}.md")), "summary": null,
        "usage": { "input_tokens": 2010, "output_tokens": 400 },
        "tasks": [
            { "task_id": "k3f9.plan", "worker": "orchestrator", "status": "complete", "attempts": 1,
              "execution_time": 12.34, "usage": { "input_tokens": 1000, "output_tokens": 200 },
              "cost_usd": 0.0123, "error": null },
            { "task_id": "k3f9.research", "worker": "marie", "status": "failed", "attempts": 2,
              "execution_time": 300.0, "usage": { "input_tokens": 1010, "output_tokens": 200 },
              "cost_usd": 0.0123, "error": timeout() },
            { "task_id": "k3f9.review", "worker": "marie", "status": "skipped", "attempts": 0,
              "execution_time": 0.0, "usage": {}, "cost_usd": 0.0, "error": null },
        ],
    })
}

fn opens_run() -> Router {
    let opened = json!({ "run": RUN, "short": "k3f9" });
    Router::new().route("/v1/runs", post(async move || answer(201, opened)))
}

fn daemon(state: &str, breaks: &[usize]) -> Router {
    opens_run()
        .merge(Journal::new(&events(), breaks).route("/v1/runs/{id}/events"))
        .merge(answers(&[("/v1/runs/{id}", figures(state))]))
}

#[tokio::test]
async fn submit_shows_what_happens_and_ends_with_the_figures() {
    let world = World::with_daemon(daemon("partial", &[]));
    world.file("request.txt", "Do it.\n");
    let did = world.run(&["submit", &world.path("request.txt")]).await;
    assert_eq!(did.code, 1);
    insta::assert_snapshot!(did.err, @"
    k3f9      the request is split (Term report)
    12:00:03  plan          orchestrator  running (attempt 1 on orchestrator-1)
    12:00:04  plan          orchestrator  the plan can't be carried out; it is told why:
                two tasks have the id `a`
    12:00:05  plan          orchestrator  complete in 12.3 s, $0.0123
    k3f9      plan: 3 tasks for anga, marie
              research      marie
              outline       anga
              review        marie         waits for research, outline
    12:00:11  research      marie         running (attempt 1 on marie-1)
    12:00:12  research      marie         attempt 1 failed (network): connection reset; tries again in 2.5 s
    12:00:14  research      marie         running (attempt 2 on marie-2)
    12:00:16  research      marie         failed (timeout): it took longer than 300 s
              Hint: Give it more time with `timeout`.
    12:00:17  review        marie         skipped, since research did not complete
    12:00:18  the run is partial
    ");
    insta::assert_snapshot!(did.out, @"
    TASK           WORKER        STATUS    ATTEMPTS       TIME  TOKENS     COST
    k3f9.plan      orchestrator  complete         1     12.3 s   1,200  $0.0123
    k3f9.research  marie         failed           2  5 min 0 s   1,210  $0.0123
    k3f9.review    marie         skipped          0          -       0    $0.00

    k3f9.research failed (timeout): it took longer than 300 s
      Hint: Give it more time with `timeout`.

    Run k3f9 is partial: 1 of 3 tasks complete in 1 min 15 s, 2,410 tokens, $0.0246
    This is a rehearsal: no model was asked, nothing was billed, and the texts are stand-ins.
    To go live: export ANTHROPIC_API_KEY=…; supervisor down; make up

    Answer: results/0199f0f0-0000-7000-8000-000000000001.md
    `supervisor result k3f9` prints it.
    ");
}

#[tokio::test]
async fn submit_goes_on_where_it_was_when_the_daemon_restarts() {
    let whole = World::with_daemon(daemon("partial", &[]));
    whole.file("request.txt", "Do it.\n");
    let whole = whole.run(&["submit", &whole.path("request.txt")]).await;
    let journal = Journal::new(&events(), &[4, 0, 9]);
    let asked = std::sync::Arc::clone(&journal.asked);
    let routes = opens_run()
        .merge(journal.route("/v1/runs/{id}/events"))
        .merge(answers(&[("/v1/runs/{id}", figures("partial"))]));
    let world = World::with_daemon(routes);
    world.file("request.txt", "Do it.\n");
    let did = world.run(&["submit", &world.path("request.txt")]).await;
    let notices: Vec<&str> =
        did.err.lines().filter(|line| line.starts_with("The supervisor")).collect();
    assert_eq!(
        notices.first().copied(),
        Some("The supervisor went away. The run is kept; waiting for the supervisor to come back.")
    );
    assert_eq!(notices.last().copied(), Some("The supervisor is back."));
    let rest: String = did
        .err
        .lines()
        .filter(|line| !line.starts_with("The supervisor"))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(rest, whole.err);
    assert_eq!((did.code, did.out), (whole.code, whole.out));
    assert_eq!(*asked.lock().unwrap(), [0, 4, 4, 13]);
}

#[tokio::test]
async fn event_that_comes_twice_is_told_once() {
    let mut journal = Journal::new(&events(), &[4]);
    journal.repeats = true;
    let routes = journal
        .route("/v1/runs/{id}/events")
        .merge(answers(&[("/v1/runs/{id}", figures("partial"))]));
    let did = World::with_daemon(routes).run(&["events", "k3f9", "-f", "--json"]).await;
    assert_eq!((did.code, did.out.lines().count()), (0, events().len()));
}

#[tokio::test]
async fn event_that_comes_in_pieces_is_put_together() {
    let long = "x".repeat(100_000);
    let pieces = [long.clone(), "y".to_owned(), "\nsecond\nthi".to_owned(), "rd\nhalf".to_owned()];
    let stream = async move || {
        let pieces = pieces.map(Ok::<_, std::io::Error>);
        axum::body::Body::from_stream(futures_util::stream::iter(pieces))
    };
    let routes = Router::new().route("/v1/runs/k3f9/events", axum::routing::get(stream));
    let did = World::with_daemon(routes).run(&["events", "k3f9", "--json"]).await;
    assert_eq!((did.code, did.out), (0, format!("{long}y\nsecond\nthird\n")));
}

#[tokio::test]
async fn submit_with_json_prints_one_line() {
    let world = World::with_daemon(daemon("complete", &[]));
    world.file("request.txt", "Do it.\n");
    let did = world.run(&["submit", "--json", &world.path("request.txt")]).await;
    assert_eq!(did.code, 0);
    assert_eq!(did.out.lines().count(), 1);
    let printed: Value = serde_json::from_str(&did.out).unwrap();
    assert_eq!((&printed["run"], &printed["state"]), (&json!(RUN), &json!("complete")));
    assert!(did.err.contains("running (attempt 1 on marie-1)"), "{}", did.err);
}

#[tokio::test]
async fn detached_submit_prints_the_run_and_what_to_type_next() {
    let world = World::with_daemon(opens_run());
    world.file("request.txt", "Do it.\n");
    let did = world.run(&["submit", "-d", &world.path("request.txt")]).await;
    assert_eq!((did.code, did.out.as_str()), (0, "k3f9\n"));
    insta::assert_snapshot!(did.err, @"
    supervisor status k3f9      how far it is
    supervisor events k3f9 -f   what happens, as it happens
    supervisor result k3f9      its answer, when it has ended
    supervisor cancel k3f9      put an end to it
    ");
}

#[tokio::test]
async fn output_that_nobody_reads_is_no_error() {
    let world = World::with_daemon(daemon("complete", &[]));
    let did = world.run_to(&["events", RUN], Closed).await;
    assert_eq!(did, (0, String::new()));
}

#[tokio::test]
async fn events_tell_all_that_happened() {
    let world = World::with_daemon(daemon("complete", &[]));
    let did = world.run(&["events", RUN]).await;
    insta::assert_snapshot!(did.out, @r#"
    k3f9      the request is split (Term report)
    12:00:01  plan          orchestrator  added
    12:00:02  plan          orchestrator  attempt 1 is handed to orchestrator-1
    12:00:03  plan          orchestrator  running (attempt 1 on orchestrator-1)
    12:00:04  plan          orchestrator  the plan can't be carried out; it is told why:
                two tasks have the id `a`
    12:00:05  plan          orchestrator  complete in 12.3 s, $0.0123
    12:00:06  the plan is accepted: 3 tasks
    12:00:07  research      marie         added
    12:00:08  outline       anga          added
    k3f9      plan: 3 tasks for anga, marie
              research      marie
              outline       anga
              review        marie         waits for research, outline
    12:00:10  research      marie         attempt 1 is handed to marie-1
    12:00:11  research      marie         running (attempt 1 on marie-1)
    12:00:12  research      marie         attempt 1 failed (network): connection reset; tries again in 2.5 s
    12:00:13  research      marie         attempt 2 is handed to marie-2
    12:00:14  research      marie         running (attempt 2 on marie-2)
    an event of a later version: {"v":1,"seq":16,"at":"2026-11-20T12:00:15Z","event":"something_new","task":"k3f9.research"}
    12:00:16  research      marie         failed (timeout): it took longer than 300 s
              Hint: Give it more time with `timeout`.
    12:00:17  review        marie         skipped, since research did not complete
    12:00:18  the run is partial
    "#);
    let raw = world.run(&["events", RUN, "--json", "-f"]).await;
    let lines: Vec<Value> =
        raw.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((raw.code, lines.len()), (0, events().len()));
    assert_eq!(lines[15]["event"], "something_new");
}

#[tokio::test]
async fn plan_is_shown_and_not_started() {
    let plan = json!({ "tasks": [
        { "id": "research", "worker": "marie", "description": "Find out.\nAll of it." },
        { "id": "review", "worker": "anga", "description": "Judge.", "dependencies": ["research"] },
    ] });
    let events = [
        events()[0].clone(),
        json!({ "event": "plan_accepted", "run": RUN, "tasks": 2, "plan": plan }),
        json!({ "event": "run_ended", "run": RUN, "state": "complete" }),
    ];
    let routes = opens_run().merge(Journal::new(&events, &[]).route("/v1/runs/{id}/events")).merge(
        answers(&[
            ("/v1/runs/{id}", figures("complete")),
            ("/v1/runs/{id}/plan", plan.clone()),
            ("/v1/runs/{id}/estimate", estimate(false)),
        ]),
    );
    let world = World::with_daemon(routes);
    world.file("request.txt", "Do it.\n");
    let did = world.run(&["plan", &world.path("request.txt")]).await;
    assert_eq!(did.code, 0);
    insta::assert_snapshot!(did.err, @"
    k3f9      the request is split (Term report)
    k3f9      plan: 2 tasks for anga, marie
              research      marie
              review        anga          waits for research
    12:00:02  the run is complete


    Nothing of it was started. To carry it out, as it is or changed by you:
      supervisor plan DIR/request.txt --json > plan.json
      supervisor submit --plan plan.json
    ");
    insta::assert_snapshot!(did.out, @"
    TASK      WORKER  WAITS FOR     COST  WHAT
    research  marie   -          unknown  Find out. All of it.
    review    anga    research   unknown  Judge.

    2 tasks; cost: unknown (no past runs to go by)

    This is a rehearsal: no model was asked.
    ");
    let did = world.run(&["plan", "--json", &world.path("request.txt")]).await;
    assert_eq!(serde_json::from_str::<Value>(&did.out).unwrap(), plan);
    assert!(did.err.ends_with("cost: unknown (no past runs to go by)\n"), "{}", did.err);
}

/// What a plan of `research` by marie and `review` by anga may take; with what is known of marie's work and of
/// splitting requests.
fn estimate(known: bool) -> Value {
    let spread = |median: f64, p90: f64| match known {
        true => json!({ "median": median, "p90": p90 }),
        false => Value::Null,
    };
    let sum = |median: f64, p90: f64| json!({ "median": median, "p90": p90 });
    let task = |id: &str, worker: &str, kind: &str, cost: Value, tokens: Value| json!({ "id": id, "worker": worker, "kind": kind, "cost_usd": cost, "tokens": tokens });
    let past = |worker: &str, kind: &str, tasks: u64, unpriced: u64, cost: Value, tokens: Value| {
        let tasks = if known { tasks } else { 0 };
        json!({
            "worker": worker, "kind": kind, "tasks": tasks, "unpriced": unpriced,
            "cost_usd": cost, "tokens": tokens,
        })
    };
    let (split, split_tokens) = (spread(0.05, 0.25), spread(1000.5, 2000.0));
    let (work, work_tokens) = (spread(0.5, 2.0), spread(40_000.0, 90_000.0));
    let null = Value::Null;
    json!({
        "tasks": [
            task("plan", "orchestrator", "plan", split.clone(), split_tokens.clone()),
            task("research", "marie", "work", work.clone(), work_tokens.clone()),
            task("review", "anga", "work", null.clone(), null.clone()),
            task("answer", "orchestrator", "synthesize", null.clone(), null.clone()),
        ],
        "cost_usd": null, "known_cost_usd": sum(0.55, 2.25),
        "tokens": null, "known_tokens": sum(41_000.5, 92_000.0),
        "past": [
            past("orchestrator", "plan", 1, 0, split, split_tokens),
            past("marie", "work", 12, 2, work, work_tokens),
            past("anga", "work", 0, 0, null.clone(), null.clone()),
            past("orchestrator", "synthesize", 0, 0, null.clone(), null),
        ],
    })
}

#[tokio::test]
async fn plan_says_what_its_price_is_based_on() {
    use crate::cli::plan::render;
    let plan: protocol::Plan = serde_json::from_value(json!({ "tasks": [
        { "id": "research", "worker": "marie", "description": "Find out." },
        { "id": "review", "worker": "anga", "description": "Judge.", "dependencies": ["research"] },
    ] }))
    .unwrap();
    let mut estimate = estimate(true);
    let show = |estimate: &Value| {
        let estimate = serde_json::from_value(estimate.clone()).unwrap();
        anstream::adapter::strip_str(&render(&plan, &estimate, false)).to_string()
    };
    insta::assert_snapshot!(show(&estimate), @"
    TASK      WORKER  WAITS FOR     COST  WHAT
    research  marie   -            $0.50  Find out.
    review    anga    research   unknown  Judge.

    2 tasks; with splitting and answering it
      cost:   unknown; what is known of it: $0.55, to be cautious $2.25
      tokens: unknown; what is known of it: 41,001, to be cautious 92,000
    Those are sums of medians, and of 90th percentiles,
      from 1 task that split requests: $0.0500, 9 of 10 up to $0.25
      from 12 tasks of marie (2 without a price): $0.50, 9 of 10 up to $2.00
      from no task of anga: unknown
      from no task that answered requests: unknown
    ");
    estimate["cost_usd"] = json!({ "median": 0.75, "p90": 3.5 });
    estimate["tokens"] = json!({ "median": 50_000.0, "p90": 100_000.0 });
    insta::assert_snapshot!(show(&estimate), @"
    TASK      WORKER  WAITS FOR     COST  WHAT
    research  marie   -            $0.50  Find out.
    review    anga    research   unknown  Judge.

    2 tasks; with splitting and answering it
      cost:   $0.75, to be cautious $3.50
      tokens: 50,000, to be cautious 100,000
    Those are sums of medians, and of 90th percentiles,
      from 1 task that split requests: $0.0500, 9 of 10 up to $0.25
      from 12 tasks of marie (2 without a price): $0.50, 9 of 10 up to $2.00
      from no task of anga: unknown
      from no task that answered requests: unknown
    ");
}

fn task_view(status: &str, result: Value) -> Value {
    json!({
        "task_id": "sec-001", "run": "adhoc", "worker": "marie", "status": status, "attempt": 1,
        "waiting_for": [], "reason": "attempt 1 on marie-1", "since": null, "title": "Do it",
        "cost_usd": 0.0123, "result": result,
    })
}

#[tokio::test]
async fn task_is_followed_to_its_end_and_printed() {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};
    let asked = Arc::new(AtomicU32::new(0));
    let body = Arc::new(Mutex::new(Value::Null));
    let (asks, bodies) = (Arc::clone(&asked), Arc::clone(&body));
    let view = async move || match asks.fetch_add(1, Ordering::Relaxed) {
        0 => answer(200, task_view("running", Value::Null)),
        _ => {
            let result = result("sec-001", "marie", "complete", Value::Null);
            answer(200, task_view("complete", result))
        }
    };
    let add = async move |axum::Json(sent): axum::Json<Value>| {
        *bodies.lock().unwrap() = sent;
        answer(201, json!({ "task_id": "sec-001", "existed": false }))
    };
    let events = [
        ended("sec-000", "marie", "complete", Value::Null, &[]),
        task("sec-001", "marie", &["sec-000"]),
        started("sec-001", 1),
        ended("sec-001", "marie", "complete", Value::Null, &[]),
    ];
    let routes = Router::new()
        .route("/v1/tasks", post(add))
        .route("/v1/tasks/sec-001", axum::routing::get(view))
        .merge(Journal::new(&events, &[]).route("/v1/runs/adhoc/events"));
    let world = World::with_daemon(routes);
    let args = ["task", "marie", "Do it", "--after", "sec-000", "--verify-command", "test -s x"];
    let did = world.run(&args).await;
    assert_eq!(did.code, 0);
    insta::assert_snapshot!(did.err, @"
    12:00:01  sec-001       marie         waits for sec-000
    12:00:02  sec-001       marie         running (attempt 1)
    12:00:03  sec-001       marie         complete in 12.3 s, $0.0123
    ");
    insta::assert_snapshot!(did.out, @"
    sec-001 by marie is complete (attempt 1, 12.3 s, 1,200 tokens, $0.0123)

    It went well.

    Findings
      - One.
      - Two
        lines.

    Artifacts
      - results/marie/sec-001/notes.md
    ");
    assert_eq!(
        *body.lock().unwrap(),
        json!({
            "worker": "marie", "description": "Do it", "dependencies": ["sec-000"],
            "verify": { "command": "test -s x" },
        })
    );
}

#[tokio::test]
async fn result_prints_the_answer_of_a_run() {
    let world = World::with_daemon(answers(&[("/v1/runs/k3f9", figures("complete"))]));
    world.file(&format!("results/{RUN}.md"), "# The answer\n\x1b[1mraw\n");
    let did = world.run(&["result", "k3f9"]).await;
    assert_eq!((did.code, did.out.as_str()), (0, "# The answer\n\x1b[1mraw\n"));
}

#[tokio::test]
async fn result_of_what_has_none_says_why() {
    let failed = result("sec-001", "marie", "failed", timeout());
    let routes = answers(&[
        ("/v1/runs/k3f9", figures("executing")),
        ("/v1/tasks/sec-001", task_view("failed", failed)),
        ("/v1/tasks/sec-002", task_view("running", Value::Null)),
    ]);
    let world = World::with_daemon(routes);
    let did = world.run(&["result", "k3f9"]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: run k3f9 is executing: there is no answer yet

    Hint: `supervisor events k3f9 -f` shows what happens until there is one.
    ");
    let did = world.run(&["result", "sec-001"]).await;
    assert_eq!(did.code, 1);
    insta::assert_snapshot!(did.out, @"
    sec-001 by marie is failed (attempt 1, 12.3 s, 1,200 tokens, $0.0123)

    timeout: it took longer than 300 s
    Hint: Give it more time with `timeout`.

    It went well.

    Findings
      - One.
      - Two
        lines.

    Artifacts
      - results/marie/sec-001/notes.md
    ");
    let did = world.run(&["result", "sec-002"]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: task sec-001 is running: there is no result yet
    Caused by: attempt 1 on marie-1

    Hint: `supervisor logs sec-001 -f` shows what the agent says and does.
    ");
    let did = world.run(&["result", "nothing"]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: there is no run or task `nothing`

    Hint: `supervisor status` shows the names of runs and tasks.
    ");
    let did = world.run(&["result", "../etc"]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: `../etc` can't be the name of a run or a task
    Caused by: '.' is not allowed at position 0 of an id (use a-z, 0-9, and after the first character also `.`, `_` and `-`)

    Hint: `supervisor status` shows the names of runs and tasks.
    ");
}

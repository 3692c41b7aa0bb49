//! Commands that are not about one run.

use std::fs;

use axum::Router;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::world::{World, answers, json as answer};

#[tokio::test]
async fn without_a_daemon_every_command_says_how_to_start_it() {
    let world = World::new();
    world.file("request.txt", "Do it.\n");
    let request = world.path("request.txt");
    for args in [
        &["submit", &request][..],
        &["plan", &request],
        &["task", "marie", "x"],
        &["status"],
        &["usage"],
        &["workers"],
        &["events", "k3f9", "--json"],
        &["logs", "k3f9"],
        &["result", "k3f9"],
        &["cancel", "k3f9"],
        &["retry", "k3f9"],
        &["decisions"],
        &["decide", "d1", "stop"],
    ] {
        let did = world.run(args).await;
        assert_eq!((did.code, did.out.as_str()), (4, ""), "{args:?}");
        insta::allow_duplicates! {
            insta::assert_snapshot!(did.err, @"
            Error: no supervisor runs here
            Caused by: No such file or directory (os error 2)

            Hint: Start it with `supervisor up --detach`, or `make up`.
            ");
        }
    }
}

#[tokio::test]
async fn socket_that_a_dead_daemon_left_behind_is_no_daemon() {
    let world = World::new();
    let socket = world.make_sockets().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(socket).unwrap());
    let did = world.run(&["status"]).await;
    assert_eq!(did.code, 4);
    insta::assert_snapshot!(did.err, @"
    Error: no supervisor runs here
    Caused by: Connection refused (os error 111)

    Hint: Start it with `supervisor up --detach`, or `make up`.
    ");
}

#[tokio::test]
async fn what_the_daemon_refuses_is_told_with_its_causes_and_cure() {
    let refuse = |status: u16, kind: &'static str| {
        let body = json!({
            "kind": kind, "message": "the plan can't be carried out",
            "causes": ["two tasks have the id `a`", "innermost"], "hint": "Rename one of them.",
        });
        World::with_daemon(
            Router::new().route("/v1/cancel", post(async move || answer(status, body))),
        )
    };
    let did = refuse(422, "bad_input").run(&["cancel", "k3f9"]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: the plan can't be carried out
    Caused by: two tasks have the id `a`
    Caused by: innermost

    Hint: Rename one of them.
    ");
    assert_eq!(refuse(404, "not_found").run(&["cancel", "k3f9"]).await.code, 3);
    assert_eq!(refuse(409, "conflict").run(&["cancel", "k3f9"]).await.code, 3);
    assert_eq!(refuse(503, "unavailable").run(&["cancel", "k3f9"]).await.code, 4);
}

fn health() -> Value {
    json!({
        "version": "0.1.0", "build": crate::programs::build(), "pid": 12, "started_at": "2026-11-20T12:00:00Z", "folder": "/srv/team",
        "runtime": "process", "rehearsal": true, "upstream": "rehearsal",
        "notices": ["tasks/ is looked at every 2 s: its file system raises no events"],
    })
}

fn worker(name: &str, running: &[&str], paused: Value) -> Value {
    json!({
        "worker": name, "description": "Dance teacher of the studio", "model": "claude-sonnet-5-5",
        "subagents": ["choreography-analyzer"], "replicas": 2, "running": running,
        "paused": paused, "auth": "gateway",
    })
}

fn status() -> Value {
    let task = |id: &str, status: &str, attempt: Value, waiting_for: &[&str], reason: Value| {
        json!({
            "task_id": id, "run": "adhoc", "worker": "marie", "status": status, "attempt": attempt,
            "waiting_for": waiting_for, "reason": reason, "since": null, "title": "Do it",
            "cost_usd": 0.0,
        })
    };
    let tasks = [
        task("k3f9.a", "complete", json!(1), &[], Value::Null),
        task("k3f9.b", "running", json!(2), &[], json!("on marie-1")),
        task("k3f9.c", "waiting", Value::Null, &["k3f9.a", "k3f9.b"], Value::Null),
        task("k3f9.e", "waiting", Value::Null, &["x"], json!("waits for x (not here yet)")),
        task("k3f9.d", "failed", json!(3), &[], json!("timeout: it took longer than 300 s")),
    ];
    let paused = json!({ "kind": "auth", "message": "401", "hint": "Give another key." });
    json!({
        "daemon": health(),
        "runs": [{
            "run": "0199f0f0-0000-7000-8000-000000000001", "short": "k3f9", "name": "Term report",
            "state": "executing", "opened_at": "2026-11-20T12:00:00Z", "tasks": tasks,
        }],
        "workers": [worker("marie", &[], paused), worker("anga", &["anga-1: k3f9.b, attempt 2"], Value::Null)],
        "today": {
            "day": "2026-11-20", "requests": 42, "cost_usd": null, "known_cost_usd": 16.4,
            "tokens": 1_234_567, "budget_usd": 20.0, "budget_tokens": null,
        },
    })
}

#[tokio::test]
async fn status_says_what_runs_what_waits_and_why() {
    let world = World::with_daemon(answers(&[("/v1/status", status())]));
    insta::assert_snapshot!(world.run(&["status"]).await.out, @"
    The supervisor serves /srv/team since 2026-11-20 12:00 (process 12, version 0.1.0)
    Workers run as plain processes, without a container's walls; model: rehearsal (no model is asked)
    Today (2026-11-20, UTC): nothing is billed, 1,234,567 tokens, 42 requests
    Note: tasks/ is looked at every 2 s: its file system raises no events
    marie is paused (auth): 401
      Hint: Give another key.

    Run k3f9 (Term report): executing, 2 of 5 tasks ended, opened 2026-11-20 12:00
    TASK    WORKER  STATUS    ATTEMPT  NOTE
    k3f9.a  marie   complete        1
    k3f9.b  marie   running         2  on marie-1
    k3f9.c  marie   waiting         -  waits for k3f9.a, k3f9.b
    k3f9.e  marie   waiting         -  waits for x (not here yet)
    k3f9.d  marie   failed          3  timeout: it took longer than 300 s
    ");
    let mut live = status();
    live["daemon"]["rehearsal"] = json!(false);
    let text = World::with_daemon(answers(&[("/v1/status", live)])).run(&["status"]).await.out;
    let today = text.lines().find(|line| line.starts_with("Today")).unwrap();
    insta::assert_snapshot!(today, @"Today (2026-11-20, UTC): unknown ($16.40 known) of $20.00, 1,234,567 tokens, 42 requests");
    let json = world.run(&["status", "--json"]).await.out;
    let printed: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(printed["runs"][0]["tasks"], status()["runs"][0]["tasks"]);
}

fn used(requests: u64, cost: Value, waits: Value) -> Value {
    json!({
        "requests": requests, "cut_off": 1, "unpriced": u64::from(cost.is_null()),
        "usage": {
            "input_tokens": 1200, "output_tokens": 3400, "cache_read_input_tokens": 56_000,
            "cache_creation_input_tokens": 7800,
        },
        "cache_share": 0.8615, "cost_usd": cost, "known_cost_usd": 0.25, "saved_usd": 0.126,
        "held_usd": 0.5, "held_tokens": 900, "out": 2, "out_usd": 1.5, "out_tokens": 30_000,
        "of_agents": 2, "of_agents_tokens": 4500, "of_agents_known_cost_usd": 0.125,
        "waits": waits,
    })
}

fn with(mut more: Value, used: Value) -> Value {
    more.as_object_mut().unwrap().extend(used.as_object().unwrap().clone());
    more
}

fn usage() -> Value {
    let waits = json!({ "requests": 1.5, "stagger": 20.0 });
    let (all, none) = (used(5, Value::Null, waits), used(0, json!(0.0), json!({})));
    let priced = used(3, json!(0.25), json!({}));
    let table = json!({
        "total": all,
        "workers": [with(json!({ "worker": "anga" }), priced.clone()), with(json!({ "worker": "marie" }), all.clone())],
        "models": [with(json!({ "model": "claude-sonnet-5-5" }), priced.clone())],
        "runs": [with(json!({ "run": "adhoc", "short": null, "name": null }), priced.clone())],
        "tasks": [],
    });
    let limit = |what: &str, scope: &str, source: &str, left: i64| json!({ "what": what, "scope": scope, "source": source, "limit": 50_000, "left": left });
    let pace = |model: &str, blocked: Value| {
        json!({
            "account": "account 0", "model": model, "in_flight": 2, "window": 8, "waiting": 3,
            "limits": [
                limit("requests", "account", "config", 48), limit("input_tokens", "model", "server", -100),
            ],
            "blocked": blocked,
        })
    };
    let budget = |about: &str, usd: Value, tokens: Value, share: f64| {
        json!({
            "scope": "all", "about": about, "usd": usd, "tokens": tokens, "used_usd": 16.4,
            "used_tokens": 250, "out_usd": 1.5, "out_tokens": 30_000, "share": share,
        })
    };
    let blocked = json!({
        "reason": "rate_limited", "scope": "account", "until": "2026-11-20T14:05:00.000Z",
    });
    let nothing = json!({
        "total": with(none, json!({ "cut_off": 0, "unpriced": 0, "out": 0 })),
        "workers": [], "models": [], "runs": [], "tasks": [],
    });
    json!({
        "rehearsal": false, "run": null, "short": null, "name": null, "day": "2026-11-20",
        "today": nothing, "all": table,
        "budgets": [
            budget("all workers today", json!(20.0), Value::Null, 0.82),
            budget("run k3f9", Value::Null, json!(1000), 0.25),
        ],
        "limits": [pace("claude-a", blocked), pace("claude-b", Value::Null)],
        "worker_limits": [{ "worker": "marie", "limits": [limit("in_flight", "worker", "config", 3)] }],
        "cache_breaks": [
            { "task_id": "k3f9.b", "attempt": 2, "lost_tokens": 21_000, "why": "tools[3] differs from k3f9.a attempt 1" },
        ],
        "refused": [
            { "task_id": "k3f9.b", "attempt": 2, "requests": 3, "what": "the model `o` is not listed", "hint": "list it" },
        ],
    })
}

#[tokio::test]
async fn usage_is_shown_by_worker_model_and_run_with_budgets_and_limits() {
    let world = World::with_daemon(answers(&[("/v1/usage", usage())]));
    insta::assert_snapshot!(world.run(&["usage"]).await.out, @"
    Today (2026-11-20, UTC): the model was asked for nothing

    All that is known
    WORKER  REQUESTS  INPUT  OUTPUT  CACHE READ  WRITTEN  FROM CACHE                   COST  SAVED   HELD  WAITED FOR
    anga           3  1,200   3,400      56,000    7,800        86 %                  $0.25  $0.13  $2.00
    marie          5  1,200   3,400      56,000    7,800        86 %  unknown ($0.25 known)  $0.13  $2.00  prompt cache being written 20.0 s, requests per minute 1.5 s
    all            5  1,200   3,400      56,000    7,800        86 %  unknown ($0.25 known)  $0.13  $2.00  prompt cache being written 20.0 s, requests per minute 1.5 s

    MODEL              REQUESTS  INPUT  OUTPUT  CACHE READ  WRITTEN  FROM CACHE   COST  SAVED   HELD  WAITED FOR
    claude-sonnet-5-5         3  1,200   3,400      56,000    7,800        86 %  $0.25  $0.13  $2.00

    RUN    REQUESTS  INPUT  OUTPUT  CACHE READ  WRITTEN  FROM CACHE   COST  SAVED   HELD  WAITED FOR
    adhoc         3  1,200   3,400      56,000    7,800        86 %  $0.25  $0.13  $2.00

    Note: 2 requests are of sub-agents, with $0.12 and 4,500 tokens
    Note: 2 requests are out: at the most $1.50 and 30,000 tokens
    Note: 1 request broke off: $0.50 and 900 tokens are held for what nobody knows of it
    Note: 1 request is of a model without a price; `supervisor doctor` says how to give it one

    BUDGET                   USED           HELD            OF  SHARE
    all workers today      $16.40          $1.50        $20.00   82 %
    run k3f9           250 tokens  30,000 tokens  1,000 tokens   25 %

    LIMIT                    WHOSE                LEFT      OF  WHO SAYS SO
    requests per minute      account 0              48  50,000  the configuration
    input tokens per minute  claude-a, account 0  -100  50,000  the model's API
    input tokens per minute  claude-b, account 0  -100  50,000  the model's API
    requests in flight       worker marie            3  50,000  the configuration

    REQUESTS TO  ACCOUNT    IN FLIGHT  AT MOST  WAITING  HELD BACK
    claude-a     account 0          2        8        3  rate limited until 2026-11-20 14:05
    claude-b     account 0          2        8        3  -

    PROMPT CACHE NOT READ BY  TOKENS LOST  WHY
    k3f9.b attempt 2               21,000  tools[3] differs from k3f9.a attempt 1

    REFUSED TO        REQUESTS  THE LAST ONE
    k3f9.b attempt 2         3  the model `o` is not listed; list it
    ");
    let json = world.run(&["usage", "--json"]).await.out;
    assert_eq!(json.lines().count(), 1);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), usage());
}

#[tokio::test]
async fn usage_of_a_run_is_shown_by_task_and_attempt() {
    let mut report = usage();
    let priced = used(3, json!(0.25), json!({}));
    let attempt = |number: u32| with(json!({ "attempt": number }), priced.clone());
    let task = |id: &str, attempts: Vec<Value>| {
        with(json!({ "task_id": id, "worker": "marie", "attempts": attempts }), priced.clone())
    };
    for (field, value) in [
        ("rehearsal", json!(true)),
        ("run", json!("adhoc")),
        ("short", json!("k3f9")),
        ("name", json!("Term\nreport")),
        ("today", Value::Null),
        ("budgets", json!([])),
        ("limits", json!([])),
        ("worker_limits", json!([])),
        ("cache_breaks", json!([])),
        ("refused", json!([])),
    ] {
        report[field] = value;
    }
    report["all"]["runs"] = json!([]);
    report["all"]["tasks"] =
        json!([task("k3f9.a", vec![attempt(1)]), task("k3f9.b", vec![attempt(1), attempt(2)])]);
    let world = World::with_daemon(answers(&[("/v1/usage", report)]));
    insta::assert_snapshot!(world.run(&["usage", "k3f9"]).await.out, @"
    This is a rehearsal: no model is asked, nothing is billed.

    Run k3f9 (Term report)
    WORKER  REQUESTS  INPUT  OUTPUT  CACHE READ  WRITTEN  FROM CACHE                   COST  SAVED   HELD  WAITED FOR
    anga           3  1,200   3,400      56,000    7,800        86 %                  $0.25  $0.13  $2.00
    marie          5  1,200   3,400      56,000    7,800        86 %  unknown ($0.25 known)  $0.13  $2.00  prompt cache being written 20.0 s, requests per minute 1.5 s
    all            5  1,200   3,400      56,000    7,800        86 %  unknown ($0.25 known)  $0.13  $2.00  prompt cache being written 20.0 s, requests per minute 1.5 s

    MODEL              REQUESTS  INPUT  OUTPUT  CACHE READ  WRITTEN  FROM CACHE   COST  SAVED   HELD  WAITED FOR
    claude-sonnet-5-5         3  1,200   3,400      56,000    7,800        86 %  $0.25  $0.13  $2.00

    TASK         REQUESTS  INPUT  OUTPUT  CACHE READ  WRITTEN  FROM CACHE   COST  SAVED   HELD  WAITED FOR
    k3f9.a              3  1,200   3,400      56,000    7,800        86 %  $0.25  $0.13  $2.00
    k3f9.b              3  1,200   3,400      56,000    7,800        86 %  $0.25  $0.13  $2.00
      attempt 1         3  1,200   3,400      56,000    7,800        86 %  $0.25  $0.13  $2.00
      attempt 2         3  1,200   3,400      56,000    7,800        86 %  $0.25  $0.13  $2.00

    Note: 2 requests are of sub-agents, with $0.12 and 4,500 tokens
    Note: 2 requests are out: at the most $1.50 and 30,000 tokens
    Note: 1 request broke off: $0.50 and 900 tokens are held for what nobody knows of it
    Note: 1 request is of a model without a price; `supervisor doctor` says how to give it one
    ");
    assert_eq!(world.run(&["usage", "../x"]).await.code, 3);
}

#[tokio::test]
async fn workers_are_listed_with_what_they_do() {
    let workers = status()["workers"].clone();
    let world = World::with_daemon(answers(&[("/v1/workers", workers)]));
    insta::assert_snapshot!(world.run(&["workers"]).await.out, @"
    WORKER  MODEL              REPLICAS  KEY      NOW                        WHAT FOR
    marie   claude-sonnet-5-5         2  gateway  paused: 401                Dance teacher of the studio
    anga    claude-sonnet-5-5         2  gateway  anga-1: k3f9.b, attempt 2  Dance teacher of the studio
    ");
}

#[tokio::test]
async fn check_tells_good_files_from_bad_ones() {
    let world = World::new();
    let task = |id: &str, worker: &str, needs: &str| {
        format!(
            "{{\"task_id\": \"{id}\", \"worker\": \"{worker}\", \"description\": \"x\", \
             \"dependencies\": [{needs}]}}"
        )
    };
    world.file("good.json", &task("good", "marie", "\"later\""));
    world.file("tasks/anga/mine.json", "{\"task_id\": \"mine\", \"description\": \"x\"}");
    world.file("anyone.json", "{\"task_id\": \"anyone\", \"description\": \"x\"}");
    world.file(
        "plan.json",
        "{\"tasks\": [{\"id\": \"a\", \"worker\": \"anga\", \"description\": \"x\"}]}",
    );
    let path = |name: &str| world.path(name);
    let files = ["good.json", "tasks/anga/mine.json", "anyone.json", "plan.json"].map(path);
    let mut args = vec!["check"];
    args.extend(files.iter().map(String::as_str));
    let did = world.run(&args).await;
    assert_eq!((did.code, did.err.as_str()), (0, ""));
    insta::assert_snapshot!(did.out, @"
    ok   DIR/good.json (task for marie)
    ok   DIR/tasks/anga/mine.json (task for anga)
    ok   DIR/anyone.json (task; it goes to the worker into whose folder it is put)
    ok   DIR/plan.json (plan of 1 task)
    ");

    world.file("other-name.json", &task("one", "marie", ""));
    world.file("typo.json", "{\n  \"task_id\": \"typo\",\n  \"descripton\": \"x\"\n}\n");
    world.file("who.json", &task("who", "maria", ""));
    world.file("a.json", &task("a", "marie", "\"b\""));
    world.file("b.json", &task("b", "marie", "\"good\", \"a\""));
    world.file("bad-plan.json", "{\"tasks\": [{\"id\": \"a\", \"worker\": \"angi\", \"description\": \"\", \"dependencies\": [\"z\"]}]}");
    let bad = [
        "other-name.json",
        "typo.json",
        "who.json",
        "good.json",
        "a.json",
        "b.json",
        "bad-plan.json",
        "none.json",
    ];
    let files = bad.map(path);
    let mut args = vec!["check"];
    args.extend(files.iter().map(String::as_str));
    let did = world.run(&args).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.out, @"
    bad  DIR/other-name.json
         the file must have the name of its task: rename it to `one.json`
    bad  DIR/typo.json
         line 3, column 14, field `descripton`: unknown field `descripton`
         Did you mean `description`?
    bad  DIR/who.json
         the worker `maria` does not exist (did you mean `marie`?)
    ok   DIR/good.json (task for marie)
    bad  DIR/a.json
         tasks wait for each other: a -> b -> a
    ok   DIR/b.json (task for marie)
    bad  DIR/bad-plan.json
         task `a` names the worker `angi`, which does not exist (did you mean `anga`?)
         task `a` depends on `z`, which is not in the plan
         task `a`: `description` is empty
    bad  DIR/none.json
         No such file or directory (os error 2)
         Check the path, or give `-` to read standard input.
    ");
    insta::assert_snapshot!(did.err, @"Error: 6 of 8 files can't be accepted");
}

#[tokio::test]
async fn logs_follow_a_file_that_is_moved_until_the_task_ends() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    let world_dir = tempfile::tempdir().unwrap();
    let slot = world_dir.path().join("marie-1/sec-001.1");
    fs::create_dir_all(&slot).unwrap();
    let (live, kept) = (slot.join("transcript.jsonl"), world_dir.path().join("kept/sec-001.1"));
    let said = "{\"type\":\"stdout\",\"text\":\"first\"}\n{\"type\":\"std";
    protocol::atomic_file::replace(
        &live,
        said.as_bytes(),
        protocol::atomic_file::Durability::Volatile,
    )
    .unwrap();
    let asked = Arc::new(AtomicU32::new(0));
    let asks = Arc::clone(&asked);
    let (from, to) = (slot.clone(), kept.clone());
    // At the second question the rest is written and the attempt's folder moved; then it has ended.
    let view = async move || {
        let ended = asks.fetch_add(1, Ordering::Relaxed) > 0;
        if ended && from.exists() {
            use std::io::Write;
            let mut file =
                fs::OpenOptions::new().append(true).open(from.join("transcript.jsonl")).unwrap();
            file.write_all(b"out\",\"text\":\"second\"}\n").unwrap();
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            protocol::atomic_file::move_to(&from, &to, protocol::atomic_file::Durability::Volatile)
                .unwrap();
        }
        let status = if ended { "complete" } else { "running" };
        answer(
            200,
            json!({
                "task_id": "sec-001", "run": "adhoc", "worker": "marie", "status": status, "attempt": 1,
                "waiting_for": [], "reason": null, "since": null, "title": "x", "cost_usd": 0.0,
            }),
        )
    };
    let logs = async move || {
        let path = if kept.exists() { kept.join("transcript.jsonl") } else { live };
        answer(
            200,
            json!([{
                "task_id": "sec-001", "worker": "marie", "attempt": 1, "path": path, "live": true,
            }]),
        )
    };
    let routes =
        Router::new().route("/v1/tasks/sec-001", get(view)).route("/v1/logs/sec-001", get(logs));
    let world = World::with_daemon(routes);
    let did = world.run(&["logs", "-f", "sec-001"]).await;
    assert_eq!(did.code, 0);
    insta::assert_snapshot!(did.out, @"
    sec-001 by marie, attempt 1
    first
    second
    ");
}

#[tokio::test]
async fn down_without_a_daemon_has_nothing_to_do() {
    let world = World::new();
    let did = world.run(&["down"]).await;
    assert_eq!((did.code, did.err.as_str()), (0, "No supervisor runs here.\n"));
}

#[tokio::test]
async fn down_waits_until_the_daemon_has_let_go() {
    let world = World::new();
    world.file(".supervisor/lock", "");
    let lock = fs::File::open(world.path(".supervisor/lock")).unwrap();
    lock.lock().unwrap();
    let did = world.run(&["down"]).await;
    assert_eq!(did.code, 4, "a daemon that holds the folder and does not answer: {}", did.err);
    let lock = std::sync::Arc::new(std::sync::Mutex::new(Some(lock)));
    let routes = answers(&[("/v1/health", health())]).route(
        "/v1/shutdown",
        post(async move |axum::Json(order): axum::Json<Value>| {
            assert_eq!(order, json!({ "drain": false, "stop_workers": true }));
            drop(lock.lock().unwrap().take());
            answer(202, json!({}))
        }),
    );
    let running = World::with_daemon(routes);
    fs::hard_link(world.path(".supervisor/lock"), running.path(".supervisor/lock")).unwrap();
    let did = running.run(&["down"]).await;
    assert_eq!(did.code, 0, "{}", did.err);
    insta::assert_snapshot!(did.err, @"The supervisor has stopped. What was interrupted is resumed at the next `up`.");
}

#[tokio::test]
async fn up_with_a_daemon_there_says_what_is_real() {
    let routes = answers(&[("/v1/health", health()), ("/v1/workers", status()["workers"].clone())]);
    let world = World::with_daemon(routes);
    world.file("examples/request.txt", "x");
    let did = world.run(&["up", "--detach", "--runtime", "docker"]).await;
    assert_eq!(did.code, 0);
    insta::assert_snapshot!(did.err, @"
    The supervisor runs already.
    But its runtime is process, and docker is asked for. To change that: supervisor down; make up
    The supervisor is up, and serves /srv/team
      workers  marie, anga
      run as   plain processes: no container keeps them from this machine's files and network
      model    a rehearsal: no model is asked, nothing is billed; all else is real
               To go live: export ANTHROPIC_API_KEY=…; supervisor down; make up
    Note: tasks/ is looked at every 2 s: its file system raises no events

    Next: supervisor submit examples/request.txt
    ");
}

#[tokio::test]
async fn up_refuses_a_repository_that_tracks_a_login() {
    let world = World::new();
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.args(args).current_dir(world.dir.path()).env_remove("GIT_DIR");
        assert!(git.output().unwrap().status.success(), "git {args:?}");
    };
    git(&["init", "--quiet"]);
    world.file("auth-homes/README.md", "x");
    world.file("auth-homes/marie/.credentials.json", "{}");
    git(&["add", "auth-homes/README.md"]);
    assert_eq!(world.run(&["up"]).await.code, 0);
    git(&["add", "--force", "auth-homes"]);
    let did = world.run(&["up"]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: workers' logins are in the git repository
    Caused by: git tracks `auth-homes/marie/.credentials.json`

    Hint: Take them out of git, and take away what they are worth:
        git rm -r --cached auth-homes
        git add auth-homes/.gitignore auth-homes/README.md
        git commit -m 'Stop tracking logins'
        supervisor auth login WORKER     for each worker of which a login was tracked
      and revoke the old logins at claude.ai: whoever has a clone has them.
    ");
}

#[tokio::test]
async fn auth_status_shows_logins_and_never_their_secrets() {
    let world = World::new();
    world.file("workspaces/anga/worker.toml", "description = \"x\"\nauth = \"home\"\n");
    world.file("workspaces/fabien/worker.toml", "description = \"x\"\nauth = \"home\"\n");
    world.file(
        "auth-homes/anga/.credentials.json",
        r#"{"claudeAiOauth":{"accessToken":"SECRET","refreshToken":"SECRET","expiresAt":4102444800000,"scopes":[],"subscriptionType":"max"}}"#,
    );
    world.file("auth-homes/marie/.credentials.json", "not JSON");
    let did = world.run(&["auth", "status"]).await;
    assert_eq!(did.code, 0);
    insta::assert_snapshot!(did.out, @"
    WORKER        AUTH     SIGNED IN      TOKEN UNTIL       NOTE
    anga          home     max            2100-01-01 00:00
    fabien        home     no             -                 `supervisor auth login fabien` signs it in
    marie         gateway  can't be read  -                 uses the supervisor's key
    orchestrator  gateway  no             -                 uses the supervisor's key
    ");
    assert!(!did.out.contains("SECRET") && !did.err.contains("SECRET"));
    let did = world.run(&["auth", "status", "ange"]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: there is no worker `ange`

    Hint: Did you mean `anga`?
    ");
}

#[tokio::test]
async fn schema_and_completions_are_printed() {
    let world = World::new();
    let did = world.run(&["schema", "task"]).await;
    assert_eq!(Some(did.out), protocol::schema::json_schema("task"));
    let did = world.run(&["completions", "bash"]).await;
    assert!(
        did.out.contains("supervisor__subcmd__submit") || did.out.contains("supervisor__submit")
    );
}

#[tokio::test]
async fn check_says_what_a_file_is_that_it_does_not_check() {
    let world = World::new();
    world.file("request.txt", "Should we open a second class?\n");
    world.file("README.md", "# Examples\n");
    world.file("result.json", "{\"task_id\": \"a\", \"attempt\": 1, \"status\": \"complete\"}");
    world.file("event.json", "{\"v\": 1, \"event\": {}}");
    world.file("broken.json", "{\"task_id\": }");
    let names =
        ["request.txt", "README.md", "workspaces/anga/worker.toml", "result.json", "event.json"];
    let files = names.into_iter().chain(["broken.json"]).map(|name| world.path(name));
    let args: Vec<String> = std::iter::once("check".to_owned()).chain(files).collect();
    let did = world.run(&args.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.out, @"
    bad  DIR/request.txt
         it is plain text, not a task or a plan
         If it is a request, nothing need be checked: `supervisor submit FILE`.
    bad  DIR/README.md
         it is plain text, not a task or a plan
         If it is a request, nothing need be checked: `supervisor submit FILE`.
    bad  DIR/workspaces/anga/worker.toml
         it is a configuration, not a task or a plan
         `supervisor doctor` checks supervisor.toml and each worker.toml.
    bad  DIR/result.json
         it is a result, not a task or a plan
         It needs no check: the supervisor writes results.
    bad  DIR/event.json
         it is an event, not a task or a plan
         It needs no check: the supervisor writes the journal.
    bad  DIR/broken.json
         line 1, column 13: expected value
         Mend the JSON there and save the file again.
    ");
}

#[tokio::test]
async fn check_refuses_a_plan_for_the_orchestrator_as_the_daemon_does() {
    let world = World::new();
    let plan =
        "{\"tasks\": [{\"id\": \"a\", \"worker\": \"orchestrator\", \"description\": \"x\"}]}";
    world.file("plan.json", plan);
    let did = world.run(&["check", &world.path("plan.json")]).await;
    assert_eq!(did.code, 3, "{}", did.out);
    assert!(did.out.contains("names the worker `orchestrator`"), "{}", did.out);
}

#[tokio::test]
async fn worker_that_is_newer_than_the_daemon_is_not_called_a_mistake() {
    let refused = json!({
        "kind": "bad_input", "message": "there is no worker `anga`", "causes": [],
        "hint": "`supervisor workers` lists them.",
    });
    let routes = Router::new().route("/v1/tasks", post(async move || answer(422, refused)));
    let did = World::with_daemon(routes).run(&["task", "anga", "Look."]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: there is no worker `anga`

    Hint: `workspaces/anga` came after the supervisor's start. To have it read: supervisor down; supervisor up --detach
    ");
}

#[tokio::test]
async fn status_tells_of_dropped_files_that_nobody_takes() {
    let world = World::with_daemon(answers(&[("/v1/status", status())]));
    let why = "{\"message\": \"line 1, column 9, field `x`: unknown field `x`\"}";
    world.file("tasks/marie/rejected/x.json", "{}");
    world.file("tasks/marie/rejected/x.json.why.json", why);
    // This one was mended and moved back.
    world.file("tasks/marie/rejected/y.json.why.json", why);
    world.file("tasks/marie/waits.json", "{}");
    world.file("tasks/maria/z.json", "{}");
    world.file("tasks/lost.json", "{}");
    world.file("tasks/.gitignore", "*");
    let out = world.run(&["status"]).await.out;
    let notes = out.split_once("\nNote: 1 ").map(|(_, rest)| rest).unwrap_or_default();
    insta::assert_snapshot!(notes, @"
    dropped file was rejected
      tasks/marie/rejected/x.json: line 1, column 9, field `x`: unknown field `x`

    Note: nobody takes tasks/lost.json: it belongs in tasks/<worker>/

    Note: nobody takes tasks/maria/z.json: no worker `maria` is served
    ");
    assert!(!world.run(&["status", "k3f9"]).await.out.contains("rejected"));
}

#[tokio::test]
async fn result_of_a_task_that_waits_points_to_what_it_waits_for() {
    let task = json!({
        "task_id": "b", "run": "adhoc", "worker": "marie", "status": "waiting", "attempt": null,
        "waiting_for": ["a"], "reason": "waits for a (not here yet)", "since": null, "title": "x",
        "cost_usd": 0.0,
    });
    let did = World::with_daemon(answers(&[("/v1/tasks/b", task)])).run(&["result", "b"]).await;
    assert_eq!(did.code, 3);
    insta::assert_snapshot!(did.err, @"
    Error: task b is waiting: there is no result yet
    Caused by: waits for a (not here yet)

    Hint: `supervisor status` shows what it waits for.
    ");
}

#[tokio::test]
async fn gc_without_a_daemon_takes_its_place_and_a_dry_run_removes_nothing() {
    let world = World::new();
    let nothing = world.run(&["gc"]).await;
    assert_eq!((nothing.code, nothing.err.as_str()), (0, ""));
    assert!(nothing.out.starts_with("There is nothing from before "), "{}", nothing.out);
    assert!(!world.dir.path().join(".supervisor").exists());

    fs::create_dir_all(world.path(".supervisor/runs")).unwrap();
    world.file("results/.AbC123.tmp", "half");
    let file = fs::File::options().write(true).open(world.path("results/.AbC123.tmp")).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(7200)).unwrap();
    let dry = world.run(&["gc", "--dry-run", "--json"]).await;
    let report: Value = serde_json::from_str(&dry.out).unwrap();
    let expected = json!([{"kind": "temporary", "name": "results/.AbC123.tmp", "bytes": 4}]);
    assert_eq!((&report["removed"], &report["dry_run"]), (&expected, &json!(true)));
    assert!(file_names(&world, "results").contains(&".AbC123.tmp".to_owned()));

    let done = world.run(&["gc", "--keep", "12h"]).await;
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(done.out.contains("unfinished file"), "{}", done.out);
    assert_eq!(file_names(&world, "results"), [""; 0]);
}

fn file_names(world: &World, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(world.dir.path().join(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[tokio::test]
async fn gc_beside_a_daemon_asks_it() {
    let report = json!({"dry_run": false, "before": "2026-09-21T14:13:20.000Z", "removed": [
        {"kind": "run", "name": ".supervisor/runs/x", "bytes": 2_500_000}], "bytes": 0, "kept": [],
        "failed": ["`results/x`: no such luck"]});
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Value::Null));
    let seen = std::sync::Arc::clone(&asked);
    let clear = async move |body: axum::body::Bytes| {
        *seen.lock().unwrap() = serde_json::from_slice(&body).unwrap();
        axum::Json(report.clone())
    };
    let world = World::with_daemon(Router::new().route("/v1/gc", post(clear)));
    let did = world.run(&["gc", "--keep", "2w", "--results"]).await;
    let request = json!({"keep_seconds": 1_209_600, "dry_run": false, "results": true});
    assert_eq!(*asked.lock().unwrap(), request);
    assert_eq!((did.code, did.err.as_str()), (0, "Note: `results/x`: no such luck\n"));
    insta::assert_snapshot!(did.out, @"
    WHAT    SIZE  NAME
    run   2.5 MB  .supervisor/runs/x

    Removed 1 thing, 2.5 MB, from before 2026-09-21.
    ");
}

#[tokio::test]
async fn gc_where_a_daemon_starts_says_to_wait() {
    let world = World::new();
    fs::create_dir_all(world.path(".supervisor/runs")).unwrap();
    let installation = crate::install::Installation::at(world.dir.path()).unwrap();
    let _lock = crate::lock::Lock::take(&installation).unwrap();
    let did = world.run(&["gc"]).await;
    assert_eq!((did.code, did.out.as_str()), (4, ""));
    insta::assert_snapshot!(did.err, @"
    Error: a supervisor holds this folder, and does not answer
    Caused by: no supervisor runs here
    Caused by: No such file or directory (os error 2)

    Hint: It may be starting or stopping: wait a moment, then run this again.
    ");
}

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gateway::pace::{AccountId, Blocked};
use gateway::{Budget, Caller, Reservation, Scope as Account, Spent, Tokens};
use protocol::{Priority, Usage};
use serde_json::json;

use super::*;
use crate::testing::World;

fn dollars(amount: f64) -> Usd {
    Usd::from_dollars(amount).unwrap()
}

/// Returns the leave for a request that may cost a dollar and use 10,000 tokens. A task is `task.attempt`.
fn out(ledger: &Ledger, worker: &str, run: RunId, task: &str, model: &str) -> Reservation {
    let (task, attempt) = task.split_once('.').unwrap();
    let caller = Caller {
        replica: format!("{worker}-1").parse().unwrap(),
        worker: worker.parse().unwrap(),
        run,
        task: task.parse().unwrap(),
        attempt: Attempt::new(attempt.parse().unwrap()).unwrap(),
        priority: Priority::Medium,
    };
    let worst = Worst { usd: Some(dollars(1.0)), tokens: 10_000 };
    ledger.reserve(&caller, model, worst).unwrap()
}

/// A request of 1,000 tokens of input, 750 of them from the cache, and 100 of output.
fn spent(cost: Option<f64>, uncached: Option<f64>, waits: &[(&str, u64)]) -> Spent {
    let tokens = Tokens {
        input: 200,
        output: 100,
        cache_read: 750,
        cache_write_5m: 50,
        ..Tokens::default()
    };
    Spent {
        tokens,
        cost: cost.map(dollars),
        uncached: uncached.map(dollars),
        complete: true,
        waits: waits.iter().map(|(reason, millis)| ((*reason).to_owned(), *millis)).collect(),
        agent: None,
    }
}

fn run(number: u8) -> RunId {
    format!("0190b5a0-0000-7000-8000-0000000000{number:02x}").parse().unwrap()
}

/// Two days of two runs, with one request out, one that broke off, and one without a price.
fn ledger() -> (Ledger, Reservation) {
    let clock = Arc::new(AtomicU64::new(20_000 * 86_400_000));
    let hands = Arc::clone(&clock);
    let read = move || Time::from_millis(hands.load(Ordering::Relaxed));
    let (ledger, _notices) = Ledger::open(None, read).unwrap();
    out(&ledger, "marie", run(1), "a.1", "m").settle(spent(
        Some(0.25),
        Some(0.5),
        &[("requests", 1500)],
    ));
    clock.fetch_add(86_400_000, Ordering::Relaxed);
    out(&ledger, "marie", run(2), "b.1", "m").settle(spent(
        Some(0.5),
        Some(0.25),
        &[("requests", 500)],
    ));
    let broke_off =
        Spent { complete: false, ..spent(Some(0.125), Some(0.25), &[("stagger", 250)]) };
    let broke_off = Spent { agent: Some("reviewer".to_owned()), ..broke_off };
    out(&ledger, "marie", run(2), "b.2", "m").settle(broke_off);
    out(&ledger, "emma", run(2), "c.1", "new").settle(spent(None, None, &[]));
    let waits = out(&ledger, "emma", run(2), "c.2", "m");
    (ledger, waits)
}

fn question(ledger: &Ledger, one: Option<RunId>, rehearsal: bool) -> Question {
    let entry = |run: RunId| RunEntry {
        run,
        short: run.short(|_| false),
        name: None,
        mode: protocol::RunMode::Request,
        request: None,
        priority: Priority::Medium,
        budget_usd: None,
        budget_tokens: None,
        rehearsal: false,
        opened: Time::ZERO,
        phase: scheduler::RunPhase::Executing,
        plan: None,
        given: Vec::new(),
        cancel_requested: false,
    };
    Question {
        ledger: ledger.clone(),
        limits: Vec::new(),
        worker_limits: Vec::new(),
        cache_breaks: [1, 2]
            .map(|of| CacheBreak {
                run: run(of),
                task: "a".parse().unwrap(),
                attempt: Attempt::FIRST,
                lost: of.into(),
                why: "tools[0] differs".to_owned(),
            })
            .to_vec(),
        refused: Vec::new(),
        budgets: Vec::new(),
        rehearsal,
        run: one.map(entry),
        tasks: ["c", "b"].map(|task| task.parse().unwrap()).to_vec(),
        // The journal of the first is gone.
        runs: vec![(run(2), "k3f9".parse().unwrap(), Some("Report".to_owned()))],
    }
}

#[test]
fn sums_of_a_run_are_those_of_its_requests() {
    let (ledger, _out) = ledger();
    let report = question(&ledger, Some(run(2)), false).answer().unwrap();
    let lost = |report: &UsageReport| -> Vec<u64> {
        report.cache_breaks.iter().map(|of| of.lost_tokens).collect()
    };
    assert_eq!(lost(&report), [2]);
    assert_eq!(lost(&question(&ledger, None, false).answer().unwrap()), [1, 2]);
    let used = Used {
        requests: 3,
        cut_off: 1,
        unpriced: 1,
        usage: Usage {
            input_tokens: 600,
            output_tokens: 300,
            cache_read_input_tokens: 2250,
            cache_creation_input_tokens: 150,
        },
        cache_share: Some(0.75),
        cost_usd: None,
        known_cost_usd: 0.625,
        // -0.25 and 0.125.
        saved_usd: -0.125,
        // Of the one that broke off, and all of the one that turned out to have no price.
        held_usd: 1.875,
        held_tokens: 8900,
        out: 1,
        out_usd: Some(1.0),
        out_tokens: 10_000,
        of_agents: 1,
        of_agents_tokens: 1100,
        of_agents_known_cost_usd: 0.125,
        waits: [("requests".to_owned(), 0.5), ("stagger".to_owned(), 0.25)].into(),
    };
    assert_eq!(report.all.total, used);
    let costs: Vec<_> =
        report.all.workers.iter().map(|of| (of.worker.as_str(), of.used.cost_usd)).collect();
    assert_eq!(costs, [("emma", None), ("marie", Some(0.625))]);
    let models: Vec<_> = report
        .all
        .models
        .iter()
        .map(|of| (of.model.as_str(), of.used.requests, of.used.out))
        .collect();
    assert_eq!(models, [("m", 2, 1), ("new", 1, 0)]);
    let tasks: Vec<_> = report
        .all
        .tasks
        .iter()
        .map(|of| {
            let attempts = of.attempts.iter();
            let attempts = attempts.map(|of| (of.attempt.get(), of.used.requests, of.used.out));
            (of.task_id.as_str(), of.used.requests, attempts.collect::<Vec<_>>())
        })
        .collect();
    let expected = [("c", 1, vec![(1, 1, 0), (2, 0, 1)]), ("b", 2, vec![(1, 1, 0), (2, 1, 0)])];
    assert_eq!(tasks, expected);
    assert_eq!((report.today, report.all.runs), (None, Vec::new()));
}

#[test]
fn today_is_told_from_all_there_was() {
    let (ledger, _out) = ledger();
    let report = question(&ledger, None, false).answer().unwrap();
    assert_eq!(report.day, "2024-10-05");
    let runs = |table: &UsageTable| {
        let runs = table.runs.iter();
        runs.map(|of| (of.run, of.short.as_ref().map(ToString::to_string), of.used.known_cost_usd))
            .collect::<Vec<_>>()
    };
    let second = (run(2), Some("k3f9".to_owned()), 0.625);
    assert_eq!(runs(&report.all), [(run(1), None, 0.25), second.clone()]);
    let today = report.today.unwrap();
    assert_eq!(runs(&today), [second]);
    assert_eq!((report.all.total.requests, today.total.requests), (4, 3));
    assert_eq!((report.all.total.out, today.total.out), (1, 1));
    assert_eq!((report.all.tasks, today.tasks), (Vec::new(), Vec::new()));
}

#[test]
fn rehearsal_costs_nothing_and_counts_the_rest() {
    let (ledger, _out) = ledger();
    let total = question(&ledger, None, true).answer().unwrap().all.total;
    let dollars = [total.known_cost_usd, total.saved_usd, total.held_usd];
    assert_eq!((dollars, total.cost_usd, total.out_usd), ([0.0; 3], Some(0.0), Some(0.0)));
    assert_eq!((total.requests, total.unpriced, total.held_tokens), (4, 0, 8900));
}

#[test]
fn run_of_the_other_ledger_has_no_answer_rather_than_nothing() {
    let (ledger, _out) = ledger();
    assert!(question(&ledger, Some(run(3)), false).answer().is_some(), "it asked for nothing yet");
    assert!(question(&ledger, Some(run(3)), true).answer().is_none());
    assert!(question(&ledger, Some(run(2)), true).answer().is_some(), "it went on as a rehearsal");
    assert!(question(&ledger, Some(RunId::Adhoc), true).answer().is_some(), "it is both");
}

#[test]
fn saving_is_exact_where_the_sums_are_large() {
    let sums = |uncached, cost| Sums {
        uncached: Usd::from_nanos(uncached),
        cost: Usd::from_nanos(cost),
        ..Sums::default()
    };
    let large = 9_000_000_000_000_000_001;
    assert_eq!(saved(&sums(large + 1, large)), 1e-9);
    assert_eq!(saved(&sums(large, large + 1)), -1e-9);
}

#[test]
fn shares_are_rounded_down() {
    let shown = [0.0, 0.29, 0.799_999, 0.8, 0.999_999, 1.0].map(whole_percent);
    assert_eq!(shown, [0.0, 29.0, 79.0, 80.0, 99.0, 100.0]);
}

fn status(
    model: &str,
    waiting: usize,
    blocked: Option<(WaitReason, Scope, Option<u64>)>,
) -> PaceStatus {
    PaceStatus {
        account: AccountId::new("account 0"),
        model: model.into(),
        limits: Vec::new(),
        in_flight: 1,
        window: 4,
        waiting,
        blocked: blocked.map(|(reason, scope, hour)| Blocked {
            reason,
            scope,
            until: hour.map(|hour| Time::ZERO + Duration::from_secs(hour * 3600 + 300)),
        }),
    }
}

#[test]
fn what_limits_hold_back_is_told_once_with_its_end() {
    let whole = Some((WaitReason::RateLimited, Scope::Account, Some(14)));
    let limits = [
        status("claude-a", 2, whole),
        status("claude-b", 1, whole),
        status("claude-c", 0, Some((WaitReason::Overloaded, Scope::Model, None))),
        status("claude-d", 1, Some((WaitReason::InputTokens, Scope::Model, Some(30)))),
        status("claude-e", 0, Some((WaitReason::Requests, Scope::Model, Some(12)))),
        status("claude-f", 3, None),
    ];
    insta::assert_snapshot!(held_back(&limits, Time::ZERO).join("\n"), @"
    account 0 is held back until 14:05 UTC: rate limited; 3 requests wait
    claude-c (account 0) is held back for now: overloaded
    claude-d (account 0) is held back until 1970-01-02 06:05 UTC: input tokens per minute; 1 request waits
    ");
}

#[tokio::test(start_paused = true)]
async fn budgets_tell_what_is_used_held_and_nearly_gone() {
    let world = World::of_diligent_workers();
    world.configure("marie", "budget_usd_per_day = 4.0");
    let daemon = world.up().await;
    let added = daemon.add(json!({"worker": "marie", "description": "x"})).await.unwrap();
    daemon.ended([added.task_id.as_str()]).await;
    let (ledger, task) =
        daemon.ask(move |d| (d.gateways().gateway().ledger().clone(), added.task_id)).await;
    let (views, said) = daemon.ask(|d| (budgets(d, None), notices(d))).await;
    assert_eq!((views.len(), views[0].about.as_str(), said), (1, "worker marie today", Vec::new()));

    ledger.set_budget(Account::Task(task.clone()), Budget { usd: None, tokens: Some(25_000) });
    let name = format!("{task}.1");
    let ask =
        |cost| out(&ledger, "marie", RunId::Adhoc, &name, "m").settle(spent(Some(cost), None, &[]));
    [0.5; 4].into_iter().for_each(ask);
    let broke_off = Spent { complete: false, ..spent(Some(0.25), None, &[]) };
    out(&ledger, "marie", RunId::Adhoc, &name, "m").settle(broke_off);
    // 2.00 is spent, and 1.00 is spent or held for the one that broke off: 75 %.
    let (views, said) = daemon.ask(|d| (budgets(d, Some(RunId::Adhoc)), notices(d))).await;
    let expected = BudgetView {
        scope: HoldScope::Worker("marie".parse().unwrap()),
        about: "worker marie today".to_owned(),
        usd: Some(4.0),
        tokens: None,
        used_usd: Some(3.0),
        used_tokens: 14_400,
        out_usd: 0.0,
        out_tokens: 0,
        share: 0.75,
    };
    assert_eq!(views[0], expected);
    assert_eq!((views[1].about.clone(), views[1].share), (format!("task {task}"), 0.576));
    assert_eq!((views.len(), said), (2, Vec::<String>::new()));
    ask(0.25);
    let said = daemon.ask(|d| notices(d)).await;
    assert_eq!(said, ["the budget of worker marie today is used to 81 % ($3.25 of $4.00)"]);
    let today = daemon.ask(|d| today(d)).await;
    assert_eq!((today.requests, today.cost_usd, today.tokens), (6, Some(2.5), 6600));
}

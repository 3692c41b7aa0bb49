use proptest::prelude::*;
use protocol::{Task, TaskResult, Usage};
use scheduler::TaskState;
use serde_json::json;

use super::*;
use crate::admit;
use crate::api::types::SubmitRun;
use crate::testing::{Job, World, until};

#[test]
fn median_and_ninetieth_percentile_are_those_of_the_book() {
    let of = |figures: &[f64]| spread(figures.to_vec()).map(|of| (of.median, of.p90));
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[3.0]), Some((3.0, 3.0)));
    assert_eq!(of(&[5.0, 1.0]), Some((3.0, 5.0)));
    assert_eq!(of(&[9.0, 1.0, 2.0]), Some((2.0, 9.0)));
    let ten: Vec<f64> = (1..=10).map(f64::from).collect();
    assert_eq!(of(&ten), Some((5.5, 9.0)));
    let eleven: Vec<f64> = (1..=11).map(f64::from).collect();
    assert_eq!(of(&eleven), Some((6.0, 10.0)));
    let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
    assert_eq!(of(&hundred), Some((50.5, 90.0)));
}

proptest! {
    #[test]
    fn half_are_on_each_side_of_the_median_and_nine_of_ten_below_the_percentile(
        figures in prop::collection::vec(0_u32..50, 1..200),
    ) {
        let figures: Vec<f64> = figures.into_iter().map(f64::from).collect();
        let Spread { median, p90 } = spread(figures.clone()).unwrap();
        let count = |of: &dyn Fn(&f64) -> bool| figures.iter().filter(|f| of(f)).count();
        let all = figures.len();
        prop_assert!(count(&|f| *f < median) * 2 <= all);
        prop_assert!(count(&|f| *f > median) * 2 <= all);
        prop_assert!(count(&|f| *f <= p90) * 10 >= all * 9);
        prop_assert!(count(&|f| *f < p90) * 10 < all * 9, "a smaller one would do");
        prop_assert!(figures.contains(&p90) && p90 >= median);
    }
}

#[tokio::test(start_paused = true)]
async fn past_is_the_latest_hundred_that_were_completed_and_real() {
    let world = World::of_diligent_workers();
    let daemon = world.up().await;
    let task = json!({"task_id": "past", "worker": "marie", "description": "x"});
    daemon.add(task).await.unwrap();
    daemon.ended(["past"]).await;
    let name: TaskId = "past".parse().unwrap();
    let entry = daemon.ask(move |d| d.scheduler().task(&name).cloned()).await.unwrap();
    let past_of = |number: u64, cost_usd, change: &dyn Fn(&mut TaskEntry, &mut TaskResult)| {
        let mut entry = entry.clone();
        let mut result = entry.result.as_deref().unwrap().clone();
        result.finished_at = Time::from_millis(number);
        entry.cost_usd = cost_usd;
        entry.usage = Usage { input_tokens: 10, output_tokens: number, ..Usage::default() };
        change(&mut entry, &mut result);
        TaskEntry { result: Some(result.into()), ..entry }
    };
    let same = |_: &mut TaskEntry, _: &mut TaskResult| {};
    // Those before the hundred cost much; they come in no order.
    let mut entries: Vec<_> = (1..=20).map(|n| past_of(n, Some(1000.0), &same)).collect();
    entries.extend((21..=120).rev().map(|n| past_of(n, Some((n - 20) as f64), &same)));
    let no = Some(7777.0);
    entries.push(past_of(200, no, &|_, result| result.rehearsal = true));
    entries.push(past_of(200, no, &|entry, _| entry.state = TaskState::Ended(Status::Failed)));
    let of_kind = |entry: &mut TaskEntry, kind| {
        entry.task = Task { kind, ..Task::clone(&entry.task) }.into();
    };
    entries.push(past_of(200, no, &|entry, _| of_kind(entry, TaskKind::Plan)));
    let emma = |entry: &mut TaskEntry, _: &mut TaskResult| {
        entry.task = Task { worker: "emma".parse().unwrap(), ..Task::clone(&entry.task) }.into();
    };
    entries.push(past_of(200, None, &emma));
    entries.push(past_of(201, Some(3.0), &emma));

    let planned = ["marie", "emma", "marie", "anga"]
        .map(|worker| ("x".parse().unwrap(), worker.parse().unwrap(), TaskKind::Work));
    let found = past(&planned, entries.iter());
    let spread = |median, p90| Some(Spread { median, p90 });
    let of = |worker: &str, tasks, unpriced, cost_usd, tokens| Past {
        worker: worker.parse().unwrap(),
        kind: TaskKind::Work,
        tasks,
        unpriced,
        cost_usd,
        tokens,
    };
    let expected = [
        of("marie", 100, 0, spread(50.5, 90.0), spread(80.5, 120.0)),
        of("emma", 2, 1, spread(3.0, 3.0), spread(210.5, 211.0)),
        of("anga", 0, 0, None, None),
    ];
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn sum_is_that_of_all_tasks_or_unknown_with_what_is_known() {
    let world = World::new(async |job: Job| {
        let plan = json!({"tasks": [{"id": "a", "worker": "marie", "description": "x"}]});
        let splits = job.assignment.workers.is_some();
        job.hand_in(&TaskResult {
            plan: splits.then_some(plan),
            report: Some("# Done".to_owned()),
            usage: Usage { output_tokens: if splits { 30 } else { 200 }, ..Usage::default() },
            cost_usd: Some(if splits { 0.25 } else { 0.5 }),
            ..job.done(&[])
        });
        None
    });
    let daemon = world.up().await;
    let ask = |request| SubmitRun { request: Some(request), ..SubmitRun::default() };
    let request = ask("x".to_owned());
    let run = daemon.ask(|d| admit::run(d, request)).await.unwrap().run;
    until("the run has ended", async || world.installation.summary(run).exists().then_some(()))
        .await;
    let estimate = |workers: &[&str]| {
        let task = |(n, worker): (usize, &&str)| json!({"id": format!("t{n}"), "worker": worker, "description": "x"});
        let tasks: Vec<_> = workers.iter().enumerate().map(task).collect();
        let plan: Plan = serde_json::from_value(json!({ "tasks": tasks })).unwrap();
        daemon.ask(move |d| of(d.scheduler(), &plan))
    };
    let known = estimate(&["marie", "marie"]).await;
    // Split, twice marie, answered.
    let cost = Spread { median: 1.75, p90: 1.75 };
    assert_eq!((known.cost_usd, known.known_cost_usd), (Some(cost), cost));
    assert_eq!(known.tokens, Some(Spread { median: 630.0, p90: 630.0 }));
    let unknown = estimate(&["marie", "emma"]).await;
    let known = Spread { median: 1.25, p90: 1.25 };
    assert_eq!((unknown.cost_usd, unknown.known_cost_usd, unknown.tokens), (None, known, None));
    let of_tasks: Vec<_> =
        unknown.tasks.iter().map(|task| (task.id.as_str(), task.cost_usd.is_some())).collect();
    assert_eq!(of_tasks, [("plan", true), ("t0", true), ("t1", false), ("answer", true)]);
}

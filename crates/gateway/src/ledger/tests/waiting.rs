//! Requests that wait for others.

use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn paused() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_take_turns_near_the_end_of_a_budget_and_only_what_can_not_fit_ends() {
    let (ledger, _, _) = in_memory();
    ledger.set_budget(Scope::Run(emma().run), usd(100));
    // Each may take 30 and takes 10: seven fit, three at once at first, then fewer.
    let requests = (0..16).map(|n| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let caller = caller("marie", 1, &format!("t{n}"));
            let give_up = Instant::now() + HOUR;
            let out = ledger.reserve_when_free(&caller, "m", worst(30, 1), give_up).await?;
            sleep(Duration::from_secs(5)).await;
            out.settle(spent(10, 1));
            Ok::<_, Refused>(())
        })
    });
    let mut fates = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        fates.push(request.await.unwrap());
    }
    assert_eq!(fates.iter().filter(|fate| fate.is_ok()).count(), 8);
    assert!(fates[..8].iter().all(Result::is_ok), "first come, first served");
    assert!(fates.iter().flat_map(|fate| fate.as_ref().err()).all(|refused| !refused.may_pass()));
    assert_eq!(standing(&ledger, &Scope::Run(emma().run)), [(80, 8), (0, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_large_request_is_not_overtaken_by_small_ones() {
    let (ledger, _, _) = in_memory();
    ledger.set_budget(Scope::Day, usd(100));
    let out = ledger.reserve(&emma(), "m", worst(50, 0)).unwrap();
    let large = tokio::spawn({
        let ledger = ledger.clone();
        async move {
            let give_up = Instant::now() + HOUR;
            ledger.reserve_when_free(&emma(), "m", worst(80, 0), give_up).await
        }
    });
    tokio::task::yield_now().await;
    let small = caller("paul", 2, "liam");
    let refused = ledger.reserve(&small, "m", worst(1, 0)).unwrap_err();
    assert!(refused.may_pass());
    let waits = ledger.reserve_when_free(&small, "m", worst(30, 0), Instant::now() + HOUR);
    let ((), small) = tokio::join!(
        async {
            out.release();
            large.await.unwrap().unwrap().settle(spent(40, 0));
        },
        waits
    );
    small.unwrap().release();
}

#[tokio::test(start_paused = true)]
async fn a_raise_and_a_new_day_wake_who_waits_and_time_runs_out() {
    let (ledger, _, hands) = in_memory();
    ledger.set_budget(Scope::Day, usd(100));
    let out = ledger.reserve(&emma(), "m", worst(80, 0)).unwrap();
    let begin = Instant::now();
    let wait = |ledger: &Ledger| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            let give_up = Instant::now() + HOUR;
            let allowed = ledger.reserve_when_free(&emma(), "m", worst(30, 0), give_up).await;
            (allowed, begin.elapsed())
        })
    };
    let raised = wait(&ledger);
    sleep(Duration::from_millis(10_500)).await;
    ledger.set_budget(Scope::Day, usd(110));
    let (allowed, after) = raised.await.unwrap();
    allowed.unwrap().release();
    assert_eq!(after.as_millis(), 10_500);

    ledger.set_budget(Scope::Day, usd(100));
    let tomorrow = wait(&ledger);
    sleep(Duration::from_secs(10)).await;
    hands.next_day();
    let (allowed, after) = tomorrow.await.unwrap();
    allowed.unwrap().release();
    assert!(after.as_secs() <= 22, "{after:?}");

    let today = ledger.reserve(&emma(), "m", worst(80, 0)).unwrap();
    let (refused, after) = wait(&ledger).await.unwrap();
    assert!(refused.unwrap_err().may_pass());
    assert!(after >= HOUR);
    out.release();
    today.release();
    assert!(!ledger.0.lock().books.anybody_waits());
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_waited_for() {
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let ledger = open(&dir.path().join("ledger.jsonl"), &hands);
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let good = ledger.0.lock().lines.log().swap_file(full);
    let waiting = tokio::spawn({
        let ledger = ledger.clone();
        async move {
            let give_up = Instant::now() + HOUR;
            ledger.reserve_when_free(&emma(), "m", worst(1, 1), give_up).await
        }
    });
    sleep(Duration::from_secs(60)).await;
    assert!(!waiting.is_finished());
    ledger.0.lock().lines.log().swap_file(good);
    waiting.await.unwrap().unwrap().release();
}

#[derive(Clone, Debug)]
struct Visit {
    after: u64,
    caller: usize,
    worst: u64,
    takes: u64,
    lasts: u64,
    /// How long the client waits before it goes away.
    patience: u64,
    drops: bool,
}

fn visit() -> impl Strategy<Value = Visit> {
    let patience = prop_oneof![4 => Just(1_000_000), 1 => 0..20_000_u64];
    (
        0..20_000_u64,
        0..16_usize,
        0..60_u64,
        0..=100_u64,
        0..10_000_u64,
        patience,
        prop::bool::weighted(0.1),
    )
        .prop_map(|(after, caller, worst, takes, lasts, patience, drops)| {
            let takes = worst * takes / 100;
            Visit { after, caller, worst, takes, lasts, patience, drops }
        })
}

proptest! {
    #[test]
    fn whoever_waits_comes_to_an_end_and_no_budget_is_passed(
        visits in prop::collection::vec(visit(), 1..60),
        budgets in prop::collection::vec(prop::option::of(0..400_u64), 4),
        raises in prop::collection::vec((0..30_000_u64, 0..4_usize, 0..100_u64), 0..4),
    ) {
        paused().block_on(async {
            let (ledger, _, _) = in_memory();
            let scopes =
                [Scope::Run(run(1)), Scope::Run(run(2)), Scope::Worker("marie".parse().unwrap()), Scope::Day];
            let limits: Vec<_> = budgets.iter().map(|limit| limit.map(AtomicU64::new)).collect();
            for (scope, limit) in scopes.iter().zip(&budgets) {
                ledger.set_budget(scope.clone(), limit.map(usd).unwrap_or_default());
            }
            let took = Arc::new(AtomicU64::new(0));
            let tasks: Vec<_> = visits.into_iter().map(|visit| {
                let (ledger, took) = (ledger.clone(), Arc::clone(&took));
                tokio::spawn(async move {
                    sleep(Duration::from_millis(visit.after)).await;
                    let n = visit.caller;
                    let caller = caller(["marie", "paul"][n % 2], (n % 3) as u8, &format!("t{n}"));
                    let waits = ledger.reserve_when_free(&caller, "m", worst(visit.worst, 1), Instant::now() + HOUR);
                    match timeout(Duration::from_millis(visit.patience), waits).await {
                        Ok(Ok(out)) => {
                            sleep(Duration::from_millis(visit.lasts)).await;
                            took.fetch_add(visit.takes, Ordering::Relaxed);
                            if visit.drops { drop(out) } else { out.settle(spent(visit.takes, 1)) }
                        }
                        Ok(Err(refused)) => assert!(!refused.may_pass(), "{refused}"),
                        Err(_gone) => {}
                    }
                })
            }).collect();
            let raising = async {
                let begin = Instant::now();
                let mut raises = raises;
                raises.sort_unstable();
                for (at, scope, by) in raises {
                    tokio::time::sleep_until(begin + Duration::from_millis(at)).await;
                    if let Some(limit) = &limits[scope] {
                        let raised = limit.fetch_add(by, Ordering::Relaxed) + by;
                        ledger.set_budget(scopes[scope].clone(), usd(raised));
                    }
                }
            };
            let begin = Instant::now();
            tokio::join!(raising, async {
                for task in tasks {
                    task.await.unwrap();
                }
            });
            // 60 visits of 10 s, one after the other at the worst: nobody hung until the hour was over.
            assert!(begin.elapsed() < HOUR, "{:?}", begin.elapsed());
            for (scope, limit) in scopes.iter().zip(&limits) {
                let [(spent, _), (held, _)] = standing(&ledger, scope);
                let limit = limit.as_ref().map_or(u64::MAX, |limit| limit.load(Ordering::Relaxed));
                assert!(spent + held <= limit, "{scope}: {spent} + {held} > {limit}");
                assert_eq!(ledger.standing(scope).in_flight, 0);
            }
            if let Some(limit) = &limits[3] {
                assert!(took.load(Ordering::Relaxed) <= limit.load(Ordering::Relaxed));
            }
            assert!(!ledger.0.lock().books.anybody_waits());
        });
    }
}

#[test]
fn sixteen_threads_spend_a_budget_and_not_a_cent_more() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(8).enable_time().build();
    let (dir, hands) = (tempfile::tempdir().unwrap(), Hands::new());
    let path = dir.path().join("ledger.jsonl");
    let ledger = open(&path, &hands);
    let limit = 20_000;
    ledger.set_budget(Scope::Run(run(1)), usd(limit));
    ledger.set_budget(Scope::Day, usd(limit + 300));
    let took = Arc::new(AtomicU64::new(0));
    runtime.unwrap().block_on(async {
        let workers: Vec<_> = (0..16_u64)
            .map(|n| {
                let (ledger, took) = (ledger.clone(), Arc::clone(&took));
                tokio::spawn(async move {
                    let caller = caller(&format!("w{n}"), 1, &format!("t{n}"));
                    for i in 0.. {
                        let give_up = Instant::now() + HOUR;
                        let most = 10 + (n + i) % 90;
                        let out = match ledger
                            .reserve_when_free(&caller, "m", worst(most, 1), give_up)
                            .await
                        {
                            Ok(out) => out,
                            Err(refused) => {
                                assert!(!refused.may_pass(), "{refused}");
                                return;
                            }
                        };
                        let [(spent_now, _), (held, _)] = standing(&ledger, &Scope::Run(run(1)));
                        assert!(spent_now + held <= limit);
                        tokio::task::yield_now().await;
                        let cost = most * (i % 5) / 4;
                        took.fetch_add(cost, Ordering::Relaxed);
                        out.settle(spent(cost, 1));
                    }
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap();
        }
    });
    let took = took.load(Ordering::Relaxed);
    // All is used: what is left is less than any request can take.
    assert!((limit - 100..=limit).contains(&took), "{took}");
    assert_eq!(standing(&ledger, &Scope::Run(run(1))).map(|(usd, _)| usd), [took, 0]);
    assert_eq!(ledger.totals(&Filter::default()), open(&path, &hands).totals(&Filter::default()));
}

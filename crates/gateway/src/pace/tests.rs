//! What a client sees.

mod model;
mod outages;

use std::{
    future::Future,
    sync::{Arc, Mutex},
};

use http::{HeaderMap, HeaderName, StatusCode};
use protocol::{Priority, Time, WorkerId};
use tokio::time::{Duration, Instant, advance, sleep};

use super::{
    core::{Asked, Core, End},
    *,
};
use crate::tokens::Tokens;

const WALL: u64 = 1_791_813_600_000;
const MINUTE: Duration = Duration::from_secs(60);

fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

fn want(now: Instant) -> Want {
    Want {
        account: AccountId::new("key"),
        worker: worker("marie"),
        model: "sonnet".into(),
        priority: Priority::Medium,
        input: 1000,
        output: 100,
        since: now,
        give_up: now + 5 * MINUTE,
        waited: Waits::default(),
    }
}

fn pace(config: PaceConfig) -> Pace {
    Pace::at(config, Time::from_millis(WALL), 1)
}

fn of_account(limits: Limits) -> Pace {
    pace(PaceConfig { account: limits, ..PaceConfig::default() })
}

fn requests(per_minute: u32) -> Limits {
    Limits { requests_per_minute: Some(per_minute), ..Limits::default() }
}

fn at_once(most: u32) -> Limits {
    Limits { max_in_flight: Some(most), ..Limits::default() }
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())
    };
    lines.iter().map(line).collect()
}

/// Returns the outcome, if there is one without waiting.
async fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        outcome = future => Some(outcome),
        () = std::future::ready(()) => None,
    }
}

async fn go(pace: &Pace, want: Want) -> Turn {
    let turn = now_or_never(pace.turn(want)).await;
    turn.expect("nothing should hold it back").expect("it should go")
}

async fn waits(pace: &Pace, want: Want) -> bool {
    now_or_never(pace.turn(want)).await.is_none()
}

fn again(turn: &mut Turn, status: u16, lines: &[(&str, &str)]) -> Want {
    match turn.answered(StatusCode::from_u16(status).unwrap(), &headers(lines)) {
        Next::Again(want) => *want,
        Next::Deliver => panic!("{status} should go again"),
    }
}

fn good(turn: &mut Turn) {
    assert!(matches!(turn.answered(StatusCode::OK, &HeaderMap::new()), Next::Deliver));
}

/// Starts requests that hold their turns for a second each, and returns in which order they went.
async fn order(pace: &Pace, wants: Vec<(&'static str, Want)>) -> Vec<&'static str> {
    let went = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = wants
        .into_iter()
        .map(|(name, want)| {
            let (pace, went) = (pace.clone(), Arc::clone(&went));
            tokio::spawn(async move {
                let turn = pace.turn(want).await.unwrap();
                went.lock().unwrap().push(name);
                sleep(Duration::from_secs(1)).await;
                drop(turn);
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let went = went.lock().unwrap();
    went.clone()
}

#[tokio::test(start_paused = true)]
async fn idle_gateway_holds_nothing_back() {
    let pace = pace(PaceConfig::default());
    let now = Instant::now();
    let mut turns = Vec::new();
    for _ in 0..16 {
        turns.push(go(&pace, want(now)).await);
    }
    assert!(turns.iter().all(|turn| turn.waited().total().is_zero()));
    // Each good answer makes room for two: thousands go at once after a few of them.
    for _ in 0..8 {
        turns.iter_mut().for_each(good);
        for _ in 0..turns.len() {
            turns.push(go(&pace, want(now)).await);
        }
    }
    assert_eq!(turns.len(), 16 << 8);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_slow_to_begin_do_not_hold_others_back_for_long() {
    let pace = pace(PaceConfig::default());
    let now = Instant::now();
    let turns = (0..1000).map(|_| pace.turn(want(now)));
    futures_util::future::join_all(turns).await;
    assert!(now.elapsed() < Duration::from_secs(10), "{:?}", now.elapsed());
}

#[tokio::test(start_paused = true)]
async fn higher_priority_goes_first_and_then_whoever_has_waited_longest() {
    let pace = of_account(at_once(1));
    sleep(MINUTE).await;
    let now = Instant::now();
    let of = |priority, ago| Want { priority, since: now - Duration::from_secs(ago), ..want(now) };
    let wants = vec![
        ("first", of(Priority::Low, 0)),
        ("low", of(Priority::Low, 5)),
        ("medium, younger", of(Priority::Medium, 3)),
        ("medium, older", of(Priority::Medium, 4)),
        ("high", of(Priority::High, 0)),
    ];
    let went = order(&pace, wants).await;
    assert_eq!(went, ["first", "high", "medium, older", "medium, younger", "low"]);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_waited_long_enough_goes_before_higher_priority() {
    let pace = of_account(at_once(1));
    sleep(5 * MINUTE).await;
    let now = Instant::now();
    let of = |priority, ago| Want { priority, since: now - Duration::from_secs(ago), ..want(now) };
    let wants = vec![
        ("first", of(Priority::Low, 0)),
        ("high", of(Priority::High, 0)),
        ("low, two minutes", of(Priority::Low, 121)),
        ("low, less", of(Priority::Low, 119)),
    ];
    assert_eq!(order(&pace, wants).await, ["first", "low, two minutes", "high", "low, less"]);
}

#[tokio::test(start_paused = true)]
async fn low_priority_is_not_starved_by_an_endless_stream_of_high() {
    let pace = of_account(at_once(1));
    let now = Instant::now();
    let held = go(&pace, want(now)).await;
    let low = {
        let pace = pace.clone();
        let want = Want { priority: Priority::Low, ..want(now) };
        tokio::spawn(async move { pace.turn(want).await.map(|turn| turn.waited().total()) })
    };
    // Twice as many as can go, for ever.
    let stream = {
        let pace = pace.clone();
        tokio::spawn(async move {
            loop {
                sleep(Duration::from_millis(500)).await;
                let pace = pace.clone();
                tokio::spawn(async move {
                    let want = Want { priority: Priority::High, ..want(Instant::now()) };
                    if let Ok(turn) = pace.turn(want).await {
                        sleep(Duration::from_secs(1)).await;
                        drop(turn);
                    }
                });
            }
        })
    };
    sleep(Duration::from_secs(1)).await;
    drop(held);
    let waited = low.await.unwrap().unwrap();
    assert!(waited < 5 * MINUTE, "{waited:?}");
    stream.abort();
}

#[tokio::test(start_paused = true)]
async fn worker_at_its_limit_holds_up_no_other() {
    let config = PaceConfig {
        workers: [(worker("marie"), at_once(1)), (worker("paul"), requests(2))].into(),
        ..PaceConfig::default()
    };
    let pace = pace(config);
    let now = Instant::now();
    let one = go(&pace, want(now)).await;
    let first = pace.clone();
    let urgent = Want { priority: Priority::High, ..want(now) };
    let waiting = tokio::spawn(async move { first.turn(urgent).await.map(drop) });
    tokio::task::yield_now().await;
    assert_eq!(pace.status()[0].waiting, 1);

    for name in ["emma", "paul", "paul", "emma"] {
        let other = Want { priority: Priority::Low, worker: worker(name), ..want(now) };
        drop(go(&pace, other).await);
    }
    // The time that a rate takes is waited for, too, although something else is waited for already.
    let paul = pace.turn(Want { worker: worker("paul"), ..want(now) }).await.unwrap();
    assert_eq!(now.elapsed().as_secs(), 30);
    assert_eq!(paul.waited().of(WaitReason::Requests).as_secs(), 30);
    assert!(!waiting.is_finished());
    drop(one);
    waiting.await.unwrap().unwrap();
    assert_eq!(now.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn model_at_its_limit_holds_up_no_other_and_one_pattern_is_one_limit() {
    let config =
        PaceConfig { models: vec![("opus-*".to_owned(), at_once(1))], ..PaceConfig::default() };
    let pace = pace(config);
    let now = Instant::now();
    let of = |model: &str| Want { model: model.into(), ..want(now) };
    let _one = go(&pace, of("opus-1")).await;
    assert!(waits(&pace, of("opus-2")).await);
    let held = pace.clone();
    let opus = of("opus-1");
    let waiting = tokio::spawn(async move { held.turn(opus).await.map(drop) });
    tokio::task::yield_now().await;
    let _other = go(&pace, of("sonnet")).await;
    // Limits of one account are not another's.
    let _account = go(&pace, Want { account: AccountId::new("other"), ..of("opus-1") }).await;
    assert!(!waiting.is_finished());
}

#[tokio::test(start_paused = true)]
async fn wait_that_is_known_to_be_too_long_is_told_at_once() {
    let pace = of_account(requests(1));
    let now = Instant::now();
    drop(go(&pace, want(now)).await);
    let hurried = Want { give_up: now + Duration::from_secs(59), ..want(now) };
    let held = pace.turn(hurried).await.unwrap_err();
    assert_eq!(now.elapsed(), Duration::ZERO);
    assert_eq!(held.reason, WaitReason::Requests);
    assert_eq!(held.until.unwrap().as_millis(), WALL + 60_000);
    assert_eq!(
        held.to_string(),
        "account `key` is at its limit of requests per minute until 2026-10-12T14:01:00.000Z"
    );
    let patient = pace.turn(want(now)).await.unwrap();
    assert_eq!(patient.waited().of(WaitReason::Requests).as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn wait_whose_end_is_unknown_ends_when_the_client_gives_up() {
    let pace = of_account(at_once(1));
    let now = Instant::now();
    let _turn = go(&pace, want(now)).await;
    let held = pace.turn(want(now)).await.unwrap_err();
    assert_eq!((held.reason, held.until), (WaitReason::InFlight, None));
    assert_eq!(now.elapsed().as_secs(), 300);
    assert_eq!(held.to_string(), "account `key` is at its limit of requests in flight");
    assert_eq!(pace.status()[0].waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn limit_of_nothing_is_told_at_once() {
    let pace = of_account(requests(0));
    let held = pace.turn(want(Instant::now())).await.unwrap_err();
    assert_eq!(held.reason, WaitReason::Requests);
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_away_leaves_the_queue_or_gives_its_turn_to_the_next() {
    let pace = of_account(at_once(1));
    let now = Instant::now();
    let turn = go(&pace, want(now)).await;
    assert!(waits(&pace, want(now)).await);
    assert_eq!(pace.status()[0].waiting, 0);

    // The turn is granted, but whoever waited for it goes away before it has seen it.
    let mut first = Box::pin(pace.turn(want(now)));
    let mut second = Box::pin(pace.turn(want(now)));
    assert!(now_or_never(&mut first).await.is_none());
    assert!(now_or_never(&mut second).await.is_none());
    drop(turn);
    drop(first);
    assert!(now_or_never(&mut second).await.expect("the turn should be its").is_ok());
    drop(second);
    assert_eq!(pace.status()[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn turn_counts_as_estimated_until_it_is_known_what_it_cost() {
    let limits = Limits { input_tokens_per_minute: Some(10_000), ..Limits::default() };
    let pace = of_account(limits);
    let left = || pace.status()[0].limits[0].left;
    let now = Instant::now();
    let of = |input| Want { input, ..want(now) };
    let mut settled = go(&pace, of(2_000)).await;
    good(&mut settled);
    assert_eq!(left(), 8_000);
    let tokens = Tokens { input: 500, cache_read: 9_000, cache_write_5m: 400, ..Tokens::default() };
    settled.settle(&tokens);
    assert_eq!(left(), 9_100);
    // It has learned that estimates are too high: 1900 of 3000 are taken for those that it has seen.
    let dropped = go(&pace, of(1_000)).await;
    let taken = 9_100 - left();
    assert!((500..900).contains(&taken), "{taken}");
    drop(dropped);
    assert_eq!(left(), 9_100 - taken);
    go(&pace, of(3_000)).await.release();
    assert_eq!(left(), 9_100 - taken);
    // Debt is paid off before anybody goes.
    let mut debtor = go(&pace, of(1)).await;
    good(&mut debtor);
    debtor.settle(&Tokens { input: 20_000, ..Tokens::default() });
    assert!(left() < -10_000);
    let waited = pace.turn(of(1)).await.unwrap().waited().of(WaitReason::InputTokens);
    assert!(waited > MINUTE, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_server_says_overrides_what_is_believed() {
    let config = PaceConfig {
        models: vec![("sonnet".to_owned(), requests(1_000))],
        ..PaceConfig::default()
    };
    let pace = pace(config);
    let now = Instant::now();
    let mut turn = go(&pace, want(now)).await;
    let lines = [
        ("anthropic-ratelimit-requests-limit", "60"),
        ("anthropic-ratelimit-requests-remaining", "4"),
    ];
    assert!(matches!(turn.answered(StatusCode::OK, &headers(&lines)), Next::Deliver));
    let server = |pace: &Pace| {
        let limits = pace.status().remove(0).limits;
        let server = limits.into_iter().find(|limit| limit.source == Source::Server).unwrap();
        (server.limit, server.left)
    };
    // Three of sixty stay unused.
    assert_eq!(server(&pace), (60, 1));
    drop(go(&pace, want(now)).await);
    let second = pace.turn(want(now)).await.unwrap();
    assert_eq!(second.waited().of(WaitReason::Requests).as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn answer_that_was_overtaken_and_nonsense_raise_nothing() {
    let pace = pace(PaceConfig::default());
    let now = Instant::now();
    let mut turns = Vec::new();
    for _ in 0..4 {
        turns.push(go(&pace, want(now)).await);
    }
    let mut tell = |turn: usize, limit: &str, remaining: &str, status| {
        let lines = [
            ("anthropic-ratelimit-input-tokens-limit", limit),
            ("anthropic-ratelimit-input-tokens-remaining", remaining),
        ];
        let _ = turns[turn].answered(status, &headers(&lines));
        let limits = pace.status().remove(0).limits;
        limits.first().map(|limit| (limit.limit, limit.left))
    };
    let ok = StatusCode::OK;
    assert_eq!(tell(0, "many", "-1", ok), None);
    // Two others are on their way and may not be in it.
    assert_eq!(tell(2, "60000", "20000", ok), Some((60_000, 20_000)));
    assert_eq!(tell(1, "60000", "50000", ok), Some((60_000, 20_000)));
    assert_eq!(tell(1, "60000", "10000", ok), Some((60_000, 20_000)));
    // A refusal is news, but raises nothing either: only what was taken for it comes back.
    let refused = tell(1, "60000", "50000", StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused, Some((60_000, 21_000)));
    assert_eq!(tell(3, "60000", "50000", ok), Some((60_000, 50_000)));
}

/// The API asks for time: nothing goes to that model, and everything to others.
#[tokio::test(start_paused = true)]
async fn refusal_holds_back_all_requests_of_the_model_and_no_other() {
    let pace = pace(PaceConfig::default());
    let now = Instant::now();
    let mut turn = go(&pace, want(now)).await;
    let same = again(&mut turn, 429, &[("retry-after", "20")]);
    assert_eq!(same.since, now);
    for other in [
        Want { model: "opus".into(), ..want(now) },
        Want { account: AccountId::new("other"), ..want(now) },
    ] {
        let _turn = go(&pace, other).await;
    }
    let hurried = Want { give_up: now + Duration::from_secs(19), ..want(now) };
    let held = pace.turn(hurried).await.unwrap_err();
    assert_eq!((held.reason, now.elapsed()), (WaitReason::RateLimited, Duration::ZERO));
    assert_eq!(held.until.unwrap().as_millis(), WALL + 20_000);

    let turn = pace.turn(same).await.unwrap();
    let waited = turn.waited().of(WaitReason::RateLimited).as_secs_f64();
    assert!((20.0..22.1).contains(&waited), "{waited}");
}

/// It costs nothing, keeps its place, and those that can't wait so long are told at once.
#[tokio::test(start_paused = true)]
async fn request_that_is_refused_goes_again_before_those_behind_it() {
    let limits =
        Limits { max_in_flight: Some(1), requests_per_minute: Some(10), ..Limits::default() };
    let pace = of_account(limits);
    let now = Instant::now();
    let mut turn = go(&pace, want(now)).await;
    advance(Duration::from_secs(1)).await;
    let later = |give_up| {
        let want = Want { give_up: now + Duration::from_secs(give_up), ..want(Instant::now()) };
        let pace = pace.clone();
        tokio::spawn(async move {
            let outcome = pace.turn(want).await.map(drop);
            (outcome.map_err(|held| held.reason), Instant::now())
        })
    };
    let (patient, hurried) = (later(100), later(10));
    tokio::task::yield_now().await;
    let same = again(&mut turn, 429, &[("retry-after", "30")]);
    let first = pace.turn(same).await.unwrap();
    let (outcome, when) = hurried.await.unwrap();
    assert_eq!(outcome, Err(WaitReason::RateLimited));
    assert_eq!((when - now).as_secs(), 1);
    assert!(!patient.is_finished());
    drop(first);
    assert!(patient.await.unwrap().0.is_ok());
}

#[tokio::test(start_paused = true)]
async fn subscription_that_is_used_up_holds_back_all_models_until_its_reset() {
    let pace = pace(PaceConfig::default());
    let now = Instant::now();
    let reset = (WALL / 1000 + 3600).to_string();
    let reject = |claim: &'static str| {
        vec![
            ("anthropic-ratelimit-unified-status", "rejected"),
            ("anthropic-ratelimit-unified-reset", reset.as_str()),
            ("anthropic-ratelimit-unified-representative-claim", claim),
        ]
    };
    let of = |model: &str| Want { model: model.into(), ..want(now) };
    let mut opus = go(&pace, of("claude-opus-5")).await;
    let same = again(&mut opus, 429, &reject("seven_day_opus"));
    assert!(pace.turn(same).await.is_err());
    let mut sonnet = go(&pace, of("sonnet")).await;
    let same = again(&mut sonnet, 429, &reject("five_hour"));
    for want in [same, of("haiku")] {
        let held = pace.turn(want).await.unwrap_err();
        assert_eq!(held.until.unwrap().as_millis(), WALL + 3_600_000);
        assert_eq!(
            held.to_string(),
            "the API lets no more requests through until 2026-10-12T15:00:00.000Z"
        );
    }
    let _other = go(&pace, Want { account: AccountId::new("other"), ..want(now) }).await;
    let status = pace.status();
    let haiku = status.iter().find(|it| &*it.model == "haiku").unwrap();
    let blocked = haiku.blocked.as_ref().unwrap();
    assert_eq!((blocked.reason, blocked.scope), (WaitReason::RateLimited, Scope::Account));
    assert_eq!(blocked.until.unwrap().as_millis(), WALL + 3_600_000);

    // Somebody may have paid for more, or a clock be wrong: one request finds out now and then.
    advance(Duration::from_secs(17 * 60)).await;
    let mut probe = go(&pace, Want { give_up: now + 60 * MINUTE, ..of("haiku") }).await;
    assert!(pace.turn(of("sonnet")).await.is_err());
    good(&mut probe);
    let _turn = go(&pace, of("sonnet")).await;
}

#[tokio::test(start_paused = true)]
async fn refusal_that_names_a_limit_leaves_the_number_in_flight_alone() {
    let told = |remaining: &'static str| {
        vec![
            ("anthropic-ratelimit-input-tokens-limit", "60000"),
            ("anthropic-ratelimit-input-tokens-remaining", remaining),
        ]
    };
    // A bucket that is full refuses nobody, however large the request is.
    let cases = [(3_000, "0", 16, 3.0), (3_000, "30000", 11, 0.25), (70_000, "60000", 11, 0.25)];
    for (input, remaining, window, waited) in cases {
        let pace = pace(PaceConfig::default());
        let now = Instant::now();
        let mut turn = go(&pace, Want { input, ..want(now) }).await;
        let same = again(&mut turn, 429, &told(remaining));
        assert_eq!(pace.status()[0].window, window, "{remaining}");
        let turn = pace.turn(same).await.unwrap();
        let wait = turn.waited().total().as_secs_f64();
        assert!(wait >= waited && wait < waited * 1.1 + 10.0, "{wait} {remaining}");
    }
}

#[tokio::test(start_paused = true)]
async fn prompt_that_may_not_be_in_the_cache_goes_when_there_is_room_for_all_of_it() {
    let pace = pace(PaceConfig::default());
    let told = |remaining: &'static str| {
        headers(&[
            ("anthropic-ratelimit-input-tokens-limit", "60000"),
            ("anthropic-ratelimit-input-tokens-remaining", remaining),
        ])
    };
    let of = |input| Want { input, ..want(Instant::now()) };
    // Nearly all of most prompts is read from the cache.
    for _ in 0..30 {
        let mut turn = go(&pace, of(20_000)).await;
        let _ = turn.answered(StatusCode::OK, &told("60000"));
        turn.settle(&Tokens { input: 200, output: 1, ..Tokens::default() });
    }
    let _ = go(&pace, of(20_000)).await.answered(StatusCode::OK, &told("30000"));
    // This one goes, and as long as it is not known what it was, the next may not fit beside it.
    let mut first = go(&pace, of(20_000)).await;
    assert!(waits(&pace, of(20_000)).await);
    let _ = first.answered(StatusCode::OK, &told("29000"));
    let mut second = go(&pace, of(20_000)).await;
    let _ = second.answered(StatusCode::OK, &told("28000"));
    // A twentieth stays unused, and one that is larger than it looks asks for what the API asks for.
    assert!(waits(&pace, of(26_000)).await);
    let mut third = go(&pace, of(20_000)).await;
    let mut lines = told("19000");
    lines.insert("retry-after", "10".parse().unwrap());
    let Next::Again(again) = third.answered(StatusCode::TOO_MANY_REQUESTS, &lines) else {
        panic!("it should go again");
    };
    assert_eq!(again.input, 29_000);
}

#[tokio::test(start_paused = true)]
async fn most_of_max_tokens_is_not_written_and_is_not_taken_either() {
    let limits = Limits { output_tokens_per_minute: Some(100_000), ..Limits::default() };
    let pace = of_account(limits);
    let mut taken = Vec::new();
    for _ in 0..30 {
        let left = || pace.status().first().map_or(100_000, |lane| lane.limits[0].left);
        let before = left();
        let mut turn = go(&pace, Want { output: 32_000, ..want(Instant::now()) }).await;
        taken.push(before - left());
        good(&mut turn);
        turn.settle(&Tokens { input: 1, output: 320, ..Tokens::default() });
        sleep(MINUTE).await;
    }
    assert_eq!(taken[0], 32_000);
    assert!((320..500).contains(&taken[29]), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn refusal_that_would_come_again_is_delivered() {
    let pace = pace(PaceConfig::default());
    let mut turn = go(&pace, want(Instant::now())).await;
    let lines = headers(&[("x-should-retry", "false"), ("retry-after", "7")]);
    assert!(matches!(turn.answered(StatusCode::TOO_MANY_REQUESTS, &lines), Next::Deliver));
    assert!(waits(&pace, want(Instant::now())).await);
}

#[tokio::test(start_paused = true)]
async fn names_of_models_that_a_container_makes_up_fill_no_memory_and_lift_no_limit() {
    let config =
        PaceConfig { models: vec![("opus".to_owned(), requests(1))], ..PaceConfig::default() };
    let pace = pace(config);
    let limited = Want { model: "opus".into(), ..want(Instant::now()) };
    drop(go(&pace, limited.clone()).await);
    let kept = go(&pace, want(Instant::now())).await;
    for number in 0..10_000 {
        let model = format!("model-{number}").into();
        drop(go(&pace, Want { model, ..want(Instant::now()) }).await);
    }
    let status = pace.status();
    assert!(status.len() <= 256, "{}", status.len());
    assert_eq!(status.iter().map(|it| it.in_flight).sum::<u32>(), 1);
    assert!(waits(&pace, limited).await);
    drop(kept);
}

#[test]
fn work_for_a_request_does_not_grow_with_how_many_wait() {
    let checks = |waiting: u32| {
        let now = Instant::now();
        let config = PaceConfig { account: at_once(4), ..PaceConfig::default() };
        let mut core = Core::new(config, 1, now);
        let mut ids = Vec::new();
        for _ in 0..waiting + 4 {
            match core.ask(now, &want(now)) {
                Asked::Go(id) => ids.push(id),
                Asked::Wait(_) => {}
                Asked::Held(held) => panic!("{held:?}"),
            }
        }
        let before = core.checks;
        for _ in 0..10 {
            core.end(now, ids.pop().unwrap(), End::Unknown);
            ids.extend(core.take_outcomes().into_iter().map(|(id, _)| id));
        }
        core.checks - before
    };
    assert_eq!([checks(20), checks(10_000)], [20, 20]);
}

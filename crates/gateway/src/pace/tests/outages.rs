//! An API that is overloaded, or away.

use super::*;

#[tokio::test(start_paused = true)]
async fn outage_is_probed_by_one_request_at_a_time() {
    let pace = pace(PaceConfig::default());
    let now = Instant::now();
    let mut turns = Vec::new();
    for _ in 0..16 {
        turns.push(go(&pace, want(now)).await);
    }
    let mut waiting: Vec<_> = turns.iter_mut().map(|turn| again(turn, 529, &[])).collect();
    let mut last = Instant::now();
    for seconds in [1.0, 2.0, 4.0, 8.0, 15.0, 15.0] {
        let mut probe = pace.turn(waiting.pop().unwrap()).await.unwrap();
        let wait = last.elapsed().as_secs_f64();
        assert!((seconds..seconds * 1.11).contains(&wait), "{wait} for {seconds}");
        assert!(waits(&pace, want(now)).await);
        last = Instant::now();
        waiting.push(again(&mut probe, 529, &[]));
    }
    // A probe that is lost is followed by another.
    drop(pace.turn(want(now)).await.unwrap());
    let mut probe = go(&pace, want(now)).await;
    assert!(waits(&pace, want(now)).await);
    good(&mut probe);
    // Then slowly at first.
    let mut one = go(&pace, want(now)).await;
    assert!(waits(&pace, want(now)).await);
    good(&mut one);
    let _two = (go(&pace, want(now)).await, probe);
    let waited = _two.0.waited().total();
    assert_eq!(waited, Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn probe_that_is_slow_to_be_answered_holds_nobody_back_for_long() {
    let pace = pace(PaceConfig::default());
    let mut turns = Vec::new();
    for _ in 0..5 {
        turns.push(go(&pace, want(Instant::now())).await);
    }
    let mut waiting: Vec<_> = turns.iter_mut().map(|turn| again(turn, 529, &[])).collect();
    let mut first = pace.turn(waiting.pop().unwrap()).await.unwrap();
    let sent = Instant::now();
    let mut second = pace.turn(waiting.pop().unwrap()).await.unwrap();
    assert_eq!(sent.elapsed().as_secs(), 15);
    assert!(waits(&pace, want(Instant::now())).await);
    // Each is a probe, whichever is answered first.
    good(&mut first);
    drop(go(&pace, want(Instant::now())).await);
    // What the other one says later is one refusal, and no outage.
    let third = again(&mut second, 529, &[]);
    let again = Instant::now();
    drop(first);
    drop(pace.turn(third).await.unwrap());
    assert!(again.elapsed() < Duration::from_secs(1), "{:?}", again.elapsed());
}

#[tokio::test(start_paused = true)]
async fn request_that_did_not_go_out_is_none_of_those_per_minute() {
    let pace = of_account(requests(1));
    let start = Instant::now();
    go(&pace, want(start)).await.release();
    let unreached = go(&pace, want(start)).await.unreached();
    let turn = pace.turn(unreached).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    turn.settle(&Tokens::default());
    assert!(waits(&pace, want(start)).await);
}

#[tokio::test(start_paused = true)]
async fn api_that_is_away_is_probed_until_whoever_waits_gives_up() {
    let pace = pace(PaceConfig::default());
    let start = Instant::now();
    let wants: Vec<_> = [1, 2, 3].map(|n| Want { input: n, ..want(start) }).into();
    let mut tries = Vec::new();
    let clients = wants.into_iter().map(|mut want| {
        let pace = pace.clone();
        async move {
            for tries in 0.. {
                match pace.turn(want).await {
                    Ok(turn) => want = turn.unreached(),
                    Err(held) => return (held, tries),
                }
            }
            unreachable!()
        }
    });
    for client in clients.map(tokio::spawn).collect::<Vec<_>>() {
        let (held, tried) = client.await.unwrap();
        assert_eq!((held.reason, held.until), (WaitReason::Unreachable, None));
        assert_eq!(held.message, "the API can't be reached");
        tries.push(tried);
    }
    assert_eq!(start.elapsed(), 5 * MINUTE);
    // One at a time, four a minute.
    assert!((20..=30).contains(&tries.iter().sum::<u32>()), "{tries:?}");
    let blocked = |pace: &Pace| pace.status()[0].blocked.as_ref().map(|blocked| blocked.reason);
    assert_eq!(blocked(&pace), Some(WaitReason::Unreachable));
    let mut turn = pace.turn(want(Instant::now())).await.unwrap();
    assert!(turn.waited().of(WaitReason::Unreachable) > Duration::ZERO);
    good(&mut turn);
    assert_eq!(blocked(&pace), None);
}

#[tokio::test(start_paused = true)]
async fn answer_that_breaks_off_overloaded_counts_as_a_refusal() {
    let pace = pace(PaceConfig::default());
    let now = Instant::now();
    let mut turns = Vec::new();
    for _ in 0..16 {
        turns.push(go(&pace, want(now)).await);
    }
    let window = |pace: &Pace| pace.status()[0].window;
    good(&mut turns[0]);
    assert_eq!(window(&pace), 17);
    turns[0].overloaded();
    assert_eq!(window(&pace), 8);
    assert_eq!(pace.status()[0].blocked.as_ref().unwrap().reason, WaitReason::Overloaded);
    // Those that were in flight with it say nothing new.
    turns[1].overloaded();
    assert_eq!(window(&pace), 8);
}

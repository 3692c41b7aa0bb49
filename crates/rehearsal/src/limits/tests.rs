use std::time::Duration;

use hyper::HeaderMap;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn buckets(toml: &str) -> Buckets {
    Buckets::new(toml::from_str(toml).expect("limits"))
}

fn remaining(buckets: &mut Buckets, now: Instant, kind: &str) -> u64 {
    let headers: HeaderMap = buckets.headers(now, "m").into_iter().collect();
    let value = &headers[format!("anthropic-ratelimit-{kind}-remaining")];
    value.to_str().ok().and_then(|value| value.parse().ok()).expect("a number")
}

#[test]
fn without_limits_everything_passes_and_nothing_is_said() {
    let (mut buckets, now) = (buckets(""), Instant::now());
    for _ in 0..10_000 {
        assert_eq!(buckets.admit(now, "m", 1_000_000), Ok(()));
    }
    assert!(buckets.headers(now, "m").is_empty());
}

#[test]
fn requests_are_let_through_as_the_bucket_fills() {
    let (mut buckets, mut now) = (buckets("requests_per_minute = 60\nburst = 2"), Instant::now());
    assert_eq!([(); 2].map(|()| buckets.admit(now, "m", 0)), [Ok(()); 2]);
    let over = OverLimit { kind: "requests", limit: 60, retry_after: 1 };
    assert_eq!(buckets.admit(now, "m", 0), Err(over));
    assert_eq!(buckets.admit(now, "n", 0), Ok(()), "each model has its own");
    now += Duration::from_millis(999);
    assert_eq!(buckets.admit(now, "m", 0), Err(over));
    now += Duration::from_millis(1);
    assert_eq!(buckets.admit(now, "m", 0), Ok(()));
    now += 3_600 * SECOND;
    assert_eq!(remaining(&mut buckets, now, "requests"), 2);
}

#[test]
fn input_waits_until_there_is_room_for_all_of_it() {
    let (mut buckets, mut now) = (buckets("input_tokens_per_minute = 6_000"), Instant::now());
    assert_eq!(buckets.admit(now, "m", 5_000), Ok(()));
    let over = OverLimit { kind: "input-tokens", limit: 6_000, retry_after: 20 };
    assert_eq!(buckets.admit(now, "m", 3_000), Err(over));
    assert_eq!(remaining(&mut buckets, now, "input-tokens"), 1_000);
    now += 20 * SECOND;
    assert_eq!(buckets.admit(now, "m", 3_000), Ok(()));
    // No bucket ever holds so much: when it is full, that is enough.
    now += 59 * SECOND;
    assert_eq!(buckets.admit(now, "m", 60_000).map_err(|over| over.retry_after), Err(1));
    now += SECOND;
    assert_eq!(buckets.admit(now, "m", 60_000), Ok(()));
    assert_eq!(remaining(&mut buckets, now, "input-tokens"), 0);
    assert_eq!(buckets.admit(now, "m", 1).map_err(|over| over.retry_after), Err(541));
    buckets.fail(now, "m", 60_000);
    assert_eq!(remaining(&mut buckets, now, "input-tokens"), 6_000);
}

#[test]
fn output_leaves_a_debt_that_the_next_request_waits_for() {
    let (mut buckets, mut now) = (buckets("output_tokens_per_minute = 600"), Instant::now());
    assert_eq!(buckets.admit(now, "m", 9), Ok(()));
    buckets.answer(now, "m", 900);
    let over = OverLimit { kind: "output-tokens", limit: 600, retry_after: 31 };
    assert_eq!(buckets.admit(now, "m", 9), Err(over));
    now += 31 * SECOND;
    assert_eq!(buckets.admit(now, "m", 9), Ok(()));
}

#[test]
fn refused_request_takes_nothing() {
    let toml = "requests_per_minute = 1\ninput_tokens_per_minute = 100";
    let (mut buckets, now) = (buckets(toml), Instant::now());
    buckets.admit(now, "m", 60).expect("room");
    let over = OverLimit { kind: "requests", limit: 1, retry_after: 60 };
    assert_eq!(buckets.admit(now, "m", 60), Err(over));
    assert_eq!(remaining(&mut buckets, now, "input-tokens"), 40);
}

#[test]
fn headers_are_those_of_the_api() {
    let (mut buckets, now) = (buckets("requests_per_minute = 60"), Instant::now());
    buckets.admit(now, "m", 0).expect("room");
    let before = Timestamp::now();
    let headers: HeaderMap = buckets.headers(now, "m").into_iter().collect();
    let names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
    assert_eq!(
        names,
        ["limit", "remaining", "reset"].map(|name| format!("anthropic-ratelimit-requests-{name}"))
    );
    let reset = headers["anthropic-ratelimit-requests-reset"].to_str().expect("text");
    let reset: Timestamp = reset.parse().expect("RFC 3339");
    let second = SignedDuration::from_secs(1);
    assert!((before + second..=Timestamp::now() + 2 * second).contains(&reset), "{reset}");
}

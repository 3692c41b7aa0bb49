use std::time::Duration;

use serde_json::json;

use crate::support::{World, request};

#[tokio::test(start_paused = true)]
async fn request_over_a_limit_is_refused_until_the_time_that_it_is_told() {
    let world = World::scripted(
        "limits = { requests_per_minute = 6, burst = 10 }\n\
         [[rule]]\nname = \"once\"\ntimes = 1\nanswer = { http = 529 }",
    );
    let ask = async || world.post(&request("hello", &[])).await.expect("an answer");
    let first = ask().await;
    assert_eq!(first.status, 529);
    assert_eq!(first.headers["anthropic-ratelimit-requests-remaining"], "0");

    let refused = ask().await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["type"]),
        (429, &json!("rate_limit_error"))
    );
    let header = |name: &str| refused.headers[name].to_str().expect("text").to_owned();
    assert_eq!(header("anthropic-ratelimit-requests-limit"), "6");
    assert!(header("anthropic-ratelimit-requests-reset").ends_with('Z'));
    assert_eq!(header("retry-after"), "10");

    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(ask().await.status, 200);
    let rules: Vec<_> = world.rehearsal.requests().into_iter().map(|seen| seen.rule).collect();
    assert_eq!(rules, [Some("once".to_owned()), Some("limits".to_owned()), None]);
}

#[tokio::test(start_paused = true)]
async fn what_is_read_from_the_cache_is_no_input() {
    let world = World::scripted("limits = { input_tokens_per_minute = 5_000 }");
    let mut body = request("hello", &[]);
    body["system"] = json!([{ "type": "text", "text": "You are marie. ".repeat(1_000),
        "cache_control": { "type": "ephemeral" } }]);
    let remaining = async || {
        let answer = world.post(&body).await.expect("an answer");
        assert_eq!(answer.status, 200);
        let remaining = answer.headers["anthropic-ratelimit-input-tokens-remaining"].to_str();
        remaining.expect("text").parse::<u64>().expect("a number")
    };
    assert!((1_000..1_300).contains(&remaining().await));
    assert!((900..1_300).contains(&remaining().await));
}

#[tokio::test(start_paused = true)]
async fn answer_counts_as_output_and_a_fault_gives_the_input_back() {
    let world = World::scripted(
        "limits = { input_tokens_per_minute = 1_000, output_tokens_per_minute = 1_000 }\n\
         [[rule]]\ntimes = 1\nanswer = { http = 500 }\n\
         [[rule]]\nanswer = { text = \"x\", usage = { output_tokens = 2_000 } }",
    );
    let ask = async || world.post(&request("hello", &[])).await.expect("an answer");
    let failed = ask().await;
    for kind in ["input", "output"] {
        let header = format!("anthropic-ratelimit-{kind}-tokens-remaining");
        assert_eq!(failed.headers[header], "1000");
    }
    assert_eq!(ask().await.status, 200);
    let refused = ask().await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.headers["retry-after"], "61");
}

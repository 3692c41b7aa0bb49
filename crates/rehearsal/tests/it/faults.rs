use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::support::{World, request, task};

#[tokio::test]
async fn fault_with_a_number_of_times_passes() {
    let world = World::scripted(
        r#"[[rule]]
        name = "busy"
        times = 2
        answer = { http = 429, headers = { retry-after = "3" } }"#,
    );
    for _ in 0..2 {
        let answer = world.post(&request("x", &[])).await.expect("an answer");
        assert_eq!(answer.status, 429);
        assert_eq!(answer.headers["retry-after"], "3");
        assert_eq!(answer.json()["error"]["type"], "rate_limit_error");
    }
    assert_eq!(world.message(&request("x", &[])).await["stop_reason"], "end_turn");
    let seen = world.rehearsal.requests();
    let with_usage: Vec<_> = seen.iter().map(|request| request.usage.is_some()).collect();
    assert_eq!(with_usage, [false, false, true]);
    let rules: Vec<_> = world.rehearsal.requests().into_iter().map(|seen| seen.rule).collect();
    assert_eq!(rules, [Some("busy".to_owned()), Some("busy".to_owned()), None]);
}

#[tokio::test]
async fn body_of_an_error_can_be_anything() {
    let world = World::scripted(
        r#"[[rule]]
        answer = { http = 502, body = "<h1>Bad</h1>", headers = { content-type = "text/html" } }"#,
    );
    let answer = world.post(&request("x", &[])).await.expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (502, "<h1>Bad</h1>"));
    assert_eq!(answer.headers["content-type"], "text/html");
}

/// Returns the names of the events that came before the connection broke.
async fn dropped(at: &str) -> Option<Vec<String>> {
    let world = World::scripted(&format!(
        "[[rule]]\nanswer = {{ drop = \"{at}\", text = \"some text\", tool_use = [{{ name = \"Read\" }}] }}"
    ));
    let answer = world.post(&request("x", &["Read"])).await?;
    assert!(answer.broke, "{at} should break the connection");
    Some(answer.event_names())
}

#[tokio::test]
async fn connection_breaks_where_the_scenario_says() {
    assert_eq!(dropped("before_headers").await, None);
    assert_eq!(dropped("after_headers").await, Some(vec![]));
    let count = async |at: &str| {
        let names = dropped(at).await.expect("a head");
        let of = |wanted: &str| names.iter().filter(|name| *name == wanted).count();
        (names.last().cloned().expect("an event"), of("content_block_start"), of("message_delta"))
    };
    assert_eq!(count("after_start").await, ("ping".to_owned(), 0, 0));
    assert_eq!(count("mid_text").await, ("content_block_delta".to_owned(), 1, 0));
    assert_eq!(count("mid_tool").await, ("content_block_delta".to_owned(), 2, 0));
    assert_eq!(count("before_stop").await, ("content_block_stop".to_owned(), 2, 0));
}

#[tokio::test]
async fn drop_with_the_built_in_content_breaks_off_in_it() {
    let world = World::scripted(
        "[[rule]]\ntimes = 1\nanswer = { drop = \"mid_tool\", then = \"default\" }",
    );
    let body = request(&task("k3f9.review", "marie", "work", 1), &["StructuredOutput"]);
    let answer = world.post(&body).await.expect("a head");
    assert!(answer.broke && answer.body.contains("StructuredOutput"), "{answer:?}");
    assert_eq!(world.message(&body).await["stop_reason"], "tool_use");
    assert_eq!(world.answers(), ["drop mid_tool", "tool_use StructuredOutput"]);
}

#[tokio::test]
async fn half_a_json_message_comes_when_there_is_no_stream() {
    let world = World::scripted("[[rule]]\nanswer = { drop = \"mid_text\", text = \"some text\" }");
    let mut body = request("x", &[]);
    body["stream"] = json!(false);
    let answer = world.post(&body).await.expect("a head");
    assert!(answer.broke && !answer.body.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn error_event_ends_a_stream_and_is_a_status_without_one() {
    let world = World::scripted(
        r#"[[rule]]
        answer = { text = "some text", sse_error = { type = "overloaded_error", message = "busy", after = "text" } }"#,
    );
    let answer = world.post(&request("x", &[])).await.expect("an answer");
    assert!(!answer.broke);
    let (name, data) = answer.events().pop().expect("an event");
    assert_eq!((name.as_str(), &data["error"]["type"]), ("error", &json!("overloaded_error")));
    assert!(answer.event_names().contains(&"content_block_delta".to_owned()));

    let mut body = request("x", &[]);
    body["stream"] = json!(false);
    let answer = world.post(&body).await.expect("an answer");
    assert_eq!((answer.status, &answer.json()["error"]["message"]), (529, &json!("busy")));
}

#[tokio::test(start_paused = true)]
async fn waits_take_the_time_that_the_scenario_says() {
    let elapsed = async |answer: &str| {
        let world = World::scripted(&format!("[[rule]]\nanswer = {answer}"));
        let start = Instant::now();
        let answer = world.post(&request("x", &[])).await.expect("an answer");
        let pings = answer.event_names().iter().filter(|name| *name == "ping").count();
        (start.elapsed().as_secs(), pings, answer.message()["stop_reason"].clone())
    };
    let done = json!("end_turn");
    assert_eq!(elapsed("{ delay = 2.5, then = \"default\" }").await, (2, 1, done.clone()));
    assert_eq!(elapsed("{ stall = 60, text = \"x\" }").await, (60, 1, done.clone()));
    assert_eq!(elapsed("{ stall = 60, pings = true, text = \"x\" }").await, (60, 60, done.clone()));
    // start, ping, block start, delta, block stop, message delta, message stop: six gaps.
    assert_eq!(elapsed("{ chunk_delay = 1, text = \"x\" }").await, (6, 1, done));
}

#[tokio::test(start_paused = true)]
async fn hang_never_answers() {
    let world = World::scripted("[[rule]]\nanswer = { hang = true }");
    let day = Duration::from_secs(24 * 60 * 60);
    assert!(timeout(day, world.post(&request("x", &[]))).await.is_err());
    assert_eq!(world.answers(), ["hang"]);
}

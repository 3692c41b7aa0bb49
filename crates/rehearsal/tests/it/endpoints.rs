use http_body_util::Full;
use hyper::Request;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{World, post, request};

#[tokio::test]
async fn message_without_a_stream_is_one_json_object() {
    let world = World::new();
    let mut body = request("hello there", &[]);
    body["stream"] = json!(false);
    let answer = world.post(&body).await.expect("an answer");
    assert_eq!(answer.status, 200);
    assert!(answer.headers.contains_key("request-id"));
    let message = answer.json();
    assert_eq!(message["type"], "message");
    assert_eq!(message["stop_reason"], "end_turn");
    let text = message["content"][0]["text"].as_str().expect("a text");
    assert!(text.starts_with("Rehearsal: no model read this."), "{text}");
    assert!(text.contains("hello there"));
    assert_eq!(message["usage"]["service_tier"], "standard");
}

#[tokio::test]
async fn tokens_are_counted_as_four_bytes_of_json_each() {
    let world = World::new();
    let body =
        json!({ "model": "m", "messages": [{ "role": "user", "content": "x".repeat(4_000) }] });
    let answer = world.send(post("/v1/messages/count_tokens", &body)).await.expect("an answer");
    let count = answer.json()["input_tokens"].as_u64().expect("a count");
    assert!((1_000..1_020).contains(&count), "{count}");
}

#[tokio::test]
async fn hello_is_answered_to_get_and_head() {
    let world = World::new();
    for method in ["GET", "HEAD"] {
        let request = Request::builder().method(method).uri("/api/hello");
        let request = request.header("host", "x").body(Full::default()).expect("a request");
        assert_eq!(world.send(request).await.expect("an answer").status, 200);
    }
    assert_eq!(world.answers(), ["hello", "hello"]);
}

#[tokio::test]
async fn what_is_not_there_is_not_found_in_the_form_of_the_api() {
    let world = World::new();
    let answer = world.send(post("/v1/complete", &json!({}))).await.expect("an answer");
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["type"], "error");
    assert_eq!(answer.json()["error"]["type"], "not_found_error");
}

#[tokio::test]
async fn bad_requests_are_refused_with_what_is_wrong() {
    let world = World::new();
    let cases = [
        ("{", "not valid"),
        ("{}", "model"),
        (r#"{"model":"m","max_tokens":1,"messages":[]}"#, "messages"),
        (r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#, "max_tokens"),
        (r#"{"model":"m","max_tokens":1,"messages":[{"role":"x","content":"x"}]}"#, "variant `x`"),
        (r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":5}]}"#, "content"),
    ];
    for (body, wanted) in cases {
        let request = Request::post("/v1/messages").header("host", "x").body(Full::from(body));
        let answer = world.send(request.expect("a request")).await.expect("an answer");
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, &error["type"]), (400, &json!("invalid_request_error")));
        let message = error["message"].as_str().expect("a message");
        assert!(message.contains(wanted), "{message}");
    }
}

/// Sends the head of a request by hand, then a part of its body, and returns what comes back.
async fn answer_to(header: &str, body: Vec<u8>) -> String {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(World::new().rehearsal.serve_stream(far));
    let (mut reader, mut writer) = tokio::io::split(near);
    let head = format!("POST /v1/messages HTTP/1.1\r\nhost: x\r\n{header}\r\n\r\n");
    tokio::spawn(async move {
        // Refused in the middle of the body, the rest may find nobody.
        if writer.write_all(head.as_bytes()).await.is_ok() {
            writer.write_all(&body).await.ok();
        }
    });
    let mut answer = vec![0; 4_096];
    let read = reader.read(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test]
async fn too_large_request_is_refused_unread_when_it_says_so_and_else_when_it_is() {
    let one_more = 32 * 1024 * 1024 + 1;
    let answer = answer_to(&format!("content-length: {one_more}"), vec![]).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("request_too_large"), "{answer}");

    let mut chunk = format!("{one_more:x}\r\n").into_bytes();
    chunk.resize(chunk.len() + one_more, b' ');
    let answer = answer_to("transfer-encoding: chunked", chunk).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn compressed_request_is_refused() {
    let world = World::new();
    let mut request = post("/v1/messages", &request("x", &[]));
    request.headers_mut().insert("content-encoding", "gzip".parse().expect("a value"));
    assert_eq!(world.send(request).await.expect("an answer").status, 400);
}

#[tokio::test]
async fn system_messages_in_the_conversation_are_accepted() {
    let world = World::new();
    let mut body = request("x", &[]);
    let messages = body["messages"].as_array_mut().expect("messages");
    messages.push(json!({ "role": "system", "content": "# Environment" }));
    assert_eq!(world.post(&body).await.expect("an answer").status, 200);
}

#[tokio::test]
async fn requests_are_seen_with_what_they_are_about() {
    let world = World::new();
    let prompt = crate::support::task("k3f9.review", "marie", "work", 2);
    world.message(&request(&prompt, &["StructuredOutput"])).await;
    let mut from_subagent = post("/v1/messages", &request("look at it", &[]));
    from_subagent.headers_mut().insert("x-claude-code-agent-id", "a1".parse().expect("a value"));
    world.send(from_subagent).await.expect("an answer");

    let seen = world.rehearsal.requests();
    assert_eq!((seen[0].number, seen[1].number), (1, 2));
    assert_eq!(seen[0].path, "/v1/messages");
    assert_eq!((seen[0].task.as_deref(), seen[0].attempt), (Some("k3f9.review"), Some(2)));
    assert_eq!(
        (seen[0].worker.as_deref(), seen[0].kind),
        (Some("marie"), Some(rehearsal::Kind::Work))
    );
    assert_eq!(seen[0].answer, "tool_use StructuredOutput");
    assert!(seen[0].usage.is_some_and(|usage| usage.input_tokens > 0 && usage.output_tokens > 0));
    assert_eq!((seen[1].subagent.as_deref(), seen[1].answer.as_str()), (Some("a1"), "end_turn"));
}

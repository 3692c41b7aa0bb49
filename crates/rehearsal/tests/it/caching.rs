use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{World, post, request};

fn cached(prompt: &str) -> Value {
    let mut body = request(prompt, &["Read", "Write"]);
    let control = json!({ "type": "ephemeral" });
    body["system"][0]["text"] = json!("You are marie. ".repeat(100));
    body["system"][0]["cache_control"] = control.clone();
    body["messages"][0]["content"] =
        json!([{ "type": "text", "text": prompt, "cache_control": control }]);
    body
}

fn read(message: &Value) -> u64 {
    message["usage"]["cache_read_input_tokens"].as_u64().expect("a count")
}

#[tokio::test(start_paused = true)]
async fn second_task_of_a_worker_reads_its_prefix_for_five_minutes() {
    let world = World::new();
    assert_eq!(read(&world.message(&cached("task one")).await), 0);
    tokio::time::advance(Duration::from_secs(299)).await;
    assert!(read(&world.message(&cached("task two")).await) > 350);
    tokio::time::advance(Duration::from_secs(301)).await;
    assert_eq!(read(&world.message(&cached("task three")).await), 0);
}

#[tokio::test(start_paused = true)]
async fn request_that_comes_before_the_first_answer_begins_reads_nothing() {
    let world = World::scripted("[[rule]]\ntimes = 2\nanswer = { delay = 1, then = \"default\" }");
    let (one, two) = (cached("task one"), cached("task two"));
    let (first, second) = tokio::join!(world.message(&one), world.message(&two));
    assert_eq!((read(&first), read(&second)), (0, 0));
    assert!(read(&world.message(&cached("task three")).await) > 350);
}

#[tokio::test(start_paused = true)]
async fn prefix_can_be_read_from_the_first_byte_of_a_slow_answer_on() {
    let world = World::scripted(
        "[[rule]]\ntimes = 2\nanswer = { delay = 200, chunk_delay = 9, then = \"default\" }",
    );
    let ask = async |prompt: &str, at| {
        tokio::time::sleep(Duration::from_secs(at)).await;
        read(&world.message(&cached(prompt)).await)
    };
    let (first, before, after) =
        tokio::join!(ask("task one", 0), ask("task two", 199), ask("task three", 201));
    assert_eq!((first, before), (0, 0));
    assert!(after > 350);
}

#[tokio::test]
async fn tokens_are_counted_as_they_are_billed() {
    let world = World::new();
    let body = cached("task one");
    let answer = world.send(post("/v1/messages/count_tokens", &body)).await.expect("an answer");
    let usage = world.message(&body).await["usage"].clone();
    let parts = ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"];
    let billed: u64 = parts.iter().filter_map(|part| usage[part].as_u64()).sum();
    assert_eq!(answer.json()["input_tokens"], billed);
}

#[tokio::test]
async fn error_writes_nothing_to_the_cache() {
    let world = World::scripted("[[rule]]\ntimes = 1\nanswer = { http = 529 }");
    world.post(&cached("task one")).await.expect("an answer");
    assert_eq!(read(&world.message(&cached("task one")).await), 0);
}

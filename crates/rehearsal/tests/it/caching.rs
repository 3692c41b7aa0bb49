use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{World, request};

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

#[tokio::test]
async fn error_writes_nothing_to_the_cache() {
    let world = World::scripted("[[rule]]\ntimes = 1\nanswer = { http = 529 }");
    world.post(&cached("task one")).await.expect("an answer");
    assert_eq!(read(&world.message(&cached("task one")).await), 0);
}

use serde_json::{Value, json};

use super::*;

struct World {
    cache: PromptCache,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self { cache: PromptCache::default(), now: Instant::now() }
    }

    fn look(&self, body: &Value) -> (Usage, PendingWrites) {
        let request = MessagesRequest::parse(body.to_string().as_bytes()).expect("a request");
        self.cache.look_up(self.now, &Prefix::of(&request))
    }

    fn ask(&mut self, body: &Value) -> Usage {
        let (usage, writes) = self.look(body);
        self.cache.commit(self.now, writes);
        usage
    }
}

fn block(text: &str, cached: Option<&str>) -> Value {
    let mut block = json!({ "type": "text", "text": text });
    if let Some(ttl) = cached {
        block["cache_control"] = json!({ "type": "ephemeral", "ttl": ttl });
    }
    block
}

fn body(model: &str, system: Value, messages: Vec<Value>) -> Value {
    let tools = json!([{ "name": "Read", "input_schema": {} }]);
    let messages = json!([{ "role": "user", "content": messages }]);
    json!({ "model": model, "max_tokens": 1, "tools": tools, "system": [system], "messages": messages })
}

#[test]
fn same_prefix_is_read_and_another_task_pays_only_for_itself() {
    let mut world = World::new();
    let role = block(&"role ".repeat(200), Some("5m"));
    let first = world.ask(&body("m", role.clone(), vec![block("task one", Some("5m"))]));
    assert_eq!((first.cache_read_input_tokens, first.input_tokens), (0, 0));
    assert_eq!(first.cache_creation.ephemeral_5m_input_tokens, first.cache_creation_input_tokens);

    let second = world.ask(&body("m", role.clone(), vec![block("task two", Some("5m"))]));
    assert!(second.cache_read_input_tokens > 240, "{second:?}");
    assert!(second.cache_creation_input_tokens < 20, "{second:?}");

    let other_model = world.ask(&body("n", role, vec![block("task two", Some("5m"))]));
    assert_eq!(other_model.cache_read_input_tokens, 0);
}

#[test]
fn parts_always_add_up_to_the_whole() {
    let mut world = World::new();
    for cached in [None, Some("5m"), Some("1h")] {
        let request = body("m", block("role", cached), vec![block("a", None), block("b", cached)]);
        let parsed = MessagesRequest::parse(request.to_string().as_bytes()).expect("a request");
        let usage = world.ask(&request);
        let sum =
            usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens;
        assert_eq!(sum, Prefix::of(&parsed).tokens());
    }
}

#[test]
fn entry_lives_its_time_and_each_use_starts_it_anew() {
    let mut world = World::new();
    let request = body("m", block("role", Some("5m")), vec![block("task", None)]);
    world.ask(&request);
    for _ in 0..3 {
        world.now += Duration::from_secs(299);
        assert!(world.ask(&request).cache_read_input_tokens > 0);
    }
    world.now += FIVE_MINUTES;
    assert_eq!(world.ask(&request).cache_read_input_tokens, 0);
}

#[test]
fn entry_read_by_look_back_alone_starts_anew_too() {
    let mut world = World::new();
    let start = |then: &str| {
        let messages = vec![block("start", None), block(then, Some("5m"))];
        body("m", block("role", None), messages)
    };
    world.ask(&body("m", block("role", None), vec![block("start", Some("5m"))]));
    for then in ["one", "two", "three"] {
        world.now += Duration::from_secs(299);
        assert!(world.ask(&start(then)).cache_read_input_tokens > 0, "{then}");
    }
}

#[test]
fn hour_long_entry_outlives_five_minutes_even_when_read_with_a_short_breakpoint() {
    let mut world = World::new();
    let long = body("m", block("role", Some("1h")), vec![block("task", None)]);
    let short = body("m", block("role", Some("5m")), vec![block("task", None)]);
    assert!(world.ask(&long).cache_creation.ephemeral_1h_input_tokens > 0);
    assert!(world.ask(&short).cache_read_input_tokens > 0);
    world.now += Duration::from_secs(3_599);
    assert!(world.ask(&short).cache_read_input_tokens > 0);
}

#[test]
fn nothing_can_be_read_before_the_first_answer_begins() {
    let mut world = World::new();
    let request = body("m", block("role", Some("5m")), vec![block("task", None)]);
    let (_, first) = world.look(&request);
    assert_eq!(world.look(&request).0.cache_read_input_tokens, 0);
    world.cache.commit(world.now, first);
    assert!(world.look(&request).0.cache_read_input_tokens > 0);
}

#[test]
fn life_of_an_entry_begins_with_the_request_and_not_with_its_answer() {
    let mut world = World::new();
    let request = body("m", block("role", Some("5m")), vec![block("task", None)]);
    let (_, slow) = world.look(&request);
    world.now += Duration::from_secs(200);
    world.cache.commit(world.now, slow);
    world.now += Duration::from_secs(99);
    let (usage, late) = world.look(&request);
    assert!(usage.cache_read_input_tokens > 0);
    world.now += Duration::from_secs(1);
    assert_eq!(world.look(&request).0.cache_read_input_tokens, 0);

    // One that was asked for before does not shorten it.
    let (_, slower) = world.look(&request);
    world.now += Duration::from_secs(10);
    world.ask(&request);
    world.cache.commit(world.now, slower);
    world.cache.commit(world.now, late);
    world.now += Duration::from_secs(299);
    assert!(world.look(&request).0.cache_read_input_tokens > 0);
}

#[test]
fn breakpoint_looks_back_twenty_blocks_and_no_further() {
    let read_after = |added: usize| {
        let mut world = World::new();
        world.ask(&body("m", block("role", None), vec![block("start", Some("5m"))]));
        let mut messages = vec![block("start", None)];
        messages.extend((1..added).map(|n| block(&format!("block {n}"), None)));
        messages.push(block("end", Some("5m")));
        world.ask(&body("m", block("role", None), messages)).cache_read_input_tokens
    };
    assert!(read_after(20) > 0);
    assert_eq!(read_after(21), 0);
}

#[test]
fn string_and_its_one_block_are_the_same_prefix() {
    let mut world = World::new();
    let message = |content: Value| {
        json!({ "model": "m", "max_tokens": 1, "messages": [
            { "role": "user", "content": content },
            { "role": "assistant", "content": [block("end", Some("5m"))] },
        ]})
    };
    world.ask(&message(json!("hello")));
    assert!(world.ask(&message(json!([block("hello", None)]))).cache_read_input_tokens > 0);
}

#[test]
fn expired_entries_are_forgotten() {
    let mut world = World::new();
    for n in 0..100 {
        world.ask(&body("m", block(&format!("role {n}"), Some("5m")), vec![block("t", None)]));
    }
    assert_eq!(world.cache.entries.len(), 100);
    world.now += ONE_HOUR;
    world.ask(&body("m", block("role", Some("5m")), vec![block("t", None)]));
    assert_eq!(world.cache.entries.len(), 1);
}

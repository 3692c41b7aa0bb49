use std::{collections::HashMap, time::Duration};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// A request of the CLI, by what may change in it.
#[derive(Clone, Debug)]
struct Request {
    session: &'static str,
    agent: Option<&'static str>,
    model: &'static str,
    tools: Vec<&'static str>,
    prompt: &'static str,
    ttl: &'static str,
    messages: Vec<String>,
}

impl Request {
    fn of(session: &'static str) -> Self {
        Self {
            session,
            agent: None,
            model: "opus",
            tools: vec!["Bash", "Edit", "Read"],
            prompt: "You are marie.",
            ttl: "5m",
            messages: vec![format!("the task of {session}"), "# Environment".to_owned()],
        }
    }

    fn say(&mut self, text: &str) {
        self.messages.push(text.repeat(200));
    }

    fn ask(&self) -> Ask {
        let mark = json!({ "type": "ephemeral", "ttl": self.ttl });
        let tool = |name: &&str| json!({ "name": name, "description": name.repeat(800) });
        let mut messages: Vec<Value> = self
            .messages
            .iter()
            .map(|text| json!({ "role": "user", "content": [{ "type": "text", "text": text }] }))
            .collect();
        if let Some(last) = messages.last_mut() {
            last["content"][0]["cache_control"] = mark.clone();
        }
        let body = json!({
            "model": self.model,
            "max_tokens": 1,
            "tools": self.tools.iter().map(tool).collect::<Vec<_>>(),
            "system": [
                { "type": "text", "text": "You are a Claude agent.", "cache_control": mark },
                { "type": "text", "text": self.prompt.repeat(800), "cache_control": mark },
            ],
            "messages": messages,
        });
        Ask::parse(body.to_string().as_bytes()).unwrap()
    }
}

/// A worker, and a cache that keeps what it was given, as the API says that its does.
#[derive(Default)]
struct World {
    prefixes: Prefixes,
    cache: HashMap<u64, Instant>,
    tasks: u32,
}

struct Out {
    sent: Sent,
    tokens: Tokens,
    writes: Vec<(u64, Instant)>,
}

impl World {
    fn send(&mut self, request: &Request) -> Out {
        let (ask, now) = (request.ask(), Instant::now());
        self.tasks += 1;
        let task = format!("b3.t{}", self.tasks).parse().unwrap();
        let sender = Sender {
            run: RunId::Adhoc,
            task: &task,
            attempt: Attempt::FIRST,
            session: Some(request.session).filter(|session| !session.is_empty()),
            agent: request.agent,
        };
        let sent = self.prefixes.sent(("account", "marie"), sender, &ask);
        let all = ask.blocks.all();
        let key = |length: usize| {
            let hashes: Vec<_> = all[..length].iter().map(|block| block.hash).collect();
            hash_of((request.model, hashes))
        };
        let is_warm =
            |length: &usize| self.cache.get(&key(*length)).is_some_and(|until| now < *until);
        let read = (1..=ask.blocks.cached().len()).rev().find(is_warm).unwrap_or(0);
        let until = now + ask.blocks.ttl().duration();
        let ends = [request.tools.len() + 1, ask.blocks.shared().len(), ask.blocks.cached().len()];
        let writes = ends.into_iter().chain([read]).map(|length| (key(length), until)).collect();
        let tokens = |blocks| size(blocks) / 4;
        let tokens = Tokens {
            cache_read: tokens(&all[..read]),
            cache_write_5m: tokens(ask.blocks.cached()) - tokens(&all[..read]),
            ..Tokens::default()
        };
        Out { sent, tokens, writes }
    }

    fn answer(&mut self, out: Out) -> Option<PrefixBreak> {
        for (key, until) in out.writes {
            let kept = self.cache.entry(key).or_insert(until);
            *kept = until.max(*kept);
        }
        self.prefixes.answered(out.sent, &out.tokens)
    }

    /// Returns what is reported of a request.
    fn ask(&mut self, request: &Request) -> String {
        let out = self.send(request);
        self.answer(out).map_or_else(String::new, |report| report.to_string())
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reported_while_the_prefix_stays_the_same() {
    let mut world = World::default();
    let mut sessions = ["s1", "s2", "s3"].map(Request::of);
    for turn in ["one ", "two ", "three "] {
        for session in &mut sessions {
            assert_eq!(world.ask(session), "");
            session.say(turn);
            tokio::time::advance(MINUTE).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn first_block_that_differs_is_named_with_the_attempt_it_differs_from() {
    type Change = fn(&mut Request);
    let changes: [(Change, &str); 5] = [
        (|r| r.prompt = "You are zoe.", "system[1] differs from b3.t1 attempt 1"),
        (|r| r.tools[1] = "Write", "tools[1] differs from b3.t1 attempt 1"),
        (|r| r.tools.push("Write"), "tools[3] was not in b3.t1 attempt 1"),
        (|r| r.tools.truncate(2), "tools[2] of b3.t1 attempt 1 is missing"),
        (|r| r.model = "haiku", "different model: b3.t1 attempt 1 had opus"),
    ];
    for (change, report) in changes {
        let mut world = World::default();
        assert_eq!(world.ask(&Request::of("s1")), "");
        let mut other = Request::of("s2");
        change(&mut other);
        assert_eq!(world.ask(&other), report);
        // Once is enough: from now on there are two prefixes.
        assert_eq!(world.ask(&Request::of("s3")), "");
        tokio::time::advance(MINUTE).await;
        assert_eq!(world.ask(&Request { session: "s4", ..other }), "");
        // And what is lost of one of them is not laid at the other's door.
        world.cache.clear();
        let lost = world.ask(&Request::of("s5"));
        assert_eq!(lost, "same bytes as b3.t3 attempt 1, 60 s later, yet not read from the cache");
    }
}

#[tokio::test(start_paused = true)]
async fn small_change_behind_much_that_stays_is_seen_by_what_is_read() {
    let tools = vec!["Agent", "Bash", "Edit", "Glob", "Grep", "List", "Read", "Skill", "Write"];
    let mut world = World::default();
    assert_eq!(world.ask(&Request { tools: tools.clone(), ..Request::of("s1") }), "");
    let changed = Request { tools, prompt: "You are zoe.", ..Request::of("s2") };
    let out = world.send(&changed);
    assert!(out.tokens.cache_read > out.tokens.cache_write_5m);
    let report = world.answer(out).expect("a report");
    assert_eq!(report.to_string(), "system[1] differs from b3.t1 attempt 1");
    assert!((2_000..4_000).contains(&report.lost), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn change_of_next_to_nothing_is_not_reported() {
    let mut world = World::default();
    let mut session = Request::of("s1");
    assert_eq!(world.ask(&session), "");
    session.messages[0] = "another task".to_owned();
    assert_eq!(world.ask(&session), "");
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_session_are_missed_though_the_rest_is_read() {
    let mut world = World::default();
    let mut session = Request::of("s1");
    session.say(&"long ".repeat(5));
    let out = world.send(&session);
    let (last, _) = out.writes[2];
    assert_eq!(world.answer(out), None);
    world.cache.remove(&last);
    session.say("next ");
    assert_eq!(
        world.ask(&session),
        "same bytes as b3.t1 attempt 1, 0 s later, yet not read from the cache"
    );
}

#[tokio::test(start_paused = true)]
async fn image_that_makes_an_estimate_too_high_is_no_reason_for_a_report() {
    let mut world = World::default();
    assert_eq!(world.ask(&Request::of("s1")), "");
    let mut out = world.send(&Request::of("s2"));
    out.tokens.input += 100_000;
    assert_eq!(world.answer(out), None);
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_session_are_not_taken_for_one_session() {
    let mut world = World::default();
    let mut nameless = Request { session: "", ..Request::of("s1") };
    nameless.say(&"long ".repeat(5));
    assert_eq!(world.ask(&nameless), "");
    nameless.messages[2] = "another task".repeat(500);
    assert_eq!(world.ask(&nameless), "");
}

#[tokio::test(start_paused = true)]
async fn message_that_changes_within_a_session_is_named() {
    let mut world = World::default();
    let mut session = Request::of("s1");
    session.say(&"long ".repeat(5));
    session.say(&"longer ".repeat(5));
    assert_eq!(world.ask(&session), "");
    session.messages[2] = "rewritten".to_owned();
    session.say("and on ");
    assert_eq!(world.ask(&session), "messages[2] differs from b3.t1 attempt 1");
    session.say("and on ");
    assert_eq!(world.ask(&session), "");
    session.messages.truncate(3);
    assert_eq!(world.ask(&session), "", "a step back breaks nothing");
}

#[tokio::test(start_paused = true)]
async fn same_bytes_too_late_have_expired() {
    for (ttl, minutes) in [("5m", 5), ("1h", 60)] {
        let mut world = World::default();
        let mut session = Request { ttl, ..Request::of("s1") };
        assert_eq!(world.ask(&session), "");
        session.say("next ");
        tokio::time::advance(minutes * MINUTE).await;
        let seconds = 60 * minutes;
        let report =
            format!("same bytes as b3.t1 attempt 1; the cache had expired, {seconds} s later");
        assert_eq!(world.ask(&session), report);
        tokio::time::advance(minutes * MINUTE).await;
        let other = Request { ttl, ..Request::of("s2") };
        assert_eq!(world.ask(&other), report.replace("t1", "t2"));
        let model = Request { model: "haiku", ..other };
        tokio::time::advance(minutes * MINUTE).await;
        assert_eq!(world.ask(&model), "", "nothing is warm that another model could have");
    }
}

#[tokio::test(start_paused = true)]
async fn last_one_that_used_the_prefix_is_named() {
    let mut world = World::default();
    for session in ["s1", "s2", "s3"] {
        assert_eq!(world.ask(&Request::of(session)), "");
        tokio::time::advance(4 * MINUTE).await;
    }
    tokio::time::advance(4 * MINUTE).await;
    assert_eq!(
        world.ask(&Request::of("s4")),
        "same bytes as b3.t3 attempt 1; the cache had expired, 480 s later"
    );
}

#[tokio::test(start_paused = true)]
async fn same_bytes_in_time_that_are_not_read_are_reported_as_lost() {
    let mut world = World::default();
    assert_eq!(world.ask(&Request::of("s1")), "");
    world.cache.clear();
    tokio::time::advance(MINUTE).await;
    let out = world.send(&Request::of("s2"));
    let whole = out.tokens.read();
    let report = world.answer(out).unwrap();
    assert_eq!(
        report.to_string(),
        "same bytes as b3.t1 attempt 1, 60 s later, yet not read from the cache"
    );
    assert!((whole * 9 / 10..=whole).contains(&report.lost), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn other_kinds_of_requests_and_sub_agents_are_no_break() {
    let mut world = World::default();
    assert_eq!(world.ask(&Request::of("s1")), "");
    // A search of the CLI, in the same session: another tool, another prompt.
    let search = Request { tools: vec!["WebSearch"], prompt: "Search.", ..Request::of("s1") };
    assert_eq!(world.ask(&search), "");
    let reviewer = Request { agent: Some("a1"), prompt: "Review.", ..Request::of("s1") };
    assert_eq!(world.ask(&reviewer), "");
    let tester = Request { agent: Some("a2"), prompt: "Test.", ..Request::of("s1") };
    assert_eq!(world.ask(&tester), "");
    let mut after = World::default();
    assert_eq!(after.ask(&tester), "");
    assert_eq!(after.ask(&Request::of("s2")), "", "a sub-agent's prompt is not the worker's");
    // In its own conversation a sub-agent's prompt does not change either.
    assert_eq!(
        world.ask(&Request { prompt: "Test again.", ..tester }),
        "system[1] differs from b3.t4 attempt 1"
    );
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_read_is_not_missed() {
    let mut world = World::default();
    // Sent together: neither could read what the other wrote.
    let (one, two) = (world.send(&Request::of("s1")), world.send(&Request::of("s2")));
    assert_eq!((world.answer(one), world.answer(two)), (None, None));

    // Never cached, says the API: it was too short, or caching is off.
    let mut world = World::default();
    let mut out = world.send(&Request::of("s1"));
    (out.tokens, out.writes) = (Tokens { input: 9_000, ..Tokens::default() }, Vec::new());
    assert_eq!(world.answer(out), None);
    assert!(world.prefixes.groups.lock().unwrap().is_empty());
    assert_eq!(world.ask(&Request::of("s2")), "");

    // Never answered.
    let mut world = World::default();
    drop(world.send(&Request::of("s1")));
    assert_eq!(world.ask(&Request::of("s2")), "");
}

#[tokio::test(start_paused = true)]
async fn groups_know_nothing_of_each_other_and_memory_is_bounded() {
    let prefixes = Prefixes::new();
    let ask = Request::of("s1").ask();
    let task = "b3.t1".parse().unwrap();
    let cached = Tokens { cache_write_5m: 9_000, ..Tokens::default() };
    for group in 0..200 {
        for session in 0..100 {
            let session = format!("{group}.{session}");
            let sender = Sender {
                run: RunId::Adhoc,
                task: &task,
                attempt: Attempt::FIRST,
                session: Some(&session),
                agent: None,
            };
            let sent = prefixes.sent(group, sender, &ask);
            assert!(session.ends_with(".0") == sent.expected.is_none());
            prefixes.answered(sent, &cached);
        }
        tokio::time::advance(MINUTE).await;
    }
    let groups = prefixes.groups.lock().unwrap();
    assert_eq!(groups.len(), 64);
    assert!(groups.values().all(|entries| entries.len() == 32));
    assert!((136..200).all(|group| groups.contains_key(&hash_of(group))));
}

#[derive(Clone, Debug)]
enum Op {
    /// A session sends, with this prompt and these many tools.
    Send(usize, usize, usize),
    /// One that is out is answered.
    Answer(usize),
    Advance(Duration),
}

fn op() -> impl Strategy<Value = Op> {
    let usually_0 = || prop_oneof![6 => Just(0_usize), 1 => Just(1)];
    prop_oneof![
        4 => (0..4_usize, usually_0(), usually_0()).prop_map(|(at, p, t)| Op::Send(at, p, t)),
        4 => (0..8_usize).prop_map(Op::Answer),
        1 => prop::sample::select(vec![1_u64, 100, 299, 400])
            .prop_map(|seconds| Op::Advance(Duration::from_secs(seconds))),
    ]
}

async fn follow(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let mut world = World::default();
    let mut sessions = ["s1", "s2", "s3", "s4"].map(Request::of);
    let mut out: Vec<(Out, Vec<Block>, Instant)> = Vec::new();
    let mut answered: Vec<(Vec<Block>, Instant)> = Vec::new();
    for op in ops {
        match op {
            Op::Advance(time) => tokio::time::advance(time).await,
            Op::Send(at, prompt, tools) => {
                let session = &mut sessions[at];
                session.prompt = ["You are marie.", "You are zoe."][prompt];
                session.tools = [vec!["Bash", "Edit", "Read"], vec!["Bash", "Read"]][tools].clone();
                session.say("next ");
                let shared = session.ask().blocks.shared().to_vec();
                out.push((world.send(session), shared, Instant::now()));
            }
            Op::Answer(at) => {
                if out.is_empty() {
                    continue;
                }
                let (sent, shared, started) = out.remove(at % out.len());
                let (read, expected) = (sent.tokens.cache_read, sent.sent.expected.is_some());
                let report = world.answer(sent);
                match report.map(|report| report.cause) {
                    // This cache loses nothing.
                    Some(Cause::Lost { .. } | Cause::OtherModel { .. }) => prop_assert!(false),
                    Some(Cause::Differs { place: Place::Message(_) }) => prop_assert!(false),
                    Some(Cause::Expired { after }) => prop_assert!(after >= 5 * MINUTE),
                    Some(
                        Cause::Differs { place } | Cause::New { place } | Cause::Missing { place },
                    ) => {
                        let differs = |(other, at): &(Vec<Block>, Instant)| {
                            let same = common(other, &shared);
                            let near = [other.get(same), shared.get(same)];
                            *at + 5 * MINUTE > started
                                && near.into_iter().flatten().any(|block| block.place == place)
                        };
                        prop_assert!(answered.iter().any(differs), "{place}");
                    }
                    None => prop_assert!(!expected || read > 1_000, "nothing was read, and why?"),
                }
                answered.push((shared, started));
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn reports_are_true_whatever_happens(ops in prop::collection::vec(op(), 0..40)) {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(follow(ops))?;
    }
}

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn parse(body: &Value) -> Ask {
    Ask::parse(body.to_string().as_bytes()).unwrap()
}

fn refused(body: &str) -> String {
    Ask::parse(body.as_bytes()).unwrap_err().to_string()
}

fn text(text: &str) -> Value {
    json!({ "type": "text", "text": text })
}

fn marked(mut block: Value, control: Value) -> Value {
    block["cache_control"] = control;
    block
}

fn ephemeral() -> Value {
    json!({ "type": "ephemeral" })
}

/// A first request as the CLI sends it.
fn first() -> Value {
    json!({
        "model": "claude-opus-5-5",
        "messages": [
            { "role": "user", "content": [text("<system-reminder>a</system-reminder>"), text("do it")] },
            { "role": "system", "content": [marked(text("# Environment\n\"cwd\": é"), ephemeral())] },
        ],
        "system": [
            marked(text("You are a Claude agent."), ephemeral()),
            marked(text(&"You are marie.\n".repeat(300)), ephemeral()),
        ],
        "tools": [
            { "name": "Bash", "description": "runs", "input_schema": { "type": "object" } },
            { "name": "Read", "description": "reads", "input_schema": { "type": "object" } },
        ],
        "metadata": { "user_id": "{\"device_id\":\"x\"}" },
        "max_tokens": 128_000,
        "thinking": { "type": "adaptive" },
        "stream": true,
    })
}

fn places(ask: &Ask) -> Vec<String> {
    ask.blocks.all().iter().map(|block| block.place.to_string()).collect()
}

#[test]
fn request_of_the_cli_is_read() {
    let ask = parse(&first());
    assert_eq!((&*ask.model, ask.max_tokens), ("claude-opus-5-5", 128_000));
    assert!(!ask.fast && !ask.long_lived && !ask.server_tools);
    assert_eq!(
        places(&ask),
        ["tools[0]", "tools[1]", "system[0]", "system[1]", "messages[0]", "messages[1]"]
    );
    assert_eq!((ask.blocks.shared().len(), ask.blocks.cached().len()), (4, 6));
    assert_eq!(ask.prefix.unwrap().ttl, Ttl::Short);
    let bytes = first().to_string().len() as u64;
    assert_eq!(ask.input_bound, bytes + 2_000);
    assert_eq!(ask.input_estimate, bytes / 4);
}

#[test]
fn next_turn_has_the_blocks_of_the_last_one_though_marks_move_and_lists_become_texts() {
    let mut next = first();
    // As the CLI does: the mark goes to the newest message, and the list of one text becomes a text.
    next["messages"][1]["content"] = json!("# Environment\n\"cwd\": é");
    let messages = next["messages"].as_array_mut().unwrap();
    messages.push(json!({ "role": "assistant", "content": [
        { "type": "tool_use", "id": "t1", "name": "Bash", "input": { "command": "ls" } },
    ]}));
    messages.push(json!({ "role": "user", "content": [
        marked(json!({ "type": "tool_result", "tool_use_id": "t1", "content": "a\nb" }), ephemeral()),
    ]}));
    let (first, next) = (parse(&first()), parse(&next));
    assert_eq!(next.blocks.all()[..6], first.blocks.all()[..]);
    assert_eq!((next.blocks.all().len(), next.blocks.cached().len()), (8, 8));
    assert_eq!(next.prefix, first.prefix);
}

#[test]
fn prefix_is_the_model_the_tools_and_the_system_prompt_and_nothing_else() {
    let base = parse(&first()).prefix.unwrap();
    let changed = |path: &str, value: Value| {
        let mut body = first();
        *body.pointer_mut(path).unwrap() = value;
        parse(&body).prefix.unwrap()
    };
    for (path, value) in [
        ("/messages", json!([{ "role": "user", "content": "another" }])),
        ("/metadata", json!({ "user_id": "another" })),
        ("/max_tokens", json!(1)),
        ("/system/0/cache_control", Value::Null),
    ] {
        assert_eq!(changed(path, value), base, "{path}");
    }
    for (path, value) in [
        ("/model", json!("claude-haiku-5-5")),
        ("/tools/1/description", json!("Reads")),
        ("/tools/0", json!({ "name": "Write" })),
        ("/system/0/text", json!("You are Claude Code.")),
        ("/system/1/text", json!("You are zoe.\n".repeat(400))),
    ] {
        assert_ne!(changed(path, value).key, base.key, "{path}");
    }
    let long = changed("/system/1/cache_control", json!({ "type": "ephemeral", "ttl": "1h" }));
    assert_eq!((long.key, long.ttl), (base.key, Ttl::Long));
}

#[test]
fn tool_and_system_block_of_the_same_bytes_are_not_the_same() {
    let block = marked(text(&"long ".repeat(1_000)), ephemeral());
    let with = |part: &str| {
        let mut body = json!({ "model": "m", "max_tokens": 1 });
        body[part] = json!([block]);
        parse(&body)
    };
    let (tool, system) = (with("tools"), with("system"));
    assert_eq!(tool.blocks.all()[0].hash, system.blocks.all()[0].hash);
    assert_ne!(tool.prefix.unwrap().key, system.prefix.unwrap().key);
}

#[test]
fn prefix_ends_with_the_last_mark_before_the_messages() {
    let mut body = first();
    body["system"][1]["cache_control"] = Value::Null;
    body["system"][0]["text"] = json!("long ".repeat(1_000));
    let base = parse(&body);
    assert_eq!((base.blocks.shared().len(), base.blocks.cached().len()), (3, 6));
    body["system"][1]["text"] = json!("today is another day");
    assert_eq!(parse(&body).prefix, base.prefix);
}

#[test]
fn prefix_too_short_to_be_cached_is_none() {
    let mut body = first();
    body["system"][1]["text"] = json!("short");
    assert_eq!(parse(&body).prefix, None);
    let mut body = first();
    body["system"] = json!("a text has no mark ".repeat(1_000));
    assert_eq!(parse(&body).prefix, None);
}

#[test]
fn hour_of_caching_is_seen_wherever_it_is_asked_for() {
    let hour = json!({ "ttl": "1h", "type": "ephemeral" });
    for path in [
        "/cache_control",
        "/tools/0/cache_control",
        "/system/0/cache_control",
        "/messages/1/content/0/cache_control",
    ] {
        let mut body = first();
        let (parent, _) = path.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()["cache_control"] = hour.clone();
        assert!(parse(&body).long_lived, "{path}");
    }
    let mut body = first();
    body["messages"][0]["content"] = json!([
        { "type": "tool_result", "content": [marked(text("x"), hour.clone())] },
    ]);
    assert!(parse(&body).long_lived);
    body["messages"][0]["content"] = json!([{ "type": "text", "text": hour.to_string() }]);
    assert!(!parse(&body).long_lived);
    for (ttl, long_lived) in [("5m", false), ("24h", true)] {
        body["cache_control"] = json!({ "type": "ephemeral", "ttl": ttl });
        assert_eq!(parse(&body).long_lived, long_lived, "{ttl}");
    }
}

#[test]
fn images_and_documents_count_by_themselves_and_not_by_their_base64() {
    let data = "A".repeat(1_000_000);
    let source = |kind: &str| json!({ "data": data, "media_type": "x/y", "type": kind });
    let ask = |block: Value| {
        let mut body = first();
        body["messages"][0]["content"] = json!([block]);
        parse(&body)
    };
    let none = ask(json!({ "type": "image" }));
    let result = |block: Value| json!({ "type": "tool_result", "content": [block] });
    let image = json!({ "source": source("base64"), "type": "image" });
    let pdf = json!({ "type": "document", "source": source("base64") });
    let inner = json!({ "type": "document", "source": { "type": "content", "content": [image] } });
    for (block, more) in [
        (image.clone(), 5_000),
        (result(image.clone()), 5_000),
        (result(inner), 5_000),
        (pdf.clone(), 1_000_000),
        (result(pdf.clone()), 1_000_000),
        (json!({ "type": "image", "source": { "type": "url", "url": "https://x" } }), 5_000),
        (json!({ "type": "document", "source": { "type": "file", "file_id": "f" } }), 1_000_000),
        (json!({ "type": "document", "source": source("text") }), 1_000_000),
        // What claims to be an image and is none counts by its bytes.
        (json!({ "type": "text", "text": "x", "source": source("base64") }), 1_000_000),
        (json!({ "type": "image", "source": source("url") }), 1_005_000),
    ] {
        let bound = ask(block.clone()).input_bound;
        let least = none.input_bound + more;
        assert!((least..least + 200).contains(&bound), "{more}: {bound}");
    }
    // A message with an image is as large as text of as many tokens.
    let size = |block: &Value| ask(block.clone()).blocks.all()[4].size;
    assert!((6_400..6_600).contains(&size(&image)));
    assert!((6_400..6_600).contains(&size(&result(image.clone()))));
    let likely = |block: &Value| ask(block.clone()).input_estimate - none.input_estimate;
    assert!((1_600..1_650).contains(&likely(&image)));
    // 15 pages of 64 KiB, and one that is begun.
    assert!((48_000..48_050).contains(&likely(&pdf)));
}

#[test]
fn what_the_api_does_by_itself_has_no_bound() {
    let with = |key: &str, value: Value| {
        let mut body = first();
        body[key] = value;
        parse(&body).server_tools
    };
    assert!(with("mcp_servers", json!([{"type": "url", "url": "https://x", "name": "x"}])));
    assert!(with("container", json!({"skills": []})));
    let edits = |kind: &str| json!({"edits": [{"type": kind}]});
    assert!(with("context_management", edits("compact_20260112")));
    let mut body = first();
    body["context_management"] = edits("compact_20260112");
    let hidden = body.to_string().replace("compact", r"\u0063ompact");
    assert!(Ask::parse(hidden.as_bytes()).unwrap().server_tools);
    // That one only leaves something out.
    assert!(!with("context_management", edits("clear_thinking_20251015")));
    for none in ["mcp_servers", "container"] {
        assert!(!with(none, Value::Null));
    }
    assert!(!with("mcp_servers", json!([])));
}

#[test]
fn tools_that_the_api_knows_and_tools_that_it_runs_are_told_from_others() {
    let with = |tool: Value| {
        let mut body = first();
        body["tools"][0] = tool;
        let bytes = body.to_string().len() as u64;
        let ask = parse(&body);
        (ask.input_bound - bytes, ask.server_tools)
    };
    assert_eq!(with(json!({ "name": "a" })), (2_000, false));
    assert_eq!(with(json!({ "name": "a", "type": "custom" })), (2_000, false));
    assert_eq!(with(json!({ "name": "bash", "type": "bash_20250124" })), (3_000, false));
    assert_eq!(with(json!({ "type": "web_search_20250305", "max_uses": 8 })), (2_000, true));
}

#[test]
fn other_speed_is_seen() {
    for (speed, fast) in [(json!("fast"), true), (json!("standard"), false), (Value::Null, false)] {
        let mut body = first();
        body["speed"] = speed.clone();
        assert_eq!(parse(&body).fast, fast, "{speed}");
    }
}

#[test]
fn least_request_is_enough() {
    let ask = Ask::parse(br#" {"max_tokens":1,"model":"m"} "#).unwrap();
    assert_eq!((ask.prefix, ask.blocks.all()), (None, &[][..]));
    let nulls =
        r#"{"model":"m","max_tokens":0,"stream":null,"tools":null,"system":null,"messages":[]}"#;
    assert!(Ask::parse(nulls.as_bytes()).is_ok());
}

#[test]
fn what_is_no_request_is_refused_with_the_reason() {
    let start = "the request can't be read: ";
    for (body, reason) in [
        ("", "a request for a message is expected at byte 0"),
        ("[]", "a request for a message is expected at byte 0"),
        (r#"{"model":"m"}"#, "the field `max_tokens` is missing"),
        (r#"{"max_tokens":1}"#, "the field `model` is missing"),
        (r#"{"model":"m","max_tokens":1}x"#, "there is more than one value at byte 28"),
        (r#"{"model":"m","max_tokens":1.5}"#, "no whole number ends at byte 29"),
        (r#"{"model":7,"max_tokens":1}"#, "a text is expected at byte 9"),
        (r#"{"model" "m"}"#, "a colon is missing at byte 9"),
        (r#"{"model":"m" "max_tokens":1}"#, "a comma or an end is missing at byte 13"),
        (
            r#"{"model":"m","max_tokens":1000001}"#,
            "max_tokens is 1000001: no model writes that much",
        ),
        (r#"{"model":"","max_tokens":1}"#, "the model's name is empty or too long"),
    ] {
        assert_eq!(refused(body), format!("{start}{reason}"));
    }
    for max_tokens in ["-1", "1.5", "1e300", "\"1\"", "null", "99999999999999999999"] {
        refused(&format!(r#"{{"model":"m","max_tokens":{max_tokens}}}"#));
    }
    for messages in [r#""x""#, "[1]", r#"[{"content":["x"]}]"#, r#"[{"content":[[]]}]"#, "{}"] {
        refused(&format!(r#"{{"model":"m","max_tokens":1,"messages":{messages}}}"#));
    }
    assert!(Ask::parse(b"{\"model\":\"\xff\",\"max_tokens\":1}").is_err());
    let long = format!(r#"{{"model":"m","max_tokens":"{}"}}"#, "x".repeat(1_000_000));
    assert!(refused(&long).len() < 300);
}

#[test]
fn key_that_is_there_twice_is_refused_where_it_is_read() {
    let hour = r#""cache_control":{"ttl":"1h","ttl":"5m"}"#;
    let twice = |key: &str| format!(r#""{key}":null,"{key}":null"#);
    for field in [
        twice("tools"),
        twice("system"),
        // The escape is the same key.
        r#""speed":"fast","sp\u0065ed":null"#.to_owned(),
        r#""model":"n""#.to_owned(),
        r#""max_tokens":2"#.to_owned(),
        r#""messages":[],"messages":[]"#.to_owned(),
        format!(r#""system":[{{{hour}}}]"#),
        format!(r#""tools":[{{{}}}]"#, twice("cache_control")),
        r#""tools":[{"type":"custom","type":"web_search_1"}]"#.to_owned(),
        format!(r#""messages":[{{{}}}]"#, twice("content")),
        r#""messages":[{"content":[{"type":"image","type":"text"}]}]"#.to_owned(),
        r#""messages":[{"content":[{"source":{"type":"url","type":"base64"}}]}]"#.to_owned(),
        format!(r#""messages":[{{"content":[{{"source":{{{}}}}}]}}]"#, twice("data")),
        format!(r#""messages":[{{"content":[{{"content":[{{{}}}]}}]}}]"#, twice("content")),
    ] {
        let reason = refused(&format!(r#"{{"model":"m","max_tokens":1,{field}}}"#));
        assert!(reason.contains("` is there twice"), "{field}: {reason}");
    }
    // What is not read is not our business.
    let body = format!(r#"{{"model":"m","max_tokens":1,{}}}"#, twice("metadata"));
    assert!(Ask::parse(body.as_bytes()).is_ok());
}

#[test]
fn deep_nesting_is_walked_over_where_nothing_is_read_and_refused_where_blocks_are() {
    let deep = |open: &str, close: &str, depth| open.repeat(depth) + &close.repeat(depth);
    let with = |content: &str| {
        let body =
            format!(r#"{{"model":"m","max_tokens":1,"messages":[{{"content":{content}}}]}}"#);
        Ask::parse(body.as_bytes()).map_err(|reason| reason.to_string())
    };
    let input = deep("[", "]", 100_000);
    assert!(with(&format!(r#"[{{"type":"tool_use","input":{input}}}]"#)).is_ok());
    assert!(
        with(&format!(
            r#"[{{"content":{}}}]"#,
            deep(r#"[{"content":"#, "}]", 3).replace(":}", ":1}")
        ))
        .is_ok()
    );
    let blocks = |depth| deep(r#"[{"content":"#, "}]", depth).replace(":}", ":null}");
    assert!(with(&blocks(5)).is_ok());
    assert!(with(&blocks(6)).unwrap_err().contains("nested more than 4 deep"));
    assert!(with(&blocks(100_000)).is_err());
    assert!(with(&input).is_err());
}

#[test]
fn only_so_many_blocks_are_told_apart() {
    let messages = |count: usize| {
        let message = json!({ "role": "user", "content": "x" });
        json!({ "model": "m", "max_tokens": 1, "messages": vec![message; count] })
    };
    assert_eq!(parse(&messages(1_000)).blocks.all().len(), 1_000);
    assert_eq!(parse(&messages(10_000)).blocks.all().len(), 1_024);
}

/// Something that stands in a request, and how many bytes of text are in it.
fn content() -> impl Strategy<Value = (Value, u64)> {
    let words = || any::<String>().prop_map(|text| (text.len() as u64, text));
    prop_oneof![
        words().prop_map(|(bytes, words)| (text(&words), bytes)),
        words().prop_map(|(bytes, words)| {
            (json!({ "type": "tool_result", "tool_use_id": "t", "content": words }), bytes)
        }),
        words().prop_map(|(bytes, words)| {
            let result = [text(&words), text(&words)];
            (json!({ "type": "tool_result", "content": result }), 2 * bytes)
        }),
        (0..5_000_usize).prop_map(|length| {
            let source = json!({ "type": "base64", "data": "A".repeat(length) });
            (json!({ "type": "image", "source": source }), 4_784)
        }),
    ]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[\"\\\\{}\\[\\],:\\x00-\\x7fé日]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[\"\\\\a-c]{0,3}", inner, 0..6)
                .prop_map(|map| map.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_json_is_walked_over_what_is_behind_it_is_found(
        other in any_json(),
        model in "[a-z\"\\\\é]{1,9}",
        max_tokens in 0..1_000_000_u64,
    ) {
        let body = json!({ "metadata": other, "model": model, "x": [other], "max_tokens": max_tokens });
        for text in [body.to_string(), serde_json::to_string_pretty(&body).unwrap()] {
            let ask = Ask::parse(text.as_bytes()).unwrap();
            prop_assert_eq!((&*ask.model, ask.max_tokens), (&*model, max_tokens));
        }
    }

    #[test]
    fn bound_is_never_less_than_the_text_and_the_images(
        contents in prop::collection::vec(content(), 0..20),
        system in any::<String>(),
    ) {
        let least: u64 = contents.iter().map(|(_, tokens)| tokens).sum::<u64>() + system.len() as u64;
        let blocks: Vec<_> = contents.into_iter().map(|(block, _)| block).collect();
        let ask = parse(&json!({
            "model": "m", "max_tokens": 1, "system": system,
            "messages": [{ "role": "user", "content": blocks }],
        }));
        prop_assert!(ask.input_bound >= least + 2_000, "{} < {least}", ask.input_bound);
        prop_assert!(ask.input_estimate <= ask.input_bound);
    }

    #[test]
    fn text_is_the_same_as_its_one_block(text in any::<String>()) {
        let with = |content: Value| {
            parse(&json!({ "model": "m", "max_tokens": 1, "system": content }))
        };
        let (bare, block) = (with(json!(text)), with(json!([self::text(&text)])));
        prop_assert_eq!(bare.blocks.all(), block.blocks.all());
        let with = |content: Value| {
            let result = json!({ "type": "tool_result", "tool_use_id": "t", "content": content });
            let messages = json!([{ "role": "user", "content": [result] }]);
            parse(&json!({ "model": "m", "max_tokens": 1, "messages": messages }))
        };
        let (bare, block) = (with(json!(text)), with(json!([self::text(&text)])));
        prop_assert_eq!(bare.blocks.all(), block.blocks.all());
    }

    #[test]
    fn whatever_comes_is_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Ask::parse(&body);
    }

    #[test]
    fn whatever_is_cut_off_is_refused(at in any::<prop::sample::Index>()) {
        let body = first().to_string();
        prop_assert!(Ask::parse(&body.as_bytes()[..at.index(body.len())]).is_err());
    }
}

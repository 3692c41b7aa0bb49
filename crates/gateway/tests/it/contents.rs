//! What a request to the model may contain.

use std::{collections::BTreeSet, sync::atomic::Ordering};

use gateway::{
    Audit, EgressPolicy, Filter, GATEWAY_HEADER, Listener, REFUSED, Replica, RequestPolicy,
};
use http::{Request, Response};
use protocol::{Attempt, EgressKind, EgressRecord, EgressVerdict, RunId, ServerTool};
use serde_json::{Value, json};

use crate::{
    message::{ANSWER, read, settled, streamed},
    support::{World, caller, full, get, json as body_of, replica, send, upstream},
};

const PATHS: [&str; 2] = ["/v1/messages?beta=true", "/v1/messages/count_tokens?beta=true"];

/// Returns a replica that may ask Sonnet and Haiku, and whose tools reach two hosts.
fn worker(server_tools: &[ServerTool]) -> Replica {
    let parse = |rules: [&str; 2]| rules.map(|rule| rule.parse().unwrap()).to_vec();
    Replica {
        egress: EgressPolicy {
            rules: ["files.example", "*.open.example:8443"].map(|r| r.parse().unwrap()).to_vec(),
        },
        requests: RequestPolicy {
            models: parse(["claude-sonnet-5-5", "claude-haiku-*"]),
            server_tools: server_tools.to_vec(),
        },
        ..replica("marie-1", Some("the-key"))
    }
}

async fn at_work(world: &World, server_tools: &[ServerTool]) -> Listener {
    let socket = world.socket("marie-1");
    let listener = world.gateway.listen(worker(server_tools), &socket).await.unwrap();
    listener.assign(Some(caller("marie-1", 1)));
    listener
}

fn body(fields: Value) -> Value {
    let mut body = json!({
        "model": "claude-sonnet-5-5",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hello"}],
    });
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

fn content(block: Value) -> Value {
    body(json!({"messages": [{"role": "user", "content": [block]}]}))
}

fn tool(kind: &str) -> Value {
    body(json!({"tools": [{"name": "Read", "input_schema": {}}, {"type": kind, "name": "x"}]}))
}

fn image(url: &str) -> Value {
    content(json!({"type": "image", "source": {"type": "url", "url": url}}))
}

async fn post(replica: &Listener, path: &str, body: String) -> Response<hyper::body::Incoming> {
    let request = Request::post(path).header("host", "anything").body(full(body)).unwrap();
    send(replica.path(), request).await
}

/// Asserts that both ways to the model refuse a body, that the reason has these parts, and that nothing else happens.
async fn assert_refused(replica: &Listener, body: &str, parts: &[&str]) {
    for path in PATHS {
        let response = post(replica, path, body.to_owned()).await;
        assert_eq!(response.status(), 403, "{path} {body}");
        assert_eq!(response.headers()[GATEWAY_HEADER], REFUSED);
        assert_eq!(response.headers()["x-should-retry"], "false");
        let error = body_of(response).await;
        assert_eq!(error["error"]["type"], "permission_error");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("gateway: "), "{message}");
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

#[tokio::test]
async fn model_that_is_not_on_the_list_is_not_asked_and_the_cure_is_told() {
    let (url, taken) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    let replica = at_work(&world, &[]).await;
    let cure = "write `models = [\"claude-sonnet-5-5\", \"claude-haiku-*\", \"claude-opus-5-5\"]` in \
                workspaces/marie/worker.toml";

    let opus = body(json!({"model": "claude-opus-5-5"})).to_string();
    assert_refused(&replica, &opus, &["the model `claude-opus-5-5` is not", cure]).await;
    // Names that some server could take for one that is on the list.
    for model in
        ["claude-sonnet-5-5 ", "Claude-sonnet-5-5", "claude-sonnet-5-5-x", "claude-haiku", "*"]
    {
        let body = body(json!({"model": model})).to_string();
        assert_refused(&replica, &body, &["is not among those that this worker may ask"]).await;
    }
    let fallback = body(json!({"fallbacks": [{"model": "claude-opus-5-5"}]})).to_string();
    assert_refused(&replica, &fallback, &["which `fallbacks` names"]).await;
    let fallback = body(json!({"fallbacks": "default"})).to_string();
    assert_refused(&replica, &fallback, &["take another model"]).await;
    assert_eq!(taken.load(Ordering::SeqCst), 0);

    for fields in
        [json!({"model": "claude-haiku-4"}), json!({"fallbacks": [{"model": "claude-haiku-4"}]})]
    {
        let response = post(&replica, PATHS[0], body(fields).to_string()).await;
        assert_eq!(response.status(), 200);
        read(response).await;
    }
    // Nothing was spent on what was refused, and the attempt goes on.
    let totals = settled(&world.gateway).await;
    assert_eq!(totals.sums.requests, 2);
    assert_eq!(replica.stop(&caller("marie-1", 1).task, Attempt::new(1).unwrap()), None);
}

#[tokio::test]
async fn nothing_is_fetched_by_the_api_but_from_hosts_of_egress() {
    let (url, taken) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    let replica = at_work(&world, &[ServerTool::Mcp]).await;
    let evil = json!({"type": "url", "url": "https://evil.example/?secret"});
    let image = |source: &Value| json!({"type": "image", "source": source});
    let result =
        |content: Value| json!({"type": "tool_result", "tool_use_id": "t", "content": content});
    let document = |content: Value| json!({"type": "document", "source": {"type": "content", "content": content}});
    let cure = "add \"evil.example\" to `egress` in workspaces/marie/worker.toml";
    for (body, place) in [
        (content(image(&evil)), "`messages[0]`"),
        (content(json!({"type": "document", "source": evil})), "`messages[0]`"),
        (content(result(json!([image(&evil)]))), "`messages[0]`"),
        (content(result(image(&evil))), "`messages[0]`"),
        (content(document(json!([image(&evil)]))), "`messages[0]`"),
        (content(result(json!([document(json!([image(&evil)]))]))), "`messages[0]`"),
        // Where nobody expects one.
        (content(evil.clone()), "`messages[0]`"),
        (
            content(json!({"type": "text", "text": "x", "citations": [{"a": [evil]}]})),
            "`messages[0]`",
        ),
        (content(json!({"type": "text", "text": "x", "url": evil["url"]})), "`messages[0]`"),
        (
            body(
                json!({"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": [image(&evil)]}]}),
            ),
            "`messages[1]`",
        ),
        (
            body(json!({"messages": [{"role": "user", "content": "x", "more": image(&evil)}]})),
            "`messages[0]`",
        ),
        (body(json!({"system": [{"type": "text", "text": "x"}, image(&evil)]})), "`system[1]`"),
        (body(json!({"tools": [{"name": "x", "input_schema": {}, "icon": evil}]})), "`tools[0]`"),
        (
            body(
                json!({"mcp_servers": [{"type": "url", "url": "https://evil.example", "name": "x"}]}),
            ),
            "the request",
        ),
        (body(json!({"tool_choice": {"type": "auto", "x": evil}})), "the request"),
    ] {
        assert_refused(&replica, &body.to_string(), &[place, "`evil.example:443`", cure]).await;
    }
    // In whatever spelling of JSON.
    for (from, to) in [
        (r#""url":"https"#, r#""\u0075rl":"https"#),
        (r#""type":"url""#, r#""type":"\u0075rl""#),
        (r#""source""#, r#""sourc\u0065""#),
        ("evil", r"ev\u0069l"),
        (r#""content":["#, r#""c\u006fntent":["#),
        (":", " :\n\t"),
    ] {
        let body = content(image(&evil)).to_string();
        assert!(body.contains(from), "{from} is not in {body}");
        // Not the colon of the URL's own.
        let body = body.replace("https:", "HTTPS!").replace(from, to).replace("HTTPS!", "https:");
        assert_refused(&replica, &body, &["`evil.example:443`", cure]).await;
    }
    assert_eq!(taken.load(Ordering::SeqCst), 0);

    let file =
        |url: &str| content(json!({"type": "document", "source": {"type": "url", "url": url}}));
    for url in [
        "https://files.example/a.png?b#c",
        "https://FILES.example.:443",
        "HTTPS://files.example/@b:c",
        "https://a.open.example:8443/x",
    ] {
        for path in PATHS {
            let response = post(&replica, path, file(url).to_string()).await;
            assert_eq!(response.status(), 200, "{url}");
            read(response).await;
        }
    }
    // What a tool is called with is no source, whatever it looks like; nor is what a search of the API found.
    for block in [
        json!({"type": "tool_use", "id": "t", "name": "Fetch", "input": evil}),
        json!({"type": "web_search_tool_result", "tool_use_id": "t", "content": [
            {"type": "web_search_result", "url": "https://evil.example", "title": "x"}]}),
        json!({"type": "text", "text": "x", "citations": [
            {"type": "web_search_result_location", "url": "https://evil.example"}]}),
    ] {
        let response = post(&replica, PATHS[0], content(block.clone()).to_string()).await;
        assert_eq!(response.status(), 200, "{block}");
        read(response).await;
    }
    let schema = json!({"type": "object", "default": evil});
    let tools = body(json!({"tools": [{"name": "x", "input_schema": schema}]}));
    assert_eq!(post(&replica, PATHS[0], tools.to_string()).await.status(), 200);
}

#[tokio::test]
async fn url_that_two_readers_could_read_in_two_ways_is_refused() {
    let (url, taken) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    let replica = at_work(&world, &[]).await;
    for url in [
        "https://evil.example\\@files.example/",
        "https://files.example\\.evil.example/",
        "https://files.example@evil.example/",
        "https://files.example:443@evil.example/",
        "https://evil.example#@files.example/",
        "https://evil.example?@files.example/",
        "https://files.example%2eevil.example/",
        "https://files.exam\tple/",
        "https://files.example\n.evil.example/",
        " https://files.example/",
        "https:///evil.example/",
        "https:/evil.example/",
        "https:evil.example/",
        "//files.example/",
        "ftp://files.example/",
        "data:text/plain,x",
        "file:///etc/passwd",
        "https://files.example:8443/",
        "http://files.example/",
        "https://files.example:/",
        "https://files.example:443x/",
        "https://files.example.evil.example/",
        "https://xfiles.example/",
        "https://open.example:8443/",
        "https://fıles.example/",
        "https://ﬁles.example/",
        "https://files.example/a\\b",
        "https://files.example/a\tb",
        "https://files.example/a b",
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://[::1]/",
        "https://localhost/",
        "https://files/",
        "https://",
        "",
    ] {
        assert_refused(&replica, &image(url).to_string(), &["`messages[0]`", "fetch from"]).await;
    }
    // A field twice, or in another case, or of another type: nobody knows which the API would take.
    let source = |source: &str| {
        content(json!("SOURCE"))
            .to_string()
            .replace("\"SOURCE\"", &format!(r#"{{"type":"image","source":{source}}}"#))
    };
    let ok = "https://files.example/";
    for fields in [
        format!(r#"{{"type":"url","url":"{ok}","url":"https://evil.example"}}"#),
        format!(r#"{{"type":"url","url":"{ok}","\u0075rl":"https://evil.example"}}"#),
        r#"{"type":"base64","data":"AA==","type":"url"}"#.to_owned(),
        format!(r#"{{"type":"url","url":"{ok}","URL":"https://evil.example"}}"#),
        format!(r#"{{"type":"url","Url":"{ok}"}}"#),
        r#"{"type":"url","url":{"x":1}}"#.to_owned(),
        r#"{"type":["url"],"url":"https://evil.example"}"#.to_owned(),
        r#"{"type":"base64","data":"AA=="},"Source":{"type":"url","url":"https://evil.example"}"#
            .to_owned(),
    ] {
        for path in PATHS {
            let response = post(&replica, path, source(&fields)).await;
            assert_eq!(response.status(), 400, "{fields}");
        }
    }
    assert_eq!(taken.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn file_that_is_kept_at_the_api_is_refused_and_so_is_what_is_not_known() {
    let (url, taken) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    let replica = at_work(&world, &[ServerTool::CodeExecution]).await;
    let source = |source: Value| content(json!({"type": "document", "source": source}));
    for (body, why) in [
        (source(json!({"type": "file", "file_id": "f"})), "a file that is kept at"),
        (
            source(json!({"type": "base64", "data": "AA==", "file_id": "f"})),
            "a file that is kept at",
        ),
        (content(json!({"type": "container_upload", "file_id": "f"})), "a file that is kept at"),
        (
            content(
                json!({"type": "tool_result", "content": [{"type": "container_upload", "file_id": "f"}]}),
            ),
            "a file that is kept at",
        ),
        (source(json!({"type": "s3", "uri": "x"})), "a source of the type `s3`"),
        (source(json!({"type": "URL"})), "a source of the type `URL`"),
        (source(json!({"type": "url"})), "a source of the type `url`"),
        (source(json!({"data": "x"})), "a source of the type ``"),
        (
            source(json!({"type": "base64", "data": "AA==", "url": "https://files.example/"})),
            "a source of the type `base64`",
        ),
        (
            content(json!({"type": "image_url", "image_url": {"url": "https://files.example"}})),
            "a block of the type `image_url`",
        ),
        (content(json!({"type": "Image"})), "a block of the type `Image`"),
        (body(json!({"webhook": "https://files.example"})), "the field `webhook`"),
        (body(json!({"Tools": []})), "the field `Tools`"),
    ] {
        assert_refused(&replica, &body.to_string(), &[why]).await;
    }
    assert_eq!(taken.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn tool_that_the_api_runs_is_refused_unless_it_is_named() {
    use ServerTool::{CodeExecution, Mcp, WebFetch, WebSearch};
    let (url, taken) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    let added = |tool: Value| {
        body(json!({"messages": [
            {"role": "user", "content": "x"},
            {"role": "system", "content": [{"type": "tool_addition", "tool": tool}]},
        ]}))
    };
    let server = json!([{"type": "url", "url": "https://files.example/mcp", "name": "x"}]);
    let cases = [
        (WebSearch, tool("web_search_20250305")),
        (WebSearch, tool("web_search_20260209")),
        (WebFetch, tool("web_fetch_20250910")),
        (CodeExecution, tool("code_execution_20250825")),
        (Mcp, tool("mcp_toolset")),
        (Mcp, body(json!({"mcp_servers": server}))),
        (Mcp, content(json!({"type": "mcp_tool_listing", "tools": []}))),
        (CodeExecution, body(json!({"container": "c"}))),
        (CodeExecution, body(json!({"container": {"skills": []}}))),
        // Added in the middle of a conversation.
        (
            WebFetch,
            added(json!({"type": "tool_definition",
                "definition": {"type": "web_fetch_20250910", "name": "web_fetch"}})),
        ),
        (WebFetch, added(json!({"type": "web_fetch_20250910", "name": "web_fetch"}))),
    ];
    let replica = at_work(&world, &[]).await;
    for (tool, body) in &cases {
        let cure =
            format!("add \"{}\" to `server_tools` in workspaces/marie/worker.toml", tool.as_str());
        assert_refused(&replica, &body.to_string(), &[&cure]).await;
    }
    let escaped = tool("web_fetch_20250910").to_string().replace("web_f", r"web\u005ff");
    assert_refused(&replica, &escaped, &["add \"web_fetch\""]).await;
    assert_eq!(taken.load(Ordering::SeqCst), 0);
    replica.close().await;

    for (tool, body) in cases {
        let mut others = vec![WebSearch, WebFetch, CodeExecution, Mcp];
        others.retain(|other| *other != tool);
        let without = at_work(&world, &others).await;
        assert_refused(&without, &body.to_string(), &[tool.as_str()]).await;
        without.close().await;
        let with = at_work(&world, &[tool]).await;
        for path in PATHS {
            let response = post(&with, path, body.to_string()).await;
            assert_eq!(response.status(), 200, "{body}");
            read(response).await;
        }
        with.close().await;
    }

    let all = at_work(&world, &[WebSearch, WebFetch, CodeExecution, Mcp]).await;
    for kind in [
        "advisor_20260301",
        "bash_code_execution_20250825",
        "bash_",
        "Web_search_20250305",
        "web_search_x",
        "web_search_20250305 ",
        "",
    ] {
        assert_refused(&all, &tool(kind).to_string(), &["tool of the type", "does not know"]).await;
    }
    for kind in [
        "custom",
        "bash_20250124",
        "text_editor_20250728",
        "computer_20251124",
        "memory_20250818",
        "tool_search_tool_regex_20251119",
        "tool_search_tool_bm25",
    ] {
        let response = post(&all, PATHS[0], tool(kind).to_string()).await;
        assert_eq!(response.status(), 200, "{kind}");
        read(response).await;
    }
}

#[tokio::test]
async fn without_an_attempt_nobody_is_asked_and_nothing_is_counted() {
    let (url, taken) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    let replica = at_work(&world, &[]).await;
    replica.assign(None);

    for path in PATHS {
        assert_eq!(post(&replica, path, body(json!({})).to_string()).await.status(), 403, "{path}");
    }
    for path in ["/v1/models", "/v1/models/claude-haiku-4?x"] {
        assert_eq!(send(replica.path(), get(path)).await.status(), 403, "{path}");
    }
    assert_eq!(taken.load(Ordering::SeqCst), 0);
    // By this a worker finds out that the API answers, before it takes an attempt.
    assert_eq!(send(replica.path(), get("/api/hello")).await.status(), 200);
    let mut hello = get("/api/hello");
    *hello.method_mut() = http::Method::POST;
    assert_eq!(send(replica.path(), hello).await.status(), 404);
    assert_eq!(world.gateway.ledger().totals(&Filter::default()).sums.requests, 0);
}

#[tokio::test]
async fn refused_requests_are_counted_by_attempt_and_the_last_reason_is_kept() {
    let (url, _) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let world = World::new(&url);
    let replica = at_work(&world, &[]).await;
    let (task, first) = (caller("marie-1", 1).task, Attempt::new(1).unwrap());
    assert_eq!(replica.refused(&task, first), None);
    assert_refused(&replica, &tool("web_search_20250305").to_string(), &[]).await;
    assert_refused(&replica, &body(json!({"model": "o"})).to_string(), &[]).await;

    let refused = replica.refused(&task, first).unwrap();
    assert_eq!((refused.count, &refused.worker), (4, &"marie".parse().unwrap()));
    assert!(refused.what.starts_with("the model `o` is not"), "{refused:?}");
    replica.assign(Some(caller("marie-1", 2)));
    assert_eq!(replica.refused(&task, first), None);
    assert_eq!(world.gateway.refused(), [refused]);
}

#[tokio::test]
async fn each_way_out_is_noted_with_its_verdict_and_without_its_contents() {
    let (url, _) = upstream(|_| async { streamed(full(ANSWER)) }).await;
    let (audit, mut records) = Audit::new();
    let world = World::new(&url);
    let world = World { gateway: world.gateway.clone().with_audit(audit), ..world };
    let replica = at_work(&world, &[]).await;
    let fine = body(json!({"system": "the-secret"})).to_string();
    let up = fine.len() as u64;
    read(post(&replica, PATHS[0], fine).await).await;
    read(post(&replica, PATHS[1], image("https://evil.example/the-secret").to_string()).await)
        .await;
    send(replica.path(), get("/v1/files?the-secret")).await;
    let elsewhere = Request::get("http://evil.example/the-secret").header("host", "evil.example");
    assert_eq!(send(replica.path(), elsewhere.body(full("")).unwrap()).await.status(), 403);
    // A hello is none, and neither is what nobody does.
    send(replica.path(), Request::head("/api/hello").header("host", "x").body(full("")).unwrap())
        .await;
    replica.assign(None);
    send(replica.path(), get("/v1/models")).await;
    replica.close().await;
    drop(world);

    let all = tokio::task::spawn_blocking(move || {
        let mut all = Vec::new();
        loop {
            match records.wait() {
                none if none.is_empty() => return all,
                some => all.extend(some),
            }
        }
    })
    .await
    .unwrap();
    let text = serde_json::to_string(&all).unwrap();
    assert!(!text.contains("the-secret"), "{text}");
    let tries: Vec<_> = all
        .into_iter()
        .map(|(run, record)| match record {
            EgressRecord::Try(tried) => {
                assert_eq!((run, tried.replica.as_str()), (RunId::Adhoc, "marie-1"));
                tried
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let shown: BTreeSet<_> = tries
        .iter()
        .map(|tried| {
            let is_model = tried.kind == EgressKind::Model;
            let host = tried.host.as_deref().filter(|_| !is_model).unwrap_or("-");
            let path = tried.path.as_deref().unwrap_or("-");
            (path, host, tried.model.as_deref(), tried.verdict == EgressVerdict::Allowed)
        })
        .collect();
    assert_eq!(
        shown,
        BTreeSet::from([
            ("-", "evil.example", None, false),
            ("/v1/files", "-", None, false),
            ("/v1/messages", "-", Some("claude-sonnet-5-5"), true),
            ("/v1/messages/count_tokens", "-", Some("claude-sonnet-5-5"), false),
        ])
    );
    assert_eq!(tries.len(), 4, "{tries:#?}");
    let asked = tries.iter().find(|tried| tried.verdict == EgressVerdict::Allowed).unwrap();
    assert_eq!((asked.bytes_up, asked.bytes_down), (up, ANSWER.len() as u64));
    assert_eq!(asked.reason, None);
    assert!(
        tries.iter().all(|tried| tried.reason.is_some() || tried.verdict == EgressVerdict::Allowed)
    );
}
